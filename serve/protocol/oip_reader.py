"""The fast ways to read the Open Inference Protocol.

A client sends the same JSON with each request, and other values: the JSON was checked when it first came, so only the
values are read. JSON that is new, but of the usual form, is read without a Python object for each number. All else is
left to the general way in `oip.py`, which also has the messages.
"""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Self, cast

import numpy as np
import orjson
import simdjson

from contract.manifest import Manifest, TensorSpec
from contract.tensors import Tensors
from serve.protocol import InferRequest, oip, tensors
from serve.protocol.memory import Memory

USUAL = frozenset({"inputs", "id", "model_name", "name", "datatype", "shape", "data"})
"""The fields of a request that is read the fast way."""

LAYOUT_BYTES = 4096
"""How long the JSON may be whose layout is remembered."""

USUAL_BYTES = 2_000_000
"""Longer JSON is read in pieces, at three times the cost: the interpreter would stand still for too long."""

FLOAT32 = np.dtype(np.float32)

Parse = Callable[[bytes, memoryview, Manifest], InferRequest]
"""(a request's header, its raw tensors, the manifest) -> the request. Raises InputError."""

_parsers = threading.local()


@dataclass(frozen=True, slots=True)
class Layout:
    """What the JSON of a request or an answer states about its tensors, where it states nothing else."""

    tensors: tuple[tuple[str, np.dtype[Any], tuple[int, ...], int], ...]
    """Name, dtype, shape, and where the tensor begins in the bytes behind the JSON."""
    outputs: tuple[tuple[str, bool], ...] = ()
    """The outputs that a request names; True where they are to be raw bytes."""
    timeout: float | None = None
    """A request's time limit in seconds."""

    @classmethod
    def of(cls, arrays: Tensors, outputs: tuple[tuple[str, bool], ...] = (), timeout: float | None = None) -> Self:
        """The layout of tensors that lie one behind the other."""
        described, start = [], 0
        for name, array in arrays.items():
            described.append((name, array.dtype, array.shape, start))
            start += array.nbytes
        return cls(tuple(described), outputs, timeout)

    def rows(self, manifest: Manifest) -> int:
        """How many rows its tensors are; 1 for a whole call."""
        return self.tensors[0][2][0] if manifest.has_rows else 1

    def arrays(self, payload: memoryview) -> Tensors:
        """The tensors, where they lie in the payload. Raises TypeError if it is too short."""
        return {name: np.ndarray(shape, dtype, payload, start) for name, dtype, shape, start in self.tensors}


class RequestReader:
    """Reads the requests for one model."""

    def __init__(self, manifest: Manifest) -> None:
        self._manifest = manifest
        self._bounded = [spec for spec in manifest.inputs if spec.bounds]
        self._layouts: Memory[tuple[bytes, bytes | int], Layout] = Memory()
        """By the JSON of a binary request and the number of bytes behind it, or by the JSON before a request's numbers
        and the JSON behind them."""

    def read(self, body: bytes, header_length: str | None) -> InferRequest:
        """Read a request; `header_length` is the header of that name, where there is one.

        Raises InputError, whose message states what was sent and what was expected.
        """
        if header_length is None:
            usual = self._read_numbers(body) or self._read_usual(body) if len(body) <= USUAL_BYTES else None
            return usual or self._read_any(body)
        length = oip.json_length(body, header_length)
        if length == 0:
            return oip.parse_raw(memoryview(body), self._manifest)
        return self.read_raw(body[:length], memoryview(body)[length:], oip.parse_request)

    def known_layout(self, body: bytes, header_length: str | None) -> Layout | None:
        """The layout of a request in which only the values are new; None for any other request.

        The values are not checked here. Raises InputError as `read` does.
        """
        if header_length is None:
            start, end = _numbers_in(body)
            return self._layouts.get((body[:start], body[end:]))
        length = oip.json_length(body, header_length)
        return self._layouts.get((body[:length], len(body) - length))

    def _read_any(self, body: bytes) -> InferRequest:
        return oip.parse_request(body, memoryview(b""), self._manifest)

    def _read_numbers(self, body: bytes) -> InferRequest | None:
        """A request in which only the numbers are new; None for any other request.

        To read the numbers alone is half the work.
        """
        start, end = _numbers_in(body)
        layout = self._layouts.get((body[:start], body[end:]))
        if layout is None:
            return None
        try:
            numbers: Any = _parser().parse(body[start:end])
            values = np.frombuffer(numbers.as_buffer(of_type="d"), np.float64)
        except (ValueError, TypeError, RuntimeError):
            return None
        ((name, _, shape, _),) = layout.tensors
        return InferRequest({name: _floats(values, shape, self._manifest.inputs[0])}, layout.outputs)

    def _read_usual(self, body: bytes) -> InferRequest | None:
        """The usual request: one input of float32, flat numbers, no parameters. None for any other request.

        It costs a third of the general way: simdjson writes the numbers into one buffer, and no Python object is made
        for each. A request that is unusual or wrong is left to the general way.
        """
        (spec, *others) = self._manifest.inputs
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
        inputs = {spec.name: _floats(values, shape, spec)}
        request = InferRequest(inputs, oip.all_outputs(self._manifest, False), identity)
        if identity is None:
            self._remember_numbers(body, request)
        return request

    def _remember_numbers(self, body: bytes, request: InferRequest) -> None:
        """Let `_read_numbers` know a request of the usual form: its last bracket opens the data, or the shape."""
        start, end = _numbers_in(body)
        before, behind = body[:start], body[end:]
        if len(before) + len(behind) <= LAYOUT_BYTES and before.rstrip().removesuffix(b":").rstrip().endswith(
            b'"data"'
        ):
            self._layouts.remember((before, behind), Layout.of(request.inputs, request.outputs))

    def read_raw(self, header: bytes, payload: memoryview, parse: Parse) -> InferRequest:
        """A request with raw tensors beside its header, which `parse` reads. The last headers are remembered.

        Raises InputError.
        """
        known = header, len(payload)
        if layout := self._layouts.get(known):
            arrays = layout.arrays(payload)
            for spec in self._bounded:
                tensors.check_bounds(arrays[spec.name], spec)
            return InferRequest(arrays, layout.outputs, None, layout.timeout)
        request = parse(header, payload, self._manifest)
        is_plain = request.id is None and not (request.times or request.allow_nan)
        if len(header) <= LAYOUT_BYTES and is_plain and _is_raw(request.inputs, payload):
            self._layouts.remember(known, Layout.of(request.inputs, request.outputs, request.timeout))
        return request


