"""The required API: health, metadata and inference, as every server of the protocol has them."""

import json
from typing import Any

import pytest

from .wire import DTYPES, HttpServer, Model, Server, assert_same, outputs
from .wrong_requests import REFUSED, REFUSED_AS_JSON

no_headers = pytest.mark.over_http("a call of gRPC has no verb and no Content-Type of its own")


@pytest.fixture
def document(model: Model) -> dict[str, Any]:
    """A valid request of one row."""
    if not model.fits_json:
        pytest.skip(f"{model.name} has an input that has to be raw")
    return model.document(model.values())


# Health


@pytest.mark.parametrize("state", ["live", "ready"])
def test_server_health_is_200(server: Server, state: str) -> None:
    """Required API, Server Live and Server Ready: true is the status 200."""
    assert server.get(f"/v2/health/{state}").status == 200


def test_a_body_of_server_live_has_live(server: Server) -> None:
    """Required API, Server Live Response JSON Object: {"live": bool}. Earlier versions of the protocol have no body."""
    answer = server.get("/v2/health/live")
    assert not answer.body or answer.json["live"] is True, answer


def test_a_body_of_server_ready_has_ready(server: Server) -> None:
    """Required API, Server Ready Response JSON Object: {"ready": bool} in its schema, {"live": bool} in its text."""
    answer = server.get("/v2/health/ready")
    assert not answer.body or answer.json.get("ready", answer.json.get("live")) is True, answer


def test_model_ready_is_200(server: Server, models: list[Model]) -> None:
    """Required API, Model Ready: true is the status 200."""
    assert {model.name: server.get(f"{model.path}/ready").status for model in models} == {m.name: 200 for m in models}


@pytest.mark.over_http("ModelReadyResponse has no name")
def test_a_body_of_model_ready_names_the_model(server: Server, model: Model) -> None:
    """Required API, Model Ready Response JSON Object: {"name": string, "ready": bool}."""
    answer = server.get(f"{model.path}/ready")
    assert not answer.body or (answer.json["name"], answer.json["ready"]) == (model.name, True), answer


# Metadata


def test_server_metadata_has_name_version_and_extensions(server: Server) -> None:
    """Required API, Server Metadata Response JSON Object."""
    answer = server.get("/v2")
    assert answer.status == 200, answer
    assert isinstance(answer.json["name"], str)
    assert isinstance(answer.json["version"], str)


def test_server_extensions_are_a_list_of_strings(server: Server) -> None:
    """Required API, Server Metadata Response JSON Object: "extensions" is [ $string, ... ]."""
    extensions = server.get("/v2").json["extensions"]
    assert isinstance(extensions, list)
    assert all(isinstance(name, str) for name in extensions)


def test_model_metadata_has_name_and_platform(models: list[Model]) -> None:
    """Required API, Model Metadata Response JSON Object."""
    for model in models:
        assert model.metadata["name"] == model.name
        assert isinstance(model.metadata["platform"], str)


def test_model_metadata_versions_are_strings(models: list[Model]) -> None:
    """Required API, Model Metadata Response JSON Object: "versions" is optional, [ $string, ... ]."""
    for model in models:
        versions = model.metadata.get("versions", [])
        assert isinstance(versions, list), model.name
        assert all(isinstance(version, str) for version in versions), model.name


def test_model_metadata_tensors_have_name_datatype_and_shape(models: list[Model]) -> None:
    """Required API, $metadata_tensor, and Tensor Data Types: a size is a number, and -1 where it is free."""
    for model in models:
        assert model.inputs, model.name
        assert model.outputs, model.name
        for tensor in (*model.inputs, *model.outputs):
            assert isinstance(tensor.name, str), model.name
            assert tensor.datatype in DTYPES, model.name
            assert all(type(size) is int and size >= -1 for size in tensor.shape), model.name


def test_each_version_has_metadata_readiness_and_inference(
    server: Server, model: Model, document: dict[str, Any]
) -> None:
    """Required API, HTTP/REST: each path but the server's own has a form with /versions/VERSION."""
    if not model.versions:
        pytest.skip("the model lists no versions")
    expected = outputs(server.infer(model, document))
    for version in model.versions:
        path = f"{model.path}/versions/{version}"
        assert server.get(path).json["name"] == model.name
        assert server.get(f"{path}/ready").status == 200
        assert_same(outputs(server.post(f"{path}/infer", document)), expected)


