"""The known causes, each tested at the place where the two part.

A check is an experiment: it makes the source do what the artifact is suspected of, and measures the difference that
remains. It holds when almost nothing remains.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from verify.diagnose.match import (
    CHANNELS_FIRST,
    CHANNELS_LAST,
    Pair,
    first_difference,
    flattened_from,
    match,
    matched_above,
    relative_difference,
    reorder,
)
from verify.diagnose.tracers import Changeable, Step, Trace, Tracer, Values, joined
from verify.parity import FLOAT32

TOLERANCES = {"float32": 1e-5, "float16": 5e-3, "bfloat16": 5e-2, "int8": 1e-1}
"""The largest difference that a layer may have, as a share of its largest value, for each precision of the weights.

Measured were 2e-6 for float32 in another order of summation, 8e-4 for float16, 7e-2 for int8. A fault that is smaller
than the rounding cannot be told from it.
"""
FEW = 16
"""Arrays with fewer values than this do not count for an artifact's precision."""
LEFT = 1e-3
"""A check explains a difference when no more than this share of the layer's largest value remains, and no more than a
tenth of the difference."""
NEXT = 3
"""How many layers, from the place on, a check looks at."""


@dataclass(frozen=True)
class Check:
    """One cause that was tested."""

    cause: str
    holds: bool
    evidence: str
    """What was measured, in words."""
    left: float | None = None
    """The difference that remains, as a share of the layer's largest value; None where nothing could be tried."""
    advice: str = ""
    answers_left: float = np.inf
    """The difference between the answers that remains."""


@dataclass(frozen=True)
class Case:
    """The two runs on the same pictures, and the place where they part."""

    source: Tracer
    images: Values
    pieces: Sequence[slice]
    """The pictures of each call: all at once, or one by one."""
    source_trace: Trace
    artifact_trace: Trace
    pairs: tuple[Pair, ...]
    place: Pair
    precision: str
    """That of the artifact's weights where they are coarser than the source's; otherwise "float32"."""
    batch_dependence: float = 0.0
    """The largest difference between the artifact's answers to the same picture alone and among others."""

    @property
    def tolerance(self) -> float:
        return TOLERANCES[self.precision]

    def run(self, images: Values) -> Trace:
        """The source's trace on other pictures."""
        return joined([self.source.trace(images[piece]) for piece in self.pieces])

    def test(self, cause: str, trace: Trace, change: str, advice: str) -> Check:
        """Whether the source, run with this change, agrees with the artifact from the place on.

        One of the next layers has to agree: at the place itself the two frameworks may name different tensors.
        """
        pairs, limit = match(trace, self.artifact_trace, self.tolerance), max(self.tolerance, LEFT)
        near = self._from_place(pairs)[:NEXT]
        at = next((pair for pair in near if not pair.differs(limit)), min(near, key=lambda pair: pair.relative))
        label, left, before = at.source.label, at.relative, self.place.relative
        if at.differs(limit) or left > before / 10:
            return Check(cause, False, f"{change}, the source is off by {left:.1e} at {label}", left)
        seen = f"{change}, the source is off by {left:.1e} instead of {before:.1e} at {label}"
        answers = pairs[-1].difference
        if answers <= limit:
            return Check(cause, True, f"{seen}, and by {answers:.1e} in its answers", left, advice, answers)
        then = first_difference(pairs, self.artifact_trace, limit).source.label
        evidence = f"{seen}, but by {answers:.1e} in its answers: another fault follows at {then}"
        return Check(cause, True, evidence, left, f"{advice} Then run this again.", answers)

    def _from_place(self, pairs: Sequence[Pair]) -> list[Pair]:
        """The pairs at the place in the artifact or after it."""
        names = [step.name for step in self.artifact_trace.valued]
        start = names.index(self.place.artifact.name)
        return [pair for pair in pairs if names.index(pair.artifact.name) >= start]


# Precision


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
    if name == "float32" and array.any():
        with np.errstate(over="ignore"):  # no float16 is larger than 65504
            return "float16" if (array.astype(np.float16) == array).all() else "float32"
    return "float32"


