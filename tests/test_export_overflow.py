"""Activations stay finite in every format, wherever they are finite in the source."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter
from numpy.typing import NDArray
from onnx import helper

from contract.calibration import Calibration
from contract.manifest import Manifest, TensorSpec, sha256_of_files, write_manifest
from export import savedmodel_to_tflite, signatures
from export.onnx_operators import translation
from export.overflow import keep_finite, without_overflow
from export.precision import tflite

VALUES = np.array([-1e4, -200, -100, -88.5, -18, -1, -1e-40, 0, 1e-40, 0.3, 1, 18, 88, 89, 101.7, 1e4], np.float32)


def expected(name: str, alpha: float) -> NDArray[np.float64]:
    x = VALUES.astype(np.float64)
    return np.logaddexp(0, x) if name == "Softplus" else np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0)))


@pytest.mark.parametrize(("name", "alpha"), [("Softplus", 1.0), ("Elu", 0.7), ("Elu", 1.0)])
def test_an_onnx_graph_keeps_its_meaning(tmp_path: Path, name: str, alpha: float) -> None:
    settings = {"alpha": alpha} if name == "Elu" else {}
    x, y = (helper.make_tensor_value_info(each, onnx.TensorProto.FLOAT, ["N"]) for each in "xy")
    graph = helper.make_graph([helper.make_node(name, ["x"], ["y"], **settings)], "net", [x], [y])
    path = tmp_path / "model.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
    keep_finite(path)
    (answer,) = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, {"x": VALUES})
    np.testing.assert_allclose(answer, expected(name, alpha), rtol=1e-6, atol=2e-7)
    # No large number is raised to a power: the largest that comes about is the largest that went in.
    kinds = [node.op_type for node in onnx.load(path).graph.node]
    assert "Softplus" not in kinds
    assert "Exp" not in kinds


def test_tensorflow_is_traced_without_large_powers() -> None:
    with without_overflow():
        function = tf.function(lambda x: (tf.math.softplus(x), tf.math.log_sigmoid(x), tf.nn.softplus(x)))
        graph = function.get_concrete_function(tf.TensorSpec([None], tf.float32))
    softplus, log_sigmoid, again = graph(tf.constant(VALUES))
    np.testing.assert_allclose(softplus, expected("Softplus", 1), rtol=1e-6, atol=2e-7)
    np.testing.assert_allclose(log_sigmoid, -np.logaddexp(0, -VALUES.astype(np.float64)), rtol=1e-6, atol=2e-7)
    np.testing.assert_array_equal(softplus, again)
    assert not {"Softplus", "Exp"} & {operation.type for operation in graph.graph.get_operations()}


@pytest.mark.parametrize("signatures_of", ["both", "one row"])
def test_a_savedmodel_whose_operators_overflow_in_tf_lite_does_not_there(tmp_path: Path, signatures_of: str) -> None:
    """Somebody else's SavedModel has the operators themselves, with variables around them."""
    specs = [TensorSpec(name, "float32", (None, 5), "NC") for name in ("z", "a", "b")]
    manifest = Manifest("net", "savedmodel", None, (specs[0],), (specs[1], specs[2]), None, ())
    scale = tf.Variable([1.0, 1, 1, 2, 0.5])
    function = lambda x: [tf.math.softplus(x * scale), tf.math.log_sigmoid(x) - scale]  # noqa: E731
    signatures.save(function, [scale], manifest, tmp_path / "savedmodel")
    assert b"Softplus" in (tmp_path / "savedmodel" / "saved_model.pb").read_bytes()
    (tmp_path / "tflite").mkdir()
    export = savedmodel_to_tflite.export if signatures_of == "both" else savedmodel_to_tflite.export_one
    export(tmp_path / "savedmodel", manifest, tmp_path / "tflite")
    interpreter = Interpreter(str(tmp_path / "tflite" / "model.tflite"))
    rows = np.array([[-1e4, -100, -1, 0, 1], [1, 88, 100, 1e4, 3e4]], np.float32)
    for row in rows:
        got = interpreter.get_signature_runner("batch1")(z=row[None])
        values = row.astype(np.float64)
        np.testing.assert_allclose(got["a"], [np.logaddexp(0, values * scale.numpy())], rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(got["b"], [-np.logaddexp(0, -values) - scale.numpy()], rtol=1e-6, atol=1e-6)


def masks(x: tf.Tensor) -> list[tf.Tensor]:
    """Infinities replaced, as `isinf`, `isfinite` and `nan_to_num` do it."""
    by_sign = onnx_masks()(x)
    limits = x.dtype.max * (tf.cast(x > 0, x.dtype) * 2 - 1)
    return [
        tf.where(tf.math.is_inf(x), tf.zeros_like(x), x),
        tf.where(tf.math.is_finite(x), x, tf.ones_like(x)),
        tf.where(tf.math.is_nan(x), tf.zeros_like(x), tf.where(tf.math.is_inf(x), limits, x)),
        *(tf.where(mask, tf.zeros_like(x), x) for mask in by_sign),
    ]


def onnx_masks() -> Any:
    """ONNX's IsInf of both signs, of infinity alone, and of minus infinity alone."""
    signs: list[dict[str, int]] = [{}, {"detect_negative": 0}, {"detect_positive": 0}]
    nodes = [helper.make_node("IsInf", ["x"], [f"y{place}"], **sign) for place, sign in enumerate(signs)]
    x = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["N", 6])
    results = [helper.make_tensor_value_info(node.output[0], onnx.TensorProto.BOOL, ["N", 6]) for node in nodes]
    graph = helper.make_graph(nodes, "net", [x], results)
    return translation(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9))


