"""Edge questions: which there are, what the source has no answer to, and where an artifact's answer is another one."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from contract.manifest import TensorSpec
from contract.tensors import Tensors
from verify.edges import LENGTHS, EdgeQuestion, answer_edges, edge_differences, edge_questions
from verify.questions import Questions, invented

FLOATS = TensorSpec("x", "float32", (None, 5), "")
PIXELS = TensorSpec("pixels", "float32", (None, 6, 8, 3), "NHWC")


class Formula:
    """A runtime that computes with NumPy: the right answers are those of arithmetic."""

    title = platform = "NumPy"
    in_process = True

    def __init__(self, compute: Callable[..., Any]) -> None:
        self._compute = compute

    def predict(self, inputs: Tensors) -> Tensors:
        with np.errstate(all="ignore"):
            return {"y": np.asarray(self._compute(**inputs))}

    def close(self) -> None:
        """Nothing is held."""


def about(*specs: TensorSpec, below: int = 10) -> Questions:
    return Questions(invented(specs, 4, below), None, "invented")


def asked(*specs: TensorSpec, questions: Questions | None = None) -> Mapping[str, Tensors]:
    """The edge questions by title."""
    edges = edge_questions(specs, questions or about(*specs))
    titles = {edge.title: edge.inputs for edge in edges}
    assert len(titles) == len(edges), "each title is given once"
    return titles


# Which questions there are


def test_every_question_is_one_row_of_the_models_own_dtypes_and_sizes() -> None:
    specs = [FLOATS, TensorSpec("ids", "int64", (None, 3), ""), TensorSpec("mask", "bool", (None, 3), "")]
    for title, inputs in asked(*specs).items():
        assert {name: (value.dtype.name, value.shape) for name, value in inputs.items()} == {
            "x": ("float32", (1, 5)),
            "ids": ("int64", (1, 3)),
            "mask": ("bool", (1, 3)),
        }, title


def test_floats_are_asked_at_zero_at_large_and_at_tiny_values() -> None:
    values = {title: inputs["x"] for title, inputs in asked(FLOATS).items()}
    everywhere = {float(value.flat[0]) for value in values.values() if np.unique(value).size == 1}
    assert everywhere >= {0.0, 1.0, -1.0, 1e4, -1e4}
    assert any(0 < value < np.finfo(np.float32).tiny for value in everywhere), "a denormal"
    assert any(np.isnan(value).all() for value in values.values())
    assert any(np.isinf(value).all() for value in values.values())
    assert any(value.min() < -88 and value.max() > 88 and np.unique(value).size == 5 for value in values.values())


@pytest.mark.parametrize("dtype", ["float16", "float64", "bfloat16"])
def test_floats_of_every_size_are_asked(dtype: str) -> None:
    questions = Questions({"x": np.ones((4, 5), np.float32)}, None, "ones")
    edges = asked(TensorSpec("x", dtype, (None, 5), ""), questions=questions)
    assert {inputs["x"].dtype.name for inputs in edges.values()} == {dtype}
    assert len(edges) > 10


def test_pictures_are_asked_black_white_and_beyond_white() -> None:
    pictures = Questions({"pixels": np.full((4, 6, 8, 3), 7, np.uint8)}, None, "pictures")
    values = [inputs["pixels"] for inputs in asked(PIXELS, questions=pictures).values()]
    everywhere = {float(value.flat[0]) for value in values if np.unique(value).size == 1}
    assert everywhere >= {0.0, 255.0}
    assert max(everywhere) > 255 and min(everywhere) < 0
    assert any((value % 1).any() for value in values), "values between whole numbers"
    assert all(value.shape == (1, 6, 8, 3) and value.dtype == np.float32 for value in values)
    assert all(np.isfinite(value).all() for value in values), "a picture has no NaN"


@pytest.mark.parametrize("dtype", ["int8", "int32", "int64", "uint8"])
def test_whole_numbers_are_asked_at_both_ends_and_negative(dtype: str) -> None:
    values = [inputs["ids"] for inputs in asked(TensorSpec("ids", dtype, (None, 3), "")).values()]
    ends = np.iinfo(dtype)
    assert {ends.min, ends.max, 0} <= {int(value.flat[0]) for value in values}
    has_negative = any((value < 0).all() and np.unique(value).size > 1 for value in values)
    assert has_negative == (ends.min < 0)
    assert any((value == 2**31 + 5).all() for value in values) == (dtype == "int64")


def test_flags_are_asked_all_true_and_all_false() -> None:
    values = [inputs["mask"] for inputs in asked(TensorSpec("mask", "bool", (None, 3), "")).values()]
    assert {tuple(value.ravel().tolist()) for value in values} >= {(True,) * 3, (False,) * 3}


def test_free_lengths_are_asked_at_one_and_at_odd_and_long_ones() -> None:
    specs = [TensorSpec("ids", "int64", (None, None), ""), TensorSpec("x", "float32", (None, None, 4), "")]
    shapes = {inputs["ids"].shape[1] for inputs in asked(*specs).values()}
    assert shapes >= set(LENGTHS) and 1 in LENGTHS
    for inputs in asked(*specs).values():
        assert inputs["ids"].shape == inputs["x"].shape[:2], "all inputs have the same length"
    assert len({inputs["x"].shape for inputs in asked(FLOATS).values()}) == 1, "a fixed length stays"


def test_no_length_is_shorter_than_the_model_takes() -> None:
    """Of a shorter one a runtime may read memory that holds nothing."""
    specs = [
        TensorSpec("x", "float32", (None, None, 3), "NDC", least=(1, 9, 3)),
        TensorSpec("y", "float32", (None,), "N"),
    ]
    by_title = {title: inputs["x"].shape for title, inputs in asked(*specs).items()}
    assert {title: shape for title, shape in by_title.items() if shape != (1, 16, 3)} == {
        "a length of 9": (1, 9, 3),
        "a length of 33": (1, 33, 3),
    }


# What the source says first


def test_what_the_source_refuses_is_not_a_question() -> None:
    def picky(x: NDArray[Any]) -> NDArray[Any]:
        if (x < 0).any():
            raise ValueError("a negative number")
        return x + 1

    kept = {answer.question.title for answer in answer_edges(Formula(picky), edge_questions([FLOATS], about(FLOATS)))}
    assert {"zeros", "ones"} <= kept
    assert not any("-1" in title for title in kept)


def test_what_the_source_cannot_compute_is_not_a_question() -> None:
    edges = edge_questions([FLOATS], about(FLOATS))
    kept = {answer.question.title for answer in answer_edges(Formula(lambda x: np.log(x)), edges)}
    assert "ones" in kept
    assert not kept & {"zeros", "-1 everywhere"}


def test_nan_is_asked_only_of_a_model_that_replaces_it() -> None:
    edges = edge_questions([FLOATS], about(FLOATS))
    passing, replacing = (
        {answer.question.title for answer in answer_edges(Formula(compute), edges)}
        for compute in (lambda x: x * 2, lambda x: np.nan_to_num(x))
    )
    assert replacing - passing >= {"NaN everywhere", "NaN at one place"}
    assert not any("NaN" in title for title in passing)


def test_a_question_after_another_is_left_out_with_it() -> None:
    first, second = np.full((1, 5), np.nan, np.float32), np.ones((1, 5), np.float32)
    edges = [EdgeQuestion("first", {"x": first}), EdgeQuestion("second", {"x": second}, after="first")]
    assert answer_edges(Formula(lambda x: x * 2), edges) == []
    assert [answer.question.title for answer in answer_edges(Formula(np.nan_to_num), edges)] == ["first", "second"]


# Where an artifact's answer is another one


def differences(source: Callable[..., Any], artifact: Callable[..., Any], tolerance: float = 1e-3) -> dict[str, Any]:
    answers = answer_edges(Formula(source), edge_questions([FLOATS], about(FLOATS)))
    assert len(answers) > 5
    return {each.question: each for each in edge_differences(Formula(artifact), answers, tolerance)}


def softplus(x: NDArray[Any]) -> Any:
    return np.logaddexp(x, np.float32(0))


def test_a_softplus_that_overflows_is_found_where_it_does_and_nowhere_else() -> None:
    found = differences(softplus, lambda x: np.log(1 + np.exp(x)))
    assert {"values from -120 to 120", "100 everywhere"} <= set(found)
    assert found["100 everywhere"].expected == "100"
    assert found["100 everywhere"].got == "inf"
    assert not set(found) & {"zeros", "ones", "values from -30 to 30"}
    assert str(found["100 everywhere"]) == "with 100 everywhere, y is inf instead of 100"


def test_the_same_function_differs_nowhere() -> None:
    assert differences(softplus, lambda x: x * (x > 0) + np.log1p(np.exp(-np.abs(x)))) == {}


def test_an_error_is_a_difference() -> None:
    def refuses(x: NDArray[Any]) -> NDArray[Any]:
        if (x == 0).all():
            raise ValueError("only zeros")
        return x

    found = differences(lambda x: x + 0, refuses)
    assert set(found) == {"zeros"}
    assert "only zeros" in found["zeros"].got


def test_another_shape_is_a_difference() -> None:
    found = differences(lambda x: x + 0, lambda x: x[:, :2])
    assert (found["ones"].expected, found["ones"].got) == ("shape [1, 5]", "shape [1, 2]")


def test_whole_numbers_have_to_be_equal() -> None:
    spec = TensorSpec("ids", "int32", (None, 3), "")
    answers = answer_edges(Formula(lambda ids: ids // 2), edge_questions([spec], about(spec)))
    towards_zero = Formula(lambda ids: np.trunc(ids / 2).astype(np.int32))
    assert {each.question for each in edge_differences(towards_zero, answers, 1e-3)} == {"negative whole numbers"}


def test_rounding_that_large_numbers_magnify_is_allowed_and_more_is_not() -> None:
    """The sine of 10,000 moves by 0.003 with the rounding of its argument: nothing can be held to less."""

    def rounded(x: NDArray[Any]) -> NDArray[Any]:
        return np.sin(x * np.float32(1 + 2**-21))

    assert differences(lambda x: np.sin(x), rounded, 1e-4) == {}
    assert "10,000 everywhere" in differences(lambda x: np.sin(x), lambda x: np.sin(x + np.float32(0.5)), 1e-4)


def test_where_the_source_is_unstable_nothing_is_compared() -> None:
    """Beside 1e4 it answers NaN: a step that rounding decides."""

    def cliff(x: NDArray[Any]) -> NDArray[Any]:
        return np.where(x > 1e4, np.float32(np.nan), x)

    assert "10,000 everywhere" not in differences(cliff, lambda x: np.where(x >= 1e4, np.float32(0), x))
