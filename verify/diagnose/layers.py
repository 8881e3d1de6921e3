"""Experiments on layers: one step of the source computes something else."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from verify.diagnose.case import NEXT, Case, Check, best_of
from verify.diagnose.match import CHANNELS_FIRST, CHANNELS_LAST, flattened_from, relative_difference
from verify.diagnose.tracers import Values, joined

ANSWERS = 1e-4
"""The most that answers which are the same may differ by, in float32."""

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
        holds = off <= max(ANSWERS, case.tolerance) and off <= case.place.difference / 10
        evidence = f"{what} is {whose} to {off:.1e}, where the answers themselves are {case.place.difference:.1e} apart"
        checks.append(Check(name if holds else cause, holds, evidence, left, advice))
    return next((check for check in checks if check.holds), best_of(checks, checks[0]))


def _are_probabilities(values: NDArray[Any]) -> bool:
    return bool((values >= 0).all() and np.allclose(values.sum(axis=-1), 1, atol=1e-3))


def _softmax(values: NDArray[Any]) -> NDArray[Any]:
    exponentials = np.exp(values - values.max(axis=-1, keepdims=True))
    result: NDArray[Any] = exponentials / exponentials.sum(axis=-1, keepdims=True)
    return result


# Flatten


def flatten_order(case: Case) -> Check:
    """Whether a dense layer's columns are in another order than the flattened picture that it gets.

    The source is run with its flattened values in the other order. If it then agrees with the artifact, the artifact's
    dense layer expects an order that its values do not have. Either the values may be turned round, or the columns: the
    one is the inverse of the other.
    """
    cause = "layout after Flatten"
    flattened = ((step, flattened_from(case.source_trace, step)) for step in case.upstream())
    step, flat = next(((step, flat) for step, flat in flattened if flat is not None), (None, None))
    if step is None or flat is None:
        return Check(cause, False, "no flattened picture leads here")
    values, size, checks = case.source_trace.value(step.name), " x ".join(map(str, flat)), []
    for order, axes in (("CHW as HWC", CHANNELS_LAST), ("HWC as CHW", CHANNELS_FIRST)):
        places = np.arange(values.shape[1]).reshape(flat).transpose(axes).ravel()
        for whose, taken in (("values", values[:, places]), ("columns", values[:, np.argsort(places)])):
            advice = (
                "Permute the weights of the dense layer after Flatten to the order in which the artifact flattens "
                f"(their input axis reshaped to {size}, transposed by {axes}), or permute the values before Flatten."
            )
            change = f"with its flattened {size} {whose} taken {order}"
            checks.append(case.test(cause, case.run_with_values({step.name: taken}), change, advice))
    return best_of(checks, checks[0])


# BatchNorm


def batch_norm(case: Case) -> Check:
    """Whether BatchNorm normalises by the statistics of the batch, as in training, instead of the learned ones."""
    cause = "BatchNorm in training mode"
    traces = [case.changeable.in_training(case.images[piece]) for piece in case.pieces]
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


def epsilon(case: Case) -> Check:
    """Whether BatchNorm adds another number to its variance, which scales each channel by another factor."""
    cause = "epsilon of BatchNorm"
    own, checks = case.changeable.named_weights(), []
    for name in case.nearest([name for name in own if _is_variance(name)]):
        variance = own[name]
        for axis in range(1, case.place.source.array.ndim):
            if case.place.source.array.shape[axis] != len(variance):
                continue
            factors = _factors(case, axis)
            added = [_least(variance * (1 / factors**2 - 1)), *EPSILONS]
            for more in added:
                trace = case.run_with_weights({name: np.maximum(variance + more, 0).astype(variance.dtype)})
                change = f"with {more:.3g} added to {name}, as another epsilon adds"
                advice = "Give the artifact's BatchNorm the source's epsilon: Keras has 1e-3, PyTorch 1e-5."
                checks.append(case.test(cause, trace, change, advice, whole=True))
                if checks[-1].holds and not checks[-1].is_partial:
                    return checks[-1]
    return best_of(checks, Check(cause, False, "no variance of a BatchNorm leads here"))


EPSILONS = (1e-3 - 1e-5, 1e-5 - 1e-3)
"""Between Keras's and PyTorch's."""


def _is_variance(name: str) -> bool:
    return name.endswith(("variance", "running_var", "variance:0"))


def _factors(case: Case, axis: int) -> NDArray[np.float64]:
    """By how much each channel of the artifact changes where the source's does (channels,)."""
    here, there = (
        np.moveaxis(np.asarray(array, np.float64), axis, 0).reshape(array.shape[axis], -1)
        for array in (case.place.source.array, _turned_back(case))
    )
    here, there = here - here.mean(axis=1, keepdims=True), there - there.mean(axis=1, keepdims=True)
    factors: NDArray[np.float64] = (here * there).sum(axis=1) / np.maximum((here * here).sum(axis=1), 1e-30)
    return np.where(np.abs(factors) < 1e-6, 1.0, factors)


