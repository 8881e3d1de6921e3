"""A TF Lite file that keeps a state, with the state among its inputs and outputs: proven, call by call.

TF Lite's own kernels run both files: unlike XNNPACK, they compute each operator by itself, so nothing is rounded
otherwise where variables are gone, and the answers and the states have to be equal.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from ai_edge_litert.interpreter import Interpreter, OpResolverType
from numpy.typing import NDArray

from bring.probe import INTEGER_BOUNDS
from bring.readers.tflite import run_plain
from bring.readers.tflite_variables import Rewritten, StateStays, rewritten
from bring.states import first_value
from contract.errors import BroughtError, one_line
from contract.manifest import TensorSpec
from verify.questions import Domain, invented

CALLS = 8
"""How many calls in a row prove it."""

Signature = tuple[str, Sequence[str], Sequence[str]]
"""Its name, and those of its inputs and outputs in their order."""


def outside(
    content: bytes, signature: Signature | None, inputs: Sequence[TensorSpec], domains: Mapping[str, Domain], name: str
) -> Rewritten:
    """The file with its states outside; `inputs` are those of the file as it is, under the names that `domains` has.

    Raises StateStays where a state has to stay inside, and BroughtError where nobody could give the file its first
    state, or where it answers otherwise.
    """
    new = rewritten(content, signature and signature[0])
    for state, value in new.first.items():
        if first_value(value) is not None:
            continue
        raise BroughtError(
            f"{name} keeps a state between its calls, and begins with {value.size} different values in {state}, which "
            "are too many to be told. Take the model from before it was made streaming, with its state among the "
            "inputs and outputs."
        )
    if reason := _difference(content, signature, new, inputs, domains):
        raise BroughtError(
            f"{name} keeps a state between its calls. With it among the inputs and outputs {reason}, so it is not "
            "brought. Take the model from before it was made streaming."
        )
    return new


def firsts(new: Rewritten) -> dict[str, Any]:
    """What each state is at first, by `first_value`."""
    return {state: first_value(value) for state, value in new.first.items()}


def _difference(
    content: bytes, signature: Signature | None, new: Rewritten, inputs: Sequence[TensorSpec],
    domains: Mapping[str, Domain],
) -> str:  # fmt: skip
    """How the two files differ in some calls in a row; empty where they do not. Raises StateStays."""
    before, rows = _answered(content, signature, new, inputs, domains)
    states, outputs = list(new.states), list(new.states.values())
    extended = signature and (signature[0], [*signature[1], *states], [*signature[2], *outputs])
    held = list(new.first.values())
    try:
        after = _File(new.content, extended)
        for number, (values, (answers, kept)) in enumerate(zip(rows, before, strict=True), 1):
            differ = [state for state, *pair in zip(states, kept, held, strict=True) if not _are_equal(*pair)]
            if differ:
                return f"{differ[0]} is another state before call {number}"
            now = after.answers([*values, *held])
            if not all(map(_are_equal, answers, now)):
                return f"it answers call {number} otherwise"
            held = now[len(answers) :]
    except (ValueError, RuntimeError) as error:
        return f"it does not run: {one_line(error, 300)}"
    return ""


def _answered(
    content: bytes, signature: Signature | None, new: Rewritten, inputs: Sequence[TensorSpec],
    domains: Mapping[str, Domain],
) -> tuple[list[tuple[list[NDArray[Any]], list[NDArray[Any]]]], list[list[NDArray[Any]]]]:  # fmt: skip
    """The answers of the file as it is, each with the states before it; and what it was called with."""
    reason = ""
    for bound in INTEGER_BOUNDS:
        made = invented(inputs, CALLS, bound, domains=domains, are_calls=True)
        rows = [[made[spec.name][number].astype(spec.dtype) for spec in inputs] for number in range(CALLS)]
        file = _File(content, signature)
        try:
            return [(file.answers(values), file.tensors(new)) for values in rows], rows
        except (ValueError, RuntimeError) as error:
            reason = one_line(error, 300)
    raise StateStays(f"the file does not answer invented rows, so nothing could be proven: {reason}")


class _File:
    """A file that is called again and again."""

    def __init__(self, content: bytes, signature: Signature | None) -> None:
        self._interpreter = Interpreter(
            model_content=content,
            experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
            experimental_preserve_all_tensors=True,
        )
        self._signature = signature
        self._runner: Any = signature and self._interpreter.get_signature_runner(signature[0])

    def answers(self, values: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
        if self._signature is None:
            return run_plain(self._interpreter, values)
        answers = self._runner(**dict(zip(self._signature[1], values, strict=True)))
        return [answers[key] for key in self._signature[2]]

    def tensors(self, new: Rewritten) -> list[NDArray[Any]]:
        """The states with which the last call began."""
        return [self._interpreter.get_tensor(tensor, new.graph) for tensor in new.readings.values()]


def _are_equal(before: NDArray[Any], after: NDArray[Any]) -> bool:
    return before.shape == after.shape and np.array_equal(before, after, equal_nan=before.dtype.kind == "f")
