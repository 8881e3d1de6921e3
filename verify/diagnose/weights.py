"""Experiments on weights: the source is run with the artifact's, which tells what is wrong with them."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from verify.diagnose.case import FEW, TOLERANCES, Case, Check, best_of

Array = NDArray[Any]

# The precision in which they are stored


def precision_of(weights: Iterable[NDArray[Any]]) -> str:
    """The coarsest precision of any array that is large enough to matter."""
    order = list(TOLERANCES)
    return max((_precision(array) for array in weights if array.size >= FEW), key=order.index, default="float32")


def _precision(array: NDArray[Any]) -> str:
    name = array.dtype.name
    if name in ("int8", "uint8"):
        return "int8"
    if name in ("float16", "bfloat16"):
        return name
    if name == "float32" and array.any() and np.isfinite(array).all():
        if not (np.ascontiguousarray(array).view(np.uint32) & 0xFFFF).any():
            return "bfloat16"
        with np.errstate(over="ignore"):  # no float16 is larger than 65504
            return "float16" if (array.astype(np.float16) == array).all() else "float32"
    return "float32"


def precision(case: Case) -> Check:
    """Whether the artifact's weights are coarser than the source's, and that explains the difference of every layer."""
    kept, limit = case.precision, case.tolerance
    if kept == "float32":
        return Check("precision", False, "the artifact's weights are as precise as the source's")
    rounded = ""
    if kept == "int8" and (count := _rounded_to_bytes(case)):
        # Its activations may be rounded as well, which its file does not show.
        limit, rounded = BYTES, f", {count} arrays being the source's to half a step"
    first = next(pair for pair in case.pairs if pair.differs(TOLERANCES["float32"]))
    worst = max(case.pairs, key=lambda pair: pair.relative)
    evidence = (
        f"the artifact's weights are {kept} numbers, the source's are not{rounded}; from {first.relative:.1e} of the "
        f"largest value at {first.source.label} the difference grows to {worst.relative:.1e} at {worst.source.label}"
    )
    if worst.differs(limit):
        return Check(
            "precision", False, f"{evidence}: more than the {limit:.0e} that rounding explains", worst.relative
        )
    advice = "Accept the rounding, with a tolerance of this format's own, or keep the weights in float32."
    return Check(f"precision ({kept})", True, f"{evidence}; rounding explains {limit:.0e}", worst.relative, advice)


BYTES = 3e-1
"""As TOLERANCES for int8, where each array of bytes is known to be one of the source's, rounded."""


def _rounded_to_bytes(case: Case) -> int:
    """How many arrays of bytes the artifact stores; 0 where one of them is not an array of the source's, rounded."""
    stored = [np.asarray(array, np.float32) for array in case.weights if array.dtype.name in ("int8", "uint8")]
    large = [array for array in stored if array.size >= FEW]
    own = [np.asarray(array, np.float32) for array in case.changeable.named_weights().values()]
    are_rounded = [
        any(
            _is_linear(here, layout)
            for here in own
            if here.size == array.size
            for layout in _layouts(array, here.shape)
        )
        for array in large
    ]
    return len(are_rounded) if all(are_rounded) else 0


def _is_linear(here: Array, steps: Array) -> bool:
    """Whether the one is the other in steps: of one size, or of one size for each slice along an axis."""
    for axis in (None, *range(here.ndim)):
        rows, columns = (
            [each.ravel()] if axis is None else np.moveaxis(each, axis, 0).reshape(each.shape[axis], -1)
            for each in (here, steps)
        )
        if all(_fits(row, column) for row, column in zip(rows, columns, strict=True)):
            return True
    return False


def _fits(row: Array, steps: Array) -> bool:
    if steps.min() == steps.max():
        return bool(np.ptp(row) < 1e-6)
    size, start = np.polyfit(steps.astype(np.float64), row.astype(np.float64), 1)
    return bool(np.abs(row - (size * steps + start)).max() <= 0.6 * abs(size))


# Other weights

SAME = 1e-6
"""Two arrays are one array where no more than this share of the largest value is between them."""
FAR = 1.5
"""Arrays that are further apart than this share of their length are not the same array, changed."""
SCALES = (1.0, 1 / 255, 1 / 127.5)
"""Converters multiply the first weights by the scale of the pictures."""


