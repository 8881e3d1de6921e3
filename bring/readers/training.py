"""Is a file a network in training? Then it normalises by the rows of its own call, or leaves out values by chance."""

from collections.abc import Mapping
from typing import Any

from onnx import ModelProto, helper, numpy_helper

from contract.errors import BroughtError


def refuse_program(program: Any) -> None:
    """Raises BroughtError where an operator of a torch.export.ExportedProgram computes as in training."""
    for module in program.graph_module.modules():
        for node in module.graph.nodes if hasattr(module, "graph") else ():
            schema: Any = getattr(node.target, "_schema", None)
            names = [argument.name for argument in schema.arguments] if schema else []
            values = {**dict(zip(names, node.args, strict=False)), **node.kwargs}
            if True in (values.get("training"), values.get("train")) and _has_effect(schema.name, values):
                operator = schema.name.rpartition("::")[2].strip("_")
                raise BroughtError(_refusal(operator, "Call model.eval() before torch.export.export."))


def _has_effect(operator: str, values: Mapping[str, Any]) -> bool:
    """Not so of a dropout of nothing, and of a normalisation that has no statistics to use instead."""
    if "batch_norm" in operator:
        return values.get("running_mean") is not None
    return all(values.get(name, True) for name in ("p", "dropout"))


def refuse_graph(model: ModelProto) -> None:
    """Raises BroughtError where a node of an ONNX model computes as in training."""
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    constants |= {
        node.output[0]: attribute.t
        for node in model.graph.node
        if node.op_type == "Constant"
        for attribute in node.attribute
        if attribute.name == "value"
    }
    for node in model.graph.node:
        settings = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
        is_training = node.op_type == "BatchNormalization" and settings.get("training_mode", 0) == 1
        if node.op_type == "Dropout" and len(node.input) > 2 and node.input[2] in constants:
            ratio = constants.get(node.input[1])
            is_nothing = ratio is not None and not numpy_helper.to_array(ratio).any()
            is_training = bool(numpy_helper.to_array(constants[node.input[2]]).any()) and not is_nothing
        if is_training:
            raise BroughtError(_refusal(node.op_type, "Export it for inference (PyTorch: after model.eval())."))


def _refusal(operator: str, advice: str) -> str:
    return (
        f"the model was exported in training mode: its {operator} computes from the rows of its own call, or by "
        f"chance, so its answers are not those of the trained network. {advice}"
    )
