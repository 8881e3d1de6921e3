"""TensorFlow Serving's REST API: rows or columns in, the same out; the nesting is the shape."""

import base64
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from contract.errors import InputError, RuntimeFailure
from contract.manifest import Manifest, TensorSpec, sha256_of_files, write_manifest
from serve.protocol import InferRequest
from serve.protocol.tfserving import (
    check_classifies,
    check_regresses,
    classify_reply,
    metadata,
    parse_examples,
    parse_predict,
    predict_reply,
    regress_reply,
    status,
)
from tests.serving import Service, started
from tests.test_docs import write_model

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
    assert parse(ONE, instances=PIXELS.tolist(), **signature)[0].inputs["pixels"].shape[0] == 2


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
    "columns of other names": (TWO, {"inputs": {"x": 1}}, "The inputs are ['x']", "pixels, count"),
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
    "too many rows": (TEXT, {"instances": ["a"] * 4097}, "4097 rows", "1 to 4096"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_request_is_refused_with_what_was_got_and_what_was_expected(case: str) -> None:
    manifest, sent, *words = BAD[case]
    with pytest.raises(InputError) as caught:
        parse(manifest, **sent)
    message = str(caught.value)
    assert [word for word in words if word not in message] == [], message
    assert len(message) < 400


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b"3", b"\xff", b'{"instances": [Nan]}'])
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


@pytest.mark.parametrize("form", ["instances", "inputs"])
@pytest.mark.parametrize(("dtype", "shape"), [("float32", (2**40, 0)), ("uint8", (2**20, *[1] * 30))])
def test_an_answer_of_endless_empty_rows_is_not_written(form: str, dtype: str, shape: tuple[int, ...]) -> None:
    request = InferRequest({}, (("y", False),))
    with pytest.raises(RuntimeFailure, match=rf"'y' in the shape \[{shape[0]}, .*which is too long to write"):
        predict_reply(request, form, {"y": np.zeros(shape, dtype)})


def test_columns_are_answered_as_columns() -> None:
    assert answer(ONE, "inputs", probabilities=TABLE) == {"outputs": TABLE.tolist()}
    assert answer(TWO, "inputs", probabilities=TABLE, index=INDEX) == {
        "outputs": {"probabilities": TABLE.tolist(), "index": INDEX.tolist()}
    }


def test_byte_strings_are_text_and_base64_where_the_name_ends_so_or_it_is_no_text() -> None:
    texts = np.array([b"a", NOT_TEXT], object)
    assert answer(TEXT, "instances", y=texts) == {"predictions": ["a", B64]}
    outputs = (TensorSpec("y_bytes", "bytes", (None,), "N"),)
    assert answer(replace(TEXT, outputs=outputs), "instances", y_bytes=texts) == {"predictions": [{"b64": "YQ=="}, B64]}


@pytest.mark.parametrize("name", ["", None, "serving_default"])
def test_an_empty_signature_is_the_default_one(name: str | None) -> None:
    assert parse(ONE, instances=PIXELS.tolist(), signature_name=name)[1] == "instances"


# Classify and regress

SCORES = replace(ONE, outputs=(TensorSpec("scores", "float32", (None, 2), "NC"),), labels=("no", "yes"))
NUMBER = replace(ONE, outputs=(TensorSpec("price", "float32", (None, 1), "NC"),), labels=())


def examples(manifest: Manifest, examples: Any, **fields: Any) -> InferRequest:
    return parse_examples(json.dumps({"examples": examples, **fields}).encode(), manifest)


