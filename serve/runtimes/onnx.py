"""ONNX Runtime on the CPU."""

from pathlib import Path

import onnxruntime

from contract.manifest import Manifest
from serve.runtimes import Tensors


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
        return dict(zip(self._outputs, self._session.run(self._outputs, dict(inputs)), strict=True))

    def close(self) -> None:
        """Nothing is held outside this process's memory."""
