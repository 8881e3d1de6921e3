"""ONNX's operators in TensorFlow, one by one: a graph keeps its own order of axes, and no layout is guessed.

onnx2tf turns a whole graph from NCHW to NHWC, and gives up, or goes wrong, where it loses track of an axis. Here only
convolutions, pools and resizing see their channels last, and a tensor is permuted only where an operator needs it.

graph.py walks through a graph, values.py holds what flows in it, and each other file translates a family of operators.
"""

from onnx import ModelProto

from export.onnx_operators import (
    boxes,
    control,
    elementwise,
    quantised,
    recurrent,
    resize,
    scans,
    shapes,
    sums,
    tabular,
    windows,
)
from export.onnx_operators.graph import Handler, Translation

OPERATORS: dict[str, Handler] = {
    **elementwise.OPERATORS, **shapes.OPERATORS, **sums.OPERATORS, **windows.OPERATORS, **resize.OPERATORS,
    **recurrent.OPERATORS, **quantised.OPERATORS, **control.OPERATORS, **scans.OPERATORS, **boxes.OPERATORS,
    **tabular.OPERATORS,
}  # fmt: skip
"""ONNX's name of an operator -> its translation."""

KEEP = frozenset({*elementwise.OPERATORS, *windows.OPERATORS}) | shapes.KEEP | sums.KEEP | resize.KEEP | recurrent.KEEP
"""Operators that take values as they are held, and not only in ONNX's own order of axes."""


def translation(model: ModelProto) -> Translation:
    """The graph as a function of TensorFlow. Raises ExportError for operators that have no translation."""
    return Translation(model, OPERATORS, KEEP)
