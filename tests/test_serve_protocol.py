"""What a caller sends fits the model, or is refused with a message that says what was got and what was expected."""

import json
import math
import random
from dataclasses import replace
from typing import Any

import numpy as np
import orjson
import pytest

from contract.errors import InputError
from contract.manifest import Manifest, TensorSpec
from serve.protocol import DATATYPES, MAX_BATCH, infer_response, parse_infer, tensor_metadata

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


def single(dtype: str, *values: Any) -> Any:
    """Parse a request for a model with one input of this dtype, shape [-1]."""
    spec = TensorSpec("x", dtype, (None,), "N")
    tensor = {"name": "x", "datatype": DATATYPES[dtype], "shape": [len(values)], "data": values}
    return parse_infer(json.dumps({"inputs": [tensor]}).encode(), replace(MODEL, inputs=(spec,))).inputs["x"]


def nested(depth: int, core: str = "0") -> str:
    return "[" * depth + core + "]" * depth


# Good requests


def test_flat_numbers_take_the_shape_that_is_named() -> None:
    request = parse_infer(body(), MODEL)
    assert request.inputs["pixels"].dtype == np.float32
    np.testing.assert_array_equal(request.inputs["pixels"], np.arange(12).reshape(2, 2, 3, 1))
    assert request.inputs["count"].dtype == np.int32
    np.testing.assert_array_equal(request.inputs["count"], [7, -8])


def test_nested_numbers_are_the_same_as_flat_ones() -> None:
    data = np.arange(12).reshape(2, 2, 3, 1).tolist()
    np.testing.assert_array_equal(
        parse_infer(pixels(data=data), MODEL).inputs["pixels"], parse_infer(body(), MODEL).inputs["pixels"]
    )


def test_whole_numbers_and_fractions_mix_in_a_float_input() -> None:
    parsed = parse_infer(pixels(data=[1, 0.5, -2, 1e-30, 255, *range(7)]), MODEL).inputs["pixels"]
    np.testing.assert_array_equal(parsed.ravel()[:5], np.array([1, 0.5, -2, 1e-30, 255], np.float32))


def test_the_order_of_the_inputs_does_not_matter() -> None:
    assert parse_infer(body(inputs=[COUNT, PIXELS]), MODEL).inputs.keys() == {"pixels", "count"}


def test_fields_that_are_not_known_are_ignored() -> None:
    request = parse_infer(pixels(parameters={"binary_data": False}), MODEL)
    assert request.inputs["pixels"].shape == (2, 2, 3, 1)


@pytest.mark.parametrize("batch", [1, MAX_BATCH])
def test_the_smallest_and_the_largest_batch_are_taken(batch: int) -> None:
    inputs = [
        PIXELS | {"shape": [batch, 2, 3, 1], "data": [0] * 6 * batch},
        COUNT | {"shape": [batch], "data": [0] * batch},
    ]
    assert len(parse_infer(body(inputs=inputs), MODEL).inputs["pixels"]) == batch


@pytest.mark.parametrize("identity", ["", "a", "짧은 이름", "x" * 1000])
def test_the_id_comes_back(identity: str) -> None:
    request = parse_infer(body(id=identity), MODEL)
    assert infer_response("m", request, {"index": np.array([1])})["id"] == identity


def test_without_an_id_none_comes_back() -> None:
    request = parse_infer(body(id=None), MODEL)
    assert request.id is None
    assert "id" not in infer_response("m", request, {"index": np.array([1])})


@pytest.mark.parametrize("outputs", [None, []])
def test_all_outputs_are_answered_when_none_is_chosen(outputs: Any) -> None:
    assert parse_infer(body(outputs=outputs), MODEL).outputs == ("probabilities", "index")


def test_chosen_outputs_are_answered_in_the_order_asked_for_and_once() -> None:
    asked = [{"name": "index"}, {"name": "probabilities"}, {"name": "index"}]
    assert parse_infer(body(outputs=asked), MODEL).outputs == ("index", "probabilities")


