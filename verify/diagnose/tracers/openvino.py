"""OpenVINO: every value of the graph becomes an output of it.

Compiled with these outputs, the graph computes fewer layers in one go than the one that is served. `verify.diagnose`
checks that the answers are the service's.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import openvino
from numpy.typing import NDArray

from contract.manifest import Manifest
from verify.diagnose.tracers import Kept, Step, Trace, Values

FLOATS = ("f16", "bf16", "f32", "f64")


class OpenVINOTracer:
    """Traces `model.xml` on the CPU."""

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self._input = manifest.inputs[0].name
        core = openvino.Core()
        model = core.read_model((folder / "model.xml").read_bytes(), (folder / "model.bin").read_bytes())
        (entry,) = (op for op in model.get_parameters() if self._input in op.output(0).get_names())
        name = manifest.outputs[0].name
        (end,) = (op for op in model.get_results() if name in op.input_value(0).get_names())
        self._start, self._end = entry.get_friendly_name(), _source(end.input(0))
        self._ops = [op for op in model.get_ordered_ops() if op.get_type_name() not in ("Parameter", "Result")]
        model.add_outputs(
            [port for op in self._ops if not _is_constant(op) for port in op.outputs() if _is_float(port)]
        )
        self._places = {_source(result.input(0)): place for place, result in enumerate(model.get_results())}
        compiled = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        self._request = compiled.create_infer_request()

    def trace(self, images: Values, kept: Kept = None) -> Trace:
        self._request.infer({self._input: images})
        return Trace.of(self._steps(images, kept), self._start, self._end, len(images))

    def _steps(self, images: Values, kept: Kept) -> Iterator[Step]:
        yield Step(self._start, self._input, "input", (), images)
        for op in self._ops:
            inputs = tuple(map(_source, op.inputs()))
            for port in op.outputs():
                name, value = _name(port), None
                if name in self._places and (kept is None or name in kept):
                    value = np.array(self._request.get_output_tensor(self._places[name]).data)
                yield Step(name, _label(port), op.get_type_name(), inputs, value)

    def weights(self) -> Iterator[NDArray[Any]]:
        return (np.array(op.data) for op in self._ops if _is_constant(op))

    def close(self) -> None:
        """Nothing is held outside this process's memory."""


def _is_constant(op: Any) -> bool:
    return bool(op.get_type_name() == "Constant")


def _is_float(port: Any) -> bool:
    return port.get_element_type().get_type_name() in FLOATS


def _name(port: Any) -> str:
    """Unique in the graph: an operator's name, and the place of its output after the first."""
    name, place = port.get_node().get_friendly_name(), port.get_index()
    return f"{name}:{place}" if place else str(name)


def _source(port: Any) -> str:
    """The name of what flows into an input."""
    return _name(port.get_source_output())


def _label(port: Any) -> str:
    """The name that the tensor had in ONNX, where it had one there."""
    return "/".join(min(port.get_names(), default=_name(port)).removesuffix(":0").split("/")[-2:])
