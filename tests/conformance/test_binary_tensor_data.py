"""The binary tensor data extension: raw tensors behind the JSON, in requests and in answers."""

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from .wire import DTYPES, HEADER_LENGTH, HttpServer, Model, Server, assert_same, outputs, to_raw

if TYPE_CHECKING:
    from .grpc_wire import GrpcServer

EXTENSION = "binary_tensor_data"

form_of_outputs = pytest.mark.over_http("over gRPC the server chooses whether its outputs are raw")
no_lengths = pytest.mark.over_http("raw_input_contents has its own lengths: no header and no parameter says them")


def wants_raw(model: Model) -> list[dict[str, Any]]:
    return [{"name": tensor.name, "parameters": {"binary_data": True}} for tensor in model.outputs]


def test_raw_inputs_give_the_answer_of_json(server: Server, models: list[Model]) -> None:
    """Binary Tensor Request: raw tensors follow the JSON in the order of the inputs."""
    for model in models:
        values = model.values(2)
        answer = server.infer_raw(model, *model.raw(values))
        if model.fits_json:
            assert_same(outputs(answer), outputs(server.infer(model, model.document(values))))
        assert outputs(answer).keys() == {tensor.name for tensor in model.outputs}


@form_of_outputs
def test_raw_outputs_are_those_of_json(server: Server, models: list[Model]) -> None:
    """ "binary_data" on an output: its answer is raw. Values as JSON has them, to float32's precision."""
    for model in models:
        document, payload = model.raw(model.values(2))
        as_json = outputs(server.infer_raw(model, document, payload))
        answer = server.infer_raw(model, document | {"outputs": wants_raw(model)}, payload)
        assert_same(outputs(answer), as_json)
        assert int(answer.headers[HEADER_LENGTH.lower()]) < len(answer.body)


@form_of_outputs
def test_raw_outputs_of_a_json_request(server: Server, model: Model) -> None:
    """ "binary_data" asks for the form of an output, whatever that of the inputs is."""
    document = model.document(model.values())
    answer = server.infer(model, document | {"outputs": wants_raw(model)})
    assert_same(outputs(answer), outputs(server.infer(model, document)))
    assert HEADER_LENGTH.lower() in answer.headers


@form_of_outputs
def test_an_answer_with_raw_tensors_has_its_lengths(server: Server, model: Model) -> None:
    """Inference-Header-Content-Length is the length of the JSON, Content-Length that of the body."""
    document, payload = model.raw(model.values())
    answer = server.infer_raw(model, document | {"outputs": wants_raw(model)}, payload)
    assert HEADER_LENGTH.lower() in answer.headers
    described = answer.json["outputs"]
    assert sum(output["parameters"]["binary_data_size"] for output in described) == len(answer.raw)
    assert all("data" not in output for output in described)
    assert answer.headers.get("content-length", str(len(answer.body))) == str(len(answer.body))
    assert answer.headers["content-type"] == "application/octet-stream"


@form_of_outputs
def test_binary_data_output_makes_every_output_raw(server: Server, model: Model) -> None:
    """ "binary_data_output" in the request's parameters."""
    document = model.document(model.values()) | {"parameters": {"binary_data_output": True}}
    answer = server.infer(model, document)
    assert HEADER_LENGTH.lower() in answer.headers
    described = answer.json["outputs"]
    assert all("binary_data_size" in output["parameters"] for output in described)
    assert {output["name"] for output in described} == {tensor.name for tensor in model.outputs}


@form_of_outputs
def test_binary_data_overrides_binary_data_output(server: Server, model: Model) -> None:
    """ "If "binary_data" is specified on an output it overrides this setting."""
    wanted = [{"name": tensor.name, "parameters": {"binary_data": False}} for tensor in model.outputs]
    document = model.document(model.values()) | {"parameters": {"binary_data_output": True}, "outputs": wanted}
    answer = server.infer(model, document)
    assert all("data" in output for output in answer.json["outputs"])


@form_of_outputs
def test_an_answer_without_raw_tensors_is_plain_json(server: Server, model: Model) -> None:
    """The header is for bodies with raw tensors; "binary_data" is false where it is not given."""
    answer = server.infer_raw(model, *model.raw(model.values()))
    assert HEADER_LENGTH.lower() not in answer.headers
    assert all("data" in output for output in answer.json["outputs"])


@pytest.mark.over_http("raw_input_contents has all inputs or none")
def test_raw_and_json_inputs_mix(server: Server, model: Model) -> None:
    """ "binary_data_size" is a parameter of each input."""
    if len(model.inputs) == 1:
        pytest.skip("the model has a single input")
    values = model.values()
    expected = outputs(server.infer_raw(model, *model.raw(values)))
    answer = server.infer_raw(model, *model.raw(values, as_json=[model.inputs[0].name]))
    assert_same(outputs(answer), expected)


@no_lengths
def test_a_header_as_long_as_the_body_is_plain_json(server: Server, model: Model) -> None:
    """Inference-Header-Content-Length gives the length of the JSON object."""
    document = model.document(model.values())
    assert_same(outputs(server.infer_raw(model, document, b"")), outputs(server.infer(model, document)))


