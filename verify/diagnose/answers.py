"""Experiments on answers: what can be told from questions alone, without a look into the graph.

They come first, since a layer says nothing where answers depend on chance, on earlier calls or on the batch.
"""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from contract.manifest import Manifest
from contract.parity_result import BatchParity, EdgeDifference
from contract.tensors import Tensors, numpy_dtype
from serve.runtimes import Runtime
from verify.diagnose.case import Check
from verify.edges import EdgeAnswer
from verify.parity import AllAnswers, Tolerance, answer, differences_in_words, judge
from verify.questions import Questions

REPEATED = 8
"""How many rows are asked again: those with the largest differences."""

NO_NUMBER = 1e30
"""What stands for NaN where two runs are compared."""


@dataclass(frozen=True)
class Exchange:
    """Both artifacts, and what they answered to the questions of parity."""

    source: Runtime
    artifact: Runtime
    manifests: tuple[Manifest, Manifest]
    """The source's, the artifact's."""
    questions: Questions
    here: Mapping[int, AllAnswers]
    there: Mapping[int, AllAnswers]
    """The source's and the artifact's answers, by the number of rows in a call."""
    parities: Sequence[BatchParity]
    edges: Sequence[EdgeAnswer]
    differs: Sequence[EdgeDifference]
    fresh: Callable[[], Runtime]
    """Loads the artifact once more."""

    @property
    def tolerance(self) -> Tolerance:
        return Tolerance(self.questions.tolerance)

    @property
    def failing(self) -> list[int]:
        """The numbers of rows in a call with which parity fails."""
        return [parity.batch for parity in self.parities if judge([parity], self.tolerance)]

    def row(self, number: int) -> Tensors:
        dtypes = {spec.name: numpy_dtype(spec.dtype) for spec in self.manifests[1].inputs}
        return self.questions.rows(number, number + 1, dtypes)

    def apart(self, batch: int) -> NDArray[np.float64]:
        """The largest difference between the answers to each row, in a call of so many (N,)."""
        return differences(self.here[batch], self.there[batch])

    @cached_property
    def worst(self) -> list[int]:
        """The rows with the largest differences, asked alone, the worst first."""
        order = np.argsort(-self.apart(min(self.here)), kind="stable")
        return [int(number) for number in order[:REPEATED]]

    @cached_property
    def repeated(self) -> tuple[list[Tensors], list[Tensors], list[Tensors], list[Tensors]]:
        """The artifact's answers to the worst rows: in two fresh runs, again in the second, and those of parity."""
        rows = [self.row(number) for number in self.worst]
        runs: list[list[Tensors]] = []
        for times in (1, 2):
            with contextlib.closing(self.fresh()) as runtime:
                runs += [[runtime.predict(row) for row in rows] for _ in range(times)]
        alone = self.there[min(self.there)]
        before: list[Tensors] = [
            {name: table[number].reshape(runs[0][0][name].shape) for name, table in alone.items()}
            for number in self.worst
        ]
        return runs[0], runs[1], runs[2], before


def differences(here: AllAnswers, there: AllAnswers) -> NDArray[np.float64]:
    """The largest difference of each row over all outputs, each in its own unit; NaN counts as infinite."""
    each = []
    for name, expected in here.items():
        finite = np.abs(expected[np.isfinite(expected)])
        with np.errstate(invalid="ignore"):
            off = np.abs(expected.astype(np.float64) - there[name]).max(axis=1) / max(1.0, finite.max(initial=0))
        each.append(np.where(np.isfinite(off), off, np.inf))
    largest: NDArray[np.float64] = np.max(each, axis=0)
    return largest


def manifest(exchange: Exchange) -> Check:
    """Whether the answers are right, and the manifest says something else about them."""
    phrases = differences_in_words(*exchange.manifests)
    if not phrases or exchange.failing:
        return Check("manifest", False, "what the manifests say is not what differs")
    evidence = f"the answers are the source's; but {'; '.join(phrases)}"
    return Check("manifest", True, evidence, 0.0, "Export it again: an artifact's manifest repeats its source's.")


# Chance and earlier calls


def chance(exchange: Exchange) -> Check:
    """Whether two runs that begin alike give different answers."""
    cause = "chance"
    first, second, _, _ = exchange.repeated
    off = max(map(_off, first, second))
    evidence = f"loaded twice and asked the same rows in the same order, it answers up to {off:.1e} apart"
    advice = "Export it for inference, without dropout and noise: after `model.eval()`, or with `training=False`."
    return Check(cause, off > exchange.questions.tolerance, evidence, None, advice)


