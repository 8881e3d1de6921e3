"""A FlatBuffer's tables, from its bytes. The numbers of fields are those of the schema: a format's reader has them."""

import struct
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

MOST = 10_000
"""Entries of a list of tables. Real files have a few; offsets that all lead to one table could make many of a small
file."""


class Table:
    """A table of a FlatBuffer. Its methods raise ValueError or struct.error for what lies beyond the bytes."""

    def __init__(self, data: bytes, at: int) -> None:
        self._data, self._at = data, at
        (back,) = struct.unpack_from("<i", data, at)
        self._fields = self._inside(at - back)
        (self._size,) = struct.unpack_from("<H", data, self._fields)

    def number(self, field: int, code: str, default: int = 0) -> Any:
        """A number of the type that `struct` has this letter for."""
        place = self._place(field)
        return struct.unpack_from(f"<{code}", self._data, place)[0] if place else default

    def text(self, field: int) -> str:
        """A string, "" where there is none."""
        return self.numbers(field, "u1").tobytes().decode(errors="replace")

    def numbers(self, field: int, dtype: str) -> NDArray[Any]:
        """A vector of numbers of NumPy's dtype, empty where there is none."""
        start, count = self._vector(field)
        kind = np.dtype(dtype).newbyteorder("<")
        self._inside(start + count * kind.itemsize)
        return np.frombuffer(self._data, kind, count, start) if count else np.empty(0, kind)

    def table(self, field: int) -> "Table | None":
        """A table within this one, or the table of a union; None where there is none."""
        place = self._place(field)
        return self._follow(place) if place else None

    def tables(self, field: int) -> Iterator["Table"]:
        """A vector of tables."""
        start, count = self._vector(field)
        if count > MOST:
            raise ValueError(f"a list has {count} entries")
        for place in range(start, start + 4 * count, 4):
            yield self._follow(place)

    def _follow(self, place: int) -> "Table":
        (offset,) = struct.unpack_from("<I", self._data, place)
        return Table(self._data, self._inside(place + int(offset)))

    def _vector(self, field: int) -> tuple[int, int]:
        """Where the entries of a vector or a string begin, and how many there are."""
        if not (at := self._place(field)):
            return 0, 0
        (offset,) = struct.unpack_from("<I", self._data, at)
        start = self._inside(at + int(offset))
        (count,) = struct.unpack_from("<I", self._data, start)
        return start + 4, int(count)

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
