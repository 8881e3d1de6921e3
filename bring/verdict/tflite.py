"""TF Lite files, from their bytes: the operators, and whether the tables and buffers lie within the file."""

from pathlib import Path

from ai_edge_litert import schema_py_generated as schema

from bring.verdict.findings import Examination, Finding, few

RUNTIMES_OWN = {"TFLite_Detection_PostProcess", "Mfcc", "AudioSpectrogram", "NumericVerify"}
"""Custom operators that LiteRT itself has."""


def file(path: Path, max_bytes: int) -> Examination:
    """Judge a .tflite file. Raises ValueError, IndexError or struct.error if it is damaged."""
    data = path.read_bytes()
    model = schema.Model.GetRootAs(data, 0)
    custom = []
    for index in range(_count(model.OperatorCodesLength(), data)):
        code = model.OperatorCodes(index)
        if max(code.BuiltinCode(), code.DeprecatedBuiltinCode()) == schema.BuiltinOperator.CUSTOM:
            custom.append((code.CustomCode() or b"").decode(errors="replace"))
    for index in range(_count(model.BuffersLength(), data)):
        buffer = model.Buffers(index)
        start, length = buffer.Offset(), buffer.Size()
        if not buffer.DataIsNone():
            start, length = buffer._tab.Vector(buffer._tab.Offset(4)), buffer.DataLength()
        if not 0 <= start <= start + length <= len(data):
            raise ValueError(f"buffer {index} goes beyond the file")
    operators = 0
    for index in range(_count(model.SubgraphsLength(), data)):
        graph = model.Subgraphs(index)
        for each in range(_count(graph.TensorsLength(), data)):
            if graph.Tensors(each).Buffer() >= model.BuffersLength():
                raise ValueError(f"tensor {each} has no buffer")
        for each in range(_count(graph.OperatorsLength(), data)):
            operators += 1
            if graph.Operators(each).OpcodeIndex() >= model.OperatorCodesLength():
                raise ValueError(f"operator {each} is unknown")
    if not operators:
        raise ValueError("it has no operators")
    findings = []
    if flex := [name for name in custom if name.startswith("Flex")]:
        findings.append(
            Finding(
                f"its operators {few(flex)} are TensorFlow's (Flex), which neither LiteRT nor a browser runs. Convert "
                "it again with built-in operators only (TFLITE_BUILTINS), or bring the SavedModel.",
                False,
            )
        )
    if others := [name for name in custom if not name.startswith("Flex") and name not in RUNTIMES_OWN]:
        findings.append(
            Finding(
                f"its custom operators {few(others)} are not LiteRT's own: the library that adds them is needed. "
                "Convert it again without them.",
                False,
            )
        )
    return Examination("tflite", findings, (path,))


def _count(length: int, data: bytes) -> int:
    """The length of a table of tables, with 4 bytes of offset for each. Raises ValueError for an impossible length."""
    if length * 4 > len(data):
        raise ValueError(f"a table of {length} entries goes beyond the file")
    return length
