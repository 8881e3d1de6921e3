"""Malformed requests over the wire, seeded: never a 500, a hang, another request's answer, or memory that is kept.

`FUZZ_CASES=100000 pytest tests/test_serve_fuzz.py -s` is the long run.
"""

import contextlib
import gzip
import http.client
import io
import json
import os
import socket
import struct
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from contract.dataset import Split
from tests.conformance.mutations import changed, damaged
from tests.serving import Service

CASES = int(os.environ.get("FUZZ_CASES") or 4000)
THREADS = 4
TIMEOUT = 20
MAX_BYTES = 2_000_000
KEPT_MB = 80
"""What a worker may have grown by: its allocator keeps the largest request of each thread."""

MODELS = ["keras_cnn-onnx"] * 5 + ["keras_cnn-tflite", "torch_cnn-torch", "keras_cnn-tfjs"]
LENGTH = "Inference-Header-Content-Length"

Request = tuple[str, str, bytes, dict[str, str]]
"""method, path, body, headers"""


# Good requests


def infer_body(pixels: Any, identity: str) -> bytes:
    tensor = {"name": "pixels", "datatype": "FP32", "shape": list(pixels.shape), "data": pixels.ravel().tolist()}
    return json.dumps({"id": identity, "inputs": [tensor]}).encode()


def typed_document() -> dict[str, Any]:
    """A valid request for the model of every datatype."""
    inputs: list[dict[str, Any]] = []
    for name in (
        "bool",
        "uint8",
        "uint16",
        "uint32",
        "uint64",
        "int8",
        "int16",
        "int32",
        "int64",
        "float32",
        "float64",
    ):
        kind = name.upper().replace("FLOAT", "FP")
        data = [True, False] if name == "bool" else [1, 2]
        inputs.append({"name": f"{name}_in", "datatype": kind, "shape": [1, 2], "data": data})
    inputs.append({"name": "bytes_in", "datatype": "BYTES", "shape": [1, 2], "data": ["a", "b"]})
    return {"inputs": inputs, "outputs": [{"name": "int8_out"}, {"name": "bytes_out", "parameters": {}}]}


def picture(size: tuple[int, int] = (40, 30)) -> bytes:
    file = io.BytesIO()
    Image.linear_gradient("L").resize(size).save(file, "PNG")
    return file.getvalue()


