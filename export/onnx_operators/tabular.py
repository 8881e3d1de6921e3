"""Operators of ai.onnx.ml, in which scikit-learn, LightGBM and XGBoost are written: for tables of numbers and texts."""

from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from export.onnx_operators import supports, trees
from export.onnx_operators.graph import Handler, Node
from export.onnx_operators.table_settings import chosen, ended, floats, labels_of, listed
from export.onnx_operators.values import Untranslated


def _scaler(node: Node, x: Any) -> Any:
    return (tf.cast(x, tf.float32) - floats(node, "offset")) * floats(node, "scale")


def _unit(node: Node, x: Any) -> Any:
    x = tf.cast(x, tf.float32)
    norm = node.get("norm", "MAX")
    if norm == "MAX":
        size = tf.reduce_max(x, -1, keepdims=True)
    elif norm == "L1":
        size = tf.reduce_sum(tf.abs(x), -1, keepdims=True)
    else:
        size = tf.sqrt(tf.reduce_sum(tf.square(x), -1, keepdims=True))
    return x / tf.where(tf.equal(size, 0), tf.ones_like(size), size)


def _imputer(node: Node, x: Any) -> Any:
    is_whole = "imputed_value_int64s" in node.attributes
    values = listed(node, "imputed_value_floats", "imputed_value_int64s").astype(x.dtype.as_numpy_dtype)
    replaced = node.get("replaced_value_int64" if is_whole else "replaced_value_float", 0)
    is_replaced = tf.math.is_nan(x) if np.isnan(replaced) else tf.equal(x, tf.constant(replaced, x.dtype))
    return tf.where(is_replaced, tf.zeros_like(x) + values, x)


def _binarizer(node: Node, x: Any) -> Any:
    return tf.cast(x > tf.constant(node.get("threshold", 0.0), x.dtype), x.dtype)


def _columns(node: Node, x: Any, places: Any) -> Any:
    x, places = tf.convert_to_tensor(x), tf.reshape(places, [-1])
    if x.shape.rank == 1 or x.shape[:-1] == [1]:  # TF Lite has texts by their place in a single list only
        return tf.gather(tf.reshape(x, [-1]), places)[tf.newaxis]
    return tf.gather(x, places, axis=-1)


def _side_by_side(node: Node, *columns: Any) -> Any:
    return tf.concat([tf.cast(column, tf.float32) for column in columns], 1)


def _one_hot(node: Node, x: Any) -> Any:
    kinds = listed(node, "cats_int64s", "cats_strings")
    x = tf.expand_dims(x if kinds.dtype == object else tf.cast(x, tf.int64), -1)
    return tf.cast(tf.equal(x, tf.constant(kinds)), tf.float32)


def _encoder(node: Node, x: Any) -> Any:
    """Each value by the one that stands beside it in the list."""
    kinds = ("strings", "int64s", "floats")
    keys = listed(node, *(f"keys_{kind}" for kind in kinds))
    kind = next((kind for kind in kinds if f"values_{kind}" in node.attributes), None)
    if kind is None:
        raise Untranslated("a mapping in a tensor")
    default = {"strings": b"_Unused", "int64s": -1, "floats": -0.0}[kind]
    values = tf.constant(_of_kind(node.attributes[f"values_{kind}"], kind))
    default = tf.constant(node.attributes.get(f"default_{kind.removesuffix('s')}", default), values.dtype)
    is_key = tf.equal(tf.expand_dims(x, -1), tf.constant(keys, x.dtype))
    own = tf.gather(values, tf.argmax(tf.cast(is_key, tf.int32), -1))
    return tf.where(tf.reduce_any(is_key, -1), own, default)


def _of_kind(values: Any, kind: str) -> NDArray[Any]:
    return np.array(values, {"strings": object, "int64s": np.int64, "floats": np.float32}[kind])


def _linear(node: Node, x: Any) -> Any:
    """The weighted sums of a row, one for each row of the coefficients."""
    x = tf.cast(x, tf.float32)
    weights, offsets, width = floats(node, "coefficients"), floats(node, "intercepts"), x.shape[-1] or 1
    if weights.size != width * (offsets.size or weights.size // width):
        raise Untranslated(f"{weights.size} coefficients for {offsets.size or 'some'} sums of {width} values")
    weights = weights.reshape(-1, width)
    sums = tf.matmul(x, node.weight(np.ascontiguousarray(weights.T)))
    return sums + offsets if offsets.size else sums


def _linear_regressor(node: Node, x: Any) -> Any:
    return ended(node.get("post_transform", "NONE"), _linear(node, x))


def _linear_classifier(node: Node, x: Any) -> tuple[Any, Any]:
    scores, labels = _linear(node, x), labels_of(node)
    if scores.shape[-1] != len(labels):
        raise Untranslated(f"{len(labels)} classes of {scores.shape[-1]} scores")
    return chosen(labels, tf.argmax(scores, -1)), ended(node.get("post_transform", "NONE"), scores)


HANDLERS: dict[str, Handler] = {
    "Scaler": _scaler, "Normalizer": _unit, "Imputer": _imputer, "Binarizer": _binarizer,
    "ArrayFeatureExtractor": _columns, "FeatureVectorizer": _side_by_side, "OneHotEncoder": _one_hot,
    "LabelEncoder": _encoder, "LinearRegressor": _linear_regressor, "LinearClassifier": _linear_classifier,
    **supports.HANDLERS, **trees.HANDLERS,
}  # fmt: skip

OPERATORS: dict[str, Handler] = {f"ai.onnx.ml.{name}": handler for name, handler in HANDLERS.items()}
