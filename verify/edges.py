"""Edge questions: what people send besides ordinary inputs, and where converted graphs differ without a warning.

Zeros, rows of one value, negative and very large numbers, denormals, the ends of whole numbers, NaN where a model
replaces it, and short and odd lengths. A softplus that overflows at 88, or a logarithm that meets a zero, shows only
here. The source answers first: what it refuses, or cannot compute either, is not a question. Where the values that an
input takes are known, nothing beyond them is a question either, and their ends are.

Large numbers magnify rounding. So the source also answers beside each question, a few roundings off: as far as its own
answer moves there, an artifact's answer may be from it.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from contract.errors import one_line
from contract.manifest import TensorSpec
from contract.parity_result import EdgeDifference
from contract.tensors import Tensors, numpy_dtype
from serve.runtimes import Runtime
from verify.questions import Domain, Questions, invented, known_domains

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
    """One row, sent alone, or one whole call."""

    title: str
    """What is special about it, for people: "values from -120 to 120"."""
    inputs: Tensors
    """Name -> (1, ...), or the input of a whole call."""
    after: str = ""
    """The title of the question that the source must answer with finite numbers alone; else this one is left out."""
    domains: Mapping[str, Domain] = field(default_factory=dict)
    """The values that the inputs take, where they are known."""


@dataclass(frozen=True)
class EdgeAnswer:
    """What the source answers to an edge question, and how far it moves beside it."""

    question: EdgeQuestion
    outputs: Tensors
    movement: Mapping[str, NDArray[np.float64]]


def edge_questions(specs: Sequence[TensorSpec], questions: Questions) -> list[EdgeQuestion]:
    """The edge questions for a model with these inputs and these ordinary questions."""
    row = Row(
        questions.rows(0, 1, {spec.name: numpy_dtype(spec.dtype) for spec in specs}),
        known_domains(specs) | dict(questions.domains),
    )
    edges = [*(_pictures(row) if questions.pictures is not None else _real(row)), *_whole(row), *_flags(row)]
    different = [question for question in (*edges, *_ends(row)) if not row.is_like(question.inputs)]
    lengths = _lengths(specs, questions)
    return [replace(question, domains=row.domains) for question in (*different, *lengths)]


Change = Callable[[NDArray[Any]], NDArray[Any]]


@dataclass(frozen=True)
class Row:
    """The ordinary row that edge questions differ from, and the values that its inputs take."""

    inputs: Tensors
    domains: Mapping[str, Domain]

    def changed(self, kinds: str, change: Change) -> Tensors:
        """The row with its inputs of these kinds of dtype changed; an input keeps to its domain."""
        return {
            name: changed if _kind(value) in kinds and self._is_allowed(name, changed := change(value)) else value
            for name, value in self.inputs.items()
        }

    def with_real(self, change: Change) -> Tensors:
        """The row with its real inputs changed."""
        return self.changed("f", lambda x: np.asarray(change(x.astype(np.float64)), x.dtype))

    def _is_allowed(self, name: str, value: NDArray[Any]) -> bool:
        return name not in self.domains or self.domains[name].has(value)

    def is_like(self, inputs: Tensors) -> bool:
        """Whether these inputs are the row's own."""
        return all(np.array_equal(self.inputs[name], value) for name, value in inputs.items())


def _kind(value: NDArray[Any]) -> str:
    """The kind of its dtype: f, also for bfloat16, which NumPy does not know; i, u, b or O."""
    return "f" if value.dtype.name == "bfloat16" else value.dtype.kind


def _pictures(row: Row) -> Iterator[EdgeQuestion]:
    for name, value in PICTURES.items():
        yield _filled(f"a picture that is {name}", row, value)
    yield EdgeQuestion("a ramp from black to white", row.with_real(lambda x: _ramp(x, 0, 255)))
    yield EdgeQuestion("a black picture with bright corners", row.with_real(_with_corners))
    yield EdgeQuestion("values between whole numbers", row.with_real(lambda x: x + 0.5))
    yield from _ramps(row)


def _real(row: Row) -> Iterator[EdgeQuestion]:
    for name, value in REAL.items():
        yield _filled(name, row, value)
    for name, value in BEYOND.items():
        yield _filled(f"{name} everywhere", row, value)
        hole = row.with_real(lambda x, value=value: _holed(x, value))  # type: ignore[misc]
        yield EdgeQuestion(f"{name} at one place", hole, after=f"{name} everywhere")
    yield from _ramps(row)


def _ramps(row: Row) -> Iterator[EdgeQuestion]:
    for title, end in RAMPS.items():
        yield EdgeQuestion(title, row.with_real(lambda x, end=end: _ramp(x, -end, end)))  # type: ignore[misc]


def _filled(title: str, row: Row, number: float) -> EdgeQuestion:
    return EdgeQuestion(title, row.with_real(lambda x: np.full_like(x, number)))


def _ramp(x: NDArray[Any], first: float, last: float) -> NDArray[Any]:
    return np.linspace(first, last, x.size).reshape(x.shape)


def _with_corners(x: NDArray[Any]) -> NDArray[Any]:
    """(N, H, W, C): what guesses a background looks there."""
    picture = np.zeros_like(x)
    picture[:, :: max(1, x.shape[1] - 1), :: max(1, x.shape[2] - 1)] = 255
    return picture


