"""Experiments on the pictures: the source is given others, as if the artifact made them of its own."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from verify.diagnose.case import LEFT, NEXT, Case, Check, best_of
from verify.diagnose.match import relative_difference
from verify.diagnose.tracers import Step, Values

CANDIDATES = 8
"""How many of the artifact's steps may be the scaled pictures: scale and offset are steps of their own."""
LAYOUT, VALUES = "layout of the pictures", "values of the pictures"


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
    nothing = case.run(np.zeros_like(case.images), [linear.name]).value(linear.name)
    parts = [
        case.run(images, [linear.name]).value(linear.name) - nothing
        for mask in masks
        for images in (case.images * mask, mask)
    ]
    arranged = [case.place.arrangement.apply(part) for part in (nothing, *parts)]
    checks = []
    for there in _candidates(case):
        factors, offsets = _solved(arranged, there)
        changed = sum(mask * (case.images * f + o) for mask, f, o in zip(masks, factors, offsets, strict=True))
        given = ", ".join(f"{f:.4g} x pixel {o:+.4g}" for f, o in zip(factors, offsets, strict=True))
        checks.append(
            case.test(
                cause,
                case.run(np.asarray(changed, np.float32), case.kept),
                f"given {given}{_meaning(factors, offsets)}",
                "Give the artifact the scale and the offset with which the model was trained, once, in its graph.",
            )
        )
    return best_of(checks, checks[0])


def _last_linear(case: Case) -> Step | None:
    """The last step with the place's shape that is linear in the pictures; an activation may follow it."""
    shape = case.place.source.array.shape
    steps = [step for step in case.source_trace.valued[1:] if step.array.shape == shape]
    kept = [step.name for step in steps]
    nothing, twice = (case.run(images, kept) for images in (np.zeros_like(case.images), case.images * 2))
    last = None
    for step in steps:
        start = nothing.value(step.name)
        if relative_difference(twice.value(step.name) - start, 2 * (step.array - start))[1] < LEFT:
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
    return [case.artifact_trace.value(name) for name in same[:CANDIDATES]]


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


def input_layout(case: Case) -> Check:
    """Whether height and width are swapped, or the order of the channels is reversed."""
    if case.images.ndim != 4:
        return Check(LAYOUT, False, "it takes no pictures")
    height, width, channels = case.images.shape[1:]
    tried = {
        "upside down": case.images[:, ::-1],
        "mirrored": case.images[:, :, ::-1],
        **{
            f"shifted by one pixel {where}": _shifted(case.images, rows, columns)
            for where, rows, columns in (("down", 1, 0), ("up", -1, 0), ("right", 0, 1), ("left", 0, -1))
        },
    }
    if height == width:
        tried["with height and width swapped"] = case.images.swapaxes(1, 2)
    if channels > 1:
        tried["with its channels in reverse order (RGB, BGR)"] = case.images[..., ::-1]
    advice = "Remove that permutation from the artifact, or put its inverse before it."
    return _first_that_holds(case, LAYOUT, tried, advice)


def _shifted(images: Values, rows: int, columns: int) -> Values:
    """Moved by as many pixels, black from the other side."""
    height, width = images.shape[1:3]
    bordered = np.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)))
    return bordered[:, 1 - rows : 1 - rows + height, 1 - columns : 1 - columns + width]


def _first_that_holds(case: Case, cause: str, tried: Mapping[str, Values], advice: str) -> Check:
    """The source run on pictures that were changed in each of these ways."""
    checks = []
    for how, images in tried.items():
        same = images.shape == case.images.shape and np.array_equal(images, case.images)
        if same:
            continue
        trace = case.run(np.ascontiguousarray(images, dtype=np.float32), case.kept)
        checks.append(case.test(cause, trace, f"given the picture {how}", advice))
        if checks[-1].holds and not checks[-1].is_partial:
            break
    return best_of(checks, Check(cause, False, "no such change makes another picture of these"))


def values(case: Case) -> Check:
    """Whether the artifact clips, rounds or wraps its pictures' values, besides scaling them."""
    inner = _inner_pictures(case)
    low, high = (float(bound) for bound in inner) if inner else (0.0, 255.0)
    images = case.images
    tried = {
        f"clipped to {low:.4g}..{high:.4g}": np.clip(images, low, high),
        "clipped to 0..255": np.clip(images, 0, 255),
        "with its negative values 0": np.maximum(images, 0),
        f"with its values at most {high:.4g}": np.minimum(images, high),
        "rounded down to whole numbers": np.floor(images),
        "rounded to whole numbers": np.round(images),
        "rounded towards 0": np.trunc(images),
        "wrapped into a byte": np.trunc(images) % 256,
        "rounded to bfloat16": _rounded(images),
        "without its sign": np.abs(images),
    }
    advice = "Let the graph take the pixels as they come; round and clip them where pictures are decoded."
    return _first_that_holds(case, VALUES, tried, advice)


def _rounded(images: Values) -> Values:
    """To eight bits of mantissa."""
    bits = np.asarray(images, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000).astype(np.uint32).view(np.float32)


def _inner_pictures(case: Case) -> tuple[float, float] | None:
    """The least and the largest value of the artifact's first step of the pictures' shape that holds part of them."""
    shape, start = case.images.shape, case.artifact_trace.valued[1:]
    for step in start[:NEXT]:
        if step.array.shape != shape or not np.isfinite(step.array).all():
            continue
        kept = step.array == case.images
        if 0.05 < kept.mean() < 1:
            return float(step.array.min()), float(step.array.max())
    return None