def test_infinities_that_a_model_replaces_are_replaced_in_tf_lite(tmp_path: Path) -> None:
    names = ("z", "inf", "finite", "numbers", "both", "above", "below")
    specs = [TensorSpec(name, "float32", (None, 6), "NC") for name in names]
    manifest = Manifest("net", "savedmodel", None, (specs[0],), tuple(specs[1:]), None, ())
    signatures.save(masks, [], manifest, tmp_path / "savedmodel")
    (tmp_path / "tflite").mkdir()
    savedmodel_to_tflite.export(tmp_path / "savedmodel", manifest, tmp_path / "tflite")
    largest = np.finfo(np.float32).max
    row = np.array([1, np.inf, -np.inf, np.nan, largest, -largest], np.float32)
    got = Interpreter(str(tmp_path / "tflite" / "model.tflite")).get_signature_runner("batch1")(z=row[None])
    right = {
        "inf": np.where(np.isinf(row), 0, row),
        "finite": np.where(np.isfinite(row), row, 1),
        "numbers": np.nan_to_num(row),
        "both": np.where(np.isinf(row), 0, row),
        "above": np.where(np.isposinf(row), 0, row),
        "below": np.where(np.isneginf(row), 0, row),
    }
    for name, expected in right.items():
        np.testing.assert_array_equal(got[name], expected[None], name)


@pytest.mark.filterwarnings(r"ignore:[\s\S]*tf.lite.Interpreter is deprecated:UserWarning")  # TensorFlow's own
@pytest.mark.parametrize("make", [tflite.half, tflite.dynamic, tflite.static])
def test_reduced_precisions_keep_what_float32_keeps(tmp_path: Path, make: Callable[..., Any]) -> None:
    """The values are far above 88, so that a power of them is infinite; int8 rounds a range of 512 to steps of 2."""
    specs = [TensorSpec(name, "float32", (None, 4), "NC") for name in ("z", "a")]
    made = Manifest("net", "savedmodel", "keras", (specs[0],), (specs[1],), None, ())
    signatures.save(lambda x: [tf.math.softplus(x)], [], made, tmp_path / "savedmodel")
    files = [path for path in (tmp_path / "savedmodel").rglob("*") if path.is_file()]
    write_manifest(tmp_path / "savedmodel", replace(made, files=sha256_of_files(tmp_path / "savedmodel", files)))
    (tmp_path / "variant").mkdir()
    row = np.array([[-256, 100, 200, 256]], np.float32)
    parent = replace(made, format="tflite", parent="savedmodel")
    make(tmp_path / "tflite", parent, tmp_path / "variant", Calibration({"z": row}, "rows of a test", ("0",)))
    runner = Interpreter(str(tmp_path / "variant" / "model.tflite")).get_signature_runner("batch1")
    np.testing.assert_allclose(runner(z=row)["a"], np.logaddexp(0, row), rtol=0, atol=4)