def test_the_answer_is_flat_in_row_major_order_with_its_shape() -> None:
    request = parse_infer(body(outputs=None), MODEL)
    table = np.arange(8, dtype=np.float32).reshape(2, 4).copy(order="F")
    answer = infer_response("two_inputs-onnx", request, {"index": np.array([1, 0]), "probabilities": table})
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
    "empty": (b"", "is not JSON", "0 bytes"),
    "not JSON": (b"pixels=1", "is not JSON", "8 bytes"),
    "cut off": (body()[:-9], "is not JSON", f"{len(body()) - 9} bytes"),
    "not UTF-8": (b'{"id": "\xff\xfe"}', "is not JSON", "12 bytes"),
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
    "unknown input": (body(inputs=[PIXELS | {"name": "image"}]), 'no input "image"', "'pixels', 'count'"),
    "input without a name": (pixels(name=...), "no input missing", "'pixels', 'count'"),
    "input's name is a list": (pixels(name=["pixels"]), 'no input ["pixels"]', "'pixels', 'count'"),
    "wrong datatype": (pixels(datatype="FP64"), "'pixels'", '"FP64"', "expected 'FP32'"),
    "no datatype": (pixels(datatype=...), "'pixels'", "datatype missing", "expected 'FP32'"),
    "datatype is an object": (pixels(datatype={}), "'pixels'", "datatype {}", "expected 'FP32'"),
    "no shape": (pixels(shape=...), "shape missing", "[-1, 2, 3, 1]"),
    "wrong rank": (pixels(shape=[12]), "shape [12]", "[-1, 2, 3, 1]"),
    "empty shape": (pixels(shape=[]), "shape []", "[-1, 2, 3, 1]"),
    "wrong size": (pixels(shape=[2, 3, 2, 1]), "shape [2, 3, 2, 1]", "[-1, 2, 3, 1]"),
    "negative size": (pixels(shape=[-2, 2, 3, 1]), "shape [-2, 2, 3, 1]", "[-1, 2, 3, 1]"),
    "sizes whose product fits": (pixels(shape=[-2, -2, 3, 1]), "shape [-2, -2, 3, 1]", "[-1, 2, 3, 1]"),
    "huge batch": (pixels(shape=[10**30, 2, 3, 1]), str(10**30), f"1 to {MAX_BATCH}"),
    "huge size": (pixels(shape=[2, 10**30, 3, 1]), str(10**30), "[-1, 2, 3, 1]"),
    "a fraction as a size": (pixels(shape=[2.0, 2, 3, 1]), "2.0", "[-1, 2, 3, 1]"),
    "true as a size": (pixels(shape=[2, 2, 3, True]), "true", "[-1, 2, 3, 1]"),
    "text as a size": (pixels(shape=["2", 2, 3, 1]), '"2"', "[-1, 2, 3, 1]"),
    "shape is a number": (pixels(shape=12), "shape 12", "[-1, 2, 3, 1]"),
    "batch of 0": (pixels(shape=[0, 2, 3, 1], data=[]), "batch of 0", f"1 to {MAX_BATCH}"),
    "batch of 4097": (
        pixels(shape=[MAX_BATCH + 1, 2, 3, 1], data=[0] * 6 * (MAX_BATCH + 1)),
        f"batch of {MAX_BATCH + 1}",
        f"1 to {MAX_BATCH}",
    ),
    "batches that differ": (pixels(shape=[1, 2, 3, 1], data=[0] * 6), "differ in their batch", "'count': 2"),
    "no data": (pixels(data=...), "'data' is missing", "JSON list"),
    "data is a number": (pixels(data=1), "'data' is 1", "JSON list"),
    "empty data": (pixels(data=[]), "0 numbers", "expected 12"),
    "too few numbers": (pixels(data=[0] * 11), "11 numbers", "expected 12"),
    "too many numbers": (pixels(data=[0] * 13), "13 numbers", "expected 12"),
    "another nesting": (pixels(data=[list(range(6)), list(range(6))]), "[2, 6]", "[2, 2, 3, 1]"),
    "nested in another order": (pixels(data=np.zeros((2, 3, 2, 1)).tolist()), "[2, 3, 2, 1]", "[2, 2, 3, 1]"),
    "strings": (pixels(data=["1"] * 12), "strings", "fractions and whole numbers", "FP32"),
    "a string among numbers": (pixels(data=[*range(11), "11"]), "strings", "FP32"),
    "true among numbers": (pixels(data=[*range(11), True]), "true or false", "FP32"),
    "null among numbers": (pixels(data=[*range(11), None]), "null", "FP32"),
    "an object among numbers": (pixels(data=[*range(11), {}]), "objects", "FP32"),
    "NaN": (pixels(data=[*range(11), math.nan]), "holds NaN", "finite"),
    "Infinity": (pixels(data=[*range(11), math.inf]), "holds Infinity", "finite"),
    "-Infinity": (pixels(data=[*range(11), -math.inf]), "holds -Infinity", "finite"),
    "NaN where nobody looks": (body(parameters={"x": math.nan}), "holds NaN", "finite"),
    "1e999": (body().replace(b"11]", b"1e999]"), "'pixels'", "too large for FP32"),
    "more than a float32 holds": (pixels(data=[*range(11), 1e39]), "'pixels'", "too large for FP32"),
    "more than a double holds": (pixels(data=[*range(11), 10**400]), "'pixels'", "too large for FP32"),
    "more than an int32 holds": (body(inputs=[PIXELS, COUNT | {"data": [0, 2**31]}]), "'count'", "too large for INT32"),
    "more than an int64 holds": (body(inputs=[PIXELS, COUNT | {"data": [0, 2**70]}]), "'count'", "too large for INT32"),
    "a fraction in an int32": (body(inputs=[PIXELS, COUNT | {"data": [0, 1.0]}]), "fractions", "whole numbers"),
    "uneven rows": (pixels(data=[[0] * 5, [0] * 7]), "unevenly", "12 numbers"),
    "numbers beside rows": (pixels(data=[0, [0] * 11]), "unevenly", "12 numbers"),
    "rows of nothing": (pixels(data=[[]] * 12), "0 numbers", "expected 12"),
    "nested 60 deep": (pixels(data=json.loads(nested(60))), "1 numbers", "expected 12"),
    "nested 500 deep": (pixels(data=json.loads(nested(500))), "'pixels'", "unevenly"),
    "nested 100,000 deep": (f'{{"inputs": {nested(100_000)}}}'.encode(), "too deeply"),
    "objects nested 100,000 deep": (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, "too deeply"),
    "id is a number": (body(id=1), "id is 1", "string"),
    "id is a list": (body(id=["a"]), 'id is ["a"]', "string"),
    "id is half of a surrogate pair": (body(id="\ud800"), "surrogate"),
    "unknown output": (body(outputs=[{"name": "logits"}]), 'no output "logits"', "'probabilities', 'index'"),
    "outputs are strings": (body(outputs=["index"]), 'An output is "index"', "JSON object"),
    "outputs are an object": (body(outputs={"name": "index"}), "'outputs' is {", "JSON list"),
    "output's name is an object": (body(outputs=[{"name": {}}]), "no output {}", "'probabilities', 'index'"),
    "a long name": (pixels(name="x" * 10_000), "xxx...", "'pixels', 'count'"),
    "name is half of a surrogate pair": (pixels(name="\udfff"), "no input", "'pixels', 'count'"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_request_is_refused_with_what_was_got_and_what_was_expected(case: str) -> None:
    sent, *words = BAD[case]
    with pytest.raises(InputError) as caught:
        parse_infer(sent, MODEL)
    message = str(caught.value)
    assert [word for word in words if word not in message] == [], message
    assert len(message) < 400
    orjson.dumps(message)  # it can be sent


@pytest.mark.parametrize("depth", range(150, 1000, 50))
@pytest.mark.parametrize("place", ["data", "shape", "name", "datatype"])
def test_no_depth_of_nesting_does_more_than_be_refused(place: str, depth: int) -> None:
    sent = json.dumps({"inputs": [PIXELS | {place: "HERE"}, COUNT]}).replace('"HERE"', nested(depth)).encode()
    with pytest.raises(InputError):
        parse_infer(sent, MODEL)


@pytest.mark.parametrize(
    ("dtype", "value"),
    [("int8", 128), ("uint8", -1), ("uint64", -1), ("uint64", 2**64), ("int64", 2**63), ("float16", 65520)],
)
def test_a_number_that_its_datatype_cannot_hold_is_refused(dtype: str, value: int) -> None:
    with pytest.raises(InputError, match=f"too large for {DATATYPES[dtype]}"):
        single(dtype, 0, value)


@pytest.mark.parametrize(("dtype", "value"), [("bool", 1), ("int32", True), ("float32", False), ("uint8", 1.0)])
def test_a_value_of_another_kind_is_not_cast(dtype: str, value: Any) -> None:
    with pytest.raises(InputError, match=r"holds .*, expected "):
        single(dtype, value)


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
            request = parse_infer(sent, MODEL)
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
