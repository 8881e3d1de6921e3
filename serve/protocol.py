"""Bytes <-> requests: everything that a caller sends is checked here, and nowhere else.

The Open Inference Protocol v2 in JSON. Numbers must be numbers, finite, and as many as the shape says; names, dtypes
and shapes must be the model's.
"""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from contract.errors import InputError
from contract.manifest import Manifest, TensorSpec
from serve.runtimes import Tensors

MAX_BATCH = 4096
"""Rows in one request; a `.pt2` program is exported for as many."""

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
    "float32": "FP32",
    "float64": "FP64",
}
"""NumPy's name of a dtype -> the protocol's."""


@dataclass(frozen=True)
class InferRequest:
    """A request whose tensors fit the model."""

    id: str | None
    inputs: Tensors
    outputs: tuple[str, ...]
    """The names of the outputs asked for, in that order."""


def parse_infer(body: bytes, manifest: Manifest) -> InferRequest:
    """Read a JSON inference request. Raises InputError, whose message says what was got and what was expected."""
    request = _object("The request", _parse_json(body))
    identity = request.get("id")
    if identity is not None and not isinstance(identity, str):
        raise InputError(f"The request's id is {_show(identity)}, expected a string.")
    if identity is not None and not _is_text(identity):
        raise InputError(f"The request's id is {_show(identity)}, which has no UTF-8: half of a surrogate pair.")
    specs = {spec.name: spec for spec in manifest.inputs}
    inputs: dict[str, NDArray[Any]] = {}
    for tensor in _list("inputs", request.get("inputs")):
        name, values = _parse_input(_object("An input", tensor), specs)
        if name in inputs:
            raise InputError(f"The input {name!r} was sent twice.")
        inputs[name] = values
    if missing := specs.keys() - inputs.keys():
        raise InputError(f"The input {_names(missing)} is missing. {manifest.name} takes {_names(specs)}.")
    if len({len(values) for values in inputs.values()}) > 1:
        sizes = {name: len(values) for name, values in inputs.items()}
        raise InputError(f"The inputs differ in their batch: {sizes}.")
    return InferRequest(identity, inputs, _parse_outputs(request.get("outputs"), manifest))


def _is_text(value: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in value)


def _parse_json(body: bytes) -> Any:
    def refuse(constant: str) -> NoReturn:
        raise InputError(f"The request holds {constant}, which is no JSON number. Send finite numbers.")

    try:
        return json.loads(body, parse_constant=refuse)
    except RecursionError:
        raise InputError("The request is nested too deeply to be read.") from None
    except ValueError as error:  # JSON's own errors, undecodable bytes, and integers of too many digits
        raise InputError(f"The request is not JSON ({error}); {len(body)} bytes were got.") from None


def _parse_input(tensor: Mapping[str, Any], specs: Mapping[str, TensorSpec]) -> tuple[str, NDArray[Any]]:
    name = tensor.get("name")
    if not isinstance(name, str) or name not in specs:
        raise InputError(f"The model has no input {_show(name)}. Its inputs are {_names(specs)}.")
    spec = specs[name]
    if tensor.get("datatype") != DATATYPES[spec.dtype]:
        raise InputError(
            f"The input {name!r} has datatype {_show(tensor.get('datatype'))}, expected {DATATYPES[spec.dtype]!r}."
        )
    shape = _parse_shape(tensor.get("shape"), spec)
    return name, _parse_data(tensor.get("data"), shape, spec)


def _parse_shape(shape: Any, spec: TensorSpec) -> list[int]:
    expected = f"[{', '.join('-1' if size is None else str(size) for size in spec.shape)}]"
    if not isinstance(shape, list) or not all(type(size) is int and size >= 0 for size in shape):
        raise InputError(f"The input {spec.name!r} has shape {_show(shape)}, expected {expected} (-1: any size).")
    matches = len(shape) == len(spec.shape) and all(
        size is None or size == got for got, size in zip(shape, spec.shape, strict=True)
    )
    if not matches:
        raise InputError(f"The input {spec.name!r} has shape {_show(shape)}, expected {expected} (-1: any size).")
    if not 1 <= shape[0] <= MAX_BATCH:
        raise InputError(f"The input {spec.name!r} has a batch of {shape[0]}, expected 1 to {MAX_BATCH}.")
    return shape


