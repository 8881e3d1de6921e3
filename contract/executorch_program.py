"""A program of ExecuTorch, `.pte`, from its bytes: what it calls. Nothing is loaded.

Its header and its first table are FlatBuffers: `program.fbs` in ExecuTorch's sources has the numbers of the fields.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass

IDENTIFIER, HEADER = b"ET12", b"eh00"
"""Of ExecuTorch 1; another number would be another layout. Only a program with segments has the header."""
BACKEND = "XnnpackBackend"

PLANS, SEGMENTS = 1, 4
NAME, OPERATORS, DELEGATES = 0, 6, 7
"""The places of fields in their tables."""
MOST = 10_000
"""Entries of a list. Real programs have a few; offsets that all lead to one table could make many of a small file."""


@dataclass(frozen=True)
class Calls:
    """What a program calls."""

    operators: tuple[str, ...]
    """Without their overloads: `aten::_softmax`."""
    backends: tuple[str, ...]


def calls(data: bytes) -> Calls:
    """Read what a program calls. Raises ValueError where it is damaged, or is not of this format."""
    try:
        root, identifier, header = struct.unpack_from("<I4s4s", data)
        if identifier != IDENTIFIER:
            raise ValueError(
                f"it begins with {identifier!r}, expected {IDENTIFIER!r}: it is not a program of ExecuTorch, or is "
                "written for a newer version"
            )
        size, start = struct.unpack_from("<QQ", data, 16) if header == HEADER else (len(data), len(data))
        program = _Table(data, root)
        plans = list(program.tables(PLANS))
        ends = [start + offset + length for offset, length in map(_Table.segment, program.tables(SEGMENTS))]
        if len(plans) != 1 or not root < size <= len(data) or max(ends, default=0) > len(data):
            raise ValueError("it is cut off, or has other methods than one")
        return Calls(
            tuple(sorted({each.text(NAME) for plan in plans for each in plan.tables(OPERATORS)})),
            tuple(sorted({each.text(NAME) for plan in plans for each in plan.tables(DELEGATES)})),
        )
    except struct.error as error:
        raise ValueError(f"it is cut off or damaged: {error}") from error


class _Table:
    """A table of a FlatBuffer. Its methods raise ValueError or struct.error for what lies beyond the bytes."""

    def __init__(self, data: bytes, at: int) -> None:
        self._data, self._at = data, at
        (back,) = struct.unpack_from("<i", data, at)
        self._fields = self._inside(at - back)
        (self._size,) = struct.unpack_from("<H", data, self._fields)

    def text(self, field: int) -> str:
        """A string, "" where there is none."""
        at = self._vector(field)
        if not at:
            return ""
        (length,) = struct.unpack_from("<I", self._data, at)
        return self._data[at + 4 : self._inside(at + 4 + length)].decode(errors="replace")

    def tables(self, field: int) -> Iterator["_Table"]:
        """A vector of tables."""
        at = self._vector(field)
        (count,) = struct.unpack_from("<I", self._data, at) if at else (0,)
        if count > MOST:
            raise ValueError(f"a list has {count} entries")
        for place in range(at + 4, at + 4 + 4 * count, 4):
            (offset,) = struct.unpack_from("<I", self._data, place)
            yield _Table(self._data, self._inside(place + offset))

    def segment(self) -> tuple[int, int]:
        """Offset and size of a segment, in bytes; 0 where they are left out."""
        offset, size = (
            struct.unpack_from("<Q", self._data, at)[0] if (at := self._place(field)) else 0 for field in (0, 1)
        )
        return offset, size

    def _vector(self, field: int) -> int:
        """Where a vector or a string begins, with its length; 0 where there is none."""
        if not (at := self._place(field)):
            return 0
        (offset,) = struct.unpack_from("<I", self._data, at)
        return self._inside(at + int(offset))

    def _place(self, field: int) -> int:
        """Where the field lies, 0 where it is left out."""
        if 4 + 2 * field >= self._size:
            return 0
        (offset,) = struct.unpack_from("<H", self._data, self._fields + 4 + 2 * field)
        return self._at + int(offset) if offset else 0

    def _inside(self, at: int) -> int:
        if not 0 <= at <= len(self._data):
            raise ValueError("an offset goes beyond the file")
        return at
