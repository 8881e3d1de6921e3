"""The protocol as a client sees it: requests, answers, and tensors as JSON or as raw bytes."""

import http.client
import json
import math
import struct
import zlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

HEADER_LENGTH = "Inference-Header-Content-Length"
TIMEOUT = 30

DTYPES: Mapping[str, np.dtype[Any]] = {
    "BOOL": np.dtype(np.bool_),
    "UINT8": np.dtype("<u1"),
    "UINT16": np.dtype("<u2"),
    "UINT32": np.dtype("<u4"),
    "UINT64": np.dtype("<u8"),
    "INT8": np.dtype("<i1"),
    "INT16": np.dtype("<i2"),
    "INT32": np.dtype("<i4"),
    "INT64": np.dtype("<i8"),
    "FP16": np.dtype("<f2"),
    "BF16": np.dtype("<u2"),  # NumPy has none: its two bytes are kept as they are
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
    "BYTES": np.dtype(object),
}
"""Required API, Tensor Data Types (BF16: the binary tensor data extension)."""

ONLY_RAW = ("FP16", "BF16")
"""Datatypes that JSON is not required to carry, and for which a message of gRPC has no field."""


class Inexpressible(ValueError):
    """The transport has no form for this request: a message of gRPC has no place for a text where a number belongs."""


@dataclass(frozen=True)
class Answer:
    """An answer in the form of HTTP; the names of its headers are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The document, read as strictly as RFC 8259 has it: NaN and Infinity are no JSON."""
        return json.loads(self.body[: self._end], parse_constant=_refuse)

    @property
    def raw(self) -> bytes:
        """The raw tensors behind the document."""
        return self.body[self._end :]

    @property
    def _end(self) -> int:
        length = self.headers.get(HEADER_LENGTH.lower())
        return len(self.body) if length is None else int(length)

    @property
    def is_refusal(self) -> bool:
        """Whether it is what the protocol wants for every failed request: an error status and `{"error": string}`."""
        try:
            error = self.json["error"]
        except (ValueError, TypeError, KeyError):
            return False
        return 400 <= self.status < 500 and isinstance(error, str) and bool(error)

    def __str__(self) -> str:
        return f"{self.status} {self.body[:300]!r}"


def _refuse(name: str) -> float:
    raise ValueError(f"{name} is no JSON")


@dataclass(frozen=True)
class Server(ABC):
    """A server under test, whatever carries the requests. Tests name calls by their paths, as HTTP does."""

    url: str
    transport: ClassVar[str]

    @abstractmethod
    def get(self, path: str) -> Answer:
        """Ask for a description."""

    @abstractmethod
    def encode(self, path: str, document: Any) -> bytes:
        """A request's document as the bytes that are sent to this path. Raises Inexpressible."""

    @abstractmethod
    def send(self, path: str, body: bytes, coding: str = "") -> Answer:
        """Send these bytes, whatever they are; `coding` compresses them: gzip or deflate."""

    @abstractmethod
    def infer_raw(self, model: "Model", document: Any, payload: bytes) -> Answer:
        """Send a document, and its raw tensors beside it."""

    def post(self, path: str, document: Any) -> Answer:
        return self.send(path, self.encode(path, document))

    def infer(self, model: "Model", document: Any) -> Answer:
        return self.post(f"{model.path}/infer", document)


