"""An ONNX file: its protobuf says dtypes and quantisation. What computes in them, the runtime decides when it loads it:
so its optimised graph is read too."""

import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, numpy_helper

from verify.precision.files import Constant, Contents

INTEGER = {
    "QLinearConv", "QLinearMatMul", "QGemm", "QAttention", "ConvInteger", "MatMulInteger", "MatMulIntegerToFloat",
    "DynamicQuantizeMatMul", "DynamicQuantizeLSTM",
}  # fmt: skip
"""Operators that multiply integers."""
REAL = {
    "Conv", "ConvTranspose", "FusedConv", "Gemm", "FusedGemm", "MatMul", "FusedMatMul", "LSTM", "GRU", "RNN",
    "Attention", "MultiHeadAttention",
}  # fmt: skip
"""Operators that multiply in the dtype of their inputs."""
HALF_OF_FOUR_BITS = 8
"""The stored value that stands for 0."""
FROM_FOUR_BITS = {"MatMulNBits"}
"""Operators that make float32 of weights of few bits before they multiply."""
QUANTISED = {*INTEGER, *FROM_FOUR_BITS, "QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear"}
CASTS = {"Cast", "QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear"}


def read(folder: Path) -> Contents:
    """Read `model.onnx`, and what ONNX Runtime makes of it on this processor."""
    model = onnx.load(folder / "model.onnx")
    loaded = _as_loaded(folder / "model.onnx")
    return Contents(
        inputs={value.name: _name(value.type.tensor_type.elem_type) for value in model.graph.input},
        outputs={value.name: _name(value.type.tensor_type.elem_type) for value in model.graph.output},
        constants=(*_constants(model), *_folded(folder / "model.onnx", model)),
        activations=Counter(_activations(model)),
        computing=Counter(_computing(loaded)),
        casts=_casts(model.graph),
        inserted=_casts(loaded.graph) - _casts(model.graph),
        faults=tuple(_unequal_pairs(model.graph)),
    )


def _folded(path: Path, model: ModelProto) -> Iterator[Constant]:
    """Of a float32 file, the weights that the quantiser finds: with what is multiplied and added behind them."""
    names = {tensor.name for tensor in model.graph.initializer}
    if any(node.op_type in QUANTISED for node in model.graph.node):
        return
    for tensor in _as_loaded(path, onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC).graph.initializer:
        if tensor.name not in names and tensor.data_type == TensorProto.FLOAT:
            yield Constant(f"{tensor.name}, folded", "float32", 0, numpy_helper.to_array(tensor))


def _as_loaded(path: Path, level: Any = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL) -> ModelProto:
    """The graph as ONNX Runtime executes it, or as it is at a lower level of optimisation."""
    with tempfile.TemporaryDirectory() as folder:
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = level
        options.optimized_model_filepath = f"{folder}/loaded.onnx"
        options.log_severity_level = 4  # it warns that such a file is for this processor alone, as it is meant
        onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        return onnx.load(options.optimized_model_filepath)


def _name(code: int) -> str:
    """`float32`, as manifests spell it."""
    if code == TensorProto.STRING:
        return "bytes"
    name = str(TensorProto.DataType.Name(code)).lower()
    return {"float": "float32", "double": "float64"}.get(name, name)


def _casts(graph: GraphProto) -> int:
    return sum(node.op_type in CASTS for node in graph.node)


def _computing(model: ModelProto) -> Iterator[str]:
    """The dtype of each operator that multiplies matrices."""
    dtypes = {tensor.name: _name(tensor.data_type) for tensor in model.graph.initializer}
    dtypes |= {value.name: _name(value.type.tensor_type.elem_type) for value in _values(model.graph)}
    for node in model.graph.node:
        if node.op_type in INTEGER:
            yield "int8"
        elif node.op_type in REAL:
            known = [dtypes[name] for name in node.input[:2] if name in dtypes]
            yield known[-1] if known else "float32"
        elif node.op_type in FROM_FOUR_BITS:
            yield "float32"
        _follow(node, dtypes)