def test_examples_are_rows_whose_features_are_flat_lists() -> None:
    request = examples(ONE, [{"pixels": row.ravel().tolist()} for row in PIXELS])
    np.testing.assert_array_equal(request.inputs["pixels"], PIXELS)
    pixels = [{"pixels": row.ravel().tolist()} for row in PIXELS]
    request = examples(TWO, pixels, context={"count": 7, "text": "a"}, signature_name="")
    assert request.inputs["count"].tolist() == [7, 7]
    text = examples(TEXT, [{"text": {"b64": "YQ=="}}, {"text": "b"}])
    assert text.inputs["text"].tolist() == [b"a", b"b"]


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({}, "'examples' is missing"),
        ({"examples": []}, "a list of 1 to"),
        ({"examples": [1]}, "have to be objects"),
        ({"examples": [{}]}, "example 0 has no feature 'pixels'"),
        ({"examples": [{"pixels": [1, 2]}]}, "is 2 values, expected 6"),
        ({"examples": [{"pixels": [[1, 2, 3], [4, 5, 6]]}]}, "nested"),
        ({"examples": [{"pixels": ["a"] * 6}]}, "holds strings"),
        ({"examples": [{"pixels": [1] * 6}], "context": []}, "have to be objects"),
        ({"examples": [{"pixels": [1] * 6}], "signature_name": "x"}, "The signature is"),
        ([], "expected a JSON object with 'examples'"),
    ],
)
def test_examples_that_do_not_fit_are_refused(request_: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse_examples(json.dumps(request_).encode(), ONE)


def test_each_class_has_its_probability_and_each_row_its_number() -> None:
    request = examples(SCORES, [{"pixels": [0] * 6}] * 2)
    reply = classify_reply(SCORES, request, {"scores": np.array([[0.25, 0.75], [1, 0]], np.float16)})
    assert json.loads(reply.body) == {"results": [[["no", 0.25], ["yes", 0.75]], [["no", 1.0], ["yes", 0.0]]]}
    request = examples(NUMBER, [{"pixels": [0] * 6}] * 2)
    assert json.loads(regress_reply(request, {"price": np.array([[1.5], [2]], np.float32)}).body) == {
        "results": [1.5, 2.0]
    }


def test_a_model_is_called_for_what_it_does() -> None:
    check_classifies(SCORES)
    check_regresses(NUMBER)
    with pytest.raises(InputError, match="does not classify"):
        check_classifies(NUMBER)
    with pytest.raises(InputError, match="does not classify"):
        check_classifies(replace(SCORES, labels=("one", "two", "three")))
    with pytest.raises(InputError, match="does not give one number"):
        check_regresses(SCORES)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_nan_and_infinity_are_null(dtype: Any) -> None:
    table = np.array([[np.nan, np.inf, -np.inf, 1]] * 2, dtype)
    assert answer(ONE, "instances", probabilities=table) == {"predictions": [[None, None, None, 1]] * 2}


def test_an_output_that_is_column_major_is_answered_row_by_row() -> None:
    assert answer(ONE, "inputs", probabilities=TABLE.copy(order="F")) == {"outputs": TABLE.tolist()}


def test_the_status_is_available_or_states_why_not() -> None:
    (good,) = status("one-onnx", {"1": (True, "")})["model_version_status"]
    assert good == {"version": "1", "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}
    assert status("one-onnx", {"1": (True, "")})["ready"] is True
    both = status("one-onnx", {"3": (False, "gone"), "2": (True, "")})
    bad, older = both["model_version_status"]
    assert both["ready"] is True and (bad["version"], older["version"]) == ("3", "2")
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


# A running service

FACTORS, SHIFT = np.array([[0.5], [-2.0], [4.0]], np.float32), np.array([0.25], np.float32)
ROOMS = np.array([[1, 2, 3], [0, 0, 0], [-8, 0.5, 0]], np.float32)
PATHS = ["", "/versions/1", "/labels/stable"]


def write_regressor(folder: Path) -> None:
    """Three numbers -> one, by factors that are exact in float32."""
    weights = [numpy_helper.from_array(FACTORS, "factors"), numpy_helper.from_array(SHIFT, "shift")]
    ends = [
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["n", width])
        for name, width in (("rooms", 3), ("price", 1))
    ]
    gemm = helper.make_node("Gemm", ["rooms", "factors", "shift"], ["price"])
    graph = helper.make_graph([gemm], "price", ends[:1], ends[1:], weights)
    folder.mkdir(parents=True)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.save(model, folder / "model.onnx")
    manifest = replace(
        ONE,
        model=folder.parent.name,
        format=folder.name,
        inputs=(TensorSpec("rooms", "float32", (None, 3), "NC"),),
        outputs=(TensorSpec("price", "float32", (None, 1), "NC"),),
        files=sha256_of_files(folder, [folder / "model.onnx"]),
    )
    write_manifest(folder, manifest)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("tfserving")
    write_model(folder / "artifacts" / "keras_cnn" / "onnx")
    write_regressor(folder / "artifacts" / "house" / "onnx")
    with started(folder / "artifacts", folder / "output") as running:
        yield running


def call(service: Service, path: str, **fields: Any) -> tuple[int, Any]:
    code, _, body = service.ask("POST", path, json.dumps(fields).encode())
    return code, json.loads(body)


@pytest.mark.parametrize("path", PATHS)
def test_a_running_service_gives_each_row_its_number(service: Service, path: str) -> None:
    sent = [{"rooms": row} for row in ROOMS.tolist()]
    expected = (ROOMS @ FACTORS + SHIFT).ravel().tolist()
    assert expected == [8.75, 0.25, -4.75]
    assert call(service, f"/v1/models/house-onnx{path}:regress", examples=sent) == (200, {"results": expected})
    context = {"context": {"rooms": ROOMS[0].tolist()}, "examples": [{}, sent[2]]}
    assert call(service, f"/v1/models/house-onnx{path}:regress", **context) == (200, {"results": [8.75, -4.75]})
    code, refused = call(service, f"/v1/models/house-onnx{path}:classify", examples=sent)
    assert code == 400 and "house-onnx does not classify" in refused["error"]


@pytest.mark.parametrize("path", PATHS)
def test_a_running_service_gives_each_class_its_probability(service: Service, path: str) -> None:
    pixels = np.random.default_rng(5).uniform(0, 255, (3, 28, 28, 1)).astype(np.float32)
    tensor = {"name": "pixels", "datatype": "FP32", "shape": list(pixels.shape), "data": pixels.ravel().tolist()}
    code, inferred = call(service, "/v2/models/keras_cnn-onnx/infer", inputs=[tensor])
    assert code == 200
    sent = [{"pixels": row.ravel().tolist()} for row in pixels]
    code, classified = call(service, f"/v1/models/keras_cnn-onnx{path}:classify", examples=sent)
    assert code == 200
    assert [[label for label, _ in row] for row in classified["results"]] == [list("abcdefghij")] * 3
    table = np.array([[probability for _, probability in row] for row in classified["results"]])
    np.testing.assert_allclose(table.ravel(), inferred["outputs"][0]["data"], rtol=1e-5)
    assert len(np.unique(table, axis=0)) == 3
    code, refused = call(service, f"/v1/models/keras_cnn-onnx{path}:regress", examples=sent)
    assert code == 400 and "keras_cnn-onnx does not give one number" in refused["error"]
