"""What a tensor is on the wire: its datatype, its shape, and its values as JSON numbers or as raw bytes."""

import itertools
import math
import reprlib
import struct
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from contract.errors import BodyTooLarge, InputError
from contract.manifest import Manifest, TensorSpec
from contract.tensors import Tensors, numpy_dtype
from serve.protocol import MAX_BATCH
from serve.protocol.json_text import MAX_VALUES, Numbers

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
    """The shape, if it is the spec's. Raises InputError otherwise; a batch is 1 to MAX_BATCH."""
    fits = (
        isinstance(shape, list | tuple)
        and len(shape) == len(spec.shape)
        and all(type(size) is int and size >= 0 for size in shape)
        and all(size in (None, sent) for sent, size in zip(shape, spec.shape, strict=True))
    )
    if not fits:
        expected = f"[{', '.join('-1' if size is None else str(size) for size in spec.shape)}]"
        raise InputError(f"The input {spec.name!r} has shape {show(shape)}, expected {expected} (-1: any size).")
    batch = 1 if spec.batch_axis is None else shape[spec.batch_axis]
    if not 1 <= batch <= MAX_BATCH:
        raise InputError(f"The input {spec.name!r} has a batch of {batch}, expected 1 to {MAX_BATCH}.")
    if 0 in shape:  # runtimes differ in what they make of it, and some fail halfway
        raise InputError(f"The input {spec.name!r} has shape {show(shape)}: every size must be at least 1.")
    if spec.least is not None and any(sent < least for sent, least in zip(shape, spec.least, strict=True)):
        raise InputError(
            f"The input {spec.name!r} has shape {show(shape)}, which is too small for the model: every size must be at "
            f"least that of {list(spec.least)}."
        )
    return tuple(shape)


def check_batch(arrays: Tensors, manifest: Manifest) -> None:
    """Raise InputError where two inputs have another batch."""
    axes = {spec.name: spec.batch_axis for spec in manifest.inputs}
    batches = {name: arrays[name].shape[axis] for name, axis in axes.items() if axis is not None}
    if len(set(batches.values())) > 1:
        raise InputError(f"The inputs differ in their batch: {batches}.")


Decode = Callable[[Any, TensorSpec], Any]
"""Turns a value into the one that it stands for. Raises InputError."""


def from_json(data: Any, shape: Sequence[int], spec: TensorSpec, decode: Decode | None = None) -> Array:
    """Flat or nested JSON values -> an array of the spec's dtype and this shape. Raises InputError.

    The nesting and the number of values are checked before any value is looked at. The values may also be a flat array
    of the spec's kind of numbers.
    """
    dtype = numpy_dtype(spec.dtype)
    if isinstance(data, np.ndarray):
        return _flat_array(data, shape, spec)
    if isinstance(data, Numbers) and dtype.kind not in "bO":
        return _long_list(data, shape, spec)
    if not isinstance(data, list):
        raise InputError(f"The data of {spec.name!r} is {show(data)}, expected a list.")
    values = _flat(data, shape, spec)
    if decode is not None:
        values = [decode(value, spec) for value in values]
    # NumPy casts "1" and true to 1, so the types in the JSON are checked before the cast.
    allowed = _json_types(dtype)
    if wrong := set(map(type, values)) - allowed:
        raise InputError(
            f"The data of {spec.name!r} holds {_json_names(wrong)}, expected {_json_names(allowed)} for "
            f"{DATATYPES[spec.dtype]}."
        )
    array = _strings(values) if dtype.kind == "O" else _numbers(values, dtype, spec)
    check_bounds(array, spec)
    return array.reshape(shape)


def _flat_array(values: Array, shape: Sequence[int], spec: TensorSpec) -> Array:
    check_count(values.size, shape, spec)
    dtype = numpy_dtype(spec.dtype)
    result = values if values.dtype == dtype else _fitting(values, dtype, spec).astype(dtype)
    check_bounds(result, spec)
    return result.reshape(shape)


def _flat(data: list[Any], shape: Sequence[int], spec: TensorSpec) -> list[Any]:
    """The values of a list that is flat, or nested as the shape is. Raises InputError."""
    if not data or not isinstance(data[0], list):
        if any(isinstance(value, list) for value in data):
            raise InputError(f"The data of {spec.name!r} is nested unevenly.")
        check_count(len(data), shape, spec)
        return data
    values = data
    for depth, size in enumerate(shape):
        if depth:
            if set(map(type, values)) != {list} or len(sizes := set(map(len, values))) > 1:
                raise InputError(f"The data of {spec.name!r} is nested unevenly, expected {list(shape)}.")
            if sizes != {size}:
                break
            values = list(itertools.chain.from_iterable(values))
        elif len(values) != size:
            break
    else:
        if not any(isinstance(value, list) for value in values):
            return values
    raise InputError(f"The data of {spec.name!r} is nested as {show(_nesting(data))}, expected {list(shape)}.")


def _nesting(data: Any) -> list[int]:
    """How a nested list begins."""
    sizes = []
    while isinstance(data, list):
        sizes.append(len(data))
        data = data[0] if data else None
    return sizes


