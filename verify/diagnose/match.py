"""Which layer of the artifact is which layer of the source, and the first place where the two part.

Converters fuse layers, drop some, add others, and change names and layouts. So two steps are the same layer when their
values are equal, whatever their names; after the values have parted, order and shapes decide.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from verify.diagnose.tracers import Step, Trace, Values

SAMPLE = 4
"""How many pictures are used to see which steps could be the same."""
EQUAL = 1e4
"""The gain of a pair with equal values: more than that of all pairs together that only look alike."""


@dataclass(frozen=True)
class Arrangement:
    """How the source's values are laid out in the artifact."""

    name: str
    """For people: "NCHW as NHWC"; empty where the layouts are the same."""
    apply: Callable[[Values], Values]


@dataclass(frozen=True, eq=False)
class Pair:
    """The same layer in both, and the difference between its values."""

    source: Step
    artifact: Step
    arrangement: Arrangement
    difference: float
    """The largest absolute difference."""
    relative: float
    """The same, as a share of the source's largest value here."""

    def differs(self, tolerance: float) -> bool:
        return not self.relative <= tolerance


def match(source: Trace, artifact: Trace, tolerance: float) -> tuple[Pair, ...]:
    """The pairs in the order of computation; the first is the pictures, the last the answers.

    Both orders are kept: pairs never cross.
    """
    rows, columns = ([step for step in trace.valued if step.name != trace.output] for trace in (source, artifact))
    gains = np.zeros((len(rows), len(columns)))
    for i, row in enumerate(rows):
        for j, column in enumerate(columns):
            gains[i, j] = _gain(source, row, column, tolerance)
    gains[0, 0] = 2 * EQUAL * (1 + len(rows))  # the pictures are a pair
    ends = (source.steps[source.output], artifact.steps[artifact.output])
    steps = [*((rows[i], columns[j]) for i, j in _best_path(gains)), ends]
    return tuple(pair for row, column in steps if (pair := _closest(source, row, column)) is not None)


def first_difference(pairs: Sequence[Pair], artifact: Trace, tolerance: float) -> Pair:
    """The pair that differs although everything that it is computed from agrees, walking back from the answers.

    A difference that leads to a layer that agrees again is not a fault, only another way to compute.
    """
    pending, seen, firsts = [pairs[-1]], set[str](), []
    while pending:
        pair = pending.pop()
        if pair.artifact.name in seen:
            continue
        seen.add(pair.artifact.name)
        different = [above for above in matched_above(pair, pairs, artifact) if above.differs(tolerance)]
        if different:
            pending.extend(different)
        else:
            firsts.append(pair)
    return min(firsts, key=pairs.index)


def matched_above(pair: Pair, pairs: Sequence[Pair], artifact: Trace) -> list[Pair]:
    """The nearest pairs that this one is computed from, in the artifact."""
    by_name = {other.artifact.name: other for other in pairs if other is not pair}
    pending, seen, above = list(pair.artifact.inputs), set[str](), []
    while pending:
        name = pending.pop()
        if name in seen or name not in artifact.steps:
            continue
        seen.add(name)
        if name in by_name:
            above.append(by_name[name])
        else:
            pending.extend(artifact.steps[name].inputs)
    return above


def relative_difference(reference: Values, candidate: Values) -> tuple[float, float]:
    """The largest absolute difference, and its share of the reference's largest value; infinite for NaN."""
    with np.errstate(invalid="ignore", over="ignore"):
        difference = float(np.abs(reference - candidate).max(initial=0))
    if not np.isfinite(difference):
        return np.inf, np.inf
    scale = float(np.abs(reference).max(initial=0)) or float(np.abs(candidate).max(initial=0)) or 1.0
    return difference, difference / scale


def flattened_from(trace: Trace, step: Step) -> tuple[int, int, int] | None:
    """The shape, without the batch, of the picture that this step flattens, or None."""
    for name in step.inputs:
        above = trace.steps.get(name)
        if step.array.ndim == 2 and above is not None and above.value is not None and above.value.ndim == 4:
            first, second, third = above.value.shape[1:]
            if first * second * third == step.array.shape[1]:
                return first, second, third
    return None