@dataclass(frozen=True)
class Changed:
    """One of the source's arrays, and what the artifact has in its place."""

    name: str
    here: Array
    there: Array
    """In the source's shape."""

    @property
    def places(self) -> tuple[Array, ...]:
        """Where the two differ, an array of indices for each axis."""
        return np.nonzero(np.abs(self.here - self.there) > SAME * np.abs(self.here).max(initial=1e-30))


def other_weights(case: Case) -> Check:
    """Whether the source answers as the artifact does when it gets the artifact's weights; then, how they differ."""
    changed = list(_changed(case.changeable.named_weights(), case.weights))
    checks = _turned(case)
    if not changed:
        return best_of(checks, Check("weights", False, "every array of the source's is in the artifact"))
    if len(changed) > 1:  # one after the other: what is not found may have been folded into another one
        near = case.nearest([each.name for each in changed])
        checks += [_tried(case, [each], *_described(each)) for each in changed if each.name in near]
        words = _described_together(changed)
    else:
        words = _described(changed[0])
    checks.append(_tried(case, changed, *words))
    return best_of(checks, checks[-1])


def _turned(case: Case) -> list[Check]:
    """Whether an array with equal sizes, whose layout cannot be seen, has its axes in another order."""
    checks, own = [], case.changeable.named_weights()
    for name in case.nearest([name for name, here in own.items() if here.ndim > 1]):
        here = own[name]
        for there in _layouts(here, here.shape):
            if not np.array_equal(here, there):
                how = f"{name}, with its axes in another order, which leaves their sizes {list(here.shape)}"
                checks.append(_tried(case, [Changed(name, here, there)], "weights in another order", how))
    return checks


def _tried(case: Case, changed: Sequence[Changed], cause: str, words: str) -> Check:
    trace = case.run_with_weights({each.name: each.there for each in changed})
    advice = "Export it again from the source's weights, and compare the stored arrays."
    if cause.startswith("precision"):
        advice = "Accept the rounding, with a tolerance of this format's own, or keep the weights in float32."
    check = case.test(cause, trace, f"given the artifact's {words}", advice)
    # Where the rest stays wrong, these weights are not the cause, or not the only one.
    holds = check.holds and not check.is_partial
    return Check(check.cause if holds else "weights", holds, check.evidence, check.left, advice, check.answers_left)


def _changed(own: Mapping[str, Array], stored: Iterable[Array]) -> Iterator[Changed]:
    """The source's arrays that the artifact has otherwise; the nearest pairs of arrays are found first."""
    arrays = [
        np.asarray(array, np.float32) for array in stored if array.dtype.kind == "f" or array.dtype.name == "bfloat16"
    ]
    pairs = [
        (name, number, *_nearest(here, array))
        for name, here in own.items()
        for number, array in enumerate(arrays)
        if here.size == array.size and here.size > 1
    ]
    seen_names, seen_numbers = set[str](), set[int]()
    for name, number, distance, array in sorted(pairs, key=lambda pair: pair[2]):
        if name in seen_names or number in seen_numbers or distance > FAR:
            continue
        seen_names.add(name)
        seen_numbers.add(number)
        change = Changed(name, np.asarray(own[name], np.float32), array)
        if change.places[0].size:
            yield change


def _nearest(here: Array, array: Array) -> tuple[float, Array]:
    """The distance to the nearest layout of the array, as a share of the source's length; and that layout."""
    length = max(float(np.linalg.norm(here)), 1e-12)
    best: tuple[float, Array] = (np.inf, array)
    for scale in SCALES:
        for layout in _layouts(array / np.float32(scale), here.shape):
            distance = float(np.linalg.norm(here - layout)) / length
            if distance < best[0]:
                best = distance, layout
    return best


def _layouts(array: Array, shape: tuple[int, ...]) -> Iterator[Array]:
    """Every order of the axes that gives this shape; axes of size 1 do not count."""
    sizes = [size for size in shape if size > 1]
    thin = array.reshape([size for size in array.shape if size > 1])
    for axes in permutations(range(thin.ndim)):
        if [thin.shape[axis] for axis in axes] == sizes:
            yield thin.transpose(axes).reshape(shape)


