"""Runtimes: one file each, imported only when one of its artifacts is loaded.

A process pays for the formats that it loads and no others. Runtimes check nothing: the protocol has checked the
inputs' names, dtypes and shapes before. They may be called from several threads.
"""

import contextlib
import importlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from contract.errors import InputError, ModelUnavailable, one_line
from contract.formats import FORMATS, family_of, is_installed, not_installed, why_not_run
from contract.manifest import Manifest
from contract.tensors import Tensors, numpy_dtype


class Runtime(Protocol):
    """What executes an artifact."""

    title: str
    """Its name and version, for users: "ONNX Runtime 1.31.1"."""
    platform: str
    """Its name in the Open Inference Protocol's model metadata, as Triton spells it where Triton knows it."""

    in_process: bool
    """Whether a call is only computation. Another process may hang, and nothing else may wait for it then."""

    def predict(self, inputs: Tensors) -> Tensors:
        """The manifest's inputs -> its outputs, in its shapes. Raises RuntimeFailure."""

    def close(self) -> None:
        """Free what the runtime holds outside this process's memory. It is not called again after this."""


LoadRuntime = Callable[[Path, Manifest, int], Runtime]
"""(the artifact's folder, its manifest, how many threads to compute with) -> its runtime."""

RUNTIMES: dict[str, str] = {
    "keras": "serve.runtimes.keras:KerasRuntime",
    "savedmodel": "serve.runtimes.savedmodel:SavedModelRuntime",
    "torch": "serve.runtimes.torch:TorchRuntime",
    "onnx": "serve.runtimes.onnx:OnnxRuntime",
    "tflite": "serve.runtimes.tflite:LiteRTRuntime",
    "tfjs": "serve.runtimes.tfjs:TFJSRuntime",
    "openvino": "serve.runtimes.openvino:OpenVINORuntime",
    "executorch": "serve.runtimes.executorch:ExecuTorchRuntime",
    "coreai": "serve.runtimes.coreai:CoreAIRuntime",
}
"""Format -> the module and class of its runtime."""


def load_runtime(folder: Path, manifest: Manifest, threads: int = 1) -> Runtime:
    """Load an artifact whose files were verified, and answer one picture of zeros with it, so that it is warm.

    Raises ModelUnavailable when the format has no runtime, the runtime is not installed, or it refuses the artifact.
    """
    runtime = open_runtime(folder, manifest, threads)
    try:
        with _failures_explained(folder, manifest):
            outputs = runtime.predict(warm_up_inputs(manifest))
    except Exception:
        runtime.close()
        raise
    dtypes = {spec.name: numpy_dtype(spec.dtype) for spec in manifest.outputs if spec.name in outputs}
    others = {name: dtype for name, dtype in dtypes.items() if outputs[name].dtype != dtype}
    return InItsDtypes(runtime, others) if others else runtime


def open_runtime(folder: Path, manifest: Manifest, threads: int = 1) -> Runtime:
    """Load an artifact, without a first call. Raises what `load_runtime` raises."""
    load = import_runtime(manifest)
    with _failures_explained(folder, manifest):
        runtime = load(folder, manifest, threads)
    if manifest.batch is None:
        return runtime
    return PieceByPiece(runtime, manifest.batch) if manifest.has_rows else OfOneBatch(runtime, manifest)


class PieceByPiece:
    """A runtime whose graph takes one batch alone: more rows run in pieces, and the last piece is filled up."""

    def __init__(self, runtime: Runtime, batch: int) -> None:
        self.title, self.platform, self.in_process = runtime.title, runtime.platform, runtime.in_process
        self._runtime, self._batch = runtime, batch

    def predict(self, inputs: Tensors) -> Tensors:
        rows = len(next(iter(inputs.values())))
        if rows == self._batch:
            return self._runtime.predict(inputs)
        answers = [self._runtime.predict(self._piece(inputs, start)) for start in range(0, rows, self._batch)]
        return {name: np.concatenate([answer[name] for answer in answers])[:rows] for name in answers[0]}

    def _piece(self, inputs: Tensors, start: int) -> Tensors:
        pieces = {name: value[start : start + self._batch] for name, value in inputs.items()}
        return {name: piece[np.arange(self._batch) % len(piece)] for name, piece in pieces.items()}

    def close(self) -> None:
        self._runtime.close()

    def __getattr__(self, name: str) -> Any:
        """The attributes that only some runtimes have, such as the id of a process."""
        return getattr(self._runtime, name)


