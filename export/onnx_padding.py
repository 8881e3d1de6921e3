"""Zeros around what a MaxPool of an ONNX graph reads, written so that ONNX Runtime keeps them.

ONNX Runtime 1.31 takes a Pad of zeros into the MaxPool behind it, whose own padding is minus infinity: where all the
neighbours are negative, the zeros were the largest (ResNet50V2: probabilities off by 0.85). It does so with zeros only.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

SMALLEST: dict[int, NDArray[Any]] = {
    TensorProto.FLOAT16: np.array(np.finfo(np.float16).smallest_subnormal),
    TensorProto.FLOAT: np.array(np.finfo(np.float32).tiny),
    TensorProto.DOUBLE: np.array(np.finfo(np.float32).tiny, np.float64),
}
"""What is padded instead of zero: too small to be seen in any answer. Whole numbers have no such thing."""


def keep_zeros_before_pooling(model: ModelProto) -> None:
    """Pad what MaxPool reads with the smallest number there is, where the network pads with zeros."""
    pooled = {node.input[0] for node in model.graph.node if node.op_type == "MaxPool"}
    pads = [node for node in model.graph.node if node.op_type == "Pad" and node.output[0] in pooled]
    if not pads:
        return
    inferred = onnx.shape_inference.infer_shapes(model).graph
    types = {value.name: value.type.tensor_type.elem_type for value in (*inferred.value_info, *inferred.input)}
    constants = _constants(model)
    for node in pads:
        smallest = SMALLEST.get(types.get(node.input[0], 0))
        if smallest is None or not _pads_with_zeros(node, constants):
            continue
        if len(node.input) == 1:  # before opset 11 attributes said how to pad
            _set(node, "value", float(smallest))
            continue
        name = f"smallest_{smallest.dtype}"
        node.input[:] = [*node.input[:2], name, *node.input[3:]]
        if name not in constants:
            constants[name] = smallest
            model.graph.initializer.append(numpy_helper.from_array(smallest, name))


def _constants(model: ModelProto) -> dict[str, Any]:
    values = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Constant":
            told = _attributes(node)
            if "value" in told:
                values[node.output[0]] = numpy_helper.to_array(told["value"])
            elif "value_float" in told:
                values[node.output[0]] = np.array(told["value_float"])
    return values


def _pads_with_zeros(node: NodeProto, constants: Mapping[str, Any]) -> bool:
    told = _attributes(node)
    if told.get("mode", b"constant") != b"constant":
        return False
    if len(node.input) == 1:
        return not told.get("value", 0.0)
    if len(node.input) == 2 or not node.input[2]:
        return True
    value = constants.get(node.input[2])
    return value is not None and not np.any(value)


def _attributes(node: NodeProto) -> dict[str, Any]:
    return {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}


def _set(node: NodeProto, name: str, value: float) -> None:
    for attribute in [attribute for attribute in node.attribute if attribute.name == name]:
        node.attribute.remove(attribute)
    node.attribute.append(helper.make_attribute(name, value))
