"""Operators that TF.js does not have, or does not have as TensorFlow means them, by others that it has."""

from typing import Any

from export.sizes import is_of_sizes, is_whole
from export.tfjs_gathers import is_gather_by_rows, write_out


def without_missing_operators(graph: Any) -> Any:
    """The graph without operators that TF.js does not have, or not for the types that it uses here."""
    import tensorflow as tf

    definition = graph.as_graph_def()
    complements = [node for node in definition.node if node.op == "Erfc"]
    booleans = [node for node in definition.node if "T" in node.attr and node.attr["T"].type == tf.bool]
    masks = [node for node in booleans if node.op in NUMBERS_ONLY]
    cuts = [node for node in definition.node if node.op == "TruncateDiv"]
    for node in cuts:
        _by_floor_division(definition, node)
    picks = [node for node in definition.node if node.op == "ReverseSequence" or is_gather_by_rows(node)]
    divisions = [node for node in definition.node if _may_divide_large_numbers(definition, node)]
    if not any((complements, masks, cuts, divisions, picks)):
        return graph
    for node in complements:
        _by_erf(definition, node)
    for node in masks:
        _by_numbers(definition, node)
    for node in divisions:
        _by_a_second_step(definition, node)
    for node in picks:
        write_out(graph, definition, node)
    with tf.Graph().as_default() as rewritten:
        tf.graph_util.import_graph_def(definition, name="")
    return rewritten


def _by_erf(definition: Any, node: Any) -> None:
    """Replace Erfc, with which TensorFlow computes GELU, by 1 - Erf."""
    erf = definition.node.add()
    erf.CopyFrom(node)
    erf.op, erf.name = "Erf", f"{node.name}/erf"
    node.op, node.input[:] = "Sub", [_constant(definition, node, "one", 1, erf.name), erf.name]


def _constant(definition: Any, node: Any, name: str, value: int, beside: str) -> str:
    """A constant of the node's type, in the same loop as the node `beside`, if that is in one; its name."""
    import tensorflow as tf

    constant = definition.node.add(name=f"{node.name}/{name}", op="Const", input=[f"^{beside}"])
    constant.attr["dtype"].CopyFrom(node.attr["T"])
    constant.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(value, node.attr["T"].type))
    return str(constant.name)


NUMBERS_ONLY = {"ReverseV2": (0,), "StridedSlice": (0,), "MatrixBandPart": (0,), "OneHot": (2, 3)}
"""Operators that TF.js runs on numbers alone -> the inputs of theirs that may be booleans."""


def _by_numbers(definition: Any, node: Any) -> None:
    """Compute booleans as integers: the WebAssembly backend reads four bytes of each value, and booleans have one."""
    import tensorflow as tf

    numbers = definition.node.add()
    numbers.CopyFrom(node)
    numbers.name = f"{node.name}/numbers"
    numbers.attr["T"].type = tf.int32.as_datatype_enum
    for place in NUMBERS_ONLY[node.op]:
        mask = definition.node.add(name=f"{node.name}/mask_{place}", op="Cast", input=[node.input[place]])
        mask.attr["SrcT"].type, mask.attr["DstT"].type = tf.bool.as_datatype_enum, tf.int32.as_datatype_enum
        numbers.input[place] = mask.name
    node.op, node.input[:] = "Cast", [numbers.name]
    node.attr.clear()
    node.attr["SrcT"].type, node.attr["DstT"].type = tf.int32.as_datatype_enum, tf.bool.as_datatype_enum


def _may_divide_large_numbers(definition: Any, node: Any) -> bool:
    return node.op == "FloorDiv" and is_whole(node) and not is_of_sizes(definition, node)


def _by_floor_division(definition: Any, node: Any) -> None:
    """Replace TruncateDiv(a, b), the division of ONNX and PyTorch, which TF.js does not have.

    It is q = FloorDiv(a, b), and q + 1 where a and b differ in sign and r = a - q * b is not 0; r has the sign of b.
    """
    import tensorflow as tf

    whole, boolean = node.attr["T"].type, tf.bool.as_datatype_enum

    def add(name: str, op: str, *inputs: str) -> str:
        new = definition.node.add(name=f"{node.name}/{name}", op=op, input=inputs)
        new.attr["T"].type = whole
        return str(new.name)

    def number(name: str, op: str, *inputs: str) -> str:
        """1 where the comparison holds, else 0."""
        new = definition.node.add(name=f"{node.name}/{name}_number", op="Cast", input=[add(name, op, *inputs)])
        new.attr["SrcT"].type, new.attr["DstT"].type = boolean, whole
        return str(new.name)

    dividend, divisor = node.input[:2]
    floor = add("floor", "FloorDiv", *node.input)
    rest = add("rest", "Sub", dividend, add("multiple", "Mul", floor, divisor))
    zero = _constant(definition, node, "zero", 0, rest)
    apart = add("apart", "Sub", number("below", "Less", rest, zero), number("negative", "Less", dividend, zero))
    step = add("step", "Mul", number("cut", "NotEqual", rest, zero), add("square", "Mul", apart, apart))
    node.op, node.input[:] = "AddV2", [floor, step]


def _by_a_second_step(definition: Any, node: Any) -> None:
    """Replace FloorDiv(a, b) of whole numbers by q + Round((r - r mod b) / b), with q = FloorDiv(a, b), r = a - q * b.

    The WebAssembly backend divides float32, which rounds numbers from 2^24 on: q is off by a little, and r, in which
    what overflows has wrapped twice, is small.
    """
    import tensorflow as tf

    whole, real = node.attr["T"].type, tf.float32.as_datatype_enum

    def add(name: str, op: str, *inputs: str, dtype: int = whole) -> str:
        new = definition.node.add(name=f"{node.name}/{name}", op=op, input=inputs)
        new.attr["T"].type = dtype
        return str(new.name)

    def cast(name: str, value: str, source: int, target: int) -> str:
        new = definition.node.add(name=f"{node.name}/{name}", op="Cast", input=[value])
        new.attr["SrcT"].type, new.attr["DstT"].type = source, target
        return str(new.name)

    dividend, divisor = node.input[:2]
    first = add("first", "FloorDiv", *node.input)
    rest = add("rest", "Sub", dividend, add("product", "Mul", first, divisor))
    modulus = add("modulus", "FloorMod", rest, divisor)
    reals = [cast(f"{name}_real", value, whole, real) for name, value in (("r", rest), ("m", modulus), ("b", divisor))]
    missing = add("missing", "RealDiv", add("multiple", "Sub", *reals[:2], dtype=real), reals[2], dtype=real)
    step = cast("step", add("rounded", "Round", missing, dtype=real), real, whole)
    node.op, node.input[:] = "AddV2", [first, step]