def reorder(shape: tuple[int, int, int], axes: tuple[int, int, int]) -> Callable[[Values], Values]:
    """A function of rows (N, K), flattened from `shape`, that flattens them with the axes in this order instead."""
    order = np.arange(np.prod(shape)).reshape(shape).transpose(axes).ravel()
    return lambda values: values[:, order]


CHANNELS_LAST, CHANNELS_FIRST = (1, 2, 0), (2, 0, 1)
"""The axes that turn (channels, height, width) into (height, width, channels), and back."""


def _arrangements(trace: Trace, step: Step, shape: tuple[int, ...]) -> Iterator[Arrangement]:
    """Every way to lay out the source's values that gives the artifact's shape."""
    here = step.array.shape
    if here == shape:
        yield Arrangement("", lambda values: values)
    if len(here) == len(shape) == 4:
        for name, axes in (("NCHW as NHWC", (0, 2, 3, 1)), ("NHWC as NCHW", (0, 3, 1, 2))):
            if tuple(here[axis] for axis in axes) == shape:  # as it is, too, with as many channels as rows and columns
                yield Arrangement(name, lambda values, axes=axes: values.transpose(axes))  # type: ignore[misc]
    flat = flattened_from(trace, step) if here == shape else None
    if flat:
        yield Arrangement("CHW as HWC", reorder(flat, CHANNELS_LAST))
        yield Arrangement("HWC as CHW", reorder(flat, CHANNELS_FIRST))
    if here != shape and [size for size in here[1:] if size > 1] == [size for size in shape[1:] if size > 1]:
        yield Arrangement("reshaped", lambda values: values.reshape(len(values), *shape[1:]))


def _gain(source: Trace, row: Step, column: Step, tolerance: float) -> float:
    """How likely two steps are the same layer; 0 when they cannot be."""
    best, there = 0.0, column.array[:SAMPLE]
    for arrangement in _arrangements(source, row, column.array.shape):
        here = arrangement.apply(row.array[:SAMPLE])
        if relative_difference(here, there)[1] <= tolerance:
            return EQUAL
        # An activation's output has other signs than its input.
        same_signs = (here.min() < 0) == (there.min() < 0) and (here.max() > 0) == (there.max() > 0)
        best = max(best, 1 + same_signs + max(0.0, _correlation(here, there)))
    return best


def _correlation(here: Values, there: Values) -> float:
    a, b = (values.astype(np.float64).ravel() for values in (here, there))
    a, b = a - a.mean(), b - b.mean()
    with np.errstate(invalid="ignore", over="ignore"):
        lengths = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(a @ b) / lengths if lengths > 0 and np.isfinite(lengths) else 0.0


def _best_path(gains: np.ndarray) -> list[tuple[int, int]]:
    """The pairs of row and column, both rising, with the largest sum of gains; of equal sums, the later pairs."""
    rows, columns = gains.shape
    total = np.zeros((rows + 1, columns + 1))
    for i in range(rows):
        for j in range(columns):
            taken = total[i, j] + gains[i, j] if gains[i, j] else 0.0
            total[i + 1, j + 1] = max(taken, total[i, j + 1], total[i + 1, j])
    path, i, j = [], rows, columns
    while i and j:
        if gains[i - 1, j - 1] and total[i, j] == total[i - 1, j - 1] + gains[i - 1, j - 1]:
            i, j = i - 1, j - 1
            path.append((i, j))
        elif total[i, j] == total[i - 1, j]:
            i -= 1
        else:
            j -= 1
    return path[::-1]


def _closest(source: Trace, row: Step, column: Step) -> Pair | None:
    pairs = [
        Pair(row, column, arrangement, *relative_difference(arrangement.apply(row.array), column.array))
        for arrangement in _arrangements(source, row, column.array.shape)
    ]
    return min(pairs, key=lambda pair: pair.relative, default=None)
