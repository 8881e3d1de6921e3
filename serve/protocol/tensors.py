"""What a tensor is on the wire: its datatype, its shape, and its values as JSON numbers or as raw bytes."""

import math
import reprlib
import struct
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from contract.errors import InputError
from contract.manifest import TensorSpec
from contract.tensors import numpy_dtype
from serve.protocol import MAX_BATCH

Array = NDArray[Any]

DATATYPES = {
    "bool": "BOOL",
    "int8": "INT8",
    "int16": "INT16",
    "int32": "INT32",
    "int64": "INT64",
    "uint8": "UINT8",
    "uint16": "UINT16",
    "uint32": "UINT32",
    "uint64": "UINT64",
    "float16": "FP16",
    "bfloat16": "BF16",
    "float32": "FP32",
    "float64": "FP64",
    "bytes": "BYTES",
}
"""A manifest's dtype -> the Open Inference Protocol's datatype."""

FLOAT32_SQUARE = float(np.finfo(np.float32).max) ** 2
DOT_SIZE = 10_000
"""Where the squares of so many numbers add up to less, none is too large for a float32: a fifth of the cost of looking
at each. From there on, the BLAS behind NumPy starts threads."""

_DATATYPES = {numpy_dtype(name): datatype for name, datatype in DATATYPES.items()}
"""By the dtype itself: NumPy makes a dtype's name anew at each call, which takes 2 us."""


def check_shape(shape: Any, spec: TensorSpec) -> tuple[int, ...]:
    """The shape, if it is the spec's. Raises InputError otherwise; the first size is the batch, 1 to MAX_BATCH."""
    fits = (
        isinstance(shape, list | tuple)
        and len(shape) == len(spec.shape)
        and all(type(size) is int and size >= 0 for size in shape)
        and all(size in (None, sent) for sent, size in zip(shape, spec.shape, strict=True))
    )
    if not fits:
        expected = f"[{', '.join('-1' if size is None else str(size) for size in spec.shape)}]"
        raise InputError(f"The input {spec.name!r} has shape {show(shape)}, expected {expected} (-1: any size).")
    if not 1 <= shape[0] <= MAX_BATCH:
        raise InputError(f"The input {spec.name!r} has a batch of {shape[0]}, expected 1 to {MAX_BATCH}.")
    return tuple(shape)


def from_json(data: Any, shape: Sequence[int], spec: TensorSpec) -> Array:
    """Flat or nested JSON values -> an array of the spec's dtype and this shape. Raises InputError."""
    if not isinstance(data, list):
        raise InputError(f"The data of {spec.name!r} is {show(data)}, expected a list.")
    try:
        return _from_list(data, shape, spec)
    except RecursionError:
        raise InputError(f"The data of {spec.name!r} is nested too deeply to be read.") from None


def _from_list(data: list[Any], shape: Sequence[int], spec: TensorSpec) -> Array:
    dtype = numpy_dtype(spec.dtype)
    # NumPy casts "1" and true to 1, so the types in the JSON are checked before the cast.
    allowed = _json_types(dtype)
    if wrong := _types(data) - allowed:
        raise InputError(
            f"The data of {spec.name!r} holds {_json_names(wrong)}, expected {_json_names(allowed)} for "
            f"{DATATYPES[spec.dtype]}."
        )
    array = _strings(data, spec) if dtype.kind == "O" else _numbers(data, dtype, spec)
    if array.ndim > 1 and array.shape != tuple(shape):
        raise InputError(f"The data of {spec.name!r} is nested as {show(list(array.shape))}, expected {list(shape)}.")
    check_count(array.size, shape, spec)
    return array.reshape(shape)


def check_count(count: int, shape: Sequence[int], spec: TensorSpec) -> None:
    """Raise InputError unless the number of values is the shape's."""
    if count != math.prod(shape):
        raise InputError(
            f"The data of {spec.name!r} is {count} values, expected {math.prod(shape)} for shape {list(shape)}."
        )


def cast(array: Array, dtype: np.dtype[Any], spec: TensorSpec) -> Array:
    """Numbers as JSON holds them, in float64 -> the model's fractions. Raises InputError where one is too large."""
    if array.ndim == 1 and array.size <= DOT_SIZE and dtype == np.float32 and np.vdot(array, array) < FLOAT32_SQUARE:
        return array.astype(dtype)
    with np.errstate(over="ignore"):
        result = array.astype(dtype, copy=False)
    if not np.isfinite(result).all():
        raise InputError(f"The data of {spec.name!r} holds numbers that do not fit {DATATYPES[spec.dtype]}.")
    return result