class AnswerReader:
    """Reads a model's answers from another service: JSON, and behind it all of the model's outputs as raw bytes."""

    def __init__(self, outputs: Sequence[TensorSpec]) -> None:
        self._specs = outputs
        self._layouts: Memory[bytes, Layout] = Memory()

    def read(self, header: bytes, payload: memoryview) -> Tensors:
        """The outputs, where they lie in the payload.

        Raises ValueError, TypeError, KeyError or InputError for an answer that does not have the model's outputs.
        """
        if layout := self._layouts.get(header):
            return layout.arrays(payload)
        arrays = self._parse(header, payload)
        if _is_raw(arrays, payload):
            self._layouts.remember(header, Layout.of(arrays))
        return arrays

    def _parse(self, header: bytes, payload: memoryview) -> Tensors:
        specs = {spec.name: spec for spec in self._specs}
        arrays: dict[str, tensors.Array] = {}
        for output in orjson.loads(header)["outputs"]:
            spec, size = specs.pop(output["name"]), output["parameters"]["binary_data_size"]
            if output["datatype"] != tensors.DATATYPES[spec.dtype]:
                raise ValueError(f"{spec.name} has datatype {output['datatype']}")
            arrays[spec.name] = tensors.from_bytes(payload[:size], output["shape"], spec)
            payload = payload[size:]
        if specs:
            raise KeyError(*specs)
        return arrays


def _numbers_in(body: bytes) -> tuple[int, int]:
    """Where a JSON request's numbers begin and end: at the last opening bracket, and the next closing one."""
    start = body.rfind(b"[")
    return start, body.find(b"]", start) + 1


def _is_raw(arrays: Tensors, payload: memoryview) -> bool:
    """Whether the tensors fill the payload, and any bytes there are valid values."""
    return sum(array.nbytes for array in arrays.values()) == len(payload) and all(
        array.dtype.kind not in "bO" for array in arrays.values()
    )


def _floats(values: tensors.Array, shape: tuple[int, ...], spec: TensorSpec) -> tensors.Array:
    tensors.check_count(values.size, shape, spec)
    array = tensors.cast(values, FLOAT32, spec).reshape(shape)
    tensors.check_bounds(array, spec)
    return array


def _parser() -> simdjson.Parser:
    """One parser a thread: it keeps its memory from one request to the next."""
    try:
        return cast(simdjson.Parser, _parsers.parser)
    except AttributeError:
        _parsers.parser = simdjson.Parser()
        return cast(simdjson.Parser, _parsers.parser)
