"""Choosing between two tensors in ONNX, and exp(x) - 1.

tf2onnx writes where(c, x, y) as c * x + (1 - c) * y, which is NaN wherever the tensor that is not chosen is infinite or
NaN: a root of what is negative, an exponential of what is large. ONNX's Where chooses.
"""

from typing import Any

import numpy as np

from export.floor_division import REALS

SINCE = 9
"""The opset that has Where."""
MARK = "handles_nan"
"""What tf2onnx notes beside a node that has to choose."""


def teach_tf2onnx() -> None:
    """Have tf2onnx choose, and translate Expm1, which it does not know, from now on in this process."""
    import tf2onnx.onnx_opset  # noqa: F401 # first: it registers its own
    from tf2onnx.handler import tf_op

    tf_op.register_handler(_select, SINCE, ["Select", "SelectV2"], "", {})
    tf_op.register_handler(_expm1, SINCE, ["Expm1"], "", {})


def _select(graph: Any, node: Any, **settings: Any) -> None:
    from tf2onnx.onnx_opset.controlflow import Select

    if graph.get_dtype(node.output[0]) not in REALS:  # its way is exact, and ONNX Runtime has no Where for booleans
        Select.version_9(graph, node, **settings)
        return
    node.set_attr(MARK, 1)
    Select.version_9(graph, node, **settings)
    del node.attr[MARK]


def _expm1(graph: Any, node: Any, **settings: Any) -> None:
    """Exp(x) - 1"""
    from tf2onnx import utils

    (x,) = node.input
    dtype, shapes, dtypes = graph.get_dtype(x), node.output_shapes, node.output_dtypes
    graph.remove_node(node.name)
    one = graph.make_const(utils.make_name("one"), np.array(1, utils.map_onnx_to_numpy_type(dtype))).output[0]
    power = graph.make_node("Exp", [x]).output[0]
    graph.make_node("Sub", [power, one], name=node.name, outputs=node.output, shapes=shapes, dtypes=dtypes)
