"""HTTP/2 under gRPC: what is answered, what ends the connection, and that nobody's misuse disturbs others."""

import contextlib
import itertools
import socket
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import hpack
import numpy as np
import pytest

from serve.rpc import http2
from serve.rpc.connection import RESETS
from serve.rpc.http2 import FRAME_BYTES, LARGEST, MAX_CONTINUATIONS, PREFACE, Http2, Violation
from serve.rpc.messages import INFERENCE, message
from tests.conftest import write_every_type
from tests.serving import Service, free_port, listens, started, wait_until
from tests.test_docs import write_model
from tests.test_serve_rpc import MODEL, asked

LIVE, INFER = f"/{INFERENCE}/ServerLive", f"/{INFERENCE}/ModelInfer"
EMPTY = b"\0\0\0\0\0"
"""A message without fields."""

Frame = tuple[int, int, int, bytes]
"""Kind, flags, stream, payload."""


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Service, int]]:
    folder, port = tmp_path_factory.mktemp("http2"), free_port()
    write_model(folder / "artifacts" / "keras_cnn" / "onnx")
    write_every_type(folder / "artifacts" / "every_type" / "onnx", ["float32"])
    more = {"GRPC_PORT": str(port), "SERVE_MAX_BYTES": "1000000", "SERVE_TIMEOUT": "2"}
    with started(folder / "artifacts", folder / "output", **more) as running:
        wait_until(lambda: listens(port))
        yield running, port


def frame(kind: int, flags: int = 0, stream: int = 0, payload: bytes = b"") -> bytes:
    return struct.pack(">I", len(payload))[1:] + bytes((kind, flags)) + struct.pack(">I", stream) + payload


class Caller:
    """A connection that speaks HTTP/2 as it is told."""

    def __init__(self, port: int, settings: dict[int, int] | None = None) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=20)
        self._encoder, self._decoder = hpack.Encoder(), hpack.Decoder()
        self._received = b""
        pairs = b"".join(struct.pack(">HI", *pair) for pair in (settings or {}).items())
        self.socket.sendall(PREFACE + frame(http2.SETTINGS, 0, 0, pairs))

    def __enter__(self) -> "Caller":
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, *parts: bytes) -> None:
        with contextlib.suppress(ConnectionError):
            self.socket.sendall(b"".join(parts))

    def block(self, path: str = LIVE, **more: str) -> bytes:
        fields = {":method": "POST", ":scheme": "http", ":path": path, ":authority": "x", "te": "trailers"}
        fields |= {"content-type": "application/grpc"} | {name.replace("_", "-"): value for name, value in more.items()}
        encoded: bytes = self._encoder.encode([(name, value) for name, value in fields.items() if value])
        return encoded

    def begin(self, stream: int, path: str = LIVE, flags: int = http2.END_HEADERS, **more: str) -> None:
        self.send(frame(http2.HEADERS, flags, stream, self.block(path, **more)))

    def frames(self) -> Iterator[Frame]:
        """What comes, until the connection ends."""
        while True:
            while len(self._received) < 9 or len(self._received) < 9 + self._size():
                try:
                    data = self.socket.recv(65536)
                except ConnectionError:
                    return
                if not data:
                    return
                self._received += data
            size, head = self._size(), self._received[:9]
            payload, self._received = self._received[9 : 9 + size], self._received[9 + size :]
            yield head[3], head[4], struct.unpack(">I", head[5:9])[0], payload

    def _size(self) -> int:
        return int.from_bytes(self._received[:3], "big")

    def answer(self, stream: int) -> tuple[dict[str, str], bytes]:
        """All headers of an answer, and its data."""
        headers: dict[str, str] = {}
        data = b""
        for kind, flags, of, payload in self.frames():
            if kind == http2.HEADERS:
                fields = self._decoder.decode(payload)
                if of == stream:
                    headers |= {str(name): str(value) for name, value in fields}
            elif kind == http2.DATA and of == stream:
                data += payload
            if of == stream and kind in (http2.HEADERS, http2.DATA) and flags & http2.END_STREAM:
                break
        return headers, data

    def end(self) -> int | None:
        """The code with which the service ends the connection; None where it says none."""
        code = None
        for kind, _, _, payload in self.frames():
            if kind == http2.GOAWAY:
                code = struct.unpack(">I", payload[4:8])[0]
        return code


