"""gRPC messages <-> requests and answers: a message is brought into the form that JSON has, for the same checks."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from contract.errors import InputError
from contract.manifest import Manifest
from contract.tensors import Tensors
from serve.catalog import ServedModel
from serve.protocol import InferRequest, oip, tensors
from serve.protocol.json_text import MAX_TENSORS
from serve.rpc.messages import ModelInferResponse

CONTENTS = {
    "BOOL": "bool_contents",
    **dict.fromkeys(("INT8", "INT16", "INT32"), "int_contents"),
    "INT64": "int64_contents",
    **dict.fromkeys(("UINT8", "UINT16", "UINT32"), "uint_contents"),
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}
"""Where a message has the values of each datatype. Those of FP16 and BF16 are raw."""


MAX_VALUES, MAX_DIMENSIONS = 1_048_576, 64
"""Of one input, by its fields. A byte may be a value, so that a message holds four million; each becomes an object of
Python's, and no other thread runs meanwhile."""


@dataclass(frozen=True, slots=True)
class Sent:
    """A request as it came."""

    message: Any
    """The ModelInferRequest without its raw tensors."""
    fields: bytes
    """The bytes that it was made of."""
    raw: list[memoryview]


def read_request(sent: Sent, model: ServedModel) -> InferRequest:
    """A request that fits the model. Raises InputError."""
    message, raw = sent.message, sent.raw
    if not raw:
        return _read_fields(message, [], b"", model.described)
    if len(raw) != len(message.inputs):
        raise InputError(f"The request has {len(raw)} raw_input_contents, expected one for each of its inputs or none.")
    sizes = list(map(len, raw))
    payload = raw[0] if len(raw) == 1 else memoryview(b"".join(raw))
    header = sent.fields + repr(sizes).encode()
    return model.reader.read_raw(
        header, payload, lambda _, payload, manifest: _read_fields(message, sizes, payload, manifest)
    )


def _read_fields(message: Any, sizes: list[int], payload: memoryview | bytes, manifest: Manifest) -> InferRequest:
    for kind, sent, most in (
        ("inputs", message.inputs, len(manifest.inputs)),
        ("outputs", message.outputs, MAX_TENSORS),
    ):
        if len(sent) > most:  # each becomes a dict: a megabyte holds half a million of them
            raise InputError(f"The request has {len(sent)} {kind}, expected {most} at most.")
    inputs = [_input(tensor, sizes[place] if sizes else None) for place, tensor in enumerate(message.inputs)]
    outputs = [{"name": output.name, "parameters": _parameters(output)} for output in message.outputs]
    fields = {"inputs": inputs, "outputs": outputs or None, "parameters": _parameters(message)}
    return oip.read_fields(fields | ({"id": message.id} if message.id else {}), memoryview(payload), manifest)


def _input(tensor: Any, size: int | None) -> dict[str, Any]:
    """An input as JSON has it: its values, or how many raw bytes they are."""
    if len(tensor.shape) > MAX_DIMENSIONS:
        raise InputError(
            f"The input {tensor.name[:80]!r} has {len(tensor.shape)} dimensions, expected {MAX_DIMENSIONS} at most."
        )
    described: dict[str, Any] = {"name": tensor.name, "datatype": tensor.datatype, "shape": list(tensor.shape)}
    parameters = _parameters(tensor)
    if size is not None:
        if tensor.HasField("contents"):
            raise InputError(
                f"The input {tensor.name[:80]!r} has contents, and the request has raw_input_contents, expected one of "
                "them. Send each tensor once."
            )
        return described | {"parameters": parameters | {"binary_data_size": size}}
    field = CONTENTS.get(tensor.datatype)
    if field is None:
        raise InputError(f"The input {tensor.name[:80]!r} of datatype {tensor.datatype[:80]!r} has to be raw.")
    contents = getattr(tensor.contents, field)
    if len(contents) > MAX_VALUES:
        raise InputError(
            f"The input {tensor.name[:80]!r} has {len(contents)} values, expected {MAX_VALUES} at most. Send large "
            "tensors as raw_input_contents."
        )
    values = list(contents)
    if field == "bytes_contents":
        values = [value.decode("utf-8", "surrogateescape") for value in values]
    return described | {"parameters": parameters, "data": values}


def _parameters(message: Any) -> dict[str, Any]:
    parameters: dict[str, Any] = {}
    for name, value in message.parameters.items():
        kind = value.WhichOneof("parameter_choice")
        parameters[name] = getattr(value, kind) if kind else None
    return parameters


def answer(model: ServedModel, request: InferRequest, outputs: Tensors) -> Any:
    """The ModelInferResponse, whose tensors are raw."""
    response = ModelInferResponse(model_name=model.name, model_version=model.version, id=request.id or "")
    for name, _ in request.outputs:
        array = np.asarray(outputs[name])
        response.outputs.add(name=name, datatype=tensors.datatype_of(array), shape=array.shape)
        response.raw_output_contents.append(tensors.to_bytes(array))
    return response