@dataclass(frozen=True)
class HttpServer(Server):
    """A server by its HTTP port; each request has a connection of its own."""

    transport = "http"

    def ask(
        self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> Answer:
        """Send exactly these headers, besides Host and Content-Length."""
        parts = urlsplit(self.url)
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        connection = kind(parts.hostname or "", parts.port, timeout=TIMEOUT)
        try:
            connection.request(method, parts.path.rstrip("/") + path, body, dict(headers or {}))
            response = connection.getresponse()
            names = {name.lower(): value for name, value in response.getheaders()}
            return Answer(response.status, names, response.read())
        finally:
            connection.close()

    def get(self, path: str) -> Answer:
        return self.ask("GET", path)

    def encode(self, path: str, document: Any) -> bytes:
        return json.dumps(document).encode()

    def send(self, path: str, body: bytes, coding: str = "") -> Answer:
        headers = {"Content-Type": "application/json"}
        if coding:
            packer = zlib.compressobj(wbits=31 if coding == "gzip" else 15)
            body, headers["Content-Encoding"] = packer.compress(body) + packer.flush(), coding
        return self.ask("POST", path, body, headers)

    def infer_raw(self, model: "Model", document: Any, payload: bytes, header_length: str | None = None) -> Answer:
        """Post a document with raw tensors behind it; `header_length` lies about where the document ends."""
        header = json.dumps(document).encode()
        length = str(len(header)) if header_length is None else header_length
        headers = {"Content-Type": "application/octet-stream", HEADER_LENGTH: length}
        return self.ask("POST", f"{model.path}/infer", header + payload, headers)


@dataclass(frozen=True)
class Tensor:
    """A tensor as the model's metadata describes it; -1 is any size."""

    name: str
    datatype: str
    shape: tuple[int, ...]

    def sized(self, rows: int) -> tuple[int, ...]:
        """A concrete shape: `rows` for the first size where it is free, 2 for the others."""
        return tuple((rows if axis == 0 else 2) if size < 0 else size for axis, size in enumerate(self.shape))


@dataclass(frozen=True)
class Model:
    """A model as its metadata describes it."""

    name: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    versions: tuple[str, ...] = ()
    metadata: Mapping[str, Any] = field(default_factory=dict)

    @property
    def path(self) -> str:
        return f"/v2/models/{self.name}"

    @property
    def has_batches(self) -> bool:
        """Whether the first size of every tensor is free: rows."""
        return all(tensor.shape and tensor.shape[0] == -1 for tensor in (*self.inputs, *self.outputs))

    @property
    def fits_json(self) -> bool:
        return all(tensor.datatype not in ONLY_RAW for tensor in self.inputs)

    def values(self, rows: int = 1, seed: int = 0) -> dict[str, Array]:
        """A valid array for each input, the same ones for the same seed."""
        random = np.random.default_rng(seed)
        return {tensor.name: _values(tensor, rows, random) for tensor in self.inputs}

    def datatype(self, name: str) -> str:
        return next(tensor.datatype for tensor in (*self.inputs, *self.outputs) if tensor.name == name)

    def document(self, values: Mapping[str, Array], nested: bool = False) -> dict[str, Any]:
        """An inference request with its tensors as JSON."""
        return {"inputs": [self._input(name, array, to_json(array, nested)) for name, array in values.items()]}

    def _input(self, name: str, array: Array, data: Any) -> dict[str, Any]:
        return {"name": name, "datatype": self.datatype(name), "shape": list(array.shape), "data": data}

    def raw(self, values: Mapping[str, Array], as_json: Sequence[str] = ()) -> tuple[dict[str, Any], bytes]:
        """An inference request with raw tensors, those of `as_json` excepted; and the bytes behind it."""
        document, payload = self.document(values), b""
        for tensor in document["inputs"]:
            if tensor["name"] not in as_json:
                data = to_raw(values[tensor["name"]])
                del tensor["data"]
                tensor["parameters"] = {"binary_data_size": len(data)}
                payload += data
        return document, payload


def read_model(server: Server, name: str) -> Model:
    """The model's metadata; what is wrong with it is left to the tests of metadata."""
    answer = server.get(f"/v2/models/{name}")
    assert answer.status == 200, f"{name}: {answer}"
    found = answer.json

    def tensors(key: str) -> tuple[Tensor, ...]:
        return tuple(Tensor(t["name"], t["datatype"], tuple(t["shape"])) for t in found[key])

    return Model(name, tensors("inputs"), tensors("outputs"), tuple(found.get("versions") or ()), found)


def _values(tensor: Tensor, rows: int, random: np.random.Generator) -> Array:
    shape, dtype = tensor.sized(rows), DTYPES[tensor.datatype]
    if tensor.datatype == "BYTES":
        array = np.empty(math.prod(shape), object)
        array[:] = [f"text {number}".encode() for number in random.integers(0, 1000, array.size)]
        strings: Array = array.reshape(shape)
        return strings
    if tensor.datatype == "BF16":
        return (random.random(shape, np.float32).view(np.uint32) >> 16).astype(dtype)
    if dtype.kind == "f":
        return (random.integers(0, 256, shape) / 4).astype(dtype)
    return random.integers(0, 2, shape).astype(dtype)


def to_json(array: Array, nested: bool = False) -> list[Any]:
    """Values as JSON has them, flat or nested by the array's sizes."""
    if array.dtype == object:
        array = np.vectorize(lambda item: item.decode(), otypes=[object])(array)
    values: list[Any] = (array if nested else array.ravel()).tolist()
    return values


def to_raw(array: Array) -> bytes:
    """Row by row, little-endian; byte strings each behind its length in 4 bytes."""
    if array.dtype == object:
        return b"".join(struct.pack("<I", len(item)) + item for item in array.ravel().tolist())
    return array.tobytes()


def from_raw(data: bytes, datatype: str, shape: Sequence[int]) -> Array:
    if datatype != "BYTES":
        return np.frombuffer(data, DTYPES[datatype]).reshape(shape)
    items, start = [], 0
    while start < len(data):
        (length,) = struct.unpack_from("<I", data, start)
        items.append(data[start + 4 : start + 4 + length])
        start += 4 + length
    array = np.empty(len(items), object)
    array[:] = items
    return array.reshape(shape)


def outputs(answer: Answer) -> dict[str, Array]:
    """The outputs of a successful answer, in its order, from JSON or from raw bytes."""
    assert answer.status == 200, answer
    arrays: dict[str, Array] = {}
    start = 0
    for output in answer.json["outputs"]:
        shape, datatype = output["shape"], output["datatype"]
        size = output.get("parameters", {}).get("binary_data_size")
        if size is None:
            arrays[output["name"]] = _from_json(output["data"], datatype).reshape(shape)
        else:
            arrays[output["name"]] = from_raw(answer.raw[start : start + size], datatype, shape)
            start += size
    assert start == len(answer.raw), "the body is longer than the document and its raw tensors"
    return arrays


def _from_json(data: Any, datatype: str) -> Array:
    if datatype == "BYTES":
        flat = np.array(data, np.str_).ravel()
        array = np.empty(flat.size, object)
        array[:] = [item.encode() for item in flat.tolist()]
        return array
    return np.array(data, np.float32 if datatype == "BF16" else DTYPES[datatype]).ravel()


def assert_same(got: Mapping[str, Array], expected: Mapping[str, Array], close: bool = False) -> None:
    """Equal names, shapes and values; `close` allows for another order of adding, as batches have it."""
    assert list(got) == list(expected)
    for name, array in got.items():
        assert array.shape == expected[name].shape, name
        if array.dtype.kind == "f" and close:
            np.testing.assert_allclose(array, expected[name], rtol=1e-3, atol=1e-5, err_msg=name)
        else:
            np.testing.assert_array_equal(array, expected[name], err_msg=name)