def _follow(node: NodeProto, dtypes: dict[str, str]) -> None:
    """Note the dtype of what a node makes: a cast's own, a quantiser's, otherwise that of its first input."""
    attributes = {attribute.name: attribute for attribute in node.attribute}
    if node.op_type == "Cast":
        made = _name(attributes["to"].i)
    elif node.op_type == "QuantizeLinear":
        made = dtypes.get(node.input[2], "uint8") if len(node.input) > 2 else "uint8"
    elif node.op_type == "DequantizeLinear":
        made = dtypes.get(node.input[1], "float32")
    elif node.op_type == "DynamicQuantizeLinear":
        made = "uint8"
    else:
        made = next((dtypes[name] for name in node.input if name in dtypes), "float32")
    for name in node.output:
        dtypes.setdefault(name, made)


def _values(graph: GraphProto) -> Iterator[Any]:
    yield from (*graph.input, *graph.output, *graph.value_info)


def _activations(model: ModelProto) -> Iterator[str]:
    """The dtype of each tensor that a node makes and that is not a restored constant."""
    constants = {tensor.name for tensor in model.graph.initializer}
    inferred = onnx.shape_inference.infer_shapes(model).graph
    dtypes = {tensor.name: _name(tensor.data_type) for tensor in model.graph.initializer}
    dtypes |= {value.name: _name(value.type.tensor_type.elem_type) for value in _values(inferred)}
    for node in model.graph.node:
        _follow(node, dtypes)
        if not (node.op_type == "DequantizeLinear" and node.input[0] in constants):
            yield from (dtypes[name] for name in node.output if name)


def _constants(model: ModelProto) -> Iterator[Constant]:
    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    quantised = dict(_quantisations(model.graph, arrays))
    packed = {node.input[1]: node for node in model.graph.node if node.op_type in FROM_FOUR_BITS}
    for tensor in model.graph.initializer:
        if tensor.name in packed:
            yield _unpacked(packed[tensor.name], arrays)
            continue
        values = arrays[tensor.name]
        dtype = _name(tensor.data_type)
        size = -(-values.size // 2) if dtype in ("int4", "uint4") else values.nbytes
        scale, zero, axis = quantised.get(tensor.name, (None, None, 0))
        yield Constant(tensor.name, dtype, size, values, scale, zero, axis)


def _unpacked(node: NodeProto, arrays: Mapping[str, Any]) -> Constant:
    """The matrix of a MatMulNBits as it multiplies, (K, N): stored are rows of N, in blocks, two weights a byte."""
    settings = {attribute.name: attribute.i for attribute in node.attribute}
    name, rows, columns = node.input[1], settings["K"], settings["N"]
    stored, scales = arrays[name], arrays[node.input[2]]
    pairs = np.stack([stored & 15, stored >> 4], axis=-1).reshape(columns, -1)[:, :rows]
    steps = np.repeat(np.asarray(scales, np.float64).reshape(columns, -1), settings["block_size"], axis=1)[:, :rows]
    return Constant(name, "int4", stored.nbytes, pairs.T.astype(np.int8), steps.T, np.array([HALF_OF_FOUR_BITS]))


def _quantisations(graph: GraphProto, arrays: Mapping[str, Any]) -> Iterator[tuple[str, tuple[Any, Any, int]]]:
    """Constant's name -> (scale, zero point, axis), where a node restores it or multiplies by it."""
    for node in graph.node:
        if node.op_type == "DequantizeLinear" and node.input[0] in arrays and node.input[1] in arrays:
            zero = arrays.get(node.input[2]) if len(node.input) > 2 else None
            axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 1)
            yield node.input[0], _quantisation(arrays[node.input[1]], zero, axis)


def _quantisation(scale: Any, zero: Any, axis: int) -> tuple[Any, Any, int]:
    scales = np.asarray(scale, np.float64).ravel()
    zeros = np.zeros(1, np.int64) if zero is None else np.asarray(zero).astype(np.int64).ravel()
    return scales, zeros, axis


def _unequal_pairs(graph: GraphProto) -> Iterator[str]:
    """Activations that are restored with another scale or zero point than they were quantised with."""
    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    made = {node.output[0]: node for node in graph.node if node.op_type == "QuantizeLinear"}
    for node in graph.node:
        if node.op_type != "DequantizeLinear" or node.input[0] not in made:
            continue
        pair = made[node.input[0]]
        for place, what in ((1, "scale"), (2, "zero point")):
            before, after = (arrays.get(each.input[place]) if len(each.input) > place else 0 for each in (pair, node))
            if before is not None and after is not None and not np.array_equal(before, after):
                yield (f"{pair.input[0]} is quantised with the {what} {before} and restored with {after}")
