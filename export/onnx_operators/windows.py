"""Convolution and pooling, which TensorFlow has for channels that are last."""

import itertools
from typing import Any

import numpy as np
import tensorflow as tf

from export.onnx_operators.graph import Handler, Node
from export.onnx_operators.values import ChannelsLast, Untranslated, channels_last, plain, sizes_of


def _convolution(node: Node, x: Any, kernel: Any, bias: Any = None) -> Any:
    kernel = plain(kernel)
    spatial = len(kernel.shape) - 2
    strides, dilations = (_numbers(node, name, spatial) for name in ("strides", "dilations"))
    window = [(size - 1) * dilation + 1 for size, dilation in zip(kernel.shape[2:], dilations, strict=True)]
    x = _with_channels(channels_last(x), kernel.shape[1] * node.get("group", 1))
    x, padding = _padded(node, x, window, strides, 0)
    order = [*range(2, spatial + 2), 1, 0]
    is_known = isinstance(kernel, np.ndarray)
    kernel = kernel.transpose(order) if is_known else tf.transpose(kernel, order)
    if spatial == 1:  # as TensorFlow itself does it
        x, kernel, strides, dilations = x[:, None], kernel[None], [1, *strides], [1, *dilations]
    y = tf.nn.convolution(x, node.weight(kernel), strides=strides, padding=padding, dilations=dilations)
    y = y[:, 0] if spatial == 1 else y
    return ChannelsLast(y if bias is None else tf.nn.bias_add(y, node.weight(plain(bias))))


def _with_channels(x: Any, count: Any) -> Any:
    """The tensor, channels last, of so many channels: TF Lite has no convolution of a number that is not known."""
    is_unknown = x.shape[-1] is None and isinstance(count, int)
    return tf.reshape(x, [*sizes_of(x)[:-1], count]) if is_unknown else x


def _transposed(node: Node, x: Any, kernel: Any, bias: Any = None) -> Any:
    kernel, x = plain(kernel), channels_last(x)
    spatial, groups = len(kernel.shape) - 2, node.get("group", 1)
    strides, dilations = (_numbers(node, name, spatial) for name in ("strides", "dilations"))
    order = [*range(2, spatial + 2), 1, 0]
    kernel = kernel.transpose(order) if isinstance(kernel, np.ndarray) else tf.transpose(kernel, order)
    if max(dilations) > 1:
        kernel = _spread(kernel, dilations)
    window = list(kernel.shape[:spatial])
    sizes = sizes_of(x)[1:-1]
    full = [(size - 1) * stride + length for size, stride, length in zip(sizes, strides, window, strict=True)]
    begins, ends = _cut(node, sizes, strides, window, full)
    parts = zip(tf.split(x, groups, axis=-1), _groups(kernel, groups), strict=True) if groups > 1 else [(x, kernel)]
    y = tf.concat([_grown(node, part, own, strides, full) for part, own in parts], axis=-1)
    places = tuple(slice(begin, size - max(end, 0)) for begin, end, size in zip(begins, ends, full, strict=True))
    y = y[(slice(None), *places)]
    if any(isinstance(end, int) and end < 0 for end in ends):
        y = tf.pad(y, [[0, 0], *([0, max(0, -end)] for end in ends), [0, 0]])
    return ChannelsLast(y if bias is None else tf.nn.bias_add(y, node.weight(plain(bias))))


def _grown(node: Node, x: Any, kernel: Any, strides: list[int], full: list[Any]) -> Any:
    kernel, shape = node.weight(kernel), [sizes_of(x)[0], *full, kernel.shape[-2]]
    if len(full) == 1:
        y = tf.nn.conv2d_transpose(
            x[:, None], kernel[None], [shape[0], 1, *shape[1:]], [1, *strides], "VALID"
        )  # fmt: skip
        return y[:, 0]
    transposed = tf.nn.conv2d_transpose if len(full) == 2 else tf.nn.conv3d_transpose
    return transposed(x, kernel, shape, strides, "VALID")


