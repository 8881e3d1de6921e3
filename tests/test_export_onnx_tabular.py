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


def model_of(nodes: Sequence[NodeProto], dtype: int = TensorProto.FLOAT, version: int = 3) -> onnx.ModelProto:
    """`version` is that of ai.onnx.ml."""
    graph = helper.make_graph(
        nodes,
        "table",
        [helper.make_tensor_value_info("x", dtype, ["batch", COLUMNS])],
        [onnx.ValueInfoProto(name=name) for name in ("y", "z") if any(name in each.output for each in nodes)],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid(DOMAIN, version)]
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
    return settings | {"class_weights": [0.05, 0.15, 0.25, 0.35] * (len(settings["class_weights"]) // 4)}


def supports(classes: int, kernel: str = "RBF", **settings: Any) -> dict[str, Any]:
    """A support vector machine with three vectors of each class."""
    pairs = classes * (classes - 1) // 2
    return {
        "kernel_type": kernel, "kernel_params": [0.3, 0.2, 3.0], "vectors_per_class": [3] * classes,
        "support_vectors": weights(3 * classes, COLUMNS), "coefficients": weights(classes - 1, 3 * classes),
        "rho": [weight / 10 for weight in weights(pairs)], "classlabels_ints": list(range(2, 2 + classes)), **settings,
    }  # fmt: skip


def sure(classes: int) -> dict[str, Any]:
    """What makes probabilities of the sums of pairs."""
    pairs = classes * (classes - 1) // 2
    return {"prob_a": [-2.5] * pairs, "prob_b": weights(pairs)}


def linear(classes: int, **settings: Any) -> dict[str, Any]:
    """A support vector machine without vectors."""
    about = {"kernel_type": "RBF", "kernel_params": [0.3, 0.0, 3.0], "rho": [0.2], **settings}
    return {"coefficients": weights(classes, COLUMNS), "classlabels_ints": list(range(2, 2 + classes)), **about}


def both(settings: dict[str, Any], *ids: int) -> dict[str, Any]:
    """The same trees, each leaf of which names all of these classes."""
    lists = {name: [each for each in settings[name] for _ in ids] for name in ("class_treeids", "class_nodeids")}
    count = len(settings["class_ids"])
    return settings | lists | {"class_ids": [*ids] * count, "class_weights": weights(count, len(ids))}


MIXED = ["BRANCH_LEQ", "BRANCH_EQ", "BRANCH_GT", *["LEAF"] * 4] * 3
NAMED = {"classlabels_strings": ["red", "green", "blue"]}
CASES: dict[str, list[NodeProto]] = {
    "scaled": [node("Scaler", offset=weights(COLUMNS), scale=weights(COLUMNS))],
    **{f"of {norm} 1": [node("Normalizer", norm=norm)] for norm in ("MAX", "L1", "L2")},
    "filled in": [node("Imputer", imputed_value_floats=weights(COLUMNS), replaced_value_float=float("nan"))],
    "above a threshold": [node("Binarizer", threshold=0.25)],
    "weighted": [node("LinearRegressor", coefficients=weights(2, COLUMNS), intercepts=weights(2), targets=2)],
    "weighted classes": [
        node(
            "LinearClassifier",
            ["y", "z"],
            coefficients=weights(3, COLUMNS),
            intercepts=weights(3),
            post_transform="SOFTMAX",
            **NAMED,
        )
    ],
    "support vectors": [
        node(
            "SVMRegressor",
            kernel_type="RBF",
            kernel_params=[0.3, 0.0, 3.0],
            n_supports=4,
            support_vectors=weights(4, COLUMNS),
            coefficients=weights(4),
            rho=[0.5],
        )
    ],
    "trees": [node("TreeEnsembleRegressor", **trees("target", 2, n_targets=2, base_values=[0.5, -1.0]))],
    "trees of another comparison": [node("TreeEnsembleRegressor", **trees("target", 1, mode="BRANCH_GT", n_targets=1))],
    "trees that know what is missing": [
        node(
            "TreeEnsembleRegressor",
            **trees("target", 1, n_targets=1, nodes_missing_value_tracks_true=[1, 0, 1, 0, 0, 0, 0] * 3),
        )
    ],
    "trees of classes": [
        node(
            "TreeEnsembleClassifier",
            ["y", "z"],
            **trees("class", 3, post_transform="SOFTMAX", classlabels_int64s=[4, 7, 9]),
        )
    ],
    "trees of two classes, by one score": [
        node(
            "TreeEnsembleClassifier",
            ["y", "z"],
            **trees("class", 1, post_transform="LOGISTIC", classlabels_int64s=[0, 1], base_values=[0.25]),
        )
    ],
    "trees of two classes, by one share": [
        node("TreeEnsembleClassifier", ["y", "z"], **shares(trees("class", 1, classlabels_int64s=[0, 1])))
    ],
    "trees of several comparisons": [
        node(
            "TreeEnsembleRegressor",
            **trees(
                "target",
                1,
                n_targets=1,
                nodes_modes=MIXED,
                nodes_values=[0.0, 1.0, -1.0, 0.0, 0.0, 0.0, 0.0] * 3,
                nodes_missing_value_tracks_true=[1, 0, 1, 0, 0, 0, 0] * 3,
            ),
        )
    ],
    **{
        f"{how} of trees": [
            node(
                "TreeEnsembleRegressor",
                **trees("target", 2, count=5, n_targets=2, base_values=[0.5, -1.0], aggregate_function=how),
            )
        ]
        for how in ("AVERAGE", "MIN", "MAX")
    },
    "trees of one target, whose ending is left out": [
        node("TreeEnsembleRegressor", **trees("target", 1, n_targets=1, post_transform="LOGISTIC"))
    ],
    "trees of targets, of which 0 is left out": [
        node("TreeEnsembleRegressor", **trees("target", 3, count=2, n_targets=3, post_transform="SOFTMAX_ZERO"))
    ],
    "linear machine": [
        node(
            "SVMRegressor",
            kernel_type="RBF",
            kernel_params=[0.3, 0.0, 3.0],
            n_supports=0,
            coefficients=weights(COLUMNS),
            rho=[0.5],
            post_transform="LOGISTIC",
        )
    ],
    "what is like the rest": [
        node(
            "SVMRegressor",
            kernel_type="SIGMOID",
            kernel_params=[0.3, 0.1, 3.0],
            n_supports=4,
            support_vectors=weights(4, COLUMNS),
            coefficients=weights(4),
            rho=[0.1],
            one_class=1,
        )
    ],
}
BASES: list[dict[str, Any]] = [{}, {"base_values": [0.25]}, {"base_values": [0.25, -0.5]}]
for end in ("NONE", "LOGISTIC", "SOFTMAX"):
    CASES |= {
        f"two supported classes, {end}": [node("SVMClassifier", ["y", "z"], **supports(2, post_transform=end))],
        f"four supported classes, {end}": [
            node("SVMClassifier", ["y", "z"], **supports(4, "POLY", post_transform=end))
        ],
        f"probabilities of two classes, {end}": [
            node("SVMClassifier", ["y", "z"], **supports(2, "LINEAR", post_transform=end), **sure(2))
        ],
        f"probabilities of four classes, {end}": [
            node("SVMClassifier", ["y", "z"], **supports(4, post_transform=end), **sure(4))
        ],
        f"linear machine of two classes, {end}": [node("SVMClassifier", ["y", "z"], **linear(2, post_transform=end))],
        f"linear machine of three classes, {end}": [node("SVMClassifier", ["y", "z"], **linear(3, post_transform=end))],
        f"trees of shares of two classes, {end}": [
            node(
                "TreeEnsembleClassifier",
                ["y", "z"],
                **shares(trees("class", 1, classlabels_int64s=[0, 1], post_transform=end)),
            )
        ],
        f"trees of the second of two classes, {end}": [
            node(
                "TreeEnsembleClassifier",
                ["y", "z"],
                **both(trees("class", 1, classlabels_int64s=[4, 7], post_transform=end, base_values=[0.25]), 1),
            )
        ],
        **{
            f"trees of both of two classes, {place} base values, {end}": [
                node(
                    "TreeEnsembleClassifier",
                    ["y", "z"],
                    **both(
                        trees(
                            "class",
                            1,
                            classlabels_int64s=[4, 7],
                            post_transform=end,
                            **base,
                        ),
                        0,
                        1,
                    ),
                )
            ]
            for place, base in enumerate(BASES)
        },
        f"trees of the first of two classes with two base values, {end}": [
            node(
                "TreeEnsembleClassifier",
                ["y", "z"],
                **trees("class", 1, classlabels_int64s=[4, 7], post_transform=end, base_values=[-0.25, -0.5]),
            )
        ],
    }
CASES |= {
    "probabilities of named classes": [
        node("SVMClassifier", ["y", "z"], **{key: value for key, value in supports(3).items() if "ints" not in key},
             **sure(3), **NAMED)],
    "trees of two named classes": [
        node("TreeEnsembleClassifier", ["y", "z"],
             **both(trees("class", 1, classlabels_strings=["no", "yes"]), 0, 1))],
    "a linear machine whose classes are never less than nothing": [
        node("SVMClassifier", ["y", "z"], **linear(2, coefficients=[0.1, 0.5, 0.0, 0.0, 0.1, 0.2, 0.0, 0.1, 0.4, 0]))],
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_it_answers_as_onnx_runtime_does(case: str) -> None:
    model = model_of(CASES[case])
    rows = np.random.default_rng(1).normal(size=(200, COLUMNS)).astype(np.float32)
    if case in ("filled in", "trees that know what is missing", "trees of several comparisons"):
        rows[::3, 1:3] = np.nan
    if case == "trees of several comparisons":
        rows = np.round(rows)
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
        ({"aggregate_function": "MEDIAN"}, "aggregate_function=MEDIAN"),
        ({"nodes_modes": ["BRANCH_NEAR", "BRANCH_LT", "BRANCH_LEQ", *["LEAF"] * 4] * 3}, "trees of BRANCH_NEAR"),
        (CIRCLE | {"nodes_truenodeids": [1, 3, 5, 0, 1, 0, 0] * 3}, "trees of more than 200 levels"),
        (CIRCLE | {"nodes_truenodeids": [1, 3, 5, 0, 0, 0, 0] * 3}, "trees without a beginning"),
    ],
)  # fmt: skip
def test_what_has_no_translation_is_named(settings: dict[str, Any], words: str) -> None:
    """The last two are trees that lead in a circle, and back to their beginning."""
    model = model_of([node("TreeEnsembleRegressor", **(trees("target", 1, n_targets=1) | settings))])
    with pytest.raises(ExportError, match=words):
        answers(model, np.zeros((1, COLUMNS), np.float32))


def ensemble(kind: Any = np.float32, **settings: Any) -> NodeProto:
    """Two trees, as ai.onnx.ml 5 has them: in the first, node 0 leads to node 1 and a leaf."""
    number = helper.np_dtype_to_tensor_dtype(np.dtype(kind))

    def tensor(values: Sequence[float], dtype: int = number) -> TensorProto:
        return helper.make_tensor("values", dtype, [len(values)], values)

    members, modes = settings.pop("members", None), settings.pop("modes", [0, 1, 2])
    about = {
        "n_targets": 2, "aggregate_function": 1, "post_transform": 0, "tree_roots": [0, 2],
        "nodes_modes": tensor(modes, TensorProto.UINT8), "nodes_splits": tensor([0.5, 1.0, -0.5]),
        "nodes_featureids": [0, 1, 2], "nodes_truenodeids": [1, 0, 2], "nodes_trueleafs": [0, 1, 1],
        "nodes_falsenodeids": [3, 1, 4], "nodes_falseleafs": [1, 1, 1],
        "leaf_targetids": [0, 1, 0, 0, 1], "leaf_weights": tensor([0.3, -0.5, 0.2, 0.9, 0.1]),
    }  # fmt: skip
    return node("TreeEnsemble", **(about | settings | ({"membership_values": tensor(members)} if members else {})))


ENSEMBLES: dict[str, dict[str, Any]] = {
    **{f"ending {number}": {"post_transform": number} for number in range(4)},
    **{f"aggregate {number}": {"aggregate_function": number} for number in range(4)},
    "what is missing": {"nodes_missing_value_tracks_true": [1, 0, 1]},
    "a small set": {"modes": [6, 0, 0], "members": [0.0, 2.0, 3.0, np.nan]},
    "a set of one": {"modes": [6, 0, 0], "members": [1.0, np.nan]},
    "two sets, one of large numbers": {"modes": [6, 6, 0], "members": [2.0, -1.0, 1.0, np.nan, 1.0, 300.0, np.nan]},
    "of float64": {"kind": np.float64, "aggregate_function": 2},
    "of one target": {"n_targets": 1, "leaf_targetids": [0] * 5, "post_transform": 1},
}


def test_coefficients_for_other_rows_than_the_input_has_are_named() -> None:
    model = model_of([node("LinearClassifier", ["y", "z"], coefficients=weights(3, 8), intercepts=weights(3), **NAMED)])
    with pytest.raises(ExportError, match="24 coefficients for 3 sums of 5 values"):
        answers(model, np.ones((2, COLUMNS), np.float32))


@pytest.mark.parametrize("case", ENSEMBLES)
def test_trees_with_their_leaves_in_a_list_answer_as_in_onnx_runtime(case: str) -> None:
    kind = ENSEMBLES[case].get("kind", np.float32)
    model = model_of([ensemble(**ENSEMBLES[case])], helper.np_dtype_to_tensor_dtype(np.dtype(kind)), version=5)
    rows = np.random.default_rng(2).integers(-2, 4, (100, COLUMNS)).astype(kind)
    rows[::7, 2] = rows[1::7, 0] = np.nan if case == "what is missing" else 300
    (expected,) = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"x": rows})
    (got,) = answers(model, rows)
    assert got.dtype == expected.dtype and len(np.unique(expected)) > 2
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)