def _holed(x: NDArray[Any], value: float) -> NDArray[Any]:
    flat = x.ravel().copy()
    flat[flat.size // 2] = value
    return flat.reshape(x.shape)


def _whole(row: Row) -> Iterator[EdgeQuestion]:
    """Negative whole numbers, zeros, and the ends of each dtype's range."""
    changes: dict[str, Change] = {
        "whole numbers that are 0": np.zeros_like,
        "negative whole numbers": lambda x: -1 - np.arange(x.size).reshape(x.shape) % 13 if x.dtype.kind == "i" else x,
        "the largest whole numbers": lambda x: np.full_like(x, np.iinfo(x.dtype).max),
        "the smallest whole numbers": lambda x: np.full_like(x, np.iinfo(x.dtype).min),
        "whole numbers beyond 32 bits": lambda x: np.full_like(x, 2**31 + 5) if x.dtype.itemsize == 8 else x,
    }
    for title, change in changes.items():
        yield EdgeQuestion(title, row.changed("iu", lambda x, change=change: np.asarray(change(x), x.dtype)))  # type: ignore[misc]


def _flags(row: Row) -> Iterator[EdgeQuestion]:
    for value in (False, True):
        inputs = row.changed("b", lambda x, value=value: np.full_like(x, value))  # type: ignore[misc]
        yield EdgeQuestion(f"{value} everywhere".lower(), inputs)


def _ends(row: Row) -> Iterator[EdgeQuestion]:
    """The least and the greatest values that the inputs take, and all values between, where these are known."""

    def filled(place: int) -> Tensors:
        ends = {name: domain.ends(row.inputs[name].dtype)[place] for name, domain in row.domains.items()}
        return dict(row.inputs) | {name: np.full_like(row.inputs[name], end) for name, end in ends.items()}

    yield EdgeQuestion("the least values of each range", filled(0))
    yield EdgeQuestion("the greatest values of each range", filled(1))
    between = {name: _between(row.inputs[name], domain) for name, domain in row.domains.items()}
    yield EdgeQuestion("values from the least to the greatest", dict(row.inputs) | between)


def _between(value: NDArray[Any], domain: Domain) -> NDArray[Any]:
    if domain.values:
        return np.resize(domain.listed(value.dtype), value.shape)
    low, high = map(float, domain.ends(value.dtype))
    ramp = _ramp(value, low, high)
    is_whole = domain.is_whole or _kind(value) in "iu"
    return np.asarray(np.clip(np.trunc(ramp) if is_whole else ramp, low, high), value.dtype)


def _lengths(specs: Sequence[TensorSpec], questions: Questions) -> Iterator[EdgeQuestion]:
    """Ordinary rows of other lengths, where a size besides the batch is free."""
    if not any(None in spec.shape_at(1) for spec in specs):
        return
    ordinary = {
        name: Domain(int(rows.min()), int(rows.max()))
        for name, rows in questions.inputs.items()
        if rows.dtype.kind in "iu" and rows.size
    }
    for seed, (title, sized) in enumerate(_sized(specs).items(), 1):
        known = ordinary | dict(questions.domains)
        rows = invented(sized, 1, 1, seed, domains=known, are_calls=questions.are_calls)
        call = replace(questions, inputs=rows).rows(0, 1, {name: value.dtype for name, value in rows.items()})
        yield EdgeQuestion(title, call)


def _sized(specs: Sequence[TensorSpec]) -> dict[str, list[TensorSpec]]:
    """The inputs with their free sizes, but for the batch, of each of LENGTHS, or of what the model needs at least."""
    by_title = {}
    for length in LENGTHS:
        sized = [replace(spec, shape=spec.sizes_at(1, length)) for spec in specs]
        free = {
            size
            for spec, fixed in zip(specs, sized, strict=True)
            for known, size in zip(spec.shape_at(1), fixed.sizes_at(1), strict=True)
            if known is None
        }
        by_title[f"a length of {' and '.join(map(str, sorted(free)))}"] = sized
    return by_title


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
    return any(_kind(value) == "f" and not np.isfinite(value).all() for value in question.inputs.values())


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
    if not any(_kind(value) == "f" and np.any(value) for value in question.inputs.values()):
        return moved
    for _ in range(TRIES):
        answer = _tried(runtime, _beside(question, random))
        if isinstance(answer, Exception):
            continue
        for name, most in moved.items():
            if answer[name].shape == most.shape:
                with np.errstate(invalid="ignore"):
                    step = np.abs(answer[name].astype(np.float64) - outputs[name].astype(np.float64))
                step[np.isnan(step)] = np.inf  # it is unstable here: nothing can be held to it
                np.maximum(most, step, out=most)
    return moved


def _beside(question: EdgeQuestion, random: np.random.Generator) -> Tensors:
    """The question with its fractions moved by a few roundings, within their domains; ids and listed values stay."""
    moved = dict(question.inputs)
    for name, value in question.inputs.items():
        domain = question.domains.get(name)
        if _kind(value) != "f" or (domain and (domain.values or domain.is_whole)):
            continue
        beside = value.astype(np.float64) * (1 + ROUNDINGS * random.choice([-1.0, 1.0], value.shape))
        moved[name] = (np.clip(beside, domain.low, domain.high) if domain else beside).astype(value.dtype)
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
                EdgeDifference(
                    answer.question.title, first, _shown(expected.ravel()[0]), f"an error ({one_line(outputs, 300)})"
                )
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
