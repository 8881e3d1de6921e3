"""Tensors between two processes: in memory that both have mapped, as far as they fit there; otherwise in frames."""

import fcntl
import mmap
import os
import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from contract.tensors import Tensors, is_endless, numpy_dtype

HALF = 16 << 20
"""Bytes for inputs, and as many for outputs. The system gives only what is used of them."""
ALIGNMENT = 64
LAYOUTS = 64
"""How many layouts have a number. Number 0 is for all others."""
FLOATS, INTEGERS = ("float16", "bfloat16", "float32", "float64"), ("int8", "int16", "int32", "int64")
NAMES = frozenset(["bool", "bytes", "complex64", *FLOATS, *INTEGERS, *(f"u{name}" for name in INTEGERS)])
SEALS = 0x1 | 0x2 | 0x4
"""Nobody may shrink or grow the memory, or take the seals off: a process that reads what is no longer there dies."""

Description = list[Any]
"""[name, dtype, shape, offset in the memory or -1, bytes]"""


def new_memory() -> int:
    """A file in memory that both processes map."""
    file = os.memfd_create("tensors", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(file, 2 * HALF)
    fcntl.fcntl(file, fcntl.F_ADD_SEALS, SEALS)
    return file


class Room:
    """The memory as one of the two sees it: it writes to its half and reads from the other one.

    A call is like one before it, mostly: it has tensors of the same names, dtypes and shapes. So each such layout has a
    number, and later calls say the number alone.
    """

    def __init__(self, file: int, writes_first: bool) -> None:
        memory = np.frombuffer(mmap.mmap(file, 2 * HALF), np.uint8)
        halves = memory[:HALF], memory[HALF:]
        self._out, self._in = halves if writes_first else halves[::-1]
        self._places: dict[int, Tensors] = {}
        """A layout's number -> where this side put the tensors of that layout."""
        self._found: dict[int, Tensors] = {}
        """A layout's number -> where the other side puts them."""

    def put(self, tensors: Tensors, layout: int) -> tuple[list[Description], list[memoryview]]:
        """Their descriptions, and the bytes of those that do not fit. Without such, the layout is known from now on."""
        described: list[Description] = []
        payloads: list[memoryview] = []
        places: dict[str, NDArray[Any]] = {}
        free = 0
        for name, value in tensors.items():
            end = free + value.nbytes
            if value.dtype == object:
                payloads.append(memoryview(_joined(value)))
                described.append([name, "bytes", value.shape, -1, len(payloads[-1])])
            elif end > HALF:
                payloads.append(np.ascontiguousarray(value).reshape(-1).view(np.uint8).data)
                described.append([name, value.dtype.name, value.shape, -1, value.nbytes])
            else:
                places[name] = self._out[free:end].view(value.dtype).reshape(value.shape)
                places[name][...] = value
                described.append([name, value.dtype.name, value.shape, free, value.nbytes])
                free = end + -end % ALIGNMENT
        self._places.pop(layout, None)
        if not payloads:
            self._places[layout] = places
        return described, payloads

    def put_same(self, tensors: Tensors, layout: int) -> bool:
        """Put tensors of a known layout; False where it is not known, or another one."""
        places = self._places.get(layout)
        if places is None or places.keys() != tensors.keys():
            return False
        for name, place in places.items():
            value = tensors[name]
            if value.shape != place.shape or value.dtype != place.dtype:
                return False
            place[...] = value
        return True

    def take(self, described: Any, payload: memoryview, layout: int) -> dict[str, NDArray[Any]]:
        """The tensors that the other side put: what lies in the memory may change at its next call.

        Raises ValueError for a description that is none: whoever wrote it may be hostile.
        """
        tensors: dict[str, NDArray[Any]] = {}
        start = 0
        for name, dtype, shape, offset, size in _checked(described):
            data: Any = self._in[offset : offset + size]
            if offset < 0:
                data = payload[start : start + size]
                start += size
                if len(data) != size:
                    raise ValueError("its tensors have fewer bytes than it says")
            tensors[name] = (
                _split(bytes(data), shape)
                if dtype == "bytes"
                else np.frombuffer(data, numpy_dtype(dtype)).reshape(shape)
            )
        self._found.pop(layout, None)
        if not start:
            self._found[layout] = tensors
        return tensors

    def take_same(self, layout: int) -> Tensors:
        """The tensors that the other side put in a known layout. Raises ValueError where it is not known."""
        if layout not in self._found:
            raise ValueError(f"layout {layout} is not known")
        return self._found[layout]


def _checked(described: Any) -> list[Description]:
    if not isinstance(described, list):
        raise ValueError("its tensors are not a list")
    for each in described:
        if not isinstance(each, list) or len(each) != 5:
            raise ValueError("a tensor is not described by five values")
        name, dtype, shape, offset, size = each
        numbers = (*shape, offset, size) if isinstance(shape, list) else ("",)
        if not isinstance(name, str) or dtype not in NAMES or any(type(number) is not int for number in numbers):
            raise ValueError("a tensor's description has values of other kinds")
        is_placed = offset % ALIGNMENT == 0 and 0 <= offset <= HALF - size
        if len(shape) > 32 or size < 0 or min(shape, default=0) < 0 or not (is_placed or offset == -1):
            raise ValueError("a tensor's description has values out of range")
        if is_endless(shape, size):
            raise ValueError("a tensor's shape makes too much of its bytes")
    return described


def _joined(values: NDArray[Any]) -> bytes:
    """Byte strings, each after its length."""
    return b"".join(struct.pack("<I", len(value)) + value for value in values.reshape(-1).tolist())


def _split(data: bytes, shape: Sequence[int]) -> NDArray[Any]:
    values: list[bytes] = []
    start = 0
    while start < len(data):
        try:
            (length,) = struct.unpack_from("<I", data, start)
        except struct.error as error:
            raise ValueError("its byte strings end too soon") from error
        values.append(data[start + 4 : start + 4 + length])
        start += 4 + length
    array = np.empty(len(values), object)
    array[:] = values
    return array.reshape(shape)