def _long_list(numbers: Numbers, shape: Sequence[int], spec: TensorSpec) -> Array:
    if len(numbers.sizes) == 1:
        check_count(numbers.sizes[0], shape, spec)
    elif numbers.sizes != tuple(shape):
        raise InputError(f"The data of {spec.name!r} is nested as {show(list(numbers.sizes))}, expected {list(shape)}.")
    dtype = numpy_dtype(spec.dtype)
    result, end = np.empty(math.prod(shape), dtype), 0
    try:
        for values in numbers.read(dtype):
            start, end = end, end + values.size
            result[start:end] = _fitting(values, dtype, spec)
    except (ValueError, TypeError, RuntimeError) as error:  # simdjson's
        raise InputError(f"The data of {spec.name!r} is not numbers for {DATATYPES[spec.dtype]}: {error}.") from None
    check_bounds(result, spec)
    return result.reshape(shape)


def _fitting(values: Array, dtype: np.dtype[Any], spec: TensorSpec) -> Array:
    if dtype.kind not in "iu":
        return cast(values, dtype, spec)
    limits = np.iinfo(dtype)
    if values.min() < limits.min or values.max() > limits.max:
        raise _unfitting(spec)
    return values


def check_bounds(array: Array, spec: TensorSpec) -> None:
    """Raise InputError for an id beyond the input's table: runtimes differ, and some answer it with anything."""
    if spec.bounds is None:
        return
    low, high = spec.bounds
    wrong = ~((array >= low) & (array <= high))  # NaN, too
    if wrong.any():
        raise InputError(
            f"The input {spec.name!r} holds {array[wrong].flat[0]}, expected ids from {low} to {high}: the rows of the "
            "model's table."
        )


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
    if not (np.isfinite(result) | ~np.isfinite(array)).all():
        raise _unfitting(spec)
    return result


def _unfitting(spec: TensorSpec) -> InputError:
    return InputError(f"The data of {spec.name!r} holds numbers that do not fit {DATATYPES[spec.dtype]}.")


def from_bytes(data: memoryview, shape: Sequence[int], spec: TensorSpec) -> Array:
    """Raw little-endian bytes -> an array of the spec's dtype and this shape; NaN and infinities are kept."""
    if spec.dtype == "bytes":
        return _parse_byte_strings(data, math.prod(shape), spec).reshape(shape)
    dtype = numpy_dtype(spec.dtype)
    expected = math.prod(shape) * dtype.itemsize
    if len(data) != expected:
        raise InputError(
            f"The input {spec.name!r} has {len(data)} bytes of data, expected {expected} for {DATATYPES[spec.dtype]} "
            f"{list(shape)}."
        )
    if spec.dtype == "bool" and (np.frombuffer(data, np.uint8) > 1).any():
        raise InputError(f"The input {spec.name!r} has bytes other than 0 and 1, expected those for BOOL.")
    array = np.frombuffer(data, dtype).reshape(shape)
    check_bounds(array, spec)
    return array


def to_bytes(array: Array) -> bytes:
    """An array as raw little-endian bytes, row by row; byte strings each with its length before it."""
    if array.dtype == object:
        return b"".join(struct.pack("<I", len(item)) + item for item in array.ravel().tolist())
    return array.tobytes()


def datatype_of(array: Array) -> str:
    """The protocol's name of an array's dtype."""
    return _DATATYPES[array.dtype]


def _numbers(values: list[Any], dtype: np.dtype[Any], spec: TensorSpec) -> Array:
    whole = dtype.kind in "iub"
    try:
        array = np.array(values, dtype if whole else np.float64)
    except OverflowError:
        raise _unfitting(spec) from None
    return array if whole else cast(array, dtype, spec)


def _strings(values: list[str]) -> Array:
    array = np.empty(len(values), object)
    array[:] = [value.encode("utf-8", "surrogateescape") for value in values]
    return array


def _parse_byte_strings(data: memoryview, count: int, spec: TensorSpec) -> Array:
    if count > MAX_VALUES:
        raise BodyTooLarge(
            f"The data of {spec.name!r} is {count} byte strings, expected {MAX_VALUES} at most. Send less at once."
        )
    items: list[bytes] = []
    start = 0
    for _ in range(count):
        if start + 4 > len(data):
            raise InputError(f"The data of {spec.name!r} ends after {len(items)} byte strings, expected {count}.")
        (length,) = struct.unpack_from("<I", data, start)
        start += 4 + length
        if start > len(data):
            raise InputError(f"The data of {spec.name!r} announces {length} bytes, got {len(data)} in all.")
        items.append(bytes(data[start - length : start]))
    if start < len(data):
        raise InputError(f"The data of {spec.name!r} has {len(data) - start} bytes behind its {count} byte strings.")
    array = np.empty(count, object)
    array[:] = items
    return array


def _json_types(dtype: np.dtype[Any]) -> set[Any]:
    if dtype.kind in "biu":
        return {bool} if dtype.kind == "b" else {int}
    return {str} if dtype.kind == "O" else {int, float}


def _json_names(types: Iterable[type]) -> str:
    names = {bool: "true or false", int: "whole numbers", float: "fractions", str: "strings", dict: "objects"}
    return " and ".join(sorted(names.get(kind, "null") for kind in types))


_short = reprlib.Repr()  # it looks only at the beginning of a value that is large or deep
_short.maxstring = _short.maxlong = 70


def show(value: Any) -> str:
    """A value, short enough for a message."""
    text = "missing" if value is None else _short.repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