@pytest.fixture
def caller(service: tuple[Service, int]) -> Iterator[Caller]:
    with Caller(service[1]) as caller:
        yield caller


@pytest.fixture(autouse=True)
def _others_are_answered(service: tuple[Service, int]) -> Iterator[None]:
    """After each test: the service answers, and has logged nothing."""
    yield
    with grpc.insecure_channel(f"127.0.0.1:{service[1]}") as channel:
        channel.unary_unary(INFER)(asked(), timeout=20)
    assert service[0].log == ""


# What is answered


def ask(caller: Caller, stream: int, body: bytes = EMPTY, **more: str) -> tuple[dict[str, str], bytes]:
    caller.send(frame(http2.HEADERS, http2.END_HEADERS, stream, caller.block(**more)))
    caller.send(frame(http2.DATA, http2.END_STREAM, stream, body))
    return caller.answer(stream)


LIVE_ANSWER = b"\0\0\0\0\2\x08\x01"


def test_a_call_is_answered_again_and_again(caller: Caller) -> None:
    for stream in (1, 3, 5, 21):
        headers, data = ask(caller, stream)
        assert headers == {":status": "200", "content-type": "application/grpc", "grpc-status": "0"}
        assert data == LIVE_ANSWER


def test_padding_priority_continuations_and_pieces_are_read(caller: Caller) -> None:
    block = caller.block()
    flags = http2.PADDED | http2.WITH_PRIORITY
    caller.send(frame(http2.HEADERS, flags, 1, b"\3" + b"\0\0\0\0\x10" + block[:4] + b"\0\0\0"))
    caller.send(frame(http2.CONTINUATION, 0, 1, block[4:9]), frame(http2.CONTINUATION, http2.END_HEADERS, 1, block[9:]))
    caller.send(frame(http2.PRIORITY, 0, 3, b"\0\0\0\0\1"), frame(99, 0, 0, b"unknown"))
    for byte in frame(http2.DATA, http2.PADDED, 1, b"\2" + EMPTY[:2] + b"\0\0"):
        caller.send(bytes((byte,)))
    caller.send(frame(http2.DATA, 0, 1, EMPTY[2:]), frame(http2.DATA, http2.END_STREAM, 1))
    assert caller.answer(1)[1] == LIVE_ANSWER


def test_pings_are_answered_and_settings_acknowledged(caller: Caller) -> None:
    caller.send(frame(http2.PING, 0, 0, b"12345678"))
    seen = [(kind, flags, payload) for kind, flags, _, payload in itertools.islice(caller.frames(), 4)]
    assert (http2.PING, http2.ACK, b"12345678") in seen and (http2.SETTINGS, http2.ACK, b"") in seen


def test_an_answer_waits_for_the_room_that_the_caller_gives(service: tuple[Service, int]) -> None:
    with Caller(service[1], {http2.INITIAL_WINDOW_SIZE: 3}) as caller:
        caller.begin(1)
        caller.send(frame(http2.DATA, http2.END_STREAM, 1, EMPTY))
        got = b""
        for kind, flags, stream, payload in caller.frames():
            if kind == http2.DATA and stream == 1:
                got += payload
                caller.send(frame(http2.WINDOW_UPDATE, 0, 1, struct.pack(">I", 1)))
            if kind == http2.HEADERS and flags & http2.END_STREAM:
                break
        assert got == LIVE_ANSWER
        caller.send(frame(http2.SETTINGS, 0, 0, struct.pack(">HI", http2.INITIAL_WINDOW_SIZE, 0)))
        caller.begin(3)
        caller.send(frame(http2.DATA, http2.END_STREAM, 3, EMPTY))
        caller.send(frame(http2.SETTINGS, 0, 0, struct.pack(">HI", http2.INITIAL_WINDOW_SIZE, 100)))
        assert caller.answer(3)[1] == LIVE_ANSWER


