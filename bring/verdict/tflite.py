"""TF Lite files, from their bytes: the operators, and whether the tables and buffers lie within the file."""

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ai_edge_litert import schema_py_generated as schema

from bring.verdict import operators
from bring.verdict.findings import Examination, Finding, few, mapped
from contract.wire import Bytes

CUSTOM = "custom:"
"""Before the name of a custom operator; the list has those that LiteRT itself has."""


def file(path: Path, max_bytes: int) -> Examination:
    """Judge a .tflite file. Raises ValueError, IndexError or struct.error if it is damaged."""
    data = mapped(path)
    model = schema.Model.GetRootAs(data, 0)
    codes = [_name(model.OperatorCodes(index)) for index in range(_count(model.OperatorCodesLength(), data))]
    _check_buffers(model, data)
    _check_graphs(model, data)
    findings = list(_of_operators(codes))
    if count := _count(model.ExternalBufferGroupsLength(), data):
        names = [(model.ExternalBufferGroups(index).Name() or b"").decode(errors="replace") for index in range(count)]
        findings.append(Finding(f"its weights lie in other files, {few(names)}. Convert it again as one file.", False))
    return Examination("tflite", findings, (path,))


def _name(code: Any) -> str:
    """The operator of a code, as LiteRT reads it: of the two fields for it, the higher number counts."""
    number = max(code.BuiltinCode(), code.DeprecatedBuiltinCode())
    if number == schema.BuiltinOperator.CUSTOM:
        return CUSTOM + (code.CustomCode() or b"").decode(errors="replace")
    return _builtin_names().get(number, f"number {number}")


@functools.cache
def _builtin_names() -> dict[int, str]:
    return {number: name for name, number in vars(schema.BuiltinOperator).items() if not name.startswith("_")}


def _check_buffers(model: Any, data: Bytes) -> None:
    for index in range(_count(model.BuffersLength(), data)):
        buffer = model.Buffers(index)
        start, length = buffer.Offset(), buffer.Size()
        if not buffer.DataIsNone():
            start, length = buffer._tab.Vector(buffer._tab.Offset(4)), buffer.DataLength()
        if not 0 <= start <= start + length <= len(data):
            raise ValueError(f"buffer {index} goes beyond the file")


def _check_graphs(model: Any, data: Bytes) -> None:
    count = 0
    for index in range(_count(model.SubgraphsLength(), data)):
        graph = model.Subgraphs(index)
        for each in range(_count(graph.TensorsLength(), data)):
            if graph.Tensors(each).Buffer() >= model.BuffersLength():
                raise ValueError(f"tensor {each} has no buffer")
        for each in range(_count(graph.OperatorsLength(), data)):
            count += 1
            if graph.Operators(each).OpcodeIndex() >= model.OperatorCodesLength():
                raise ValueError(f"operator {each} is unknown")
    if not count:
        raise ValueError("it has no operators")


def _of_operators(names: list[str]) -> Iterator[Finding]:
    listed = operators.purposes("tflite")
    custom = [name.removeprefix(CUSTOM) for name in names if name.startswith(CUSTOM) and name not in listed]
    yield from operators.findings(
        [name for name in names if name in listed or not name.startswith(CUSTOM)], "tflite", "LiteRT's"
    )
    if flex := [name for name in custom if name.startswith("Flex")]:
        yield Finding(
            f"its operators {few(flex)} are TensorFlow's (Flex), which neither LiteRT nor a browser runs. Convert "
            "it again with built-in operators only (TFLITE_BUILTINS), or bring the SavedModel.",
            False,
        )
    if others := [name for name in custom if not name.startswith("Flex")]:
        yield Finding(
            f"its custom operators {few(others)} are not LiteRT's own: the library that adds them is needed. "
            "Convert it again without them.",
            False,
        )


def _count(length: int, data: Bytes) -> int:
    """The length of a table of tables, with 4 bytes of offset for each. Raises ValueError for an impossible length."""
    if length * 4 > len(data):
        raise ValueError(f"a table of {length} entries goes beyond the file")
    return length
