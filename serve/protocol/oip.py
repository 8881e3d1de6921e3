"""The Open Inference Protocol v2 over REST, with the binary tensor extension in both directions.

JSON has no NaN and no infinity: in requests they are refused, in answers they are null. Raw tensors keep them.
"""

import functools
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import orjson
import simdjson

from contract.errors import InputError
from contract.manifest import Manifest, TensorSpec
from serve.protocol import VERSION, InferRequest, Reply, tensors
from serve.protocol.tensors import DATATYPES, show
from serve.runtimes import Tensors, numpy_dtype
from serve.stats import Duration, ModelStats

HEADER_LENGTH = "Inference-Header-Content-Length"
UNSUPPORTED = ("classification", "shared_memory_region")
"""Parameters of extensions that the server's metadata does not list."""

USUAL = frozenset({"inputs", "id", "model_name", "name", "datatype", "shape", "data"})
"""The fields of a request that is read the fast way."""

LAYOUTS, LAYOUT_BYTES = 256, 4096
"""How many layouts are remembered, and how long the JSON of one may be."""

FLOAT32 = np.dtype(np.float32)

Known = tuple[bytes, bytes | int, tuple[TensorSpec, ...], tuple[TensorSpec, ...]]

_layouts: dict[Known, "Layout"] = {}
"""By the JSON of a binary request and the number of bytes behind it, or by the JSON before a request's numbers and that
behind them; and by what the model takes and gives."""

_parsers = threading.local()


def parse_infer(body: bytes, header_length: str | None, manifest: Manifest) -> InferRequest:
    """Read an inference request; `header_length` is the header of that name, where there is one.

    Raises InputError, whose message says what was got and what was expected.
    """
    if header_length is None:
        return _parse_numbers(body, manifest) or _parse_fast(body, manifest) or _parse(body, memoryview(b""), manifest)
    length = _header_length(body, header_length)
    if length == 0:
        return _parse_raw(memoryview(body), manifest)
    return _parse_known(body[:length], memoryview(body)[length:], manifest)


def _header_length(body: bytes, said: str) -> int:
    digits = said.isascii() and said.isdigit() and len(said) <= 20
    if not digits or int(said) > len(body):
        raise InputError(f"{HEADER_LENGTH} is {show(said)}, expected a number from 0 to {len(body)}, the body's bytes.")
    return int(said)


def known_layout(body: bytes, header_length: str | None, manifest: Manifest) -> "Layout | None":
    """What a request says of which nothing but the values is new, or None for any other.

    A client sends the same JSON with each request, and it was found right when it came first. Raw values are right,
    whatever they are; those in JSON are not looked at here. Raises InputError as `parse_infer` does.
    """
    if header_length is None:
        start = body.rfind(b"[")
        return _layouts.get((body[:start], body[body.find(b"]", start) + 1 :], manifest.inputs, manifest.outputs))
    length = _header_length(body, header_length)
    return _layouts.get((body[:length], len(body) - length, manifest.inputs, manifest.outputs))


def _parse_numbers(body: bytes, manifest: Manifest) -> InferRequest | None:
    """A request of which nothing but the numbers is new, or None for any other.

    What is between the last opening bracket and the next closing one is then all that is to be read: half of the work.
    """
    layout = known_layout(body, None, manifest)
    if layout is None:
        return None
    try:
        start = body.rfind(b"[")
        numbers: Any = _parser().parse(body[start : body.find(b"]", start) + 1])
        values = np.frombuffer(numbers.as_buffer(of_type="d"), np.float64)
    except (ValueError, TypeError, RuntimeError):
        return None
    ((name, _, shape, _),) = layout.tensors
    return InferRequest({name: _floats(values, shape, manifest.inputs[0])}, layout.outputs)


def _floats(values: tensors.Array, shape: tuple[int, ...], spec: TensorSpec) -> tensors.Array:
    tensors.check_count(values.size, shape, spec)
    return tensors.cast(values, FLOAT32, spec).reshape(shape)


