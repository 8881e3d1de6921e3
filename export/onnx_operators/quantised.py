"""Quantised graphs in float32: the same whole numbers, held as fractions, because few runtimes share their integers."""

from typing import Any

import numpy as np
import tensorflow as tf

from export.onnx_operators.graph import Handler, Node
from export.onnx_operators.values import Untranslated, plain

RANGES = {
    "int8": (-128, 127), "uint8": (0, 255), "int16": (-32768, 32767), "uint16": (0, 65535),
    "int4": (-8, 7), "uint4": (0, 15),
}  # fmt: skip


def _along(value: Any, axis: int, rank: int) -> Any:
    """A scale or a zero point of one value, or of one for each place along an axis, as an operand."""
    value = plain(value)
    if len(value.shape) == 0 or len(value.shape) == rank:
        return value
    if value.shape[0] == 1:
        return value.reshape(()) if isinstance(value, np.ndarray) else value[0]
    shape = [1] * rank
    shape[axis] = -1
    return value.reshape(shape) if isinstance(value, np.ndarray) else tf.reshape(value, shape)


def _quantised(node: Node, x: Any, scale: Any, zero: Any = None) -> Any:
    """round(x / scale) + zero, within the range of its type."""
    kind = np.dtype(np.uint8) if zero is None else np.dtype(str(getattr(zero.dtype, "name", zero.dtype)))
    low, high = RANGES[kind.name]
    rank = len(x.shape)
    axis = node.get("axis", 1) % max(rank, 1)
    place = np.float32(0) if zero is None else tf.cast(_along(zero, axis, rank), tf.float32)
    whole = tf.round(x / _along(scale, axis, rank)) + place
    y = tf.clip_by_value(whole, float(low), float(high))
    return tf.cast(y, tf.as_dtype(kind)) if node.is_folded else y


def _restored(node: Node, x: Any, scale: Any, zero: Any = None) -> Any:
    """(x - zero) * scale"""
    if node.get("block_size", 0):
        raise Untranslated("a scale for each block")
    rank = len(x.shape)
    axis = node.get("axis", 1) % max(rank, 1)
    y = tf.cast(x, tf.float32)
    if zero is not None:
        y = y - tf.cast(_along(zero, axis, rank), tf.float32)
    return y * _along(scale, axis, rank)


def _quantised_now(node: Node, x: Any) -> Any:
    low, high = tf.minimum(tf.reduce_min(x), 0.0), tf.maximum(tf.reduce_max(x), 0.0)
    scale = (high - low) / 255.0
    scale = tf.where(tf.equal(scale, 0.0), 1.0, scale)
    zero = tf.clip_by_value(tf.round(-low / scale), 0.0, 255.0)
    return tf.clip_by_value(tf.round(x / scale) + zero, 0.0, 255.0), scale, zero


def _less(x: Any, zero: Any, axis: int = -1) -> Any:
    y = tf.cast(plain(x), tf.float32)
    return y if zero is None else y - tf.cast(_along(zero, axis % len(y.shape), len(y.shape)), tf.float32)


def _product(node: Node, x: Any, y: Any, zero_x: Any = None, zero_y: Any = None) -> Any:
    return tf.matmul(_less(x, zero_x, -2), _less(y, zero_y))


def _convolution(node: Node, x: Any, kernel: Any, zero_x: Any = None, zero_kernel: Any = None) -> Any:
    less = _less(kernel, zero_kernel, 0)
    return node.translation.operators["Conv"](node, _less(x, zero_x), _known(less))


def _known(value: Any) -> Any:
    known = tf.get_static_value(value)
    return value if known is None else known


def _scaled_convolution(
    node: Node, x: Any, x_scale: Any, x_zero: Any, w: Any, w_scale: Any, w_zero: Any, y_scale: Any, y_zero: Any,
    bias: Any = None,
) -> Any:  # fmt: skip
    total = plain(_convolution(node, x, w, x_zero, w_zero))
    if bias is not None:
        total = total + tf.reshape(tf.cast(bias, tf.float32), [-1, *[1] * (len(total.shape) - 2)])
    return _again(node, total * (x_scale * _along(w_scale, 1, len(total.shape))), y_scale, y_zero)


def _scaled_product(
    node: Node, x: Any, x_scale: Any, x_zero: Any, y: Any, y_scale: Any, y_zero: Any, scale: Any, zero: Any
) -> Any:
    total = tf.matmul(_less(x, x_zero, -2), _less(y, y_zero))
    return _again(node, total * (x_scale * _along(y_scale, len(total.shape) - 1, len(total.shape))), scale, zero)


def _again(node: Node, value: Any, scale: Any, zero: Any) -> Any:
    low, high = RANGES[np.dtype(str(getattr(zero.dtype, "name", zero.dtype))).name]
    return tf.clip_by_value(tf.round(value / scale) + tf.cast(zero, tf.float32), float(low), float(high))


OPERATORS: dict[str, Handler] = {
    "QuantizeLinear": _quantised,
    "DequantizeLinear": _restored,
    "DynamicQuantizeLinear": _quantised_now,
    "MatMulInteger": _product,
    "ConvInteger": _convolution,
    "QLinearConv": _scaled_convolution,
    "QLinearMatMul": _scaled_product,
}
