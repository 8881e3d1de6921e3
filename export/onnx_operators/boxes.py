"""Boxes of a detector: which of those that overlap are kept."""

from typing import Any

import numpy as np
import tensorflow as tf

from export.onnx_operators.graph import Handler, Node
from export.onnx_operators.values import Untranslated, constant, sizes_of


def _kept(
    node: Node, boxes: Any, scores: Any, most: Any = None, overlap: Any = None, least: Any = None
) -> Any:  # fmt: skip
    """(kept, 3): picture, class and box of each box that no better one of its class overlaps by too much."""
    batch, classes, _ = sizes_of(scores)
    if not isinstance(batch, int) or not isinstance(classes, int):
        raise Untranslated("boxes of a free number of pictures")
    count = 0 if most is None else int(constant(most).reshape(-1)[0])
    shared = 0.0 if overlap is None else float(constant(overlap).reshape(-1)[0])
    lowest = -np.inf if least is None else float(constant(least).reshape(-1)[0])
    corners = _corners(boxes) if node.get("center_point_box", 0) else boxes
    kept = []
    for picture, class_number in np.ndindex(batch, classes):
        places = tf.image.non_max_suppression(corners[picture], scores[picture, class_number], count, shared, lowest)
        about = [tf.fill(tf.shape(places), number) for number in (picture, class_number)]
        kept.append(tf.stack([*about, places], axis=1))
    return tf.cast(tf.concat(kept, axis=0), tf.int64)


def _corners(boxes: Any) -> Any:
    """Boxes (..., 4) of a centre, a width and a height by two of their corners, the vertical place first."""
    across, down, width, height = tf.unstack(boxes, axis=-1)
    return tf.stack([down - height / 2, across - width / 2, down + height / 2, across + width / 2], axis=-1)


OPERATORS: dict[str, Handler] = {"NonMaxSuppression": _kept}