def earlier_calls(exchange: Exchange) -> Check:
    """Whether the same row gets another answer later, although two fresh runs agree."""
    cause = "earlier calls"
    first, second, later, before = exchange.repeated
    if max(map(_off, first, second)) > exchange.questions.tolerance:
        return Check(cause, False, "two fresh runs differ already")
    again, long = max(map(_off, first, later)), max(map(_off, first, before))
    evidence = (
        f"asked the same rows once more, it answers up to {again:.1e} apart; up to {long:.1e} apart from its answers "
        "after all the other questions"
    )
    if _is_one_behind(exchange, first):
        evidence += "; each answer is the source's to the request before"
    advice = "Reset the state at the beginning of each call, or pass it in and out as a tensor."
    return Check(cause, max(again, long) > exchange.questions.tolerance, evidence, None, advice)


def _off(here: Tensors, there: Tensors) -> float:
    """The largest difference of any output, in the unit of its values; NaN is as good as NaN."""
    tables = [
        {
            name: np.nan_to_num(np.asarray(value, np.float64).reshape(1, -1), nan=NO_NUMBER)
            for name, value in each.items()
        }
        for each in (here, there)
    ]
    return float(differences(*tables).max())


def _is_one_behind(exchange: Exchange, first: Sequence[Tensors]) -> bool:
    expected = [exchange.source.predict(exchange.row(number)) for number in exchange.worst]
    return max(map(_off, expected[:-1], first[1:])) <= exchange.questions.tolerance


# Rows of a batch


def rows_of_a_batch(exchange: Exchange) -> Check:
    """Whether rows are right alone and wrong together; then, whether their place matters or their neighbours."""
    cause, failing = "rows of a batch", exchange.failing
    if not failing or min(exchange.here) in failing:
        return Check(cause, False, "the answers to single rows differ, too" if failing else "no number of rows differs")
    size = failing[0]
    expected, order = exchange.here[size], np.arange(min(size, len(next(iter(exchange.here[size].values())))))
    numbers = order % exchange.questions.count
    wrong = np.flatnonzero(exchange.apart(size)[order] > exchange.questions.tolerance)
    turned = answer(exchange.artifact, exchange.manifests[1], _in_order(exchange.questions, numbers[::-1]), len(order))
    right = {name: table[order[::-1]] for name, table in expected.items()}
    moved = np.flatnonzero(differences(right, turned) > exchange.questions.tolerance)
    where = f"row {', '.join(map(str, wrong[:4]))}{', ...' if len(wrong) > 4 else ''} of {len(order)}"
    how = "the same places" if np.array_equal(wrong, moved) else "other places"
    evidence = (
        f"alone each row is right; in one call {where} is wrong{_whose(exchange, size, wrong)}. "
        f"With the rows in reverse order, {how} are wrong"
    )
    advice = "Let the graph compute row by row, with a batch that is free, and no index or shape fixed at export."
    return Check(cause, len(wrong) > 0, evidence, None, advice)


def _in_order(questions: Questions, numbers: NDArray[np.intp]) -> Questions:
    return replace(questions, inputs={name: rows[numbers] for name, rows in questions.inputs.items()}, labels=None)


def _whose(exchange: Exchange, size: int, wrong: NDArray[np.intp]) -> str:
    """Which row's answer the first wrong row has."""
    name = next(iter(exchange.here[size]))
    got = exchange.there[size][name][wrong[0]]
    same = np.abs(exchange.here[size][name][:size] - got).max(axis=1) <= exchange.questions.tolerance
    return f", and row {wrong[0]} gets the answer to row {np.argmax(same)}" if same.any() else ""


# Order of outputs and classes


def swapped_outputs(exchange: Exchange) -> Check:
    """Whether each output has the answers of another one."""
    cause, batch = "swapped outputs", min(exchange.here)
    here, there = exchange.here[batch], exchange.there[batch]
    if len(here) < 2:
        return Check(cause, False, "there is one output")
    limit = exchange.questions.tolerance
    taken = {
        name: next(
            (
                other
                for other, expected in here.items()
                if expected.shape == got.shape and differences({"": expected}, {"": got}).max() <= limit
            ),
            "",
        )
        for name, got in there.items()
    }
    changed = {name: other for name, other in taken.items() if other != name}
    holds = bool(changed) and sorted(taken.values()) == sorted(here)
    words = ", ".join(f"{name} has the answers of {other}" for name, other in changed.items() if other)
    advice = "Bind the outputs by their names, not by their order."
    return Check(cause, holds, words or "no output has the answers of another one", None, advice)


