"""TensorFlow Serving's REST API: rows or columns in, the same out; the nesting is the shape."""

import base64
import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from contract.errors import InputError
from contract.manifest import Manifest, TensorSpec
from serve.protocol.tfserving import metadata, parse_predict, predict_reply, status

ONE = Manifest(
    model="one",
    format="savedmodel",
    parent=None,
    inputs=(TensorSpec("pixels", "float32", (None, 2, 3), "NHW"),),
    outputs=(TensorSpec("probabilities", "float32", (None, 4), "NC"),),
    image=None,
    labels=(),
)
TWO = replace(
    ONE,
    inputs=(*ONE.inputs, TensorSpec("count", "int32", (None,), "N")),
    outputs=(*ONE.outputs, TensorSpec("index", "int64", (None,), "N")),
)
TEXT = replace(
    ONE, inputs=(TensorSpec("text", "bytes", (None,), "N"),), outputs=(TensorSpec("y", "bytes", (None,), "N"),)
)

PIXELS = np.arange(12, dtype=np.float32).reshape(2, 2, 3)
TABLE = np.arange(8, dtype=np.float32).reshape(2, 4) / 8
INDEX = np.array([3, 2**60])


def parse(manifest: Manifest, **fields: Any) -> Any:
    return parse_predict(json.dumps(fields).encode(), manifest)


# Requests


@pytest.mark.parametrize(
    ("form", "value"),
    [
        ("instances", PIXELS.tolist()),
        ("instances", [{"pixels": row} for row in PIXELS.tolist()]),
        ("inputs", PIXELS.tolist()),
        ("inputs", {"pixels": PIXELS.tolist()}),
    ],
)
def test_one_input_may_go_without_its_name(form: str, value: Any) -> None:
    request, got = parse(ONE, **{form: value})
    assert got == form
    assert request.inputs["pixels"].dtype == np.float32
    np.testing.assert_array_equal(request.inputs["pixels"], PIXELS)
    assert request.outputs == (("probabilities", False),)


@pytest.mark.parametrize(
    ("form", "value"),
    [
        ("instances", [{"pixels": row, "count": 7 + n} for n, row in enumerate(PIXELS.tolist())]),
        ("inputs", {"count": [7, 8], "pixels": PIXELS.tolist()}),
    ],
)
def test_several_inputs_have_their_names(form: str, value: Any) -> None:
    request, _ = parse(TWO, **{form: value})
    np.testing.assert_array_equal(request.inputs["pixels"], PIXELS)
    np.testing.assert_array_equal(request.inputs["count"], np.array([7, 8], np.int32))
    assert request.outputs == (("probabilities", False), ("index", False))


@pytest.mark.parametrize("signature", [{}, {"signature_name": "serving_default"}])
def test_the_one_signature_may_be_named(signature: dict[str, str]) -> None:
    assert parse(ONE, instances=PIXELS.tolist(), **signature)[0].rows == 2


NOT_TEXT = b"\xff\x00\xfe"
B64 = {"b64": base64.b64encode(NOT_TEXT).decode()}


@pytest.mark.parametrize(
    ("form", "value"),
    [
        ("instances", ["짧은", B64]),
        ("instances", [{"text": "짧은"}, {"text": B64}]),
        ("inputs", ["짧은", B64]),
        ("inputs", {"text": ["짧은", B64]}),
    ],
)
def test_byte_strings_are_text_or_base64(form: str, value: Any) -> None:
    request, _ = parse(TEXT, **{form: value})
    assert request.inputs["text"].tolist() == ["짧은".encode(), NOT_TEXT]


BAD: dict[str, tuple[Manifest, dict[str, Any], *tuple[str, ...]]] = {
    "neither": (ONE, {}, "neither", "expected one of 'instances', 'inputs'"),
    "both": (ONE, {"instances": [], "inputs": []}, "instances and inputs"),
    "no rows": (ONE, {"instances": []}, "'instances' is []", "at least one row"),
    "rows are an object": (ONE, {"instances": {"pixels": []}}, "expected a list"),
    "rows are missing": (ONE, {"instances": None}, "'instances' is missing"),
    "another signature": (ONE, {"instances": [], "signature_name": "x"}, "'x'", "expected 'serving_default'"),
    "another name": (ONE, {"instances": [{"image": 1}]}, "A row is {'image': 1}", "'pixels'"),
    "named and unnamed rows": (ONE, {"instances": [{"pixels": PIXELS[0].tolist()}, 1]}, "A row is 1", "'pixels'"),
    "two inputs, no names": (TWO, {"instances": PIXELS.tolist()}, "A row is [[", "'pixels', 'count'"),
    "two inputs, one name": (TWO, {"instances": [{"count": 1}]}, "A row is {'count': 1}", "'pixels', 'count'"),
    "two inputs, no columns' names": (TWO, {"inputs": [1]}, "'inputs' is [1]", "'pixels', 'count'"),
    "columns of other names": (TWO, {"inputs": {"x": 1}}, "The inputs are 'x'", "pixels, count"),
    "columns of other sizes": (TWO, {"inputs": {"pixels": PIXELS.tolist(), "count": [1]}}, "differ in their batch"),
    "another shape": (ONE, {"instances": PIXELS.reshape(2, 3, 2).tolist()}, "[2, 3, 2]", "[-1, 2, 3]"),
    "uneven rows": (ONE, {"instances": [[[1, 2, 3], [1, 2]]]}, "'pixels'", "unevenly"),
    "a number": (ONE, {"inputs": 1}, "shape []", "[-1, 2, 3]"),
    "text": (ONE, {"inputs": [[["1"] * 3] * 2]}, "strings", "FP32"),
    "base64 for numbers": (ONE, {"instances": [B64]}, "[-1, 2, 3]"),
    "null": (ONE, {"inputs": [[[None] * 3] * 2]}, "null", "FP32"),
    "a fraction for a whole number": (TWO, {"inputs": {"pixels": PIXELS.tolist(), "count": [1.0, 2]}}, "fractions"),
    "no base64": (TEXT, {"instances": [{"b64": "~"}]}, 'expected {"b64": "..."}'),
    "base64 of nothing": (TEXT, {"instances": [{"b64": None}]}, 'expected {"b64": "..."}'),
    "another object": (TEXT, {"inputs": {"text": [{"b65": ""}]}}, 'expected {"b64": "..."}'),
    "a number for text": (TEXT, {"instances": [1]}, "whole numbers", "strings"),
    "too many rows": (TEXT, {"instances": ["a"] * 4097}, "batch of 4097", "1 to 4096"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_request_is_refused_with_what_was_got_and_what_was_expected(case: str) -> None:
    manifest, sent, *words = BAD[case]
    with pytest.raises(InputError) as caught:
        parse(manifest, **sent)
    message = str(caught.value)
    assert [word for word in words if word not in message] == [], message
    assert len(message) < 400


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b"3", b"\xff", b'{"instances": [NaN]}'])
def test_a_body_that_is_not_a_json_object_is_refused(body: bytes) -> None:
    with pytest.raises(InputError, match=r"not JSON|expected a JSON object"):
        parse_predict(body, ONE)


