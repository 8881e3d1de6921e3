"""Products of matrices, reductions, and what is made of them: normalisation, softmax, the largest values."""

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from export.onnx_operators.graph import Handler, Node
from export.onnx_operators.values import ChannelsLast, Untranslated, channels_last, plain, reshaped, sizes_of


def _product(node: Node, x: Any, y: Any) -> Any:
    if len(x.shape) == 1 and len(y.shape) == 1:
        return tf.tensordot(x, y, 1)
    if len(y.shape) == 1:
        return tf.linalg.matvec(x, y)
    if len(x.shape) == 1:
        return tf.squeeze(tf.matmul(x[None], y), -2)
    return tf.matmul(x, y)


def _affine(node: Node, x: Any, y: Any, added: Any = None) -> Any:
    alpha, beta = node.get("alpha", 1.0), node.get("beta", 1.0)
    x = node.turned(x) if node.get("transA", 0) else node.weight(plain(x))
    y = node.turned(y) if node.get("transB", 0) else node.weight(plain(y))
    product = tf.matmul(x, y)
    product = product if alpha == 1 else product * tf.cast(alpha, product.dtype)
    if added is None:
        return product
    added = plain(added)
    return product + (added if beta == 1 else added * tf.cast(beta, product.dtype))


def _einsum(node: Node, *values: Any) -> Any:
    return tf.einsum(node.attributes["equation"].decode().replace(" ", ""), *values)


def _reduction(function: Callable[..., Any]) -> Handler:
    def apply(node: Node, x: Any, axes: Any = None) -> Any:
        axes, keep = node.setting("axes", axes), bool(node.get("keepdims", 1))
        if axes is None and node.get("noop_with_empty_axes", 0):
            return plain(x)
        rank = x.rank if isinstance(x, ChannelsLast) else len(plain(x).shape)
        places = list(range(rank)) if axes is None or not axes.size else [int(a) % rank for a in axes.reshape(-1)]
        if isinstance(x, ChannelsLast) and (keep or set(places) >= set(range(2, rank))):
            moved = [place if place == 0 else rank - 1 if place == 1 else place - 1 for place in places]
            y = function(x.tensor, axis=moved, keepdims=keep)
            return ChannelsLast(y) if keep else y
        return function(plain(x), axis=places, keepdims=keep)

    return apply


def _sum_of_absolutes(x: Any, **settings: Any) -> Any:
    return tf.reduce_sum(tf.abs(x), **settings)


def _length(x: Any, **settings: Any) -> Any:
    return tf.sqrt(tf.reduce_sum(tf.square(x), **settings))


def _sum_of_squares(x: Any, **settings: Any) -> Any:
    return tf.reduce_sum(tf.square(x), **settings)


def _log_of_sum(x: Any, **settings: Any) -> Any:
    return tf.math.log(tf.reduce_sum(x, **settings))


def _place_of(function: Callable[..., Any]) -> Handler:
    def apply(node: Node, x: Any) -> Any:
        axis = node.get("axis", 0)
        if node.get("select_last_index", 0):
            place = tf.cast(sizes_of(x)[axis], tf.int64) - 1 - function(tf.reverse(x, [axis]), axis=axis)
        else:
            place = function(x, axis=axis, output_type=tf.int64)
        return tf.expand_dims(place, axis) if node.get("keepdims", 1) else place

    return apply


def _softmax(function: Callable[..., Any]) -> Handler:
    def apply(node: Node, x: Any) -> Any:
        if node.opset >= 13:
            axis = node.get("axis", -1)
            if isinstance(x, ChannelsLast) and axis % x.rank == 1:
                return ChannelsLast(function(x.tensor, axis=-1))
            x = plain(x)
            rank = len(x.shape)
            if axis % rank == rank - 1:
                return function(x, axis=-1)
            order = [place for place in range(rank) if place != axis % rank] + [axis % rank]
            return tf.transpose(function(tf.transpose(x, order), axis=-1), np.argsort(order))  # as all runtimes have it
        x = plain(x)  # a matrix, before
        sizes, axis = sizes_of(x), node.get("axis", 1) % len(x.shape)
        if axis == len(sizes) - 1:
            return function(x, axis=-1)
        whole = reshaped(x, [*sizes[:axis], int(np.prod(sizes[axis:]))])
        return reshaped(function(whole, axis=-1), sizes)

    return apply


def _highest(x: Any, axis: int) -> Any:
    place = tf.argmax(x, axis)
    return tf.one_hot(place, sizes_of(x)[axis], axis=axis, dtype=x.dtype)


def _top(node: Node, x: Any, count: Any = None) -> Any:
    axis, rank = node.get("axis", -1), len(x.shape)
    # A whole sort, such as torch.sort, asks for as many as the input has, which may depend on its size.
    number = tf.reshape(tf.cast(node.setting("k", count), tf.int32), [])
    order = [place for place in range(rank) if place != axis % rank] + [axis % rank]
    moved = x if axis % rank == rank - 1 else tf.transpose(x, order)
    values, places = tf.math.top_k(moved if node.get("largest", 1) else -moved, number)
    values = values if node.get("largest", 1) else -values
    if axis % rank != rank - 1:
        values, places = (tf.transpose(each, np.argsort(order)) for each in (values, places))
    return values, tf.cast(places, tf.int64)


def _running_sum(node: Node, x: Any, axis: Any) -> Any:
    return tf.cumsum(x, int(axis), bool(node.get("exclusive", 0)), bool(node.get("reverse", 0)))