def from_bytes(data: memoryview, shape: Sequence[int], spec: TensorSpec) -> Array:
    """Raw little-endian bytes -> an array of the spec's dtype and this shape; NaN and infinities are kept."""
    if spec.dtype == "bytes":
        array = _parse_byte_strings(data, spec)
        check_count(array.size, shape, spec)
        return array.reshape(shape)
    dtype = numpy_dtype(spec.dtype)
    expected = math.prod(shape) * dtype.itemsize
    if len(data) != expected:
        raise InputError(
            f"The input {spec.name!r} has {len(data)} bytes of data, expected {expected} for {DATATYPES[spec.dtype]} "
            f"{list(shape)}."
        )
    if spec.dtype == "bool" and (np.frombuffer(data, np.uint8) > 1).any():
        raise InputError(f"The input {spec.name!r} has bytes other than 0 and 1, expected those for BOOL.")
    return np.frombuffer(data, dtype).reshape(shape)


def to_bytes(array: Array) -> bytes:
    """An array as raw little-endian bytes, row by row; byte strings each with its length before it."""
    if array.dtype == object:
        return b"".join(struct.pack("<I", len(item)) + item for item in array.ravel().tolist())
    return array.tobytes()


def datatype_of(array: Array) -> str:
    """The protocol's name of an array's dtype."""
    return _DATATYPES[array.dtype]


def _numbers(data: list[Any], dtype: np.dtype[Any], spec: TensorSpec) -> Array:
    whole = dtype.kind in "iub"
    try:
        array = np.array(data, dtype if whole else np.float64)
    except OverflowError:
        raise InputError(f"The data of {spec.name!r} holds numbers that do not fit {DATATYPES[spec.dtype]}.") from None
    except ValueError:
        raise InputError(f"The data of {spec.name!r} is nested unevenly, or too deeply.") from None
    return array if whole else cast(array, dtype, spec)


def _strings(data: list[Any], spec: TensorSpec) -> Array:
    try:
        array = np.array(data, dtype=np.str_)
    except ValueError:
        raise InputError(f"The data of {spec.name!r} is nested unevenly.") from None
    flat = np.empty(array.size, object)
    flat[:] = [item.encode("utf-8", "surrogateescape") for item in _flat(data)]
    return flat.reshape(array.shape)


def _flat(data: list[Any]) -> Iterable[str]:
    for item in data:
        if isinstance(item, list):
            yield from _flat(item)
        else:
            yield item


def _parse_byte_strings(data: memoryview, spec: TensorSpec) -> Array:
    items, start = [], 0
    while start < len(data):
        if start + 4 > len(data):
            raise InputError(f"The data of {spec.name!r} ends inside a length of 4 bytes.")
        (length,) = struct.unpack_from("<I", data, start)
        start += 4 + length
        if start > len(data):
            raise InputError(f"The data of {spec.name!r} announces {length} bytes, got {len(data)} in all.")
        items.append(bytes(data[start - length : start]))
    array = np.empty(len(items), object)
    array[:] = items
    return array


def _json_types(dtype: np.dtype[Any]) -> set[Any]:
    if dtype.kind in "biu":
        return {bool} if dtype.kind == "b" else {int}
    return {str} if dtype.kind == "O" else {int, float}


def _types(values: list[Any]) -> set[type]:
    """The types of the values in a list that may be nested."""
    types = set(map(type, values))
    if list in types:
        types.remove(list)
        types.update(*(_types(value) for value in values if type(value) is list))
    return types


def _json_names(types: Iterable[type]) -> str:
    names = {bool: "true or false", int: "whole numbers", float: "fractions", str: "strings", dict: "objects"}
    return " and ".join(sorted(names.get(kind, "null") for kind in types))


_short = reprlib.Repr()  # it looks only at the beginning of a value that is large or deep
_short.maxstring = _short.maxlong = 70


def show(value: Any) -> str:
    """A value, short enough for a message."""
    text = "missing" if value is None else _short.repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
