"""What a caller sends fits the model, or is refused with a message that says what was got and what was expected."""

import json
import math
import random
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest

from contract.errors import BodyTooLarge, InputError
from contract.manifest import Manifest, TensorSpec
from contract.tensors import numpy_dtype
from serve.protocol import MAX_BATCH, InferRequest, Reply
from serve.protocol.json_text import MAX_VALUES
from serve.protocol.oip import HEADER_LENGTH, infer_reply, parse_request, tensor_metadata
from serve.protocol.oip_reader import RequestReader
from serve.protocol.tensors import DATATYPES

MODEL = Manifest(
    model="two_inputs",
    format="onnx",
    parent=None,
    inputs=(
        TensorSpec("pixels", "float32", (None, 2, 3, 1), "NHWC"),
        TensorSpec("count", "int32", (None,), "N"),
    ),
    outputs=(TensorSpec("probabilities", "float32", (None, 4), "NC"), TensorSpec("index", "int64", (None,), "N")),
    image=None,
    labels=(),
)

PIXELS = {"name": "pixels", "datatype": "FP32", "shape": [2, 2, 3, 1], "data": list(range(12))}
COUNT = {"name": "count", "datatype": "INT32", "shape": [2], "data": [7, -8]}
VALID = {"id": "a", "inputs": [PIXELS, COUNT], "outputs": [{"name": "index"}]}


def body(**changes: Any) -> bytes:
    """The valid request with other fields."""
    return json.dumps(VALID | changes).encode()


def pixels(**changes: Any) -> bytes:
    """The valid request with other fields in its first input; a field that becomes `...` is left out."""
    tensor = {name: value for name, value in (PIXELS | changes).items() if value is not ...}
    return body(inputs=[tensor, COUNT])


READERS: dict[Any, RequestReader] = {}


def reader_of(manifest: Manifest) -> RequestReader:
    """One reader a model, as in the service: it remembers what earlier tests sent."""
    return READERS.setdefault((manifest.inputs, manifest.outputs), RequestReader(manifest))


def parse_infer(sent: bytes, header_length: str | None, manifest: Manifest) -> InferRequest:
    return reader_of(manifest).read(sent, header_length)


def parse(sent: bytes, manifest: Manifest = MODEL) -> InferRequest:
    """Parse a request that is JSON alone."""
    return parse_infer(sent, None, manifest)


def model_of(dtype: str, *sizes: int | None) -> Manifest:
    """A model with one input and one output of this dtype and shape [-1, *sizes]."""
    inputs, outputs = (TensorSpec(name, dtype, (None, *sizes), "N") for name in "xy")
    return replace(MODEL, inputs=(inputs,), outputs=(outputs,))


def single(dtype: str, *values: Any) -> Any:
    """Parse a request for a model with one input of this dtype, shape [-1]."""
    tensor = {"name": "x", "datatype": DATATYPES[dtype], "shape": [len(values)], "data": values}
    return parse(json.dumps({"inputs": [tensor]}).encode(), model_of(dtype)).inputs["x"]


def answered(model: str, request: InferRequest, outputs: dict[str, Any]) -> Any:
    """The answer's JSON."""
    reply = infer_reply(model, request, outputs)
    assert (reply.code, reply.content_type) == (200, "application/json")
    return json.loads(reply.body)


def nested(depth: int, core: str = "0") -> str:
    return "[" * depth + core + "]" * depth


# Good requests


def test_flat_numbers_take_the_shape_that_is_named() -> None:
    request = parse(body())
    assert request.inputs["pixels"].dtype == np.float32
    np.testing.assert_array_equal(request.inputs["pixels"], np.arange(12).reshape(2, 2, 3, 1))
    assert request.inputs["count"].dtype == np.int32
    np.testing.assert_array_equal(request.inputs["count"], [7, -8])


def test_nested_numbers_are_the_same_as_flat_ones() -> None:
    data = np.arange(12).reshape(2, 2, 3, 1).tolist()
    np.testing.assert_array_equal(parse(pixels(data=data)).inputs["pixels"], parse(body()).inputs["pixels"])


def test_whole_numbers_and_fractions_mix_in_a_float_input() -> None:
    parsed = parse(pixels(data=[1, 0.5, -2, 1e-30, 255, *range(7)])).inputs["pixels"]
    np.testing.assert_array_equal(parsed.ravel()[:5], np.array([1, 0.5, -2, 1e-30, 255], np.float32))


def test_nan_and_infinities_are_read_as_python_and_javascript_clients_write_them() -> None:
    parsed = parse(pixels(data=[*range(9), math.nan, math.inf, -math.inf])).inputs["pixels"].ravel()
    np.testing.assert_array_equal(parsed, np.array([*range(9), math.nan, math.inf, -math.inf], np.float32))


def test_null_stands_for_parameters_that_were_left_out() -> None:
    tensors = [PIXELS | {"parameters": None}, COUNT]
    request = parse(body(inputs=tensors, parameters=None, outputs=[{"name": "index", "parameters": None}]))
    assert request.outputs == (("index", False),)


def test_the_order_of_the_inputs_does_not_matter() -> None:
    assert parse(body(inputs=[COUNT, PIXELS])).inputs.keys() == {"pixels", "count"}


def test_fields_that_are_not_known_are_ignored() -> None:
    request = parse(pixels(parameters={"binary_data": False}))
    assert request.inputs["pixels"].shape == (2, 2, 3, 1)