def large_picture_in_few_bytes(width: int, height: int) -> bytes:
    """A PNG that announces this size, whose pixels are a few bytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\x00" * 10**6)) + chunk(b"IEND", b"")


BOMB = gzip.compress(b"[" + b" " * 60_000_000, 9)
PICTURE = picture()


# Malformed ones


class Fuzzer:
    """Makes malformed requests, the same ones for the same seed."""

    def __init__(self, seed: int, pixels: Any, models: Sequence[str] = MODELS) -> None:
        self.random = np.random.default_rng(seed)
        self.models = list(models)
        self.document = json.loads(infer_body(pixels, "x"))
        self.payload = pixels.tobytes()
        self.kinds: list[Callable[[], Request]] = [
            *(self.odd_document,) * 5,
            *(self.damaged_document,) * 4,
            *(self.odd_lengths,) * 4,
            *(self.odd_types,) * 4,
            *(self.tensorflow_serving,) * 3,
            *(self.odd_picture,) * 2,
            *(self.odd_encoding,) * 2,
            *(self.odd_path,) * 3,
            self.odd_headers,
        ]

    def pick(self, choices: list[Any]) -> Any:
        return choices[self.random.integers(len(choices))]

    def make(self) -> tuple[str, Request]:
        kind = self.pick(self.kinds)
        return kind.__name__, kind()

    def infer_path(self) -> str:
        return f"/v2/models/{self.pick(self.models)}{self.pick(['', '', '/versions/1'])}/infer"

    def odd_document(self) -> Request:
        return "POST", self.infer_path(), json.dumps(changed(self.document, self.random)).encode(), {}

    def damaged_document(self) -> Request:
        return "POST", self.infer_path(), damaged(json.dumps(self.document).encode(), self.random), {}

    def odd_lengths(self) -> Request:
        """Raw tensors whose shape, size or header length may lie."""
        tensor = {
            "name": self.pick(["pixels"] * 9 + ["", "pixel"]),
            "datatype": self.pick(["FP32"] * 9 + ["FP16", "BYTES", "INT64"]),
            "shape": self.pick(
                [[1, 28, 28, 1]] * 6 + [[-1, 28, 28, 1], [2**62, 28, 28, 1], [0, 28, 28, 1], [1], [], [784]]
            ),
            "parameters": {"binary_data_size": self.pick([3136] * 6 + [0, -1, 3135, 2**40, 2**64, "3136", None, 1.5])},
        }
        parameters = {"binary_data_output": self.pick([True, False, 1, None])}
        header = json.dumps({"inputs": [tensor] * self.pick([1] * 8 + [0, 2]), "parameters": parameters}).encode()
        payload = self.pick([self.payload] * 6 + [b"", self.payload[:-1], self.payload * 2, self.random.bytes(3136)])
        length = str(len(header) + self.pick([0] * 8 + [1, -1, 10**6, -(10**6)]))
        length = self.pick([length] * 12 + ["0", "", "x", "1" * 400, "+3", "٣".encode().decode("latin-1")])
        return "POST", self.infer_path(), header + payload, {LENGTH: length}

    def odd_types(self) -> Request:
        """The model of every datatype, byte strings that are not text among them."""
        path = "/v2/models/every_type-onnx/infer"
        if self.random.integers(3):
            return "POST", path, json.dumps(changed(typed_document(), self.random)).encode(), {}
        document, strings = typed_document(), damaged(struct.pack("<I1sI1s", 1, b"a", 1, b"\xff"), self.random)
        document["inputs"][-1] = {
            "name": "bytes_in",
            "datatype": "BYTES",
            "shape": [1, 2],
            "parameters": {"binary_data_size": len(strings)},
        }
        header = json.dumps(document).encode()
        return "POST", path, header + strings, {LENGTH: str(len(header))}

    def tensorflow_serving(self) -> Request:
        rows = np.frombuffer(self.payload, np.float32).reshape(1, 28, 28, 1).tolist()
        document = self.pick([{"instances": rows}, {"inputs": {"pixels": rows}}, {"instances": [{"pixels": rows[0]}]}])
        body = json.dumps(changed(document, self.random)).encode()
        body = damaged(body, self.random) if self.random.integers(3) == 0 else body
        return "POST", f"/v1/models/{self.pick(self.models)}:predict", body, {}

    def odd_picture(self) -> Request:
        path = self.pick([f"/predict/{self.pick(self.models)}"] * 30 + ["/compare"])
        if self.random.integers(20) == 0:
            sizes = [1, 10, 60_000, 2**31 - 1]
            return "POST", path, large_picture_in_few_bytes(self.pick(sizes), self.pick(sizes)), {}
        form = {"Content-Type": self.pick(["multipart/form-data; boundary=b", "multipart/form-data", "text/html; x="])}
        return "POST", path, damaged(PICTURE, self.random), self.pick([{}, {}, form])

    def odd_encoding(self) -> Request:
        body = json.dumps(self.document).encode()
        packed = self.pick([gzip.compress(body, 1), zlib.compress(body, 1), body])
        packed = self.pick([packed, packed[:-9], damaged(packed, self.random), b""])
        if self.random.integers(25) == 0:
            packed = BOMB
        names = ["gzip", "deflate", "gzip, deflate", "gzip, gzip", "identity", "br", "", ",", "x" * 300]
        path = self.pick([self.infer_path(), f"/predict/{self.pick(self.models)}", "/v2/repository/index"])
        return "POST", path, packed, {"Content-Encoding": self.pick(names)}

    def odd_path(self) -> Request:
        parts = ["v2", "v1", "models", "keras_cnn-onnx", "infer", "..", ".", "", "%2e%2e", "%00", "%2f", "%ff", "etc"]
        parts += [
            "passwd",
            "artifacts",
            "keras_cnn",
            "onnx",
            "manifest.json",
            "samples",
            "assets",
            "versions",
            "1",
            "2",
        ]
        parts += [
            "keras_cnn-onnx:predict",
            "x" * 300,
            "%ed%95%9c",
            "stats",
            "config",
            "ready",
            "compare",
            "predict",
            ";",
            "~",
        ]
        path = "/" + "/".join(self.pick(parts) for _ in range(self.random.integers(1, 8)))
        path += self.pick(["", "", "?", "?a=b&&=", "?" + "x" * 500])
        method = self.pick(["GET", "GET", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "PROPFIND"])
        return method, path, self.pick([b"", b"{}", b"x"]) if method != "GET" else b"", {}

    def odd_headers(self) -> Request:
        name = self.pick(
            ["Content-Type", "Accept-Encoding", "X-Request-ID", "Accept", "Range", "If-None-Match", LENGTH]
        )
        value = self.pick(
            ["", "\xff", "x" * 4000, "gzip;q=x", "bytes=9-1", "multipart/form-data; boundary=", '"', ";,;", "*"]
        )
        path = self.pick([self.infer_path(), "/artifacts/keras_cnn/onnx/model.onnx", "/v2", "/metrics"])
        body = json.dumps(self.document).encode() if path.endswith("infer") else b""
        return "POST" if body else "GET", path, body, {name: value}


# The run


def ask(connection: http.client.HTTPConnection, request: Request) -> tuple[int, bytes]:
    method, path, body, headers = request
    connection.request(method, path, body or None, headers)
    response = connection.getresponse()
    return response.status, response.read()


def fault(status: int, body: bytes) -> str | None:
    """What is wrong with the answer to a request that may be malformed."""
    if status >= 500:
        return "a failure of the server"
    if status >= 400:
        try:
            return None if isinstance(json.loads(body)["error"], str) else "an error without its message"
        except (ValueError, KeyError, TypeError):
            return "an error that is not JSON"
    return None


def fuzz(port: int, seed: int, cases: int, pixels: Any) -> tuple[Counter[str], list[str]]:
    """Send `cases` malformed requests on connections that are kept; every fifth is followed by a good one."""
    fuzzer, counts, faults = Fuzzer(seed, pixels[:1]), Counter[str](), list[str]()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT)
    good = [known(connection, pixels[i : i + 1]) for i in range(len(pixels))]
    for case in range(cases):
        kind, request = fuzzer.make()
        try:
            status, body = ask(connection, request)
            problem = fault(status, body)
            counts[f"{kind} {status}"] += 1
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            problem = f"no answer: {error!r}"
        if problem is None and case % 5 == 0:
            problem = wrong_answer(connection, good, seed, case)
            counts["good 200"] += 1
        if problem:
            faults.append(f"seed {seed}, case {case}, {kind}: {problem}: {str(request)[:300]}")
    connection.close()
    return counts, faults


def known(connection: http.client.HTTPConnection, row: Any) -> tuple[Any, Any]:
    """A row, and its answer."""
    _, body = ask(connection, ("POST", "/v2/models/keras_cnn-onnx/infer", infer_body(row, "known"), {}))
    return row, json.loads(body)["outputs"][0]["data"]


def wrong_answer(
    connection: http.client.HTTPConnection, good: list[tuple[Any, Any]], seed: int, case: int
) -> str | None:
    """Ask for a known answer with an id of its own: another's would differ in both."""
    row, expected = good[(seed + case) % len(good)]
    request: Request = ("POST", "/v2/models/keras_cnn-onnx/infer", infer_body(row, f"{seed}/{case}"), {})
    status, body = ask(connection, request)
    answer = json.loads(body)
    if status != 200 or answer["id"] != f"{seed}/{case}":
        return f"a good request was answered {status} {body[:200]!r}"
    difference = np.abs(np.array(answer["outputs"][0]["data"]) - expected).max()
    return f"a good request's answer is off by {difference}" if difference > 1e-6 else None


