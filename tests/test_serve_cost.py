"""What a hostile body costs: seconds of processor time, memory, and how long a health check waits meanwhile.

`FUZZ_CASES=100000 pytest tests/test_serve_cost.py -s` is the long run.
"""

import contextlib
import gzip
import http.client
import io
import json
import os
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.conftest import NUMBERS, write_every_type
from tests.serving import Service, started
from tests.test_docs import write_model
from tests.test_serve_fuzz import LENGTH, PICTURE, TIMEOUT, Fuzzer, Request, ask, large_picture_in_few_bytes

CASES = int(os.environ.get("FUZZ_CASES") or 240)

CPU_SECONDS, MEMORY_MB, WAIT_SECONDS = 0.5, 300, 0.05
"""What a request of less than a million bytes may cost, and how long a health check may wait meanwhile."""

DOZEN = 12

TRIES = 6
"""The machine may be busy with something else: a body is too dear if it is so each time."""

PAUSE, DELAYS = 0.003, 3
"""Seconds between two health checks, and how often a check has to wait for a processor: there, at its answer, and in
between for whoever holds the interpreter."""

TICK = os.sysconf("SC_CLK_TCK")

INFER, TYPED, ROWS = "/v2/models/keras_cnn-onnx/infer", "/v2/models/every_type-onnx/infer", "/v1/models/keras_cnn-onnx"
GZIP = {"Content-Encoding": "gzip"}


def packed(path: str, body: bytes, **headers: str) -> Request:
    return "POST", path, gzip.compress(body, 9), GZIP | headers


