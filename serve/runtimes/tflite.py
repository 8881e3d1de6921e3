"""LiteRT (TensorFlow Lite) with XNNPACK."""

import importlib.metadata
import threading
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from ai_edge_litert.interpreter import Interpreter
from numpy.typing import NDArray

from contract.manifest import Manifest
from contract.tensors import Tensors


class LiteRTRuntime:
    """Runs the signature `batch1` for one row, which never resizes a tensor, and `serving_default` for more."""

    platform = "tensorflow_lite"
    in_process = True

    def __init__(self, folder: Path, manifest: Manifest, threads: int) -> None:
        self.title = f"LiteRT {importlib.metadata.version('ai-edge-litert')}"
        # LiteRT maps a file that it gets by its path: the process would die when the file is overwritten.
        content = (folder / "model.tflite").read_bytes()
        self._interpreter = Interpreter(model_content=content, num_threads=threads)
        known = self._interpreter.get_signature_list()
        self._any, self._one = (self._runner(name, known) for name in ("serving_default", "batch1"))
        self._allocated = False
        self._lock = threading.Lock()  # an interpreter holds its tensors: one call at a time

    def predict(self, inputs: Tensors) -> Tensors:
        one = all(len(value) == 1 for value in inputs.values())
        with self._lock:
            # A runner's outputs are copies: they stay as they are after the next call.
            return dict((self._one if one else self._any)(**inputs))

    def _runner(self, name: str, known: Collection[str]) -> Callable[..., Tensors]:
        """A user's file may have other signatures than ours, or none."""
        if not known:
            return self._without_signature
        runner: Callable[..., Tensors] = self._interpreter.get_signature_runner(
            name if name in known else next(iter(known))
        )
        return runner

    def _without_signature(self, **inputs: NDArray[Any]) -> Tensors:
        details = self._interpreter.get_input_details()
        changed = [detail for detail in details if tuple(detail["shape"]) != inputs[detail["name"]].shape]
        for detail in changed:
            self._interpreter.resize_tensor_input(detail["index"], inputs[detail["name"]].shape)
        if changed or not self._allocated:
            self._interpreter.allocate_tensors()
            self._allocated = True
        for detail in details:
            self._interpreter.set_tensor(detail["index"], inputs[detail["name"]])
        self._interpreter.invoke()
        outputs = self._interpreter.get_output_details()
        return {detail["name"]: self._interpreter.get_tensor(detail["index"]) for detail in outputs}

    def close(self) -> None:
        """Nothing is held outside this process's memory."""
