"""Operators of ai.onnx.ml, in which scikit-learn, LightGBM and XGBoost are written: for tables of numbers and texts."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray
from onnx import numpy_helper

from export.onnx_operators.graph import Handler, Node
from export.onnx_operators.values import Untranslated, sizes_of

DEEPEST = 200
"""Levels of a tree that are written out, one after the other."""
LEAF = "LEAF"
BRANCHES: Mapping[str, Callable[[Any, Any], Any]] = {
    "BRANCH_LEQ": tf.less_equal, "BRANCH_LT": tf.less, "BRANCH_GTE": tf.greater_equal, "BRANCH_GT": tf.greater,
    "BRANCH_EQ": tf.equal, "BRANCH_NEQ": tf.not_equal,
}  # fmt: skip
ENDINGS: Mapping[str, Callable[[Any], Any]] = {"NONE": tf.identity, "LOGISTIC": tf.sigmoid, "SOFTMAX": tf.nn.softmax}


def _ending(node: Node) -> Callable[[Any], Any]:
    name = node.get("post_transform", "NONE")
    if name not in ENDINGS:
        raise Untranslated(f"post_transform={name}")
    return ENDINGS[name]


def _floats(node: Node, name: str) -> NDArray[np.float32]:
    """An attribute of fractions, which may be a tensor by another name; empty where it is not there."""
    tensor = node.attributes.get(f"{name}_as_tensor")
    values = node.attributes.get(name, ()) if tensor is None else numpy_helper.to_array(tensor)
    return np.asarray(values, np.float32)


def _listed(node: Node, *names: str) -> NDArray[Any]:
    """The first of these lists that the node has; texts are bytes."""
    for name in names:
        if values := node.attributes.get(name):
            return np.array(values, object if isinstance(values[0], bytes) else None)
    raise Untranslated(f"no {' or '.join(names)}")


def _labels(node: Node) -> NDArray[Any]:
    return _listed(node, "classlabels_int64s", "classlabels_ints", "classlabels_strings")


def _scaler(node: Node, x: Any) -> Any:
    return (tf.cast(x, tf.float32) - _floats(node, "offset")) * _floats(node, "scale")


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
    values = _listed(node, "imputed_value_floats", "imputed_value_int64s").astype(x.dtype.as_numpy_dtype)
    replaced = node.get("replaced_value_int64" if is_whole else "replaced_value_float", 0)
    is_replaced = tf.math.is_nan(x) if np.isnan(replaced) else tf.equal(x, tf.constant(replaced, x.dtype))
    return tf.where(is_replaced, tf.zeros_like(x) + values, x)


def _binarizer(node: Node, x: Any) -> Any:
    return tf.cast(x > tf.constant(node.get("threshold", 0.0), x.dtype), x.dtype)


def _columns(node: Node, x: Any, places: Any) -> Any:
    x = tf.convert_to_tensor(x)
    return tf.gather(x[tf.newaxis] if x.shape.rank == 1 else x, tf.reshape(places, [-1]), axis=-1)


def _side_by_side(node: Node, *columns: Any) -> Any:
    return tf.concat([tf.cast(column, tf.float32) for column in columns], 1)


def _one_hot(node: Node, x: Any) -> Any:
    kinds = _listed(node, "cats_int64s", "cats_strings")
    x = tf.expand_dims(x if kinds.dtype == object else tf.cast(x, tf.int64), -1)
    return tf.cast(tf.equal(x, tf.constant(kinds)), tf.float32)


def _encoder(node: Node, x: Any) -> Any:
    """Each value by the one that stands beside it in the list."""
    kinds = ("strings", "int64s", "floats")
    keys = _listed(node, *(f"keys_{kind}" for kind in kinds))
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
    weights = _floats(node, "coefficients").reshape(-1, x.shape[-1] or 1)
    sums = tf.matmul(x, node.weight(np.ascontiguousarray(weights.T)))
    offsets = _floats(node, "intercepts")
    return sums + offsets if offsets.size else sums


def _linear_regressor(node: Node, x: Any) -> Any:
    return _ending(node)(_linear(node, x))


def _linear_classifier(node: Node, x: Any) -> tuple[Any, Any]:
    scores, labels = _linear(node, x), _labels(node)
    if scores.shape[-1] != len(labels):
        raise Untranslated(f"{len(labels)} classes of {scores.shape[-1]} scores")
    return tf.gather(tf.constant(labels), tf.argmax(scores, -1)), _ending(node)(scores)


def _kernel(node: Node, x: Any, vectors: NDArray[np.float32]) -> Any:
    """How alike each row is to each support vector."""
    kind = node.get("kernel_type", "LINEAR")
    gamma, start, degree = (*_floats(node, "kernel_params"), 0.0, 0.0, 0.0)[:3]
    if kind == "RBF":
        away = tf.square(tf.expand_dims(x, 1) - vectors)
        return tf.exp(-gamma * tf.reduce_sum(away, -1))
    product = tf.matmul(x, np.ascontiguousarray(vectors.T))
    if kind == "POLY":
        return (gamma * product + start) ** degree
    return tf.tanh(gamma * product + start) if kind == "SIGMOID" else product


def _support_regressor(node: Node, x: Any) -> Any:
    x, count = tf.cast(x, tf.float32), node.get("n_supports", 0)
    coefficients = _floats(node, "coefficients")
    if count:
        vectors = _floats(node, "support_vectors").reshape(count, -1)
        sums = tf.matmul(_kernel(node, x, vectors), coefficients[:, np.newaxis])
    else:
        sums = tf.matmul(x, coefficients[:, np.newaxis])
    sums = sums + _floats(node, "rho")[:1]
    if node.get("one_class", 0):
        return tf.where(sums > 0, tf.ones_like(sums), -tf.ones_like(sums))
    return _ending(node)(sums)


@dataclass(frozen=True)
class Trees:
    """The trees of one node, all of their nodes in one row; a leaf leads to itself."""

    roots: NDArray[np.int32]
    features: NDArray[np.int32]
    values: NDArray[np.float32]
    branch: str
    """Which comparison all of them make."""
    yes: NDArray[np.int32]
    no: NDArray[np.int32]
    if_missing: NDArray[np.bool_]
    depth: int

    def leaves(self, x: Any) -> Any:
        """Where each row ends in each tree: (rows, trees)."""
        rows, columns = sizes_of(x)
        begins = tf.expand_dims(tf.range(rows) * columns, 1)
        place = tf.zeros_like(begins) + self.roots
        values = tf.reshape(x, [-1])
        for _ in range(self.depth):
            value = tf.gather(values, begins + tf.gather(self.features, place))
            is_yes = BRANCHES[self.branch](value, tf.gather(self.values, place))
            if self.if_missing.any():
                is_yes |= tf.math.is_nan(value) & tf.gather(self.if_missing, place)
            place = tf.where(is_yes, tf.gather(self.yes, place), tf.gather(self.no, place))
        return place


def _trees(node: Node) -> tuple[Trees, dict[tuple[int, int], int]]:
    """The trees, and where in their row each node is. Raises Untranslated."""
    about = node.attributes
    keys = list(zip(about["nodes_treeids"], about["nodes_nodeids"], strict=True))
    places = {key: place for place, key in enumerate(keys)}
    modes = [mode.decode() for mode in about["nodes_modes"]]
    branches = {*modes} - {LEAF}
    if len(branches) > 1 or not branches <= BRANCHES.keys():
        raise Untranslated(f"trees of {', '.join(sorted(branches))}")
    is_leaf = np.array([mode == LEAF for mode in modes])
    own = np.arange(len(keys), dtype=np.int32)
    yes, no = (
        np.array([at if leaf else places[tree, child] for at, leaf, (tree, _), child
                  in zip(own, is_leaf, keys, about[name], strict=True)], np.int32)
        for name in ("nodes_truenodeids", "nodes_falsenodeids")
    )  # fmt: skip
    children = {*yes[~is_leaf].tolist(), *no[~is_leaf].tolist()}
    roots = np.array([place for place in own.tolist() if place not in children], np.int32)
    if len(roots) != len({tree for tree, _ in keys}):
        raise Untranslated("trees without a beginning, or with two")
    missing = np.array(about.get("nodes_missing_value_tracks_true") or [0] * len(keys), bool)
    features = np.where(is_leaf, 0, about["nodes_featureids"]).astype(np.int32)
    branch = next(iter(branches), "BRANCH_LEQ")
    depth = _depth(roots, yes, no, is_leaf)
    return Trees(roots, features, _floats(node, "nodes_values"), branch, yes, no, missing, depth), places


def _depth(roots: Any, yes: Any, no: Any, is_leaf: Any) -> int:
    """The levels of the deepest tree. Raises Untranslated for deeper ones than are written out, and for a circle."""
    level, depth = roots, 0
    while not is_leaf[level].all():
        inner = level[~is_leaf[level]]
        level, depth = np.unique(np.concatenate([yes[inner], no[inner]])), depth + 1
        if depth > DEEPEST:
            raise Untranslated(f"trees of more than {DEEPEST} levels")
    return depth


def _scores(node: Node, x: Any, about: str, count: int) -> Any:
    """What the leaves say, added up: (rows, `count`). `about` is how the attributes of the leaves begin."""
    trees, places = _trees(node)
    weights = np.zeros((len(places), count), np.float32)
    of_tree, of_node, ids = (node.attributes[f"{about}_{name}"] for name in ("treeids", "nodeids", "ids"))
    for tree, leaf, number, weight in zip(of_tree, of_node, ids, _floats(node, f"{about}_weights"), strict=True):
        weights[places[tree, leaf], number] += weight
    votes = tf.gather(node.weight(weights), trees.leaves(tf.cast(x, tf.float32)))
    how = node.get("aggregate_function", "SUM")
    if how not in ("SUM", "AVERAGE"):
        raise Untranslated(f"aggregate_function={how}")
    sums = tf.reduce_sum(votes, 1) if how == "SUM" else tf.reduce_mean(votes, 1)
    base = _floats(node, "base_values")
    return sums + base if base.size else sums


def _tree_regressor(node: Node, x: Any) -> Any:
    return _ending(node)(_scores(node, x, "target", node.get("n_targets", 1)))


def _tree_classifier(node: Node, x: Any) -> tuple[Any, Any]:
    labels, ids = _labels(node), {*node.attributes["class_ids"]}
    if len(labels) > 2 or len(ids) > 1:
        scores = _scores(node, x, "class", len(labels))
        return tf.gather(tf.constant(labels), tf.argmax(scores, -1)), _ending(node)(scores)
    if _floats(node, "base_values").size > 1 or ids != {0}:
        raise Untranslated("two classes of one score, and a base value for each")
    score, ending = _scores(node, x, "class", 1), node.get("post_transform", "NONE")
    if (_floats(node, "class_weights") >= 0).all():  # ONNX Runtime takes it for a share then
        is_second, pair = score > 0.5, tf.concat([1 - score, score], 1)
    else:
        is_second, pair = score > 0, tf.concat([-score, score], 1)
        pair = tf.sigmoid(pair) if ending == "LOGISTIC" else pair
    return tf.gather(tf.constant(labels), tf.cast(is_second[:, 0], tf.int32)), pair


HANDLERS: dict[str, Handler] = {
    "Scaler": _scaler, "Normalizer": _unit, "Imputer": _imputer, "Binarizer": _binarizer,
    "ArrayFeatureExtractor": _columns, "FeatureVectorizer": _side_by_side, "OneHotEncoder": _one_hot,
    "LabelEncoder": _encoder, "LinearRegressor": _linear_regressor, "LinearClassifier": _linear_classifier,
    "SVMRegressor": _support_regressor, "TreeEnsembleRegressor": _tree_regressor,
    "TreeEnsembleClassifier": _tree_classifier,
}  # fmt: skip

OPERATORS: dict[str, Handler] = {f"ai.onnx.ml.{name}": handler for name, handler in HANDLERS.items()}