def _parse_data(data: Any, shape: Sequence[int], spec: TensorSpec) -> NDArray[Any]:
    """Flat or nested numbers -> an array of the spec's dtype and this shape."""
    values, dtype = _list("data", data), np.dtype(spec.dtype)
    # NumPy would take "1" for 1 and true for 1: what JSON held is checked before it is cast.
    allowed: set[Any] = {bool} if dtype.kind == "b" else {int, float} if dtype.kind == "f" else {int}
    if wrong := _types(values) - allowed:
        raise InputError(
            f"The data of {spec.name!r} holds {_json_names(wrong)}, expected {_json_names(allowed)} for "
            f"{DATATYPES[spec.dtype]}."
        )
    try:
        array = np.array(values, np.float64 if dtype.kind == "f" else dtype)
    except OverflowError:
        raise _too_large(spec) from None
    except ValueError:
        raise InputError(
            f"The data of {spec.name!r} is nested unevenly, or too deeply. Send {math.prod(shape)} numbers."
        ) from None
    if array.size != math.prod(shape) or (array.ndim > 1 and list(array.shape) != shape):
        raise InputError(
            f"The data of {spec.name!r} is {array.size} numbers in shape {list(array.shape)}, "
            f"expected {math.prod(shape)} for shape {shape}."
        )
    with np.errstate(over="ignore"):
        cast = array.astype(dtype, copy=False)
    if dtype.kind == "f" and not np.isfinite(cast).all():
        raise _too_large(spec)
    return cast.reshape(shape)


def _too_large(spec: TensorSpec) -> InputError:
    return InputError(f"The data of {spec.name!r} holds numbers too large for {DATATYPES[spec.dtype]}.")


def _types(values: list[Any]) -> set[type]:
    """The types of the values in a list that may be nested."""
    types: set[type] = set()
    lists = [values]
    while lists:  # a recursion would end where the nesting is deep
        some = lists.pop()
        found = set(map(type, some))
        types |= found
        if list in found:
            lists.extend(value for value in some if type(value) is list)
    return types - {list}


def _json_names(types: Iterable[type]) -> str:
    names = {bool: "true or false", int: "whole numbers", float: "fractions", str: "strings", dict: "objects"}
    return " and ".join(sorted(names.get(kind, "null") for kind in types))


def _parse_outputs(outputs: Any, manifest: Manifest) -> tuple[str, ...]:
    known = [spec.name for spec in manifest.outputs]
    if outputs is None:
        return tuple(known)
    asked: dict[str, None] = {}
    for output in _list("outputs", outputs):
        name = _object("An output", output).get("name")
        if not isinstance(name, str) or name not in known:
            raise InputError(f"The model has no output {_show(name)}. Its outputs are {_names(known)}.")
        asked[name] = None
    return tuple(asked) or tuple(known)


def infer_response(name: str, request: InferRequest, outputs: Tensors) -> dict[str, Any]:
    """The answer in the protocol's JSON, its data flat in row-major order."""
    response: dict[str, Any] = {"model_name": name, "model_version": "1"}
    if request.id is not None:
        response["id"] = request.id
    response["outputs"] = [
        {
            "name": output,
            "datatype": DATATYPES[outputs[output].dtype.name],
            "shape": list(outputs[output].shape),
            "data": outputs[output].ravel().tolist(),
        }
        for output in request.outputs
    ]
    return response


def tensor_metadata(spec: TensorSpec) -> dict[str, Any]:
    """A tensor in the protocol's model metadata; -1 stands for any size."""
    shape = [-1 if size is None else size for size in spec.shape]
    return {"name": spec.name, "datatype": DATATYPES[spec.dtype], "shape": shape}


def _object(what: str, value: Any) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise InputError(f"{what} is {_show(value)}, expected a JSON object.")
    return value


def _list(what: str, value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise InputError(f"{what!r} is {_show(value)}, expected a JSON list.")
    return value


def _names(names: Any) -> str:
    return ", ".join(repr(name) for name in names)


def _show(value: Any) -> str:
    """What was got, short enough for a message."""
    if value is None:
        return "missing"
    try:
        text = json.dumps(value, ensure_ascii=False)
    except RecursionError:
        return "nested too deeply to be shown"
    # JSON may escape half of a pair of surrogates, which no answer can hold
    text = text.encode(errors="replace").decode()
    return text if len(text) <= 80 else f"{text[:77]}..."
