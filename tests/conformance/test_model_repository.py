"""The model repository extension."""

import pytest

from .wire import Model, Server

EXTENSION = "model_repository"


def test_the_index_lists_every_model(server: Server, models: list[Model]) -> None:
    """Index: name and state are strings, version is an optional string, reason is a string."""
    answer = server.post("/v2/repository/index", {})
    assert answer.status == 200, answer
    for entry in answer.json:
        assert isinstance(entry["name"], str)
        assert isinstance(entry["state"], str)
        assert isinstance(entry.get("version", ""), str)
        assert isinstance(entry.get("reason", ""), str)
    assert {model.name for model in models} <= {entry["name"] for entry in answer.json}


def test_the_index_of_ready_models_is_those_that_are_ready(server: Server) -> None:
    """Index, "ready": if true, return only models ready for inferencing."""
    answer = server.post("/v2/repository/index", {"ready": True})
    assert answer.status == 200, answer
    assert all(server.get(f"/v2/models/{entry['name']}/ready").status == 200 for entry in answer.json)


@pytest.mark.parametrize("body", [b"{", b"[]", b"nothing"])
def test_an_index_request_that_is_not_an_object_is_refused(server: Server, body: bytes) -> None:
    """Index: a failed request has an error status and {"error"}."""
    answer = server.send("/v2/repository/index", body)
    assert answer.is_refusal, answer


@pytest.mark.parametrize("what", ["load", "unload"])
def test_an_unknown_model_can_be_neither_loaded_nor_unloaded(server: Server, what: str) -> None:
    """Load, Unload: a failed request has an error status and {"error"}. Unloading what is not there may succeed."""
    answer = server.post(f"/v2/repository/models/no_model_has_this_name/{what}", {})
    assert answer.is_refusal or (what == "unload" and answer.status == 200), answer
