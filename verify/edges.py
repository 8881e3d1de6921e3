"""Edge questions: what people send besides ordinary inputs, and where converted graphs differ without a warning.

Zeros, rows of one value, negative and very large numbers, denormals, the ends of whole numbers, NaN where a model
replaces it, and short and odd lengths. A softplus that overflows at 88, or a logarithm that meets a zero, shows only
here. The source answers first: what it refuses, or cannot compute either, is not a question.

Large numbers magnify rounding. So the source also answers beside each question, a few roundings off: as far as its own
answer moves there, an artifact's answer may be from it.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from contract.manifest import TensorSpec
from contract.parity_result import EdgeDifference
from contract.tensors import Tensors, numpy_dtype
from serve.runtimes import Runtime
from verify.questions import Questions, invented

LENGTHS = (1, 2, 7, 33)
"""What a free size becomes, besides the ordinary FREE: the least ones, an odd one, one longer than usual."""

REAL = {
    "zeros": 0.0,
    "ones": 1.0,
    "-1 everywhere": -1.0,
    "-0.5 everywhere": -0.5,
    "100 everywhere": 1e2,
    "-100 everywhere": -1e2,
    "10,000 everywhere": 1e4,
    "-10,000 everywhere": -1e4,
    "denormals": 1e-40,
}
RAMPS = {"values from -30 to 30": 30.0, "values from -120 to 120": 120.0, "values from -10,000 to 10,000": 1e4}
BEYOND = {"NaN": np.nan, "infinity": np.inf}
"""First everywhere, then at one place. A model that replaces them answers with numbers even where all are so;
through any other it depends on the order of operations what they become."""
PICTURES = {"black": 0.0, "white": 255.0, "grey": 127.0, "above white": 300.0, "below black": -50.0}

ROUNDINGS = 2.0**-21
"""How far beside a question that is, as a share of each value: four roundings of float32."""
TRIES = 3
ROOM = 10.0
"""Times the source's own movement: an artifact rounds at every layer, and in another order."""


@dataclass(frozen=True)
class EdgeQuestion:
    """One row, sent alone."""

    title: str
    """What is special about it, for people: "values from -120 to 120"."""
    inputs: Tensors
    """Name -> (1, ...)."""
    after: str = ""
    """The title of the question that the source must answer with finite numbers alone; else this one is left out."""


@dataclass(frozen=True)
class EdgeAnswer:
    """What the source answers to an edge question, and how far it moves beside it."""

    question: EdgeQuestion
    outputs: Tensors
    movement: Mapping[str, NDArray[np.float64]]


def edge_questions(specs: Sequence[TensorSpec], questions: Questions) -> list[EdgeQuestion]:
    """The edge questions for a model with these inputs and these ordinary questions."""
    dtypes = {spec.name: numpy_dtype(spec.dtype) for spec in specs}
    ordinary = questions.rows(0, 1, dtypes)
    edges: list[EdgeQuestion] = []
    if questions.pictures is not None:
        edges += [_filled(f"a picture that is {name}", ordinary, value) for name, value in PICTURES.items()]
        edges.append(EdgeQuestion("a ramp from black to white", _with(ordinary, lambda x: _ramp(x, 0, 255))))
        edges.append(EdgeQuestion("values between whole numbers", _with(ordinary, lambda x: x + 0.5)))
    else:
        edges += [_filled(name, ordinary, value) for name, value in REAL.items()]
        for name, value in BEYOND.items():
            edges.append(_filled(f"{name} everywhere", ordinary, value))
            hole = _with(ordinary, lambda x, value=value: _holed(x, value))
            edges.append(EdgeQuestion(f"{name} at one place", hole, after=f"{name} everywhere"))
    for title, end in RAMPS.items():
        edges.append(EdgeQuestion(title, _with(ordinary, lambda x, end=end: _ramp(x, -end, end))))
    whole = [question for question in _whole(ordinary) if any(dtype.kind in "iu" for dtype in dtypes.values())]
    flags = [question for question in _flags(ordinary) if any(dtype.kind == "b" for dtype in dtypes.values())]
    if not any(dtype.kind == "f" or dtype.name == "bfloat16" for dtype in dtypes.values()):
        edges = []
    return [*edges, *whole, *flags, *_lengths(specs, questions)]


