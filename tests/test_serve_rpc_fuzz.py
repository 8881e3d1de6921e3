"""Hostile gRPC, seeded: damaged messages, prefixes, compression and frames, and what they cost.

`FUZZ_CASES=100000 pytest tests/test_serve_rpc_fuzz.py -s` is the long run.
"""

import contextlib
import gzip
import os
import socket
import struct
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import grpc
import numpy as np
import pytest
from tritonclient.grpc.service_pb2 import ModelInferRequest, ModelInferResponse

from serve.rpc import http2
from serve.rpc.http2 import FRAME_BYTES, LARGEST
from serve.rpc.messages import HEALTH, INFERENCE, REFLECTION
from tests.conformance.mutations import damaged
from tests.conftest import NUMBERS, write_every_type
from tests.costs import DOZEN, GIVES_BACK, MEMORY_MB, Costs, Meter, Send
from tests.serving import Service, free_port, listens, started, wait_until
from tests.test_docs import write_model
from tests.test_serve_rpc_http2 import Caller, frame

CASES = int(os.environ.get("FUZZ_CASES") or 480)

INFER, STREAM = f"/{INFERENCE}/ModelInfer", f"/{INFERENCE}/ModelStreamInfer"
MODEL, TYPED = "keras_cnn-onnx", "every_type-onnx"

FAULTS = {"2", "4", "13", "14"}
"""Codes that blame the service: unknown, too late, internal, unavailable. No hostile call may get one of them."""

GZIP = {"grpc_encoding": "gzip"}

PING = b"fuzzing?"

CONTENTS = ["bool", "int", "int64", "uint", "uint64", "fp32", "fp64", "bytes"]
DATATYPES = ["BOOL", "UINT8", "UINT64", "INT8", "INT64", "FP16", "BF16", "FP32", "FP64", "BYTES", "", "x" * 900, "FP33"]
SHAPES = [[], [-1], [0, 28, 28, 1], [1, 28, 28], [2**62, 28, 28, 1], [2**31] * 4, [-(2**63)] * 3, [1] * 9000, [784]]
TEXTS = ["", "x", "-1", "\0", "\u2603", "x" * 5000, "../../etc/passwd", "%s%n"]

CALLS = [f"/{INFERENCE}/{name}" for name in ("ServerLive", "ServerReady", "ServerMetadata", "ModelReady")]
CALLS += [f"/{INFERENCE}/{name}" for name in ("ModelMetadata", "ModelConfig", "ModelStatistics", "RepositoryIndex")]
CALLS += [f"/{INFERENCE}/{name}" for name in ("RepositoryModelLoad", "RepositoryModelUnload")]
CALLS += [f"/{HEALTH}/Check", f"/{REFLECTION}/ServerReflectionInfo"]


def field_of(tag: int, content: bytes) -> bytes:
    """A field of a message whose length comes before it, by its tag."""
    return bytes((tag,)) + varint(len(content)) + content


def varint(value: int) -> bytes:
    parts = bytearray()
    while value >= 0x80:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes((*parts, value))


def prefixed(body: bytes, is_compressed: bool = False, length: int | None = None) -> bytes:
    """A message as gRPC sends it."""
    return struct.pack(">BI", is_compressed, len(body) if length is None else length) + body


def of_picture() -> ModelInferRequest:
    """A request that the model answers."""
    request = ModelInferRequest(model_name=MODEL, id="1", raw_input_contents=[bytes(3136)])
    request.inputs.add(name="pixels", datatype="FP32", shape=[1, 28, 28, 1])
    return request


def of_every_type() -> ModelInferRequest:
    """A request that the model of every datatype answers."""
    request = ModelInferRequest(model_name=TYPED)
    for name in [*NUMBERS, "bytes"]:
        kind = name.upper().replace("FLOAT", "FP")
        tensor = request.inputs.add(name=f"{name}_in", datatype=kind, shape=[1, 2])
        place = {"INT8": "int", "INT16": "int", "INT32": "int", "UINT8": "uint", "UINT16": "uint", "UINT32": "uint"}
        values = getattr(tensor.contents, f"{place.get(kind, kind.lower())}_contents")
        values.extend([b"a", b"\xff"] if kind == "BYTES" else [1, 0])
    return request