def tensor(data: bytes, path: str = INFER, name: bytes = b"pixels", kind: bytes = b"FP32") -> Request:
    shape = b'"shape": [%d, 28, 28, 1]' % (data.count(b",") // 784 + 1)
    return packed(path, b'{"inputs": [{"name": "%b", "datatype": "%b", %b, "data": [%b]}]}' % (name, kind, shape, data))


def raw(payload: bytes, kind: str, shape: list[int], path: str = TYPED, name: str = "bytes_in") -> Request:
    """A tensor by the binary extension, compressed."""
    size = {"binary_data_size": len(payload)}
    described = {"name": name, "datatype": kind, "shape": shape, "parameters": size}
    header = json.dumps({"inputs": [described]}).encode()
    return packed(path, header + payload, **{LENGTH: str(len(header))})


def of_one_colour(format: str, mode: str, size: tuple[int, int], **options: Any) -> bytes:
    file = io.BytesIO()
    Image.new(mode, size).save(file, format, **options)
    return file.getvalue()


def form(parts: int) -> Request:
    part = b'--b\r\nContent-Disposition: form-data; name="x"\r\n\r\n\r\n'
    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    return "POST", "/predict/keras_cnn-onnx", part * parts + b"--b--\r\n", headers


HOSTILE: dict[str, Request] = {
    "10 million lists": packed(INFER, b'{"data": [' + b"[]," * 9_999_999 + b"[]]}"),
    "10 million lists in a tensor": tensor(b"[]," * 9_999_999 + b"[]"),
    "lists of one number": tensor(b"[0]," * 7_000_000 + b"[0]"),
    "15 million numbers": tensor(b"0," * 15_000_000 + b"0"),
    "15 million numbers for another kind": tensor(b"0," * 15_000_000 + b"0", TYPED, b"int64_in", b"INT64"),
    "10 million null": tensor(b"null," * 6_000_000 + b"null"),
    "millions of strings": tensor(b'"",' * 10_000_000 + b'""', TYPED, b"bytes_in", b"BYTES"),
    "a number of a million digits": tensor(b"1" * 900_000),
    "31 million spaces": packed(INFER, b"{" + b" " * 31_000_000 + b"}"),
    "2 layers": ("POST", INFER, gzip.compress(gzip.compress(b" " * 31_000_000)), {"Content-Encoding": "gzip, gzip"}),
    "401 layers": ("POST", INFER, b"x" * 156_000, {"Content-Encoding": ", ".join(["gzip"] * 401)}),
    "3 million rows": packed(f"{ROWS}:predict", b'{"instances": [' + b"[0]," * 3_100_000 + b"[0]]}"),
    "3 million examples": packed(f"{ROWS}:classify", b'{"examples": [' + b"{}," * 3_100_000 + b"{}]}"),
    "2 million keys": packed(INFER, b"{" + b",".join(b'"%d":0' % (key % 3000) for key in range(2_300_000)) + b"}"),
    "80,000 inputs": packed(INFER, b'{"inputs": [' + b"{}," * 79_999 + b"{}]}"),
    "80,000 outputs": packed(INFER, b'{"inputs": [], "outputs": [' + b"{}," * 79_999 + b"{}]}"),
    "an index of 31 MB": packed("/v2/repository/index", b'{"ready": [' + b"[]," * 10_000_000 + b"[]]}"),
    "parameters of a load": packed("/v2/repository/models/x/load", b'{"parameters": {' + b'"x":[],' * 4_000_000),
    "a deep nest": ("POST", INFER, b"[" * 990_000, {}),
    "a deep nest of objects": ("POST", INFER, b'{"a":' * 190_000, {}),
    "8 million empty byte strings": raw(b"\0" * 31_000_000, "BYTES", [1, 7_750_000]),
    "31 MB of raw numbers": raw(b"\0" * 31_000_000, "FP32", [1, 7_750_000], name="float32_in"),
    "31 MB of raw pixels": raw(b"\0" * 3136 * 9_900, "FP32", [9_900, 28, 28, 1], INFER, "pixels"),
    "a WebP of 50 million pixels": (
        "POST",
        "/predict/keras_cnn-onnx",
        of_one_colour("WEBP", "RGBA", (7071, 7071), lossless=True),
        {},
    ),
    "a WebP of 12 million pixels": (
        "POST",
        "/predict/keras_cnn-onnx",
        of_one_colour("WEBP", "RGBA", (3460, 3460), lossless=True),
        {},
    ),
    "a PNG of 50 million pixels": ("POST", "/compare", of_one_colour("PNG", "RGBA", (7071, 7071)), {}),
    "a PNG of 12 million pixels": ("POST", "/compare", of_one_colour("PNG", "RGBA", (3460, 3460)), {}),
    "a JPEG of 12 million pixels": ("POST", "/compare", of_one_colour("JPEG", "CMYK", (3460, 3460)), {}),
    "a PNG that lies": ("POST", "/compare", large_picture_in_few_bytes(3464, 3464), {}),
    "a form of 18,000 parts": form(18_000),
    "a picture with a form around it": ("POST", "/predict/keras_cnn-onnx", PICTURE * 3000, {}),
    "a check of a device": packed("/devices", b'{"rows": [' + b"{}," * 10_000_000 + b"{}]}"),
}
"""Each is less than a million bytes."""


@dataclass(frozen=True)
class Cost:
    """Of one request, or of several."""

    cpu: float
    """Seconds."""
    memory: float
    """MB more than before, at the most."""
    wait: float
    """Seconds: the longest health check."""

    @property
    def is_too_high(self) -> bool:
        return not self.is_within(Cost(CPU_SECONDS, MEMORY_MB, WAIT_SECONDS))

    def is_within(self, most: "Cost") -> bool:
        return self.cpu <= most.cpu and self.memory <= most.memory and self.wait <= most.wait

    def least(self, other: "Cost") -> "Cost":
        """The lower value of each."""
        return Cost(min(self.cpu, other.cpu), min(self.memory, other.memory), min(self.wait, other.wait))


class Meter:
    """Sends requests to a service with one worker, and measures what they cost there."""

    def __init__(self, service: Service) -> None:
        (worker,) = service.workers()
        self._process = Path(f"/proc/{worker}")
        self._port = service.port
        self._waits, self._delays = [0.0], [0.0]
        self._is_done = threading.Event()
        self._checks = threading.Thread(target=self._keep_checking)

    def _connect(self) -> contextlib.closing[http.client.HTTPConnection]:
        return contextlib.closing(http.client.HTTPConnection("127.0.0.1", self._port, timeout=TIMEOUT))

    def __enter__(self) -> "Meter":
        self._checks.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_done.set()
        self._checks.join(TIMEOUT)

    def _keep_checking(self) -> None:
        with self._connect() as connection:
            while True:
                start = time.perf_counter()
                if self._is_done.wait(PAUSE):
                    return
                self._delays.append(time.perf_counter() - start - PAUSE)  # a busy machine's, which is not the service's
                start = time.perf_counter()
                code, _ = ask(connection, ("GET", "/v2/health/live", b"", {}))
                self._waits.append(time.perf_counter() - start if code == 200 else TIMEOUT)

    def cost(self, requests: Sequence[Request]) -> Cost:
        """What they cost, one after the other."""
        (self._process / "clear_refs").write_text("5")  # the peak is that of the memory from now on
        memory, cpu = self._memory("VmRSS"), self._cpu()
        self._waits.clear()
        self._delays.clear()
        with self._connect() as connection:
            for request in requests:
                code, body = ask(connection, request)
                assert code < 500 or b'"error"' in body, (request[:2], body[:300])
        time.sleep(0.005)  # the health check that waited is answered
        wait = max(self._waits, default=TIMEOUT) - DELAYS * max(self._delays, default=0.0)
        return Cost(self._cpu() - cpu, self._memory("VmHWM") - memory, wait)

    def least_cost(self, requests: Sequence[Request]) -> Cost:
        """Of several tries, until it is not too high."""
        cost = self.cost(requests)
        for _ in range(TRIES - 1):
            if not cost.is_too_high:
                break
            time.sleep(0.1)
            cost = cost.least(self.cost(requests))
        return cost

    def _memory(self, name: str) -> float:
        lines = (self._process / "status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:")) / 1024

    def _cpu(self) -> float:
        fields = (self._process / "stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICK


@pytest.fixture(scope="module")
def meter(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Meter]:
    folder = tmp_path_factory.mktemp("cost")
    write_model(folder / "artifacts" / "keras_cnn" / "onnx")
    write_every_type(folder / "artifacts" / "every_type" / "onnx", [*NUMBERS, "bytes"])
    with started(folder / "artifacts", folder / "output", SERVE_CONTROL="1") as service, Meter(service) as meter:
        yield meter


@pytest.mark.parametrize("name", HOSTILE)
def test_a_small_request_costs_little_and_holds_up_no_health_check(meter: Meter, name: str) -> None:
    assert len(HOSTILE[name][2]) < 1_000_000
    cost = meter.least_cost([HOSTILE[name]])
    print(f"\n{name}: {len(HOSTILE[name][2])} bytes, {cost}")
    assert not cost.is_too_high


COUNTED = Cost(0.2, 200, WAIT_SECONDS)
"""What a body may cost whose lists are counted, and refused, before anything is made of them."""


@pytest.mark.parametrize("name", ["10 million lists", "10 million lists in a tensor"])
def test_lists_that_are_too_many_are_refused_before_they_are_read(meter: Meter, name: str) -> None:
    assert code_of(meter, name) == 400
    costs = (meter.cost([HOSTILE[name]]) for _ in range(TRIES))
    assert any(cost.is_within(COUNTED) for cost in costs)


@pytest.mark.parametrize("name", ["2 layers", "401 layers"])
def test_a_second_layer_of_compression_is_refused(meter: Meter, name: str) -> None:
    assert code_of(meter, name) == 415


def test_two_hostile_bodies_at_once_are_refused_and_leave_no_memory(meter: Meter) -> None:
    before = meter._memory("VmRSS")
    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(partial(code_of, meter), ["10 million lists"] * 2)) == [400, 400]
    assert meter._memory("VmRSS") - before < 100


