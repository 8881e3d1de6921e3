"""The Open Inference Protocol v2 over REST, with the binary tensor extension in both directions.

JSON has no NaN and no infinity: in requests they are read as most clients write them, in answers they are null unless
the request has the parameter `allow_nan`. Raw tensors keep them.
"""

import functools
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import orjson

from contract.errors import InputError
from contract.manifest import Manifest, TensorSpec
from contract.tensors import Tensors, numpy_dtype
from serve.protocol import VERSION, InferRequest, Reply, json_text, tensors
from serve.protocol.tensors import DATATYPES, show

HEADER_LENGTH = "Inference-Header-Content-Length"
UNSUPPORTED = ("classification", "shared_memory_region")
"""Parameters of extensions that the server's metadata does not list."""


def json_length(body: bytes, header_length: str) -> int:
    """How many bytes of the body are JSON, by the header `HEADER_LENGTH`. Raises InputError."""
    is_number = header_length.isascii() and header_length.isdigit() and len(header_length) <= 20
    if not is_number or int(header_length) > len(body):
        raise InputError(
            f"{HEADER_LENGTH} is {show(header_length)}, expected a number from 0 to {len(body)}, the body's bytes."
        )
    return int(header_length)


def parse_request(header: bytes, payload: memoryview, manifest: Manifest) -> InferRequest:
    """Read a request's JSON, and the raw tensors behind it.

    Raises InputError, whose message states what was sent and what was expected.
    """
    return read_fields(_object("The request", json_text.parse(header)), payload, manifest)


def read_fields(request: Mapping[str, Any], payload: memoryview, manifest: Manifest) -> InferRequest:
    """Read a request's fields, and the raw tensors beside them. Raises InputError."""
    parameters = _object("The request's parameters", _or_empty(request.get("parameters")))
    _refuse_unsupported(parameters)
    identity = request.get("id")
    if identity is not None and not isinstance(identity, str):
        raise InputError(f"The request's id is {show(identity)}, expected a string.")
    inputs = _parse_inputs(request.get("inputs"), payload, manifest)
    binary = _flag(parameters, "binary_data_output")
    outputs = _parse_outputs(request.get("outputs"), binary, manifest)
    allow_nan, times = _flag(parameters, "allow_nan"), _flag(parameters, "times")
    return InferRequest(inputs, outputs, identity, _timeout(parameters), allow_nan, times)


def _parse_inputs(inputs: Any, payload: memoryview, manifest: Manifest) -> Tensors:
    specs = {spec.name: spec for spec in manifest.inputs}
    arrays: dict[str, tensors.Array] = {}
    for tensor in _list("inputs", inputs):
        name, array, payload = _parse_input(_object("An input", tensor), payload, specs)
        if name in arrays:
            raise InputError(f"The input {name!r} was sent twice.")
        arrays[name] = array
    if missing := specs.keys() - arrays.keys():
        raise InputError(f"The input {_names(sorted(missing))} is missing. {manifest.name} takes {_names(specs)}.")
    if len(payload):
        raise InputError(f"The body has {len(payload)} bytes more than its inputs' binary_data_size add up to.")
    tensors.check_batch(arrays, manifest)
    return arrays


def _parse_input(
    tensor: Mapping[str, Any], payload: memoryview, specs: Mapping[str, TensorSpec]
) -> tuple[str, tensors.Array, memoryview]:
    """One input, and what is left of the payload behind it."""
    name = tensor.get("name")
    if not isinstance(name, str) or name not in specs:
        raise InputError(f"The model has no input {show(name)}. Its inputs are {_names(specs)}.")
    spec = specs[name]
    if tensor.get("datatype") != DATATYPES[spec.dtype]:
        raise InputError(
            f"The input {name!r} has datatype {show(tensor.get('datatype'))}, expected {DATATYPES[spec.dtype]!r}."
        )
    shape = tensors.check_shape(tensor.get("shape"), spec)
    parameters = _object(f"The parameters of the input {name!r}", _or_empty(tensor.get("parameters")))
    _refuse_unsupported(parameters)
    size = parameters.get("binary_data_size")
    if size is None:
        return name, tensors.from_json(tensor.get("data"), shape, spec), payload
    if "data" in tensor:
        raise InputError(f"The input {name!r} has both data and binary_data_size, expected one of them.")
    if type(size) is not int or not 0 <= size <= len(payload):
        raise InputError(
            f"The input {name!r} has a binary_data_size of {show(size)}, but {len(payload)} bytes follow the JSON, "
            f"which ends where {HEADER_LENGTH} says."
        )
    return name, tensors.from_bytes(payload[:size], shape, spec), payload[size:]