def _described(changed: Changed) -> tuple[str, str]:
    """The cause, and in words what is in the place of one of the source's arrays."""
    here, there, places = changed.here, changed.there, changed.places
    count, first = places[0].size, tuple(int(axis[0]) for axis in places)
    negated = bool(np.allclose(there[places], -here[places], rtol=1e-5, atol=0))
    before_and_after = f"{there[first]:.4g} instead of {here[first]:.4g}"
    if not there.any():
        return ("bias missing" if "bias" in changed.name else "weights missing"), f"{changed.name}, all of it 0"
    if count == 1:
        cause = "sign of a weight" if negated else "one weight"
        return cause, f"{changed.name}, which at {list(first)} is {before_and_after}"
    if negated:
        axis = min(range(here.ndim), key=lambda axis: len(set(places[axis].tolist())))
        rows = sorted(set(places[axis].tolist()))
        return "sign of a filter", f"{changed.name}, negated at index {_some(rows)} of axis {axis}"
    if precision := _rounded_to(here, there):
        return f"precision ({precision}, kept as float32)", f"{changed.name}, rounded to {precision}"
    if np.array_equal(np.sort(here.ravel()), np.sort(there.ravel())):
        turned = here.ndim == 2 and here.shape[0] == here.shape[1] and np.array_equal(here.T, there)
        how = "transposed" if turned else f"with {count} of its values at other places, the first at {list(first)}"
        return "weights in another order", f"{changed.name}, {how}"
    return "other weights", f"{changed.name}, of which {count} of {here.size} values differ"


def _described_together(changed: Sequence[Changed]) -> tuple[str, str]:
    names = _some([each.name for each in changed])
    for precision in ("float16", "bfloat16", "int8"):
        if all(_is_rounded(each.here, each.there, precision) for each in changed):
            return (
                f"precision ({precision}, kept as float32)",
                f"{len(changed)} arrays, rounded to {precision} ({names})",
            )
    likeness = [float(each.here.ravel() @ each.there.ravel()) for each in changed]
    lengths = [float(np.linalg.norm(each.here) * np.linalg.norm(each.there)) for each in changed]
    alike = sum(likeness) / max(sum(lengths), 1e-12)
    return "other weights", f"{len(changed)} arrays ({names}), a cosine of {alike:.3g} from the source's"


def _some(names: Sequence[Any]) -> str:
    return ", ".join(map(str, names[:4])) + (", ..." if len(names) > 4 else "")


def _rounded_to(here: Array, there: Array) -> str:
    return next((each for each in ("float16", "bfloat16", "int8") if _is_rounded(here, there, each)), "")


def _is_rounded(here: Array, there: Array, precision: str) -> bool:
    """Whether the one is the other, rounded so; or exactly the other."""
    if np.allclose(here, there, rtol=SAME, atol=0):
        return True
    with np.errstate(over="ignore"):
        if precision == "float16":
            return bool(np.allclose(here.astype(np.float16).astype(np.float32), there, rtol=1e-6, atol=1e-7))
        if precision == "bfloat16":
            bits = there.astype(np.float32).view(np.uint32)
            return bool(not (bits & 0xFFFF).any() and (np.abs(here - there) <= 2.0**-8 * np.abs(here) + 1e-30).all())
    return any(_is_in_steps(here, there, axis) for axis in (None, *range(here.ndim)))


def _is_in_steps(here: Array, there: Array, axis: int | None) -> bool:
    """Whether each value is a whole number of steps, 127 to each side: one step for all, or for each slice."""
    others = None if axis is None else tuple(other for other in range(here.ndim) if other != axis)
    most = np.abs(here).max(axis=others, keepdims=True)
    steps = np.where(most > 0, most, 1) / 127
    off = np.abs(there / steps - np.round(there / steps)).max(initial=0)
    return bool(off < 1e-2 and (np.abs(here - there) <= 0.51 * steps).all())


def no_bias(case: Case) -> Check:
    """Whether a layer near the place adds no bias."""
    cause, checks = "bias missing", []
    shape = case.place.source.array.shape
    own = case.changeable.named_weights()
    biases = [
        name
        for name, array in own.items()
        if array.ndim == 1 and array.any() and len(array) in shape[1:] and ("bias" in name or "beta" in name)
    ]
    for name in case.nearest(biases):
        trace = case.run_with_weights({name: np.zeros_like(own[name])})
        checks.append(case.test(cause, trace, f"without {name}", "Export the layer with its bias.", whole=True))
        if checks[-1].holds and not checks[-1].is_partial:
            return checks[-1]
    return best_of(checks, Check(cause, False, "no bias leads here"))
