"""Sparse weights of a TF Lite file, written out: a pruned network keeps only what is not zero.

LiteRT fills them up itself, by the operator DENSIFY or in its kernels; tf2onnx takes what is kept for the whole tensor.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from tensorflow.lite.python import schema_py_generated as schema

from export.tflite_file import packed, unpacked

DENSIFY = schema.BuiltinOperator.DENSIFY


def without_sparse(content: bytes) -> bytes:
    """The file with every value of its weights, zeros too, and without DENSIFY; as it is where nothing is sparse."""
    model = unpacked(content)
    graphs = [] if model is None else model.subgraphs
    if not any(tensor.sparsity for graph in graphs for tensor in graph.tensors):
        return content
    codes = [max(code.builtinCode, code.deprecatedBuiltinCode) for code in model.operatorCodes]
    for graph in graphs:
        for tensor in graph.tensors:
            if tensor.sparsity:
                buffer = schema.BufferT()
                buffer.data = _whole(tensor, model.buffers[tensor.buffer].data)
                model.buffers.append(buffer)  # of its own: another tensor may have the same values
                tensor.buffer, tensor.sparsity = len(model.buffers) - 1, None
        fills = [operator for operator in graph.operators if codes[operator.opcodeIndex] == DENSIFY]
        for operator in fills:
            graph.tensors[operator.outputs[0]].buffer = graph.tensors[operator.inputs[0]].buffer
        graph.operators = [operator for operator in graph.operators if codes[operator.opcodeIndex] != DENSIFY]
    return packed(model)


def _whole(tensor: Any, data: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The bytes of the whole tensor, in the order of its axes.

    The values that are kept are the leaves of a tree, whose levels are the tensor's axes and those inside of blocks.
    Raises ValueError where a value is not of whole bytes, or there are fewer than the tree has leaves.
    """
    sparsity, shape = tensor.sparsity, [int(size) for size in tensor.shape]
    blocked = [] if sparsity.blockMap is None else [int(axis) for axis in sparsity.blockMap]
    places = np.zeros((1, len(shape)), np.int64)  # of each node, so far
    nodes = np.zeros(1, np.int64)  # their numbers in their level
    inside = {
        blocked[axis - len(shape)]: int(level.denseSize)
        for axis, level in zip(sparsity.traversalOrder, sparsity.dimMetadata, strict=True)
        if axis >= len(shape)
    }
    for axis, level in zip(sparsity.traversalOrder, sparsity.dimMetadata, strict=True):
        if level.format == schema.DimensionType.DENSE:
            counts = np.full(len(nodes), level.denseSize)
            steps = _counted(counts)
            nodes = np.repeat(nodes, counts) * level.denseSize + steps
        else:
            segments, indices = (
                np.asarray(part.values, np.int64) for part in (level.arraySegments, level.arrayIndices)
            )
            counts = segments[nodes + 1] - segments[nodes]
            nodes = np.repeat(segments[nodes], counts) + _counted(counts)
            steps = indices[nodes]
        places = np.repeat(places, counts, axis=0)
        if axis < len(shape):
            places[:, axis] += steps * inside.get(int(axis), 1)
        else:
            places[:, blocked[axis - len(shape)]] += steps
    values = np.asarray(data, np.uint8).reshape(-1, _bytes_of(tensor))
    whole = np.zeros((*shape, values.shape[1]), np.uint8)
    whole[tuple(places.T)] = values[nodes]
    return whole.reshape(-1)


def _counted(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """0, 1, 2, ... for each of the counts, one after the other."""
    ends = np.cumsum(counts)
    return np.arange(counts.sum()) - np.repeat(ends - counts, counts)


def _bytes_of(tensor: Any) -> int:
    """Of one value. Raises ValueError for a type of which several are in a byte, or that has no size."""
    types = schema.TensorType
    sizes = {types.FLOAT32: 4, types.FLOAT16: 2, types.INT32: 4, types.INT16: 2, types.INT8: 1, types.UINT8: 1}
    if tensor.type not in sizes:
        raise ValueError(f"The sparse tensor {tensor.name!r} has the type {tensor.type} of TF Lite, which is not read.")
    return sizes[tensor.type]
