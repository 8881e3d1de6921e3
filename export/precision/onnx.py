"""ONNX in reduced precision, by ONNX Runtime's quantiser."""

import logging
import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    matmul_nbits_quantizer,
    quantize_dynamic,
    quantize_static,
)
from onnxruntime.quantization.shape_inference import quant_pre_process
from onnxruntime.transformers.float16 import convert_float_to_float16

from contract.calibration import Calibration
from contract.errors import ExportError
from contract.manifest import Manifest
from contract.tensors import Tensors
from export.precision.repair import search

Table = NDArray[np.float64]

CONVERTERS = ("onnxruntime", "onnx")

KINDS = {"U8S8": QuantType.QUInt8, "S8S8": QuantType.QInt8}
"""Activations and weights of the two kinds of static quantisation. Which one is better depends on the processor: U8S8
saturates on AVX2 without VNNI, S8S8 has slower kernels on others."""

LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
"""Operators that multiply matrices: a layer has one."""
IN_FLOAT = ("Softmax", "LogSoftmax")
"""Operators whose probabilities would be steps of 1/256 in int8."""

BLOCK = 32
"""How many weights of a row share a scale in int4."""
QUANTISED = (
    "MatMulNBits",
    "QuantizeLinear",
    "DequantizeLinear",
    "MatMulInteger",
    "ConvInteger",
    "QLinearConv",
    "QLinearMatMul",
)
LARGEST_HALF = 65504.0

CALLS = 40
"""How often each kind is timed, one after the other."""
AS_CLOSE = 1.5
"""A kind is kept for its speed where its answers are at most so many times as far from the parent's as the other's."""


def half(parent: Path, manifest: Manifest, target: Path, rows: Calibration | None) -> Mapping[str, Any]:
    """Weights and operators in float16, between casts at inputs and outputs. Raises ExportError."""
    model = _float_model(parent, manifest)
    if large := _beyond_half(model):
        raise ExportError(
            f"The weight {large[0]} has the value {large[1]:.4g}, and float16 ends at {LARGEST_HALF:.0f}. "
            "Scale it in the source."
        )
    made = convert_float_to_float16(model, keep_io_types=True, disable_shape_infer=True)
    _sort_nodes(made.graph)  # the converter adds its casts at the end, which ONNX does not allow
    onnx.save(made, target / "model.onnx")
    return {}


def _sort_nodes(graph: GraphProto) -> None:
    """Put each node behind those whose values it takes, itself or in a graph inside it."""
    maker = {name: index for index, node in enumerate(graph.node) for name in node.output if name}
    after = {index: [maker[name] for name in _taken(node) if name in maker] for index, node in enumerate(graph.node)}
    nodes = [graph.node[index] for index in TopologicalSorter(after).static_order()]
    del graph.node[:]
    graph.node.extend(nodes)


def _taken(node: NodeProto) -> Iterator[str]:
    yield from node.input
    for attribute in node.attribute:
        for graph in (attribute.g, *attribute.graphs):
            for inner in graph.node:
                yield from _taken(inner)
            yield from (output.name for output in graph.output)


def dynamic(parent: Path, manifest: Manifest, target: Path, rows: Calibration | None) -> Mapping[str, Any]:
    """Weights in int8; activations are quantised at each call. Meant for recurrent networks and transformers."""
    with tempfile.TemporaryDirectory() as folder:
        prepared = _prepared(parent, manifest, Path(folder))
        quantize_dynamic(prepared, target / "model.onnx", per_channel=True, weight_type=QuantType.QInt8)
    _check_quantised(target / "model.onnx", manifest)
    return {}


def four_bits(parent: Path, manifest: Manifest, target: Path, rows: Calibration | None) -> Mapping[str, Any]:
    """Constant matrices of products in int4, in blocks of BLOCK with a scale each: for large ones, of transformers."""
    logging.getLogger(matmul_nbits_quantizer.__name__).setLevel(logging.WARNING)
    quantiser = matmul_nbits_quantizer.MatMulNBitsQuantizer(
        _float_model(parent, manifest), block_size=BLOCK, is_symmetric=True
    )
    quantiser.process()
    made = quantiser.model.model
    if not any(node.op_type == "MatMulNBits" for node in made.graph.node):
        raise ExportError(f"{manifest.name} has no product with a constant matrix (MatMul), so nothing becomes int4.")
    onnx.save(made, target / "model.onnx")
    return {}


