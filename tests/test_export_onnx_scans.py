"""Scan answers as ONNX Runtime does: written out, in a loop, or all of its steps at once."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import tensorflow as tf
from numpy.typing import NDArray
from onnx import GraphProto, NodeProto, TensorProto, helper, numpy_helper

from contract.errors import ExportError
from export.onnx_operators import translation

COLUMNS = 5
ROWS = np.random.default_rng(5).normal(size=(9, COLUMNS)).astype(np.float32)
AXES = numpy_helper.from_array(np.array([1]), "axes")
BEHIND = numpy_helper.from_array(np.array([-1]), "axes")


def value(name: str, *shape: int | str) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape or None)


def body(nodes: Sequence[NodeProto], axes: onnx.TensorProto = AXES) -> GraphProto:
    ends = [value(name) for name in ("next", "out") if any(name in node.output for node in nodes)]
    return helper.make_graph(nodes, "step", [value("now"), value("entry")], ends, [axes])


def distances(*nodes: NodeProto, axes: onnx.TensorProto = AXES) -> GraphProto:
    """How far each row is from an entry, as skl2onnx writes it."""
    ends = nodes or (helper.make_node("ReduceSumSquare", ["away", "axes"], ["out"], keepdims=0),)
    same = helper.make_node("Identity", ["now"], ["next"])
    return body([same, helper.make_node("Sub", ["now", "entry"], ["away"]), *ends], axes)


SUMS = body([helper.make_node("Add", ["now", "entry"], ["next"]), helper.make_node("Mul", ["next", "entry"], ["out"])])


def model_of(graph: GraphProto, learnt: int | None, axis: int = 0, **settings: Any) -> onnx.ModelProto:
    """A Scan over `learnt` entries, which starts with all rows; or over the rows, which starts with zeros."""
    known = np.random.default_rng(6).normal(size=(learnt or 1, COLUMNS)).astype(np.float32)
    first = numpy_helper.from_array(known if learnt else np.zeros(COLUMNS, np.float32), "first")
    scan = helper.make_node(
        "Scan", ["x", "first"] if learnt else ["first", "x"], ["last", "y"], body=graph, num_scan_inputs=1,
        scan_input_axes=[axis], **settings,
    )  # fmt: skip
    whole = helper.make_graph([scan], "scan", [value("x", "batch", COLUMNS)], [value("last"), value("y")], [first])
    return helper.make_model(whole, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


def traced(model: onnx.ModelProto) -> Any:
    function = translation(model)
    signature = tf.TensorSpec((None, COLUMNS), tf.float32)
    return tf.function(lambda x: function(x), autograph=False).get_concrete_function(signature)


def expected_of(model: onnx.ModelProto) -> list[NDArray[Any]]:
    answers: list[NDArray[Any]] = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"x": ROWS})
    return answers


BACKWARD = {"scan_input_directions": [1]}
TURNED = {"scan_output_directions": [1]}
ABSOLUTE = helper.make_node("Abs", ["away"], ["size"])


@pytest.mark.parametrize(
    ("graph", "learnt", "settings", "loops", "steps"),
    [
        (distances(), 300, {}, 0, 1),
        (distances(), 3, {}, 0, 1),
        (distances(axes=BEHIND), 300, {}, 0, 1),
        (distances(ABSOLUTE, helper.make_node("ReduceMax", ["size", "axes"], ["out"])), 300, {}, 0, 1),
        (distances(helper.make_node("Identity", ["away"], ["out"])), 300, {}, 0, 1),
        (distances(), 300, TURNED, 1, 2),
        (distances(helper.make_node("Softmax", ["away"], ["out"])), 300, {}, 1, 2),
        (distances(helper.make_node("Softmax", ["away"], ["out"])), 4, BACKWARD, 0, 4),
        (SUMS, 4, {}, 0, 4),
        (SUMS, 4, BACKWARD | TURNED, 0, 4),
        (SUMS, 300, {}, 1, 2),
        (SUMS, None, {}, 1, 2),
        (SUMS, None, BACKWARD, 1, 2),
        (SUMS, None, TURNED, 1, 2),
    ],
)
def test_a_scan_answers_as_in_onnx_runtime(
    graph: GraphProto, learnt: int | None, settings: dict[str, Any], loops: int, steps: int
) -> None:
    """`steps` is the most that its graph may have of its body: steps that know nothing of each other are one."""
    model = model_of(graph, learnt, **settings)
    function = traced(model)
    for value_, other in zip(function(tf.constant(ROWS)), expected_of(model), strict=True):
        np.testing.assert_allclose(value_, other, rtol=1e-5, atol=1e-5)
    kinds = [operation.type for operation in function.graph.get_operations()]
    assert sum("While" in kind for kind in kinds) == loops
    assert sum(kind in ("Sub", "AddV2") for kind in kinds) <= steps + 1 + 3 * loops


def test_distances_to_very_many_entries_are_not_in_memory_all_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("export.onnx_operators.scans.LARGEST", 1000)
    model = model_of(distances(), 300)
    function = traced(model)
    np.testing.assert_allclose(function(tf.constant(ROWS))[1], expected_of(model)[1], rtol=1e-5, atol=1e-5)
    assert any("While" in operation.type for operation in function.graph.get_operations())


def test_a_scan_along_another_axis_is_named() -> None:
    with pytest.raises(ExportError, match="a Scan along another axis than the first"):
        traced(model_of(distances(), 300, axis=1))
