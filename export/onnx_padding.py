"""Zero padding before a MaxPool in an ONNX graph, written so that ONNX Runtime keeps it.

ONNX Runtime 1.31 fuses a Pad of zeros into the MaxPool behind it, whose own padding is minus infinity. Where all the
neighbours are negative, a zero should be the maximum (ResNet50V2: probabilities off by 0.85). Only zeros are fused.
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
"""What replaces zero as padding: too small to be seen in any answer. Integer types have no such value."""


def keep_zeros_before_pooling(model: ModelProto) -> None:
    """Pad the input of each MaxPool with the smallest positive number, where the network pads with zeros."""
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
        if len(node.input) == 1:  # before opset 11 the padding is in attributes
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
            attributes = _attributes(node)
            if "value" in attributes:
                values[node.output[0]] = numpy_helper.to_array(attributes["value"])
            elif "value_float" in attributes:
                values[node.output[0]] = np.array(attributes["value_float"])
    return values


def _pads_with_zeros(node: NodeProto, constants: Mapping[str, Any]) -> bool:
    attributes = _attributes(node)
    if attributes.get("mode", b"constant") != b"constant":
        return False
    if len(node.input) == 1:
        return not attributes.get("value", 0.0)
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