UNITS = [b"\0", b"\1", b"\xff", b"\x80\1", b"\x42\0", b"\x42\1x", b"\x42\2xy", b"\x0b", b"\x0c", b"\x2a\0", b"\x3a\0"]
UNITS += [b"\x2a\2\x3a\0", b"\x22\0", b"\x22\3\x0a\1", b"\x40\1", b"\x49" + bytes(8), b"\x32\0", b"\xe2\x9c\x93"]
"""Small things that fill a message: numbers, empty and short texts, groups, inputs, raw tensors, parameters, unknown
fields."""

WAYS = [(), (0x0A,), (0x1A,), (0x22,), (0x2A,), (0x32,), (0x3A,), (0x2A, 0x1A), (0x2A, 0x22), (0x2A, 0x2A)]
"""The tags of what they stand in: the message, its model's name, id, parameters, an input, an output, a raw tensor; an
input's shape, its parameters, its values."""

FIELDS = {"bool": 1, "int8": 2, "int64": 3, "uint8": 4, "uint64": 5, "float32": 6, "float64": 7, "bytes": 8}
"""A kind of every field for values, and its number."""


def within(way: tuple[int, ...], content: bytes) -> bytes:
    for tag in reversed(way):
        content = field_of(tag, content)
    return content


def in_values(kind: str, unit: bytes, times: int) -> bytes:
    """An input with so many values, in the field of its datatype."""
    values = unit * times if kind == "bytes" else field_of(FIELDS[kind] << 3 | 2, unit * times)
    shape = field_of(0x1A, b"\1" + varint(times))
    described = field_of(0x0A, f"{kind}_in".encode()) + field_of(0x12, kind.upper().replace("FLOAT", "FP").encode())
    return field_of(0x2A, described + shape + field_of(0x2A, values))


@dataclass(frozen=True)
class Hostile:
    """A call, or frames."""

    kind: str
    data: bytes
    path: str = INFER
    headers: Mapping[str, str] = field(default_factory=dict)
    is_call: bool = True
    """Whether the data are those of a call, which has to be answered; else they are frames."""
    is_framed: bool = True
    """Whether the frames have their right lengths."""


def block(path: str = INFER) -> bytes:
    """The headers of a call, which leave the table of the connection as it is."""
    fields = {b":method": b"POST", b":scheme": b"http", b":path": path.encode(), b"content-type": b"application/grpc"}
    return http2.header_block(fields.items())


def first_windows(*sizes: int) -> bytes:
    """How much an answer may have at first: each size takes the place of the one before."""
    return frame(http2.SETTINGS, 0, 0, b"".join(struct.pack(">HI", http2.INITIAL_WINDOW_SIZE, size) for size in sizes))


FLOODS = {
    "pings": frame(http2.PING, 0, 0, bytes(8)),
    "settings": frame(http2.SETTINGS),
    "first windows": first_windows(0) + first_windows(1) + first_windows(2),
    "first windows in long frames": first_windows(*[0, 1, 2] * 3000),
    "room for all": frame(http2.WINDOW_UPDATE, 0, 0, struct.pack(">I", 1)),
    "room for nothing": frame(http2.WINDOW_UPDATE, 0, 1, struct.pack(">I", 1)),
    "priorities": frame(http2.PRIORITY, 0, 1, bytes(5)),
    "empty data": frame(http2.DATA, 0, 1),
    "resets": frame(http2.RST_STREAM, 0, 1, bytes(4)),
    "unknown frames": frame(99, 0, 0, b"x" * 900),
}