def code_of(meter: Meter, name: str) -> int:
    with meter._connect() as connection:
        return ask(connection, HOSTILE[name])[0]


UNITS = [
    b"[],",
    b"{},",
    b"0,",
    b"1.5,",
    b"null,",
    b"true,",
    b'"",',
    b"[0],",
    b"[[0]],",
    b'{"a":[]},',
    b"NaN,",
    b"-1e9,",
]
UNITS += [b" ", b"[", b'{"a":', b'"a":0,', b"9" * 30 + b",", b"[1,2,3],", b'"\\u0000",', b"],[", b"\xff"]
PLACES = [
    (INFER, b'{"inputs": [{"name": "pixels", "datatype": "FP32", "shape": [1, 28, 28, 1], "data": [%b0]}]}'),
    (INFER, b'{"inputs": [{"name": "pixels", "datatype": "FP32", "shape": [%b0], "data": [0]}]}'),
    (INFER, b'{"inputs": [%b0], "outputs": [%b0]}'),
    (INFER, b'{"id": [%b0], "inputs": []}'),
    (INFER, b'{"parameters": {%b"b": 0}, "inputs": []}'),
    (TYPED, b'{"inputs": [{"name": "bool_in", "datatype": "BOOL", "shape": [1, 1000000], "data": [%btrue]}]}'),
    (TYPED, b'{"inputs": [{"name": "bytes_in", "datatype": "BYTES", "shape": [1, 1000000], "data": [%b""]}]}'),
    (f"{ROWS}:predict", b'{"instances": [%b0]}'),
    (f"{ROWS}:predict", b'{"inputs": {"pixels": [%b0]}}'),
    (f"{ROWS}:classify", b'{"examples": [{"pixels": [%b0]}]}'),
    ("/v2/repository/index", b'{"ready": [%b0]}'),
    ("/devices", b'{"rows": [%b0]}'),
    (INFER, b"%b"),
]


def amplified(random: np.random.Generator) -> Request:
    """A body of few bytes that is up to 30 MB when it is decompressed: one small thing again and again, somewhere."""
    unit = UNITS[random.integers(len(UNITS))]
    path, text = PLACES[random.integers(len(PLACES))]
    times = int(10 ** random.uniform(3, 7.5)) // len(unit)
    return "POST", path, gzip.compress(text.replace(b"%b", unit * (times // text.count(b"%b"))), 1), GZIP


def test_no_hostile_body_costs_much(meter: Meter) -> None:
    """They are sent by the dozen: where a dozen costs no more than one may, none does."""
    random = np.random.default_rng(CASES)
    fuzzer = Fuzzer(CASES, np.zeros((1, 28, 28, 1), np.float32), ["keras_cnn-onnx"])
    sent, seconds, dear = 0, 0.0, []
    for start in range(0, CASES, DOZEN):
        requests = [
            amplified(random) if place % 3 == 0 else fuzzer.make()[1] for place in range(min(DOZEN, CASES - start))
        ]
        cost = meter.cost(requests)
        sent, seconds = sent + sum(len(request[2]) for request in requests), seconds + cost.cpu
        if cost.is_too_high:
            dear += [(request, cost) for request in requests if (cost := meter.least_cost([request])).is_too_high]
    print(f"\n{CASES} hostile bodies, {sent / CASES:.0f} bytes each: {1e6 * seconds / sent:.2f} s of CPU a megabyte")
    assert [(request[1], request[2][:200], cost) for request, cost in dear] == []
