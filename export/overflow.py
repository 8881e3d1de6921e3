"""Activations that overflow in a converted graph and not in the source, written so that they do not.

TF Lite has no Softplus: it is lowered to log(1 + exp(x)), which is infinite from 88 on, and LogSigmoid with it. onnx2tf
computes both branches of an Elu and multiplies one of them by 0, which is NaN where exp(x) is infinite. TF Lite has no
IsInf either: it is lowered to |x| = infinity, which LiteRT answers with false, so that what a model replaces remains.
"""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, helper, numpy_helper


def softplus(features: Any, name: str | None = None) -> Any:
    """TensorFlow's Softplus as a sum that stays finite."""
    import tensorflow as tf

    # log(1 + exp(-|x|)), with neither a large power nor a constant of its own
    return tf.nn.relu(features) - tf.math.log(tf.sigmoid(tf.abs(features)))


def is_infinite(x: Any) -> Any:
    """TensorFlow's IsInf as a comparison with the largest number: LiteRT finds nothing equal to infinity."""
    import tensorflow as tf

    return tf.abs(x) > x.dtype.max


@contextlib.contextmanager
def without_overflow() -> Iterator[None]:
    """Trace TensorFlow's Softplus and LogSigmoid as sums that stay finite."""
    import tensorflow as tf

    def log_sigmoid(x: Any, name: str | None = None) -> Any:
        return -softplus(-tf.convert_to_tensor(x))

    with (
        mock.patch.object(tf.math, "softplus", softplus),
        mock.patch.object(tf.nn, "softplus", softplus),
        mock.patch.object(tf.math, "log_sigmoid", log_sigmoid),
    ):
        yield


def keep_finite(path: Path) -> None:
    """The same for the file of an ONNX graph that goes on to onnx2tf: Softplus, and Elu with another alpha than 1."""
    model = onnx.load(path)
    if any(node.op_type in WRITTEN for node in model.graph.node):
        _write_out(model)
        onnx.save(model, path)


def _write_out(model: ModelProto) -> None:
    nodes: list[NodeProto] = []
    for place, node in enumerate(model.graph.node):
        write = WRITTEN.get(node.op_type)
        nodes += (write and write(model, node, f"finite_{place}")) or [node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def _softplus(model: ModelProto, node: NodeProto, name: str) -> list[NodeProto]:
    """Relu(x) - Log(Sigmoid(Abs(x)))"""
    (x,) = node.input
    return [
        helper.make_node("Relu", [x], [f"{name}_positive"]),
        helper.make_node("Abs", [x], [f"{name}_size"]),
        helper.make_node("Sigmoid", [f"{name}_size"], [f"{name}_share"]),
        helper.make_node("Log", [f"{name}_share"], [f"{name}_rest"]),
        helper.make_node("Sub", [f"{name}_positive", f"{name}_rest"], list(node.output), name=node.name),
    ]


def _elu(model: ModelProto, node: NodeProto, name: str) -> list[NodeProto] | None:
    """Relu(x) + alpha * Elu(-Relu(-x))"""
    settings = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
    if settings.get("alpha", 1.0) == 1.0:
        return None
    (x,) = node.input
    alpha = np.array(settings["alpha"], helper.tensor_dtype_to_np_dtype(_dtype(model, x)))
    model.graph.initializer.append(numpy_helper.from_array(alpha, f"{name}_alpha"))
    return [
        helper.make_node("Relu", [x], [f"{name}_positive"]),
        helper.make_node("Neg", [x], [f"{name}_turned"]),
        helper.make_node("Relu", [f"{name}_turned"], [f"{name}_size"]),
        helper.make_node("Neg", [f"{name}_size"], [f"{name}_negative"]),
        helper.make_node("Elu", [f"{name}_negative"], [f"{name}_curve"]),
        helper.make_node("Mul", [f"{name}_curve", f"{name}_alpha"], [f"{name}_scaled"]),
        helper.make_node("Add", [f"{name}_positive", f"{name}_scaled"], list(node.output), name=node.name),
    ]


def _dtype(model: ModelProto, name: str) -> int:
    """The element type of a tensor of the graph, as ONNX numbers it; float32 where nothing says it."""
    inferred = onnx.shape_inference.infer_shapes(model).graph
    values = (*inferred.value_info, *inferred.input, *inferred.output)
    types: dict[str, int] = {value.name: value.type.tensor_type.elem_type for value in values}
    return types.get(name) or onnx.TensorProto.FLOAT


WRITTEN: dict[str, Callable[[ModelProto, NodeProto, str], list[NodeProto] | None]] = {
    "Softplus": _softplus,
    "Elu": _elu,
}