def permuted_classes(exchange: Exchange) -> Check:
    """Whether the answers are right, in another order."""
    cause, batch = "permuted classes", min(exchange.here)
    name = next(iter(exchange.here[batch]))
    here, there = (np.asarray(each[batch][name], np.float64) for each in (exchange.here, exchange.there))
    few = slice(0, 32)
    with np.errstate(invalid="ignore"):
        apart = np.abs(here[few, :, None] - there[few, None, :]).max(axis=0)  # (source's class, artifact's class)
    order = apart.argmin(axis=0)
    if len(set(order.tolist())) < len(order) or (order == np.arange(len(order))).all():
        return Check(cause, False, "no order of the source's answers is the artifact's")
    left = float(differences({"": here[:, order]}, {"": there}).max())
    labels = exchange.manifests[0].class_names(len(order))
    moved = [number for number in range(len(order)) if order[number] != number]
    some = ", ".join(f"{labels[number]} has the answers of {labels[order[number]]}" for number in moved[:4])
    evidence = f"{some}{', ...' if len(moved) > 4 else ''}; in this order the source is off by {left:.1e}"
    advice = "Give the last layer's columns the order of the labels."
    return Check(cause, left <= exchange.questions.tolerance, evidence, left, advice)


def temperature(exchange: Exchange) -> Check:
    """Whether the logits were divided by a number before the softmax."""
    cause, batch = "temperature of the softmax", min(exchange.here)
    name = next(iter(exchange.here[batch]))
    here, there = (np.asarray(each[batch][name], np.float64) for each in (exchange.here, exchange.there))
    if not all(
        (each > 0).any() and (each >= 0).all() and np.allclose(each.sum(axis=1), 1, atol=1e-3) for each in (here, there)
    ):
        return Check(cause, False, "the answers are not probabilities")
    logs = [np.log(np.maximum(each, 1e-30)) for each in (here, there)]
    seen = (here > 1e-6) & (there > 1e-6)
    centred = [each - np.nanmean(np.where(seen, each, np.nan), axis=1, keepdims=True) for each in logs]
    x, y = (each[seen] for each in centred)
    share = float(x @ y) / max(float(x @ x), 1e-30)
    made = np.exp(share * (logs[0] - logs[0].max(axis=1, keepdims=True)))
    left = float(np.abs(made / made.sum(axis=1, keepdims=True) - there).max())
    off = max(parity.max_abs_diff for parity in exchange.parities)
    divisor = 1 / share if share else np.inf
    evidence = f"with its logits divided by {divisor:.4g}, the source is off by {left:.1e} instead of {off:.1e}"
    advice = "Leave the temperature out of the exported graph, or give the source the same."
    return Check(cause, left <= exchange.questions.tolerance and left <= off / 10, evidence, left, advice)


# Numbers that are none


def not_a_number(exchange: Exchange) -> Check:
    """Whether NaN comes only for inputs of one value: beside them it has to answer rightly."""
    cause, nudged = "not a number", []
    for edge in exchange.edges:
        given = edge.question.inputs
        if any(np.isnan(value).any() for value in exchange.artifact.predict(given).values() if value.dtype.kind == "f"):
            nudged.append({name: _nudged(value) for name, value in given.items()})
    if not nudged:
        return Check(cause, False, "the artifact's answers are numbers")
    off = max(_off(exchange.source.predict(row), exchange.artifact.predict(row)) for row in nudged)
    evidence = (
        f"{len(nudged)} edge questions are answered with NaN; with two of their values changed by 1 and by 2 the "
        f"artifact is off by {off:.1e}"
    )
    advice = "Keep the divisor, or the argument of a logarithm, away from 0: add a small number to it."
    return Check(cause, off <= exchange.questions.tolerance, evidence, off, advice)


def _nudged(value: NDArray[np.generic]) -> NDArray[np.generic]:
    if value.dtype.kind != "f":
        return value
    flat = value.astype(np.float32).ravel()
    flat[0] += 1
    flat[-1] += 2
    return flat.reshape(value.shape).astype(value.dtype)


CHECKS: dict[str, Callable[[Exchange], Check]] = {
    "manifest": manifest,
    "chance": chance,
    "earlier calls": earlier_calls,
    "rows of a batch": rows_of_a_batch,
    "swapped outputs": swapped_outputs,
    "permuted classes": permuted_classes,
    "temperature of the softmax": temperature,
    "not a number": not_a_number,
}
