"""Resizing: by TensorFlow's own operators where they do the same, else as a sum of known weights along each axis."""

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from export.onnx_operators.graph import Handler, Node
from export.onnx_operators.values import ChannelsLast, Untranslated, channels_last, constant, items_of, plain, sizes_of


def _resize(node: Node, x: Any, *more: Any) -> Any:
    roi_first = node.operator == "Resize" and node.opset >= 11
    scales, sizes = (more[1] if len(more) > 1 else None, more[2] if len(more) > 2 else None) if roi_first else (
        more[0] if more else None, None)  # fmt: skip
    mode = node.get("mode", "nearest")
    turning = node.get("coordinate_transformation_mode", "half_pixel" if roi_first else "asymmetric")
    scales = node.setting("scales", scales)
    own = sizes_of(x)
    axes = [axis % len(own) for axis in node.get("axes") or range(len(own))]
    whole = [1.0] * len(own)
    target = list(own)
    if sizes is not None and items_of(sizes):
        for axis, size in zip(axes, items_of(sizes) or [], strict=True):
            target[axis] = size
            whole[axis] = size / own[axis] if isinstance(size, int) and isinstance(own[axis], int) else 0.0
    else:
        for axis, scale in zip(axes, constant(scales).reshape(-1), strict=True):
            whole[axis] = float(scale)
            target[axis] = _scaled(own[axis], float(scale))
    if node.get("keep_aspect_ratio_policy", "stretch") != "stretch":
        raise Untranslated("resizing that keeps the aspect ratio")
    rounding = node.get("nearest_mode", "round_prefer_floor" if roi_first else "floor")
    if len(own) == 4 and target[1] == own[1] and not node.get("antialias", 0):
        y = _by_tensorflow(channels_last(x), target[2:], mode, turning, rounding, whole[2:])
        if y is not None:
            return ChannelsLast(y)
    return _by_weights(node, plain(x), target, whole, mode, turning, rounding)


def _scaled(size: Any, scale: float) -> Any:
    if scale == 1.0:
        return size
    if isinstance(size, int):
        return int(np.floor(size * np.float32(scale)))
    return size * int(scale) if scale == int(scale) else tf.cast(tf.cast(size, tf.float32) * scale, tf.int32)


def _by_tensorflow(x: Any, size: list[Any], mode: str, turning: str, rounding: str, scales: list[float]) -> Any:
    """The picture in another size, or None where TensorFlow has no such operator."""
    old = tf.compat.v1.image
    if mode == "linear":
        if turning == "align_corners":
            return old.resize_bilinear(x, size, align_corners=True)
        if turning in ("half_pixel", "pytorch_half_pixel"):
            return old.resize_bilinear(x, size, half_pixel_centers=True)
        return old.resize_bilinear(x, size) if turning == "asymmetric" else None
    grows_whole = all(scale >= 1 and scale == int(scale) for scale in scales)
    if mode == "nearest" and (
        (turning == "asymmetric" and rounding == "floor")
        or (turning == "half_pixel" and rounding == "round_prefer_floor" and grows_whole)
    ):
        return old.resize_nearest_neighbor(x, size)
    return None


def _by_weights(
    node: Node, x: Any, target: list[Any], scales: list[float], mode: str, turning: str, rounding: str
) -> Any:
    for axis, (size, wanted) in enumerate(zip(sizes_of(x), target, strict=True)):
        if axis == 0 or scales[axis] == 1.0:  # nothing resizes the batch
            continue
        if not isinstance(size, int) or not isinstance(wanted, int):
            raise Untranslated(f"{mode} resizing where a size is free")
        places = _places(size, wanted, scales[axis], turning)
        if mode == "nearest":
            x = tf.gather(x, ROUNDED[rounding](places).clip(0, size - 1).astype(np.int32), axis=axis)
            continue
        weights = _weights(places, size, wanted / size if node.get("antialias", 0) else 1.0, mode, node)
        order = [place for place in range(len(x.shape)) if place != axis]
        moved = tf.matmul(tf.transpose(x, [*order, axis]), node.weight(weights.T.astype(np.float32)))
        x = tf.transpose(moved, np.argsort([*order, axis]))
    return x