def precision(case: Case) -> Check:
    """Whether the artifact's weights are coarser than the source's, and that explains the difference of every layer."""
    kept, limit = case.precision, case.tolerance
    if kept == "float32":
        return Check("precision", False, "the artifact's weights are as precise as the source's")
    first = next(pair for pair in case.pairs if pair.differs(TOLERANCES["float32"]))
    worst = max(case.pairs, key=lambda pair: pair.relative)
    evidence = (
        f"the artifact's weights are {kept} numbers, the source's are not; from {first.relative:.1e} of the largest "
        f"value at {first.source.label} the difference grows to {worst.relative:.1e} at {worst.source.label}"
    )
    if worst.differs(limit):
        return Check(
            "precision", False, f"{evidence}: more than the {limit:.0e} that rounding explains", worst.relative
        )
    advice = "Accept the rounding, with a tolerance of this format's own, or keep the weights in float32."
    return Check(f"precision ({kept})", True, f"{evidence}; rounding explains {limit:.0e}", worst.relative, advice)


# Softmax


def softmax(case: Case) -> Check:
    """Whether the answers went through one softmax too many, or one too few."""
    cause = "softmax"
    if case.place is not case.pairs[-1]:
        return Check(cause, False, "the two part before the answers")
    here, there = (step.array.astype(np.float64) for step in (case.place.source, case.place.artifact))
    twice = "softmax applied twice" if _are_probabilities(here) else "softmax that the source does not have"
    with np.errstate(over="ignore"):
        exp = np.exp(there)
    tries = (
        (twice, "softmax of the source's answers", "the artifact's", _softmax(here), there),
        ("softmax missing: log-softmax", "the exponential of the artifact's answers", "the source's", exp, here),
        ("softmax missing", "softmax of the artifact's answers", "the source's", _softmax(there), here),
    )
    advice = "Let the exported graph end in exactly one softmax, and its callers not apply another."
    checks = []
    for name, what, whose, made, wanted in tries:
        off, left = relative_difference(wanted, made)
        holds = off <= max(FLOAT32.max_abs_diff, case.tolerance) and off <= case.place.difference / 10
        evidence = f"{what} is {whose} to {off:.1e}, where the answers themselves are {case.place.difference:.1e} apart"
        checks.append(Check(name if holds else cause, holds, evidence, left, advice))
    return next((check for check in checks if check.holds), _best(checks, checks[0]))


def _are_probabilities(values: NDArray[Any]) -> bool:
    return bool((values >= 0).all() and np.allclose(values.sum(axis=-1), 1, atol=1e-3))


def _softmax(values: NDArray[Any]) -> NDArray[Any]:
    exponentials = np.exp(values - values.max(axis=-1, keepdims=True))
    result: NDArray[Any] = exponentials / exponentials.sum(axis=-1, keepdims=True)
    return result


# Normalisation


def normalisation(case: Case) -> Check:
    """Whether the artifact scales or shifts the pictures in another way than the source.

    Up to its first activation a network is linear in the pictures. So a factor and an offset for each channel can be
    solved for, and the source is run on pictures with these applied.
    """
    cause = "normalisation"
    linear = _last_linear(case)
    if linear is None:
        return Check(cause, False, "the two agree in the first layer")
    masks = [_channel(case.images, channel) for channel in range(case.images.shape[-1] if case.images.ndim == 4 else 1)]
    nothing = case.run(np.zeros_like(case.images)).value(linear.name)
    parts = [case.run(images).value(linear.name) - nothing for mask in masks for images in (case.images * mask, mask)]
    arranged = [case.place.arrangement.apply(part) for part in (nothing, *parts)]
    checks = []
    for there in _candidates(case):
        factors, offsets = _solved(arranged, there)
        changed = sum(mask * (case.images * f + o) for mask, f, o in zip(masks, factors, offsets, strict=True))
        given = ", ".join(f"{f:.4g} x pixel {o:+.4g}" for f, o in zip(factors, offsets, strict=True))
        checks.append(
            case.test(
                cause,
                case.run(np.asarray(changed, np.float32)),
                f"given {given}{_meaning(factors, offsets)}",
                "Give the artifact the scale and the offset with which the model was trained, once, in its graph.",
            )
        )
    return _best(checks, checks[0])


