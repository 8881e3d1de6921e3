"""The required API: health, metadata and inference, as every server of the protocol has them."""

import json
import zlib
from collections.abc import Callable
from typing import Any

import pytest

from .wire import DTYPES, Answer, Model, Server, assert_same, outputs

Change = Callable[[dict[str, Any], Model], Any]


@pytest.fixture
def document(model: Model) -> dict[str, Any]:
    """A valid request of one row."""
    if not model.fits_json:
        pytest.skip(f"{model.name} has an input that JSON cannot carry")
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


def test_each_version_has_metadata_readiness_and_inference(server: Server, model: Model) -> None:
    """Required API, HTTP/REST: each path but the server's own has a form with /versions/VERSION."""
    if not model.versions:
        pytest.skip("the model lists no versions")
    request = model.document(model.values())
    expected = outputs(server.infer(model, request))
    for version in model.versions:
        path = f"{model.path}/versions/{version}"
        assert server.get(path).json["name"] == model.name
        assert server.get(f"{path}/ready").status == 200
        assert_same(outputs(server.post(f"{path}/infer", request)), expected)


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


def test_exactly_the_requested_outputs_are_returned_in_their_order(server: Server, model: Model) -> None:
    """Required API, Inference Request JSON Object: "outputs" are those requested for this inference."""
    names = [tensor.name for tensor in reversed(model.outputs)]
    for wanted in (names, names[:1]):
        request = model.document(model.values()) | {"outputs": [{"name": name} for name in wanted]}
        assert list(outputs(server.infer(model, request))) == wanted


def test_unknown_parameters_do_no_harm(server: Server, model: Model, document: dict[str, Any]) -> None:
    """Required API, Parameters: what a server does not know it may ignore or refuse."""
    answer = server.infer(model, document | {"parameters": {"an unknown parameter": 1}})
    assert answer.status == 200 or answer.is_refusal, answer


def test_the_order_of_the_fields_and_white_space_mean_nothing(
    server: Server, model: Model, document: dict[str, Any]
) -> None:
    """RFC 8259, Objects: an unordered collection."""
    expected = outputs(server.infer(model, document))
    inputs = [dict(reversed(tensor.items())) for tensor in document["inputs"]]
    body = b"\n\t " + json.dumps({"inputs": inputs, "id": "1"}, indent=3).encode() + b" \r\n"
    answer = server.ask("POST", f"{model.path}/infer", body, {"Content-Type": "application/json"})
    assert_same(outputs(answer), expected)


def test_a_request_without_a_content_type_is_answered(server: Server, model: Model, document: dict[str, Any]) -> None:
    """Required API, Inference: the body is the request object, whatever else the request has."""
    expected = outputs(server.infer(model, document))
    answer = server.ask("POST", f"{model.path}/infer", json.dumps(document).encode())
    assert_same(outputs(answer), expected)


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
def test_a_compressed_body_is_understood_or_refused(
    server: Server, model: Model, document: dict[str, Any], coding: str
) -> None:
    """RFC 9110, 8.4 Content-Encoding and 15.5.16: understood, or 415. Never taken for what it is not."""
    expected = outputs(server.infer(model, document))
    packer = zlib.compressobj(wbits=31 if coding == "gzip" else 15)
    body = packer.compress(json.dumps(document).encode()) + packer.flush()
    headers = {"Content-Type": "application/json", "Content-Encoding": coding}
    answer = server.ask("POST", f"{model.path}/infer", body, headers)
    if answer.status == 200:
        assert_same(outputs(answer), expected)
    else:
        assert answer.is_refusal, answer


# Inference that must be refused


def without(key: str) -> Change:
    return lambda request, model: {name: value for name, value in request.items() if name != key}


def first_input(**fields: Any) -> Change:
    """Other values for fields of the first input; None takes the field away, a function makes it of the input."""

    def change(request: dict[str, Any], model: Model) -> dict[str, Any]:
        tensor = request["inputs"][0]
        made = {name: value(tensor, model) if callable(value) else value for name, value in fields.items()}
        changed = {name: value for name, value in (tensor | made).items() if value is not None}
        return request | {"inputs": [changed, *request["inputs"][1:]]}

    return change


def another_datatype(tensor: dict[str, Any], model: Model) -> str:
    return "INT64" if tensor["datatype"] != "INT64" else "FP64"


