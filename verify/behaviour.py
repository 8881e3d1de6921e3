"""Does an answer depend on anything besides its own row: on the rows beside it, on earlier calls, on chance?

A server puts requests that wait together into one call, and splits the outputs by rows. That is right only for models
that compute row by row. A softmax over the batch, a state `[layers, batch, units]`, or an activation scaled by its
largest value gives callers answers that come from each other's rows. So before it is
batched, an artifact answers the same rows alone, together and in another order.
"""

import itertools
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from contract.behaviour import Behaviour
from contract.manifest import Manifest
from contract.tensors import Tensors, numpy_dtype
from serve.runtimes import Runtime, joined
from verify.questions import Questions
from verify.second_process import Left, answer_rows

ROWS = 9
"""How many rows it answers alone and together: odd, so that no half of them looks like another half."""

TOGETHER = (2, 5, ROWS)
"""How many rows share a call."""


@dataclass(frozen=True)
class Alone:
    """What an artifact answers to the first questions, one at a time."""

    rows: Sequence[Tensors]
    answers: Sequence[Tensors]
    seconds: float
    """How long the shortest answer took."""


def ask_alone(runtime: Runtime, manifest: Manifest, questions: Questions) -> Alone:
    """Raises what the runtime raises."""
    dtypes = {spec.name: numpy_dtype(spec.dtype) for spec in manifest.inputs}
    rows = [questions.rows(row, row + 1, dtypes) for row in range(min(ROWS, questions.count))]
    answers, times = [], []
    for row in rows:
        start = time.perf_counter()
        answers.append(runtime.predict(row))
        times.append(time.perf_counter() - start)
    return Alone(rows, answers, min(times))


def observe(
    runtime: Runtime,
    manifest: Manifest,
    questions: Questions,
    sha256: str,
    elsewhere: Left | None = None,
    alone: Alone | None = None,
) -> Behaviour:
    """Run an artifact on the first questions twice, then together and in another order.

    `sha256` is its manifest's. `elsewhere` are its answers in another process, where it was run, and `alone` those to
    the first questions, where they were asked. Raises what the runtime raises.
    """
    first = alone or ask_alone(runtime, manifest, questions)
    again = [runtime.predict(row) for row in reversed(first.rows)][::-1]
    changes = _changes(first.answers, again, questions.tolerance, "again")
    if elsewhere:
        here = answer_rows(runtime, manifest, elsewhere.below)
        changes = itertools.chain(changes, _changes(elsewhere.answers, here, questions.tolerance, "in another process"))
    if unsteady := next(changes, ""):
        return Behaviour(sha256, unsteady=unsteady)
    if not manifest.has_rows:
        return Behaviour(sha256, mixing="not all of its inputs and outputs have an axis for rows")
    return Behaviour(sha256, mixing=next(_mixtures(runtime, first, questions.tolerance), ""))


def _changes(alone: Sequence[Tensors], again: Sequence[Tensors], tolerance: float, how: str) -> Iterator[str]:
    """How answers to the same rows differ, one phrase a difference."""
    for before, after in zip(alone, again, strict=True):
        for name, expected in before.items():
            if not _same(expected, after[name], tolerance):
                yield f"the output {name} differs by {_apart(expected, after[name])} when the same row is sent {how}"


def _mixtures(runtime: Runtime, alone: Alone, tolerance: float) -> Iterator[str]:
    """What goes wrong when rows share a call, one phrase a difference."""
    for size in sorted({min(size, len(alone.rows)) for size in TOGETHER} - {1}):
        for order in (range(size), range(size)[::-1]):
            outputs = runtime.predict(joined([alone.rows[row] for row in order]))
            for name, array in outputs.items():
                if array.ndim == 0 or len(array) != size:
                    yield f"the output {name} has shape {list(array.shape)} for {size} rows, not a row for each"
                    continue
                for place, row in enumerate(order):
                    expected, got = alone.answers[row][name], array[place : place + 1]
                    if not _same(expected, got, tolerance):
                        yield f"the output {name} of a row differs by {_apart(expected, got)} when {size} share a call"


def _same(expected: NDArray[Any], got: NDArray[Any], tolerance: float) -> bool:
    """Whether two answers are equal but for rounding; NaN and infinities have to stand in the same places."""
    if expected.shape != got.shape:
        return False
    if expected.dtype == object or expected.dtype.kind in "iub":
        return bool((expected == got).all())
    expected, got = expected.astype(np.float64), got.astype(np.float64)
    unit = max(1.0, float(np.abs(expected[np.isfinite(expected)]).max(initial=0)))
    return bool(np.allclose(got, expected, rtol=0, atol=tolerance * unit, equal_nan=True))


def _apart(expected: NDArray[Any], got: NDArray[Any]) -> str:
    """How far two answers are from each other, for people."""
    if expected.shape != got.shape:
        return f"its shape ({list(got.shape)} instead of {list(expected.shape)})"
    if expected.dtype == object:
        return "its text"
    with np.errstate(invalid="ignore"):
        difference = np.abs(expected.astype(np.float64) - got.astype(np.float64))
    difference[np.isnan(difference)] = np.inf
    return f"{difference.max():.2g}"
