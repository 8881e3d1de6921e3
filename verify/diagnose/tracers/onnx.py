"""ONNX: every value of the graph becomes an output of it."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import numpy_helper

from contract.manifest import Manifest
from verify.diagnose.tracers import Kept, Step, Trace, Values


class OnnxTracer:
    """Traces `model.onnx` in ONNX Runtime."""

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self._input, self._output = manifest.inputs[0].name, manifest.outputs[0].name
        self._model = onnx.load(folder / "model.onnx")
        graph = self._model.graph
        _put_in_order(graph)
        known = {value.name for value in graph.output}
        self._names = [name for node in graph.node for name in node.output if name]
        # ONNX Runtime infers their types.
        graph.output.extend(onnx.ValueInfoProto(name=name) for name in self._names if name not in known)
        self._session = _session(self._model)

    def trace(self, images: Values, kept: Kept = None) -> Trace:
        return self._run(self._session, {self._input: images}, kept)

    def with_values(self, images: Values, values: Mapping[str, Values], kept: Kept = None) -> Trace:
        changed = onnx.ModelProto()
        changed.CopyFrom(self._model)
        for node in changed.graph.node:
            node.output[:] = [f"{name} as it was" if name in values else name for name in node.output]
        sizes = {name: ["rows", *value.shape[1:]] for name, value in values.items()}
        changed.graph.input.extend(
            onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, size) for name, size in sizes.items()
        )
        ends = [value for value in changed.graph.output if value.name not in values]
        del changed.graph.output[:], changed.graph.value_info[:]
        changed.graph.output.extend(ends)
        return self._run(_session(changed), {self._input: images, **values}, kept)

    def in_training(self, images: Values) -> Trace | None:
        return None  # few graphs have a BatchNorm left, and this one's is as it was exported

    def named_weights(self) -> Mapping[str, NDArray[Any]]:
        arrays = {weight.name: numpy_helper.to_array(weight) for weight in self._model.graph.initializer}
        return {name: array for name, array in arrays.items() if array.dtype.kind == "f"}

    def with_weights(self, images: Values, weights: Mapping[str, NDArray[Any]], kept: Kept = None) -> Trace:
        changed = onnx.ModelProto()
        changed.CopyFrom(self._model)
        for weight in changed.graph.initializer:
            if weight.name in weights:
                array = weights[weight.name].astype(numpy_helper.to_array(weight).dtype)
                weight.CopyFrom(numpy_helper.from_array(array, weight.name))
        return self._run(_session(changed), {self._input: images}, kept)

    def _run(self, session: onnxruntime.InferenceSession, given: Mapping[str, Values], kept: Kept) -> Trace:
        names = [name for name in self._names if name not in given and (kept is None or name in kept)]
        names = [*dict.fromkeys([*names, self._output])] if self._output not in given else names
        values = {**dict(zip(names, session.run(names, dict(given)), strict=True)), **given}
        images = given[self._input]
        return Trace.of(self._steps(images, values), self._input, self._output, len(images))

    def _steps(self, images: Values, values: dict[str, Any]) -> Iterator[Step]:
        yield Step(self._input, self._input, "input", (), images)
        for node in self._model.graph.node:
            for name in filter(None, node.output):
                value = values.get(name)
                value = value if isinstance(value, np.ndarray) else None  # sequences are lists
                yield Step(name, _label(name), node.op_type, tuple(node.input), value)

    def weights(self) -> Iterator[NDArray[Any]]:
        return map(numpy_helper.to_array, self._model.graph.initializer)

    def close(self) -> None:
        """Nothing is held outside this process's memory."""


def _put_in_order(graph: onnx.GraphProto) -> None:
    """Each node after those whose outputs it takes: the float16 converter puts its casts last."""
    later = {name for node in graph.node for name in node.output}
    pending, ordered = list(graph.node), list[onnx.NodeProto]()
    while pending:
        left = []
        for node in pending:
            if later.isdisjoint(node.input):
                ordered.append(node)
                later.difference_update(node.output)
            else:
                left.append(node)
        if len(left) == len(pending):  # a circle, which its runtime refuses
            return
        pending = left
    del graph.node[:]
    graph.node.extend(ordered)


def _session(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def _label(name: str) -> str:
    return "/".join(name.removesuffix(":0").split("/")[-2:])
