"""Forms that ONNX Runtime alone takes, or takes otherwise than meant, written as every runtime takes them."""

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import ModelProto, TensorProto, helper, numpy_helper

from bring.readers.onnx_names import prefix_in

AXES_ARE_AN_INPUT_SINCE = 13
"""The opset in which Squeeze has its axes as an input."""


def mend(model: ModelProto) -> None:
    """Rewrite them in place; the answers stay the same, but for what each function says."""
    _free_negative_sizes(model)
    _take_probabilities_from_maps(model)
    _keep_rows(model)


def _free_negative_sizes(model: ModelProto) -> None:
    """Leave a size open that a file declares as -1, as PaddlePaddle's exporter does."""
    for value in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_value < 0:
                dim.ClearField("dim_value")


def _take_probabilities_from_maps(model: ModelProto) -> None:
    """Answer with the tensor of probabilities, where a file makes a list of maps from it: label -> probability.

    As scikit-learn's converter does by default. No other runtime has maps, and the tensor says the same.
    """
    graph = model.graph
    maps = {node.output[0]: node for node in graph.node if (node.domain, node.op_type) == ("ai.onnx.ml", "ZipMap")}
    for value in [value for value in graph.output if value.name in maps]:
        node = maps[value.name]
        graph.node.remove(node)
        graph.node.append(helper.make_node("Identity", node.input, node.output, name=node.name))
        labels = next(iter(node.attribute))
        sizes = [None, len(labels.ints) or len(labels.strings)]
        value.CopyFrom(helper.make_tensor_value_info(value.name, TensorProto.FLOAT, sizes))


def _keep_rows(model: ModelProto) -> None:
    """Name the axes of a Squeeze that has none, where it would remove the batch of a lone row together with them.

    PyTorch writes `squeeze()` so. The answer to one row is a list of one then, and not a single value.
    """
    graph = model.graph
    bare = [node for node in graph.node if node.op_type == "Squeeze" and len(node.input) < 2 and not node.attribute]
    if not bare or model.ByteSize() > onnx.checker.MAXIMUM_PROTOBUF:
        return
    known = {value.name: value for value in onnx.shape_inference.infer_shapes(model).graph.value_info}
    opset = next((used.version for used in model.opset_import if used.domain in ("", "ai.onnx")), 1)
    prefix = prefix_in(model)
    for number, node in enumerate(bare):
        axes = _lone_axes(known.get(node.input[0]))
        if not axes:
            continue
        if opset < AXES_ARE_AN_INPUT_SINCE:
            node.attribute.append(helper.make_attribute("axes", axes))
        else:
            name = f"{prefix}axes_{number}"
            graph.initializer.append(numpy_helper.from_array(np.array(axes, np.int64), name))
            node.input.append(name)


def _lone_axes(value: onnx.ValueInfoProto | None) -> Sequence[int]:
    """The axes of size 1 of a tensor whose first size alone is free; none for any other."""
    dims = value.type.tensor_type.shape.dim if value is not None else []
    sizes = [dim.dim_value for dim in dims]
    is_of_rows = bool(sizes) and not sizes[0] and all(sizes[1:])
    return [axis for axis, size in enumerate(sizes) if size == 1] if is_of_rows else []
