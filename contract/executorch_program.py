"""A program of ExecuTorch, `.pte`, from its bytes: what it calls. Nothing is loaded.

Its header and its first table are FlatBuffers: `program.fbs` in ExecuTorch's sources has the numbers of the fields.
"""

import struct
from dataclasses import dataclass

from contract.flatbuffer import Table

IDENTIFIER, HEADER = b"ET12", b"eh00"
"""Of ExecuTorch 1; another number would be another layout. Only a program with segments has the header."""
BACKEND = "XnnpackBackend"

PLANS, SEGMENTS = 1, 4
NAME, OPERATORS, DELEGATES = 0, 6, 7
"""The places of fields in their tables."""
OFFSET, SIZE = 0, 1
"""Those of a segment."""


@dataclass(frozen=True)
class Program:
    """A program's tables, and where its segments lie."""

    table: Table
    plan: Table
    """Of its one method."""
    segments: tuple[slice, ...]
    """In the file's bytes."""


@dataclass(frozen=True)
class Calls:
    """What a program calls."""

    operators: tuple[str, ...]
    """Without their overloads: `aten::_softmax`."""
    backends: tuple[str, ...]


def calls(data: bytes) -> Calls:
    """Read what a program calls. Raises ValueError where it is damaged, or is not of this format."""
    try:
        plan = program(data).plan
        return Calls(
            tuple(sorted({each.text(NAME) for each in plan.tables(OPERATORS)})),
            tuple(sorted({each.text(NAME) for each in plan.tables(DELEGATES)})),
        )
    except struct.error as error:
        raise ValueError(f"it is cut off or damaged: {error}") from error


def program(data: bytes) -> Program:
    """Find a program's tables. Raises ValueError or struct.error where it is damaged, or is not of this format."""
    root, identifier, header = struct.unpack_from("<I4s4s", data)
    if identifier != IDENTIFIER:
        raise ValueError(
            f"it begins with {identifier!r}, expected {IDENTIFIER!r}: it is not a program of ExecuTorch, or is "
            "written for a newer version"
        )
    size, start = struct.unpack_from("<QQ", data, 16) if header == HEADER else (len(data), len(data))
    table = Table(data, root)
    plans = list(table.tables(PLANS))
    places = [(start + each.number(OFFSET, "Q"), each.number(SIZE, "Q")) for each in table.tables(SEGMENTS)]
    segments = tuple(slice(at, at + length) for at, length in places)
    if len(plans) != 1 or not root < size <= len(data) or max((each.stop for each in segments), default=0) > len(data):
        raise ValueError("it is cut off, or has other methods than one")
    return Program(table, plans[0], segments)
