"""Accuracy, parity and flipped pictures, from the answers alone."""

import base64

import numpy as np
import pytest
from numpy.typing import NDArray

from compare import answers
from compare.figures import Figure, Measured, Missing
from verify.parity import compare
from verify.questions import Questions

CLASSES = 3
LABELS = ("a", "b", "c")


def table(classes: list[int], best: float = 0.8) -> NDArray[np.float64]:
    rows = np.full((len(classes), CLASSES), (1 - best) / (CLASSES - 1))
    rows[np.arange(len(classes)), classes] = best
    return rows


def both(rows: NDArray[np.float64]) -> answers.AnswersByBatch:
    return {1: rows, 64: rows}


def questions_of(labels: list[int]) -> Questions:
    count = len(labels)
    pictures = np.arange(count * 4, dtype=np.uint8).reshape(count, 2, 2, 1)
    return Questions({"pixels": pictures}, np.array(labels, np.uint8), "")


def figure_of(measured: Measured) -> Figure:
    assert isinstance(measured, Figure), measured
    return measured


def test_accuracy_is_counted_with_its_interval() -> None:
    figure = figure_of(answers.accuracy(both(table([0, 1, 2, 0])), questions_of([0, 1, 2, 1])))
    assert (figure.value, figure.samples) == (0.75, 4)
    assert figure.low < 0.31 < 0.95 < figure.high


def test_each_class_has_its_own_accuracy() -> None:
    accuracies = answers.accuracy_per_class(both(table([0, 0, 1])), questions_of([0, 1, 1]), LABELS)
    values = {label: figure.value for label, figure in accuracies.items() if isinstance(figure, Figure)}
    assert values == {"a": 1.0, "b": 0.5}
    assert isinstance(accuracies["c"], Missing), "no test picture is of class c: its accuracy is not 0"


def test_a_change_of_accuracy_is_known_better_than_either_accuracy() -> None:
    """999 of 1,000 pictures have equal answers; only the last one widens the interval."""
    labels = [0] * 1000
    source, artifact = both(table([0] * 900 + [1] * 100)), both(table([0] * 899 + [1] * 101))
    change = figure_of(answers.accuracy_change(source, artifact, questions_of(labels)))
    assert change.value == pytest.approx(-0.001)
    assert change.high - change.low < 0.005
    alone = figure_of(answers.accuracy(artifact, questions_of(labels)))
    assert alone.high - alone.low > 0.03


def test_parity_figures_are_the_gates_own() -> None:
    source, artifact = both(table([0, 1, 2])), both(table([0, 1, 1]))
    batches = answers.parity(source, artifact)
    figures = answers.parity_figures(batches, 3)
    assert answers.verdict(batches).startswith("the largest difference at batch 1 is 0.7")
    assert figures["max_abs_diff@1"] == figures["max_abs_diff@64"]
    agreement = figures["agreement"]
    assert isinstance(agreement, Figure)
    assert agreement.value == pytest.approx(2 / 3)
    assert answers.verdict(answers.parity(source, source)) == "passed"


def test_divergence_is_that_of_the_textbook() -> None:
    p, q = np.array([[0.5, 0.5, 0.0]]), np.array([[0.25, 0.5, 0.25]])
    assert compare(p, q, 1).max_kl == pytest.approx(0.5 * np.log(2))
    assert compare(p, p, 1).max_kl == 0
    assert compare(q, p, 1).max_kl == np.inf, "the source gives a class some probability, the artifact none"


def test_answers_that_are_not_probabilities_have_no_divergence() -> None:
    logits = np.array([[3.0, -1.0, 0.5]])
    assert compare(logits, logits, 1).max_kl is None
    figure = answers.parity_figures(answers.parity(both(logits), both(logits)), 1)["max_kl@1"]
    assert isinstance(figure, Missing)


def test_an_answer_that_is_not_a_number_is_missing_and_fails() -> None:
    broken = table([0, 1, 2])
    broken[0, 0] = np.nan
    batches = answers.parity(both(table([0, 1, 2])), both(broken))
    assert isinstance(answers.parity_figures(batches, 3)["max_abs_diff@1"], Missing), "JSON has no infinity"
    assert "inf" in answers.verdict(batches)


def test_without_labels_accuracy_is_unknown_and_parity_is_not() -> None:
    questions = Questions({"pixels": np.zeros((3, 2, 2, 1), np.uint8)}, None, "")
    source = both(table([0, 1, 2]))
    assert isinstance(answers.accuracy(source, questions), Missing)
    assert isinstance(answers.accuracy_change(source, source, questions), Missing)
    assert answers.accuracy_per_class(source, questions, LABELS) == {}
    changed = both(table([0, 1, 0]))
    (flip,) = answers.flips(source, changed, answers.parity(source, changed), questions, ())
    assert (flip.label, flip.source, flip.artifact) == ("", "class 2", "class 0")


def test_the_tolerance_grows_with_answers_larger_than_1() -> None:
    logits = np.array([[3000.0, -1.0, 0.5]])
    assert answers.verdict(answers.parity(both(logits), both(logits + 0.1))) == "passed"
    assert answers.verdict(answers.parity(both(logits), both(logits + 1))).startswith("the largest difference")


def test_a_flipped_picture_is_shown_with_both_answers_and_margins() -> None:
    source = table([0, 1, 2])
    artifact = {1: source.copy(), 64: source.copy()}
    artifact[64][2] = [0.5, 0.3, 0.2]
    batches = answers.parity(both(source), artifact)
    (flip,) = answers.flips(both(source), artifact, batches, questions_of([0, 1, 2]), LABELS)
    assert (flip.image, flip.batch, flip.label, flip.source, flip.artifact) == (2, 64, "c", "c", "a")
    assert flip.source_margin == pytest.approx(0.7)
    assert flip.artifact_margin == pytest.approx(0.2)
    assert not flip.near_tie


def test_a_picture_that_flips_at_both_batch_sizes_is_shown_once() -> None:
    source, artifact = both(table([0, 1, 2])), both(table([0, 0, 2]))
    flips = answers.flips(source, artifact, answers.parity(source, artifact), questions_of([0, 1, 2]), LABELS)
    assert [(flip.image, flip.batch) for flip in flips] == [(1, 1)]


def test_a_fault_beyond_the_ordinary_batch_is_the_artifacts() -> None:
    rows = table([0, 1, 2, 0, 1] * 20)
    large = np.resize(rows[: answers.MANY], (answers.LARGEST, CLASSES))
    wrong = large.copy()
    wrong[answers.MANY :] = wrong[answers.MANY :, ::-1]
    source, right, fault = ({1: rows, 64: rows, answers.LARGEST: each} for each in (large, large, wrong))
    assert answers.verdict(answers.parity(source, fault)) == "passed"
    assert answers.wrong_in_a_large_call(source, right) == ""
    assert "at batch 128" in answers.wrong_in_a_large_call(source, fault)


def test_right_answers_are_packed_as_bits() -> None:
    packed = answers.pack_right(both(table([0, 1, 2, 0, 0, 0, 0, 0, 1])), questions_of([0, 1, 1, 1, 0, 0, 0, 0, 1]))
    assert base64.b64decode(packed) == bytes([0b11001111, 0b10000000])
    unlabelled = Questions({"pixels": np.zeros((2, 2, 2, 1), np.uint8)}, None, "")
    assert answers.pack_right(both(table([0, 1])), unlabelled) == ""
