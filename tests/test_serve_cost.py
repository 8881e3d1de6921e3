"""What a hostile body costs: seconds of processor time, memory, and how long a health check waits meanwhile.

`FUZZ_CASES=100000 pytest tests/test_serve_cost.py -s` is the long run.
"""

import contextlib
import gzip
import http.client
import io
import json
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.conftest import NUMBERS, write_every_type
from tests.costs import DOZEN, GIVES_BACK, MEMORY_MB, TRIES, WAIT_SECONDS, Cost, Costs, Meter, Send
from tests.serving import Service, started
from tests.test_docs import write_model
from tests.test_serve_fuzz import LENGTH, PICTURE, TIMEOUT, Fuzzer, Request, ask, large_picture_in_few_bytes

CASES = int(os.environ.get("FUZZ_CASES") or 240)

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


@contextlib.contextmanager
def over_http(port: int) -> Iterator[Send[Request]]:
    """Sends requests on a connection that is kept."""

    def send(request: Request) -> int:
        code, answer = ask(connection, request)
        assert code < 500 or b'"error"' in answer, (request[:2], answer[:300])
        _, path, body, headers = request
        return len(path) + len(body) + sum(len(name) + len(value) for name, value in headers.items())

    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT)) as connection:
        yield send


@pytest.fixture(scope="module")
def artifacts_of_cost(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cost") / "artifacts"
    write_model(folder / "keras_cnn" / "onnx")
    write_every_type(folder / "every_type" / "onnx", [*NUMBERS, "bytes"])
    return folder


@pytest.fixture(scope="module")
def service(artifacts_of_cost: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    output = tmp_path_factory.mktemp("cost_output") / "service"
    with started(artifacts_of_cost, output, SERVE_CONTROL="1") as service:
        yield service


@pytest.fixture(scope="module")
def meter(service: Service) -> Iterator[Meter[Request]]:
    with Meter(service, partial(over_http, service.port)) as meter:
        yield meter


@pytest.fixture(scope="module")
def meter_of_memory(artifacts_of_cost: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Meter[Request]]:
    """Of a service that keeps no memory."""
    output = tmp_path_factory.mktemp("cost_output") / "service"
    with (
        started(artifacts_of_cost, output, SERVE_CONTROL="1", **GIVES_BACK) as service,
        Meter(service, partial(over_http, service.port)) as meter,
    ):
        yield meter


@pytest.mark.parametrize("name", HOSTILE)
def test_a_small_request_costs_little_and_holds_up_no_health_check(meter: Meter[Request], name: str) -> None:
    assert len(HOSTILE[name][2]) < 1_000_000
    cost = meter.least_cost([HOSTILE[name]])
    print(f"\n{name}: {cost}")
    assert not cost.is_too_high


@pytest.mark.parametrize("name", HOSTILE)
def test_a_small_request_takes_little_memory(meter_of_memory: Meter[Request], name: str) -> None:
    cost = meter_of_memory.cost([HOSTILE[name]])
    print(f"\n{name}: {cost}")
    assert cost.memory <= MEMORY_MB


COUNTED = Cost(0.2, 200, WAIT_SECONDS)
"""What a body may cost whose lists are counted, and refused, before anything is made of them."""


@pytest.mark.parametrize("name", ["10 million lists", "10 million lists in a tensor"])
def test_lists_that_are_too_many_are_refused_before_they_are_read(
    service: Service, meter: Meter[Request], name: str
) -> None:
    assert code_of(service, name) == 400
    costs = (meter.cost([HOSTILE[name]]) for _ in range(TRIES))
    assert any(cost.is_within(COUNTED) for cost in costs)


@pytest.mark.parametrize("name", ["2 layers", "401 layers"])
def test_a_second_layer_of_compression_is_refused(service: Service, name: str) -> None:
    assert code_of(service, name) == 415


def test_two_hostile_bodies_at_once_are_refused_and_leave_no_memory(service: Service, meter: Meter[Request]) -> None:
    before = meter.memory()
    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(partial(code_of, service), ["10 million lists"] * 2)) == [400, 400]
    assert meter.memory() - before < 100


def code_of(service: Service, name: str) -> int:
    with contextlib.closing(service.connect()) as connection:
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


def test_no_hostile_body_costs_much(meter_of_memory: Meter[Request]) -> None:
    random = np.random.default_rng(CASES)
    fuzzer = Fuzzer(CASES, np.zeros((1, 28, 28, 1), np.float32), ["keras_cnn-onnx"])
    costs = Costs(meter_of_memory)
    for start in range(0, CASES, DOZEN):
        places = range(min(DOZEN, CASES - start))
        costs.add([amplified(random) if place % 3 == 0 else fuzzer.make()[1] for place in places])
    print(f"\n{costs}")
    assert [(request[1], request[2][:200], cost) for request, cost in costs.dear] == []
    assert costs.growth <= MEMORY_MB
