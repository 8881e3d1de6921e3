"""Limits of each caller, and of all together: who gets 429, who gets 503, and that all of it is given back."""

import contextlib
import gzip
import http.client
import json
import queue
import re
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tritonclient import grpc as triton
from tritonclient.utils import InferenceServerException

from contract.errors import Overloaded
from serve.callers import BYTES, CONNECTIONS, REQUESTS, ROWS, Callers, TooMany
from serve.keys import add_key
from serve.settings import Settings
from tests.serving import Gate, Service, ask_on, free_port, gate, started, wait_until
from tests.test_docs import write_model

INFER = "/v2/models/keras_cnn-onnx/infer"


def body(rows: int) -> bytes:
    pixels = {"name": "pixels", "datatype": "FP32", "shape": [rows, 28, 28, 1], "data": [0] * 784 * rows}
    return json.dumps({"inputs": [pixels]}).encode()


# The counts


def test_a_caller_has_a_limit_of_its_own_and_all_together_have_another() -> None:
    callers = Callers(Settings(caller_requests=2, max_requests=3))
    for _ in range(2):
        callers.take("a", REQUESTS)
    with pytest.raises(TooMany, match="a has 2 requests under way in this worker, and a caller may have 2"):
        callers.take("a", REQUESTS)
    callers.take("b", REQUESTS)
    with pytest.raises(Overloaded, match="3 requests are under way") as caught:
        callers.take("b", REQUESTS)
    assert not isinstance(caught.value, TooMany)
    callers.give("a", REQUESTS)
    callers.take("b", REQUESTS)


def test_one_that_is_larger_than_a_limit_runs_alone_and_what_is_given_back_is_forgotten() -> None:
    callers = Callers(Settings(caller_rows=10, caller_bytes=10))
    callers.take("a", ROWS, 11)
    with pytest.raises(TooMany):
        callers.take("a", ROWS)
    callers.give("a", ROWS, 11)
    with callers.having("a", BYTES, 10), pytest.raises(TooMany), callers.having("a", BYTES, 1):
        pass
    with callers.having("a", BYTES, 10), callers.having("a", BYTES, 90, mine=10):  # it comes in pieces
        pass
    with callers.having(None, BYTES, 1):
        assert not callers._held
    assert not Callers(Settings()).are_limited
    for kind in (CONNECTIONS, REQUESTS, ROWS, BYTES):
        assert Callers(Settings(**{f"caller_{kind}": 1})).are_limited  # type: ignore[arg-type]


# The service


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("callers")
    write_model(folder / "artifacts" / "keras_cnn" / "onnx")
    return folder


@pytest.fixture(scope="module")
def keys(folder: Path) -> list[str]:
    return [add_key(folder / "keys", name, "*") for name in ("one", "two")]


@pytest.fixture(scope="module")
def service(folder: Path, keys: list[str]) -> Iterator[Service]:
    limits = {"SERVE_CALLER_REQUESTS": "2", "SERVE_MAX_REQUESTS": "3", "SERVE_CALLER_BYTES": "100000"}
    limits |= {"SERVE_CALLER_ROWS": "20", "SERVE_KEYS_FILE": str(folder / "keys")}
    with started(folder / "artifacts", folder / "output", **limits) as running:
        yield running


def begin(service: Service, key: str, length: int, sent: bytes = b"") -> socket.socket:
    """A request whose body does not come, or not all of it."""
    connection = socket.create_connection(("127.0.0.1", service.port), timeout=20)
    head = f"POST {INFER} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {key}\r\nContent-Length: {length}\r\n\r\n"
    connection.sendall(head.encode() + sent)
    return connection


def ask(service: Service, key: str, rows: int = 1) -> tuple[int, str | None]:
    code, headers, _ = service.ask("POST", INFER, body(rows), {"Authorization": f"Bearer {key}"})
    return code, headers["Retry-After"]