def test_many_calls_of_many_bytes_pass_through_the_windows(service: tuple[Service, int]) -> None:
    """More than the window of the connection, in both directions."""
    values = np.arange(200_000, dtype=np.float32)
    request = message("inference.ModelInferRequest")(
        model_name="every_type-onnx", raw_input_contents=[values.tobytes()]
    )
    request.inputs.add(name="float32_in", datatype="FP32", shape=[1, values.size])
    with grpc.insecure_channel(f"127.0.0.1:{service[1]}") as channel:
        call = channel.unary_unary(INFER)
        calls = [call.future(request.SerializeToString(), timeout=30) for _ in range(24)]
        answers = [message("inference.ModelInferResponse").FromString(each.result()) for each in calls]
        packed = call(request.SerializeToString(), timeout=30, compression=grpc.Compression.Gzip)
    assert {answer.raw_output_contents[0] for answer in answers} == {values.tobytes()}
    assert message("inference.ModelInferResponse").FromString(packed).raw_output_contents[0] == values.tobytes()


def test_a_call_ends_at_its_own_time_limit(caller: Caller) -> None:
    caller.begin(1, grpc_timeout="50m")
    headers, _ = caller.answer(1)
    assert (headers["grpc-status"], "own time limit" in headers["grpc-message"]) == ("4", True)
    assert ask(caller, 3)[1] == LIVE_ANSWER