def flood(calls: int, unit: bytes, times: int = 1_000_000) -> Hostile:
    """Calls whose answers have no room, and then this again and again: less than a megabyte."""
    parts = [first_windows(0)]
    for stream in range(1, 2 * calls, 2):
        parts.append(frame(http2.HEADERS, http2.END_HEADERS, stream, block(CALLS[0])))
        parts.append(frame(http2.DATA, http2.END_STREAM, stream, prefixed(b"")))
    start = b"".join(parts)
    return Hostile("flood", start + unit * min(times, (990_000 - len(start)) // len(unit)), is_call=False)


def packed(content: bytes, path: str = INFER) -> Hostile:
    return Hostile("packed", prefixed(gzip.compress(content), True), path, GZIP)


HOSTILE: dict[str, tuple[Hostile, str]] = {
    **{f"999 calls and {name}": (flood(999, unit), "taken") for name, unit in FLOODS.items() if name != "resets"},
    "4 million numbers": (packed(within((0x0A,), TYPED.encode()) + in_values("int64", b"\1", 4_190_000)), "3"),
    "a million numbers": (packed(within((0x0A,), TYPED.encode()) + in_values("float32", b"\1\2\3\4", 1_040_000)), "3"),
    "a million byte strings": (
        packed(within((0x0A,), TYPED.encode()) + in_values("bytes", b"\x42\2xy", 1_040_000)),
        "3",
    ),
    "4 million dimensions": (packed(within((0x0A,), TYPED.encode()) + within((0x2A, 0x1A), b"\1" * 4_190_000)), "3"),
    "10 million raw tensors": (packed(b"\x3a\0" * 10_000_000), "3"),
    "2 million inputs": (packed(b"\x2a\0" * 2_000_000), "3"),
    "groups in one another": (packed(within((0x2A,), b"\x0b" * 4_000_000)), "3"),
    "32 MB for the reflection": (packed(field_of(0x3A, b"x" * 31_000_000), CALLS[-1]), "8"),
    "parameters of a load": (packed(b"\x1a\5\x0a\3abc" * 4_000_000, CALLS[8]), "8"),
    "32 MB for the index": (packed(b"\x10\1" * 15_000_000, CALLS[7]), "8"),
    "10,000 requests in a stream": (Hostile("many", prefixed(b"") * 10_000, STREAM), "0"),
    "200,000 messages where there is one": (Hostile("many", prefixed(b"") * 199_000), "12"),
}
"""Each is less than a million bytes; and the code with which it is answered."""


class Fuzzer:
    """Makes hostile calls and frames, the same ones for the same seed."""

    def __init__(self, seed: int) -> None:
        self.random = np.random.default_rng(seed)
        self.picture, self.typed = of_picture().SerializeToString(), of_every_type().SerializeToString()
        self.kinds: list[Callable[[], Hostile]] = [
            *(self.odd_message,) * 4,
            *(self.damaged_message,) * 4,
            *(self.odd_prefix,) * 2,
            *(self.odd_compression,) * 2,
            *(self.amplified,) * 3,
            *(self.deep,) * 1,
            *(self.odd_headers,) * 1,
            *(self.odd_call,) * 3,
            *(self.odd_stream,) * 2,
            *(self.damaged_frames,) * 4,
            *(self.flood,) * 2,
        ]

    def pick(self, choices: list[Any]) -> Any:
        return choices[self.random.integers(len(choices))]

    def make(self) -> Hostile:
        return self.pick(self.kinds)()  # type: ignore[no-any-return]

    # Messages

    def odd_message(self) -> Hostile:
        return Hostile("odd_message", prefixed(self.odd()))

    def odd(self) -> bytes:
        """A valid message some of whose fields have odd values."""
        request = of_picture() if self.random.integers(3) else of_every_type()
        for _ in range(self.random.integers(1, 4)):
            tensor = self.pick(list(request.inputs)) if request.inputs else request.inputs.add()
            match self.random.integers(11):
                case 0:
                    request.model_name = self.pick([MODEL, TYPED, *TEXTS])
                case 1:
                    request.model_version = self.pick(["1", "2", *TEXTS])
                case 2:
                    request.id = self.pick(TEXTS)
                case 3:
                    tensor.name = self.pick(TEXTS)
                case 4:
                    tensor.datatype = self.pick(DATATYPES)
                case 5:
                    tensor.shape[:] = self.pick(SHAPES)
                case 6:
                    raw = bytes(self.pick([0, 1, 3135, 3137, 90_000]))
                    request.raw_input_contents[:] = [raw] * self.pick([0, 1, 2])
                case 7:
                    kind = self.pick(CONTENTS)
                    getattr(tensor.contents, f"{kind}_contents").extend([b"\xff" if kind == "bytes" else 1] * 900)
                case 8:
                    request.outputs.add(name=self.pick(["probabilities", "bytes_out", *TEXTS]))
                case 9:
                    owner = self.pick([request, tensor])
                    self.set_parameter(owner.parameters[self.pick(["binary_data_size", "timeout", "priority", "x"])])
                case _:
                    request.inputs.append(tensor)
        body: bytes = request.SerializeToString()
        return body

    def set_parameter(self, parameter: Any) -> None:
        name, value = self.pick(
            [
                ("bool_param", True),
                ("int64_param", self.pick([0, -1, 2**63 - 1])),
                ("double_param", self.pick([float("nan"), float("inf"), 1e308])),
                ("string_param", self.pick(TEXTS)),
            ]
        )
        setattr(parameter, name, value)

    def damaged_message(self) -> Hostile:
        return Hostile("damaged_message", prefixed(damaged(self.pick([self.picture[:90], self.typed]), self.random)))

    def odd_prefix(self) -> Hostile:
        """The length and the flag before a message may lie, and there may be more or less than one message."""
        body = self.picture
        length = self.pick([len(body)] * 3 + [0, 1, len(body) - 1, len(body) + 1, 2**31, 2**32 - 1, 10_000_000])
        data = struct.pack(">BI", self.pick([0, 0, 0, 1, 2, 255]), length) + body
        data = self.pick([data, data, data[: int(self.random.integers(len(data)))], data * 2, b"", bytes(5) * 30_000])
        return Hostile("odd_prefix", data, headers=self.pick([{}, GZIP]))

    def odd_compression(self) -> Hostile:
        body = self.pick([self.picture, self.odd()])
        packed = self.pick([gzip.compress(body, 1), zlib.compress(body, 1), body, gzip.compress(gzip.compress(body))])
        packed = self.pick([packed, packed, packed[:-9], damaged(packed, self.random), b""])
        name = self.pick(["gzip"] * 4 + ["deflate", "identity", "br", "gzip, gzip", "x" * 300])
        return Hostile(
            "odd_compression", prefixed(packed, self.pick([True, True, False])), headers={"grpc_encoding": name}
        )

    def amplified(self) -> Hostile:
        """A message of few bytes that is up to 30 MB when it is decompressed: a small thing again and again."""
        return Hostile("amplified", self.many(), self.pick([INFER] * 3 + [STREAM]), GZIP)

    def many(self) -> bytes:
        unit, most = self.pick(UNITS), self.pick([7.5, 6.6])  # the second one: what a message may have without tensors
        times = int(10 ** self.random.uniform(3, most)) // len(unit)
        named = field_of(0x0A, self.pick([MODEL, TYPED]).encode())
        content = within(self.pick(WAYS), unit * times)
        if self.random.integers(3) == 0:
            named, content = field_of(0x0A, TYPED.encode()), in_values(self.pick(list(FIELDS)), unit, times)
        return prefixed(gzip.compress(named + content, 1), True)

    def deep(self) -> Hostile:
        """Groups, or messages, in one another."""
        depth = int(10 ** self.random.uniform(1, 5))
        nest = b"\x0b" * depth + self.pick([b"", b"\x0c" * depth])
        if self.random.integers(2):
            nest = b""
            for _ in range(depth % 2000):
                nest = field_of(self.pick([0x2A, 0x22, 0x12]), nest)
        return Hostile("deep", prefixed(within(self.pick(WAYS), nest)), self.pick([INFER, *CALLS]))

    def odd_headers(self) -> Hostile:
        headers = {
            self.pick(["grpc_timeout", "grpc_encoding", "authorization", "x", "te", "user_agent"]): self.pick(
                ["", "1", "99999999H", "99999999n", "-1S", "1x", "\u2603", "x" * 9000, "Bearer " + "y" * 300]
            )
        }
        headers |= {f"x-{number}": "y" for number in range(self.pick([0, 0, 300]))}
        path = self.pick([INFER, "", "/", "//", "*", "/x" * 2000, f"{INFER}/", INFER.lower(), "/%00", "\u2603"])
        return Hostile("odd_headers", prefixed(self.picture), path, headers)

    def odd_call(self) -> Hostile:
        """The calls other than for tensors."""
        match self.random.integers(4):
            case 0:
                return Hostile("odd_call", self.many(), self.pick(CALLS), GZIP)
            case 1:
                body = self.odd()
            case 2:
                body = b"".join(field_of(self.pick([0x0A, 0x12, 0x1A, 0x22]), self.text()) for _ in range(3))
            case _:
                body = damaged(field_of(0x0A, MODEL.encode()) + field_of(0x12, b"1"), self.random)
        return Hostile("odd_call", prefixed(body), self.pick(CALLS))

    def text(self) -> bytes:
        return self.pick([MODEL, "x", INFERENCE, "inference.proto", *TEXTS]).encode()  # type: ignore[no-any-return]

    def odd_stream(self) -> Hostile:
        parts = [
            prefixed(self.pick([self.picture, self.odd(), damaged(self.typed, self.random)]))
            for _ in range(self.random.integers(1, 12))
        ]
        return Hostile("odd_stream", b"".join(parts), STREAM)

    # Frames

    def conversation(self) -> list[tuple[int, int, int, bytes]]:
        """The frames of some good calls: kind, flags, stream, payload."""
        ends = http2.END_HEADERS
        live = block(CALLS[0])
        return [
            (http2.SETTINGS, 0, 0, struct.pack(">HIHI", http2.INITIAL_WINDOW_SIZE, 100, http2.MAX_FRAME_SIZE, 20_000)),
            (http2.HEADERS, ends, 1, block()),
            (http2.DATA, 0, 1, prefixed(self.picture)[:100]),
            (http2.HEADERS, 0, 3, live[:7]),
            (http2.CONTINUATION, ends, 3, live[7:]),
            (http2.PING, 0, 0, bytes(8)),
            (http2.DATA, http2.END_STREAM | http2.PADDED, 3, b"\3" + bytes(5) + b"\0\0\0"),
            (http2.DATA, http2.END_STREAM, 1, prefixed(self.picture)[100:]),
            (http2.WINDOW_UPDATE, 0, 1, struct.pack(">I", 1000)),
            (http2.PRIORITY, 0, 5, b"\0\0\0\0\1"),
            (http2.HEADERS, ends, 5, live),
            (http2.RST_STREAM, 0, 5, struct.pack(">I", http2.CANCEL)),
            (http2.WINDOW_UPDATE, 0, 0, struct.pack(">I", 1000)),
        ]

    def damaged_frames(self) -> Hostile:
        frames = self.conversation()
        for _ in range(self.random.integers(1, 4)):
            place = self.random.integers(len(frames))
            kind, flags, stream, payload = frames[place]
            match self.random.integers(7):
                case 0:
                    del frames[place]
                case 1:
                    frames.insert(self.random.integers(len(frames)), frames[place])
                case 2:
                    frames[place] = int(self.random.integers(12)), flags, stream, payload
                case 3:
                    frames[place] = kind, int(self.random.integers(256)), stream, payload
                case 4:
                    frames[place] = kind, flags, self.pick([0, 1, 2, 3, 5, 7, LARGEST, 2**32 - 1]), payload
                case 5:
                    frames[place] = kind, flags, stream, damaged(payload, self.random)
                case _:
                    frames[place] = kind, flags, stream, self.random.bytes(int(self.random.integers(40)))
        data = b"".join(frame(*each) for each in frames)
        if self.random.integers(2):
            return Hostile("damaged_frames", data, is_call=False)
        return Hostile("damaged_bytes", damaged(data, self.random), is_call=False, is_framed=False)

    def flood(self) -> Hostile:
        """Some calls whose answers have no room, and then frames again and again."""
        calls, units = self.pick([0, 1, 30, 999]), [FLOODS[name] for name in FLOODS]
        return flood(calls, self.pick(units) + self.pick([b"", *units]), int(10 ** self.random.uniform(1, 5)))


# The run


class Line(Caller):
    """A connection that counts what it sends."""

    def __init__(self, port: int) -> None:
        self.sent, self.stream = 0, -1
        super().__init__(port)

    def give_room(self) -> None:
        """Let every answer come at once."""
        self.send(frame(http2.SETTINGS, 0, 0, struct.pack(">HI", http2.INITIAL_WINDOW_SIZE, LARGEST)))
        self.send(frame(http2.WINDOW_UPDATE, 0, 0, struct.pack(">I", LARGEST - 65_535)))

    def __enter__(self) -> "Line":
        return self

    def send(self, *parts: bytes) -> None:
        self.sent += sum(map(len, parts))
        super().send(*parts)

    def call(self, case: Hostile) -> str:
        """Call, and return the code of the answer: gRPC's or, of what is no gRPC, HTTP's."""
        self.stream += 2
        self.begin(self.stream, case.path, http2.END_HEADERS, **case.headers)
        pieces = [case.data[start : start + FRAME_BYTES] for start in range(0, len(case.data), FRAME_BYTES)] or [b""]
        self.send(*(frame(http2.DATA, 0, self.stream, piece) for piece in pieces[:-1]))
        self.send(frame(http2.DATA, http2.END_STREAM, self.stream, pieces[-1]))
        headers, _ = self.answer(self.stream)
        assert headers, "the connection ended without an answer"
        return headers.get("grpc-status", headers[":status"])

    def speak(self, case: Hostile) -> str:
        """Send frames, and wait until they are taken, or until the connection ends: by its code, if it has one."""
        self.send(case.data)
        if case.is_framed:
            self.send(frame(http2.PING, 0, 0, PING))
        else:
            with contextlib.suppress(OSError):
                self.socket.shutdown(socket.SHUT_WR)
        code = "hung up"
        for kind, flags, _, payload in self.frames():
            if kind == http2.GOAWAY:
                code = f"away {struct.unpack('>I', payload[4:8])[0]}"
            if kind == http2.PING and flags & http2.ACK and payload == PING:
                return "taken"
        return code


@contextlib.contextmanager
def over_grpc(port: int, counts: Counter[str]) -> Iterator[Send[Hostile]]:
    """Sends calls on a connection that is kept, and frames on connections of their own."""

    def send(case: Hostile) -> int:
        if case.is_call:
            before = line.sent
            code = line.call(case)
            size = line.sent - before
            assert code not in FAULTS, (case.kind, code, case.path, case.data[:300])
        else:
            with Line(port) as own:
                code = own.speak(case)
                size = own.sent
        counts[f"{case.kind} {code}"] += 1
        return size

    with Line(port) as line:
        line.give_room()
        yield send


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Service, int]]:
    """The service, and its gRPC port."""
    folder, port = tmp_path_factory.mktemp("rpc_fuzz"), free_port()
    write_model(folder / "artifacts" / "keras_cnn" / "onnx")
    write_every_type(folder / "artifacts" / "every_type" / "onnx", [*NUMBERS, "bytes"])
    with started(folder / "artifacts", folder / "output", GRPC_PORT=str(port), **GIVES_BACK) as running:
        wait_until(lambda: listens(port))
        yield running, port