def test_rows_of_float64_are_compared_as_such() -> None:
    """Between two numbers of float64 that are one number of float32."""
    limit = np.float64(0.1)
    settings = {
        **trees("target", 1, n_targets=1),
        "nodes_values": None, "target_weights": None,
        "nodes_values_as_tensor": helper.make_tensor("v", TensorProto.DOUBLE, [21], [limit] * 21),
        "target_weights_as_tensor": helper.make_tensor("w", TensorProto.DOUBLE, [12], weights(12)),
    }  # fmt: skip
    model = model_of([node("TreeEnsembleRegressor", **settings)], TensorProto.DOUBLE)
    rows = np.where(np.random.default_rng(4).random((50, COLUMNS)) < 0.5, limit, np.nextafter(limit, 1))
    (expected,) = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"x": rows})
    (got,) = answers(model, rows)
    assert got.dtype == expected.dtype and len(np.unique(expected)) > 1
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"classlabels_int64s": [4]}, "trees of a single class"),
        (both(trees("class", 1, classlabels_int64s=[4, 7], base_values=[0.2, 0.3]), 1), "leaves out the trees"),
        ({"class_ids": [0, 1] * 6, "classlabels_int64s": [4, 7]}, "leaves that do not name both"),
    ],
)
def test_classes_of_trees_that_have_no_translation_are_named(settings: dict[str, Any], words: str) -> None:
    model = model_of([node("TreeEnsembleClassifier", ["y", "z"], **(trees("class", 1) | settings))])
    with pytest.raises(ExportError, match=words):
        answers(model, np.zeros((1, COLUMNS), np.float32))
