"""A model answers a few rows when it is brought, to see what its answers look like, and that there are any."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from bring.description import FILE, Description, Preprocess
from bring.inputs import rows_in_words, suggestion
from bring.rows import read_rows
from contract.errors import BroughtError, one_line
from contract.manifest import ImageSpec, TensorSpec
from verify.questions import Questions, invented, invented_pictures, known_domains

Arrays = Mapping[str, NDArray[Any]]
Answers = list[NDArray[Any]]

ROWS = 8
INTEGER_BOUNDS = (1000, 100, 10, 2)
"""Bounds to try for integers, which may be indices into a table whose size is not in the file."""


class Predicts(Protocol):
    """What of a model's file is needed to ask it."""

    inputs: tuple[TensorSpec, ...]

    def predict(self, inputs: Arrays) -> Sequence[NDArray[Any]]:
        """The outputs in their order."""


class Probe:
    """The rows that a model is asked, in the shapes and values of its graph's inputs."""

    def __init__(
        self, source: Predicts, description: Description, batch: int | None, are_calls: bool,
        image: ImageSpec | None, preprocess: Preprocess | None,
    ) -> None:  # fmt: skip
        self._source, self._description = source, description
        self._are_calls = are_calls
        self._count = batch or (1 if are_calls else ROWS)
        self._image, self._preprocess = image, preprocess
        rows = description.rows if image is None else None
        self._rows = None if rows is None else read_rows(rows, source.inputs, description.domains, are_calls)

    def run(self, name: str) -> tuple[Answers, int]:
        """The answers, and the bound of integers of which nothing is known.

        Raises BroughtError where the model does not answer, or not with numbers that depend on its inputs.
        """
        reason = ""
        for bound in self._bounds():
            inputs = self._inputs(bound, 0)
            try:
                answers = [np.asarray(answer) for answer in self._source.predict(inputs)]
            except Exception as error:  # a framework may raise anything; a smaller bound may work
                reason = one_line(error, 500)
                continue
            self._check(answers, inputs, self._inputs(bound, 1), name)
            return answers, bound
        raise BroughtError(f"{name} was read, but does not answer {shapes_of(self._source.inputs)}: {reason}")

    def _bounds(self) -> Sequence[int]:
        """What integers of unknown values may stay below; one bound where there are none."""
        known = known_domains(self._source.inputs) | self._description.domains
        is_guessed = (
            self._image is None
            and self._rows is None
            and any(
                spec.name not in known and np.dtype(spec.dtype).kind in "iu"
                for spec in self._source.inputs
                if spec.dtype not in ("bytes", "bfloat16")
            )
        )
        return INTEGER_BOUNDS if is_guessed else INTEGER_BOUNDS[-1:]

    def _inputs(self, bound: int, number: int) -> Arrays:
        """Rows, others for another `number`."""
        if self._image is not None:
            return self._pictures(number)
        if self._rows is not None:
            if self._are_calls:
                return {key: rows[number % len(rows)] for key, rows in self._rows.items()}
            first = number * self._count
            return {key: rows[np.arange(first, first + self._count) % len(rows)] for key, rows in self._rows.items()}
        # The values of a lone call hardly differ from those of another one: two calls have different scales.
        first = number if self._are_calls else 0
        count = first + self._count
        rows = invented(self._source.inputs, count, bound, number, self._description.domains, self._are_calls)
        dtypes = {key: value.dtype for key, value in rows.items()}
        return Questions(rows, None, "", are_calls=self._are_calls).rows(first, count, dtypes)

    def _pictures(self, number: int) -> Arrays:
        """Pictures as the graph takes them, behind their preprocessing."""
        (spec,), image, preprocess = self._source.inputs, self._image, self._preprocess
        assert image is not None
        # The shipped pictures come first, and are always the same.
        pixels = invented_pictures(image, 2 * self._count, number)[self._count :]
        if preprocess is None:
            return {spec.name: pixels.astype(spec.dtype)}
        ordered = pixels[..., ::-1] if preprocess.order == "BGR" else pixels
        mean, std = (np.resize(values, image.channels) for values in (preprocess.mean, preprocess.std))
        values = (ordered * preprocess.scale - mean) / std if preprocess.changes_values else ordered
        return {spec.name: (values.transpose(0, 3, 1, 2) if preprocess.layout == "NCHW" else values).astype(spec.dtype)}

    def _check(self, answers: Answers, inputs: Arrays, others: Arrays, name: str) -> None:
        rows, advice = self._rows_and_advice()
        if _have_nan(answers):
            self._check_zeros(inputs, name)
            raise BroughtError(
                f"{name} answers NaN, not a number, to {rows}: no format of it could be compared. Its weights, or an "
                f"operation such as log(0), are to blame{': repair it first.' if not advice else '.'}{advice}"
            )
        if all(np.array_equal(value, others[key]) for key, value in inputs.items()):
            return  # the user has a single row
        second = self._source.predict(others)
        if all(np.array_equal(answer, np.asarray(other)) for answer, other in zip(answers, second, strict=True)):
            if getattr(self._source, "keeps_state", False):
                stays = getattr(self._source, "state_stays", "")
                reason = f"it keeps a state between its calls, and answers from the calls before. {stays}".strip()
                raise BroughtError(
                    f"{name} gives the same answers to different {rows}: {reason} Take the model from before it was "
                    "made streaming, with its state among the inputs and outputs."
                )
            raise BroughtError(
                f"{name} gives the same answers to different {rows}: every conversion of it would look right. "
                f"Is it the trained model?{advice}"
            )

    def _check_zeros(self, inputs: Arrays, name: str) -> None:
        """Raises BroughtError where a guessed 0 alone is to blame for NaN, as of a length or of another divisor."""
        known = known_domains(self._source.inputs) | self._description.domains
        for spec in self._source.inputs if self._image is None and self._rows is None else ():
            values = inputs[spec.name]
            if spec.name in known or values.dtype.kind not in "iu" or values.all():
                continue
            changed = np.maximum(values, 1)
            try:
                answers = self._source.predict({**inputs, spec.name: changed})
            except Exception:  # a framework may raise anything; then 0 is not what it fails over
                continue
            if not _have_nan([np.asarray(answer) for answer in answers]):
                raise BroughtError(
                    f"{name} answers NaN, not a number, where its input {spec.name} is 0, and numbers where it is at "
                    f"least 1, as a length is. Say so in {FILE}, with the greatest value that it takes, such as:\n\n"
                    f'    [[input]]\n    name = "{spec.name}"\n    range = [1, {changed.max()}]'
                )

    def _rows_and_advice(self) -> tuple[str, str]:
        """What the model was asked, and what to say about its inputs if they are others."""
        if self._image is not None:
            return "pictures", " Does PREPROCESS say how pixels become its input?"
        return rows_in_words(self._description), suggestion(self._source.inputs, self._description)


def _have_nan(answers: Sequence[NDArray[Any]]) -> bool:
    return any(bool(np.isnan(answer).any()) for answer in answers if answer.dtype.kind == "f")


def shapes_of(specs: Sequence[TensorSpec]) -> str:
    return ", ".join(
        f"{spec.name}: {spec.dtype} {['any' if size is None else size for size in spec.shape]}" for spec in specs
    )
