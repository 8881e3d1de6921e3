"""Reciprocals of square roots in TF Lite, where the number may be zero.

TF Lite's converter makes one operator, RSQRT, of 1 / sqrt(x), and of x / sqrt(y) as well. XNNPACK, which runs it,
answers NaN at 0 and below 1e-38, and half as much again at 1e38. So UnitNormalization of a row of zeros is NaN. A root
and a division give infinity, as every other runtime does.
"""

from typing import Any

import numpy as np
from tensorflow.lite.python import schema_py_generated as schema

from export.tflite_file import packed, unpacked

SMALLEST = 1e-30
"""What a constant that is added below the root has to be at least, so that RSQRT stays: it is the faster one."""


def with_roots(content: bytes) -> bytes:
    """The file with a root and a division in place of each RSQRT of fractions that nothing keeps above zero."""
    model = unpacked(content)
    if model is None:
        return content
    codes = [max(code.builtinCode, code.deprecatedBuiltinCode) for code in model.operatorCodes]
    if schema.BuiltinOperator.RSQRT not in codes:
        return content
    changed = [_written_out(model, graph, codes) for graph in model.subgraphs]
    return packed(model) if any(changed) else content


def _written_out(model: Any, graph: Any, codes: list[int]) -> bool:
    """Write out the operators of one graph; whether there were any."""
    makers = {int(tensor): operator for operator in graph.operators for tensor in operator.outputs}
    operators = []
    for operator in graph.operators:
        is_one = codes[operator.opcodeIndex] == schema.BuiltinOperator.RSQRT
        if not is_one or not _may_be_zero(model, graph, int(operator.inputs[0]), makers, codes):
            operators.append(operator)
            continue
        (number,), (result,) = operator.inputs, operator.outputs
        root = _tensor(graph, "root", graph.tensors[result].shape, graph.tensors[result].shapeSignature)
        one = _tensor(graph, "one", [], None, _buffer(model, np.ones(1, np.float32)))
        operators.append(_operator(model, codes, schema.BuiltinOperator.SQRT, [number], [root]))
        division = _operator(model, codes, schema.BuiltinOperator.DIV, [one, root], [result])
        division.builtinOptionsType, division.builtinOptions = schema.BuiltinOptions.DivOptions, schema.DivOptionsT()
        operators.append(division)
    is_changed = len(operators) > len(graph.operators)
    graph.operators = operators
    return is_changed


def _may_be_zero(model: Any, graph: Any, number: int, makers: dict[int, Any], codes: list[int]) -> bool:
    """Whether it is a tensor of fractions, and no positive constant is added to it, or is its least value."""
    if graph.tensors[number].type != schema.TensorType.FLOAT32:
        return False
    maker = makers.get(number)
    if maker is None or codes[maker.opcodeIndex] not in (schema.BuiltinOperator.ADD, schema.BuiltinOperator.MAXIMUM):
        return True
    constants = (model.buffers[graph.tensors[place].buffer].data for place in maker.inputs)
    return not any(
        constant is not None and len(constant) and bool((_floats(constant) >= SMALLEST).all()) for constant in constants
    )


def _floats(data: Any) -> Any:
    return np.asarray(data, np.uint8).view(np.float32)


def _operator(model: Any, codes: list[int], code: int, inputs: list[int], outputs: list[int]) -> Any:
    if code not in codes:
        known = schema.OperatorCodeT()
        known.builtinCode, known.deprecatedBuiltinCode, known.version = code, code, 1
        model.operatorCodes.append(known)
        codes.append(code)
    operator = schema.OperatorT()
    operator.opcodeIndex, operator.inputs, operator.outputs = codes.index(code), inputs, outputs
    return operator


def _tensor(graph: Any, name: str, shape: Any, signature: Any, buffer: int = 0) -> int:
    """The number of a new tensor of fractions; buffer 0 is for what is computed."""
    tensor = schema.TensorT()
    tensor.name, tensor.shape, tensor.shapeSignature = f"{name}_{len(graph.tensors)}", shape, signature
    tensor.type, tensor.buffer = schema.TensorType.FLOAT32, buffer
    graph.tensors.append(tensor)
    return len(graph.tensors) - 1


def _buffer(model: Any, values: Any) -> int:
    buffer = schema.BufferT()
    buffer.data = values.view(np.uint8)
    model.buffers.append(buffer)
    return len(model.buffers) - 1
