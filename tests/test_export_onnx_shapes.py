"""Sizes that are known when the graph is written are constants in it, and its answers stay."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import ModelProto, NodeProto, TensorProto, helper

from export.onnx_shapes import fold_shapes

SIZES = {"zero": [0], "one": [1], "twelve": [12]}

FLATTEN = [
    helper.make_node("Shape", ["x"], ["shape"]),
    helper.make_node("Cast", ["shape"], ["whole"], to=TensorProto.INT32),
    helper.make_node("Slice", ["whole", "zero", "one", "zero"], ["batch"]),
    helper.make_node("Cast", ["batch"], ["batch64"], to=TensorProto.INT64),
    helper.make_node("Concat", ["batch64", "twelve"], ["sizes"], axis=0),
    helper.make_node("Reshape", ["x", "sizes"], ["y"]),
]
"""As Keras writes it by way of TensorFlow."""


def graph_of(nodes: Sequence[NodeProto], rank: int) -> ModelProto:
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 2, 2, 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None] * rank)],
        [onnx.numpy_helper.from_array(np.array(value, np.int64), name) for name, value in SIZES.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def operators(model: ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


def answers(model: ModelProto, rows: int) -> np.ndarray:
    session = onnxruntime.InferenceSession(model.SerializeToString())
    x = np.arange(rows * 12, dtype=np.float32).reshape(rows, 2, 2, 3)
    return session.run(None, {"x": x})[0]  # type: ignore[no-any-return]


@pytest.mark.parametrize("rows", [1, 5])
def test_flatten_is_one_node_with_the_same_answers(rows: int) -> None:
    model = graph_of(FLATTEN, 2)
    before = answers(model, rows)
    fold_shapes(model)
    onnx.checker.check_model(model, full_check=True)
    assert operators(model) == ["Reshape"]
    assert [tensor.name for tensor in model.graph.initializer] == ["y_shape"]
    assert before.shape == (rows, 12)
    np.testing.assert_array_equal(answers(model, rows), before)


def test_what_something_else_takes_stays() -> None:
    taken = [*FLATTEN[:-1], helper.make_node("Reshape", ["x", "sizes"], ["flat"])]
    model = graph_of([*taken, helper.make_node("Concat", ["flat", "wide"], ["y"], axis=1)], 2)
    model.graph.node.insert(5, helper.make_node("Cast", ["batch"], ["number"], to=TensorProto.FLOAT))
    model.graph.node.insert(6, helper.make_node("Mul", ["x", "number"], ["scaled"]))
    model.graph.node.insert(7, helper.make_node("Flatten", ["scaled"], ["wide"]))
    before = answers(model, 3)
    fold_shapes(model)
    assert operators(model) == ["Shape", "Cast", "Slice", "Cast", "Mul", "Flatten", "Reshape", "Concat"]
    np.testing.assert_array_equal(answers(model, 3), before)


def test_a_shape_with_two_sizes_that_vary_stays_computed() -> None:
    """The second one is the number of values above 0, which no graph knows before it runs."""
    nodes = [
        helper.make_node("NonZero", ["x"], ["places"]),
        helper.make_node("Shape", ["places"], ["many"]),
        helper.make_node("Reshape", ["places", "many"], ["same"]),
        helper.make_node("Shape", ["same"], ["y64"]),
        helper.make_node("Cast", ["y64"], ["y"], to=TensorProto.FLOAT),
    ]
    model = graph_of(nodes, 1)
    before = answers(model, 4)
    fold_shapes(model)
    np.testing.assert_array_equal(answers(model, 4), before)


def test_an_exported_network_computes_no_sizes(artifacts: Path) -> None:
    model = onnx.load(artifacts / "keras_cnn" / "onnx" / "model.onnx")
    assert "Flatten" in operators(model) or "Reshape" in operators(model)
    assert "Shape" not in operators(model)
