"""Operators that move values, and those that compute shapes."""

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from onnx import numpy_helper

from export.onnx_operators.graph import Handler, Node
from export.onnx_operators.values import (
    ChannelsLast,
    Sizes,
    Untranslated,
    channels_last,
    constant,
    items_of,
    plain,
    reshaped,
    sizes_of,
    turned,
)  # fmt: skip

WHOLE_AXIS = 2**31 - 1
"""An end from here on means the axis's own end."""


def _constant(node: Node) -> Any:
    for name, value in node.attributes.items():
        if name == "value":
            return numpy_helper.to_array(value)
        if name in ("value_float", "value_floats"):
            return np.array(value, np.float32)
        if name in ("value_int", "value_ints"):
            return np.array(value, np.int64)
        if name in ("value_string", "value_strings"):
            return np.array(value, object)
    raise Untranslated(f"a constant of {', '.join(node.attributes)}")


def _shape(node: Node, x: Any) -> Any:
    return Sizes(tuple(sizes_of(x)[node.get("start", 0) : node.get("end", WHOLE_AXIS)]))


def _size(node: Node, x: Any) -> Any:
    sizes = sizes_of(x)
    return np.array(np.prod(sizes), np.int64) if all(isinstance(size, int) for size in sizes) else tf.size(x, tf.int64)


def _reshape(node: Node, x: Any, shape: Any = None) -> Any:
    if shape is None:  # before opset 5
        shape = np.array(node.attributes["shape"], np.int64)
    sizes, x = items_of(shape), plain(x)
    if sizes is None:
        return tf.reshape(x, shape)
    if not node.get("allowzero", 0) and any(isinstance(size, int) and size == 0 for size in sizes):
        own = sizes_of(x)
        sizes = [own[axis] if isinstance(size, int) and size == 0 else size for axis, size in enumerate(sizes)]
    return reshaped(x, sizes)


def _flatten(node: Node, x: Any) -> Any:
    axis, x = node.get("axis", 1), plain(x)
    sizes = sizes_of(x)
    axis = axis + len(sizes) if axis < 0 else axis
    return reshaped(x, [_product(sizes[:axis]), _product(sizes[axis:])])


def _product(sizes: list[Any]) -> Any:
    total: Any = 1
    for size in sizes:
        total = total * size
    return total


def _squeeze(node: Node, x: Any, axes: Any = None) -> Any:
    axes = node.setting("axes", axes)
    if isinstance(x, Sizes):
        return Sizes(x.items, is_vector=False)
    x = plain(x)
    places = None if axes is None else [int(axis) for axis in axes.reshape(-1)]
    return tf.squeeze(x, places)


def _unsqueeze(node: Node, x: Any, axes: Any = None) -> Any:
    axes = node.setting("axes", axes)
    if isinstance(x, Sizes) and not x.is_vector:
        return Sizes(x.items)
    x = plain(x)
    rank = len(x.shape) + axes.size
    for axis in sorted(int(axis) % rank for axis in axes.reshape(-1)):
        x = tf.expand_dims(x, axis)
    return x


def _transpose(node: Node, x: Any) -> Any:
    rank = x.rank if isinstance(x, ChannelsLast) else len(plain(x).shape)
    order = list(node.get("perm") or reversed(range(rank)))
    if isinstance(x, ChannelsLast):
        places = [0, rank - 1, *range(1, rank - 1)]  # of ONNX's axes in the tensor
        order = [places[axis] for axis in order]
        return x.tensor if order == list(range(rank)) else tf.transpose(x.tensor, order)
    if rank > 2 and order == [0, rank - 1, *range(1, rank - 1)]:
        return ChannelsLast(plain(x))
    return tf.transpose(plain(x), order)


def _concatenate(node: Node, *values: Any) -> Any:
    numbers = [items_of(value) if _is_whole_vector(value) else None for value in values]
    if any(isinstance(value, Sizes) for value in values) and None not in numbers:
        return Sizes(tuple(item for items in numbers for item in items or ()))
    axis, ranks = node.get("axis", 1), [value.rank for value in values if isinstance(value, ChannelsLast)]
    if ranks:
        operands = [turned(value, ranks[0]) for value in values]
        if all(operand is not None for operand in operands):
            return ChannelsLast(tf.concat(_of_one_type(operands), _last_axis(axis, ranks[0])))
    return tf.concat(_of_one_type([plain(value) for value in values]), axis)


