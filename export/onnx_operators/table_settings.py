"""What the operators of ai.onnx.ml have in common: their lists of settings, and what becomes of scores at the end."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray
from onnx import numpy_helper

from export.onnx_operators.graph import Node
from export.onnx_operators.values import Untranslated

NOTHING = 1e-7
"""Up to this far from 0 a score is none at all for SOFTMAX_ZERO."""


def _softmax_of_others(scores: Any) -> Any:
    """Softmax of the scores that are not 0."""
    top = tf.reduce_max(scores, -1, keepdims=True)
    parts = tf.where(tf.abs(scores) > NOTHING, tf.exp(scores - top), scores * tf.exp(-top))
    return parts / tf.reduce_sum(parts, -1, keepdims=True)


ENDINGS: Mapping[str, Callable[[Any], Any]] = {
    "NONE": tf.identity, "LOGISTIC": tf.sigmoid, "SOFTMAX": tf.nn.softmax, "SOFTMAX_ZERO": _softmax_of_others,
}  # fmt: skip


def ending(name: str) -> Callable[[Any], Any]:
    """What a post_transform does with several scores of a row. Raises Untranslated."""
    if name not in ENDINGS:
        raise Untranslated(f"post_transform={name}")
    return ENDINGS[name]


def ended(name: str, scores: Any) -> Any:
    """The scores after a post_transform: ONNX Runtime leaves a single one as it is."""
    end = ending(name)
    return scores if scores.shape[-1] == 1 else end(scores)


def floats(node: Node, name: str, dtype: Any = np.float32) -> NDArray[Any]:
    """An attribute of fractions, which may be a tensor by another name; empty where it is not there."""
    tensor = node.attributes.get(f"{name}_as_tensor")
    values = node.attributes.get(name, ()) if tensor is None else numpy_helper.to_array(tensor)
    return np.asarray(values, dtype)


def listed(node: Node, *names: str) -> NDArray[Any]:
    """The first of these lists that the node has; texts are bytes."""
    for name in names:
        if values := node.attributes.get(name):
            return np.array(values, object if isinstance(values[0], bytes) else None)
    raise Untranslated(f"no {' or '.join(names)}")


def labels_of(node: Node) -> NDArray[Any]:
    return listed(node, "classlabels_int64s", "classlabels_ints", "classlabels_strings")


def chosen(labels: NDArray[Any], places: Any) -> Any:
    """The label of each row, by its place among them."""
    return tf.gather(tf.constant(labels), places)
