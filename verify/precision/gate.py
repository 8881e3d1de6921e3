"""The gate of reduced precisions: how much of its source's accuracy does an artifact keep?

Rounding to 8 bits changes every answer a little, so the tolerance of float32 says nothing here. What counts is whether
the answers are still as good. Source and artifact answer the same rows. The share that the artifact keeps comes with a
two-sided 95 % interval for such pairs, and the artifact passes at a class only when the whole interval reaches it: few
rows cannot show much.

    accuracy    the share of right answers, where these are known
    agreement   the share of rows that keep the source's class, where the right answers are unknown, or where the source
                hardly knows more of them than a guess
    variation   of outputs that are not classes: the share of the variation of the source's answers, each value beside
                its own spread over the rows, so that small values beside large ones count as much
"""

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from contract.errors import ParityError
from contract.parity_result import BatchParity, Kept

Table = NDArray[Any]
"""(rows, values): one output's answers."""
Scores = NDArray[np.float64]
"""(rows,): how good each answer is, from 0 to 1."""

CLASSES = (0.999, 0.99)
"""The shares of its source's accuracy at which an artifact passes."""
Z = statistics.NormalDist().inv_cdf(0.975)
FLAT = 1e-6
"""A value that varies by less than this share of the output's largest one is constant."""
SKILL = 0.1
"""Of what guessing leaves wrong, the least share that a source has to get right for its accuracy to judge."""
SAME_IN_LARGE = 0.95
"""The least share of rows of the large call that keep their class: too few rows for a class, enough for a fault."""


@dataclass(frozen=True)
class Scored:
    """One output's answers, row by row, by one measure."""

    measure: str
    source: Scores
    artifact: Scores


def limits_of(max_loss: str) -> tuple[float, ...]:
    """The classes, or the one limit that somebody sets: `0.5%` or `0.005`. Raises ParityError for anything else."""
    if not max_loss:
        return CLASSES
    text, is_percent = max_loss.strip().removesuffix("%"), max_loss.strip().endswith("%")
    try:
        loss = float(text) / (100 if is_percent else 1)
    except ValueError:
        loss = math.nan
    if not 0 < loss < 1:
        raise ParityError(
            f"MAX_LOSS={max_loss[:40]} is not a limit; use a share of the source's accuracy between 0 and 1, such as "
            "0.5% or 0.005."
        )
    return (round(1 - loss, 9),)


def least_kept(
    reference: Mapping[str, Table],
    candidate: Mapping[str, Table],
    labels: NDArray[Any] | None,
    has_classes: bool,
    limits: Sequence[float] = CLASSES,
) -> Kept:
    """What is kept of the output that keeps least. `labels` are the right classes of the first output.

    Raises ParityError when there is nothing to compare, or shapes differ.
    """
    scored = list(_scored(reference, candidate, labels, has_classes))
    return min((kept_of(each, limits) for each in scored), key=lambda kept: kept.low)


def kept_of(scored: Scored, limits: Sequence[float] = CLASSES) -> Kept:
    """The share and its interval. Where the source is never right, agreement has to judge instead: ParityError."""
    rows, source, artifact = len(scored.source), float(scored.source.mean()), float(scored.artifact.mean())
    if not source > 0:
        raise ParityError(f"The source's {scored.measure} is 0 on {rows} rows: nothing of it can be kept.")
    low, high = (1 + end / source for end in paired_interval(scored.artifact - scored.source))
    reached = [limit for limit in limits if low >= limit]
    limit = max(reached) if reached else min(limits)
    return Kept(scored.measure, rows, source, artifact, artifact / source, low, high, limit)


def paired_interval(changes: Scores, z: float = Z) -> tuple[float, float]:
    """The two-sided interval of the mean of changes within pairs, each from -1 to 1; of 95 % where `z` is not another.

    For right and wrong answers this is the interval of Agresti and Min (2005): half a pair is added to each of the four
    cells, so that it has a width where nothing changed, and keeps its confidence with few changes.
    """
    rows = len(changes) + 2
    mean = float(changes.sum()) / rows
    variance = (float((changes**2).sum()) + 1) / rows - mean**2
    reach = z * math.sqrt(variance / rows)
    return mean - reach, mean + reach


def misses(kept: Kept) -> Iterator[str]:
    """Why an artifact does not pass, one phrase; nothing where it does."""
    if kept.passes:
        return
    yield f"it keeps {kept}, and {100 * kept.limit:g} % is needed"
    if kept.share > kept.limit:
        room, width = kept.share - kept.limit, kept.share - kept.low
        needed = float(f"{kept.rows * (width / room) ** 2:.2g}")
        yield f"{kept.rows:,} rows are too few to show it: about {needed:,.0f} would do"


def parts_in_large(large: Sequence[BatchParity], has_classes: bool) -> Iterator[str]:
    """What is wrong where many rows in one call get other classes than the source gives them, beyond rounding."""
    for parity in large:
        if has_classes and not parity.agreement >= SAME_IN_LARGE:
            yield f"in one call of {parity.batch} rows, {parity.agreement:.1%} keep their class"


def _scored(
    reference: Mapping[str, Table], candidate: Mapping[str, Table], labels: NDArray[Any] | None, has_classes: bool
) -> Iterator[Scored]:
    for place, (name, expected) in enumerate(reference.items()):
        got = candidate[name]
        if expected.shape != got.shape:
            raise ParityError(f"The answers have shape {got.shape}, expected the source's {expected.shape}.")
        if not expected.size:
            raise ParityError("No answers were compared: at least one row is needed.")
        if place == 0 and has_classes:
            yield _by_class(expected, got, labels)
        else:
            yield _by_variation(expected, got)


def _by_class(expected: Table, got: Table, labels: NDArray[Any] | None) -> Scored:
    before, after = expected.argmax(axis=1), got.argmax(axis=1)
    is_answer = np.isfinite(got.astype(np.float64)).all(axis=1)
    if labels is not None and _has_skill(before == labels, labels):
        right = (after == labels) & is_answer
        return Scored("accuracy", (before == labels).astype(np.float64), right.astype(np.float64))
    return Scored("agreement", np.ones(len(before)), ((before == after) & is_answer).astype(np.float64))


def _has_skill(right: NDArray[np.bool_], labels: NDArray[Any]) -> bool:
    """Whether the source knows more than the most frequent class: otherwise its accuracy says nothing."""
    guess = np.unique(labels, return_counts=True)[1].max() / len(labels)
    return bool(right.mean() - guess > SKILL * (1 - guess))


def _by_variation(expected: Table, got: Table) -> Scored:
    if expected.dtype.kind in "iub":  # numbers of things: near is not enough
        return Scored("agreement", np.ones(len(expected)), (expected == got).mean(axis=1))
    reference, values = expected.astype(np.float64), got.astype(np.float64)
    spread = reference.std(axis=0)
    size = float(np.abs(reference[np.isfinite(reference)]).max(initial=0))
    # What does not vary is measured beside the largest value.
    unit = np.where(spread > FLAT * size, spread, max(size, np.finfo(np.float64).tiny))
    with np.errstate(invalid="ignore", over="ignore"):
        lost = np.minimum(1, ((values - reference) / unit) ** 2)
    lost[~np.isfinite(values) & np.isfinite(reference)] = 1
    return Scored("variation", np.ones(len(reference)), 1 - np.nan_to_num(lost, nan=0.0).mean(axis=1))