def _last_linear(case: Case) -> Step | None:
    """The last step with the place's shape that is linear in the pictures; an activation may follow it."""
    nothing, once, twice = (case.run(images) for images in (np.zeros_like(case.images), case.images, case.images * 2))
    last = None
    for step in case.source_trace.valued[1:]:
        if step.array.shape == case.place.source.array.shape:
            start = nothing.value(step.name)
            first, second = (trace.value(step.name) - start for trace in (once, twice))
            if relative_difference(second, 2 * first)[1] < LEFT:
                last = step
    return last


def _channel(images: Values, channel: int) -> Values:
    """Ones where this channel is, zeros elsewhere."""
    mask = np.zeros_like(images)
    mask[..., channel if images.ndim == 4 else slice(None)] = 1
    return mask


def _candidates(case: Case) -> list[Values]:
    """The artifact's next values with the place's shape: a factor and an offset may be two steps."""
    steps = case.artifact_trace.valued
    start = steps.index(case.place.artifact)
    same = [step.name for step in steps[start:] if step.array.shape == case.place.artifact.array.shape]
    return [case.artifact_trace.value(name) for name in same[:NEXT]]


def _solved(parts: Sequence[Values], there: Values) -> tuple[NDArray[Any], NDArray[Any]]:
    """The factors and offsets with which the parts sum to `there`, wherever no activation cut the value off.

    The first part is the output for a picture of zeros; then come two for each channel: for its pixels, and for ones.
    """
    live = ((there > 0) if there.min() >= 0 else np.isfinite(there)).ravel()
    matrix = np.stack([part.ravel()[live] for part in parts[1:]], axis=1).astype(np.float64)
    wanted = (there - parts[0]).ravel()[live].astype(np.float64)
    solution = np.linalg.lstsq(matrix, wanted, rcond=None)[0]
    factors, offsets = solution[0::2], solution[1::2]
    return factors, np.where(np.abs(offsets) < SMALL_OFFSET, 0, offsets)


SMALL_OFFSET = 1e-2
"""Of a pixel from 0 to 255: what rounding leaves where there is no offset."""

KNOWN_SCALES = {
    (255.0, 0.0): "as if a division by 255 were missing",
    (1 / 255, 0.0): "as if it divided by 255 twice",
    (2.0, -255.0): "as if it scaled to -1..1 instead of 0..1",
    (0.5, 127.5): "as if it scaled to 0..1 instead of -1..1",
    (-1.0, 255.0): "as if it inverted the pictures",
}


def _meaning(factors: NDArray[Any], offsets: NDArray[Any]) -> str:
    for (factor, offset), words in KNOWN_SCALES.items():
        if np.allclose(factors, factor, rtol=1e-2) and np.allclose(offsets, offset, rtol=1e-2, atol=0.5):
            return f" ({words})"
    return ""


# Layout


def input_layout(case: Case) -> Check:
    """Whether height and width are swapped, or the order of the channels is reversed."""
    cause, tried = "layout of the pictures", []
    if case.images.ndim == 4:
        height, width, channels = case.images.shape[1:]
        if height == width:
            tried.append(("with height and width swapped", case.images.swapaxes(1, 2)))
        if channels > 1:
            tried.append(("with its channels in reverse order (RGB, BGR)", case.images[..., ::-1]))
    advice = "Remove that permutation from the artifact, or put its inverse before it."
    checks = [
        case.test(cause, case.run(np.ascontiguousarray(images)), f"given the picture {how}", advice)
        for how, images in tried
    ]
    return _best(checks, Check(cause, False, "no permutation of a picture keeps its shape"))