@pytest.fixture(scope="module")
def counts() -> Counter[str]:
    """How often each kind got each code."""
    return Counter()


@pytest.fixture(scope="module")
def meter(service: tuple[Service, int], counts: Counter[str]) -> Iterator[Meter[Hostile]]:
    with Meter(service[0], partial(over_grpc, service[1], counts)) as meter:
        yield meter


def good_answer(port: int) -> Any:
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        answer = channel.unary_unary(INFER)(of_picture().SerializeToString(), timeout=20)
    return np.frombuffer(ModelInferResponse.FromString(answer).raw_output_contents[0], np.float32)


@pytest.mark.parametrize("name", HOSTILE)
def test_a_small_call_costs_little_and_holds_up_no_health_check(
    meter: Meter[Hostile], counts: Counter[str], name: str
) -> None:
    case, code = HOSTILE[name]
    assert len(case.data) < 1_000_000
    before = counts[f"{case.kind} {code}"]
    cost = meter.least_cost([case])
    print(f"\n{name}: {cost}")
    assert not cost.is_too_high
    assert counts[f"{case.kind} {code}"] > before, counts


def test_no_hostile_call_costs_much_or_disturbs_others(
    service: tuple[Service, int], meter: Meter[Hostile], counts: Counter[str]
) -> None:
    running, port = service
    expected, workers, logged = good_answer(port), running.workers(), len(running.log)
    costs, fuzzer = Costs(meter), Fuzzer(CASES)
    for start in range(0, CASES, DOZEN):
        costs.add([fuzzer.make() for _ in range(min(DOZEN, CASES - start))])
        np.testing.assert_allclose(good_answer(port), expected, atol=1e-6)
    print(f"\n{costs}\n{dict(sorted(counts.items()))}")
    assert [(case.kind, case.path, case.data[:200], cost) for case, cost in costs.dear] == []
    assert running.log[logged:] == ""
    assert running.workers() == workers
    assert costs.growth <= MEMORY_MB