def test_several_raw_rows_give_what_single_rows_give(server: Server, models: list[Model]) -> None:
    """Row-major order, without stride or padding."""
    for model in models:
        if model.has_batches:
            values = model.values(3, seed=2)
            together = outputs(server.infer_raw(model, *model.raw(values)))
            for row in range(3):
                alone = model.raw({name: array[row : row + 1] for name, array in values.items()})
                expected = {name: array[row : row + 1] for name, array in together.items()}
                assert_same(outputs(server.infer_raw(model, *alone)), expected, close=True)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity_pass_as_raw_tensors(server: Server, model: Model, value: float) -> None:
    """All tensor data types are representable as binary data: NaN, which JSON lacks, included."""
    if any(DTYPES[tensor.datatype].kind != "f" for tensor in (*model.inputs, *model.outputs)):
        pytest.skip("the model's tensors are not all floating point")
    values = {name: np.full_like(array, value) for name, array in model.values().items()}
    document, payload = model.raw(values)
    assert outputs(server.infer_raw(model, document | {"outputs": wants_raw(model)}, payload))
    as_json = server.infer_raw(model, document, payload)
    assert as_json.is_refusal or as_json.json["outputs"], as_json


@no_lengths
def test_a_header_length_of_0_is_a_tensor_alone(server: HttpServer, model: Model) -> None:
    """Raw Binary Request: a single input of at most one free size, whose shape follows from the bytes."""
    (tensor, *others) = model.inputs
    if others or tensor.datatype == "BYTES" or list(tensor.shape).count(-1) > 1:
        pytest.skip("the model's input does not follow from its bytes alone")
    values = model.values()
    _, payload = model.raw(values)
    expected = outputs(server.infer_raw(model, *model.raw(values)))
    answer = server.ask(
        "POST", f"{model.path}/infer", payload, {"Content-Type": "application/octet-stream", HEADER_LENGTH: "0"}
    )
    assert_same(outputs(answer), expected)


# What must be refused


@no_lengths
@pytest.mark.parametrize("length", ["-1", "x", "", "1e2", "1.0", "99999999999999999999999", "0x10", "1", "10"])
def test_a_header_length_that_lies_is_refused(server: HttpServer, model: Model, length: str) -> None:
    """Inference-Header-Content-Length must give the length of the JSON object."""
    answer = server.infer_raw(model, *model.raw(model.values()), header_length=length)
    assert answer.is_refusal, answer


@no_lengths
@pytest.mark.parametrize("shift", [1, -1, 4, -4, 1000])
def test_a_header_length_that_is_off_is_refused(server: HttpServer, model: Model, shift: int) -> None:
    """Inference-Header-Content-Length must give the length of the JSON object."""
    document, payload = model.raw(model.values())
    length = len(json.dumps(document)) + shift
    answer = server.infer_raw(model, document, payload[: 500 if shift == 1000 else None], header_length=str(length))
    assert answer.is_refusal, answer


@no_lengths
@pytest.mark.parametrize("size", [0, 1, -1, -(2**63), 2**31, 2**63, 2**64, 1.5, "16", True, [], {}])
def test_a_binary_data_size_that_lies_is_refused(server: Server, model: Model, size: Any) -> None:
    """ "binary_data_size": the int64 size of the tensor's data in bytes."""
    document, payload = model.raw(model.values())
    document["inputs"][0]["parameters"]["binary_data_size"] = size
    answer = server.infer_raw(model, document, payload)
    assert answer.is_refusal, answer


def test_bytes_too_few_or_too_many_are_refused(server: Server, model: Model) -> None:
    """The body is the JSON, and exactly the tensors that it announces; each fills its shape."""
    document, payload = model.raw(model.values())
    for other in (b"", payload[:-1], payload + b"\x00", payload * 2):
        answer = server.infer_raw(model, document, other)
        assert answer.is_refusal, answer


def test_a_shape_that_the_bytes_do_not_fill_is_refused(server: Server, model: Model) -> None:
    """Binary data has the native size of the data type, times the sizes of the shape."""
    document, payload = model.raw(model.values())
    document["inputs"][0]["shape"][0] += 1
    answer = server.infer_raw(model, document, payload)
    assert answer.is_refusal, answer


def test_an_input_with_both_forms_of_data_is_refused(server: Server, model: Model) -> None:
    """ "binary_data_size" indicates that the tensor is communicated as binary data: "data" is then of no use.

    ModelInferRequest, raw_input_contents: "contents must not be specified for any input tensor".
    """
    values = model.values()
    document, payload = model.raw(values)
    document["inputs"][0]["data"] = model.document(values)["inputs"][0]["data"]
    answer = server.infer_raw(model, document, payload)
    assert answer.is_refusal, answer


@no_lengths
def test_raw_tensors_without_the_header_are_refused(server: HttpServer, model: Model) -> None:
    """The header must be provided if any binary data is present."""
    document, payload = model.raw(model.values())
    answer = server.ask("POST", f"{model.path}/infer", json.dumps(document).encode() + payload)
    assert answer.is_refusal, answer


@pytest.mark.over_grpc("over HTTP raw and JSON inputs mix")
def test_raw_tensors_beside_the_values_of_another_input_are_refused(server: Server, model: Model) -> None:
    """ModelInferRequest, raw_input_contents: "contents must not be specified for any input tensor"."""
    if len(model.inputs) == 1:
        pytest.skip("the model has a single input")
    answer = server.infer_raw(model, *model.raw(model.values(), as_json=[model.inputs[0].name]))
    assert answer.is_refusal, answer


@pytest.mark.over_grpc("over HTTP no bytes are a tensor of their own")
@pytest.mark.parametrize("change", [-1, 1, 1000])
def test_raw_tensors_fewer_or_more_than_the_inputs_are_refused(server: "GrpcServer", model: Model, change: int) -> None:
    """ModelInferRequest, raw_input_contents: "data for each tensor in the same order as inputs"."""
    values = model.values()
    document, _ = model.raw(values)
    parts = [to_raw(array) for array in values.values()]
    parts = parts[:change] if change < 0 else parts + parts[:1] * change
    answer = server.send(f"{model.path}/infer", server.encode_raw(model, document, parts))
    assert answer.is_refusal, answer
