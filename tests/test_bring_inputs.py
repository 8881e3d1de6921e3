"""What the user says about a model's inputs: it is asked, and nothing beyond it, and what it contradicts is named."""

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from numpy.typing import NDArray

from bring.data_folder import mixed_order, questions_for
from bring.description import Description, Input, describe, parse_preprocess
from bring.probe import Arrays, Probe
from bring.readers.keras import KerasSource
from bring.rows import read_rows
from bring.wrapping import Source, Wrapping, plan
from contract.errors import BroughtError
from contract.manifest import Manifest, TensorSpec
from verify.edges import edge_questions
from verify.questions import Domain, Questions, invented
from verify.questions import read as read_questions
from verify.questions import write as write_questions

X = TensorSpec("x", "float32", (None, 4), "NC")
TOKENS = TensorSpec("tokens", "int32", (None, 6), "NT")


class Function:
    """A NumPy function in the place of a framework's model: what it answers is arithmetic."""

    format, fit, scales, can_wrap, can_predict, renamed = "keras", "stretch", False, False, True, ""

    def __init__(self, function: Any, *inputs: TensorSpec) -> None:
        self.inputs: tuple[TensorSpec, ...] = inputs
        self.outputs: tuple[TensorSpec, ...] = (TensorSpec("y", "float32", (None, None), "NC"),)
        self._function = function

    def predict(self, inputs: Arrays) -> Sequence[NDArray[Any]]:
        with np.errstate(all="ignore"):
            return [np.asarray(self._function(*inputs.values()), np.float32)]

    def write(self, folder: Path, wrapping: Wrapping) -> Sequence[Path]:
        raise AssertionError(folder)


def toml(folder: Path, text: str) -> Description:
    (folder / "model.toml").write_text(text, encoding="utf-8")
    return describe(folder / "net.keras", {})


# What model.toml says


