"""ONNX: every value of the graph becomes an output of it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import numpy_helper

from contract.manifest import Manifest
from verify.diagnose.tracers import Step, Trace, Values


class OnnxTracer:
    """Traces `model.onnx` in ONNX Runtime."""

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self._input, self._output = manifest.inputs[0].name, manifest.outputs[0].name
        self._model = onnx.load(folder / "model.onnx")
        graph = self._model.graph
        known = {value.name for value in graph.output}
        self._names = [name for node in graph.node for name in node.output if name]
        # ONNX Runtime infers their types.
        graph.output.extend(onnx.ValueInfoProto(name=name) for name in self._names if name not in known)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(
            self._model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )

    def trace(self, images: Values) -> Trace:
        values = dict(zip(self._names, self._session.run(self._names, {self._input: images}), strict=True))
        return Trace.of(self._steps(images, values), self._input, self._output, len(images))

    def _steps(self, images: Values, values: dict[str, Any]) -> Iterator[Step]:
        yield Step(self._input, self._input, "input", (), images)
        for node in self._model.graph.node:
            for name in filter(None, node.output):
                value = values[name] if isinstance(values[name], np.ndarray) else None  # sequences are lists
                yield Step(name, _label(name), node.op_type, tuple(node.input), value)

    def weights(self) -> Iterator[NDArray[Any]]:
        return map(numpy_helper.to_array, self._model.graph.initializer)

    def close(self) -> None:
        """Nothing is held outside this process's memory."""


def _label(name: str) -> str:
    return "/".join(name.removesuffix(":0").split("/")[-2:])