class OfOneBatch:
    """A runtime whose graph takes one batch alone, of a model whose calls are whole: another batch is refused."""

    def __init__(self, runtime: Runtime, manifest: Manifest) -> None:
        self.title, self.platform, self.in_process = runtime.title, runtime.platform, runtime.in_process
        self._runtime, self._manifest = runtime, manifest

    def predict(self, inputs: Tensors) -> Tensors:
        for spec in self._manifest.inputs:
            expected, got = spec.shape_at(self._manifest.batch), inputs[spec.name].shape
            if any(size not in (None, sent) for size, sent in zip(expected, got, strict=True)):
                raise InputError(
                    f"{self._manifest.name} takes a batch of {self._manifest.batch} alone, and the input {spec.name!r} "
                    f"has the shape {list(got)}. Ask another format of this model."
                )
        return self._runtime.predict(inputs)

    def close(self) -> None:
        self._runtime.close()

    def __getattr__(self, name: str) -> Any:
        """The attributes that only some runtimes have, such as the id of a process."""
        return getattr(self._runtime, name)


class InItsDtypes:
    """A runtime that computes some outputs in other dtypes than the source does: the answer has the manifest's.

    TF Lite and TF.js answer a network of float16 in float32.
    """

    def __init__(self, runtime: Runtime, dtypes: Mapping[str, np.dtype[Any]]) -> None:
        self.title, self.platform, self.in_process = runtime.title, runtime.platform, runtime.in_process
        self._runtime, self._dtypes = runtime, dtypes

    def predict(self, inputs: Tensors) -> Tensors:
        outputs = dict(self._runtime.predict(inputs))
        with np.errstate(over="ignore"):  # what float16 cannot hold is infinite, as in the source
            return outputs | {name: outputs[name].astype(dtype) for name, dtype in self._dtypes.items()}

    def close(self) -> None:
        self._runtime.close()

    def __getattr__(self, name: str) -> Any:
        """The attributes that only some runtimes have, such as the id of a process."""
        return getattr(self._runtime, name)


def joined(parts: Sequence[Tensors]) -> Tensors:
    """The inputs of several calls as those of one, with their rows one below the other."""
    if len(parts) == 1:
        return parts[0]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def import_runtime(manifest: Manifest) -> LoadRuntime:
    """Import what runs artifacts of this format. Raises ModelUnavailable."""
    family = family_of(manifest.format)
    if why := why_not_run(family):
        raise ModelUnavailable(f"{manifest.name} cannot be run here: {why}.")
    if family not in RUNTIMES:
        raise ModelUnavailable(f"No runtime runs {manifest.name}: {family!r} is not one of {', '.join(RUNTIMES)}.")
    if not is_installed(family):
        raise ModelUnavailable(f"{manifest.name} cannot be run here: {not_installed(family)}")
    module, _, name = RUNTIMES[family].partition(":")
    try:
        load: LoadRuntime = getattr(importlib.import_module(module), name)
    except ImportError as error:
        raise ModelUnavailable(
            f"{manifest.name} cannot be run here: {error}. "
            f"Install {FORMATS[family].runtime}, or leave the artifact out."
        ) from error
    return load


@contextlib.contextmanager
def _failures_explained(folder: Path, manifest: Manifest) -> Iterator[None]:
    """Raise ModelUnavailable for any error: a runtime may raise anything for a file that it cannot use."""
    try:
        yield
    except ModelUnavailable:
        raise
    except Exception as error:
        raise ModelUnavailable(
            f"{manifest.name} could not be loaded: {one_line(error)}. Remove {folder} and export it again."
        ) from error


def warm_up_inputs(manifest: Manifest, batch: int = 1) -> dict[str, NDArray[Any]]:
    """Zeros, or empty byte strings, in the shape of the manifest's inputs, with their least free sizes."""
    return {
        spec.name: np.full(spec.sizes_at(batch), b"" if spec.dtype == "bytes" else 0, numpy_dtype(spec.dtype))
        for spec in manifest.inputs
    }