def test_an_input_has_a_range_a_list_or_a_vocabulary(tmp_path: Path) -> None:
    description = toml(
        tmp_path,
        '[[input]]\nname = "price"\nrange = [0.5, 100]\n[[input]]\nname = "size"\nvalues = [38, 40, 42]\n'
        '[[input]]\nname = "tokens"\nvocabulary = 50\nshape = [-1, 12]\n',
    )
    assert description.domains == {
        "price": Domain(0.5, 100),
        "size": Domain(values=(38, 40, 42)),
        "tokens": Domain(0, 49, is_whole=True),
    }
    assert description.inputs[2].shape == (None, 12)
    assert Description.from_json(description.to_json()) == description


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("range = [3, 1]", "expected the least and the greatest value"),
        ("range = [1]", "expected the least and the greatest value"),
        ("range = [0, inf]", "expected the least and the greatest value"),
        ("values = []", "expected a list of numbers"),
        ('values = [1, "a"]', "expected a list of numbers"),
        ("vocabulary = 0", "at least 1"),
        ("vocabulary = 5\nrange = [0, 4]", "has range and vocabulary, expected one of them"),
        ("vocabulry = 5", "did you mean 'vocabulary'"),
        ('shape = "12"', "expected sizes, the batch first"),
        ('dtype = "int23"', "did you mean 'int32'"),
        ('[[input]]\nname = "x"', "'x' is there twice"),
    ],
)
def test_a_mistake_about_an_input_is_named(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(BroughtError, match=words):
        toml(tmp_path, f'[[input]]\nname = "x"\n{text}\n')


@pytest.mark.parametrize(
    ("text", "words"),
    [("rows = 'nowhere.csv'", "no such file"), ("rows = 'model.toml'\ndata = '.'", "Got rows .* and data")],
)
def test_rows_that_are_not_there_or_beside_pictures_are_named(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(BroughtError, match=words):
        toml(tmp_path, text)


# What is asked


@pytest.mark.parametrize("dtype", ["float32", "float16", "float64", "int32", "int64", "uint8"])
def test_invented_rows_stay_in_a_range_and_fill_it(dtype: str) -> None:
    spec = TensorSpec("x", dtype, (None, 50), "NC")
    values = invented([spec], 64, 2, domains={"x": Domain(3, 200)})["x"]
    assert values.dtype == dtype
    assert values.min() >= 3 and values.max() <= 200
    assert values.min() < 20 and values.max() > 180


def test_invented_rows_are_chosen_from_a_list() -> None:
    specs = [TensorSpec("size", "int64", (None, 9), ""), TensorSpec("colour", "bytes", (None, 9), "")]
    domains = {"size": Domain(values=(38, 40, 42)), "colour": Domain(values=("red", "green"))}
    rows = invented(specs, 64, 2, domains=domains)
    assert set(rows["size"].ravel().tolist()) == {38, 40, 42}
    assert set(rows["colour"].ravel().tolist()) == {b"red", b"green"}


def test_ids_are_whole_numbers_for_an_input_of_fractions_too() -> None:
    values = invented([X], 200, 2, domains={"x": Domain(0, 49, is_whole=True)})["x"]
    assert values.dtype == np.float32 and set(values.ravel()) == set(range(50))


def test_the_questions_say_what_was_used_and_keep_it(tmp_path: Path) -> None:
    manifest = Manifest("net", "keras", None, (X,), (X,), None, ())
    constant = Input("rate", values=(16000,))  # of a program that takes it as a number
    description = Description(inputs=(Input("x", range=(1, 5)), constant))
    questions = questions_for(manifest, description, 10, "net")
    assert questions.title == "64 invented rows in the ranges of model.toml"
    write_questions(tmp_path / "net.npz", questions)
    assert read_questions(tmp_path / "net.npz").domains == {"x": Domain(1, 5)}
    np.savez(tmp_path / "some.npz", x=np.arange(400, dtype=np.float32).reshape(100, 4))
    questions = questions_for(manifest, Description(rows=tmp_path / "some.npz"), 10, "net")
    assert questions.title == "100 rows of some.npz"
    assert {tuple(row) for row in questions.inputs["x"]} == {tuple(range(n, n + 4)) for n in range(0, 400, 4)}
    assert questions_for(manifest, Description(), 10, "net").title == "64 invented rows"


# Edge questions


def values_of(edges: Sequence[Any], name: str) -> NDArray[Any]:
    return np.concatenate([edge.inputs[name].ravel() for edge in edges])


def test_edge_questions_stay_in_a_range_and_ask_its_ends() -> None:
    domains = {"x": Domain(-2, 100)}
    edges = edge_questions([X], Questions(invented([X], 3, 2, domains=domains), None, "", domains=domains))
    values = values_of(edges, "x")
    assert values.min() == -2 and values.max() == 100
    titles = {edge.title for edge in edges}
    assert {"zeros", "ones", "-1 everywhere", "100 everywhere", "denormals"} <= titles
    assert not titles & {"-100 everywhere", "10,000 everywhere", "NaN everywhere", "values from -30 to 30"}
    by_title = {edge.title: edge.inputs["x"] for edge in edges}
    assert (by_title["the least values of each range"] == -2).all()
    assert (by_title["the greatest values of each range"] == 100).all()
    np.testing.assert_allclose(by_title["values from the least to the greatest"], [[-2, 32, 66, 100]])


def test_edge_questions_of_ids_and_of_a_list_are_ids_and_of_the_list() -> None:
    domains = {"tokens": Domain(0, 49, is_whole=True), "x": Domain(values=(0.5, 2.0))}
    specs = [TOKENS, X]
    edges = edge_questions(specs, Questions(invented(specs, 3, 2, domains=domains), None, "", domains=domains))
    tokens = values_of(edges, "tokens")
    assert tokens.min() == 0 and tokens.max() == 49
    assert set(values_of(edges, "x")) == {0.5, 2.0}
    assert "negative whole numbers" not in {edge.title for edge in edges}


def test_an_input_of_which_nothing_is_said_is_asked_as_before() -> None:
    domains = {"tokens": Domain(0, 49, is_whole=True)}
    specs = [TOKENS, X]
    edges = edge_questions(specs, Questions(invented(specs, 3, 2, domains=domains), None, "", domains=domains))
    by_title = {edge.title: edge.inputs for edge in edges}
    assert (by_title["10,000 everywhere"]["x"] == 1e4).all()
    assert 0 <= by_title["10,000 everywhere"]["tokens"].min() <= by_title["10,000 everywhere"]["tokens"].max() <= 49


def test_other_lengths_keep_to_the_ids() -> None:
    free = TensorSpec("tokens", "int32", (None, None), "NT", bounds=(0, 4))
    edges = edge_questions([free], Questions(invented([free], 3, 1000), None, ""))
    lengths = [edge for edge in edges if edge.title.startswith("a length")]
    assert [edge.inputs["tokens"].shape for edge in lengths] == [(1, 1), (1, 2), (1, 7), (1, 33)]
    assert set(values_of(edges, "tokens")) == {0, 1, 2, 3, 4}


# What is said of a model that was asked the wrong things


def test_a_logarithm_of_positive_features_answers_once_its_range_is_said() -> None:
    with pytest.raises(BroughtError, match=r"answers NaN.*say so in model\.toml, such as:\s+\[\[input\]\]") as error:
        plan(Function(np.log, X), Description(), "net")
    assert str(error.value).endswith('[[input]]\n    name = "x"\n    range = [0.001, 1000]')
    assert "repair it" not in str(error.value)
    said = Description(inputs=(Input("x", range=(0.001, 1000)),))
    assert plan(Function(np.log, X), said, "net").inputs == (X,)


def test_an_input_that_must_not_be_zero_is_named_with_its_range() -> None:
    """The network divides by the length, so 0 gives NaN. The signal has at most 4 values."""

    def mean(x: Any, length: Any) -> Any:
        assert length.max() <= 4
        within = np.arange(4) < length[:, None]
        return (x * within).sum(1, keepdims=True) / length[:, None]

    model = Function(mean, X, TensorSpec("length", "int64", (None,), "N"))
    with pytest.raises(BroughtError, match=r"answers NaN.*where its input length is 0, and numbers where") as error:
        Probe(model, Description(), None, False, None, None).run("net")
    least, most = map(int, re.findall(r"range = \[(\d+), (\d+)\]$", str(error.value))[0])
    assert least == 1 and 'name = "x"' not in str(error.value)
    ranged = Description(inputs=(Input("length", range=(least, most)),))
    Probe(model, ranged, None, False, None, None).run("net")


def test_answers_that_need_a_range_to_depend_on_their_input_do_once_it_is_said() -> None:
    """A ReLU that begins at 100: zero for all numbers that are invented without a range."""
    model = Function(lambda x: np.maximum(x - 100, 0), X)
    with pytest.raises(BroughtError, match=r"(?s)gives the same answers to different invented rows.*range = "):
        plan(model, Description(), "net")
    plan(model, Description(inputs=(Input("x", range=(0, 1000)),)), "net")


def test_what_still_fails_in_its_range_is_the_models_own_fault() -> None:
    said = Description(inputs=(Input("x", range=(-1, 1)),))
    with pytest.raises(BroughtError, match=r"answers NaN.*in the ranges of model\.toml.*repair it first") as error:
        plan(Function(np.log, X), said, "net")
    assert "[[input]]" not in str(error.value)


def test_real_rows_are_what_a_model_is_asked_when_it_is_brought(tmp_path: Path) -> None:
    np.savez(tmp_path / "rows.npz", x=np.full((5, 4), 7.0) + np.arange(5)[:, None])
    plan(Function(np.log, X), Description(rows=tmp_path / "rows.npz"), "net")
    np.savez(tmp_path / "one.npz", x=np.ones((1, 4)))  # nothing can be said of one row alone
    plan(Function(np.log, X), Description(rows=tmp_path / "one.npz"), "net")
    np.savez(tmp_path / "bad.npz", x=-np.ones((5, 4)))
    with pytest.raises(BroughtError, match=r"answers NaN, not a number, to rows of bad\.npz"):
        plan(Function(np.log, X), Description(rows=tmp_path / "bad.npz"), "net")


def test_pictures_reach_the_graph_as_they_are_prepared(tmp_path: Path) -> None:
    """The logarithm of a pixel plus one is a number for each picture, and for no negative value below -1."""
    pixels = keras.Input((6, 8, 3))
    features = keras.layers.GlobalAveragePooling2D()(keras.ops.log(pixels + 1))
    keras.Model(pixels, keras.layers.Dense(1)(features)).save(tmp_path / "net.keras")
    wrapping = plan(KerasSource(tmp_path / "net.keras", Description()), describe(tmp_path, {"preprocess": "none"}), "n")
    assert wrapping.image is not None


def test_a_regression_of_pictures_has_no_classes(tmp_path: Path) -> None:
    pixels = keras.Input((6, 8, 3))
    boxes = keras.layers.Dense(4, name="boxes")(keras.layers.Flatten()(pixels))
    keras.Model(pixels, boxes).save(tmp_path / "net.keras")
    said = describe(tmp_path, {"preprocess": "unit", "answers": "values"})
    wrapping = plan(KerasSource(tmp_path / "net.keras", said), said, "net")
    assert not wrapping.ending and wrapping.outputs[0].name == "boxes"
    manifest = Manifest("net", "keras", None, wrapping.inputs, wrapping.outputs, wrapping.image, ())
    assert not manifest.has_classes
    (tmp_path / "data" / "any").mkdir(parents=True)
    keras.utils.save_img(tmp_path / "data" / "any" / "a.png", np.zeros((6, 8, 3)))
    questions = questions_for(manifest, Description(data=tmp_path / "data"), 2, "net")
    assert questions.count == 1 and questions.labels is None


# What contradicts the file


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        (Input("tokens", shape=(None, 128)), "model.toml says the input tokens has the shape [-1, 128], the file says"),
        (Input("tokens", shape=(None, 6, 1)), "has the shape [-1, 6, 1], the file says [-1, 6]"),
        (Input("tokens", dtype="int64"), "model.toml says the input tokens has the dtype int64, the file says int32"),
        (Input("tokens", values=("a", "b")), "has the values one of a, b, the file says the dtype int32"),
        (Input("tokens", range=(0, 2**31)), "values from 0 to 2147483648, the file says the dtype int32"),
        (Input("tokens", range=(0.2, 0.8)), "values from 0.2 to 0.8, the file says the dtype int32"),
        (Input("tokens", values=(0.5, 1)), "has the values one of 0.5, 1, the file says the dtype int32"),
        (
            Input("token"),
            "describes the input 'token', which net does not have; did you mean 'tokens'? Its inputs: tok",
        ),
        (Input("price"), "which net does not have. Its inputs: tokens."),
    ],
)
def test_what_contradicts_the_file_is_named_with_what_the_file_says(entry: Input, words: str) -> None:
    with pytest.raises(BroughtError, match=re.escape(words)):
        plan(Function(np.float32, TOKENS), Description(inputs=(entry,)), "net")


