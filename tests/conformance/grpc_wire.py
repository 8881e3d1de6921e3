"""The same calls over gRPC: documents become messages of the published proto files, and answers documents again.

It needs the package tritonclient[grpc], which has the classes of these messages; the suite over HTTP does without.
"""

import itertools
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import grpc
import numpy as np
from tritonclient.grpc import service_pb2 as messages

from .wire import DTYPES, HEADER_LENGTH, TIMEOUT, Answer, Array, Inexpressible, Model, Server, to_raw

SERVICE = "inference.GRPCInferenceService"

FIELDS: Mapping[str, str] = {
    "BOOL": "bool_contents",
    **dict.fromkeys(("INT8", "INT16", "INT32"), "int_contents"),
    "INT64": "int64_contents",
    **dict.fromkeys(("UINT8", "UINT16", "UINT32"), "uint_contents"),
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}
"""InferTensorContents: the field of each datatype's values."""

KINDS: Mapping[type, str] = {
    bool: "bool_contents",
    int: "int64_contents",
    float: "fp64_contents",
    bytes: "bytes_contents",
}
"""The fields for values that their datatype's field does not take: it is for the server to refuse them."""

PARAMETERS: Mapping[type, str] = {
    bool: "bool_param",
    int: "int64_param",
    float: "double_param",
    str: "string_param",
}

OF_HTTP = ("binary_data", "binary_data_size", "binary_data_output")
"""Parameters that say which tensors are raw. A message says it by its fields, and a server chooses for its answer."""

STATUS: Mapping[grpc.StatusCode, int] = {
    grpc.StatusCode.INVALID_ARGUMENT: 400,
    grpc.StatusCode.FAILED_PRECONDITION: 400,
    grpc.StatusCode.OUT_OF_RANGE: 400,
    grpc.StatusCode.UNAUTHENTICATED: 401,
    grpc.StatusCode.PERMISSION_DENIED: 403,
    grpc.StatusCode.NOT_FOUND: 404,
    grpc.StatusCode.UNIMPLEMENTED: 405,
    grpc.StatusCode.ALREADY_EXISTS: 409,
    grpc.StatusCode.RESOURCE_EXHAUSTED: 429,
    grpc.StatusCode.UNAVAILABLE: 503,
    grpc.StatusCode.DEADLINE_EXCEEDED: 504,
}
"""The status of HTTP for each code that says whose fault it was; of all other codes it is 500."""

PATHS: Mapping[str, str] = {
    "/v2": "ServerMetadata",
    "/v2/health/live": "ServerLive",
    "/v2/health/ready": "ServerReady",
    "/v2/models/stats": "ModelStatistics",
    "/v2/repository/index": "RepositoryIndex",
}

OF_A_MODEL: Mapping[str | None, str] = {
    None: "ModelMetadata",
    "ready": "ModelReady",
    "config": "ModelConfig",
    "stats": "ModelStatistics",
    "infer": "ModelInfer",
    "load": "RepositoryModelLoad",
    "unload": "RepositoryModelUnload",
}
"""The calls by the end of their path, where the path names a model."""

MODEL_PATH = re.compile(
    r"/v2/(?:repository/)?models/(?P<name>[^/]+)(?:/versions/(?P<version>[^/]+))?(?:/(?P<end>\w+))?"
)


@dataclass(frozen=True)
class GrpcServer(Server):
    """A server by its gRPC port, grpc://127.0.0.1:8001; grpcs:// for TLS."""

    transport = "grpc"

    def get(self, path: str) -> Answer:
        return self.post(path, {})

    def encode(self, path: str, document: Any) -> bytes:
        name, fields = _call(path)
        make = _infer_request if name == "ModelInfer" else getattr(messages, f"{name}Request")
        try:
            body: bytes = make(**fields, **_object(document)).SerializeToString()
        except (TypeError, ValueError) as error:
            raise Inexpressible(f"{name}Request has no form of {str(document)[:300]}: {error}") from error
        return body

    def encode_raw(self, model: Model, document: Any, parts: Sequence[bytes]) -> bytes:
        """A request with raw tensors, as the bytes that are sent."""
        raw: bytes = messages.ModelInferRequest(raw_input_contents=parts).SerializeToString()
        return self.encode(f"{model.path}/infer", document) + raw  # messages in a row are read as one message

    def infer_raw(self, model: Model, document: Any, payload: bytes) -> Answer:
        """Each raw tensor has the size that its input names, but the last one has what is left of the payload."""
        sizes = [tensor["parameters"]["binary_data_size"] for tensor in document["inputs"] if "parameters" in tensor]
        starts = [0, *itertools.accumulate(sizes)][: len(sizes)]
        parts = [payload[start:end] for start, end in zip(starts, [*starts[1:], None], strict=True)]
        return self.send(f"{model.path}/infer", self.encode_raw(model, document, parts))

    def send(self, path: str, body: bytes, coding: str = "") -> Answer:
        name, _ = _call(path)
        compression = {"gzip": grpc.Compression.Gzip, "deflate": grpc.Compression.Deflate}.get(coding)
        with self._channel() as channel:
            try:
                answer = channel.unary_unary(f"/{SERVICE}/{name}")(body, timeout=TIMEOUT, compression=compression)
            except grpc.RpcError as error:
                return _answer(STATUS.get(error.code(), 500), {"error": error.details()})
        return _read(name, getattr(messages, f"{name}Response").FromString(answer))

    def _channel(self) -> Any:
        parts = urlsplit(self.url)
        if parts.scheme == "grpcs":
            return grpc.secure_channel(parts.netloc, grpc.ssl_channel_credentials())
        return grpc.insecure_channel(parts.netloc)