def _parse_fast(body: bytes, manifest: Manifest) -> InferRequest | None:
    """The usual request - one input of float32, flat numbers, no parameters - or None for any other.

    It costs a third of the general way: simdjson writes the numbers into one buffer, and no Python object is made for
    each. Whatever is unusual or wrong is left to the general way, which also has the messages.
    """
    (spec, *others) = manifest.inputs
    # Brackets: the list of inputs, the shape, and the data, which is flat if there are no more.
    if others or spec.dtype != "float32" or body.count(b"[") != 3:
        return None
    try:
        document: Any = _parser().parse(body)
        tensor = document["inputs"][0]
        fields = [*document, *tensor]
        shape = tensor["shape"].as_list()
        if not USUAL.issuperset(fields) or len(set(fields)) < len(fields):  # of two equal keys, the last counts
            return None
        if tensor["name"] != spec.name or tensor["datatype"] != "FP32" or len(document["inputs"]) != 1:
            return None
        identity = document["id"] if "id" in fields else None  # get() throws in C++ where there is none: 4 us
        if not isinstance(identity, str | None):
            return None
        values = np.frombuffer(tensor["data"].as_buffer(of_type="d"), np.float64)
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RuntimeError):
        return None
    shape = tensors.check_shape(shape, spec)
    request = InferRequest({spec.name: _floats(values, shape, spec)}, _all_outputs(manifest, False), identity)
    if identity is None:
        _remember_numbers(body, request, manifest)
    return request


def _remember_numbers(body: bytes, request: InferRequest, manifest: Manifest) -> None:
    """Let `_parse_numbers` know a request that was read the fast way: its last bracket opens the data, or the shape."""
    start = body.rfind(b"[")
    before, behind = body[:start], body[body.index(b"]", start) + 1 :]
    if len(before) + len(behind) <= LAYOUT_BYTES and before.rstrip().removesuffix(b":").rstrip().endswith(b'"data"'):
        _remember((before, behind, manifest.inputs, manifest.outputs), request)


@dataclass(frozen=True, slots=True)
class Layout:
    """What the JSON of a request says that describes its tensors and nothing else."""

    tensors: tuple[tuple[str, np.dtype[Any], tuple[int, ...], int], ...]
    """Name, dtype, shape, and where the tensor begins in the bytes behind the header."""
    outputs: tuple[tuple[str, bool], ...]
    timeout: float | None

    @property
    def rows(self) -> int:
        return self.tensors[0][2][0]


def _parse_known(header: bytes, payload: memoryview, manifest: Manifest) -> InferRequest:
    """What `_parse` does, with a memory: a client sends the same header with each request, and other bytes behind it.

    Such a header was found right when it came first, and says nothing of the values.
    """
    known = header, len(payload), manifest.inputs, manifest.outputs
    if layout := _layouts.get(known):
        inputs = {name: np.ndarray(shape, dtype, payload, start) for name, dtype, shape, start in layout.tensors}
        return InferRequest(inputs, layout.outputs, None, layout.timeout)
    request = _parse(header, payload, manifest)
    if len(header) <= LAYOUT_BYTES and request.id is None and _is_raw(request.inputs, payload):
        _remember(known, request)
    return request


def _remember(known: Known, request: InferRequest) -> None:
    if len(_layouts) >= LAYOUTS:
        _layouts.clear()
    _layouts[known] = _layout(request)


def _is_raw(inputs: Tensors, payload: memoryview) -> bool:
    """Whether all inputs lie in the payload as they are, and every value is a good one."""
    return sum(array.nbytes for array in inputs.values()) == len(payload) and all(
        array.dtype.kind not in "bO" for array in inputs.values()
    )


def _layout(request: InferRequest) -> Layout:
    described, start = [], 0
    for name, array in request.inputs.items():
        described.append((name, array.dtype, array.shape, start))
        start += array.nbytes
    return Layout(tuple(described), request.outputs, request.timeout)


def _parser() -> simdjson.Parser:
    """One parser a thread: it keeps its memory from one request to the next."""
    try:
        return cast(simdjson.Parser, _parsers.parser)
    except AttributeError:
        _parsers.parser = simdjson.Parser()
        return cast(simdjson.Parser, _parsers.parser)


