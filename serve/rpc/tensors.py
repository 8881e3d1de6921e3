"""gRPC messages <-> requests and answers: a message is brought into the form that JSON has, for the same checks."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from contract.errors import InputError
from contract.manifest import Manifest
from contract.tensors import Tensors
from serve.catalog import ServedModel
from serve.protocol import InferRequest, oip, tensors
from serve.protocol.json_text import MAX_TENSORS, MAX_VALUES
from serve.rpc.messages import ModelInferResponse

CONTENTS = {
    "BOOL": ("bool_contents", np.bool_),
    **dict.fromkeys(("INT8", "INT16", "INT32"), ("int_contents", np.int32)),
    "INT64": ("int64_contents", np.int64),
    **dict.fromkeys(("UINT8", "UINT16", "UINT32"), ("uint_contents", np.uint32)),
    "UINT64": ("uint64_contents", np.uint64),
    "FP32": ("fp32_contents", np.float32),
    "FP64": ("fp64_contents", np.float64),
    "BYTES": ("bytes_contents", np.object_),
}
"""Where a message has the values of each datatype, and in which dtype. Those of FP16 and BF16 are raw."""

MAX_DIMENSIONS = 64


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
    """An input as JSON has it: its values, numbers as one flat array, or how many raw bytes they are."""
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
    if tensor.datatype not in CONTENTS:
        raise InputError(f"The input {tensor.name[:80]!r} of datatype {tensor.datatype[:80]!r} has to be raw.")
    field, dtype = CONTENTS[tensor.datatype]
    values = getattr(tensor.contents, field)
    if dtype is not np.object_:  # one copy of the message's own memory; a list would be an object for each value
        return described | {"parameters": parameters, "data": np.array(values, dtype)}
    if len(values) > MAX_VALUES:  # each becomes an object, and no other thread runs meanwhile
        raise InputError(
            f"The input {tensor.name[:80]!r} is {len(values)} byte strings, expected {MAX_VALUES} at most. Send "
            "less at once."
        )
    strings = [value.decode("utf-8", "surrogateescape") for value in values]
    return described | {"parameters": parameters, "data": strings}


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
