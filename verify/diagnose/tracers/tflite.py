"""TF Lite: LiteRT's own kernels, with every tensor preserved.

The delegate that the service uses (XNNPACK) computes several layers at once and does not keep the values between them,
so the trace is made without it. `verify.diagnose` checks that the answers are the service's.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter, OpResolverType
from numpy.typing import NDArray

from contract.manifest import Manifest
from verify.diagnose.tracers import Kept, Step, Trace, Values

OPERATORS = {code: name for name, code in vars(schema.BuiltinOperator).items() if not name.startswith("_")}


class TFLiteTracer:
    """Traces `model.tflite`: `batch1` for one picture and `serving_default` for more, as the runtime does.

    A file whose batch is fixed has only the first."""

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self._input, self._output = manifest.inputs[0].name, manifest.outputs[0].name
        content = (folder / "model.tflite").read_bytes()
        self._interpreter = Interpreter(
            model_content=content,
            experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
            experimental_preserve_all_tensors=True,
        )
        keys = [key for key in ("batch1", "serving_default") if key in self._interpreter.get_signature_list()]
        self._runners = {key: self._interpreter.get_signature_runner(key) for key in keys}
        # The interpreter lists the operators of its first subgraph only.
        self._model: Any = schema.ModelT.InitFromObj(schema.Model.GetRootAs(content, 0))

    def trace(self, images: Values, kept: Kept = None) -> Trace:
        key = "batch1" if len(images) == 1 else "serving_default"
        runner = self._runners[key]
        runner(**{self._input: _quantised(images, runner.get_input_details()[self._input])})
        signature = next(item for item in self._model.signatureDefs if item.signatureKey.decode() == key)
        ends = {end.name.decode(): end.tensorIndex for end in (*signature.inputs, *signature.outputs)}
        steps = self._steps(signature.subgraphIndex, ends[self._input], images, kept)
        return Trace.of(steps, f"{ends[self._input]}", f"{ends[self._output]}", len(images))

    def _steps(self, subgraph: int, start: int, images: Values, kept: Kept) -> Iterator[Step]:
        details = {detail["index"]: detail for detail in self._interpreter.get_tensor_details(subgraph)}
        yield Step(f"{start}", self._input, "input", (), images)
        for operator in self._model.subgraphs[subgraph].operators:
            code = self._model.operatorCodes[operator.opcodeIndex]
            op = OPERATORS[max(code.builtinCode, code.deprecatedBuiltinCode)]
            for index in map(int, operator.outputs):
                value = None
                if kept is None or f"{index}" in kept:
                    value = _dequantised(self._interpreter.get_tensor(index, subgraph), details[index])
                yield Step(f"{index}", _label(details[index]["name"]), op, tuple(map(str, operator.inputs)), value)

    def weights(self) -> Iterator[NDArray[Any]]:
        types = {code: name.lower() for name, code in vars(schema.TensorType).items() if not name.startswith("_")}
        for subgraph in self._model.subgraphs:
            for tensor in subgraph.tensors:
                data = self._model.buffers[tensor.buffer].data
                if data is not None and len(data) and hasattr(np, types[tensor.type]):
                    yield np.frombuffer(bytes(data), types[tensor.type]).reshape(tensor.shape)

    def close(self) -> None:
        """Nothing is held outside this process's memory."""


def _quantised(values: Values, detail: dict[str, Any]) -> NDArray[Any]:
    """As a file takes them whose inputs are whole numbers."""
    (scale, zero), dtype = detail["quantization"], np.dtype(detail["dtype"])
    if not scale or dtype.kind != "i":
        return values
    limits = np.iinfo(dtype)
    numbers: NDArray[Any] = np.clip(np.rint(values / np.float32(scale)) + zero, limits.min, limits.max).astype(dtype)
    return numbers


def _dequantised(value: NDArray[Any], detail: dict[str, Any]) -> NDArray[Any]:
    scale, zero = detail["quantization"]
    return (value.astype(np.float32) - zero) * np.float32(scale) if scale else value


def _label(name: str) -> str:
    """The name of a fused layer lists all that went into it, the last one first."""
    return "/".join(name.split(";")[0].split("/")[-2:])
