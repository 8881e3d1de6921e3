"""Pools whose window is wider than what it looks at: ONNX Runtime answers from what is there, other runtimes cannot.

ONNX says that such a pool has no answer. So sizes at which this happens are none that a model takes.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper

POOLS = ("MaxPool", "AveragePool", "LpPool")


class Windows:
    """The pools of a graph whose inputs have free sizes."""

    def __init__(self, model: ModelProto) -> None:
        self._pools = list(_pools(model)) if _has_free_sizes(model) else []

    def watched(self, model: ModelProto, prefix: str) -> ModelProto:
        """The model with the sizes of what its pools look at as outputs more, behind its own."""
        copy = ModelProto()
        copy.CopyFrom(model)
        for number, (node, _) in enumerate(self._pools):
            name = f"{prefix}sizes_{number}"
            copy.graph.node.append(helper.make_node("Shape", [node.input[0]], [name]))
            copy.graph.output.append(helper.make_tensor_value_info(name, TensorProto.INT64, None))
        return copy

    def check(self, sizes: Sequence[NDArray[Any]]) -> None:
        """`sizes` are the answers of those outputs. Raises ValueError for a window that is too wide."""
        for (node, widths), shape in zip(self._pools, sizes, strict=True):
            for size, width in zip(shape[2:], widths, strict=True):
                if size < width:
                    raise ValueError(
                        f"{node.op_type} {node.name} looks at {width} values at once, and there are {size}"
                    )


def _has_free_sizes(model: ModelProto) -> bool:
    """Whether a size is free besides the first of each input."""
    shapes = [value.type.tensor_type.shape.dim for value in model.graph.input]
    return any(not dim.dim_value for shape in shapes for dim in shape[1:])


def _pools(model: ModelProto) -> Iterator[tuple[NodeProto, Sequence[int]]]:
    """Each pool whose windows lie wholly in its input and its padding, and the values that they look at along each
    axis."""
    for node in model.graph.node:
        settings = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
        if node.op_type not in POOLS or settings.get("ceil_mode") or settings.get("auto_pad", b"NOTSET") != b"NOTSET":
            continue
        kernel = settings["kernel_shape"]
        steps = settings.get("dilations") or [1] * len(kernel)
        pads = settings.get("pads") or [0] * 2 * len(kernel)
        around = [first + last for first, last in zip(pads[: len(kernel)], pads[len(kernel) :], strict=True)]
        yield node, [(size - 1) * step + 1 - pad for size, step, pad in zip(kernel, steps, around, strict=True)]
