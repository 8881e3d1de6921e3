"""ExecuTorch on the CPU, whose programs leave most of their graph to XNNPACK."""

import importlib.metadata
import re
import threading
from pathlib import Path
from typing import Any

import numpy as np
import torch  # its libraries have to be there before ExecuTorch's

# `executorch.runtime`, which wraps this module, also imports all that converts: 3 s, and 130 MB of memory.
from executorch.extension.pybindings import _C

from contract.errors import InputError
from contract.executorch_program import BACKEND, calls
from contract.manifest import Manifest
from contract.tensors import Tensors
from serve.runtimes.silence import silent

VERSION = importlib.metadata.version("executorch")
METHOD = "forward"

CAUSES = {
    0x14: "it needs an operator that this version does not have",
    0x30: "its parts for XNNPACK were written by another version",
}
"""An error of ExecuTorch -> what it is, where a file has that error when it is loaded."""


class ExecuTorchRuntime:
    """Runs `model.pte`: up to the batch that it was written for at once, and more rows in pieces."""

    platform = "executorch"
    in_process = True

    def __init__(self, folder: Path, manifest: Manifest, threads: int) -> None:
        self.title = f"ExecuTorch {VERSION}"
        with silent():  # of which files of the system it looked for in vain
            if _C._threadpool_get_thread_count() != threads:
                _C._unsafe_reset_threadpool(threads)
        # A program points into these bytes. By its path ExecuTorch would map the file, which may be overwritten.
        self._data = (folder / "model.pte").read_bytes()
        self._method = _load(self._data)
        meta = self._method.method_meta()
        self._largest = {
            spec.name: tuple(meta.input_tensor_meta(place).sizes()) for place, spec in enumerate(manifest.inputs)
        }
        self._manifest = manifest
        self._rows = min(sizes[0] for sizes in self._largest.values()) if manifest.has_rows else 0
        own = {spec.batch_axis for spec in manifest.inputs} if manifest.has_rows else set()
        self._has_free = any(
            size is None and axis not in own for spec in manifest.inputs for axis, size in enumerate(spec.shape)
        )
        self._outputs = [spec.name for spec in manifest.outputs]
        self._lock = threading.Lock()  # a method has one place for its values: one call at a time

    def predict(self, inputs: Tensors) -> Tensors:
        if self._has_free:
            self._check(inputs)
        rows = self._manifest.rows_of(inputs)
        if not self._rows or rows <= self._rows:
            return self._call(inputs)
        starts = range(0, rows, self._rows)
        pieces = [self._call({name: value[at : at + self._rows] for name, value in inputs.items()}) for at in starts]
        return {name: np.concatenate([piece[name] for piece in pieces]) for name in self._outputs}

    def _call(self, inputs: Tensors) -> Tensors:
        # The same memory, except where it is read-only, as a request's is, or a view: PyTorch takes neither.
        shared = [torch.from_numpy(np.require(inputs[name], requirements=("C", "W"))) for name in self._largest]
        with self._lock:
            answers = self._method.call(shared, clone_outputs=False)
            # The next call's answers come into the same memory.
            return {name: answer.numpy().copy() for name, answer in zip(self._outputs, answers, strict=True)}

    def _check(self, inputs: Tensors) -> None:
        """Raise InputError where a size other than the rows is larger than the program has memory for."""
        start = 1 if self._rows else 0
        for name, largest in self._largest.items():
            shape = inputs[name].shape
            if any(size > most for size, most in zip(shape[start:], largest[start:], strict=True)):
                expected = ["any" if axis < start else most for axis, most in enumerate(largest)]
                raise InputError(
                    f"{self._manifest.name} takes the input {name!r} in sizes up to {expected}, and it has the shape "
                    f"{list(shape)}. Ask another format of this model."
                )

    def close(self) -> None:
        """Nothing is held outside this process's memory."""


def _load(data: bytes) -> Any:
    """The program's method. Raises ValueError or RuntimeError for one that cannot be run here.

    What is checked first ends the process in ExecuTorch itself: damaged bytes, and other backends.
    """
    others = [name for name in calls(data).backends if name != BACKEND]
    if others:
        raise ValueError(f"it is written for {', '.join(others)}, and only {BACKEND} is run here")
    try:
        program = _C._load_program_from_buffer(data, program_verification=_C.Verification.InternalConsistency)
        return program.load_method(METHOD)
    except RuntimeError as error:
        code = re.search(r"0x:?([0-9a-fA-F]+)", str(error))
        cause = CAUSES.get(int(code[1], 16)) if code else None
        raise RuntimeError(f"ExecuTorch {VERSION} cannot run it: {cause or error}") from error