def _places(size: int, wanted: int, scale: float, turning: str) -> NDArray[np.float64]:
    """Where each new value lies among the old ones."""
    new = np.arange(wanted, dtype=np.float64)
    if turning == "align_corners":
        return new * (size - 1) / max(wanted - 1, 1)
    if turning == "asymmetric":
        return new / scale
    if turning == "half_pixel_symmetric":
        adjusted = wanted / (scale * size)
        return size / 2 * (1 - adjusted) + (new + 0.5) / scale - 0.5
    if turning == "pytorch_half_pixel" and wanted == 1:
        return np.full(1, -0.5)
    if turning in ("half_pixel", "pytorch_half_pixel"):
        return (new + 0.5) / scale - 0.5
    raise Untranslated(f"resizing with {turning}")


ROUNDED: dict[str, Callable[[NDArray[np.float64]], NDArray[np.float64]]] = {
    "floor": np.floor,
    "ceil": np.ceil,
    "round_prefer_floor": lambda places: np.ceil(places - 0.5),
    "round_prefer_ceil": lambda places: np.floor(places + 0.5),
}
"""ONNX's name -> the old place that is meant."""


def _weights(places: NDArray[np.float64], size: int, scale: float, mode: str, node: Node) -> NDArray[np.float64]:
    """(new, old): how much of each old value is in each new one."""
    shrunk = min(scale, 1.0)
    reach = (2 if mode == "cubic" else 1) / shrunk
    weights = np.zeros((len(places), size))
    for row, place in enumerate(places):
        place = place if mode == "cubic" or shrunk < 1 else np.clip(place, 0, size - 1)
        near = np.arange(int(np.floor(place - reach)), int(np.ceil(place + reach)) + 1)
        shares = _share(np.abs(near - place) * shrunk, mode, node.get("cubic_coeff_a", -0.75))
        if node.get("exclude_outside", 0) or shrunk < 1:
            shares = np.where((near >= 0) & (near < size), shares, 0)
        np.add.at(weights[row], near.clip(0, size - 1), shares / shares.sum())
    return weights


def _share(distance: NDArray[np.float64], mode: str, a: float) -> NDArray[np.float64]:
    if mode == "linear":
        return np.maximum(0, 1 - distance)
    d = distance
    inner = (a + 2) * d**3 - (a + 3) * d**2 + 1
    outer = a * d**3 - 5 * a * d**2 + 8 * a * d - 4 * a
    return np.where(d <= 1, inner, np.where(d < 2, outer, 0.0))


def _sampled(node: Node, x: Any, grid: Any) -> Any:
    """The values of a picture at the places of a grid (N, H, W, 2), each -1..1 from edge to edge."""
    mode, padding = node.get("mode", "linear"), node.get("padding_mode", "zeros")
    if mode not in ("linear", "bilinear", "nearest") or padding not in ("zeros", "border") or len(x.shape) != 4:
        raise Untranslated(f"sampling of {len(x.shape) - 2} dimensions, {mode}, with {padding} around")
    x = channels_last(x)
    sizes = [tf.cast(size, tf.float32) for size in sizes_of(x)[1:3]]
    is_aligned = bool(node.get("align_corners", 0))
    across, down = (
        (grid[..., axis] + 1) * ((size - 1) if is_aligned else size) / 2 - (0 if is_aligned else 0.5)
        for axis, size in ((0, sizes[1]), (1, sizes[0]))
    )
    if padding == "border":
        across, down = tf.clip_by_value(across, 0, sizes[1] - 1), tf.clip_by_value(down, 0, sizes[0] - 1)
    if mode == "nearest":
        return ChannelsLast(_at(x, tf.round(down), tf.round(across), sizes))
    top, left = tf.floor(down), tf.floor(across)
    total: Any = 0.0
    for row, column in ((0, 0), (0, 1), (1, 0), (1, 1)):
        share = (1 - tf.abs(down - top - row)) * (1 - tf.abs(across - left - column))
        total = total + share[..., None] * _at(x, top + row, left + column, sizes)
    return ChannelsLast(total)


def _at(x: Any, down: Any, across: Any, sizes: list[Any]) -> Any:
    """The values at whole places; 0 outside of the picture."""
    is_inside = (down >= 0) & (down <= sizes[0] - 1) & (across >= 0) & (across <= sizes[1] - 1)
    rows, columns = tf.clip_by_value(down, 0, sizes[0] - 1), tf.clip_by_value(across, 0, sizes[1] - 1)
    places = tf.stack([tf.cast(rows, tf.int32), tf.cast(columns, tf.int32)], axis=-1)
    return tf.gather_nd(x, places, batch_dims=1) * tf.cast(is_inside, x.dtype)[..., None]


KEEP = frozenset({"Resize", "Upsample"})
OPERATORS: dict[str, Handler] = {"Resize": _resize, "Upsample": _resize, "GridSample": _sampled}
