"""The statistics extension."""

from typing import Any

from .wire import Model, Server

EXTENSION = "statistics"

INFERENCE = ("success", "fail", "queue", "compute_input", "compute_infer", "compute_output")


def statistics(server: Server, path: str) -> list[dict[str, Any]]:
    answer = server.get(f"{path}/stats")
    assert answer.status == 200, answer
    found: list[dict[str, Any]] = answer.json["model_stats"]
    return found


def test_statistics_have_their_fields(server: Server, models: list[Model]) -> None:
    """$model_stat, $inference_stats, $batch_stat, $duration_stat."""
    for model in models:
        for stats in statistics(server, model.path):
            assert stats["name"] == model.name
            assert isinstance(stats.get("version", ""), str)
            for name in ("last_inference", "inference_count", "execution_count"):
                assert type(stats[name]) is int, name
            assert all(is_duration(stats["inference_stats"][name]) for name in INFERENCE)
            for batch in stats["batch_stats"]:
                assert type(batch["batch_size"]) is int
                assert all(is_duration(batch[name]) for name in INFERENCE[3:])


def is_duration(value: Any) -> bool:
    return type(value["count"]) is int and type(value["ns"]) is int and min(value["count"], value["ns"]) >= 0


def test_an_inference_is_counted(server: Server, model: Model) -> None:
    """inference_count grows by each row, execution_count by each call, success by each request."""
    (before, *_) = statistics(server, model.path)
    rows = 3 if model.has_batches else 1
    assert server.infer_raw(model, *model.raw(model.values(rows))).status == 200
    (after, *_) = statistics(server, model.path)
    assert after["inference_count"] >= before["inference_count"] + rows
    assert after["execution_count"] >= before["execution_count"] + 1
    assert after["last_inference"] >= before["last_inference"]
    assert after["inference_stats"]["success"]["count"] >= before["inference_stats"]["success"]["count"] + 1
    assert after["inference_stats"]["success"]["ns"] > before["inference_stats"]["success"]["ns"]


def test_statistics_of_all_models(server: Server, models: list[Model]) -> None:
    """The model's name is optional: without it, all of them."""
    assert {model.name for model in models} <= {stats["name"] for stats in statistics(server, "/v2/models")}


def test_statistics_of_a_version(server: Server, model: Model) -> None:
    """GET v2/models/NAME/versions/VERSION/stats."""
    for version in model.versions:
        (stats,) = statistics(server, f"{model.path}/versions/{version}")
        assert (stats["name"], stats["version"]) == (model.name, version)


def test_statistics_of_an_unknown_model_are_refused(server: Server) -> None:
    """A failed request has an error status and {"error"}."""
    answer = server.get("/v2/models/no_model_has_this_name/stats")
    assert answer.is_refusal, answer
