"""ONNX Runtime on the CPU."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from contract.errors import InputError
from contract.manifest import Manifest
from contract.tensors import Tensors


class OnnxRuntime:
    """Runs `model.onnx`; a session may be called from several threads at once."""

    platform = "onnxruntime_onnx"
    in_process = True

    def __init__(self, folder: Path, manifest: Manifest, threads: int) -> None:
        self.title = f"ONNX Runtime {onnxruntime.__version__}"
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1  # the graph is a chain: nothing runs side by side
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(folder / "model.onnx", options, providers=["CPUExecutionProvider"])
        self._outputs = [spec.name for spec in manifest.outputs]

    def predict(self, inputs: Tensors) -> Tensors:
        outputs = self._session.run(self._outputs, dict(_with_texts(inputs, _as_text)))
        return _with_texts(dict(zip(self._outputs, outputs, strict=True)), str.encode)

    def close(self) -> None:
        """Nothing is held outside this process's memory."""


def _with_texts(tensors: Tensors, convert: Callable[[Any], Any]) -> Tensors:
    """Byte strings converted one by one: ONNX Runtime takes and returns `str` where the protocol has bytes."""
    if all(array.dtype != object for array in tensors.values()):
        return tensors
    each = np.frompyfunc(convert, 1, 1)
    return {name: each(array) if array.dtype == object else array for name, array in tensors.items()}


def _as_text(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise InputError(f"ONNX Runtime takes byte strings that are UTF-8 text, got {data[:40]!r}.") from None
