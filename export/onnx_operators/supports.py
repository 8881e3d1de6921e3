"""Support vector machines of ai.onnx.ml, as ONNX Runtime computes them."""

from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from export.onnx_operators.graph import Handler, Node
from export.onnx_operators.table_settings import chosen, ended, floats, labels_of
from export.onnx_operators.values import Untranslated

ROUNDS = 10
"""Rounds of the shares of classes that are written out. Random scores of 2 to 10 classes needed at most 4, whether the
pairs are sure or not; ONNX Runtime stops at 100."""
STILL = 0.005
"""The shares are done when what is left of the error is below this part of one class's share."""
SUREST = np.float32(1e-7)
"""No pair of classes is surer than this."""


def _kernel(node: Node, x: Any, vectors: NDArray[np.float32]) -> Any:
    """How alike each row is to each support vector."""
    kind = node.get("kernel_type", "LINEAR")
    gamma, start, degree = (*floats(node, "kernel_params"), 0.0, 0.0, 0.0)[:3]
    if kind == "RBF":
        away = tf.square(tf.expand_dims(x, 1) - node.weight(vectors))
        return tf.exp(-gamma * tf.reduce_sum(away, -1))
    product = tf.matmul(x, node.weight(np.ascontiguousarray(vectors.T)))
    if kind == "POLY":
        return _power(gamma * product + start, float(degree))
    return tf.tanh(gamma * product + start) if kind == "SIGMOID" else product


def _power(base: Any, degree: float) -> Any:
    """A small whole power as products: not every runtime takes powers of negative numbers."""
    if degree == 2:
        return tf.square(base)
    return tf.square(base) * base if degree == 3 else base**degree


def _regressor(node: Node, x: Any) -> Any:
    """ONNX Runtime reads post_transform, and does nothing with it."""
    x, count = tf.cast(x, tf.float32), node.get("n_supports", 0)
    coefficients = floats(node, "coefficients")
    likeness = _kernel(node, x, floats(node, "support_vectors").reshape(count, -1)) if count else x
    sums = tf.matmul(likeness, coefficients[:, np.newaxis]) + floats(node, "rho")[:1]
    return tf.where(sums > 0, tf.ones_like(sums), -tf.ones_like(sums)) if node.get("one_class", 0) else sums


def _classifier(node: Node, x: Any) -> tuple[Any, Any]:
    x, labels = tf.cast(x, tf.float32), labels_of(node)
    sizes = node.attributes.get("vectors_per_class") or ()
    if not sum(sizes):
        return _linear_classifier(node, x, labels)
    if len(labels) < 2:
        raise Untranslated("support vectors of a single class")
    sums = _sums_of_pairs(node, x, list(sizes))
    return chosen(labels, _most_votes(sums, len(labels))), _scores(node, sums, len(labels))


def _linear_classifier(node: Node, x: Any, labels: NDArray[Any]) -> tuple[Any, Any]:
    """Without support vectors: one weighted sum for each class."""
    coefficients = floats(node, "coefficients")
    weights = coefficients.reshape(len(labels), -1)
    scores = tf.matmul(x, node.weight(np.ascontiguousarray(weights.T))) + floats(node, "rho")[:1]
    best = tf.argmax(scores, -1)
    if len(labels) == 2 and not floats(node, "prob_a").size:  # a high score is one for the second class, whosever it is
        top = tf.reduce_max(scores, -1)
        is_second = top >= 0.5 if (coefficients >= 0).all() else top > 0
        best = tf.where(is_second, tf.ones_like(best), best)
    return chosen(labels, best), ended(node.get("post_transform", "NONE"), scores)


def _pairs(count: int) -> list[tuple[int, int]]:
    """Each pair of classes, in the order of their scores."""
    return [(first, second) for first in range(count) for second in range(first + 1, count)]