def test_another_batch_than_the_files_is_named() -> None:
    with pytest.raises(BroughtError, match=r"has the shape \[4, 6\], the file says \[2, 6\]"):
        plan(
            Function(np.float32, TensorSpec("tokens", "int32", (2, 6), "")),
            Description(inputs=(Input("tokens", shape=(4, 6)),)),
            "net",
        )


def test_a_size_that_the_file_leaves_free_becomes_the_users() -> None:
    free = TensorSpec("tokens", "int32", (None, None), "NT")
    wrapping = plan(Function(np.float32, free), Description(inputs=(Input("tokens", shape=(None, 9)),)), "net")
    assert wrapping.inputs[0].shape == (None, 9)


def test_values_and_preprocessing_of_a_picture_exclude_each_other() -> None:
    picture = TensorSpec("x", "float32", (None, 6, 8, 3), "NHWC")
    said = Description(inputs=(Input("x", range=(-1, 1)),))
    model = Function(lambda x: x.reshape(len(x), -1)[:, :5], picture)
    assert plan(model, said, "net").image is None
    with pytest.raises(BroughtError, match=r"model\.toml says what values .* PREPROCESS makes its input a picture"):
        plan(model, replace(said, preprocess=parse_preprocess("unit")), "net")


def test_a_layout_that_makes_no_picture_of_the_file_is_named() -> None:
    model = Function(lambda x: x, TensorSpec("x", "float32", (None, 6, 8, 3), "NHWC"))
    with pytest.raises(BroughtError, match=r"PREPROCESS is for pictures of 1 or 3 channels.* 6 channels as NCHW"):
        plan(model, Description(preprocess=parse_preprocess("unit layout=NCHW")), "net")


