"""LiteRT (TensorFlow Lite) with XNNPACK."""

import importlib.metadata
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_litert.interpreter import Interpreter
from numpy.typing import NDArray

from contract.manifest import Manifest
from contract.tensors import Tensors


class LiteRTRuntime:
    """Runs the signature `batch1` for one row, which never resizes a tensor, and `serving_default` for more.

    Where a file takes and gives int8 and its manifest says float32, inputs are quantised and outputs restored.
    """

    platform = "tensorflow_lite"
    in_process = True

    def __init__(self, folder: Path, manifest: Manifest, threads: int) -> None:
        self._floats = {spec.name for spec in (*manifest.inputs, *manifest.outputs) if spec.dtype.startswith("float")}
        self.title = f"LiteRT {importlib.metadata.version('ai-edge-litert')}"
        # LiteRT maps a file that it gets by its path: the process would die when the file is overwritten.
        content = (folder / "model.tflite").read_bytes()
        self._interpreter = Interpreter(model_content=content, num_threads=threads)
        known = self._interpreter.get_signature_list()
        wanted = ["serving_default", "batch1"]
        if known:  # a user's file may have other signatures than ours
            wanted = [name if name in known else next(iter(known)) for name in wanted]
        runners = {name: self._runner(name) if known else self._without_signature for name in wanted}
        # Of one signature there is one runner, which knows the shapes of the last call.
        self._any, self._one = (runners[name] for name in wanted)
        self._allocated = False
        self._has_rows = manifest.has_rows
        self._names = [spec.name for spec in manifest.inputs], [spec.name for spec in manifest.outputs]
        self._lock = threading.Lock()  # an interpreter holds its tensors: one call at a time

    def predict(self, inputs: Tensors) -> Tensors:
        is_one_row = self._has_rows
        if is_one_row:
            for value in inputs.values():  # `all` of a generator costs as much as setting a tensor
                is_one_row = is_one_row and len(value) == 1
        with self._lock:
            # A runner's outputs are copies: they stay as they are after the next call.
            return (self._one if is_one_row else self._any)(inputs)

    def _runner(self, name: str) -> Callable[[Tensors], Tensors]:
        runner = self._interpreter.get_signature_runner(name)
        steps = {name: _Steps.of(detail) for name, detail in _details(runner).items() if name in self._floats}
        quantised = {name: each for name, each in steps.items() if each is not None}
        return _Quantised(_Signature(runner), quantised) if quantised else _Signature(runner)

    def _without_signature(self, inputs: Tensors) -> Tensors:
        # In the manifest's order: its names need not be the file's, which may hold any character.
        details = dict(zip(self._names[0], self._interpreter.get_input_details(), strict=True))
        changed = [name for name, detail in details.items() if tuple(detail["shape"]) != inputs[name].shape]
        for name in changed:
            self._interpreter.resize_tensor_input(details[name]["index"], inputs[name].shape)
        if changed or not self._allocated:
            self._interpreter.allocate_tensors()
            self._allocated = True
        for name, detail in details.items():
            self._interpreter.set_tensor(detail["index"], inputs[name])
        self._interpreter.invoke()
        outputs = zip(self._names[1], self._interpreter.get_output_details(), strict=True)
        return {name: self._interpreter.get_tensor(detail["index"]) for name, detail in outputs}

    def close(self) -> None:
        """Nothing is held outside this process's memory."""


class _Signature:
    """A signature's calls. LiteRT's own runner resizes its inputs at every call, which costs a tenth of a small model's
    time; this resizes when a shape changes."""

    def __init__(self, runner: Any) -> None:
        self._runner = runner  # the interpreter's owner
        self._wrapper, self._graph = runner._interpreter_wrapper, runner._subgraph_index
        self._inputs, self._outputs = runner._inputs, runner._outputs
        self._shapes: dict[str, tuple[int, ...]] = {}

    def __call__(self, inputs: Tensors) -> Tensors:
        shapes = {name: value.shape for name, value in inputs.items()}
        if shapes != self._shapes:
            self._shapes = {}  # a resize that fails leaves nothing that could be relied on
            for name, shape in shapes.items():
                self._wrapper.ResizeInputTensor(self._inputs[name], np.array(shape, np.int32), False, self._graph)
            self._wrapper.AllocateTensors(self._graph)
            self._shapes = shapes
        for name, value in inputs.items():
            self._wrapper.SetTensor(self._inputs[name], value, self._graph)
        self._wrapper.Invoke(self._graph)
        return {name: self._wrapper.GetTensor(index, self._graph) for name, index in self._outputs}


@dataclass(frozen=True)
class _Steps:
    """How a tensor's real values become whole numbers."""

    scale: np.float32
    zero: int
    dtype: np.dtype[Any]

    @classmethod
    def of(cls, detail: Mapping[str, Any]) -> "_Steps | None":
        """Of a tensor of the file; None where it holds no quantised values."""
        (scale, zero), dtype = detail["quantization"], np.dtype(detail["dtype"])
        return cls(np.float32(scale), zero, dtype) if scale and dtype.kind in "iu" else None

    def quantised(self, values: NDArray[Any]) -> NDArray[Any]:
        """The nearest numbers; what lies outside of the range, NaN included, becomes its end, or 0."""
        limits, steps = np.iinfo(self.dtype), np.rint(np.nan_to_num(values) / self.scale) + self.zero
        numbers: NDArray[Any] = np.clip(steps, limits.min, limits.max).astype(self.dtype)
        return numbers

    def restored(self, numbers: NDArray[Any]) -> NDArray[np.float32]:
        values: NDArray[np.float32] = (numbers.astype(np.float32) - np.float32(self.zero)) * self.scale
        return values


def _details(runner: Any) -> dict[str, Any]:
    return {**runner.get_input_details(), **runner.get_output_details()}


class _Quantised:
    """A signature of whole numbers, called with real values and answering with such."""

    def __init__(self, signature: _Signature, steps: Mapping[str, _Steps]) -> None:
        self._signature, self._steps = signature, steps

    def __call__(self, inputs: Tensors) -> Tensors:
        given = {name: self._steps[name].quantised(x) if name in self._steps else x for name, x in inputs.items()}
        answers = self._signature(given)
        return {name: self._steps[name].restored(x) if name in self._steps else x for name, x in answers.items()}
