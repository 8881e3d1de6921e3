"""Trees of ai.onnx.ml, as ONNX Runtime walks through them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray
from onnx import numpy_helper

from export.onnx_operators.graph import Handler, Node
from export.onnx_operators.table_settings import chosen, ended, floats, labels_of
from export.onnx_operators.values import Untranslated, sizes_of

DEEPEST = 200
"""Levels of a tree that are written out, one after the other."""
LEAF = "LEAF"
BRANCHES: Mapping[str, Callable[[Any, Any], Any]] = {
    "BRANCH_LEQ": tf.less_equal, "BRANCH_LT": tf.less, "BRANCH_GTE": tf.greater_equal, "BRANCH_GT": tf.greater,
    "BRANCH_EQ": tf.equal, "BRANCH_NEQ": tf.not_equal,
}  # fmt: skip
MEMBER = "BRANCH_MEMBER"
NUMBERED = (*BRANCHES, MEMBER)
"""The comparisons in the order of their numbers in TreeEnsemble."""
AGGREGATES = ("AVERAGE", "SUM", "MIN", "MAX")
ENDINGS = ("NONE", "LOGISTIC", "SOFTMAX", "SOFTMAX_ZERO", "PROBIT")
"""As ONNX Runtime 1.31 numbers them in TreeEnsemble. ONNX itself has SOFTMAX before LOGISTIC."""


@dataclass(frozen=True)
class Trees:
    """The trees of one node, all of their nodes in one row; a leaf leads to itself."""

    roots: NDArray[np.int32]
    features: NDArray[np.int32]
    values: NDArray[Any]
    modes: NDArray[Any]
    """Which comparison each of them makes, or that it is a leaf."""
    yes: NDArray[np.int32]
    no: NDArray[np.int32]
    if_missing: NDArray[np.bool_]
    depth: int

    def leaves(self, x: Any) -> Any:
        """Where each row ends in each tree: (rows, trees)."""
        rows, columns = sizes_of(x)
        begins = tf.expand_dims(tf.range(rows) * columns, 1)
        place = tf.zeros_like(begins) + self.roots
        numbers = tf.reshape(x, [-1])
        for _ in range(self.depth):
            value = tf.gather(numbers, begins + tf.gather(self.features, place))
            is_yes = self._is_yes(value, place)
            if self.if_missing.any():
                is_yes |= tf.math.is_nan(value) & tf.gather(self.if_missing, place)
            place = tf.where(is_yes, tf.gather(self.yes, place), tf.gather(self.no, place))
        return place

    def _is_yes(self, value: Any, place: Any) -> Any:
        limit = tf.gather(self.values, place)
        kinds = sorted({*self.modes.tolist()} - {LEAF})
        if len(kinds) == 1:
            return BRANCHES[kinds[0]](value, limit)
        answers = [tf.gather(self.modes == kind, place) & BRANCHES[kind](value, limit) for kind in kinds]
        is_yes = answers[0]
        for answer in answers[1:]:
            is_yes |= answer
        return is_yes


@dataclass(frozen=True)
class Leaves:
    """What leaves say: a leaf's place, the number of what it is about, and its weight."""

    places: NDArray[np.int32]
    numbers: NDArray[np.int32]
    weights: NDArray[Any]

    def table(self, nodes: int, count: int, how: str) -> NDArray[Any]:
        """The weights of each node: (nodes, `count`); a number that counts for nothing where it says none."""
        dtype = self.weights.dtype
        beyond = np.finfo(dtype).max
        add, nothing = {"MIN": (np.minimum, beyond), "MAX": (np.maximum, -beyond)}.get(how, (np.add, 0))
        table = np.full((nodes, count), nothing, dtype)
        add.at(table, (self.places, self.numbers), self.weights)
        return table


def _precision(x: Any) -> Any:
    """What ONNX Runtime compares in: float64 for rows of float64."""
    return np.float64 if x.dtype == tf.float64 else np.float32


def _trees(node: Node, dtype: Any) -> tuple[Trees, dict[tuple[int, int], int]]:
    """The trees, and where in their row each node is. Raises Untranslated."""
    about = node.attributes
    keys = list(zip(about["nodes_treeids"], about["nodes_nodeids"], strict=True))
    places = {key: place for place, key in enumerate(keys)}
    modes = np.array([mode.decode() for mode in about["nodes_modes"]])
    _check(modes)
    is_leaf = modes == LEAF
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
    depth = _depth(roots, yes, no, is_leaf)
    return Trees(roots, features, floats(node, "nodes_values", dtype), modes, yes, no, missing, depth), places


def _check(modes: NDArray[Any]) -> None:
    if unknown := {*modes.tolist()} - {*BRANCHES, LEAF}:
        raise Untranslated(f"trees of {', '.join(sorted(unknown))}")


