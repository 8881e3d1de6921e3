"""A graph of XNNPACK, as ExecuTorch writes it into a program: its values, its nodes and their constants.

`runtime_schema.fbs` of ExecuTorch's XNNPACK backend has the numbers of the fields. The graph lies behind a header; its
constants are segments of the program, by their names, or lie behind the graph.
"""

import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from contract.flatbuffer import Table
from verify.precision.files import Constant

HEADER, IDENTIFIER = b"XH00", b"XN01"
"""At byte 4 of a part, and of its graph; another number would be another layout."""

DTYPES = {
    1: "float32", 2: "float16", 3: "int8", 4: "uint8", 5: "int32", 6: "int8", 7: "int32", 8: "int4", 9: "int8",
    10: "int4", 11: "int8", 12: "int32", 13: "float32", 14: "bfloat16",
}  # fmt: skip
WHOLE = ("int8", "int4")

NODES, VALUES, DATA = 1, 2, 8
KIND, CONTENT = 0, 1
DTYPE, SIZES, BUFFER, EXTERNAL = 0, 2, 3, 4
"""The places of fields: in a graph, in a union, in a tensor."""
QUANTISED = 2
BY_CHANNEL, BY_TENSOR = 1, 2
"""Their numbers in the unions of values and of scales."""
NONE, NAMED = 0xFFFF_FFFF, 0xFFFF_FFFF_FFFF_FFFF

CONVERT = 18
MULTIPLYING = {2: (0, 1, 2), 7: (15, 16, 17), 13: (15, 16, 17), 39: (15, 16, 17), 37: (0, 1, None)}
"""Fully connected, convolution, depthwise convolution, transposed convolution, product of two activations: the fields
of input, weights and bias."""
ROOM = 1e-3
"""By how much, as a share, a bias's scale may differ from that of input and weights together."""


@dataclass(frozen=True)
class Value:
    """A tensor of the graph."""

    dtype: str
    is_inner: bool
    """Whether a node makes it for other nodes of the graph alone."""
    scale: NDArray[np.float64] | None
    constant: Constant | None


@dataclass(frozen=True)
class Graph:
    """One part of a program."""

    title: str
    values: Sequence[Value]
    nodes: Sequence[tuple[int, Table]]
    """The number of its kind, and its fields."""


def graph(part: bytes, title: str, named: Mapping[str, bytes]) -> Graph:
    """Read a part of a program; `named` are the constants that the program has for all parts.

    Raises ValueError or struct.error where it is damaged, or is of another version.
    """
    magic, _, start, size, behind, _ = struct.unpack_from("<4sHIIIQ", part, 4)
    body = part[start : start + size]
    if magic != HEADER or body[4:8] != IDENTIFIER:
        raise ValueError(f"{title} of its graph is not of XNNPACK, or is written by another version")
    table = Table(body, *struct.unpack_from("<I", body))
    data = [_data(each, part[behind:], named) for each in table.tables(DATA)]
    values = [_value(each, f"value {at} of {title}", data) for at, each in enumerate(table.tables(VALUES))]
    nodes = [(each.number(KIND, "B"), node) for each in table.tables(NODES) if (node := each.table(CONTENT))]
    return Graph(title, values, nodes)


def constants(graphs: Sequence[Graph]) -> Iterator[Constant]:
    """The constants of all parts, each once: parts may share them."""
    known = set()
    for constant in (value.constant for each in graphs for value in each.values):
        if constant is None:
            continue
        key = constant.dtype, constant.values.tobytes(), b"" if constant.scale is None else constant.scale.tobytes()
        if key not in known:
            known.add(key)
            yield constant


def computing(its: Graph) -> Iterator[str]:
    """The dtype of each node that multiplies matrices. With an activation of float32, weights are restored first."""
    for kind, node in its.nodes:
        if kind in MULTIPLYING:
            entry, weights, _ = _taken(its, kind, node)
            yield "int8" if entry.dtype in WHOLE and weights.dtype in WHOLE else entry.dtype


def casts(its: Graph) -> int:
    """How many nodes convert between dtypes."""
    return sum(kind == CONVERT for kind, _ in its.nodes)


def unequal_scales(its: Graph) -> Iterator[str]:
    """Biases that are not added as they are stored: XNNPACK takes a whole number's scale from input and weights."""
    for kind, node in its.nodes:
        if kind not in MULTIPLYING:
            continue
        entry, weights, bias = _taken(its, kind, node)
        if bias is None or bias.scale is None or entry.scale is None or weights.scale is None:
            continue
        if not np.allclose(bias.scale, entry.scale * weights.scale, rtol=ROOM, atol=0):
            name = bias.constant.name if bias.constant else its.title
            yield f"the bias {name} has other scales than its input's times its weights'"


def _taken(its: Graph, kind: int, node: Table) -> tuple[Value, Value, Value | None]:
    """Input, weights and bias of a node that multiplies."""
    entry, weights, bias = (NONE if field is None else node.number(field, "I") for field in MULTIPLYING[kind])
    if max(entry, weights, 0 if bias == NONE else bias) >= len(its.values):
        raise ValueError(f"a node of {its.title} takes a value that there is not")
    return its.values[entry], its.values[weights], None if bias == NONE else its.values[bias]


def _data(table: Table, behind: bytes, named: Mapping[str, bytes]) -> bytes:
    """The bytes of one constant."""
    start, size = table.number(0, "Q"), table.number(1, "Q")
    content = named[table.text(2)] if start == NAMED else behind[start:]
    if len(content) < size:
        raise ValueError("a constant goes beyond the file")
    return content[:size]


def _value(table: Table, name: str, data: Sequence[bytes]) -> Value:
    content = table.table(CONTENT)
    tensor = content.table(0) if content and table.number(KIND, "B") == QUANTISED else content
    if content is None or tensor is None:
        raise ValueError(f"{name} is no tensor")
    dtype = DTYPES.get(tensor.number(DTYPE, "h"), "an unknown dtype")
    scale, zero, axis = _scales(content, data) if tensor is not content else (None, None, 0)
    stored = data[tensor.number(BUFFER, "I")] if tensor.number(BUFFER, "I") else None
    is_inner = stored is None and tensor.number(EXTERNAL, "I") == NONE
    if stored is None:
        return Value(dtype, is_inner, scale, None)
    is_known = hasattr(np, dtype)
    values: NDArray[Any] = np.frombuffer(stored, dtype if is_known else np.uint8)
    values = values.reshape(tensor.numbers(SIZES, "u4")) if is_known else values
    if is_known and scale is not None and len(scale) not in (1, *values.shape[axis : axis + 1]):
        raise ValueError(f"{name} has {len(scale)} scales along axis {axis}, and its shape is {list(values.shape)}")
    its = (scale, zero, axis) if is_known else (None, None, 0)
    return Value(dtype, False, scale, Constant(name, dtype, len(stored), values, *its))


def _scales(table: Table, data: Sequence[bytes]) -> tuple[NDArray[np.float64] | None, NDArray[Any] | None, int]:
    """Scales, zero point and axis of a quantised tensor; None where they are chosen at each call."""
    kind, own = table.number(1, "B"), table.table(2)
    if own is not None and kind == BY_TENSOR:
        return np.array([own.number(0, "f")], np.float64), np.array([own.number(1, "i")]), 0
    if own is not None and kind == BY_CHANNEL:
        scales = own.numbers(0, "f4")
        if not len(scales):
            scales = np.frombuffer(data[own.number(2, "I")], "<f4", own.number(3, "I"))
        return scales.astype(np.float64), None, own.number(1, "i")
    return None, None, 0