@pytest.mark.parametrize("what", ["", "/ready", "/infer"])
def test_an_unknown_version_is_refused(server: Server, model: Model, document: dict[str, Any], what: str) -> None:
    """Required API, Model Metadata and Inference JSON Error Objects."""
    if not model.versions:
        pytest.skip("the model lists no versions")
    path = f"{model.path}/versions/987654321{what}"
    answer = server.post(path, document) if what == "/infer" else server.get(path)
    assert answer.is_refusal, answer


@pytest.mark.parametrize("what", ["", "/ready", "/infer"])
def test_an_unknown_model_is_refused(server: Server, document: dict[str, Any], what: str) -> None:
    """Required API, Model Metadata and Inference JSON Error Objects: an error status, and {"error": string}."""
    path = f"/v2/models/no_model_has_this_name{what}"
    answer = server.post(path, document) if what == "/infer" else server.get(path)
    assert answer.is_refusal, answer


# Inference


def test_every_model_answers_as_its_metadata_says(server: Server, models: list[Model]) -> None:
    """Required API, Inference Response JSON Object and Response Output."""
    for model in models:
        if model.fits_json:
            answer = server.infer(model, model.document(model.values(2)))
            assert answer.status == 200, f"{model.name}: {answer}"
            assert answer.json["model_name"] == model.name
            described = {tensor.name: tensor for tensor in model.outputs}
            for output in answer.json["outputs"]:
                tensor = described.pop(output["name"])
                assert output["datatype"] == tensor.datatype, model.name
                assert len(output["shape"]) == len(tensor.shape), model.name
                assert all(size in (-1, got) for size, got in zip(tensor.shape, output["shape"], strict=True))
            assert not described, f"{model.name}: without `outputs` all of them are answered"
            outputs(answer)


def test_an_answers_version_is_one_of_the_models(server: Server, model: Model, document: dict[str, Any]) -> None:
    """Required API, Inference Response JSON Object: no "model_version" from a server without versions."""
    version = server.infer(model, document).json.get("model_version")
    assert version in (model.versions or (None,))


@pytest.mark.over_http("InferTensorContents is flat")
def test_flat_and_nested_data_give_the_same_answer(server: Server, models: list[Model]) -> None:
    """Required API, Tensor Data: nested by the shape, or flattened in row-major order."""
    for model in models:
        if model.fits_json:
            values = model.values(2)
            flat = outputs(server.infer(model, model.document(values)))
            assert_same(outputs(server.infer(model, model.document(values, nested=True))), flat)


def test_several_rows_give_what_single_rows_give(server: Server, models: list[Model]) -> None:
    """Required API, Request Input: the shape and data of a batched input are those of the entire batch."""
    batched = [model for model in models if model.has_batches and model.fits_json]
    if not batched:
        pytest.skip("no model has a free first size")
    for model in batched:
        values = model.values(3, seed=1)
        together = outputs(server.infer(model, model.document(values)))
        for row in range(3):
            alone = model.document({name: array[row : row + 1] for name, array in values.items()})
            expected = {name: array[row : row + 1] for name, array in together.items()}
            assert_same(outputs(server.infer(model, alone)), expected, close=True)


@pytest.mark.parametrize("identity", ["42", "a b/ç\u2603", "x" * 1000])
def test_the_id_is_returned(server: Server, model: Model, document: dict[str, Any], identity: str) -> None:
    """Required API, Inference Request JSON Object: an id that is given must be in the answer."""
    assert server.infer(model, document | {"id": identity}).json["id"] == identity


def test_exactly_the_requested_outputs_are_returned_in_their_order(
    server: Server, model: Model, document: dict[str, Any]
) -> None:
    """Required API, Inference Request JSON Object: "outputs" are those requested for this inference."""
    names = [tensor.name for tensor in reversed(model.outputs)]
    for wanted in (names, names[:1]):
        request = document | {"outputs": [{"name": name} for name in wanted]}
        assert list(outputs(server.infer(model, request))) == wanted


def test_unknown_parameters_do_no_harm(server: Server, model: Model, document: dict[str, Any]) -> None:
    """Required API, Parameters: what a server does not know it may ignore or refuse."""
    answer = server.infer(model, document | {"parameters": {"an unknown parameter": 1}})
    assert answer.status == 200 or answer.is_refusal, answer