def static(parent: Path, manifest: Manifest, target: Path, rows: Calibration | None) -> Mapping[str, Any]:
    """Weights and activations in int8, by QuantizeLinear and DequantizeLinear; the better of `KINDS` is kept.

    Where it loses too much, some layers stay in float: export/precision/repair.py.
    """
    assert rows is not None  # make_variant gives them where the precision is calibrated
    with tempfile.TemporaryDirectory() as folder:
        prepared = _prepared(parent, manifest, Path(folder))
        _check_ranges(prepared, manifest, rows)
        quantiser = _Static(prepared, Path(folder), manifest, rows)
        tried = quantiser.compared()
        kind = _better(tried)
        repair = search(quantiser.layers, partial(quantiser.kept, kind), partial(quantiser.loss_alone, kind))
        made = quantiser.made(kind, repair.in_float if repair else ())
        (target / "model.onnx").write_bytes(made.read_bytes())
    _check_quantised(target / "model.onnx", manifest)
    return {"kept": kind, "tried": tried} | ({"repair": repair.described()} if repair else {})


# --- The parent


def _float_model(parent: Path, manifest: Manifest) -> ModelProto:
    """The parent's graph. Raises ExportError where it is quantised already."""
    model = onnx.load(parent / "model.onnx")
    if quantised := sorted({node.op_type for node in model.graph.node} & {*QUANTISED}):
        raise ExportError(
            f"{manifest.name} is quantised already: it has {', '.join(quantised)}. Bring the float32 model."
        )
    # PyTorch's exporter leaves sizes that are wrong, on which shape inference stops.
    del model.graph.value_info[:]
    return model


def _check_quantised(path: Path, manifest: Manifest) -> None:
    """Raise ExportError where the quantiser left every weight as it was."""
    graph = onnx.load(path).graph
    if not any(tensor.data_type == onnx.TensorProto.INT8 for tensor in graph.initializer):
        operators = ", ".join(sorted({node.op_type for node in graph.node})[:10])
        raise ExportError(
            f"Nothing of {manifest.name} could be quantised: the quantiser knows no weights of its operators "
            f"({operators})."
        )


def _beyond_half(model: ModelProto) -> tuple[str, float] | None:
    """The name and the largest value of a weight that float16 cannot hold."""
    for tensor in model.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT:
            largest = float(np.abs(onnx.numpy_helper.to_array(tensor)).max(initial=0))
            if largest > LARGEST_HALF:
                return tensor.name, largest
    return None


def _prepared(parent: Path, manifest: Manifest, folder: Path) -> Path:
    """The parent with its sizes inferred and its normalisations folded into convolutions, as the quantiser wants it."""
    plain, prepared = folder / "plain.onnx", folder / "prepared.onnx"
    onnx.save(_float_model(parent, manifest), plain)
    quant_pre_process(plain, prepared, skip_symbolic_shape=True)
    return prepared


# --- Calibration


class _Feed(CalibrationDataReader):  # type: ignore[misc]
    """The rows, one at a time: a graph may have its batch fixed."""

    def __init__(self, rows: Calibration, manifest: Manifest) -> None:
        self._left = rows.batches(manifest.inputs, manifest.batch or 1)

    def get_next(self) -> Tensors | None:
        return next(self._left, None)


def _check_ranges(model: Path, manifest: Manifest, rows: Calibration) -> None:
    """Raise ExportError where the parent's answers to the calibration rows are not numbers."""
    if not all(np.isfinite(answers).all() for answers in _answers(_session(model), rows, manifest)):
        raise ExportError(
            f"{manifest.name} answers NaN or infinity to calibration rows ({rows.title}), so its activations have no "
            "ranges. Give rows like those that the model was trained on."
        )


