"""OpenVINO on the CPU."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import openvino
from numpy.typing import NDArray

from contract.manifest import Manifest
from contract.tensors import Tensors
from serve.runtimes.whole_numbers import check_32_bits

TWICE = 64_000_000
"""Bytes of weights of which a process holds two compiled graphs; a larger model takes its time in any case."""


class OpenVINORuntime:
    """Runs `model.xml`: a graph compiled for one row, whose shapes are fixed, and another one for more."""

    platform = "openvino"
    in_process = True

    def __init__(self, folder: Path, manifest: Manifest, threads: int) -> None:
        self.title = f"OpenVINO {openvino.__version__.partition('-')[0]}"
        settings = {
            # By itself OpenVINO computes in bfloat16 where the processor can: other answers than the source's.
            "INFERENCE_PRECISION_HINT": "f32",
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,  # calls come one after the other
            "ENABLE_CPU_PINNING": False,  # several workers would be pinned to one core
        }
        core = openvino.Core()
        # OpenVINO maps a file that it gets by its path: the process would die when the file is overwritten.
        graph, weights = (folder / "model.xml").read_bytes(), (folder / "model.bin").read_bytes()
        model = core.read_model(graph, weights)
        self._any = _Graph(core.compile_model(model, "CPU", settings), manifest)
        self._one: _Graph | None = None
        if manifest.has_rows and len(weights) <= TWICE and any(port.partial_shape.is_dynamic for port in model.inputs):
            self._one = _for_one_row(core, model, manifest, settings)
        self._lock = threading.Lock()  # a request holds its tensors: one call at a time

    def predict(self, inputs: Tensors) -> Tensors:
        # A single value has no length: the graph for one row is there only where all tensors are of rows.
        graph = self._any
        if self._one is not None and all(len(value) == 1 for value in inputs.values()):
            graph = self._one
        with self._lock:
            return graph(inputs)

    def close(self) -> None:
        """Nothing is held outside this process's memory."""


class _Graph:
    """A compiled graph, and the one request that its calls use again."""

    def __init__(self, compiled: Any, manifest: Manifest) -> None:
        self._inputs = _places(compiled.inputs, [spec.name for spec in manifest.inputs])
        self._outputs = _places(compiled.outputs, [spec.name for spec in manifest.outputs])
        self._request = compiled.create_infer_request()
        # What OpenVINO's own `infer` calls after it has looked for inputs to convert, which takes as long as a layer.
        bare: Any = super(openvino.InferRequest, self._request)
        self._infer: Callable[[], Any]
        if any(port.get_element_type() == openvino.Type.string for port in compiled.outputs):
            # `infer` makes arrays of all answers, and fails on texts that are all empty.
            self._infer = lambda: (bare.start_async({}, None), bare.wait())
        else:
            self._infer = lambda: bare.infer({}, True, False)  # outputs are shared, texts stay as they are

    def __call__(self, inputs: Tensors) -> Tensors:
        request = self._request
        # A tensor of OpenVINO does not keep the memory that it shares: this list does, until the call is over.
        shared = [_shareable(name, inputs[name]) for name, _ in self._inputs]
        for (_, place), values in zip(self._inputs, shared, strict=True):
            request.set_input_tensor(place, _tensor(values))
        self._infer()
        # The next call's answers come into the same memory.
        return {name: _values(request.get_output_tensor(place)) for name, place in self._outputs}


def _for_one_row(core: Any, model: Any, manifest: Manifest, settings: dict[str, Any]) -> _Graph | None:
    """The graph with a batch of 1, or None where it cannot have it; this changes `model`."""
    shapes = {spec.name: [-1 if size is None else size for size in spec.shape_at(1)] for spec in manifest.inputs}
    try:
        model.reshape({name: openvino.PartialShape(shape) for name, shape in shapes.items()})
        return _Graph(core.compile_model(model, "CPU", settings), manifest)
    except RuntimeError:  # the other graph runs one row, too
        return None


def _places(ports: Any, names: list[str]) -> list[tuple[str, int]]:
    """The place of each tensor of these names. Raises StopIteration for a name that the graph does not have."""
    return [(name, next(place for place, port in enumerate(ports) if name in port.get_names())) for name in names]


def _tensor(values: NDArray[Any]) -> openvino.Tensor:
    """A tensor of the same memory; texts are copied, and OpenVINO has no array of objects."""
    if values.dtype == object:
        return openvino.Tensor(values.astype(bytes))
    return openvino.Tensor(values, shared_memory=True)


def _values(tensor: openvino.Tensor) -> NDArray[Any]:
    """A copy of a tensor's values: texts as `bytes` objects, as from every other runtime."""
    if tensor.get_element_type() != openvino.Type.string:
        numbers: NDArray[Any] = tensor.data.copy()
        return numbers
    texts: NDArray[Any] = tensor.bytes_data
    if texts.dtype.itemsize == 1 and (tensor.str_data == "").all():
        texts = np.zeros_like(texts)  # OpenVINO 2026.4 reads a byte of elsewhere for each where all texts are empty
    return texts.astype(object)


def _shareable(name: str, values: NDArray[Any]) -> NDArray[Any]:
    """The same memory, except where it is read-only, as a request's is, or a view: OpenVINO takes neither.

    Raises InputError for whole numbers beyond 32 bits, in which its processor plugin computes those of 64.
    """
    if values.dtype in (np.int64, np.uint64):
        check_32_bits(name, values, "OpenVINO")
    return np.require(values, requirements=("C", "W"))
