"""Runtimes: one file each, imported only when one of its artifacts is loaded.

A process pays for the formats that it loads and no others. Runtimes check nothing: the protocol has checked the
inputs' names, dtypes and shapes before. They may be called from several threads.
"""

import contextlib
import importlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from contract.errors import ModelUnavailable, one_line
from contract.formats import FORMATS, family_of
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
        """The manifest's inputs, each with the batch first -> its outputs. Raises RuntimeFailure."""

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
}
"""Format -> the module and class of its runtime."""


def load_runtime(folder: Path, manifest: Manifest, threads: int = 1) -> Runtime:
    """Load an artifact whose files were verified, and answer one picture of zeros with it, so that it is warm.

    Raises ModelUnavailable when the format has no runtime, the runtime is not installed, or it refuses the artifact.
    """
    runtime = open_runtime(folder, manifest, threads)
    try:
        with _failures_explained(folder, manifest):
            runtime.predict(warm_up_inputs(manifest))
    except Exception:
        runtime.close()
        raise
    return runtime


def open_runtime(folder: Path, manifest: Manifest, threads: int = 1) -> Runtime:
    """Load an artifact, without a first call. Raises what `load_runtime` raises."""
    load = import_runtime(manifest)
    with _failures_explained(folder, manifest):
        runtime = load(folder, manifest, threads)
    return PieceByPiece(runtime, manifest.batch) if manifest.batch else runtime


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


def import_runtime(manifest: Manifest) -> LoadRuntime:
    """Import what runs artifacts of this format. Raises ModelUnavailable."""
    family = family_of(manifest.format)
    if family not in RUNTIMES:
        raise ModelUnavailable(f"No runtime runs {manifest.name}: {family!r} is not one of {', '.join(RUNTIMES)}.")
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
    """Zeros, or empty byte strings, in the shape of the manifest's inputs; every free size is `batch`."""
    return {
        spec.name: np.full(
            [batch if size is None else size for size in spec.shape],
            b"" if spec.dtype == "bytes" else 0,
            numpy_dtype(spec.dtype),
        )
        for spec in manifest.inputs
    }