@pytest.mark.parametrize("data", [{"data": []}, {"parameters": {"binary_data_size": 0}}], ids=["JSON", "binary"])
def test_a_size_of_0_is_refused_in_every_form(data: dict[str, Any]) -> None:
    spec = TensorSpec("x", "float32", (None, None, 8), "NLC")
    manifest = Manifest("free", "onnx", None, (spec,), (spec,), None, ())
    content = json.dumps({"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 0, 8]} | data]}).encode()
    with pytest.raises(InputError, match=r"'x' has shape \[1, 0, 8\]: every size must be at least 1"):
        parse_infer(content, str(len(content)) if "parameters" in data else None, manifest)


@pytest.mark.parametrize("batch", [1, MAX_BATCH])
def test_the_smallest_and_the_largest_batch_are_taken(batch: int) -> None:
    inputs = [
        PIXELS | {"shape": [batch, 2, 3, 1], "data": [0] * 6 * batch},
        COUNT | {"shape": [batch], "data": [0] * batch},
    ]
    assert len(parse(body(inputs=inputs)).inputs["pixels"]) == batch


@pytest.mark.parametrize("identity", ["", "a", "짧은 이름", "x" * 1000])
def test_the_id_comes_back(identity: str) -> None:
    request = parse(body(id=identity))
    assert answered("m", request, {"index": np.array([1])})["id"] == identity


def test_without_an_id_none_comes_back() -> None:
    request = parse(body(id=None))
    assert request.id is None
    assert "id" not in answered("m", request, {"index": np.array([1])})


@pytest.mark.parametrize("outputs", [None, []])
def test_all_outputs_are_answered_when_none_is_chosen(outputs: Any) -> None:
    assert parse(body(outputs=outputs)).outputs == (("probabilities", False), ("index", False))


def test_chosen_outputs_are_answered_in_the_requested_order_and_once() -> None:
    requested = [{"name": "index"}, {"name": "probabilities"}, {"name": "index"}]
    assert parse(body(outputs=requested)).outputs == (("index", False), ("probabilities", False))


def test_the_answer_is_flat_in_row_major_order_with_its_shape() -> None:
    request = parse(body(outputs=None))
    table = np.arange(8, dtype=np.float32).reshape(2, 4).copy(order="F")
    answer = answered("two_inputs-onnx", request, {"index": np.array([1, 0]), "probabilities": table})
    assert answer == {
        "model_name": "two_inputs-onnx",
        "model_version": "1",
        "id": "a",
        "outputs": [
            {"name": "probabilities", "datatype": "FP32", "shape": [2, 4], "data": list(range(8))},
            {"name": "index", "datatype": "INT64", "shape": [2], "data": [1, 0]},
        ],
    }


def test_any_size_is_minus_one_in_the_metadata() -> None:
    assert tensor_metadata(MODEL.inputs[0]) == {"name": "pixels", "datatype": "FP32", "shape": [-1, 2, 3, 1]}


@pytest.mark.parametrize(
    ("dtype", "values"),
    [
        ("bool", [True, False]),
        ("int8", [-128, 127]),
        ("uint8", [0, 255]),
        ("int64", [-(2**63), 2**63 - 1, 2**53 + 1]),
        ("uint64", [0, 2**64 - 1]),
        ("float16", [-65504, 0.5]),
        ("float64", [1e308, -1e-308, 2**53]),
    ],
)
def test_every_number_that_a_datatype_can_hold_is_taken_exactly(dtype: str, values: list[Any]) -> None:
    parsed = single(dtype, *values)
    assert parsed.dtype == np.dtype(dtype)
    assert parsed.tolist() == values


# Bad requests

BAD: dict[str, tuple[bytes, *tuple[str, ...]]] = {
    "empty": (b"", "is not JSON", "begins with ''"),
    "not JSON": (b"pixels=1", "is not JSON", "begins with 'pixels=1'"),
    "cut off": (body()[:-9], "is not JSON", 'begins with \'{"id": "a", '),
    "not UTF-8": (b'{"id": "\xff\xfe"}', "is not JSON", "UTF-8"),
    "two documents": (body() + body(), "is not JSON"),
    "an integer of 5,000 digits": (b'{"id": ' + b"9" * 5000 + b"}", "is not JSON"),
    "a list": (b"[]", "The request is []", "JSON object"),
    "a number": (b"3", "The request is 3", "JSON object"),
    "null": (b"null", "The request is missing", "JSON object"),
    "no inputs": (b"{}", "'inputs' is missing", "JSON list"),
    "inputs are an object": (body(inputs=PIXELS), "'inputs' is {", "JSON list"),
    "an input is a number": (body(inputs=[3]), "An input is 3", "JSON object"),
    "empty inputs": (body(inputs=[]), "is missing", "'pixels'", "'count'"),
    "missing input": (body(inputs=[PIXELS]), "'count' is missing", "takes 'pixels', 'count'"),
    "duplicate input": (body(inputs=[PIXELS, COUNT, COUNT]), "'count' was sent twice"),
    "unknown input": (body(inputs=[PIXELS | {"name": "image"}]), "no input 'image'", "'pixels', 'count'"),
    "input without a name": (pixels(name=...), "no input missing", "'pixels', 'count'"),
    "input's name is a list": (pixels(name=["pixels"]), "no input ['pixels']", "'pixels', 'count'"),
    "wrong datatype": (pixels(datatype="FP64"), "'pixels'", "'FP64'", "expected 'FP32'"),
    "no datatype": (pixels(datatype=...), "'pixels'", "datatype missing", "expected 'FP32'"),
    "datatype is an object": (pixels(datatype={}), "'pixels'", "datatype {}", "expected 'FP32'"),
    "no shape": (pixels(shape=...), "shape missing", "[-1, 2, 3, 1]"),
    "wrong rank": (pixels(shape=[12]), "shape [12]", "[-1, 2, 3, 1]"),
    "empty shape": (pixels(shape=[]), "shape []", "[-1, 2, 3, 1]"),
    "wrong size": (pixels(shape=[2, 3, 2, 1]), "shape [2, 3, 2, 1]", "[-1, 2, 3, 1]"),
    "negative size": (pixels(shape=[-2, 2, 3, 1]), "shape [-2, 2, 3, 1]", "[-1, 2, 3, 1]"),
    "sizes whose product fits": (pixels(shape=[-2, -2, 3, 1]), "shape [-2, -2, 3, 1]", "[-1, 2, 3, 1]"),
    "huge batch": (pixels(shape=[10**30, 2, 3, 1]), "1e+30", "[-1, 2, 3, 1]"),
    "a batch past 32 bits": (pixels(shape=[10**12, 2, 3, 1]), str(10**12), f"1 to {MAX_BATCH}"),
    "huge size": (pixels(shape=[2, 10**30, 3, 1]), "1e+30", "[-1, 2, 3, 1]"),
    "a fraction as a size": (pixels(shape=[2.0, 2, 3, 1]), "2.0", "[-1, 2, 3, 1]"),
    "true as a size": (pixels(shape=[2, 2, 3, True]), "True", "[-1, 2, 3, 1]"),
    "text as a size": (pixels(shape=["2", 2, 3, 1]), "'2'", "[-1, 2, 3, 1]"),
    "shape is a number": (pixels(shape=12), "shape 12", "[-1, 2, 3, 1]"),
    "batch of 0": (pixels(shape=[0, 2, 3, 1], data=[]), "batch of 0", f"1 to {MAX_BATCH}"),
    "batch of 4097": (
        pixels(shape=[MAX_BATCH + 1, 2, 3, 1], data=[0] * 6 * (MAX_BATCH + 1)),
        f"batch of {MAX_BATCH + 1}",
        f"1 to {MAX_BATCH}",
    ),
    "batches that differ": (pixels(shape=[1, 2, 3, 1], data=[0] * 6), "differ in their batch", "'count': 2"),
    "no data": (pixels(data=...), "The data of 'pixels' is missing", "list"),
    "data is a number": (pixels(data=1), "The data of 'pixels' is 1", "list"),
    "empty data": (pixels(data=[]), "0 values", "expected 12"),
    "too few numbers": (pixels(data=[0] * 11), "11 values", "expected 12"),
    "too many numbers": (pixels(data=[0] * 13), "13 values", "expected 12"),
    "another nesting": (pixels(data=[list(range(6)), list(range(6))]), "[2, 6]", "[2, 2, 3, 1]"),
    "nested in another order": (pixels(data=np.zeros((2, 3, 2, 1)).tolist()), "[2, 3, 2, 1]", "[2, 2, 3, 1]"),
    "strings": (pixels(data=["1"] * 12), "strings", "fractions and whole numbers", "FP32"),
    "a string among numbers": (pixels(data=[*range(11), "11"]), "strings", "FP32"),
    "true among numbers": (pixels(data=[*range(11), True]), "true or false", "FP32"),
    "null among numbers": (pixels(data=[*range(11), None]), "null", "FP32"),
    "an object among numbers": (pixels(data=[*range(11), {}]), "objects", "FP32"),
    "NaN in an int32": (body(inputs=[PIXELS, COUNT | {"data": [0, math.nan]}]), "fractions", "whole numbers"),
    "NaN in a broken text": (pixels(data=[*range(11), math.nan]) + b"}", "is not JSON"),
    "1e999": (body().replace(b"11]", b"1e999]"), "is not JSON", "infinity"),
    "more than a float32 holds": (pixels(data=[*range(11), 1e39]), "'pixels'", "do not fit FP32"),
    "more than a double holds": (pixels(data=[*range(11), 10**400]), "is not JSON", "infinity"),
    "more than an int32 holds": (body(inputs=[PIXELS, COUNT | {"data": [0, 2**31]}]), "'count'", "do not fit INT32"),
    "more than an int64 holds": (body(inputs=[PIXELS, COUNT | {"data": [0, 2**63]}]), "'count'", "do not fit INT32"),
    # JSON's whole numbers end at 64 bits: what is larger is read as a fraction
    "more than a uint64 holds": (body(inputs=[PIXELS, COUNT | {"data": [0, 2**70]}]), "fractions", "whole numbers"),
    "a fraction in an int32": (body(inputs=[PIXELS, COUNT | {"data": [0, 1.0]}]), "fractions", "whole numbers"),
    "uneven rows": (pixels(data=[[0] * 5, [0] * 7]), "'pixels'", "unevenly"),
    "numbers beside rows": (pixels(data=[0, [0] * 11]), "'pixels'", "unevenly"),
    "rows of nothing": (pixels(data=[[]] * 12), "[12, 0]", "expected [2, 2, 3, 1]"),
    "nested 60 deep": (pixels(data=json.loads(nested(60))), "nested as [1, 1, ", "expected [2, 2, 3, 1]"),
    "nested 500 deep": (pixels(data=json.loads(nested(500))), "nested as [1, 1, ", "expected [2, 2, 3, 1]"),
    "nested 10,000 deep": (f'{{"inputs": {nested(10_000)}}}'.encode(), "depth"),
    "objects nested 10,000 deep": (b'{"a":' * 10_000 + b"1" + b"}" * 10_000, "depth"),
    "objects nested 100,000 deep": (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, "400000 values", "250000 at most"),
    "id is a number": (body(id=1), "id is 1", "string"),
    "id is a list": (body(id=["a"]), "id is ['a']", "string"),
    "id is half of a surrogate pair": (body(id="\ud800"), "surrogate"),
    "unknown output": (body(outputs=[{"name": "logits"}]), "no output 'logits'", "'probabilities', 'index'"),
    "outputs are strings": (body(outputs=["index"]), "An output is 'index'", "JSON object"),
    "outputs are an object": (body(outputs={"name": "index"}), "'outputs' is {", "JSON list"),
    "output's name is an object": (body(outputs=[{"name": {}}]), "no output {}", "'probabilities', 'index'"),
    "a long name": (pixels(name="x" * 10_000), "xxx...", "'pixels', 'count'"),
    "name is half of a surrogate pair": (pixels(name="\udfff"), "is not JSON", "surrogate"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_request_is_refused_with_what_was_got_and_what_was_expected(case: str) -> None:
    sent, *words = BAD[case]
    with pytest.raises(InputError) as caught:
        parse(sent)
    message = str(caught.value)
    assert [word for word in words if word not in message] == [], message
    assert len(message) < 400
    orjson.dumps(message)  # it can be sent


@pytest.mark.parametrize("depth", range(150, 1000, 50))
@pytest.mark.parametrize("place", ["data", "shape", "name", "datatype"])
def test_no_depth_of_nesting_does_more_than_be_refused(place: str, depth: int) -> None:
    sent = json.dumps({"inputs": [PIXELS | {place: "HERE"}, COUNT]}).replace('"HERE"', nested(depth)).encode()
    with pytest.raises(InputError):
        parse(sent)


@pytest.mark.parametrize(
    ("dtype", "value"),
    [("int8", 128), ("uint8", -1), ("uint64", -1), ("int64", 2**63), ("float16", 65520)],
)
def test_a_number_that_its_datatype_cannot_hold_is_refused(dtype: str, value: int) -> None:
    with pytest.raises(InputError, match=f"do not fit {DATATYPES[dtype]}"):
        single(dtype, 0, value)


@pytest.mark.parametrize(("dtype", "value"), [("bool", 1), ("int32", True), ("float32", False), ("uint8", 1.0)])
def test_a_value_of_another_kind_is_not_cast(dtype: str, value: Any) -> None:
    with pytest.raises(InputError, match=r"holds .*, expected "):
        single(dtype, value)


# The binary tensor extension


def with_payload(document: Mapping[str, Any], *payloads: bytes) -> tuple[bytes, str]:
    """A body of JSON and raw tensors, and the header that says where the JSON ends."""
    header = json.dumps(document).encode()
    return header + b"".join(payloads), str(len(header))


def raw(tensor: Mapping[str, Any], size: Any) -> dict[str, Any]:
    """The tensor with its data announced as raw bytes."""
    return {name: value for name, value in tensor.items() if name != "data"} | {
        "parameters": {"binary_data_size": size}
    }


def split(reply: Reply) -> tuple[Any, bytes]:
    """A reply's JSON, and the bytes behind it."""
    assert reply.content_type == "application/octet-stream"
    length = int(reply.headers[HEADER_LENGTH])
    return json.loads(reply.body[:length]), reply.body[length:]


PIXEL_BYTES = np.arange(12, dtype="<f4").tobytes()
COUNT_BYTES = np.array([7, -8], "<i4").tobytes()


@pytest.mark.parametrize("which", ["both", "the first", "the second"])
def test_raw_and_json_inputs_mix_in_any_order(which: str) -> None:
    inputs: list[Any] = [PIXELS, COUNT]
    payloads = []
    if which != "the second":
        inputs[0] = raw(PIXELS, len(PIXEL_BYTES))
        payloads.append(PIXEL_BYTES)
    if which != "the first":
        inputs[1] = raw(COUNT, len(COUNT_BYTES))
        payloads.append(COUNT_BYTES)
    for order in (1, -1):
        request = parse_infer(*with_payload({"inputs": inputs[::order]}, *payloads[::order]), MODEL)
        for name, expected in parse(body()).inputs.items():
            assert request.inputs[name].dtype == expected.dtype
            np.testing.assert_array_equal(request.inputs[name], expected)


def test_the_same_header_again_is_read_with_its_own_bytes_and_its_own_model() -> None:
    document = {"inputs": [raw(PIXELS, 48), raw(COUNT, 8)], "parameters": {"binary_data_output": True, "timeout": 9}}
    other_outputs = replace(MODEL, outputs=MODEL.outputs[:1])
    for number in range(3):
        pixels, count = np.full((2, 2, 3, 1), number, "<f4"), np.full(2, -number, "<i4")
        sent, length = with_payload(document, pixels.tobytes(), count.tobytes())
        for model in (MODEL, other_outputs):
            request = parse_infer(sent, length, model)
            np.testing.assert_array_equal(request.inputs["pixels"], pixels)
            np.testing.assert_array_equal(request.inputs["count"], count)
            assert request.outputs == tuple((spec.name, True) for spec in model.outputs)
            assert (request.id, request.timeout) == (None, 9e-6)
        with pytest.raises(InputError, match="4 bytes more"):
            parse_infer(sent + b"0123", length, MODEL)
        with pytest.raises(InputError, match="no input 'pixels'"):
            parse_infer(sent, length, model_of("float32"))


@pytest.mark.parametrize("dtype", ["bool", "bytes"])
def test_the_same_header_again_with_bad_bytes_is_refused(dtype: str) -> None:
    good, bad = {"bool": (b"\1", b"\2"), "bytes": (b"\1\0\0\0a", b"\2\0\0\0a")}[dtype]
    document = {"inputs": [raw({"name": "x", "datatype": DATATYPES[dtype], "shape": [1]}, len(good))]}
    parse_infer(*with_payload(document, good), model_of(dtype))
    with pytest.raises(InputError):
        parse_infer(*with_payload(document, bad), model_of(dtype))


def test_a_header_length_that_covers_the_body_is_json_alone() -> None:
    request = parse_infer(body(), str(len(body())), MODEL)
    np.testing.assert_array_equal(request.inputs["pixels"], parse(body()).inputs["pixels"])


BAD_BINARY: dict[str, tuple[tuple[bytes, str], *tuple[str, ...]]] = {
    "no number": ((body(), "many"), "'many'", f"0 to {len(body())}"),
    "negative": ((body(), "-1"), "'-1'", "expected a number"),
    "a fraction": ((body(), "1.0"), "'1.0'", "expected a number"),
    "another script's digits": ((body(), "٣"), "expected a number"),
    "empty": ((body(), ""), "expected a number"),
    "5,000 digits": ((body(), "9" * 5000), "expected a number"),
    "past the end": ((body(), str(len(body()) + 1)), f"'{len(body()) + 1}'", f"0 to {len(body())}"),
    "inside the JSON": ((body(), "20"), "is not JSON"),
    "behind the JSON": (with_payload({"inputs": [raw(PIXELS, 48), COUNT]}, PIXEL_BYTES[:-1]), "48", "47 bytes follow"),
    "too few bytes": (with_payload({"inputs": [raw(PIXELS, 44), COUNT]}, PIXEL_BYTES[:44]), "44 bytes", "expected 48"),
    "too many bytes": (with_payload({"inputs": [raw(PIXELS, 52), COUNT]}, b"0" * 52), "52 bytes", "expected 48"),
    "bytes left over": (with_payload({"inputs": [raw(PIXELS, 48), COUNT]}, PIXEL_BYTES, b"!"), "1 bytes more"),
    "bytes without an input": (with_payload({"inputs": [PIXELS, COUNT]}, b"0123"), "4 bytes more"),
    "size is text": (with_payload({"inputs": [raw(PIXELS, "48"), COUNT]}, PIXEL_BYTES), "'48'", "48 bytes follow"),
    "size is true": (with_payload({"inputs": [raw(PIXELS, True), COUNT]}, PIXEL_BYTES), "True"),
    "size is negative": (with_payload({"inputs": [raw(PIXELS, -1), COUNT]}, PIXEL_BYTES), "-1"),
    "size is huge": (with_payload({"inputs": [raw(PIXELS, 2**62), COUNT]}, PIXEL_BYTES), str(2**62)),
    "data as well": (
        with_payload({"inputs": [raw(PIXELS, 48) | {"data": [0] * 12}, COUNT]}, PIXEL_BYTES),
        "both data and binary_data_size",
    ),
    "parameters are a list": (with_payload({"inputs": [PIXELS | {"parameters": []}, COUNT]}), "JSON object"),
    "shared memory": (
        with_payload({"inputs": [PIXELS | {"parameters": {"shared_memory_region": "a"}}, COUNT]}),
        "'shared_memory_region' belongs to an extension",
    ),
    "classification": (
        with_payload(VALID | {"outputs": [{"name": "index", "parameters": {"classification": 3}}]}),
        "'classification' belongs to an extension",
    ),
    "binary_data is a number": (
        with_payload(VALID | {"outputs": [{"name": "index", "parameters": {"binary_data": 1}}]}),
        "'binary_data' is 1",
    ),
    "binary_data_output is text": (
        with_payload(VALID | {"parameters": {"binary_data_output": "yes"}}),
        "'binary_data_output' is 'yes'",
    ),
    "raw body, two inputs": ((PIXEL_BYTES, "0"), "cannot be sent as bytes alone", "one input"),
}


@pytest.mark.parametrize("case", BAD_BINARY)
def test_a_bad_binary_request_is_refused_with_what_was_sent_and_what_was_expected(case: str) -> None:
    sent, *words = BAD_BINARY[case]
    with pytest.raises(InputError) as caught:
        parse_infer(*sent, MODEL)
    message = str(caught.value)
    assert [word for word in words if word not in message] == [], message
    assert len(message) < 400


def test_a_size_without_a_header_length_names_the_missing_header() -> None:
    with pytest.raises(InputError, match=f"0 bytes follow the JSON, which ends where {HEADER_LENGTH} says"):
        parse(json.dumps({"inputs": [raw(PIXELS, 48), COUNT]}).encode())


@pytest.mark.parametrize("rows", [1, 3])
def test_a_raw_body_is_as_many_rows_as_it_holds(rows: int) -> None:
    pixels = np.arange(rows * 6, dtype="<f4").reshape(rows, 2, 3)
    request = parse_infer(pixels.tobytes(), "0", model_of("float32", 2, 3))
    np.testing.assert_array_equal(request.inputs["x"], pixels)
    assert request.outputs == (("y", True),)


@pytest.mark.parametrize("size", [0, 1, 23, 25])
def test_a_raw_body_that_is_not_whole_rows_is_refused(size: int) -> None:
    with pytest.raises(InputError, match=f"{size} bytes, expected a multiple of 24: one row of 'x'"):
        parse_infer(b"0" * size, "0", model_of("float32", 2, 3))


def test_a_raw_body_with_too_many_rows_is_refused() -> None:
    with pytest.raises(InputError, match=f"batch of {MAX_BATCH + 1}"):
        parse_infer(b"0" * (MAX_BATCH + 1), "0", model_of("int8"))


@pytest.mark.parametrize("model", [model_of("float32", None), model_of("bytes")])
def test_a_raw_body_needs_a_fixed_size_of_row(model: Manifest) -> None:
    with pytest.raises(InputError, match="cannot be sent as bytes alone"):
        parse_infer(b"0" * 8, "0", model)


TABLE = np.arange(8, dtype=np.float32).reshape(2, 4)
OUTPUTS = {"probabilities": TABLE, "index": np.array([3, 2**60])}


def test_all_outputs_are_raw_when_the_request_sets_it() -> None:
    request = parse(body(outputs=None, parameters={"binary_data_output": True}))
    answer, payload = split(infer_reply("m", request, OUTPUTS))
    assert [tensor["parameters"]["binary_data_size"] for tensor in answer["outputs"]] == [32, 16]
    assert not any("data" in tensor for tensor in answer["outputs"])
    assert payload == TABLE.tobytes() + OUTPUTS["index"].tobytes()
    assert answer["id"] == "a"


@pytest.mark.parametrize("wanted", [True, False])
def test_an_answer_states_its_times_only_where_the_request_wants_them(wanted: bool) -> None:
    request = parse(body(outputs=None, parameters={"times": wanted}))
    answer = json.loads(infer_reply("m", request, OUTPUTS, 0.25, 0.0015).body)
    assert answer.get("parameters") == ({"queue_ms": 250, "compute_ms": 1.5} if wanted else None)


@pytest.mark.parametrize(("general", "own"), [(False, True), (True, False), (None, True)])
def test_an_outputs_own_word_counts_more_than_the_requests(general: bool | None, own: bool) -> None:
    requested = [{"name": "index", "parameters": {"binary_data": own}}, {"name": "probabilities"}]
    parameters = {} if general is None else {"binary_data_output": general}
    answer, payload = split(infer_reply("m", parse(body(outputs=requested, parameters=parameters)), OUTPUTS))
    index, probabilities = answer["outputs"]
    assert ("data" in index, "data" in probabilities) == (not own, not general)
    expected = OUTPUTS["index"] if own else TABLE
    assert payload == expected.tobytes()
    assert (probabilities if own else index)["data"] == (TABLE.ravel() if own else OUTPUTS["index"]).tolist()


def test_a_column_major_output_is_sent_row_by_row() -> None:
    request = parse(body(outputs=[{"name": "probabilities", "parameters": {"binary_data": True}}]))
    assert split(infer_reply("m", request, {"probabilities": TABLE.copy(order="F")}))[1] == TABLE.tobytes()


# Every datatype, through a real model

VALUES: dict[str, list[Any]] = {
    "bool": [True, False],
    "int8": [-128, 127],
    "int16": [-(2**15), 2**15 - 1],
    "int32": [-(2**31), 2**31 - 1],
    "int64": [-(2**63), 2**63 - 1],
    "uint8": [0, 255],
    "uint16": [0, 2**16 - 1],
    "uint32": [0, 2**32 - 1],
    "uint64": [2**63, 2**64 - 1],
    "float16": [-65504, 0.5],
    "float32": [0.1, -3.4028235e38],
    "float64": [1e308, -5e-324],
    "bytes": ["", "짧은 이름 \x00 😀"],
}

NON_FINITE = [math.nan, math.inf, -math.inf, -0.0]


def identity(dtype: str, folder: Path) -> Any:
    """A real ONNX model that gives back what it takes, and its runtime."""
    from onnx import TensorProto, helper, save

    from serve.runtimes import load_runtime

    kind = {"bytes": "STRING", "float32": "FLOAT", "float64": "DOUBLE"}.get(dtype, dtype.upper())
    inputs, outputs = (helper.make_tensor_value_info(name, getattr(TensorProto, kind), ["n"]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "identity", [inputs], [outputs])
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), folder / "model.onnx")
    return load_runtime(folder, model_of(dtype))


def serialized(dtype: str, values: list[Any]) -> bytes:
    """Values as the binary tensor extension sends them, written without the code under test."""
    if dtype == "bytes":
        return b"".join(len(item.encode()).to_bytes(4, "little") + item.encode() for item in values)
    return np.array(values, numpy_dtype(dtype)).astype(numpy_dtype(dtype).newbyteorder("<")).tobytes()


@pytest.mark.parametrize("dtype", VALUES)
def test_every_datatype_passes_through_a_model_unchanged_as_json_and_as_bytes(dtype: str, tmp_path: Path) -> None:
    values, model = VALUES[dtype], model_of(dtype)
    runtime = identity(dtype, tmp_path)
    payload = serialized(dtype, values)
    tensor = {"name": "x", "datatype": DATATYPES[dtype], "shape": [2]}
    plain = {"inputs": [tensor | {"data": values}]}
    binary = {"inputs": [raw(tensor, len(payload))], "parameters": {"binary_data_output": True}}
    (answer,) = answered("m", *run(runtime, parse(json.dumps(plain).encode(), model)))["outputs"]
    assert answer == {"name": "y", "datatype": DATATYPES[dtype], "shape": [2], "data": values}
    document, back = split(infer_reply("m", *run(runtime, parse_infer(*with_payload(binary, payload), model))))
    assert back == payload
    assert document["outputs"][0]["datatype"] == DATATYPES[dtype]
    assert document["outputs"][0]["parameters"] == {"binary_data_size": len(payload)}


def run(runtime: Any, request: InferRequest) -> tuple[InferRequest, Any]:
    return request, runtime.predict(request.inputs)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_nan_and_infinity_survive_as_bytes_and_are_null_as_json(dtype: str, tmp_path: Path) -> None:
    payload = serialized(dtype, NON_FINITE)
    document = {"inputs": [raw({"name": "x", "datatype": DATATYPES[dtype], "shape": [4]}, len(payload))]}
    request = parse_infer(*with_payload(document, payload), model_of(dtype))
    outputs = identity(dtype, tmp_path).predict(request.inputs)
    assert answered("m", request, outputs)["outputs"][0]["data"] == [None, None, None, 0]
    assert split(infer_reply("m", replace(request, outputs=(("y", True),)), outputs))[1] == payload


def test_bfloat16_passes_through_the_protocol() -> None:
    values = [1.0, -2.5, 3.0e38]
    payload = np.array(values, numpy_dtype("bfloat16")).tobytes()
    assert len(payload) == 6
    model = model_of("bfloat16")
    tensor = {"name": "x", "datatype": "BF16", "shape": [3]}
    for request in (
        parse_infer(*with_payload({"inputs": [raw(tensor, 6)]}, payload), model),
        parse(json.dumps({"inputs": [tensor | {"data": values}]}).encode(), model),
        parse_infer(payload, "0", model),
    ):
        outputs = {"y": request.inputs["x"]}
        back, left = split(infer_reply("m", replace(request, outputs=(("y", True),)), outputs))
        assert (back["outputs"][0]["datatype"], left) == ("BF16", payload)
        json_answer = answered("m", replace(request, outputs=(("y", False),)), outputs)
        assert json_answer["outputs"][0]["data"] == pytest.approx(values, rel=0.01)


def test_byte_strings_that_are_no_text_survive_as_bytes() -> None:
    payload = (4).to_bytes(4, "little") + b"\xff\xfe\x00\x80"
    tensor = raw({"name": "x", "datatype": "BYTES", "shape": [1]}, len(payload))
    request = parse_infer(*with_payload({"inputs": [tensor]}, payload), model_of("bytes"))
    assert request.inputs["x"].tolist() == [b"\xff\xfe\x00\x80"]
    reply = infer_reply("m", replace(request, outputs=(("y", True),)), {"y": request.inputs["x"]})
    assert split(reply)[1] == payload


@pytest.mark.parametrize(
    ("payload", "words"),
    [
        (b"\x01\x00\x00", "ends after 0 byte strings, expected 1"),
        (b"\x05\x00\x00\x00abc", "announces 5 bytes, got 7"),
        (b"\xff\xff\xff\xff", "announces 4294967295 bytes"),
        (b"\x00\x00\x00\x00" * 3, "8 bytes behind its 1 byte strings"),
        (b"", "ends after 0 byte strings, expected 1"),
    ],
)
def test_byte_strings_with_lying_lengths_are_refused(payload: bytes, words: str) -> None:
    tensor = raw({"name": "x", "datatype": "BYTES", "shape": [1]}, len(payload))
    with pytest.raises(InputError, match=words):
        parse_infer(*with_payload({"inputs": [tensor]}, payload), model_of("bytes"))


def test_more_byte_strings_than_a_model_can_use_are_refused_before_one_is_made() -> None:
    tensor = raw({"name": "x", "datatype": "BYTES", "shape": [1, MAX_VALUES + 1]}, 0)
    with pytest.raises(BodyTooLarge, match=f"is {MAX_VALUES + 1} byte strings, expected {MAX_VALUES} at most"):
        parse_infer(*with_payload({"inputs": [tensor]}, b""), model_of("bytes", None))


def test_a_raw_bool_is_0_or_1() -> None:
    with pytest.raises(InputError, match="other than 0 and 1"):
        parse_infer(b"\x00\x02", "0", model_of("bool"))


# Timeouts


@pytest.mark.parametrize(("sent", "seconds"), [({}, None), ({"timeout": 0}, None), ({"timeout": 1500}, 0.0015)])
def test_a_timeout_is_microseconds(sent: dict[str, int], seconds: float | None) -> None:
    assert parse(body(parameters=sent)).timeout == seconds


@pytest.mark.parametrize("value", [-1, 1.5, "1", True, None, []])
def test_a_timeout_that_is_not_a_number_is_refused(value: Any) -> None:
    with pytest.raises(InputError, match=r"'timeout' is .*, expected a whole number of microseconds"):
        parse(body(parameters={"timeout": value}))


# Any bytes at all

TOKENS = [
    *(b"null", b"true", b"-1", b"0", b"1e999", b"NaN", b"-Infinity", b'"FP32"', b'"\\ud800"', b'"1"', b"[]", b"{}"),
    *(b"[", b"]", b"{", b"}", b",", b":", b'"', b"\x00", b"\xff", b"9" * 30, b"9" * 5000, b"[" * 300, b"0.5"),
]


def mutate(rng: random.Random, sent: bytes) -> bytes:
    """One to four cuts, insertions, repetitions or replaced values, anywhere."""
    for _ in range(rng.randint(1, 4)):
        start = rng.randrange(len(sent) + 1)
        stop = min(len(sent), start + rng.choice([0, 1, 1, 2, 5, 20, 100]))
        middle = rng.choice([b"", rng.choice(TOKENS), sent[start:stop] * 2, rng.randbytes(2)])
        sent = sent[:start] + middle + sent[stop:]
    return sent


def replace_value(rng: random.Random, value: Any) -> Any:
    """The document with one of its values, at any depth, replaced by another kind of value."""
    if isinstance(value, dict | list) and value and rng.random() < 0.8:
        key = rng.choice(list(value) if isinstance(value, dict) else range(len(value)))
        copy: Any = value.copy()
        copy[key] = replace_value(rng, value[key])
        return copy
    return rng.choice([None, True, -1, 0, 2, 10**30, 1e300, 0.5, "", "x", [], {}, [[]], [None], {"name": "x"}])


def test_2000_damaged_requests_raise_nothing_but_input_errors() -> None:
    rng = random.Random(7)
    refused = 0
    for number in range(2000):
        sent = mutate(rng, body()) if number % 2 else json.dumps(replace_value(rng, VALID)).encode()
        try:
            request = parse(sent)
        except InputError as error:
            refused += 1
            orjson.dumps(str(error))
        else:  # harmless damage: what came through is what the model takes
            assert {name: value.dtype.name for name, value in request.inputs.items()} == {
                "pixels": "float32",
                "count": "int32",
            }
            assert request.inputs["pixels"].shape[1:] == (2, 3, 1)
            assert all(np.isfinite(value).all() for value in request.inputs.values())
    assert 1000 < refused < 2000


# The fast way and the general way


def outcome(parse_it: Any, *arguments: Any) -> Any:
    """What became of a body: what was read, the error, or None where it was left to another way."""
    try:
        request = parse_it(*arguments)
    except InputError as error:
        return str(error)
    if request is None:
        return None
    inputs = {name: (value.dtype.name, value.shape, value.tobytes()) for name, value in request.inputs.items()}
    return inputs, request.outputs, request.id, request.timeout


SHORTCUT = model_of("float32", 2, 3)


def usual_without_id(**fields: Any) -> dict[str, Any]:
    tensor = {"name": "x", "datatype": "FP32", "shape": [2, 2, 3], "data": [0, 1, -2.5, 255, 1e-30, 7, *range(6)]}
    return {"inputs": [tensor | fields]}


def usual_with_id(**fields: Any) -> dict[str, Any]:
    return {"id": "b"} | usual_without_id() | fields


@pytest.mark.parametrize(
    "sent",
    [
        usual_with_id(),
        usual_with_id(id=None),
        usual_with_id(model_name="m", **usual_without_id(data=[2**53 + 1, 2**64 - 1, -(2**63), *range(9)])),
    ],
    ids=range(3),
)
def test_the_usual_request_is_read_the_fast_way_with_the_same_result(sent: Any) -> None:
    data = json.dumps(sent).encode()
    assert reader_of(SHORTCUT)._read_usual(data) is not None
    assert outcome(parse, data, SHORTCUT) == outcome(parse_request, data, memoryview(b""), SHORTCUT)


def test_the_fast_ways_and_the_general_way_agree_on_4500_bodies() -> None:
    rng = random.Random(11)
    fast = numbers = 0
    for number in range(4500):
        # Without an id, all but the numbers is the same in request after request.
        usual = usual_without_id if rng.random() < 0.5 else usual_with_id
        match number % 3:
            case 0:
                data = mutate(rng, json.dumps(usual()).encode())
            case 1:
                data = json.dumps(replace_value(rng, usual())).encode()
            case _:
                rows = rng.randint(1, 3)
                values = [rng.choice([rng.uniform(-1e3, 1e3), rng.randint(-(2**63), 2**64 - 1), 0, -0.0, 1e38])]
                values += [rng.expovariate(1e-3) for _ in range(rows * 6 - 1)]
                sent = usual() | usual_without_id(shape=[rows, 2, 3], data=values)
                data = json.dumps(sent, indent=rng.choice([None, 1])).encode()
        assert outcome(parse, data, SHORTCUT) == outcome(parse_request, data, memoryview(b""), SHORTCUT), data
        fast += outcome(reader_of(SHORTCUT)._read_usual, data) is not None
        numbers += outcome(reader_of(SHORTCUT)._read_numbers, data) is not None
    assert fast > 1500 and numbers > 500


@pytest.mark.parametrize(
    "numbers",
    ["1, 2, 3, 4, 5", "1, 2, 3, 4, 5, 6, 7", "", "1, 2, 3, 4, 5, null", '1, 2, 3, 4, 5, "6"', "1, 2, 3, 4, 5, true",
     "1, 2, 3, 4, 5, 1e39", "1, 2, 3, 4, 5, 1e999", "1, 2, 3, 4, 5, NaN", "1, 2, 3, 4, 5, {}", "1, 2, 3, 4, 5, [6]",
     "[1, 2, 3], [4, 5, 6]", "1, 2, 3, 4, 5, 6,", "1, 2, 3, 4, 5 6", "1, 2, 3, 4, 5, 06", '1, 2, 3, 4, 5, "]"',
     "1, 2, 3, 4, 5, 6], [7", '1], "data": [1, 2, 3, 4, 5, 6', "1, 2, 3, 4, 5, 18446744073709551616"],
)  # fmt: skip
def test_unusual_numbers_in_json_that_is_known_mean_what_they_mean_in_any_other(numbers: str) -> None:
    around = '{"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 2, 3], "data": [%s]}]}'
    good = (around % "1, 2, 3, 4, 5, 6").encode()
    parse(good, SHORTCUT)
    assert reader_of(SHORTCUT)._read_numbers(good) is not None
    data = (around % numbers).encode()
    assert outcome(parse, data, SHORTCUT) == outcome(parse_request, data, memoryview(b""), SHORTCUT)


def test_json_whose_shape_is_behind_its_numbers_is_read_again_and_again() -> None:
    tensor = {"data": [7] * 6, "name": "x", "datatype": "FP32", "shape": [1, 2, 3]}
    for _ in range(3):
        request = parse(json.dumps({"inputs": [tensor]}).encode(), SHORTCUT)
        assert request.inputs["x"].tolist() == [[[7] * 3] * 2]


def test_json_that_is_known_is_read_with_its_own_numbers_and_its_own_model() -> None:
    other_outputs = replace(SHORTCUT, outputs=(*SHORTCUT.outputs, *MODEL.outputs))
    for number in range(3):
        data = json.dumps(usual_without_id(data=[number] * 12)).encode()
        for model in (SHORTCUT, other_outputs):
            request = parse(data, model)
            assert (request.inputs["x"] == number).all() and request.inputs["x"].shape == (2, 2, 3)
            assert request.outputs == tuple((spec.name, False) for spec in model.outputs)
        with pytest.raises(InputError, match="no input 'x'"):
            parse(data, MODEL)


DUPLICATES = [
    b'{"inputs": [{"name": "x", "name": "z", "datatype": "FP32", "shape": [1, 2, 3], "data": [1, 2, 3, 4, 5, 6]}]}',
    b'{"inputs": [{"name": "x", "datatype": "FP64", "datatype": "FP32", "shape": [1,2,3], "data": [1,2,3,4,5,6]}]}',
    b'{"id": "a", "id": "b", "inputs": [{"name": "x", "datatype": "FP32", "shape": [1,2,3], "data": [1,2,3,4,5,6]}]}',
]


@pytest.mark.parametrize("data", DUPLICATES, ids=range(3))
def test_a_key_that_is_there_twice_means_the_same_to_both(data: bytes) -> None:
    assert outcome(parse, data, SHORTCUT) == outcome(parse_request, data, memoryview(b""), SHORTCUT)


# Ids, which are rows of a table


def bounded(dtype: str) -> RequestReader:
    inputs = (TensorSpec("ids", dtype, (None, 2), "NT", bounds=(0, 49)),)
    return RequestReader(Manifest("net", "onnx", None, inputs, (TensorSpec("y", "float32", (None,), "N"),), None, ()))


@pytest.mark.parametrize(("dtype", "datatype"), [("int64", "INT64"), ("uint8", "UINT8"), ("float32", "FP32")])
@pytest.mark.parametrize("raw", [False, True])
def test_an_id_beyond_the_table_is_refused_however_often_its_layout_came_before(
    dtype: str, datatype: str, raw: bool
) -> None:
    reader = bounded(dtype)

    def read(ids: list[int]) -> Any:
        tensor: dict[str, Any] = {"name": "ids", "datatype": datatype, "shape": [1, 2]}
        if not raw:
            return reader.read(json.dumps({"inputs": [tensor | {"data": ids}]}).encode(), None)
        payload = np.array(ids, dtype).tobytes()
        header = json.dumps({"inputs": [tensor | {"parameters": {"binary_data_size": len(payload)}}]}).encode()
        return reader.read(header + payload, str(len(header)))

    for _ in range(3):
        assert read([0, 49]).inputs["ids"].tolist() == [[0, 49]]
        with pytest.raises(InputError, match=r"'ids' holds 50(\.0)?, expected ids from 0 to 49"):
            read([50, 0])


def test_what_is_no_number_is_no_id() -> None:
    with pytest.raises(InputError, match="holds nan, expected ids"):
        bounded("float32").read(np.array([1, np.nan], np.float32).tobytes(), "0")