def memory(service: Service) -> float:
    """MB that the service's processes hold, without what they share."""
    processes = [service.process.pid, *service.descendants()]
    total = 0
    for process in processes:
        with contextlib.suppress(OSError):
            lines = Path(f"/proc/{process}/status").read_text().splitlines()
            total += sum(int(line.split()[1]) for line in lines if line.startswith("RssAnon:"))
    return total / 1024


@pytest.fixture
def pixels(test_split: Split) -> Any:
    """(8, 28, 28, 1)"""
    return test_split.images[:8].astype(np.float32)


def test_malformed_requests_disturb_no_others_and_leave_nothing(running_service: Service, pixels: Any) -> None:
    logged = len(running_service.log)

    def run(seed: int, cases: int) -> tuple[Counter[str], list[str]]:
        return fuzz(running_service.port, seed, cases, pixels)

    start = time.monotonic()
    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(run, range(1000, 1000 + THREADS), [100] * THREADS))  # every path was taken once
        before = memory(running_service)
        results = list(pool.map(run, range(THREADS), [CASES // THREADS] * THREADS))
    after = memory(running_service)
    counts, faults = sum((counts for counts, _ in results), Counter[str]()), [f for _, found in results for f in found]
    seconds = time.monotonic() - start
    print(f"\n{CASES} malformed requests in {seconds:.0f} s, {before:.0f} -> {after:.0f} MB, {len(faults)} faults")
    print(json.dumps(dict(sorted(counts.items()))))
    assert faults[:10] == []
    assert "Traceback" not in running_service.log[logged:]
    assert after < before + KEPT_MB


# What is no HTTP at all


GOOD_LINE = b"POST /v2/models/keras_cnn-onnx/infer HTTP/1.1\r\nHost: x\r\n"
BAD_HTTP = [
    b"\r\n\r\n\r\n\r\n",
    b"\x00\xff\x16\x03\x01\x02\x00\x01\x00\x01\xfc",  # what a TLS client says first
    b"GET\r\n\r\n",
    b"GET / HTTP/9.9\r\n\r\n",
    b"GET /" + b"x" * 70_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 500 + b"\r\n",
    b"GET / HTTP/1.1\r\nX: " + b"y" * 100_000 + b"\r\n\r\n",
    b"GET / HTTP/1.1\r\n: nothing\r\n\r\n",
    b"GET / HTTP/1.1\r\nno colon\r\n\r\n",
    b"GET http://[::1/ HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET \\..\\..\\etc HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET /%zz HTTP/1.1\r\nHost: \x00\r\n\r\n",
    GOOD_LINE + b"Content-Length: -5\r\n\r\nhello",
    GOOD_LINE + b"Content-Length: 99999999999999999999999\r\n\r\nhello",
    GOOD_LINE + b"Content-Length: five\r\n\r\nhello",
    GOOD_LINE + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
    GOOD_LINE + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    GOOD_LINE + b"Transfer-Encoding: chunked\r\n\r\nzz\r\nhello\r\n0\r\n\r\n",
    GOOD_LINE + b"Transfer-Encoding: chunked\r\n\r\n-1\r\nhello\r\n0\r\n\r\n",
    GOOD_LINE + b"Transfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\nhello\r\n0\r\n\r\n",
    GOOD_LINE + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhelloXX0\r\n\r\n",
    GOOD_LINE + b"Transfer-Encoding: xchunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    GOOD_LINE + b"Transfer-Encoding: chunked, gzip\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    GOOD_LINE + b"Content-Length: 100\r\n\r\nless",
    GOOD_LINE + b"Expect: 100-continue\r\nContent-Length: 2\r\n\r\n{}",
    GOOD_LINE + b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: x\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
]


def speak(port: int, data: bytes) -> bytes:
    """Say it, say no more, and listen until the other side hangs up."""
    with socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT) as connection:
        with contextlib.suppress(ConnectionError):
            connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)
        received = bytearray()
        with contextlib.suppress(ConnectionError):
            while data := connection.recv(65536):
                received += data
        return bytes(received)


@pytest.mark.parametrize("data", BAD_HTTP, ids=range(len(BAD_HTTP)))
def test_bad_http_is_refused_or_hung_up_on(running_service: Service, data: bytes) -> None:
    answer = speak(running_service.port, data)
    statuses = [int(line.split(b" ")[1]) for line in answer.splitlines() if line.startswith(b"HTTP/1.")]
    assert all(status < 500 or status in (501, 505) for status in statuses), answer[:300]
    assert 200 not in statuses or b"infer" not in data, answer[:300]


def test_damaged_http_disturbs_no_others(running_service: Service, pixels: Any) -> None:
    body = infer_body(pixels[:1], "x")
    whole = GOOD_LINE + b"Content-Length: %d\r\nConnection: close\r\n\r\n" % len(body) + body
    random = np.random.default_rng(0)
    logged = len(running_service.log)
    connection = http.client.HTTPConnection("127.0.0.1", running_service.port, timeout=TIMEOUT)
    good = [known(connection, pixels[:1])]
    for case in range(300):
        head, tail = damaged(whole[:120], random), whole[120:]
        answer = speak(running_service.port, head + tail)
        assert b" 500 " not in answer.partition(b"\r\n")[0], (head, answer[:300])
        if case % 20 == 0:
            assert wrong_answer(connection, good, 0, case) is None
    connection.close()
    assert "Traceback" not in running_service.log[logged:]


@pytest.fixture
def slow_senders(running_service: Service) -> Iterator[list[socket.socket]]:
    """40 connections that stop in the middle: of the request's line, of its headers, of its body."""
    parts = [b"PO", GOOD_LINE, GOOD_LINE + b"Content-Length: 1000\r\n\r\n{"]
    parts.append(GOOD_LINE + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhe")
    with contextlib.ExitStack() as stack:
        senders = []
        for number in range(40):
            sender = stack.enter_context(socket.create_connection(("127.0.0.1", running_service.port), TIMEOUT))
            sender.sendall(parts[number % len(parts)])
            senders.append(sender)
        yield senders


def test_slow_senders_delay_no_others(running_service: Service, slow_senders: list[socket.socket], pixels: Any) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", running_service.port, timeout=TIMEOUT)
    good = [known(connection, pixels[i : i + 1]) for i in range(8)]
    for case in range(100):
        for sender in slow_senders[case % 40 : case % 40 + 1]:
            with contextlib.suppress(OSError):
                sender.sendall(b" ")
        start = time.monotonic()
        assert wrong_answer(connection, good, 1, case) is None
        assert time.monotonic() - start < TIMEOUT / 2
    status, _ = ask(connection, ("GET", "/v2", b"", {}))
    assert status == 200
    connection.close()