def softmax(x: NDArray[Any]) -> NDArray[Any]:
    powers = np.exp(x)
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


@pytest.mark.parametrize(
    ("answers", "function", "words"),
    [
        ("logits", softmax, "are logits, and what net answers are probabilities already"),
        ("logits", lambda x: x[:, 0], r"are logits, and the first output of net has the shape \[-1\], not a logit for"),
        (
            "probabilities",
            lambda x: 5 * x,
            "are probabilities, and net answers -?[0-9.]+ to [0-9.]+. Say logits, or val",
        ),
        ("values", softmax, "are values, and there are 4 labels, which are for classes"),
    ],
)
def test_another_kind_of_answers_than_the_models_is_named(answers: str, function: Any, words: str) -> None:
    model = Function(function, X)
    model.outputs = (TensorSpec("y", "float32", (None, 4), "NC"),)
    labels = tuple("abcd") if answers == "values" else ()
    with pytest.raises(BroughtError, match=words):
        plan(model, Description(answers=answers, labels=labels), "net")


def test_a_probability_for_each_of_several_labels_is_no_contradiction() -> None:
    model = Function(lambda x: 1 / (1 + np.exp(-x)), X)
    assert not plan(model, Description(answers="probabilities"), "net").ending


# Rows


def test_a_table_has_a_column_for_each_value_of_each_input(tmp_path: Path) -> None:
    file = tmp_path / "rows.csv"
    file.write_text("tokens[1],flag,tokens[0],word\n2,true,1,red\n\n4,false,3,blue\n", encoding="utf-8")
    specs = [
        TensorSpec("tokens", "int64", (None, None), ""),
        TensorSpec("flag", "bool", (None,), ""),
        TensorSpec("word", "bytes", (None, 1), ""),
    ]
    rows = read_rows(file, specs, {})
    order = rows["tokens"][:, 0].argsort()
    assert rows["tokens"][order].tolist() == [[1, 2], [3, 4]]
    assert rows["flag"][order].tolist() == [True, False]
    assert rows["word"][order].tolist() == [[b"red"], [b"blue"]]