@pytest.mark.over_http("it is a rule of JSON")
def test_the_order_of_the_fields_and_white_space_mean_nothing(
    server: HttpServer, model: Model, document: dict[str, Any]
) -> None:
    """RFC 8259, Objects: an unordered collection."""
    expected = outputs(server.infer(model, document))
    inputs = [dict(reversed(tensor.items())) for tensor in document["inputs"]]
    body = b"\n\t " + json.dumps({"inputs": inputs, "id": "1"}, indent=3).encode() + b" \r\n"
    answer = server.ask("POST", f"{model.path}/infer", body, {"Content-Type": "application/json"})
    assert_same(outputs(answer), expected)


@no_headers
def test_a_request_without_a_content_type_is_answered(
    server: HttpServer, model: Model, document: dict[str, Any]
) -> None:
    """Required API, Inference: the body is the request object, whatever else the request has."""
    expected = outputs(server.infer(model, document))
    answer = server.ask("POST", f"{model.path}/infer", json.dumps(document).encode())
    assert_same(outputs(answer), expected)


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
def test_a_compressed_body_is_understood_or_refused(
    server: Server, model: Model, document: dict[str, Any], coding: str
) -> None:
    """RFC 9110, 8.4 Content-Encoding and 15.5.16: understood, or 415. Never taken for what it is not.

    gRPC, Compression: understood, or UNIMPLEMENTED.
    """
    expected, path = outputs(server.infer(model, document)), f"{model.path}/infer"
    answer = server.send(path, server.encode(path, document), coding)
    if answer.status == 200:
        assert_same(outputs(answer), expected)
    else:
        assert answer.is_refusal, answer


# Inference that must be refused


@pytest.mark.parametrize("what", REFUSED)
def test_a_wrong_request_is_refused(server: Server, model: Model, document: dict[str, Any], what: str) -> None:
    """Required API, Inference Request JSON Object, Request Input, and Inference Response JSON Error Object."""
    answer = server.infer(model, REFUSED[what](document, model))
    assert answer.is_refusal, answer


@pytest.mark.over_http("the fields of a message have types, and take no such values")
@pytest.mark.parametrize("what", REFUSED_AS_JSON)
def test_a_request_of_wrong_json_types_is_refused(
    server: Server, model: Model, document: dict[str, Any], what: str
) -> None:
    """Required API, Inference Request JSON Object, Request Input, and Inference Response JSON Error Object."""
    answer = server.infer(model, REFUSED_AS_JSON[what](document, model))
    assert answer.is_refusal, answer


@pytest.mark.parametrize(
    "body", [b"", b"{", b"no JSON", b"[]", b"null", b'{"inputs": [}', b"\xff\xfe\x00", b"[" * 9999]
)
def test_a_body_that_is_not_a_request_is_refused(server: Server, model: Model, body: bytes) -> None:
    """Required API, Inference: the request object is required in the body. None of these is a message, either."""
    answer = server.send(f"{model.path}/infer", body)
    assert answer.is_refusal, answer


def test_a_body_cut_short_is_refused(server: Server, model: Model, document: dict[str, Any]) -> None:
    """Required API, Inference: the request object is required in the body."""
    path = f"{model.path}/infer"
    body = server.encode(path, document)
    answers = [server.send(path, body[:end]) for end in range(0, len(body), len(body) // 20)]
    assert [str(answer) for answer in answers if not answer.is_refusal] == []


@no_headers
def test_refusals_are_labelled_as_json(server: Server) -> None:
    """RFC 9110, 8.3 Content-Type; required API, Model Metadata Response JSON Error Object."""
    answer = server.get("/v2/models/no_model_has_this_name")
    assert answer.headers.get("content-type", "").startswith("application/json")


@no_headers
@pytest.mark.parametrize(("method", "path"), [("GET", "/infer"), ("POST", "/ready"), ("DELETE", "")])
def test_another_verb_is_refused(server: HttpServer, model: Model, method: str, path: str) -> None:
    """Required API, HTTP/REST: the table of verbs; RFC 9110, 15.5.6."""
    answer = server.ask(method, model.path + path, b"" if method == "POST" else None)
    assert 400 <= answer.status < 500, answer