def settle(service: Service, key: str, expected: int) -> None:
    """Wait until the service answers like this: what was sent before has to come."""
    deadline = time.monotonic() + 10
    while ask(service, key)[0] != expected:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_key_with_too_many_requests_gets_429_and_all_together_503(service: Service, keys: list[str]) -> None:
    one, two = keys
    with contextlib.ExitStack() as open_requests:
        for _ in range(2):
            open_requests.enter_context(begin(service, one, 10))
        settle(service, one, 429)
        assert ask(service, one) == (429, "1")
        assert ask(service, two) == (200, None)
        open_requests.enter_context(begin(service, two, 10))
        settle(service, two, 503)
        assert ask(service, two) == (503, "1")
    settle(service, one, 200)
    settle(service, two, 200)


def test_bytes_that_come_are_counted_while_their_request_is_under_way(service: Service, keys: list[str]) -> None:
    one, two = keys
    with begin(service, one, 90_000, b"x" * 80_000):
        deadline = time.monotonic() + 10
        while ask(service, one, 15)[0] != 429:
            assert time.monotonic() < deadline
        assert ask(service, two, 15)[0] == 200
    settle(service, one, 200)
    assert ask(service, one, 15)[0] == 200


def test_a_kept_connection_answers_more_than_its_limits_one_after_the_other(service: Service, keys: list[str]) -> None:
    headers = {"Authorization": f"Bearer {keys[0]}"}
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", service.port, timeout=20)) as connection:
        for _ in range(10):
            upgrade = {**headers, "Connection": "Upgrade", "Upgrade": "h2c"}  # it is read twice
            assert ask_on(connection, "POST", INFER, body(3), upgrade)[0] == 200
            assert ask_on(connection, "POST", INFER, body(15), headers)[0] == 200
            assert ask_on(connection, "GET", "/v2", None, headers)[0] == 200
            packed = gzip.compress(body(15))
            assert ask_on(connection, "POST", INFER, packed, {**headers, "Content-Encoding": "gzip"})[0] == 200
            assert ask_on(connection, "POST", INFER, iter([body(3)]), headers)[0] == 200


@pytest.mark.parametrize(
    ("limit", "status", "reason"),
    [
        ("SERVE_CALLER_REQUESTS", "StatusCode.RESOURCE_EXHAUSTED", "has 1 requests under way"),
        ("SERVE_MAX_REQUESTS", "StatusCode.UNAVAILABLE", "1 requests are under way, at most 1 may be"),
    ],
)
def test_a_message_of_a_grpc_stream_counts_like_a_call(
    folder: Path, tmp_path: Path, limit: str, status: str, reason: str
) -> None:
    port, pixels = free_port(), one_row()
    with (
        behind_a_gate(folder, tmp_path, GRPC_PORT=str(port), **{limit: "1"}) as (gateway, remote),
        contextlib.ExitStack() as clients,
    ):
        first, second = (clients.enter_context(triton.InferenceServerClient(f"127.0.0.1:{port}")) for _ in range(2))
        answers: queue.Queue[Any] = queue.Queue()
        for client in (first, second):
            client.start_stream(lambda result, error: answers.put(error))
            client.async_stream_infer("keras_cnn-onnx", [pixels])
            assert answers.get(timeout=20) is None
        with remote.shut():
            first.async_stream_infer("keras_cnn-onnx", [pixels])
            assert remote.holds.wait(20)
            second.async_stream_infer("keras_cnn-onnx", [pixels])
            assert reason in answers.get(timeout=20).message()
            with pytest.raises(InferenceServerException, match=reason) as refused:
                second.infer("keras_cnn-onnx", [pixels])
            assert refused.value.status() == status
        assert answers.get(timeout=20) is None
        settle(gateway, "", 200)


def one_row() -> triton.InferInput:
    pixels = triton.InferInput("pixels", [1, 28, 28, 1], "FP32")
    pixels.set_data_from_numpy(np.zeros((1, 28, 28, 1), np.float32))
    return pixels


