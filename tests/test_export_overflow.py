"""Activations stay finite in every format, wherever they are finite in the source."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import tensorflow as tf
from numpy.typing import NDArray
from onnx import helper

from export.overflow import keep_finite, without_overflow

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