def of_another_kind(tensor: dict[str, Any], model: Model) -> list[Any]:
    return [1 if tensor["datatype"] == "BYTES" else "text"] * len(tensor["data"])


REFUSED: dict[str, Change] = {
    "no inputs": without("inputs"),
    "inputs that are not a list": lambda request, model: request | {"inputs": request["inputs"][0]},
    "an input missing": lambda request, model: request | {"inputs": request["inputs"][1:]},
    "an unknown input": first_input(name="no_input_has_this_name"),
    "an input without a name": first_input(name=None),
    "an unknown output": lambda request, model: request | {"outputs": [{"name": "no_output_has_this_name"}]},
    "outputs that are not a list": lambda request, model: request | {"outputs": model.outputs[0].name},
    "another datatype": first_input(datatype=another_datatype),
    "an unknown datatype": first_input(datatype="FP31"),
    "no datatype": first_input(datatype=None),
    "no shape": first_input(shape=None),
    "a shape of another rank": first_input(shape=lambda tensor, model: [*tensor["shape"], 1]),
    "a fixed size changed": first_input(shape=lambda tensor, model: [*tensor["shape"][:-1], tensor["shape"][-1] + 1]),
    "a negative size": first_input(shape=lambda tensor, model: [-size for size in tensor["shape"]]),
    "a fraction for a size": first_input(shape=lambda tensor, model: [size + 0.5 for size in tensor["shape"]]),
    "a size as text": first_input(shape=lambda tensor, model: [str(size) for size in tensor["shape"]]),
    "a huge size": first_input(shape=lambda tensor, model: [2**62, *tensor["shape"][1:]]),
    "no data": first_input(data=None),
    "data that is not a list": first_input(data=7),
    "a value too few": first_input(data=lambda tensor, model: tensor["data"][:-1]),
    "a value too many": first_input(data=lambda tensor, model: [*tensor["data"], tensor["data"][0]]),
    "values of another kind": first_input(data=of_another_kind),
    "nulls for values": first_input(data=lambda tensor, model: [None] * len(tensor["data"])),
    "an id that is not a string": lambda request, model: request | {"id": {"a": 1}},
    "parameters that are not an object": lambda request, model: request | {"parameters": [1]},
}


@pytest.mark.parametrize("what", REFUSED)
def test_a_wrong_request_is_refused(server: Server, model: Model, document: dict[str, Any], what: str) -> None:
    """Required API, Inference Request JSON Object, Request Input, and Inference Response JSON Error Object."""
    answer = server.infer(model, REFUSED[what](document, model))
    assert answer.is_refusal, answer


@pytest.mark.parametrize(
    "body", [b"", b"{", b"no JSON", b"[]", b"null", b'{"inputs": [}', b"\xff\xfe\x00", b"[" * 9999]
)
def test_a_body_that_is_not_a_request_is_refused(server: Server, model: Model, body: bytes) -> None:
    """Required API, Inference: the request object is required in the body."""
    answer = server.ask("POST", f"{model.path}/infer", body, {"Content-Type": "application/json"})
    assert answer.is_refusal, answer


def test_a_body_cut_short_is_refused(server: Server, model: Model, document: dict[str, Any]) -> None:
    """Required API, Inference: the request object is required in the body."""
    body = json.dumps(document).encode()
    answers = [server.ask("POST", f"{model.path}/infer", body[:end]) for end in range(0, len(body), len(body) // 20)]
    assert [str(answer) for answer in answers if not answer.is_refusal] == []


def test_refusals_are_labelled_as_json(server: Server) -> None:
    """RFC 9110, 8.3 Content-Type; required API, Model Metadata Response JSON Error Object."""
    answer = server.get("/v2/models/no_model_has_this_name")
    assert answer.headers.get("content-type", "").startswith("application/json")


@pytest.mark.parametrize(("method", "path"), [("GET", "/infer"), ("POST", "/ready"), ("DELETE", "")])
def test_another_verb_is_refused(server: Server, model: Model, method: str, path: str) -> None:
    """Required API, HTTP/REST: the table of verbs; RFC 9110, 15.5.6."""
    answer: Answer = server.ask(method, model.path + path, b"" if method == "POST" else None)
    assert 400 <= answer.status < 500, answer