@contextlib.contextmanager
def behind_a_gate(folder: Path, tmp_path: Path, **settings: str) -> Iterator[tuple[Service, Gate]]:
    """A gateway with these settings, and the gate that keeps what calls its model."""
    with started(folder / "artifacts", tmp_path / "remote") as service, gate(service) as remote:
        settings["SERVE_REMOTES"] = f"onnx={remote.url}"
        with started(folder / "artifacts", tmp_path / "gateway", **settings) as gateway:
            settle(gateway, "", 200)
            yield gateway, remote


def test_rows_that_run_are_counted(folder: Path, tmp_path: Path) -> None:
    with behind_a_gate(folder, tmp_path, SERVE_CALLER_ROWS="20") as (gateway, remote):
        with ThreadPoolExecutor() as pool, remote.shut():
            waiting = pool.submit(ask, gateway, "", 15)
            assert remote.holds.wait(20)
            assert ask(gateway, "", 10) == (429, "1")
        assert waiting.result() == (200, None)
        settle(gateway, "", 200)


def test_an_address_has_so_many_connections_and_with_more_takes_no_others_place(folder: Path, tmp_path: Path) -> None:
    limits = {"SERVE_CALLER_CONNECTIONS": "3", "SERVE_MAX_CONNECTIONS": "4"}
    with (
        started(folder / "artifacts", tmp_path / "output", **limits) as service,
        socket.create_connection(("127.0.0.1", service.port), 20, ("127.0.0.2", 0)) as other,
        contextlib.ExitStack() as kept,
    ):
        for _ in range(3):
            connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=20)
            kept.enter_context(contextlib.closing(connection))
            assert ask_on(connection, "GET", "/v2")[0] == 200
        code, headers, answer = service.ask("GET", "/v2")
        assert (code, headers["Retry-After"]) == (429, "1")
        assert "127.0.0.1 has 3 connections" in json.loads(answer)["error"]
        other.sendall(b"GET /v2 HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert other.recv(65536).startswith(b"HTTP/1.1 200 ")
        kept.close()
        deadline = time.monotonic() + 10
        while service.ask("GET", "/v2")[0] != 200:
            assert time.monotonic() < deadline


@pytest.mark.parametrize(
    ("limit", "status", "reason"),
    [
        (
            "SERVE_CALLER_BYTES",
            "StatusCode.RESOURCE_EXHAUSTED",
            "bytes under way in this worker, and a caller may have",
        ),
        ("SERVE_MAX_HELD", "StatusCode.UNAVAILABLE", "The requests that are under way hold"),
    ],
)
def test_what_a_grpc_message_inflates_to_counts_until_its_answer(
    folder: Path, tmp_path: Path, limit: str, status: str, reason: str
) -> None:
    """On the wire both messages are a few bytes."""
    port, pixels = free_port(), one_row()
    with (
        behind_a_gate(folder, tmp_path, GRPC_PORT=str(port), **{limit: "5000"}) as (gateway, remote),
        triton.InferenceServerClient(f"127.0.0.1:{port}") as client,
    ):
        infer = partial(client.infer, "keras_cnn-onnx", [pixels], compression_algorithm="gzip")
        infer()
        answers: queue.Queue[Any] = queue.Queue()
        with remote.shut():
            client.async_infer("keras_cnn-onnx", [pixels], lambda result, error: answers.put(error))
            assert remote.holds.wait(20)
            assert held(gateway) > 3136
            with pytest.raises(InferenceServerException, match=reason) as refused:
                infer()
            assert refused.value.status() == status
        assert answers.get(timeout=20) is None
        wait_until(lambda: held(gateway) == 0)
        infer()


def held(service: Service) -> float:
    match = re.search(r"^rosetta_held_bytes (\S+)$", service.ask("GET", "/metrics")[2].decode(), re.MULTILINE)
    assert match is not None
    return float(match[1])
