"""Asking a model that is being brought: with inputs of these sizes, does it answer, and does the answer depend on them?

Not every framework refuses a signal that is too short for a window. TensorFlow makes no window of it, adds up nothing,
and answers with a constant. So a size counts as answered only where other values are answered otherwise.
"""

import math
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bring.description import Description
from bring.probe import INTEGER_BOUNDS, Arrays, Predicts
from contract.errors import one_line
from contract.manifest import TensorSpec
from contract.tensors import numpy_dtype
from verify.questions import Domain, invented, known_domains

MAX_VALUES = 1 << 24
"""Values of an input that it is asked at most."""
SECONDS = 60.0
"""How long it is asked. Then what is not known yet stays unknown."""
SEEDS = 3
"""Different invented values that it is asked."""
LOUD = (0.0, 1e3, np.nan, np.inf)
"""Real values that are asked beside invented ones. A tanh that is saturated, or a factor of 0, leaves the last two."""

Sizes = tuple[int, ...]
Axes = tuple[int | None, ...]
"""The axis of the batch of each input; None where it has none."""
Place = tuple[int, int]
"""The number of an input, and of one of its axes."""


class Asking:
    """Asks a model for its answers to inputs of some sizes."""

    def __init__(self, source: Predicts, description: Description) -> None:
        self._source = source
        self._domains: Mapping[str, Domain] = known_domains(source.inputs) | description.domains
        self._end = time.monotonic() + SECONDS
        self.reason = ""
        """Why it did not answer the last time."""
        self.has_nan, self.takes_nan = False, False
        """Whether it answered NaN, and whether that is an answer: some frameworks give it where nothing is left."""

    @property
    def is_late(self) -> bool:
        return time.monotonic() > self._end

    def shapes(self, sizes: Sequence[Sizes]) -> list[Sizes] | None:
        """The shapes of the answers to inputs of these sizes; None where it does not answer, or with nothing."""
        answers = self.answers(sizes)
        return None if answers is None else [answer.shape for answer in answers]

    def answers(self, sizes: Sequence[Sizes], rows: slice | None = None, axes: Axes = ()) -> list[NDArray[Any]] | None:
        """The answers; with `rows`, to these rows of the inputs alone, along these axes or the first."""
        if self.is_late or any(math.prod(size) > MAX_VALUES for size in sizes):
            return None
        inputs = self._inputs(sizes)
        if rows is not None:
            places = axes or tuple(0 if value.ndim else None for value in inputs.values())
            pairs = zip(inputs.items(), places, strict=True)
            inputs = {key: value if axis is None else rows_of(value, rows, axis) for (key, value), axis in pairs}
        answers = self._predicted(inputs)
        if answers is None:
            return None
        if any(0 in answer.shape for answer in answers):
            self.reason = f"its answers are empty, {[list(answer.shape) for answer in answers]}."
            return None
        if any(_is_real(answer) and np.isnan(answer).any() for answer in answers) and not self.takes_nan:
            self.reason, self.has_nan = "its answers are NaN.", True
            return None
        return answers

    def heard(self, sizes: Sequence[Sizes], signals: Collection[int]) -> frozenset[int]:
        """The numbers of the outputs that depend on the values of these inputs, the others held, at these sizes.

        Outputs without real numbers, such as the best class, show too little: they count where there are no others.
        """
        inputs = self._inputs(sizes)
        first = self._predicted(inputs) or []
        real = {number for number, answer in enumerate(first) if _is_real(answer)}
        if not real:
            return frozenset(range(len(first)))
        depending: set[int] = set()
        for others in self._others(sizes, inputs, signals):
            if depending == real or self.is_late:
                break
            second = self._predicted(others)
            if second is not None:
                depending |= {number for number in real if not _are_equal(first[number], second[number])}
        return frozenset(depending)

    def _inputs(self, sizes: Sequence[Sizes], seed: int = 0) -> Arrays:
        specs = [replace(spec, shape=size, layout="D" * len(size), least=None) for spec, size in self._pairs(sizes)]
        calls = invented(specs, 1, INTEGER_BOUNDS[-1], seed, self._domains, are_calls=True)
        return {spec.name: np.asarray(calls[spec.name][0], numpy_dtype(spec.dtype)) for spec in specs}

    def _pairs(self, sizes: Sequence[Sizes]) -> Iterator[tuple[TensorSpec, Sizes]]:
        return zip(self._source.inputs, sizes, strict=True)

    def _predicted(self, inputs: Arrays) -> list[NDArray[Any]] | None:
        try:
            return [np.asarray(answer) for answer in self._source.predict(inputs)]
        except Exception as error:  # a framework may raise anything
            self.reason = one_line(error, 500)
            return None

    def _others(self, sizes: Sequence[Sizes], inputs: Arrays, signals: Collection[int]) -> Iterator[Arrays]:
        """The inputs with other values of these signals: invented ones, then each the same everywhere."""
        names = [self._source.inputs[number].name for number in signals]
        for seed in range(1, SEEDS):
            other = self._inputs(sizes, seed)
            yield dict(inputs) | {name: other[name] for name in names}
        for place in range(len(LOUD)):
            yield dict(inputs) | {name: self._filled(name, inputs[name], place) for name in names}

    def _filled(self, name: str, value: NDArray[Any], place: int) -> NDArray[Any]:
        """The input with one value everywhere: one of LOUD, or an end of what it takes."""
        if name in self._domains:
            return np.full_like(value, self._domains[name].ends(value.dtype)[place % 2])
        if value.dtype == object:
            return value
        return np.full_like(value, LOUD[place] if _is_real(value) else place % 2)


def rows_of(value: NDArray[Any], rows: slice, axis: int) -> NDArray[Any]:
    """These rows along an axis."""
    return value[(slice(None),) * axis + (rows,)]


def _is_real(value: NDArray[Any]) -> bool:
    return value.dtype.kind == "f" or value.dtype.name == "bfloat16"


def _are_equal(first: NDArray[Any], second: NDArray[Any]) -> bool:
    return np.array_equal(first.astype(np.float64), second.astype(np.float64), equal_nan=True)