REFUSED: dict[str, tuple[dict[str, str], bytes, str]] = {
    "no message": ({}, b"", "12"),
    "two messages": ({}, EMPTY * 2, "12"),
    "half a message": ({}, b"\0\0\0\0\5x", "12"),
    "a message that is too long": ({}, b"\0\x7f\xff\xff\xff", "8"),
    "an unknown compression": ({"grpc_encoding": "br"}, b"\1\0\0\0\1x", "3"),
    "a damaged compression": ({"grpc_encoding": "gzip"}, b"\1\0\0\0\1x", "3"),
    "an unknown call": ({"path": "/x"}, EMPTY, "12"),
    "another method": ({":method": "GET"}, EMPTY, ""),
    "another type": ({"content_type": "application/json"}, EMPTY, ""),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_call_that_cannot_be_answered_is_refused_alone(caller: Caller, name: str) -> None:
    more, body, status = REFUSED[name]
    headers, _ = ask(caller, 1, body, **more)
    assert headers[":status"] == ("200" if status else "415")
    assert headers.get("grpc-status", "") == status
    assert ask(caller, 3)[1] == LIVE_ANSWER


def test_a_request_that_does_not_come_to_its_end_is_given_up(caller: Caller) -> None:
    caller.begin(1)
    headers, _ = caller.answer(1)
    assert headers["grpc-status"] == "4" and "not complete within 2 s" in headers["grpc-message"]


# What ends the connection


def flood(count: int, *frames: bytes) -> Callable[[Caller], None]:
    return lambda caller: caller.send(b"".join(frames) * count)


def resets(caller: Caller) -> None:
    for stream in range(1, 2 * RESETS + 5, 2):
        caller.begin(stream)
        caller.send(frame(http2.RST_STREAM, 0, stream, bytes(4)))


def bad_block(caller: Caller) -> None:
    caller.send(frame(http2.HEADERS, http2.END_HEADERS, 1, b"\xff\xff\xff\xff\xff\xff"))


def backwards(caller: Caller) -> None:
    caller.begin(5)
    caller.begin(3)


def bomb(caller: Caller) -> None:
    """A long header that is in the table, named again and again."""
    encoder = hpack.Encoder()
    encoder.header_table_size = 4096
    first = encoder.encode([("x", "y" * 4000)])
    caller.send(frame(http2.HEADERS, http2.END_HEADERS, 1, first + b"\xbe" * 1000))


VIOLATIONS: dict[str, tuple[Callable[[Caller], None], int]] = {
    "a frame that is too long": (flood(1, b"\1\0\1\0\0\0\0\0\1"), http2.FRAME_SIZE_ERROR),
    "data for no call": (flood(1, frame(http2.DATA, 0, 1, b"x")), http2.PROTOCOL_ERROR),
    "data for the connection": (flood(1, frame(http2.DATA, 0, 0, b"x")), http2.PROTOCOL_ERROR),
    "an even call": (flood(1, frame(http2.HEADERS, http2.END_HEADERS, 2, b"\x82")), http2.PROTOCOL_ERROR),
    "calls backwards": (backwards, http2.PROTOCOL_ERROR),
    "headers that hpack cannot read": (bad_block, http2.COMPRESSION_ERROR),
    "headers that grow": (bomb, http2.COMPRESSION_ERROR),
    "padding longer than its frame": (flood(1, frame(http2.HEADERS, http2.PADDED, 1, b"\7xx")), http2.PROTOCOL_ERROR),
    "a continuation of nothing": (flood(1, frame(http2.CONTINUATION, 0, 1)), http2.PROTOCOL_ERROR),
    "a frame within headers": (flood(1, frame(http2.HEADERS, 0, 1, b"\x82"), frame(http2.PING, 0, 0, bytes(8))), 1),
    "continuations without end": (
        flood(1, frame(http2.HEADERS, 0, 1), frame(http2.CONTINUATION, 0, 1) * (MAX_CONTINUATIONS + 1)),
        http2.ENHANCE_YOUR_CALM,
    ),
    "headers without end": (
        flood(1, frame(http2.HEADERS, 0, 1), frame(http2.CONTINUATION, 0, 1, bytes(FRAME_BYTES)) * 2),
        http2.ENHANCE_YOUR_CALM,
    ),
    "calls that are taken back without end": (resets, http2.ENHANCE_YOUR_CALM),
    "a push": (flood(1, frame(http2.PUSH_PROMISE, 0, 1, bytes(4))), http2.PROTOCOL_ERROR),
    "settings that are not pairs": (flood(1, frame(http2.SETTINGS, 0, 0, b"12345")), http2.FRAME_SIZE_ERROR),
    "a window that is too large": (
        flood(1, frame(http2.SETTINGS, 0, 0, struct.pack(">HI", http2.INITIAL_WINDOW_SIZE, LARGEST + 1))),
        http2.FLOW_CONTROL_ERROR,
    ),
    "frames that are too small": (
        flood(1, frame(http2.SETTINGS, 0, 0, struct.pack(">HI", http2.MAX_FRAME_SIZE, 1))),
        http2.PROTOCOL_ERROR,
    ),
    "room for nothing": (flood(1, frame(http2.WINDOW_UPDATE, 0, 0, bytes(4))), http2.PROTOCOL_ERROR),
    "room without end": (
        flood(1, frame(http2.WINDOW_UPDATE, 0, 0, struct.pack(">I", LARGEST))),
        http2.FLOW_CONTROL_ERROR,
    ),
    "a short ping": (flood(1, frame(http2.PING, 0, 0, b"x")), http2.FRAME_SIZE_ERROR),
    "a reset of nothing": (flood(1, frame(http2.RST_STREAM, 0, 9, bytes(4))), http2.PROTOCOL_ERROR),
}


@pytest.mark.parametrize("name", VIOLATIONS)
def test_what_http2_forbids_ends_the_connection(caller: Caller, name: str) -> None:
    misuse, code = VIOLATIONS[name]
    misuse(caller)
    assert caller.end() == code


def test_an_address_has_so_many_connections(tmp_path: Path) -> None:
    port = free_port()
    write_model(tmp_path / "artifacts" / "keras_cnn" / "onnx")
    more = {"GRPC_PORT": str(port), "SERVE_CALLER_CONNECTIONS": "2"}
    with started(tmp_path / "artifacts", tmp_path / "output", **more):
        wait_until(lambda: listens(port))
        with Caller(port) as first, Caller(port) as second:
            assert ask(first, 1)[1] == ask(second, 1)[1] == LIVE_ANSWER
            with Caller(port) as third:
                assert third.end() is None
        wait_until(lambda: answers(port))


def answers(port: int) -> bool:
    with Caller(port) as caller:
        return ask(caller, 1)[1] == LIVE_ANSWER


def test_another_protocol_is_hung_up_on(service: tuple[Service, int]) -> None:
    for said in (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n", b"\x16\x03\x01\0\0"):
        with socket.create_connection(("127.0.0.1", service[1]), timeout=20) as connection:
            connection.sendall(said)
            with contextlib.suppress(ConnectionError):
                while connection.recv(4096):
                    pass


def test_what_is_sent_beyond_the_window_is_not_taken() -> None:
    class Quiet(Http2):
        """It never acknowledges anything."""

    connection, caller = Quiet(), hpack.Encoder()
    block = caller.encode([(":method", "POST")])
    connection.receive(PREFACE + frame(http2.SETTINGS) + frame(http2.HEADERS, http2.END_HEADERS, 1, block))
    full = frame(http2.DATA, 0, 1, bytes(FRAME_BYTES))
    for _ in range(http2.WINDOW_BYTES // FRAME_BYTES):
        connection.receive(full)
    with pytest.raises(Violation) as caught:
        connection.receive(frame(http2.DATA, 0, 1, b"x"))
    assert caught.value.code == http2.FLOW_CONTROL_ERROR


def test_more_calls_than_may_be_at_once_are_refused_one_by_one() -> None:
    connection, encoder = Http2(), hpack.Encoder()
    connection.receive(PREFACE + frame(http2.SETTINGS))
    for number in range(http2.MAX_CALLS + 1):
        connection.out.clear()
        block = encoder.encode([(":method", "POST"), (":path", "/x")])
        connection.receive(frame(http2.HEADERS, http2.END_HEADERS, 2 * number + 1, block))
    refused = struct.pack(">I", http2.REFUSED_STREAM)
    assert bytes(connection.out) == frame(http2.RST_STREAM, 0, 2 * http2.MAX_CALLS + 1, refused)


class Calls(Http2):
    """Some calls that are open, and how often it was told of room."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.tellings = 0
        block = hpack.Encoder().encode([(":method", "POST")])
        self.receive(PREFACE + frame(http2.SETTINGS))
        for stream in range(1, 2 * count, 2):
            self.receive(frame(http2.HEADERS, http2.END_HEADERS, stream, block))
        self.tellings = 0

    def on_room(self) -> None:
        self.tellings += 1


def first_window(size: int) -> bytes:
    return frame(http2.SETTINGS, 0, 0, struct.pack(">HI", http2.INITIAL_WINDOW_SIZE, size))


def window_update(stream: int, more: int) -> bytes:
    return frame(http2.WINDOW_UPDATE, 0, stream, struct.pack(">I", more))


def test_the_room_of_calls_is_looked_at_once_for_all_frames_that_came() -> None:
    """Else frames of 13 bytes would cost a look at a thousand calls each."""
    connection = Calls(3)
    connection.receive((first_window(5) + window_update(0, 1) + window_update(1, 1)) * 100)
    assert connection.tellings == 1
    assert [connection.room(stream) for stream in (1, 3, 5, 7)] == [105, 5, 5, 0]
    connection.receive(first_window(0) + first_window(2))
    assert [connection.room(stream) for stream in (1, 3, 5, 7)] == [102, 2, 2, 0]
    connection.send_data(3, b"xy")
    connection.receive(first_window(1))
    assert [connection.room(stream) for stream in (1, 3, 5)] == [101, -1, 1]


def test_no_open_call_has_more_room_than_there_may_be() -> None:
    connection = Calls(2)
    connection.receive(window_update(1, LARGEST - 65_535))
    connection.forget(1)  # of one that is over there is no window
    connection.receive(first_window(65_536) + window_update(3, LARGEST - 65_537))
    for frames in (window_update(3, 2), first_window(65_538)):
        with pytest.raises(Violation) as caught:
            connection.receive(frames)
        assert caught.value.code == http2.FLOW_CONTROL_ERROR


def test_what_is_late_is_taken_later() -> None:
    connection, pings = Calls(0), [frame(http2.PING, 0, 0, bytes(7) + bytes((number,))) for number in range(3)]
    connection.out.clear()
    assert connection.receive(b"".join(pings) + pings[0][:5], until=0.0)
    assert len(connection.out) == len(pings[0])
    assert not connection.receive(b"", until=time.monotonic() + 100)
    assert not connection.receive(pings[0][5:])
    acknowledged = [frame(http2.PING, http2.ACK, 0, ping[9:]) for ping in [*pings, pings[0]]]
    assert bytes(connection.out) == b"".join(acknowledged)


def test_headers_mean_the_same_when_they_are_known_until_the_table_changes() -> None:
    seen: list[http2.Headers] = []

    class Seeing(Http2):
        def on_headers(self, stream: int, headers: http2.Headers) -> None:
            seen.append(headers)

    connection, encoder, stream = Seeing(), hpack.Encoder(), 1
    connection.receive(PREFACE + frame(http2.SETTINGS))
    random = np.random.default_rng(0)
    sent = []
    for _ in range(400):
        fields = {f"n{random.integers(4)}": "v" * int(random.integers(1, 900)) if random.integers(9) == 0 else "v"}
        sent.append({name.encode(): value.encode() for name, value in fields.items()})
        block = encoder.encode(list(fields.items()))
        connection.receive(frame(http2.HEADERS, http2.END_HEADERS | http2.END_STREAM, stream, block))
        stream += 2
        connection.forget(stream - 2)
    assert seen == sent


def test_damaged_bytes_raise_nothing_but_violations() -> None:
    random, encoder = np.random.default_rng(5), hpack.Encoder()
    for _ in range(1500):
        connection = Http2()
        block = encoder.encode([(":method", "POST"), (":path", INFER), ("x", "y")])
        said = bytearray(
            frame(http2.SETTINGS, 0, 0, struct.pack(">HI", 4, 100))
            + frame(http2.HEADERS, http2.END_HEADERS, 1, block)
            + frame(http2.DATA, http2.PADDED, 1, b"\1" + EMPTY + b"\0")
            + frame(http2.WINDOW_UPDATE, 0, 1, struct.pack(">I", 5))
        )
        for place in random.integers(0, len(said), 3):
            said[place] = random.integers(0, 256)
        with contextlib.suppress(Violation):
            connection.receive(PREFACE + bytes(said))


def test_one_who_does_not_read_is_let_go(service: tuple[Service, int]) -> None:
    """Pings without end: their answers are not kept in memory for one who never reads them."""
    with Caller(service[1]) as caller:
        caller.socket.settimeout(0.2)
        pings, deadline = frame(http2.PING, 0, 0, bytes(8)) * 4000, time.monotonic() + 20
        with pytest.raises(ConnectionError):
            while time.monotonic() < deadline:
                with contextlib.suppress(TimeoutError):
                    caller.socket.sendall(pings)


def test_the_end_lets_calls_finish_and_refuses_new_ones(tmp_path: Path) -> None:
    port = free_port()
    write_model(tmp_path / "artifacts" / "keras_cnn" / "onnx")
    with started(tmp_path / "artifacts", tmp_path / "output", GRPC_PORT=str(port)) as running:
        wait_until(lambda: listens(port))
        with Caller(port) as caller:
            body = asked(MODEL)
            caller.begin(1, INFER)
            caller.send(frame(http2.DATA, 0, 1, b"\0" + struct.pack(">I", len(body)) + body[:100]))
            running.process.terminate()
            kinds: list[Any] = []
            for kind, _, stream, payload in caller.frames():
                kinds.append((kind, stream))
                if kind == http2.GOAWAY:
                    assert payload[:4] == struct.pack(">I", 1)
                    break
            caller.begin(3)
            caller.send(frame(http2.DATA, http2.END_STREAM, 1, body[100:]))
            headers, data = caller.answer(1)
            assert headers["grpc-status"] == "0" and len(data) > 40
