"""Tracers: what every layer of an artifact computes, one file for each framework, imported only when needed."""

import importlib
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from contract.errors import ModelUnavailable, one_line
from contract.formats import family_of, is_installed, not_installed
from contract.manifest import Manifest

Values = NDArray[np.floating[Any]]

PASSING = {"Identity", "StopGradient", "PreventGradient"}
"""Operators that return their input: they are not layers, and models never part there."""


@dataclass(frozen=True, eq=False)
class Step:
    """One tensor that is computed between the pictures and the answers."""

    name: str
    """Unique in its trace, as the framework calls it."""
    label: str
    """The name that is shown to people."""
    op: str
    inputs: tuple[str, ...]
    """The names of the tensors that it is computed from, weights and constants included."""
    value: Values | None = None
    """(N, ...), float32, for N pictures; None for anything else: a shape, an index, a constant."""

    @property
    def array(self) -> Values:
        """The value of a step that has one."""
        assert self.value is not None, f"{self.name} has no value for each picture"
        return self.value


@dataclass(frozen=True)
class Trace:
    """Every step of one run, in the order in which they were computed; the first one is the pictures."""

    steps: Mapping[str, Step]
    input: str
    output: str

    @classmethod
    def of(cls, steps: Iterable[Step], input: str, output: str, count: int) -> "Trace":
        """The trace of a run on `count` pictures. Only steps with a row for each of these keep a value."""
        known: dict[str, Step] = {}
        dependent = {input}
        for step in steps:
            if step.name != input and dependent.isdisjoint(step.inputs):
                continue  # weights, and what is computed from them
            dependent.add(step.name)
            value = step.value if step.op not in PASSING and _is_by_picture(step.value, count) else None
            known[step.name] = replace(step, value=None if value is None else value.astype(np.float32))
        while known[output].op in PASSING:
            output = next(name for name in known[output].inputs if name in known)
        return cls(known, input, output)

    @property
    def valued(self) -> list[Step]:
        """The steps that can be compared, in order."""
        return [step for step in self.steps.values() if step.value is not None]

    def value(self, name: str) -> Values:
        return self.steps[name].array


def _is_by_picture(value: Any, count: int) -> bool:
    if value is None or not value.ndim or len(value) != count:
        return False
    return np.issubdtype(value.dtype, np.floating) or value.dtype.name == "bfloat16"


def joined(traces: list[Trace]) -> Trace:
    """The traces of successive pieces of the pictures, as the trace of one run."""
    first = traces[0]
    if len(traces) == 1:
        return first
    steps = {
        step.name: step
        if step.value is None
        else replace(step, value=np.concatenate([trace.value(step.name) for trace in traces]))
        for step in first.steps.values()
    }
    return Trace(steps, first.input, first.output)


Kept = Collection[str] | None
"""The names of the steps whose values are kept, besides the pictures; None keeps all."""


class Tracer(Protocol):
    """Runs an artifact and keeps what every layer computes."""

    def trace(self, images: Values, kept: Kept = None) -> Trace:
        """Images (N, ...) of the manifest's first input, run as one batch."""

    def weights(self) -> Iterable[NDArray[Any]]:
        """Every stored array, in the type in which it is stored."""

    def close(self) -> None:
        """Free what is held outside this process's memory."""


@runtime_checkable
class Changeable(Tracer, Protocol):
    """A tracer that can also run a changed model, to test a hypothesis about the other one."""

    def with_values(self, images: Values, values: Mapping[str, Values], kept: Kept = None) -> Trace:
        """As `trace`, but the named steps return these values, whatever their inputs."""

    def in_training(self, images: Values) -> Trace | None:
        """As `trace`, but BatchNorm normalises by the batch, as in training; None where there is no BatchNorm."""

    def named_weights(self) -> Mapping[str, NDArray[Any]]:
        """What was learned, by name."""

    def with_weights(self, images: Values, weights: Mapping[str, NDArray[Any]], kept: Kept = None) -> Trace:
        """As `trace`, but with these arrays in the place of its own."""


TRACERS: dict[str, str] = {
    "keras": "verify.diagnose.tracers.tensorflow:KerasTracer",
    "savedmodel": "verify.diagnose.tracers.tensorflow:SavedModelTracer",
    "torch": "verify.diagnose.tracers.torch:TorchTracer",
    "onnx": "verify.diagnose.tracers.onnx:OnnxTracer",
    "tflite": "verify.diagnose.tracers.tflite:TFLiteTracer",
    "tfjs": "verify.diagnose.tracers.tfjs:TFJSTracer",
    "openvino": "verify.diagnose.tracers.openvino:OpenVINOTracer",
}
"""Format -> the module and class of its tracer."""

UNTRACED = {
    "executorch": "XNNPACK computes whole parts of its graph at once, and gives no value from within them. Diagnose "
    "another format of this model: what they have in common shows there, too",
    "coreai": "nothing here reads the values within its graph. Diagnose another format of this model: what they have "
    "in common shows there, too",
    "coreml": "nothing here runs it. Diagnose another format of this model: what they have in common shows there, too",
}
"""A format that has no tracer -> why."""


def load_tracer(folder: Path, manifest: Manifest) -> Tracer:
    """The tracer of an artifact whose files were verified. Raises ModelUnavailable when it cannot be traced."""
    family = family_of(manifest.format)
    if family in UNTRACED:
        raise ModelUnavailable(f"{manifest.name} cannot be traced: {UNTRACED[family]}.")
    if family not in TRACERS:
        raise ModelUnavailable(f"{manifest.name} cannot be traced: {family!r} is not one of {', '.join(TRACERS)}.")
    if not is_installed(family):
        raise ModelUnavailable(f"{manifest.name} cannot be traced: {not_installed(family)}")
    module, _, name = TRACERS[family].partition(":")
    try:
        load: Callable[[Path, Manifest], Tracer] = getattr(importlib.import_module(module), name)
        return load(folder, manifest)
    except ModelUnavailable:
        raise
    except Exception as error:  # a framework may raise anything on a graph that it does not like
        raise ModelUnavailable(f"{manifest.name} cannot be traced: {one_line(error)}") from error