def _least(values: NDArray[Any]) -> float:
    return float(np.median(values))


# Operators


def operator(case: Case) -> Check:
    """Whether a step computes another function of the same values: another activation, or none."""
    checks = []
    for above, step in case.suspects():
        x = np.asarray(above.array, np.float64)
        if x.shape != step.array.shape:
            continue
        for name, made in _functions(case, x).items():
            if relative_difference(step.array, made)[1] <= case.tolerance:
                continue  # that is what the source does
            trace = case.run_with_values({step.name: np.asarray(made, np.float32)})
            change = f"with {name} of its values at {step.label}" if name else f"without {step.label}"
            cause = f"operator ({name})" if name else "operator missing"
            advice = f"Give the artifact {step.label} as the source has it."
            checks.append(case.test(cause, trace, change, advice, whole=True))
            if checks[-1].holds and not checks[-1].is_partial:
                return checks[-1]
    return best_of(checks, Check("operator", False, "no step of the same shape leads here"))


def scale(case: Case) -> Check:
    """Whether a step's values are multiplied by one number."""
    cause, step = "scale of a layer", case.place.source
    here, there = (np.asarray(each, np.float64).ravel() for each in (step.array, _turned_back(case)))
    factor = float(here @ there) / max(float(here @ here), 1e-30)
    trace = case.run_with_values({step.name: np.asarray(step.array * factor, np.float32)})
    advice = f"Remove the factor behind {step.label}, or give it to the source as well."
    return case.test(cause, trace, f"with {step.label} multiplied by {factor:.4g}", advice, whole=True)


def rows_mixed(case: Case) -> Check:
    """Whether the artifact's answer to a row depends on the rows beside it, whatever the cause."""
    off = case.batch_dependence
    evidence = f"alone and in a call of many, it answers the same row {off:.1e} apart"
    advice = "Let the graph compute row by row: no mean, softmax or largest value over the first axis."
    return Check("rows of a batch", case.limit < off < np.inf, evidence, off, advice)


def _functions(case: Case, x: NDArray[Any]) -> dict[str, NDArray[Any]]:
    """What activations make of these values; some have a number, which is read from the artifact."""
    with np.errstate(over="ignore", invalid="ignore"):
        sigmoid = 1 / (1 + np.exp(-x))
        functions = {
            "": x,
            "ReLU": np.maximum(x, 0),
            "ReLU6": np.clip(x, 0, 6),
            "tanh": np.tanh(x),
            "sigmoid": sigmoid,
            "hard sigmoid": np.clip(x / 6 + 0.5, 0, 1),
            "swish": x * sigmoid,
            "ELU": np.where(x > 0, x, np.expm1(np.minimum(x, 0))),
            "softplus": np.logaddexp(0, x),
            "GELU": 0.5 * x * (1 + np.frompyfunc(math.erf, 1, 1)(x / np.sqrt(2)).astype(np.float64)),
            "GELU by tanh": 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))),
        }
    if x.ndim == 2:
        functions["softmax over the batch"] = _softmax(x.T).T
        functions["log-softmax over the batch"] = np.log(np.maximum(_softmax(x.T).T, 1e-45))
    slopes = [0.01, 0.1, 0.2, 0.3, *_slopes(case, x)]
    return functions | {f"LeakyReLU({slope:.4g})": np.where(x > 0, x, slope * x) for slope in slopes}