def _call(path: str) -> tuple[str, dict[str, str]]:
    """The call that a path stands for, and what the path says in place of the message."""
    if path in PATHS:
        return PATHS[path], {}
    match = MODEL_PATH.fullmatch(path)
    assert match, f"no call of gRPC stands for {path}"
    name = OF_A_MODEL[match["end"]]
    prefix = "model_" if name in ("ModelInfer", "RepositoryModelLoad", "RepositoryModelUnload") else ""
    version = {f"{prefix}version": match["version"]} if match["version"] else {}
    return name, {f"{prefix}name": match["name"], **version}


# Requests. What has another type than the message's field raises TypeError or ValueError.


def _infer_request(inputs: Any = None, outputs: Any = None, **fields: Any) -> Any:
    return messages.ModelInferRequest(
        inputs=[_input(**_object(tensor)) for tensor in _list(inputs)],
        outputs=[_output(**_object(output)) for output in _list(outputs)],
        **_with_parameters(fields),
    )


def _input(**fields: Any) -> Any:
    data, shape = fields.pop("data", None), fields.pop("shape", None)
    contents = None if data is None else _contents(fields.get("datatype"), _list(data))
    return messages.ModelInferRequest.InferInputTensor(
        shape=_list(shape), contents=contents, **_with_parameters(fields)
    )


def _output(**fields: Any) -> Any:
    return messages.ModelInferRequest.InferRequestedOutputTensor(**_with_parameters(fields))


def _contents(datatype: Any, values: list[Any]) -> Any:
    """The values in their datatype's field or, where it cannot have them, in that of their own kind."""
    values = [value.encode() if isinstance(value, str) else value for value in values]
    kinds = {type(value) for value in values}
    kind = float if kinds == {int, float} else kinds.pop() if len(kinds) == 1 else None
    fields = [FIELDS.get(str(datatype)), KINDS.get(kind) if kind else None]
    for field in fields:
        if field == "bool_contents" and kind is not bool:
            continue  # protobuf takes a 2 for true
        if field:
            try:
                return messages.InferTensorContents(**{field: values})
            except (TypeError, ValueError):
                continue
    raise TypeError(f"no field of InferTensorContents takes {str(values)[:80]}")


def _with_parameters(fields: Mapping[str, Any]) -> dict[str, Any]:
    parameters = _object({} if fields.get("parameters") is None else fields["parameters"])
    chosen = {name: _parameter(value) for name, value in parameters.items() if name not in OF_HTTP}
    return {**fields, "parameters": chosen}


def _parameter(value: Any) -> Any:
    if type(value) not in PARAMETERS:
        raise TypeError(f"InferParameter has no {type(value).__name__}")
    return messages.InferParameter(**{PARAMETERS[type(value)]: value})


def _object(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise TypeError(f"expected an object, got {type(value).__name__}")
    return value


def _list(value: Any) -> list[Any]:
    """A list; one that is not there is an empty one, as protobuf has it."""
    if value is not None and not isinstance(value, list):
        raise TypeError(f"expected a list, got {type(value).__name__}")
    return value or []


# Answers


def _answer(status: int, document: Any) -> Answer:
    return Answer(status, {}, json.dumps(document).encode())


def _read(name: str, message: Any) -> Answer:
    if name == "ModelInfer":
        return _read_tensors(message)
    if name == "ModelConfig":
        return _answer(200, _document(message.config))
    document = _document(message)
    if name == "RepositoryIndex":
        return _answer(200, document["models"])
    if False in (document.get("live"), document.get("ready")):  # HTTP says it by its status
        return _answer(400, {**document, "error": f"{name} answered false"})
    return _answer(200, document)


def _read_tensors(message: Any) -> Answer:
    """An answer whose tensors are all raw, in which form they may be NaN."""
    raw = list(message.raw_output_contents)
    if raw:
        assert len(raw) == len(message.outputs), "raw_output_contents has to have each output"
        assert not any(output.HasField("contents") for output in message.outputs), "an output has both forms of data"
    else:
        raw = [to_raw(_array(output)) for output in message.outputs]
    described = [
        {"name": output.name, "datatype": output.datatype, "shape": list(output.shape)} for output in message.outputs
    ]
    outputs = [
        {**output, "parameters": {"binary_data_size": len(data)}} for output, data in zip(described, raw, strict=True)
    ]
    optional = {name: text for name in ("model_version", "id") if (text := getattr(message, name))}
    header = json.dumps({"model_name": message.model_name, **optional, "outputs": outputs}).encode()
    return Answer(200, {HEADER_LENGTH.lower(): str(len(header))}, b"".join((header, *raw)))


def _array(output: Any) -> Array:
    """The values of an output that is not raw: those of its datatype's field, and there may be no others."""
    fields = [field.name for field, _ in output.contents.ListFields()]
    assert set(fields) <= {FIELDS.get(output.datatype)}, f"an output of {output.datatype} has {fields}"
    values: Sequence[Any] = getattr(output.contents, FIELDS[output.datatype])
    return np.array(values, DTYPES[output.datatype])


def _document(message: Any) -> dict[str, Any]:
    """A message as the protocol's JSON has it. Protobuf's own JSON has text for numbers of 64 bits."""
    return {
        field.name: _value(getattr(message, field.name), field)
        for field in message.DESCRIPTOR.fields
        if not field.has_presence or message.HasField(field.name)
    }


def _value(value: Any, field: Any) -> Any:
    if hasattr(value, "DESCRIPTOR"):
        return _document(value)
    if isinstance(value, Mapping):
        return {key: _value(item, field.message_type.fields_by_name["value"]) for key, item in value.items()}
    if isinstance(value, (bool, int, float, str)):
        return field.enum_type.values_by_number[value].name if field.enum_type else value
    return [_value(item, field) for item in value]