def flatten_order(case: Case) -> Check:
    """Whether a dense layer's columns are in another order than the flattened picture that it gets.

    The source is run with its flattened values in the other order. If it then agrees with the artifact, the artifact's
    dense layer expects an order that its values do not have.
    """
    cause = "layout after Flatten"
    flattened = ((step, flattened_from(case.source_trace, step)) for step in _upstream(case))
    step, flat = next(((step, flat) for step, flat in flattened if flat is not None), (None, None))
    if step is None or flat is None:
        return Check(cause, False, "no flattened picture leads here")
    if not isinstance(case.source, Changeable):
        return Check(cause, False, "the source cannot be run with another order")
    values, size, checks = case.source_trace.value(step.name), " x ".join(map(str, flat)), []
    for order, axes in (("CHW as HWC", CHANNELS_LAST), ("HWC as CHW", CHANNELS_FIRST)):
        taken = reorder(flat, axes)(values)
        trace = joined(
            [case.source.with_values(case.images[piece], {step.name: taken[piece]}) for piece in case.pieces]
        )
        advice = (
            "Permute the weights of the dense layer after Flatten to the order in which the artifact flattens (their "
            f"input axis reshaped to {size}, transposed by {axes}), or permute the values before Flatten."
        )
        checks.append(case.test(cause, trace, f"with its flattened {size} values taken {order}", advice))
    return _best(checks, checks[0])


def _upstream(case: Case) -> Iterator[Step]:
    """The steps that the place is computed from in the source, the nearest first."""
    pending, seen = list(case.place.source.inputs), set[str]()
    while pending:
        name = pending.pop(0)
        step = case.source_trace.steps.get(name)
        if name in seen or step is None:
            continue
        seen.add(name)
        pending.extend(step.inputs)
        if step.value is not None:
            yield step


# BatchNorm


def batch_norm(case: Case) -> Check:
    """Whether BatchNorm normalises by the statistics of the batch, as in training, instead of the learned ones."""
    cause = "BatchNorm in training mode"
    if not isinstance(case.source, Changeable):
        return Check(cause, False, "the source cannot be run with its BatchNorm in training mode")
    traces = [case.source.in_training(case.images[piece]) for piece in case.pieces]
    known = [trace for trace in traces if trace is not None]
    if not known:
        return Check(cause, False, "the source has no BatchNorm that could be in training mode")
    check = case.test(
        cause,
        joined(known),
        "with its BatchNorm in training mode",
        "Export the model in inference mode: `model.eval()` in PyTorch, `training=False` in Keras.",
    )
    alone = f"alone and in a batch, the artifact answers the same picture {case.batch_dependence:.1e} apart"
    return replace(check, evidence=f"{check.evidence}; {alone}")


# All of them


CHECKS: dict[str, Callable[[Case], Check]] = {
    "precision": precision,
    "softmax": softmax,
    "normalisation": normalisation,
    "layout of the pictures": input_layout,
    "layout after Flatten": flatten_order,
    "BatchNorm in training mode": batch_norm,
}


def unknown(case: Case) -> Check:
    """The conclusion where no check holds."""
    above = matched_above(case.place, case.pairs, case.artifact_trace)
    given = max((pair.relative for pair in above), default=0.0)
    evidence = (
        f"the layer's input is off by {given:.1e} of its largest value, its output by "
        f"{case.place.relative:.1e}{_where(case.place)}"
    )
    advice = f"Compare the weights and settings of {case.place.source.label} with {case.place.artifact.label}'s."
    return Check("unknown", False, evidence, case.place.relative, advice)


def _where(place: Pair) -> str:
    """Whether the difference is in a part of the layer only, such as one channel."""
    difference = np.abs(place.arrangement.apply(place.source.array) - place.artifact.array)
    parts = []
    for axis in range(1, difference.ndim):
        along = difference.max(axis=tuple(other for other in range(difference.ndim) if other != axis))
        off = np.flatnonzero(~(along <= along.max() / 100))
        parts.append((len(off) / len(along), axis, off))
    share, axis, off = min(parts, key=lambda part: part[0])
    if share > 0.5:
        return ", everywhere in it"
    some = ", ".join(map(str, off[:8])) + (", ..." if len(off) > 8 else "")
    return f", but only at index {some} of the {difference.shape[axis]} on axis {axis} (the pictures are axis 0)"


def _best(checks: Sequence[Check], otherwise: Check) -> Check:
    """The check that holds, or the one that came closest."""
    known = [check for check in checks if check.left is not None]
    return min(known, key=lambda check: (not check.holds, check.answers_left, check.left), default=otherwise)