def _cut(node: Node, sizes: list[Any], strides: list[int], window: list[int], full: list[Any]) -> Any:
    """How much is cut off at both ends of each axis; less than nothing is added."""
    spatial = len(strides)
    extra = _numbers(node, "output_padding", spatial, 0)
    shape, automatic = node.get("output_shape"), node.get("auto_pad", "NOTSET")
    if automatic.startswith("SAME") and shape is None:
        shape = [size * stride for size, stride in zip(sizes, strides, strict=True)]
    if shape is None:
        pads = _pads(node, spatial)
        return pads[:spatial], [end - more for end, more in zip(pads[spatial:], extra, strict=True)]
    total = [whole - wanted for whole, wanted in zip(full, list(shape)[-spatial:], strict=True)]
    small, large = [cut // 2 for cut in total], [cut - cut // 2 for cut in total]
    return (small, large) if automatic == "SAME_UPPER" else (large, small)


def _groups(kernel: Any, groups: int) -> list[Any]:
    return np.split(kernel, groups, axis=-1) if isinstance(kernel, np.ndarray) else tf.split(kernel, groups, axis=-1)


def _spread(kernel: Any, dilations: list[int]) -> Any:
    """A known kernel with zeros between its values."""
    spatial = len(dilations)
    sizes = [(size - 1) * dilation + 1 for size, dilation in zip(kernel.shape[:spatial], dilations, strict=True)]
    whole = np.zeros((*sizes, *kernel.shape[spatial:]), kernel.dtype)
    whole[tuple(slice(None, None, dilation) for dilation in dilations)] = kernel
    return whole


def _largest(node: Node, x: Any) -> Any:
    if node.outputs > 1:
        raise Untranslated("the places of the largest values")
    x = channels_last(x)
    smallest = x.dtype.min if x.dtype.is_integer else -np.inf
    window, strides, dilations = _window(node)
    x, padding = _padded(node, x, _lengths(window, dilations), strides, smallest)
    if max(dilations) == 1:
        return ChannelsLast(_pooled(tf.nn.max_pool, x, window, strides, padding))
    return ChannelsLast(tf.nn.pool(x, window, "MAX", strides, padding, dilations=dilations))


def _average(node: Node, x: Any) -> Any:
    x = channels_last(x)
    window, strides, dilations = _window(node)
    lengths = _lengths(window, dilations)
    padded, padding = _padded(node, x, lengths, strides, 0)

    def pool(values: Any) -> Any:
        if max(dilations) == 1:
            return _pooled(tf.nn.avg_pool, values, window, strides, padding)
        return tf.nn.pool(values, window, "AVG", strides, padding, dilations=dilations)

    counts_padding = bool(node.get("count_include_pad", 0))
    if padded is x or (counts_padding and not node.get("ceil_mode", 0)):  # TensorFlow's own padding does not count
        return ChannelsLast(pool(padded))
    counted = tf.ones_like(x[:1, ..., :1])
    spatial = len(window)
    if counts_padding:
        counted = tf.pad(counted, _borders(_pads(node, spatial), spatial), constant_values=1)
        short = [whole - size for whole, size in zip(sizes_of(padded)[1:-1], sizes_of(counted)[1:-1], strict=True)]
        counted = tf.pad(counted, [[0, 0], *([0, size] for size in short), [0, 0]])
    else:
        counted, _ = _padded(node, counted, lengths, strides, 0)
    return ChannelsLast(pool(padded) / pool(counted))


def _pooled(pool: Any, x: Any, window: list[int], strides: list[int], padding: str) -> Any:
    if len(window) == 1:
        return pool(x[:, None], [1, *window], [1, *strides], padding)[:, 0]
    return pool(x, window, strides, padding)


def _norm_of_windows(node: Node, x: Any) -> Any:
    power = node.get("p", 2)
    window, strides, _ = _window(node)
    x, padding = _padded(node, tf.abs(channels_last(x)) ** power, window, strides, 0)
    total = _pooled(tf.nn.avg_pool, x, window, strides, padding) * float(np.prod(window))
    return ChannelsLast(total ** (1 / power))


def _window(node: Node) -> tuple[list[int], list[int], list[int]]:
    window = list(node.attributes["kernel_shape"])
    return window, _numbers(node, "strides", len(window)), _numbers(node, "dilations", len(window))


def _lengths(window: list[int], dilations: list[int]) -> list[int]:
    return [(size - 1) * dilation + 1 for size, dilation in zip(window, dilations, strict=True)]


def _numbers(node: Node, name: str, count: int, default: int = 1) -> list[int]:
    return [int(number) for number in node.get(name) or [default] * count]


def _pads(node: Node, spatial: int) -> list[int]:
    return _numbers(node, "pads", 2 * spatial, 0)


def _padded(node: Node, x: Any, window: list[int], strides: list[int], value: Any) -> tuple[Any, str]:
    """The tensor as a window may slide over it, and how TensorFlow calls what is left to do."""
    spatial, automatic = len(window), node.get("auto_pad", "NOTSET")
    pads = [0] * (2 * spatial) if automatic == "VALID" else _pads(node, spatial)
    if automatic == "SAME_UPPER" and not node.get("ceil_mode", 0):
        return x, "SAME"
    sizes = sizes_of(x)[1:-1]
    if automatic == "SAME_LOWER":
        total = [max(0, (-(-size // stride) - 1) * stride + length - size)
                 for size, stride, length in zip(sizes, strides, window, strict=True)]  # fmt: skip
        pads = [*(size - size // 2 for size in total), *(size // 2 for size in total)]
    is_same = all(2 * pad == length - 1 for pad, length in zip(pads, itertools.cycle(window), strict=False))
    if automatic == "NOTSET" and is_same and max(strides) == 1 and any(pads) and not node.get("count_include_pad", 0):
        return x, "SAME"
    if node.get("ceil_mode", 0):
        pads = [*pads[:spatial], *_rounded_up(sizes, window, strides, pads)]
    if any(not isinstance(pad, int) or pad for pad in pads):
        x = tf.pad(x, _borders(pads, spatial), constant_values=value)
    return x, "VALID"


def _rounded_up(sizes: list[Any], window: list[int], strides: list[int], pads: list[int]) -> list[Any]:
    """The padding at the end of each axis that makes room for a last window, if it begins within the values."""
    spatial, ends = len(window), []
    for size, length, stride, begin, end in zip(sizes, window, strides, pads[:spatial], pads[spatial:], strict=True):
        if not isinstance(size, int):
            raise Untranslated("rounding up where a size is free")
        count = -(-(size + begin + end - length) // stride) + 1
        count -= (count - 1) * stride >= size + begin
        ends.append(max(end, (count - 1) * stride + length - size - begin))
    return ends


def _borders(pads: list[Any], spatial: int) -> list[list[Any]]:
    return [[0, 0], *([pads[axis], pads[axis + spatial]] for axis in range(spatial)), [0, 0]]


def _over_all(function: Any) -> Handler:
    def apply(node: Node, x: Any) -> Any:
        x = channels_last(x)
        return ChannelsLast(function(x, axis=list(range(1, x.shape.rank - 1)), keepdims=True))

    return apply


OPERATORS: dict[str, Handler] = {
    "Conv": _convolution,
    "ConvTranspose": _transposed,
    "MaxPool": _largest,
    "AveragePool": _average,
    "LpPool": _norm_of_windows,
    "GlobalAveragePool": _over_all(tf.reduce_mean),
    "GlobalMaxPool": _over_all(tf.reduce_max),
}