def parse_raw(payload: memoryview, manifest: Manifest) -> InferRequest:
    """A body without any JSON: the only input's bytes, as many rows as they make, or the whole call."""
    spec = manifest.inputs[0]
    sizes = spec.shape[1:] if spec.batch_axis == 0 else spec.shape
    if len(manifest.inputs) != 1 or None in sizes or spec.dtype == "bytes":
        raise InputError(f"{manifest.name} cannot be sent as bytes alone: that takes one input of a fixed shape.")
    row = numpy_dtype(spec.dtype).itemsize * int(np.prod([size or 1 for size in sizes], dtype=np.int64))
    if not len(payload) or len(payload) % row:
        raise InputError(f"The body has {len(payload)} bytes, expected a multiple of {row}: one row of {spec.name!r}.")
    count = len(payload) // row
    shape = tensors.check_shape((count, *sizes) if spec.batch_axis == 0 or count > 1 else sizes, spec)
    inputs = {spec.name: tensors.from_bytes(payload, shape, spec)}
    return InferRequest(inputs, all_outputs(manifest, True))


def _parse_outputs(outputs: Any, binary: bool, manifest: Manifest) -> tuple[tuple[str, bool], ...]:
    if outputs is None:
        return all_outputs(manifest, binary)
    known = [spec.name for spec in manifest.outputs]
    requested: dict[str, bool] = {}
    for output in _list("outputs", outputs):
        name = _object("An output", output).get("name")
        if not isinstance(name, str) or name not in known:
            raise InputError(f"The model has no output {show(name)}. Its outputs are {_names(known)}.")
        parameters = _object(f"The parameters of the output {name!r}", _or_empty(output.get("parameters")))
        _refuse_unsupported(parameters)
        requested[name] = _flag(parameters, "binary_data", binary)
    return tuple(requested.items()) or all_outputs(manifest, binary)


def all_outputs(manifest: Manifest, binary: bool) -> tuple[tuple[str, bool], ...]:
    """The outputs of a request that names none."""
    return tuple((spec.name, binary) for spec in manifest.outputs)


def _refuse_unsupported(parameters: Mapping[str, Any]) -> None:
    for name in UNSUPPORTED:
        if name in parameters:
            raise InputError(f"The parameter {name!r} belongs to an extension that is not served here: see /v2.")


def _flag(parameters: Mapping[str, Any], name: str, default: bool = False) -> bool:
    value = parameters.get(name, default)
    if not isinstance(value, bool):
        raise InputError(f"The parameter {name!r} is {show(value)}, expected true or false.")
    return value


def _timeout(parameters: Mapping[str, Any]) -> float | None:
    """Triton's `timeout`: microseconds. 0 means none."""
    value = parameters.get("timeout", 0)
    if type(value) is not int or value < 0:
        raise InputError(f"The parameter 'timeout' is {show(value)}, expected a whole number of microseconds.")
    return value / 1e6 or None


def infer_reply(
    model: str,
    request: InferRequest,
    outputs: Tensors,
    queue: float = 0.0,
    compute: float = 0.0,
    *,
    version: str = VERSION,
) -> Reply:
    """The answer: JSON, and behind it the raw bytes of the outputs that were requested raw.

    `queue` and `compute` are the seconds that the request waited, and that the call took which it was part of.
    """
    if len(request.outputs) == 1 and request.id is None and not (request.times or request.allow_nan):
        return _reply_of_one((model, version), *request.outputs[0], outputs)
    answers, payloads = [], []
    for name, binary in request.outputs:
        array = outputs[name]
        answer: dict[str, Any] = {"name": name, "datatype": tensors.datatype_of(array), "shape": array.shape}
        if binary:
            payload = tensors.to_bytes(array)
            answer["parameters"] = {"binary_data_size": len(payload)}
            payloads.append(payload)
        else:
            answer["data"] = _json_values(array)
        answers.append(answer)
    response: dict[str, Any] = {"model_name": model, "model_version": version, "outputs": answers}
    if request.id is not None:
        response["id"] = request.id
    if request.times:
        response["parameters"] = {"queue_ms": round(1000 * queue, 4), "compute_ms": round(1000 * compute, 4)}
    header = _with_nan(response) if request.allow_nan else orjson.dumps(response, option=orjson.OPT_SERIALIZE_NUMPY)
    if not payloads:
        return Reply(header)
    headers = {HEADER_LENGTH: str(len(header))}
    return Reply(b"".join((header, *payloads)), content_type="application/octet-stream", headers=headers)