class _Static:
    """Quantises one float graph in several ways, calibrates once, and compares the results with it."""

    def __init__(self, model: Path, folder: Path, manifest: Manifest, rows: Calibration) -> None:
        self._model, self._folder, self._manifest, self._rows = model, folder, manifest, rows
        graph = onnx.load(model).graph
        self.layers = [node.name for node in graph.node if node.op_type in LAYERS]
        """In the graph's order."""
        self._in_float = [node.name for node in graph.node if node.op_type in IN_FLOAT]
        self._in_float += [node.name for node in (*_before_the_first_layer(graph), *_after_the_last_layer(graph))]
        self._reference = self._answers(_session(model))
        self._number = 0

    def made(self, kind: str, in_float: Sequence[str] = (), only: Sequence[str] = ()) -> Path:
        """A file of this kind, with some layers in float, or with only some layers quantised."""
        self._number += 1
        target = self._folder / f"{self._number}.onnx"
        quantize_static(
            self._model,
            target,
            _Feed(self._rows, self._manifest),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=KINDS[kind],
            weight_type=QuantType.QInt8,
            nodes_to_quantize=[*only],
            nodes_to_exclude=[*self._in_float, *in_float],
            calibrate_method=CalibrationMethod.MinMax,
            calibration_cache_path=self._folder / "ranges.json",
        )
        return target

    def compared(self) -> dict[str, Any]:
        """Kind -> the median time of a call, and how far its answers to the rows are from the float graph's."""
        sessions = {kind: _session(self.made(kind)) for kind in KINDS}
        return {
            kind: {
                "seconds": float(f"{seconds:.3g}"),
                "mean_difference": float(f"{self._difference(sessions[kind]):.3g}"),
            }
            for kind, seconds in _times(sessions, self._manifest, self._rows).items()
        }

    def kept(self, kind: str, in_float: Sequence[str]) -> float:
        """The share of rows that keep their class; of answers that are not classes, the share of their variation."""
        answers = self._answers(_session(self.made(kind, in_float)))
        if self._manifest.has_classes:
            same = answers[0].argmax(axis=1) == self._reference[0].argmax(axis=1)
            return float(same.mean())
        return min(map(_variation_kept, self._reference, answers))

    def loss_alone(self, kind: str, layer: str) -> float:
        """How far the answers move when only this layer is quantised."""
        return self._difference(_session(self.made(kind, only=[layer])))

    def _difference(self, session: Any) -> float:
        parts = zip(self._answers(session), self._reference, strict=True)
        return float(np.mean([np.abs(mine - theirs).mean() for mine, theirs in parts]))

    def _answers(self, session: Any) -> list[Table]:
        return _answers(session, self._rows, self._manifest)


def _before_the_first_layer(graph: GraphProto) -> Iterator[NodeProto]:
    """What follows no layer, such as the scaling of pixels: in int8 ONNX Runtime takes twice as long for it."""
    below: set[str] = set()
    for node in graph.node:
        if node.op_type in LAYERS or below & {*_taken(node)}:
            below |= {*node.output}
        else:
            yield node


def _after_the_last_layer(graph: GraphProto) -> Iterator[NodeProto]:
    """What no layer follows: its values become answers, and with one scale small ones beside large ones would be 0."""
    above: set[str] = set()
    for node in reversed(graph.node):
        if node.op_type in LAYERS or above & {*node.output}:
            above |= {*_taken(node)}
        else:
            yield node


def _variation_kept(reference: Table, answers: Table) -> float:
    unit = np.maximum(reference.var(axis=0), np.finfo(np.float64).tiny)
    return float(1 - np.minimum(1, ((answers - reference) ** 2).mean(axis=0) / unit).mean())


# --- Which kind is better


def _better(tried: Mapping[str, Any]) -> str:
    """The fastest of those whose answers are about as close as the closest's."""
    closest = min(each["mean_difference"] for each in tried.values())
    close = [kind for kind, each in tried.items() if each["mean_difference"] <= AS_CLOSE * closest]
    return min(close, key=lambda kind: tried[kind]["seconds"])


def _session(path: Path) -> Any:
    """One thread, as runtimes are measured."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def _answers(session: Any, rows: Calibration, manifest: Manifest) -> list[Table]:
    """Each output as a table (rows, values)."""
    calls = [session.run(None, row) for row in rows.batches(manifest.inputs, manifest.batch or 1)]
    return [np.concatenate([_table(part) for part in parts]) for parts in zip(*calls, strict=True)]


def _table(part: NDArray[Any]) -> Table:
    return np.asarray(part, np.float64).reshape(len(part), -1)


def _times(sessions: Mapping[str, Any], manifest: Manifest, rows: Calibration) -> dict[str, float]:
    """Kind -> the median seconds of a call with one row; the kinds take turns."""
    times: dict[str, list[float]] = {kind: [] for kind in sessions}
    for row in _repeated(rows, manifest, CALLS):
        for kind, session in sessions.items():
            start = time.perf_counter()
            session.run(None, row)
            times[kind].append(time.perf_counter() - start)
    return {kind: statistics.median(each) for kind, each in times.items()}


def _repeated(rows: Calibration, manifest: Manifest, calls: int) -> Iterator[Tensors]:
    listed = list(rows.batches(manifest.inputs, manifest.batch or 1))
    yield from (listed[call % len(listed)] for call in range(calls))
