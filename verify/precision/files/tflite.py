"""A TF Lite file: its flatbuffer says dtypes and quantisation. What an operator computes in follows from its inputs."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from verify.precision.files import Constant, Contents

DTYPES = {code: name.lower() for name, code in vars(schema.TensorType).items() if not name.startswith("_")}
OPERATORS = {code: name for name, code in vars(schema.BuiltinOperator).items() if not name.startswith("_")}

MULTIPLYING = {
    "CONV_2D": 1, "DEPTHWISE_CONV_2D": 1, "CONV_3D": 1, "FULLY_CONNECTED": 1, "TRANSPOSE_CONV": 1, "BATCH_MATMUL": 1,
    "UNIDIRECTIONAL_SEQUENCE_LSTM": 2, "UNIDIRECTIONAL_SEQUENCE_RNN": 1,
}  # fmt: skip
"""Operator -> the place of its weights among its inputs."""
CASTS = ("QUANTIZE", "DEQUANTIZE", "CAST", "FAKE_QUANT")


def read(folder: Path) -> Contents:
    """Read `model.tflite`."""
    model: Any = schema.ModelT.InitFromObj(schema.Model.GetRootAs((folder / "model.tflite").read_bytes(), 0))
    operators = list(_operators(model))
    return Contents(
        inputs=_ends(model, "inputs"),
        outputs=_ends(model, "outputs"),
        constants=tuple(_constants(model)),
        activations=Counter(
            DTYPES[tensor.type] for graph in _graphs(model) for tensor in graph.tensors if not len(_data(model, tensor))
        ),
        computing=Counter(
            dtype for name, graph, operator in operators if (dtype := _computes_in(name, graph, operator))
        ),
        casts=sum(name in CASTS for name, _, _ in operators),
        inserted=0,
    )


def _graphs(model: Any) -> list[Any]:
    """The graphs of the first signature: further signatures are the same network for other batches."""
    others = {signature.subgraphIndex for signature in (model.signatureDefs or [])[1:]}
    return [graph for index, graph in enumerate(model.subgraphs) if index not in others]


def _operators(model: Any) -> Iterator[tuple[str, Any, Any]]:
    for graph in _graphs(model):
        for operator in graph.operators:
            code = model.operatorCodes[operator.opcodeIndex]
            yield OPERATORS[max(code.builtinCode, code.deprecatedBuiltinCode)], graph, operator


def _computes_in(name: str, graph: Any, operator: Any) -> str | None:
    """The dtype that an operator multiplies in; None for one that multiplies no matrices.

    With weights of int8 beside an activation of float32 the kernel quantises the activation at each call, and
    multiplies in int8. Weights that are dequantised first come as float32.
    """
    if name not in MULTIPLYING:
        return None
    entry = DTYPES[graph.tensors[operator.inputs[0]].type]
    weights = DTYPES[graph.tensors[operator.inputs[MULTIPLYING[name]]].type]
    return weights if entry == "float32" else "int8" if weights in ("int8", "int4") else entry


def _ends(model: Any, which: str) -> dict[str, str]:
    """Name -> dtype, of the first signature; of the first graph where there is none."""
    if model.signatureDefs:
        signature = model.signatureDefs[0]
        tensors = model.subgraphs[signature.subgraphIndex].tensors
        ends = {end.name.decode(): tensors[end.tensorIndex] for end in getattr(signature, which)}
    else:
        graph = model.subgraphs[0]
        ends = {graph.tensors[index].name.decode(): graph.tensors[index] for index in getattr(graph, which)}
    return {name: DTYPES[tensor.type] for name, tensor in ends.items()}


def _constants(model: Any) -> Iterator[Constant]:
    """Each buffer once: signatures share them."""
    known: set[int] = set()
    for graph in model.subgraphs:
        for tensor in graph.tensors:
            data, dtype = _data(model, tensor), DTYPES[tensor.type]
            if not len(data) or tensor.buffer in known:
                continue
            known.add(tensor.buffer)
            values = _values(bytes(data), dtype, tensor.shape)
            quantised: Any = tensor.quantization
            if quantised is None or quantised.scale is None or not len(quantised.scale):
                yield Constant(tensor.name.decode(), dtype, len(data), values)
                continue
            scale = np.asarray(quantised.scale, np.float64)
            zero = np.zeros(len(scale)) if quantised.zeroPoint is None else np.asarray(quantised.zeroPoint)
            axis = quantised.quantizedDimension
            yield Constant(tensor.name.decode(), dtype, len(data), values, scale, zero.astype(np.int64), axis)


def _values(data: bytes, dtype: str, shape: Any) -> np.ndarray[Any, Any]:
    """The stored values; of a dtype that NumPy does not have, the bytes."""
    if dtype == "int4":
        pairs = np.frombuffer(data, np.int8)
        values = np.stack([np.left_shift(pairs, 4) >> 4, pairs >> 4], axis=-1).ravel()
        return values[: int(np.prod(shape))].reshape(shape)
    if dtype in ("string", "resource", "variant") or not hasattr(np, dtype):
        return np.frombuffer(data, np.uint8)
    return np.frombuffer(data, dtype).reshape([] if shape is None else shape)


def _data(model: Any, tensor: Any) -> Any:
    data = model.buffers[tensor.buffer].data
    return b"" if data is None else data
