"""The operators of tables, as scikit-learn, LightGBM and XGBoost are written in ONNX, answer as ONNX Runtime does."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import tensorflow as tf
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper

from contract.errors import ExportError
from export.onnx_operators import translation

RANDOM = np.random.default_rng(3)
COLUMNS = 5
DOMAIN = "ai.onnx.ml"


def node(operator: str, outputs: Sequence[str] = ("y",), inputs: Sequence[str] = ("x",), **settings: Any) -> NodeProto:
    return helper.make_node(operator, inputs, outputs, domain=DOMAIN, **settings)


def model_of(nodes: Sequence[NodeProto], dtype: int = TensorProto.FLOAT) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "table",
        [helper.make_tensor_value_info("x", dtype, ["batch", COLUMNS])],
        [onnx.ValueInfoProto(name=name) for name in ("y", "z") if any(name in each.output for each in nodes)],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid(DOMAIN, 3)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def answers(model: onnx.ModelProto, rows: NDArray[Any]) -> list[NDArray[Any]]:
    function = translation(model)
    signature = tf.TensorSpec((None, COLUMNS), rows.dtype if rows.dtype != object else tf.string)
    traced = tf.function(lambda x: function(x), autograph=False).get_concrete_function(signature)
    return [output.numpy() for output in traced(tf.constant(rows))]


def trees(leaves: str, outputs: int, count: int = 3, mode: str = "BRANCH_LEQ", **settings: Any) -> dict[str, Any]:
    """Trees of two levels: node 0 asks, its children 1 and 2 ask, and 3 to 6 are leaves."""
    numbers = [(tree, place) for tree in range(count) for place in range(7)]
    of_leaves = [(tree, place) for tree, place in numbers if place > 2]
    return {
        "nodes_treeids": [tree for tree, _ in numbers],
        "nodes_nodeids": [place for _, place in numbers],
        "nodes_featureids": RANDOM.integers(0, COLUMNS, len(numbers)).tolist(),
        "nodes_values": RANDOM.normal(size=len(numbers)).astype(np.float32).tolist(),
        "nodes_modes": [mode if place < 3 else "LEAF" for _, place in numbers],
        "nodes_truenodeids": [2 * place + 1 if place < 3 else 0 for _, place in numbers],
        "nodes_falsenodeids": [2 * place + 2 if place < 3 else 0 for _, place in numbers],
        f"{leaves}_treeids": [tree for tree, _ in of_leaves],
        f"{leaves}_nodeids": [place for _, place in of_leaves],
        f"{leaves}_ids": [tree % outputs for tree, _ in of_leaves],
        f"{leaves}_weights": RANDOM.normal(size=len(of_leaves)).astype(np.float32).tolist(),
        **settings,
    }


def weights(*shape: int) -> list[float]:
    return [float(value) for value in RANDOM.normal(size=shape).astype(np.float32).reshape(-1)]


def shares(settings: dict[str, Any]) -> dict[str, Any]:
    """The same trees, whose leaves have shares of the second class."""
    return settings | {"class_weights": [abs(weight) / 3 for weight in settings["class_weights"]]}


NAMED = {"classlabels_strings": ["red", "green", "blue"]}
CASES: dict[str, list[NodeProto]] = {
    "scaled": [node("Scaler", offset=weights(COLUMNS), scale=weights(COLUMNS))],
    **{f"of {norm} 1": [node("Normalizer", norm=norm)] for norm in ("MAX", "L1", "L2")},
    "filled in": [node("Imputer", imputed_value_floats=weights(COLUMNS), replaced_value_float=float("nan"))],
    "above a threshold": [node("Binarizer", threshold=0.25)],
    "weighted": [node("LinearRegressor", coefficients=weights(2, COLUMNS), intercepts=weights(2), targets=2)],
    "weighted classes": [node("LinearClassifier", ["y", "z"], coefficients=weights(3, COLUMNS), intercepts=weights(3),
                              post_transform="SOFTMAX", **NAMED)],
    "support vectors": [node("SVMRegressor", kernel_type="RBF", kernel_params=[0.3, 0.0, 3.0], n_supports=4,
                             support_vectors=weights(4, COLUMNS), coefficients=weights(4), rho=[0.5])],
    "trees": [node("TreeEnsembleRegressor", **trees("target", 2, n_targets=2, base_values=[0.5, -1.0]))],
    "trees of another comparison": [node("TreeEnsembleRegressor", **trees("target", 1, mode="BRANCH_GT", n_targets=1))],
    "trees that know what is missing": [
        node("TreeEnsembleRegressor",
             **trees("target", 1, n_targets=1, nodes_missing_value_tracks_true=[1, 0, 1, 0, 0, 0, 0] * 3))],
    "trees of classes": [node("TreeEnsembleClassifier", ["y", "z"],
                              **trees("class", 3, post_transform="SOFTMAX", classlabels_int64s=[4, 7, 9]))],
    "trees of two classes, by one score": [
        node("TreeEnsembleClassifier", ["y", "z"],
             **trees("class", 1, post_transform="LOGISTIC", classlabels_int64s=[0, 1], base_values=[0.25]))],
    "trees of two classes, by one share": [
        node("TreeEnsembleClassifier", ["y", "z"], **shares(trees("class", 1, classlabels_int64s=[0, 1])))],
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_it_answers_as_onnx_runtime_does(case: str) -> None:
    model = model_of(CASES[case])
    rows = RANDOM.normal(size=(40, COLUMNS)).astype(np.float32)
    if case in ("filled in", "trees that know what is missing"):
        rows[::3, 1:3] = np.nan
    expected = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"x": rows})
    got = answers(model, rows)
    assert len(got) == len(expected) and len(np.unique(expected[0])) > 1
    for value, other in zip(got, expected, strict=True):
        if value.dtype == object:
            assert [text.decode() for text in value] == other.tolist()
        else:
            np.testing.assert_allclose(value, other.reshape(value.shape), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("nodes", "dtype"),
    [
        ([node("OneHotEncoder", cats_int64s=[0, 2, 3])], TensorProto.INT64),
        ([node("LabelEncoder", keys_int64s=[0, 1, 3], values_floats=[0.5, 2.0, 9.0], default_float=-7.0)],
         TensorProto.INT64),
        ([node("LabelEncoder", keys_int64s=[0, 1], values_strings=["no", "yes"])], TensorProto.INT64),
        ([helper.make_node("Constant", [], ["at"], value_ints=[3, 0]),
          node("ArrayFeatureExtractor", inputs=["x", "at"])], TensorProto.INT64),
    ],
)  # fmt: skip
def test_kinds_of_things_are_numbered_alike(nodes: list[NodeProto], dtype: int) -> None:
    model = model_of(nodes, dtype)
    rows = RANDOM.integers(0, 4, (20, COLUMNS))
    (expected,) = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"x": rows})
    (got,) = answers(model, rows)
    texts = np.frompyfunc(bytes.decode, 1, 1)(got) if got.dtype == object else got
    np.testing.assert_array_equal(texts, expected)


CIRCLE = {
    "nodes_modes": ["BRANCH_LEQ", "BRANCH_LEQ", "BRANCH_LEQ", "LEAF", "BRANCH_LEQ", "LEAF", "LEAF"] * 3,
    "nodes_falsenodeids": [2, 4, 6, 0, 3, 0, 0] * 3,
}


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"post_transform": "PROBIT"}, "post_transform=PROBIT"),
        ({"aggregate_function": "MAX"}, "aggregate_function=MAX"),
        ({"nodes_modes": ["BRANCH_LEQ", "BRANCH_LT", "BRANCH_LEQ", *["LEAF"] * 4] * 3}, "trees of BRANCH_LEQ, BRANCH_"),
        (CIRCLE | {"nodes_truenodeids": [1, 3, 5, 0, 1, 0, 0] * 3}, "trees of more than 200 levels"),
        (CIRCLE | {"nodes_truenodeids": [1, 3, 5, 0, 0, 0, 0] * 3}, "trees without a beginning"),
    ],
)  # fmt: skip
def test_what_has_no_translation_is_named(settings: dict[str, Any], words: str) -> None:
    """The last two are trees that lead in a circle, and back to their beginning."""
    model = model_of([node("TreeEnsembleRegressor", **(trees("target", 1, n_targets=1) | settings))])
    with pytest.raises(ExportError, match=words):
        answers(model, np.zeros((1, COLUMNS), np.float32))
