"""Floor division and remainder of whole numbers in ONNX.

ONNX's Div cuts the fraction off, so -1 // 3 would be 0 and -1 % 3 would be -1. tf2onnx translates TensorFlow's FloorDiv
and FloorMod by it. ONNX's Mod has the sign of the divisor, as they have.
"""

from typing import Any

from onnx import TensorProto

REALS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE)

SINCE = 10
"""The opset that has Mod."""


def teach_tf2onnx() -> None:
    """Have tf2onnx translate both as they are meant, from now on in this process."""
    from tf2onnx.handler import tf_op

    tf_op.register_handler(_floor_div, SINCE, ["FloorDiv"], "", {})
    tf_op.register_handler(_floor_mod, SINCE, ["FloorMod"], "", {})


def _floor_div(graph: Any, node: Any, **settings: Any) -> None:
    from tf2onnx.onnx_opset.math import FloorDiv

    if (dtype := graph.get_dtype(node.input[0])) in REALS:
        FloorDiv.version_6(graph, node, **settings)
        return
    numerator, divisor = node.input
    shapes, dtypes = node.output_shapes, node.output_dtypes
    graph.remove_node(node.name)
    cut = graph.make_node("Div", [numerator, divisor]).output[0]
    product = graph.make_node("Mul", [cut, divisor]).output[0]
    # Of the remainders of both kinds: no number that fits overflows on this way.
    remainder = graph.make_node("Sub", [numerator, product]).output[0]
    floored = graph.make_node("Mod", [numerator, divisor], attr={"fmod": 0}).output[0]
    same = graph.make_node("Equal", [remainder, floored]).output[0]
    is_above = graph.make_node("Not", [same]).output[0]
    one = graph.make_node("Cast", [is_above], attr={"to": dtype}).output[0]
    graph.make_node("Sub", [cut, one], name=node.name, outputs=node.output, shapes=shapes, dtypes=dtypes)


def _floor_mod(graph: Any, node: Any, **settings: Any) -> None:
    from tf2onnx.onnx_opset.math import FloorMod

    if graph.get_dtype(node.input[0]) in REALS:
        FloorMod.version_7(graph, node, **settings)
        return
    shapes, dtypes = node.output_shapes, node.output_dtypes
    graph.remove_node(node.name)
    graph.make_node(
        "Mod", list(node.input), attr={"fmod": 0}, name=node.name, outputs=node.output, shapes=shapes, dtypes=dtypes
    )