def test_a_table_for_one_input_may_have_any_names(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("height,width,age,weight\n1,2,3,4.5\n", encoding="utf-8")
    assert read_rows(tmp_path / "rows.csv", [X], {})["x"].tolist() == [[1, 2, 3, 4.5]]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a,b,c,d\n1,2,3\n", r"line 2, has 3 values, expected 4"),
        ("a,b,c,d\n1,2,3,red\n", "something else than numbers"),
        ("a,b,c\n1,2,3\n", r"has 3 columns for the input x, whose shape \[-1, 4\] takes 4 a row"),
        ("a,b,c,d\n", "has no row"),
        ("", "has no row"),
        ("a,b,c,d\n1,2,3,400\n", "values from 1 to 400 for the input x, which takes values from 0 to 10"),
    ],
)
def test_a_table_that_does_not_fit_is_named(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "rows.csv").write_text(text, encoding="utf-8")
    with pytest.raises(BroughtError, match=words):
        read_rows(tmp_path / "rows.csv", [X], {"x": Domain(0, 10)})


def test_a_table_without_an_inputs_column_names_both(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("x,token\n1,2\n", encoding="utf-8")
    with pytest.raises(BroughtError, match=r"the columns x, token, and none is the input tokens: expected tokens, or"):
        read_rows(tmp_path / "rows.csv", [TensorSpec("x", "float32", (None,), ""), TOKENS], {})


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"y": np.zeros((2, 4))}, "has the arrays y, and the model takes x"),
        ({"x": np.zeros((2, 5))}, r"has the shape \[2, 5\] for the input x, the model takes \[-1, 4\]"),
        ({"x": np.zeros((0, 4))}, "expected as many for each, one at least"),
        ({"x": np.array([[{}] * 4], object)}, "cannot be read as rows"),
        ({"x": np.array([["a"] * 4])}, "which takes float32"),
    ],
)
def test_arrays_that_do_not_fit_are_named(tmp_path: Path, arrays: dict[str, Any], words: str) -> None:
    np.savez(tmp_path / "rows.npz", **arrays)
    with pytest.raises(BroughtError, match=f"(?i){words}"):
        read_rows(tmp_path / "rows.npz", [X], {})


def test_rows_of_whole_numbers_are_not_rounded(tmp_path: Path) -> None:
    np.savez(tmp_path / "rows.npz", tokens=np.full((2, 6), 1.5))
    with pytest.raises(BroughtError, match="values for the input tokens that are no int32"):
        read_rows(tmp_path / "rows.npz", [TOKENS], {})


def test_a_file_that_is_neither_is_named(tmp_path: Path) -> None:
    (tmp_path / "rows.npz").write_bytes(b"not a zip file")
    with pytest.raises(BroughtError, match=r"cannot be read as rows.*numpy\.savez"):
        read_rows(tmp_path / "rows.npz", [X], {})


def test_functions_are_sources() -> None:
    source: Source = Function(np.log, X)
    assert source.format == "keras"


@pytest.mark.parametrize("count", [64, 5])
def test_the_first_invented_rows_are_of_all_sizes(count: int) -> None:
    order = mixed_order(count)
    assert sorted(order) == list(range(count))
    assert max(order[:5]) == count - 1 and min(order[:5]) == 0
    if count == 64:
        assert np.diff([-1, *sorted(order[:16])]).max() <= 7


def test_a_slow_model_is_asked_invented_rows_of_all_sizes() -> None:
    spec = TensorSpec("x", "float32", (None, 50), "ND")
    manifest = Manifest("net", "onnx", None, (spec,), (spec,), None, ())
    rows = questions_for(manifest, Description(), 2, "net").first(9).inputs["x"]
    sizes = rows.std(axis=1)
    assert sizes.max() > 2.5 and sizes.min() < 0.9