def _depth(roots: Any, yes: Any, no: Any, is_leaf: Any) -> int:
    """The levels of the deepest tree. Raises Untranslated for deeper ones than are written out, and for a circle."""
    level, depth = roots, 0
    while not is_leaf[level].all():
        inner = level[~is_leaf[level]]
        level, depth = np.unique(np.concatenate([yes[inner], no[inner]])), depth + 1
        if depth > DEEPEST:
            raise Untranslated(f"trees of more than {DEEPEST} levels")
    return depth


def _votes(node: Node, x: Any, about: str, count: int) -> Any:
    """What the leaves say, brought together: (rows, `count`). `about` is how the attributes of the leaves begin."""
    dtype = _precision(x)
    trees, places = _trees(node, dtype)
    of_tree, of_node, numbers = (node.attributes[f"{about}_{name}"] for name in ("treeids", "nodeids", "ids"))
    at = np.array([places[key] for key in zip(of_tree, of_node, strict=True)], np.int32)
    leaves = Leaves(at, np.array(numbers, np.int32), floats(node, f"{about}_weights", dtype))
    return _together(node, x, trees, leaves, count, node.get("aggregate_function", "SUM"))


def _together(node: Node, x: Any, trees: Trees, leaves: Leaves, count: int, how: str) -> Any:
    if how not in AGGREGATES:
        raise Untranslated(f"aggregate_function={how}")
    table = leaves.table(len(trees.modes), count, how)
    votes = tf.gather(node.weight(table), trees.leaves(tf.cast(x, trees.values.dtype)))
    if how in ("SUM", "AVERAGE"):
        return tf.reduce_sum(votes, 1) if how == "SUM" else tf.reduce_mean(votes, 1)
    ends = tf.reduce_min(votes, 1) if how == "MIN" else tf.reduce_max(votes, 1)
    is_none = tf.abs(ends) >= np.finfo(table.dtype).max  # no tree says anything about it
    return tf.where(is_none, tf.zeros_like(ends), ends)


def _regressor(node: Node, x: Any) -> Any:
    sums = _votes(node, x, "target", node.get("n_targets", 1))
    base = floats(node, "base_values", _precision(x))
    return tf.cast(ended(node.get("post_transform", "NONE"), sums + base if base.size else sums), tf.float32)


def _classifier(node: Node, x: Any) -> tuple[Any, Any]:
    labels, base = labels_of(node), floats(node, "base_values", _precision(x))
    if len(labels) < 2:
        raise Untranslated("trees of a single class")
    votes = _votes(node, x, "class", len(labels))
    if len(labels) == 2:
        return _of_two(node, labels, votes, base)
    scores = votes + base if base.size else votes
    scores = tf.cast(scores, tf.float32)
    return chosen(labels, tf.argmax(scores, -1)), ended(node.get("post_transform", "NONE"), scores)


def _of_two(node: Node, labels: NDArray[Any], votes: Any, base: NDArray[Any]) -> tuple[Any, Any]:
    """Two classes, as ONNX Runtime has them: what a score means depends on which classes the leaves name."""
    named, how = {*node.attributes["class_ids"]}, node.get("post_transform", "NONE")
    is_share = bool((floats(node, "class_weights") >= 0).all())
    first, second = votes[:, :1], votes[:, 1:]
    if named == {0, 1}:
        _check_leaves(node)
        labels = labels if labels.dtype == object else np.array([0, 1])  # whatever the classes are numbered
        decisive, pair = _of_both(first, second, base)
    elif named == {1}:
        if base.size > 1:
            raise Untranslated("two classes of two base values, for which ONNX Runtime leaves out the trees")
        decisive, pair = second, tf.concat([tf.zeros_like(second), second], 1)  # and the base value is left out
    elif base.size > 1:
        decisive = first + base[0]
        pair = tf.concat([decisive, tf.zeros_like(decisive)], 1)
    else:
        decisive = first + base if base.size else first
        return _by_one_score(labels, decisive, is_share, how)
    is_second = decisive > (0.5 if is_share and len(named) == 1 else 0.0)
    return chosen(labels, tf.cast(is_second[:, 0], tf.int32)), ended(how, tf.cast(pair, tf.float32))


def _of_both(first: Any, second: Any, base: NDArray[Any]) -> tuple[Any, Any]:
    """The score that decides, and both, where leaves name both classes."""
    if base.size > 1:
        total = first + base[1]
        return total, tf.concat([-total, total], 1)
    return second, tf.concat([first + base if base.size else first, second], 1)