def _slopes(case: Case, x: NDArray[Any]) -> list[float]:
    """The artifact's values as a share of these, where both are negative."""
    there = _turned_back(case)
    if there.shape != x.shape:
        return []
    both = (x < 0) & (there < 0)
    return [float(there[both].astype(np.float64) @ x[both] / (x[both] @ x[both]))] if both.any() else []


def _turned_back(case: Case) -> Values:
    """The artifact's values at the place, laid out as in the source."""
    here = case.place.source.array
    numbers = np.arange(here[:1].size, dtype=np.float64).reshape(here[:1].shape)
    order = case.place.arrangement.apply(numbers).ravel().astype(int)
    there = case.place.artifact.array.reshape(len(here), -1)
    back = np.empty_like(there)
    back[:, order] = there
    return back.reshape(here.shape)


# Pooling, resizing, padding


def pooling(case: Case) -> Check:
    """Whether it takes the largest value of a window where the source takes the mean, or the other way round."""
    cause, checks = "operator (pooling)", []
    for above, step in case.suspects():
        x, axes = above.array, _shrunk(above.array, step.array)
        for window in (2, 3):
            pooled = _pooled(x, axes, window) if axes else {}
            known = [name for name, made in pooled.items() if _is(made, step.array, case.tolerance)]
            for name, made in pooled.items():
                if not known or name in known or made.shape != step.array.shape:
                    continue
                trace = case.run_with_values({step.name: np.asarray(made, np.float32)})
                change = f"with the {name} of each {window} x {window} values instead of the {known[0]} at {step.label}"
                advice = f"Give the artifact the {known[0]} there."
                checks.append(case.test(cause, trace, change, advice, whole=True))
    return best_of(checks, Check(cause, False, "no pooling leads here"))


def _shrunk(x: Values, y: Values) -> tuple[int, ...]:
    """The two axes of a picture that become shorter; none where it is otherwise."""
    if x.ndim != 4 or y.ndim != 4:
        return ()
    axes = tuple(axis for axis in range(1, 4) if x.shape[axis] > y.shape[axis])
    return axes if len(axes) == 2 and sum(map(int.__eq__, x.shape, y.shape)) == 2 else ()