def _of_one_type(values: Sequence[Any]) -> Sequence[Any]:
    """The values, in float32 where some are: only whole numbers of a quantised graph are held as fractions by some."""
    are_fractions = [np.dtype(str(getattr(value.dtype, "name", value.dtype))) == np.float32 for value in values]
    return [tf.cast(value, tf.float32) for value in values] if any(are_fractions) and not all(are_fractions) else values


def _is_whole_vector(value: Any) -> bool:
    return isinstance(value, Sizes) or (isinstance(value, np.ndarray) and value.ndim == 1 and value.dtype.kind in "iu")


def _last_axis(axis: int, rank: int) -> int:
    """Where ONNX's axis is in a tensor whose channels are last."""
    axis %= rank
    return axis if axis == 0 else rank - 1 if axis == 1 else axis - 1


def _split(node: Node, x: Any, lengths: Any = None) -> Any:
    lengths = node.setting("split", lengths)
    rank = x.rank if isinstance(x, ChannelsLast) else len(plain(x).shape)
    axis = node.get("axis", 0) % rank
    size = sizes_of(x)[axis]
    if lengths is None and isinstance(size, int):
        step = -(-size // node.outputs)
        lengths = np.array([min(step, size - place * step) for place in range(node.outputs)])
    parts = node.outputs if lengths is None else [int(length) for length in lengths]
    if isinstance(x, ChannelsLast):
        return tuple(ChannelsLast(part) for part in tf.split(x.tensor, parts, _last_axis(axis, rank)))
    return tuple(tf.split(plain(x), parts, axis))


def _slice(node: Node, x: Any, starts: Any = None, ends: Any = None, axes: Any = None, steps: Any = None) -> Any:
    starts = items_of(np.array(node.attributes["starts"])) if "starts" in node.attributes else starts
    ends = items_of(np.array(node.attributes["ends"])) if "ends" in node.attributes else ends
    starts, ends = (value if isinstance(value, list) else _bounds(value) for value in (starts, ends))
    rank = 1 if isinstance(x, Sizes) else x.rank if isinstance(x, ChannelsLast) else len(plain(x).shape)
    axes = node.setting("axes", axes, np.arange(len(starts)))
    places = [slice(None)] * rank
    sizes = [len(x.items)] if isinstance(x, Sizes) else sizes_of(x)
    strides = [1] * len(starts) if steps is None else constant(steps).reshape(-1)
    for axis, start, end, step in zip(axes.reshape(-1), starts, ends, strides, strict=True):
        places[int(axis) % rank] = _place(start, end, int(step), sizes[int(axis) % rank])
    if all(place == slice(None) for place in places):
        return x
    if isinstance(x, Sizes):
        return Sizes(x.items[places[0]])
    if isinstance(x, ChannelsLast):
        return ChannelsLast(x.tensor[(places[0], *places[2:], places[1])])
    return plain(x)[tuple(places)]


def _bounds(value: Any) -> list[Any]:
    known = items_of(value)
    return known if known is not None else tf.unstack(tf.cast(plain(value), tf.int32))


def _place(start: Any, end: Any, step: int, size: Any) -> slice:
    """Python's slice of an axis. A start or end beyond it is left out: it may be larger than TensorFlow's numbers."""
    stride = None if step == 1 else step
    if not isinstance(start, int) or not isinstance(end, int):
        return slice(start, None if isinstance(end, int) and end >= WHOLE_AXIS else end, stride)
    beyond = size if isinstance(size, int) else WHOLE_AXIS
    if step > 0:
        first, last = (start == 0 or start <= -beyond), end >= beyond
    else:
        first, last = (start == -1 or start >= beyond - 1), end < -beyond
    return slice(None if first else start, None if last else end, stride)


def _gather(node: Node, x: Any, places: Any) -> Any:
    axis = node.get("axis", 0)
    if isinstance(x, Sizes) and isinstance(places, np.ndarray) and places.ndim <= 1:
        return Sizes(tuple(x.items[int(place)] for place in places.reshape(-1)), places.ndim == 1)
    x, places = plain(x), plain(places)
    rank, size = len(x.shape), sizes_of(x)[axis]
    if isinstance(places, np.ndarray) and isinstance(size, int):
        places = np.where(places < 0, places + size, places).astype(np.int32)
        if places.ndim == 0:  # converters prefer a slice
            return x[(slice(None),) * (axis % rank) + (int(places),)]
    elif not isinstance(places, np.ndarray):
        places = tf.where(places < 0, places + tf.cast(size, places.dtype), places)
    return tf.gather(x, places, axis=axis)


def _gather_elements(node: Node, x: Any, places: Any) -> Any:
    axis = node.get("axis", 0) % len(x.shape)
    return tf.gather_nd(x, _coordinates(x, places, axis))


def _coordinates(x: Any, places: Any, axis: int) -> Any:
    """The place of each value that `places` names along an axis, for all axes."""
    size = sizes_of(x)[axis]
    places = tf.cast(places, tf.int32)
    places = tf.where(places < 0, places + size, places)
    ranges = [tf.range(size) for size in sizes_of(places)]
    grids = tf.meshgrid(*ranges, indexing="ij")
    grids[axis] = places
    return tf.stack(grids, axis=-1)


def _gather_nd(node: Node, x: Any, places: Any) -> Any:
    return tf.gather_nd(x, places, batch_dims=node.get("batch_dims", 0))


def _scatter_nd(node: Node, x: Any, places: Any, updates: Any) -> Any:
    scatter = {
        "none": tf.tensor_scatter_nd_update, "add": tf.tensor_scatter_nd_add, "mul": None,
        "max": tf.tensor_scatter_nd_max, "min": tf.tensor_scatter_nd_min,
    }[node.get("reduction", "none")]  # fmt: skip
    if scatter is None:
        raise Untranslated("products of scattered values")
    return scatter(tf.convert_to_tensor(x), tf.cast(places, tf.int32), updates)


def _scatter_elements(node: Node, x: Any, places: Any, updates: Any) -> Any:
    return _scatter_nd(node, x, _coordinates(x, places, node.get("axis", 0) % len(x.shape)), updates)


def _tile(node: Node, x: Any, repeats: Any) -> Any:
    counts = items_of(repeats)
    return tf.tile(plain(x), plain(repeats) if counts is None else counts)


def _expand(node: Node, x: Any, shape: Any) -> Any:
    sizes, x = items_of(shape), plain(x)
    if sizes is None:
        return tf.broadcast_to(x, tf.broadcast_dynamic_shape(tf.shape(x, tf.int64), shape))
    own = sizes_of(x)
    rank = max(len(own), len(sizes))
    own, sizes = [1] * (rank - len(own)) + own, [1] * (rank - len(sizes)) + sizes
    wanted = [size if isinstance(mine, int) and mine == 1 else mine for mine, size in zip(own, sizes, strict=True)]
    is_same = all(
        here is there or (isinstance(here, int) and here == there) for here, there in zip(wanted, own, strict=True)
    )
    return x if is_same and len(x.shape) == rank else tf.broadcast_to(x, wanted)


def _filled(node: Node, shape: Any) -> Any:
    value = numpy_helper.to_array(node.attributes["value"]) if "value" in node.attributes else np.zeros(1, np.float32)
    sizes = items_of(shape)
    return tf.fill(plain(shape) if sizes is None else sizes, value.reshape(-1)[0])


def _pad(node: Node, x: Any, pads: Any = None, value: Any = None, axes: Any = None) -> Any:
    mode = node.get("mode", "constant")
    given = node.setting("pads", pads)
    pads = items_of(given)
    value = node.setting("value", value, np.float32(0))
    if pads is None:  # computed from the inputs
        both = tf.transpose(tf.reshape(given, [2, -1]))
        return tf.pad(plain(x), both, PADDING[mode], tf.cast(tf.reshape(value, []), plain(x).dtype))
    rank = x.rank if isinstance(x, ChannelsLast) else len(plain(x).shape)
    half = len(pads) // 2
    places = range(rank) if axes is None else [int(axis) % rank for axis in constant(axes)]
    borders: list[list[Any]] = [[0, 0] for _ in range(rank)]
    for number, axis in enumerate(places):
        borders[axis] = [pads[number], pads[number + half]]
    if not any(not isinstance(pad, int) or pad for pad in itertools.chain.from_iterable(borders)):
        return x
    is_last = isinstance(x, ChannelsLast)
    tensor = x.tensor if is_last else plain(x)
    borders = [borders[0], *borders[2:], borders[1]] if is_last else borders
    if any(isinstance(pad, int) and pad < 0 for pad in itertools.chain.from_iterable(borders)):
        tensor, borders = _cropped(tensor, borders)
    y = _bordered(tensor, borders, mode, value)
    return ChannelsLast(y) if is_last else y


PADDING = {"constant": "CONSTANT", "reflect": "REFLECT"}
"""ONNX's mode -> TensorFlow's."""


def _cropped(tensor: Any, borders: list[list[Any]]) -> tuple[Any, list[list[Any]]]:
    places = tuple(slice(max(0, -begin), min(0, end) or None) for begin, end in borders)
    return tensor[places], [[max(0, pad) for pad in border] for border in borders]


def _bordered(tensor: Any, borders: list[list[Any]], mode: str, value: Any) -> Any:
    if mode == "constant":
        return tf.pad(tensor, borders, constant_values=tf.cast(tf.reshape(value, []), tensor.dtype))
    if mode == "reflect":
        return tf.pad(tensor, borders, "REFLECT")
    for axis, (begin, end) in enumerate(borders):  # the edge, or the other end, again
        size = sizes_of(tensor)[axis]
        if begin or end:
            places = np.arange(-begin, size + end)
            places = np.clip(places, 0, size - 1) if mode == "edge" else places % size
            tensor = tf.gather(tensor, places, axis=axis)
    return tensor


def _range(node: Node, start: Any, limit: Any, delta: Any) -> Any:
    return tf.range(tf.reshape(start, []), tf.reshape(limit, []), tf.reshape(delta, []))


def _one_hot(node: Node, places: Any, depth: Any, values: Any) -> Any:
    count = int(constant(depth).reshape(-1)[0])
    places = tf.cast(places, tf.int32)
    hot = tf.one_hot(tf.where(places < 0, places + count, places), count, axis=node.get("axis", -1))
    hot = tf.cast(hot, values.dtype)
    return hot * (values[1] - values[0]) + values[0]


def _to_blocks(node: Node, x: Any) -> Any:
    return ChannelsLast(tf.nn.space_to_depth(channels_last(x), node.attributes["blocksize"]))


def _from_blocks(node: Node, x: Any) -> Any:
    block = node.attributes["blocksize"]
    if node.get("mode", "DCR") == "DCR":
        return ChannelsLast(tf.nn.depth_to_space(channels_last(x), block))
    batch, channels, height, width = sizes_of(x)
    parts = reshaped(plain(x), [batch, channels // block**2, block, block, height, width])
    return reshaped(
        tf.transpose(parts, [0, 1, 4, 2, 5, 3]), [batch, channels // block**2, height * block, width * block]
    )


def _triangle(node: Node, x: Any, place: Any = None) -> Any:
    offset = 0 if place is None else int(constant(place).reshape(-1)[0])
    rows, columns = sizes_of(x)[-2:]
    lines, places = tf.range(rows)[:, None], tf.range(columns)[None]
    kept = places >= lines + offset if node.get("upper", 1) else places <= lines + offset
    return tf.where(kept, x, tf.zeros_like(x))


def _reverse_sequence(node: Node, x: Any, lengths: Any) -> Any:
    return tf.reverse_sequence(x, lengths, node.get("time_axis", 0), node.get("batch_axis", 1))


def _places(node: Node, x: Any) -> Any:
    return tf.transpose(tf.cast(tf.where(tf.not_equal(x, tf.zeros_like(x))), tf.int64))


KEEP = frozenset(
    {"Shape", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Concat", "Split", "Slice", "Gather", "Tile",
     "Expand", "ConstantOfShape", "Pad", "SpaceToDepth", "DepthToSpace"}
)  # fmt: skip

OPERATORS: dict[str, Handler] = {
    "Constant": _constant, "Shape": _shape, "Size": _size, "Reshape": _reshape, "Flatten": _flatten,
    "Squeeze": _squeeze, "Unsqueeze": _unsqueeze, "Transpose": _transpose, "Concat": _concatenate, "Split": _split,
    "Slice": _slice, "Gather": _gather, "GatherElements": _gather_elements, "GatherND": _gather_nd,
    "ScatterND": _scatter_nd, "ScatterElements": _scatter_elements, "Scatter": _scatter_elements, "Tile": _tile,
    "Expand": _expand, "ConstantOfShape": _filled, "Pad": _pad, "Range": _range, "OneHot": _one_hot,
    "SpaceToDepth": _to_blocks, "DepthToSpace": _from_blocks, "Trilu": _triangle, "NonZero": _places,
    "ReverseSequence": _reverse_sequence,
}  # fmt: skip
