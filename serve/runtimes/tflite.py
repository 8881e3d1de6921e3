"""LiteRT (TensorFlow Lite) with XNNPACK."""

import importlib.metadata
import threading
from pathlib import Path

from ai_edge_litert.interpreter import Interpreter

from contract.manifest import Manifest
from serve.runtimes import Tensors


class LiteRTRuntime:
    """Runs the signature `batch1` for one row, which never resizes a tensor, and `serving_default` for more."""

    platform = "tensorflow_lite"
    in_process = True

    def __init__(self, folder: Path, manifest: Manifest, threads: int) -> None:
        self.title = f"LiteRT {importlib.metadata.version('ai-edge-litert')}"
        # Given a path, LiteRT maps the file: the process would die when somebody writes over it.
        content = (folder / "model.tflite").read_bytes()
        self._interpreter = Interpreter(model_content=content, num_threads=threads)
        self._any = self._interpreter.get_signature_runner("serving_default")
        self._one = self._interpreter.get_signature_runner("batch1")
        self._lock = threading.Lock()  # an interpreter holds its tensors: one call at a time

    def predict(self, inputs: Tensors) -> Tensors:
        one = all(len(value) == 1 for value in inputs.values())
        with self._lock:
            # A runner's outputs are copies: they stay as they are after the next call.
            return dict((self._one if one else self._any)(**inputs))

    def close(self) -> None:
        """Nothing is held outside this process's memory."""
