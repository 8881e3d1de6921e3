"""The complementary error function in ONNX, which has the error function alone: TensorFlow computes GELU with it."""

from typing import Any

import numpy as np

SINCE = 9
"""The opset that has Erf."""


def teach_tf2onnx() -> None:
    """Have tf2onnx translate Erfc, from now on in this process."""
    from tf2onnx.handler import tf_op

    tf_op.register_handler(_erfc, SINCE, ["Erfc"], "", {})


def _erfc(graph: Any, node: Any, **settings: Any) -> None:
    """1 - Erf(x)"""
    from tf2onnx import utils

    (x,) = node.input
    dtype, shapes, dtypes = graph.get_dtype(x), node.output_shapes, node.output_dtypes
    graph.remove_node(node.name)
    one = graph.make_const(utils.make_name("one"), np.array(1, utils.map_onnx_to_numpy_type(dtype))).output[0]
    error = graph.make_node("Erf", [x]).output[0]
    graph.make_node("Sub", [one, error], name=node.name, outputs=node.output, shapes=shapes, dtypes=dtypes)