def _parse(header: bytes, payload: memoryview, manifest: Manifest) -> InferRequest:
    request = _object("The request", _parse_json(header))
    parameters = _object("The request's parameters", request.get("parameters", {}))
    _refuse_unsupported(parameters)
    identity = request.get("id")
    if identity is not None and not isinstance(identity, str):
        raise InputError(f"The request's id is {show(identity)}, expected a string.")
    inputs = _parse_inputs(request.get("inputs"), payload, manifest)
    binary = _flag(parameters, "binary_data_output")
    outputs = _parse_outputs(request.get("outputs"), binary, manifest)
    return InferRequest(inputs, outputs, identity, _timeout(parameters))


def _parse_json(body: bytes) -> Any:
    try:
        return orjson.loads(body)
    except ValueError as error:
        text = body[:60].decode("utf-8", "replace")
        hint = " JSON has no NaN or Infinity: send them as raw tensor data." if _names_non_finite(body) else ""
        raise InputError(f"The request is not JSON ({error}).{hint} It begins with {show(text)}.") from None


def _names_non_finite(body: bytes) -> bool:
    return b"NaN" in body or b"Infinity" in body


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
    if len({len(array) for array in arrays.values()}) > 1:
        sizes = {name: len(array) for name, array in arrays.items()}
        raise InputError(f"The inputs differ in their batch: {sizes}.")
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
    parameters = _object(f"The parameters of the input {name!r}", tensor.get("parameters", {}))
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