@pytest.mark.parametrize("manifest", [ONE, TEXT])
@pytest.mark.parametrize("depth", [60, 200, 500, 950, 1000, 5000, 100_000])
def test_no_depth_of_nesting_does_more_than_be_refused(manifest: Manifest, depth: int) -> None:
    for form in ("instances", "inputs"):
        with pytest.raises(InputError):
            parse_predict(f'{{"{form}": {"[" * depth}0{"]" * depth}}}'.encode(), manifest)


# What is answered


def answer(manifest: Manifest, form: str, **outputs: Any) -> Any:
    sent: dict[str, Any] = {"pixels": PIXELS.tolist(), "count": [1, 2], "text": ["a", "b"]}
    sent = {spec.name: sent[spec.name] for spec in manifest.inputs}
    rows = [dict(zip(sent, row, strict=True)) for row in zip(*sent.values(), strict=True)]
    request, got = parse(manifest, **{form: rows if form == "instances" else sent})
    reply = predict_reply(request, got, outputs)
    assert (reply.code, reply.content_type) == (200, "application/json")
    return json.loads(reply.body)


def test_rows_are_answered_as_rows() -> None:
    assert answer(ONE, "instances", probabilities=TABLE) == {"predictions": TABLE.tolist()}
    assert answer(TWO, "instances", probabilities=TABLE, index=INDEX) == {
        "predictions": [
            {"probabilities": TABLE[0].tolist(), "index": 3},
            {"probabilities": TABLE[1].tolist(), "index": 2**60},
        ]
    }


def test_columns_are_answered_as_columns() -> None:
    assert answer(ONE, "inputs", probabilities=TABLE) == {"outputs": TABLE.tolist()}
    assert answer(TWO, "inputs", probabilities=TABLE, index=INDEX) == {
        "outputs": {"probabilities": TABLE.tolist(), "index": INDEX.tolist()}
    }


def test_byte_strings_are_answered_as_base64() -> None:
    texts = np.array([b"a", NOT_TEXT], object)
    assert answer(TEXT, "instances", y=texts) == {"predictions": [{"b64": "YQ=="}, B64]}


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_nan_and_infinity_are_null(dtype: Any) -> None:
    table = np.array([[np.nan, np.inf, -np.inf, 1]] * 2, dtype)
    assert answer(ONE, "instances", probabilities=table) == {"predictions": [[None, None, None, 1]] * 2}


def test_an_output_that_is_column_major_is_answered_row_by_row() -> None:
    assert answer(ONE, "inputs", probabilities=TABLE.copy(order="F")) == {"outputs": TABLE.tolist()}


def test_the_status_is_available_or_states_why_not() -> None:
    (good,) = status(True, "")["model_version_status"]
    assert good == {"version": "1", "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}
    (bad,) = status(False, "gone")["model_version_status"]
    assert (bad["state"], bad["status"]) == ("END", {"error_code": "UNAVAILABLE", "error_message": "gone"})


def test_the_metadata_is_the_signature() -> None:
    answer = metadata(TWO)
    assert answer["model_spec"] == {"name": "one-savedmodel", "signature_name": "", "version": "1"}
    signature = answer["metadata"]["signature_def"]["signature_def"]["serving_default"]
    assert signature["method_name"] == "tensorflow/serving/predict"
    assert signature["inputs"]["pixels"]["dtype"] == "DT_FLOAT"
    sizes = [dim["size"] for dim in signature["inputs"]["pixels"]["tensor_shape"]["dim"]]
    assert sizes == ["-1", "2", "3"]
    assert [signature["inputs"]["count"]["dtype"], signature["outputs"]["index"]["dtype"]] == ["DT_INT32", "DT_INT64"]
    assert metadata(TEXT)["metadata"]["signature_def"]["signature_def"]["serving_default"]["inputs"]["text"][
        "dtype"
    ] == ("DT_STRING")