def _batch_norm(node: Node, x: Any, scale: Any, offset: Any, mean: Any, variance: Any, *more: Any) -> Any:
    if node.get("training_mode", 0):
        raise Untranslated("batch normalisation in training mode")
    scale, offset, mean, variance = (plain(value) for value in (scale, offset, mean, variance))
    factor = scale / np.sqrt(variance + np.float32(node.get("epsilon", 1e-5)))
    shift = offset - mean * factor
    if len(x.shape if not isinstance(x, ChannelsLast) else x.tensor.shape) > 2:
        return ChannelsLast(channels_last(x) * factor + shift)
    return plain(x) * factor + shift


def _instance_norm(node: Node, x: Any, scale: Any, offset: Any) -> Any:
    x = channels_last(x)
    y = _normalised(x, list(range(1, x.shape.rank - 1)), node.get("epsilon", 1e-5))
    return ChannelsLast(y * plain(scale) + plain(offset))


def _normalised(x: Any, axes: list[int], epsilon: float) -> Any:
    centred = x - tf.reduce_mean(x, axes, keepdims=True)
    return centred * tf.math.rsqrt(tf.reduce_mean(tf.square(centred), axes, keepdims=True) + epsilon)


def _layer_norm(node: Node, x: Any, scale: Any, offset: Any = None) -> Any:
    if node.outputs > 1:
        raise Untranslated("the mean and the deviation of a layer")
    axes = list(range(node.get("axis", -1) % len(x.shape), len(x.shape)))
    y = _normalised(x, axes, node.get("epsilon", 1e-5)) * scale
    return y if offset is None else y + offset


def _root_mean_square_norm(node: Node, x: Any, scale: Any) -> Any:
    axes = list(range(node.get("axis", -1) % len(x.shape), len(x.shape)))
    return x * tf.math.rsqrt(tf.reduce_mean(tf.square(x), axes, keepdims=True) + node.get("epsilon", 1e-5)) * scale


def _group_norm(node: Node, x: Any, scale: Any, offset: Any) -> Any:
    batch, channels, *spatial = sizes = sizes_of(x)
    groups = node.attributes["num_groups"]
    parts = reshaped(x, [batch, groups, _whole(channels, spatial, groups)])
    y = reshaped(_normalised(parts, [2], node.get("epsilon", 1e-5)), sizes)
    ones = [1] * len(spatial)
    if scale.shape[0] == groups:  # before opset 21
        scale, offset = (tf.repeat(value, channels // groups) for value in (scale, offset))
    return y * tf.reshape(scale, [channels, *ones]) + tf.reshape(offset, [channels, *ones])


def _whole(channels: int, spatial: list[Any], groups: int) -> Any:
    total: Any = channels // groups
    for size in spatial:
        total = total * size
    return total


def _unit_vector(node: Node, x: Any) -> Any:
    axis, power = node.get("axis", -1), node.get("p", 2)
    length = _length if power == 2 else _sum_of_absolutes
    size = length(x, axis=axis, keepdims=True)
    return x / tf.where(tf.equal(size, 0), tf.ones_like(size), size)


def _mean_variance_norm(node: Node, x: Any) -> Any:
    return _normalised(x, list(node.get("axes") or (0, 2, 3)), 1e-9)


def _local_norm(node: Node, x: Any) -> Any:
    size = node.attributes["size"]
    alpha, beta, bias = node.get("alpha", 1e-4), node.get("beta", 0.75), node.get("bias", 1.0)
    x = channels_last(x)
    border = [(size - 1) // 2, size - 1 - (size - 1) // 2]
    squares = tf.pad(tf.square(x), [[0, 0]] * (x.shape.rank - 1) + [border])
    total = tf.add_n([squares[..., place : place + x.shape[-1]] for place in range(size)])
    return ChannelsLast(x / (bias + alpha / size * total) ** beta)


KEEP = frozenset(
    {"Gemm", "BatchNormalization", "InstanceNormalization", "LRN", "Softmax", "LogSoftmax", "Hardmax", "ReduceMean",
     "ReduceSum", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL1", "ReduceL2", "ReduceSumSquare", "ReduceLogSum",
     "ReduceLogSumExp"}
)  # fmt: skip

OPERATORS: dict[str, Handler] = {
    "MatMul": _product, "Gemm": _affine, "Einsum": _einsum,
    "ReduceMean": _reduction(tf.reduce_mean), "ReduceSum": _reduction(tf.reduce_sum),
    "ReduceMax": _reduction(tf.reduce_max), "ReduceMin": _reduction(tf.reduce_min),
    "ReduceProd": _reduction(tf.reduce_prod), "ReduceL1": _reduction(_sum_of_absolutes),
    "ReduceL2": _reduction(_length), "ReduceSumSquare": _reduction(_sum_of_squares),
    "ReduceLogSum": _reduction(_log_of_sum), "ReduceLogSumExp": _reduction(tf.reduce_logsumexp),
    "ArgMax": _place_of(tf.argmax), "ArgMin": _place_of(tf.argmin), "TopK": _top, "CumSum": _running_sum,
    "Softmax": _softmax(tf.nn.softmax), "LogSoftmax": _softmax(tf.nn.log_softmax), "Hardmax": _softmax(_highest),
    "BatchNormalization": _batch_norm, "InstanceNormalization": _instance_norm, "LayerNormalization": _layer_norm,
    "RMSNormalization": _root_mean_square_norm, "GroupNormalization": _group_norm, "LpNormalization": _unit_vector,
    "MeanVarianceNormalization": _mean_variance_norm, "LRN": _local_norm,
}  # fmt: skip