def _sums_of_pairs(node: Node, x: Any, sizes: list[int]) -> Any:
    """The weighted sum of each pair of classes: above 0 for the first of them.

    A class has one coefficient for each of its vectors and each other class.
    """
    total, pairs, ends = sum(sizes), _pairs(len(sizes)), np.cumsum(sizes)
    of_class = [slice(end - size, end) for end, size in zip(ends, sizes, strict=True)]
    coefficients = floats(node, "coefficients")[: (len(sizes) - 1) * total].reshape(-1, total)
    weights = np.zeros((total, len(pairs)), np.float32)
    for place, (first, second) in enumerate(pairs):
        weights[of_class[first], place] = coefficients[second - 1, of_class[first]]
        weights[of_class[second], place] = coefficients[first, of_class[second]]
    likeness = _kernel(node, x, floats(node, "support_vectors").reshape(total, -1))
    return tf.matmul(likeness, node.weight(weights)) + floats(node, "rho")[: len(pairs)]


def _most_votes(sums: Any, count: int) -> Any:
    """The class that wins most of its pairs; the first of them where there are several."""
    firsts, seconds = (np.eye(count, dtype=np.float32)[list(side)] for side in zip(*_pairs(count), strict=True))
    is_first = tf.cast(sums > 0, tf.float32)
    return tf.argmax(tf.matmul(is_first, firsts) + tf.matmul(1.0 - is_first, seconds), -1)


def _scores(node: Node, sums: Any, count: int) -> Any:
    how = node.get("post_transform", "NONE")
    slopes, offsets = floats(node, "prob_a"), floats(node, "prob_b")
    if slopes.size:
        pairs = sums.shape[-1]
        sure = tf.sigmoid(-(sums * slopes[:pairs] + offsets[:pairs]))
        return ended(how, _shares(tf.clip_by_value(sure, SUREST, 1 - SUREST), count))
    if count > 2:
        return ended(how, sums)
    if how in ("NONE", "LOGISTIC"):
        return ended(how, tf.concat([-sums, sums], 1))
    ended(how, sums)  # raises for what is not known; the others leave the only score as it is
    return tf.concat([1.0 - sums, sums], 1)


def _shares(sure: Any, count: int) -> Any:
    """The probability of each class, from how sure each pair is of its first.

    The method of Wu, Lin and Weng ("Probability estimates for multi-class classification by pairwise coupling", 2004),
    as libsvm has it, in steps of single classes. A row that is done keeps its shares.
    """
    pairs = _pairs(count)
    places = np.full((count, count), 2 * len(pairs), np.int32)
    for place, (first, second) in enumerate(pairs):
        places[first, second], places[second, first] = place, place + len(pairs)
    both = tf.concat([sure, 1.0 - sure, tf.zeros_like(sure[:, :1])], 1)
    wins, losses = tf.gather(both, places, axis=1), tf.gather(both, np.ascontiguousarray(places.T), axis=1)
    own = tf.reduce_sum(tf.square(losses), -1)
    between = tf.expand_dims(own, -1) * np.eye(count, dtype=np.float32) - wins * losses
    shares = tf.zeros_like(own) + np.float32(1 / count)
    for _ in range(ROUNDS):
        product = tf.reduce_sum(between * tf.expand_dims(shares, 1), -1)
        total = tf.reduce_sum(shares * product, -1, keepdims=True)
        is_done = tf.reduce_max(tf.abs(product - total), -1, keepdims=True) < np.float32(STILL / count)
        shares = tf.where(is_done, shares, _next_shares(shares, between, own, product, total))
    return shares


def _next_shares(shares: Any, between: Any, own: Any, product: Any, total: Any) -> Any:
    """The shares after a step for each class."""
    for place, of_class in enumerate(np.eye(shares.shape[-1], dtype=np.float32)):
        mine, ours = own[:, place : place + 1], product[:, place : place + 1]
        step = (total - ours) / mine
        shares = (shares + step * of_class) / (1.0 + step)
        total = (total + step * (step * mine + 2.0 * ours)) / (1.0 + step) / (1.0 + step)
        product = (product + step * between[:, place]) / (1.0 + step)
    return shares


HANDLERS: dict[str, Handler] = {"SVMRegressor": _regressor, "SVMClassifier": _classifier}