def _reply_of_one(model: tuple[str, str], name: str, binary: bool, outputs: Tensors) -> Reply:
    """`infer_reply` for the usual request: all but the numbers is the same as in the last answer of this shape."""
    array = outputs[name]
    datatype = tensors.datatype_of(array)
    if not binary:
        values = orjson.dumps(_json_values(array), option=orjson.OPT_SERIALIZE_NUMPY)
        return Reply(b"".join((_head(model, name, datatype, array.shape), values, b"}]}")))
    payload = tensors.to_bytes(array)
    header = _binary_header(model, name, datatype, array.shape, len(payload))
    headers = {HEADER_LENGTH: str(len(header))}
    return Reply(header + payload, content_type="application/octet-stream", headers=headers)


@functools.lru_cache(1024)
def _head(model: tuple[str, str], name: str, datatype: str, shape: tuple[int, ...]) -> bytes:
    """A JSON answer of one output, up to its numbers."""
    answer = {"name": name, "datatype": datatype, "shape": shape, "data": []}
    return orjson.dumps({**_named(model), "outputs": [answer]}).removesuffix(b"[]}]}")


@functools.lru_cache(1024)
def _binary_header(model: tuple[str, str], name: str, datatype: str, shape: tuple[int, ...], size: int) -> bytes:
    """The JSON before the raw bytes of one output."""
    answer = {"name": name, "datatype": datatype, "shape": shape, "parameters": {"binary_data_size": size}}
    return orjson.dumps({**_named(model), "outputs": [answer]})


def _named(model: tuple[str, str]) -> dict[str, str]:
    return dict(zip(("model_name", "model_version"), model, strict=True))


def _json_values(array: tensors.Array) -> Any:
    """Flat, row by row; orjson writes an array of a dtype that it knows without a Python object for each number."""
    if array.dtype == object:
        return [item.decode("utf-8", "replace") for item in array.ravel().tolist()]
    if array.dtype.kind in "biu" or array.dtype in (np.float32, np.float64):
        return np.ascontiguousarray(array).reshape(-1)
    return array.astype(np.float32).ravel()


def _with_nan(response: Any) -> bytes:
    """JSON as Python and many clients read it: with NaN and Infinity. Their floats have more digits than float32's."""
    return json.dumps(response, default=lambda array: array.tolist()).encode()


def tensor_metadata(spec: TensorSpec) -> dict[str, Any]:
    """A tensor in the model's metadata; -1 stands for any size."""
    return {"name": spec.name, "datatype": DATATYPES[spec.dtype], "shape": json_shape(spec)}


def model_metadata(manifest: Manifest, platform: str, versions: Sequence[str] = (VERSION,)) -> dict[str, Any]:
    """A model's tensors, as every server of the protocol describes them."""
    return {
        "name": manifest.name,
        "versions": list(versions),
        "platform": platform,
        "inputs": [tensor_metadata(spec) for spec in manifest.inputs],
        "outputs": [tensor_metadata(spec) for spec in manifest.outputs],
    }


def json_shape(spec: TensorSpec) -> list[int]:
    return [-1 if size is None else size for size in spec.shape]


def model_config(manifest: Manifest, platform: str, max_batch: int) -> dict[str, Any]:
    """The model as Triton's configuration describes it: dims without the batch, whose limit stands apart.

    A limit of 0 is Triton's word for a model whose calls are whole; its dims are the whole shapes.
    """

    def tensor(spec: TensorSpec) -> dict[str, Any]:
        kind = "STRING" if spec.dtype == "bytes" else DATATYPES[spec.dtype]
        dims = json_shape(spec)[1:] if manifest.has_rows else json_shape(spec)
        return {"name": spec.name, "data_type": f"TYPE_{kind}", "dims": dims}

    return {
        "name": manifest.name,
        "platform": platform,
        "backend": "",
        "version_policy": {"latest": {"num_versions": 1}},
        "max_batch_size": max_batch if manifest.has_rows else 0,
        "input": [tensor(spec) | {"format": "FORMAT_NONE", "optional": False} for spec in manifest.inputs],
        "output": [tensor(spec) | {"label_filename": ""} for spec in manifest.outputs],
        "dynamic_batching": {"max_queue_delay_microseconds": 0},
    }


def _object(what: str, value: Any) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise InputError(f"{what} is {show(value)}, expected a JSON object.")
    return value


def _or_empty(parameters: Any) -> Any:
    """Null counts as no parameters, as for the other fields that may be left out."""
    return {} if parameters is None else parameters


def _list(what: str, value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise InputError(f"{what!r} is {show(value)}, expected a JSON list.")
    return value


def _names(names: Any) -> str:
    return ", ".join(repr(name) for name in names)


def parse_object(body: bytes) -> Mapping[str, Any]:
    """A body that is a JSON object. Raises InputError."""
    return _object("The request", json_text.parse(body))