def _pooled(x: Values, axes: tuple[int, ...], window: int) -> dict[str, Values]:
    """Both kinds of pooling without padding, with a stride of the window."""
    kept = x
    for axis in axes:
        kept = kept.take(range(x.shape[axis] // window * window), axis)
    parts = kept
    for place, axis in enumerate(axes):
        where = axis + place
        parts = parts.reshape(*parts.shape[:where], parts.shape[where] // window, window, *parts.shape[where + 1 :])
    inner = tuple(axis + place + 1 for place, axis in enumerate(axes))
    return {"largest": parts.max(axis=inner), "mean": parts.mean(axis=inner)}


def _is(made: Values, known: Values, tolerance: float) -> bool:
    return made.shape == known.shape and relative_difference(known, made)[1] <= tolerance


def resizing(case: Case) -> Check:
    """Whether a picture inside is resized by another rule."""
    cause, checks = "resizing", []
    for above, step in case.suspects():
        x, y = above.array, step.array
        if x.ndim != 4 or y.ndim != 4 or x.shape == y.shape:
            continue
        if not any(word in step.op.lower() for word in ("resize", "interpolate", "upsample")):
            continue
        for layout, axes in (("NHWC", (1, 2)), ("NCHW", (2, 3))):
            if any(x.shape[axis] != y.shape[axis] for axis in range(4) if axis not in axes):
                continue
            made = {name: _resized(x, y, axes, rule) for name, rule in RULES.items()}
            known = next((name for name, each in made.items() if _is(each, y, 1e-4)), "another rule")
            for name, each in made.items():
                if name == known:
                    continue
                trace = case.run_with_values({step.name: np.asarray(each, np.float32)})
                change = f"resized {name} instead of {known} ({layout})"
                advice = f"Resize in the artifact as the source does: {known}."
                checks.append(case.test(cause, trace, change, advice, whole=True))
                if checks[-1].holds and not checks[-1].is_partial:
                    return checks[-1]
    return best_of(checks, Check(cause, False, "nothing is resized here"))


Rule = Callable[[int, int], NDArray[np.float64]]
"""(size before, size after) -> the weights of each old value in each new one (after, before)."""


def _linear(places: Callable[[int, int], NDArray[np.float64]]) -> Rule:
    """Between the two nearest values."""

    def rule(before: int, after: int) -> NDArray[np.float64]:
        at = np.clip(places(before, after), 0, before - 1)
        return np.asarray(np.maximum(0, 1 - np.abs(np.arange(before) - at[:, None])))

    return rule


def _smooth(repeats_border: bool) -> Rule:
    """Over all values that a new one covers; beyond the border lies its last value, or nothing."""

    def rule(before: int, after: int) -> NDArray[np.float64]:
        width = max(1.0, before / after)
        beyond = int(width) + 1
        old = np.arange(-beyond, before + beyond)
        weights = np.maximum(0, 1 - np.abs(old - _half_pixel(before, after)[:, None]) / width)
        inside = weights[:, beyond:-beyond].copy()
        if repeats_border:
            inside[:, 0] += weights[:, :beyond].sum(axis=1)
            inside[:, -1] += weights[:, -beyond:].sum(axis=1)
        result: NDArray[np.float64] = inside / inside.sum(axis=1, keepdims=True)
        return result

    return rule


def _nearest(places: Callable[[int, int], NDArray[np.float64]], step: Callable[[Any], Any]) -> Rule:
    def rule(before: int, after: int) -> NDArray[np.float64]:
        at = np.clip(step(places(before, after)), 0, before - 1)
        return np.asarray(np.arange(before) == at[:, None], np.float64)

    return rule


def _half_pixel(before: int, after: int) -> NDArray[np.float64]:
    return np.asarray((np.arange(after) + 0.5) * before / after - 0.5)


def _asymmetric(before: int, after: int) -> NDArray[np.float64]:
    return np.asarray(np.arange(after) * before / after)


def _asymmetric_in_float32(before: int, after: int) -> NDArray[np.float64]:
    """As ONNX Runtime computes it, from a scale of float32: what is a whole number may come out as a little less."""
    return np.asarray(np.arange(after, dtype=np.float32) / np.float32(after / before), np.float64)


def _aligned(before: int, after: int) -> NDArray[np.float64]:
    return np.asarray(np.arange(after) * (before - 1) / max(1, after - 1))


RULES: dict[str, Rule] = {
    "linearly, by centres of pixels": _linear(_half_pixel),
    "linearly, with aligned corners": _linear(_aligned),
    "linearly, from the first pixel": _linear(_asymmetric),
    "linearly, with anti-aliasing": _smooth(repeats_border=False),
    "linearly, with anti-aliasing over a repeated border": _smooth(repeats_border=True),
    "to the nearest, rounded down": _nearest(_asymmetric, np.floor),
    "to the nearest, rounded down in float32": _nearest(_asymmetric_in_float32, np.floor),
    "to the nearest centre": _nearest(_half_pixel, lambda at: np.ceil(at - 0.5)),
    "to the nearest centre, rounded up": _nearest(_half_pixel, lambda at: np.floor(at + 0.5)),
}


def _resized(x: Values, y: Values, axes: tuple[int, int], rule: Rule) -> Values:
    for axis in axes:
        x = np.moveaxis(np.moveaxis(x, axis, -1) @ rule(x.shape[axis], y.shape[axis]).T, -1, axis)
    return x


def padding(case: Case) -> Check:
    """Whether the two agree but for the border: as they are, or with the source's picture moved by one pixel there.

    A border that is wider on the other side moves every window.
    """
    cause, place = "padding", case.place
    if place.source.array.ndim != 4:
        return Check(cause, False, "no picture comes out here")
    # The pictures' axes in the artifact: NHWC, and NCHW.
    checks = [_filled_otherwise(case, axes) for axes in ((1, 2), (2, 3))]
    for above, step in case.suspects():
        for axes in ((1, 2), (2, 3)) if above.array.ndim == 4 else ():
            for move in ((1, 1), (-1, -1), (1, 0), (0, 1), (-1, 0), (0, -1)):
                trace = case.run_with_values({above.name: _moved(above.array, axes, move)})
                how = f"with the picture before {step.label} moved by {move[0]} rows and {move[1]} columns"
                for name in _alike(case):
                    value = trace.value(name)
                    checks += [_agrees_inside(case, value, inner, how) for inner in ((1, 2), (2, 3))]
    return best_of(checks, checks[0])


def _alike(case: Case) -> list[str]:
    """The place in the source and the next steps of its shape: the artifact may have computed several in one."""
    steps = case.source_trace.valued
    place = steps.index(case.place.source)
    near = steps[place : place + 2 * NEXT]
    return [step.name for step in near if step.array.shape == case.place.source.array.shape and step.name in case.kept]


def _moved(values: Values, axes: tuple[int, int], move: tuple[int, int]) -> Values:
    """By one place along these axes, with zeros from the other side."""
    result = values
    for axis, by in zip(axes, move, strict=True):
        result = np.roll(result, by, axis)
        if by:
            index: list[Any] = [slice(None)] * result.ndim
            index[axis] = 0 if by > 0 else -1
            result[tuple(index)] = 0
    return result


def _filled_otherwise(case: Case, axes: tuple[int, int]) -> Check:
    """Whether the two differ in the outermost rows and in the outermost columns, and nowhere else."""
    check = _agrees_inside(case, case.place.source.array, axes, "as it is")
    here, there = case.place.arrangement.apply(case.place.source.array), case.place.artifact.array
    borders = []
    for outer, inner in (axes, axes[::-1]):
        strip: list[Any] = [slice(None)] * 4
        strip[outer], strip[inner] = [0, -1], slice(1, -1)
        borders.append(relative_difference(here[tuple(strip)], there[tuple(strip)])[1])
    return replace(check, holds=check.holds and min(borders) > case.limit)


def _agrees_inside(case: Case, value: Values, axes: tuple[int, int], how: str) -> Check:
    """Whether these values are the artifact's everywhere but in the outermost rows and columns."""
    cause, place = "padding", case.place
    here, there = place.arrangement.apply(value), place.artifact.array
    if any(here.shape[axis] < 5 for axis in axes):
        return Check(cause, False, "the picture is too small to have a border")
    inside = tuple(slice(1, -1) if axis in axes else slice(None) for axis in range(4))
    left = relative_difference(here[inside], there[inside])[1]
    evidence = (
        f"{how}, the source is off by {left:.1e} inside of the outermost rows and columns, "
        f"and by {place.relative:.1e} with them, at {place.source.label}"
    )
    advice = "Give the artifact the source's padding: as wide, on the same sides, and of the same values."
    return Check(cause, left <= 10 * case.tolerance and left <= place.relative / 10, evidence, left, advice)