def _parse_raw(payload: memoryview, manifest: Manifest) -> InferRequest:
    """A body without any JSON: the only input's bytes, as many rows as they make."""
    spec = manifest.inputs[0]
    sizes = spec.shape[1:]
    if len(manifest.inputs) != 1 or None in sizes or spec.dtype == "bytes":
        raise InputError(f"{manifest.name} cannot be sent as bytes alone: that takes one input of a fixed shape.")
    row = numpy_dtype(spec.dtype).itemsize * int(np.prod([size or 1 for size in sizes], dtype=np.int64))
    if not len(payload) or len(payload) % row:
        raise InputError(f"The body has {len(payload)} bytes, expected a multiple of {row}: one row of {spec.name!r}.")
    shape = tensors.check_shape((len(payload) // row, *sizes), spec)
    inputs = {spec.name: tensors.from_bytes(payload, shape, spec)}
    return InferRequest(inputs, _all_outputs(manifest, True))


def _parse_outputs(outputs: Any, binary: bool, manifest: Manifest) -> tuple[tuple[str, bool], ...]:
    if outputs is None:
        return _all_outputs(manifest, binary)
    known = [spec.name for spec in manifest.outputs]
    asked: dict[str, bool] = {}
    for output in _list("outputs", outputs):
        name = _object("An output", output).get("name")
        if not isinstance(name, str) or name not in known:
            raise InputError(f"The model has no output {show(name)}. Its outputs are {_names(known)}.")
        parameters = _object(f"The parameters of the output {name!r}", output.get("parameters", {}))
        _refuse_unsupported(parameters)
        asked[name] = _flag(parameters, "binary_data", binary)
    return tuple(asked.items()) or _all_outputs(manifest, binary)


def _all_outputs(manifest: Manifest, binary: bool) -> tuple[tuple[str, bool], ...]:
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


def infer_reply(model: str, request: InferRequest, outputs: Tensors) -> Reply:
    """The answer: JSON, and behind it the raw bytes of the outputs that were asked for that way."""
    if len(request.outputs) == 1 and request.id is None:
        return _reply_of_one(model, *request.outputs[0], outputs)
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
    response: dict[str, Any] = {"model_name": model, "model_version": VERSION, "outputs": answers}
    if request.id is not None:
        response["id"] = request.id
    header = orjson.dumps(response, option=orjson.OPT_SERIALIZE_NUMPY)
    if not payloads:
        return Reply(header)
    headers = {HEADER_LENGTH: str(len(header))}
    return Reply(b"".join((header, *payloads)), content_type="application/octet-stream", headers=headers)


def _reply_of_one(model: str, name: str, binary: bool, outputs: Tensors) -> Reply:
    """The same for the usual request: all but the numbers is known from the last answer of this shape."""
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
def _head(model: str, name: str, datatype: str, shape: tuple[int, ...]) -> bytes:
    """A JSON answer of one output, up to its numbers."""
    answer = {"name": name, "datatype": datatype, "shape": shape, "data": []}
    return orjson.dumps({"model_name": model, "model_version": VERSION, "outputs": [answer]}).removesuffix(b"[]}]}")


@functools.lru_cache(1024)
def _binary_header(model: str, name: str, datatype: str, shape: tuple[int, ...], size: int) -> bytes:
    """The JSON before the raw bytes of one output."""
    answer = {"name": name, "datatype": datatype, "shape": shape, "parameters": {"binary_data_size": size}}
    return orjson.dumps({"model_name": model, "model_version": VERSION, "outputs": [answer]})


def _json_values(array: tensors.Array) -> Any:
    """Flat, row by row; orjson writes an array of a dtype that it knows without a Python object for each number."""
    if array.dtype == object:
        return [item.decode("utf-8", "replace") for item in array.ravel().tolist()]
    if array.dtype.kind in "biu" or array.dtype in (np.float32, np.float64):
        return np.ascontiguousarray(array).reshape(-1)
    return array.astype(np.float32).ravel()


def tensor_metadata(spec: TensorSpec) -> dict[str, Any]:
    """A tensor in the model's metadata; -1 stands for any size."""
    return {"name": spec.name, "datatype": DATATYPES[spec.dtype], "shape": json_shape(spec)}


def json_shape(spec: TensorSpec) -> list[int]:
    return [-1 if size is None else size for size in spec.shape]


def model_config(manifest: Manifest, platform: str, max_batch: int) -> dict[str, Any]:
    """The model as Triton's configuration describes it: dims without the batch, whose limit stands apart."""

    def tensor(spec: TensorSpec) -> dict[str, Any]:
        kind = "STRING" if spec.dtype == "bytes" else DATATYPES[spec.dtype]
        return {"name": spec.name, "data_type": f"TYPE_{kind}", "dims": json_shape(spec)[1:]}

    return {
        "name": manifest.name,
        "platform": platform,
        "backend": "",
        "version_policy": {"latest": {"num_versions": 1}},
        "max_batch_size": max_batch,
        "input": [tensor(spec) | {"format": "FORMAT_NONE", "optional": False} for spec in manifest.inputs],
        "output": [tensor(spec) | {"label_filename": ""} for spec in manifest.outputs],
        "dynamic_batching": {"max_queue_delay_microseconds": 0},
    }


def _object(what: str, value: Any) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise InputError(f"{what} is {show(value)}, expected a JSON object.")
    return value


def _list(what: str, value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise InputError(f"{what!r} is {show(value)}, expected a JSON list.")
    return value


def _names(names: Any) -> str:
    return ", ".join(repr(name) for name in names)


def parse_object(body: bytes) -> Mapping[str, Any]:
    """A body that is a JSON object. Raises InputError."""
    return _object("The request", _parse_json(body))


def model_stats(name: str, stats: ModelStats) -> dict[str, Any]:
    """A model's numbers as Triton's statistics extension gives them: counts, and nanoseconds in all."""

    def duration(what: Duration) -> dict[str, int]:
        return {"count": what.count, "ns": round(what.seconds * 1e9)}

    calls = Duration(sum(c.count for c in stats.calls.values()), sum(c.seconds for c in stats.calls.values()))
    nothing = Duration()
    return {
        "name": name,
        "version": VERSION,
        "last_inference": round(stats.last * 1000),
        "inference_count": stats.rows,
        "execution_count": calls.count,
        "inference_stats": {
            "success": duration(stats.success),
            "fail": duration(stats.fail),
            "queue": duration(stats.queue),
            "compute_input": duration(nothing),
            "compute_infer": duration(calls),
            "compute_output": duration(nothing),
            "cache_hit": duration(nothing),
            "cache_miss": duration(nothing),
        },
        "batch_stats": [
            {
                "batch_size": rows,
                "compute_input": duration(nothing),
                "compute_infer": duration(call),
                "compute_output": duration(nothing),
            }
            for rows, call in sorted(stats.calls.items())
        ],
    }