def _with(ordinary: Tensors, change: Any) -> Tensors:
    """The ordinary row with its real inputs changed."""
    return {
        name: np.asarray(change(value.astype(np.float64)), value.dtype) if _is_real(value) else value
        for name, value in ordinary.items()
    }


def _is_real(value: NDArray[Any]) -> bool:
    return value.dtype.kind == "f" or value.dtype.name == "bfloat16"


def _filled(title: str, ordinary: Tensors, number: float) -> EdgeQuestion:
    return EdgeQuestion(title, _with(ordinary, lambda x: np.full_like(x, number)))


def _ramp(x: NDArray[Any], first: float, last: float) -> NDArray[Any]:
    return np.linspace(first, last, x.size).reshape(x.shape)


def _holed(x: NDArray[Any], value: float) -> NDArray[Any]:
    flat = x.ravel().copy()
    flat[flat.size // 2] = value
    return flat.reshape(x.shape)


def _whole(ordinary: Tensors) -> Iterator[EdgeQuestion]:
    """Negative whole numbers, zeros, and the ends of each dtype's range."""

    def changed(change: Any) -> Tensors:
        return {
            name: np.asarray(change(value), value.dtype) if value.dtype.kind in "iu" else value
            for name, value in ordinary.items()
        }

    yield EdgeQuestion("whole numbers that are 0", changed(np.zeros_like))
    yield EdgeQuestion(
        "negative whole numbers",
        changed(lambda x: -1 - np.arange(x.size).reshape(x.shape) % 13 if x.dtype.kind == "i" else x),
    )
    yield EdgeQuestion("the largest whole numbers", changed(lambda x: np.full_like(x, np.iinfo(x.dtype).max)))
    yield EdgeQuestion("the smallest whole numbers", changed(lambda x: np.full_like(x, np.iinfo(x.dtype).min)))
    yield EdgeQuestion(
        "whole numbers beyond 32 bits",
        changed(lambda x: np.full_like(x, 2**31 + 5) if x.dtype.itemsize == 8 else x),
    )


def _flags(ordinary: Tensors) -> Iterator[EdgeQuestion]:
    for value in (False, True):
        inputs = {name: np.full_like(x, value) if x.dtype.kind == "b" else x for name, x in ordinary.items()}
        yield EdgeQuestion(f"{value} everywhere".lower(), inputs)


def _lengths(specs: Sequence[TensorSpec], questions: Questions) -> Iterator[EdgeQuestion]:
    """Ordinary rows of other lengths, where a size besides the batch is free."""
    if not any(None in spec.shape[1:] for spec in specs):
        return
    whole = [rows.max() for rows in questions.inputs.values() if rows.dtype.kind in "iu" and rows.size]
    below = int(max(whole, default=1)) + 1
    for length in LENGTHS:
        sized = [_sized(spec, length) for spec in specs]
        yield EdgeQuestion(f"a length of {length}", invented(sized, 1, below, seed=length))


def _sized(spec: TensorSpec, length: int) -> TensorSpec:
    shape = (None, *(length if size is None else size for size in spec.shape[1:]))
    return TensorSpec(spec.name, spec.dtype, shape, spec.layout)


def answer_edges(runtime: Runtime, questions: Sequence[EdgeQuestion]) -> list[EdgeAnswer]:
    """What the source answers; the questions that it refuses, or has no finite answer to, are left out."""
    answers: dict[str, EdgeAnswer] = {}
    for question in questions:
        if question.after and question.after not in answers:
            continue
        outputs = _tried(runtime, question.inputs)
        if isinstance(outputs, Exception) or not _has_numbers(outputs, everywhere=_is_beyond(question)):
            continue
        answers[question.title] = EdgeAnswer(question, outputs, _movement(runtime, question, outputs))
    return list(answers.values())


def _is_beyond(question: EdgeQuestion) -> bool:
    return any(_is_real(value) and not np.isfinite(value).all() for value in question.inputs.values())


def _tried(runtime: Runtime, inputs: Tensors) -> Tensors | Exception:
    try:
        return runtime.predict(inputs)
    except Exception as error:  # a runtime may raise anything; here that is an answer, too
        return error


def _has_numbers(outputs: Tensors, everywhere: bool) -> bool:
    """Whether any value of the outputs is a finite number, or all are."""
    finite = [np.isfinite(value) for value in outputs.values() if value.dtype.kind == "f"]
    return all(each.all() for each in finite) if everywhere else not finite or any(each.any() for each in finite)


def _movement(runtime: Runtime, question: EdgeQuestion, outputs: Tensors) -> dict[str, NDArray[np.float64]]:
    """How far each value of the source's answer moves when real inputs move by a few roundings."""
    random = np.random.default_rng(0)
    moved = {name: np.zeros(value.shape) for name, value in outputs.items() if value.dtype != object}
    if not any(_is_real(value) and np.any(value) for value in question.inputs.values()):
        return moved
    for _ in range(TRIES):
        beside = _with(question.inputs, lambda x: x * (1 + ROUNDINGS * random.choice([-1.0, 1.0], x.shape)))
        answer = _tried(runtime, beside)
        if isinstance(answer, Exception):
            continue
        for name, most in moved.items():
            if answer[name].shape == most.shape:
                with np.errstate(invalid="ignore"):
                    step = np.abs(answer[name].astype(np.float64) - outputs[name].astype(np.float64))
                step[np.isnan(step)] = np.inf  # it is unstable here: nothing can be held to it
                np.maximum(most, step, out=most)
    return moved


def edge_differences(runtime: Runtime, answers: Sequence[EdgeAnswer], tolerance: float) -> list[EdgeDifference]:
    """Where an artifact answers edge questions otherwise than the source did, the worst value of each output."""
    differences = []
    for answer in answers:
        outputs = _tried(runtime, answer.question.inputs)
        if isinstance(outputs, Exception):
            first = next(iter(answer.outputs))
            expected = answer.outputs[first]
            differences.append(
                EdgeDifference(answer.question.title, first, _shown(expected.ravel()[0]), f"an error ({outputs})"[:300])
            )
            continue
        differences += [
            difference
            for name, expected in answer.outputs.items()
            if (difference := _difference(answer, name, expected, outputs[name], tolerance))
        ]
    return differences


def _difference(
    answer: EdgeAnswer, name: str, expected: NDArray[Any], got: NDArray[Any], tolerance: float
) -> EdgeDifference | None:
    if expected.shape != got.shape:
        return EdgeDifference(answer.question.title, name, f"shape {list(expected.shape)}", f"shape {list(got.shape)}")
    if expected.dtype == object or expected.dtype.kind in "iub":
        wrong = expected != got
        place = int(np.argmax(wrong))
    else:
        reference, values = expected.astype(np.float64), got.astype(np.float64)
        finite = np.isfinite(reference)
        unit = max(1.0, float(np.abs(reference[finite]).max(initial=0)))
        with np.errstate(invalid="ignore"):
            off = np.where(finite, np.abs(values - reference), 0.0)
        off[finite & ~np.isfinite(values)] = np.inf
        with np.errstate(invalid="ignore"):
            excess = off - (tolerance * unit + ROOM * answer.movement[name])
        wrong = excess > 0
        place = int(np.argmax(np.where(wrong, off, -1.0)))
    if not wrong.any():
        return None
    return EdgeDifference(answer.question.title, name, _shown(expected.ravel()[place]), _shown(got.ravel()[place]))


def _shown(value: Any) -> str:
    """One value for people: 101.7, nan, inf."""
    return f"{float(value):.4g}" if np.asarray(value).dtype.kind in "fiub" else repr(value)