def _by_one_score(labels: NDArray[Any], score: Any, is_share: bool, how: str) -> tuple[Any, Any]:
    """Two classes of one score: a share of the second class where no leaf is below 0."""
    is_second = score > (0.5 if is_share else 0.0)
    score = tf.cast(score, tf.float32)
    ended(how, score)  # raises for what is not known; all but LOGISTIC leave the only score as it is
    if how == "LOGISTIC":
        pair = tf.sigmoid(tf.concat([-score, score], 1))
    else:
        pair = tf.concat([1.0 - score if is_share else -score, score], 1)
    return chosen(labels, tf.cast(is_second[:, 0], tf.int32)), pair


def _check_leaves(node: Node) -> None:
    """ONNX Runtime decides by the first class where no leaf that a row came to names the second one."""
    about = node.attributes
    nodes = zip(about["nodes_treeids"], about["nodes_nodeids"], about["nodes_modes"], strict=True)
    ends = [(tree, place) for tree, place, mode in nodes if mode.decode() == LEAF]
    saying = {*zip(about["class_treeids"], about["class_nodeids"], about["class_ids"], strict=True)}
    for number in (0, 1):
        silent = {tree for tree, place in ends if (tree, place, number) not in saying}
        if silent == {tree for tree, _ in ends}:
            raise Untranslated("trees of two classes, each of which has leaves that do not name both")


def _ensemble(node: Node, x: Any) -> Any:
    """TreeEnsemble, of ai.onnx.ml 5: nodes and leaves are in lists of their own."""
    dtype, about = _precision(x), node.attributes
    trees, inner = _numbered_trees(node, dtype)
    weights = numpy_helper.to_array(about["leaf_weights"]).astype(dtype)
    numbers = np.array(about["leaf_targetids"], np.int32)
    leaves = Leaves(np.arange(len(weights), dtype=np.int32) + inner, numbers, weights)
    how, end = AGGREGATES[node.get("aggregate_function", 1)], ENDINGS[node.get("post_transform", 0)]
    votes = _together(node, x, trees, leaves, node.get("n_targets", 1), how)
    return tf.cast(ended(end, votes), x.dtype)


def _numbered_trees(node: Node, dtype: Any) -> tuple[Trees, int]:
    """The trees, and where in their row the leaves begin."""
    about = node.attributes
    modes = [NUMBERED[number] for number in numpy_helper.to_array(about["nodes_modes"]).tolist()]
    values = numpy_helper.to_array(about["nodes_splits"]).astype(dtype).tolist()
    missing = list(about.get("nodes_missing_value_tracks_true") or [0] * len(modes))
    features = list(about["nodes_featureids"])
    sets = _sets(about.get("membership_values"))
    members = {at: next(sets) for at, mode in enumerate(modes) if mode == MEMBER}
    inner = len(modes) + sum(len(each) - 1 for each in members.values())
    ways = ((about[f"nodes_{side}nodeids"], about[f"nodes_{side}leafs"]) for side in ("true", "false"))
    yes, no = ([inner + at if leaf else at for at, leaf in zip(*way, strict=True)] for way in ways)
    for at, (value, *others) in members.items():
        modes[at], values[at], last, otherwise = "BRANCH_EQ", value, at, no[at]
        for other in others:  # a chain of nodes, each of which asks for one of them
            no[last], last = len(modes), len(modes)
            for column, entry in ((modes, "BRANCH_EQ"), (values, other), (features, features[at]), (yes, yes[at]),
                                  (no, otherwise), (missing, missing[at])):  # fmt: skip
                column.append(entry)
    return _with_leaves(node, modes, (features, values, missing, yes, no), dtype), inner


def _with_leaves(node: Node, modes: list[str], columns: Sequence[list[Any]], dtype: Any) -> Trees:
    inner, count = len(modes), len(node.attributes["leaf_targetids"])
    own = list(range(inner, inner + count))
    kinds = np.array([*modes, *[LEAF] * count])
    features, values, missing = (np.array([*column, *[0] * count]) for column in columns[:3])
    yes, no = (np.array([*column, *own], np.int32) for column in columns[3:])
    roots = np.array(node.attributes["tree_roots"], np.int32)
    depth = _depth(roots, yes, no, kinds == LEAF)
    return Trees(roots, features.astype(np.int32), values.astype(dtype), kinds, yes, no, missing.astype(bool), depth)


def _sets(tensor: Any) -> Any:
    """The values of each BRANCH_MEMBER in turn; NaN ends one."""
    members: list[float] = []
    for value in [] if tensor is None else numpy_helper.to_array(tensor).tolist():
        if np.isnan(value):
            yield members
            members = []
        else:
            members.append(value)
    if members:
        yield members


HANDLERS: dict[str, Handler] = {
    "TreeEnsembleRegressor": _regressor, "TreeEnsembleClassifier": _classifier, "TreeEnsemble": _ensemble,
}  # fmt: skip
