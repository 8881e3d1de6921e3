"""How connections reach the workers, and what becomes of those that wait when a worker ends."""

import asyncio
import contextlib
import http.client
import os
import select
import shutil
import signal
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import AsyncIterator, Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import uvloop
from uvicorn import Config

from serve.asgi import Front
from serve.catalog import Catalog
from serve.dataplane import DataPlane
from serve.generations import LOADING, READY, REFUSED, Generations
from serve.listeners import drop_new, open_listeners
from serve.settings import SettingError, Settings
from serve.stats import FILES
from serve.worker import ListeningServer, Worker, _accept
from tests.serving import Service, halt, started, wait_until

REQUEST = b"GET /v2/health/live HTTP/1.1\r\nHost: a\r\n\r\n"


@pytest.fixture(scope="module")
def service(artifacts: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """Two workers over a model that loads in an instant."""
    folder = tmp_path_factory.mktemp("one") / "artifacts"
    shutil.copytree(artifacts / "keras_cnn" / "onnx", folder / "keras_cnn" / "onnx")
    with started(folder, tmp_path_factory.mktemp("output") / "service", SERVE_WORKERS="2") as running:
        wait_until(lambda: len(running.workers()) == 2)
        yield running


@contextlib.contextmanager
def listening(count: int) -> Iterator[list[socket.socket]]:
    with contextlib.ExitStack() as opened:
        yield [opened.enter_context(listener) for listener in open_listeners("127.0.0.1", 0, count)]


# The listeners


def test_the_kernel_shares_out_connections() -> None:
    with listening(2) as listeners, contextlib.ExitStack() as kept:
        for _ in range(64):
            kept.enter_context(socket.create_connection(listeners[0].getsockname()))
        accepted = [[kept.enter_context(taken) for taken in _accept(listener)] for listener in listeners]
    assert sum(map(len, accepted)) == 64
    assert min(map(len, accepted)) >= 8  # fewer happen once in ten billion times


@pytest.mark.parametrize(("first", "second"), [(1, 1), (1, 2), (2, 1), (2, 2)])
def test_a_second_service_cannot_listen_on_the_same_port(first: int, second: int) -> None:
    with listening(first) as listeners:
        port = listeners[0].getsockname()[1]
        with pytest.raises(SettingError, match=f"HOST=127.0.0.1 PORT={port} cannot be listened on: Address already"):
            open_listeners("127.0.0.1", port, second)


def test_names_and_addresses_of_version_6_are_listened_on() -> None:
    for host in ("localhost", "::1"):
        for listener in open_listeners(host, 0, 2):
            with listener, socket.create_connection(listener.getsockname()[:2]):
                pass


def test_what_waits_is_accepted_as_far_as_files_can_be_opened() -> None:
    class Exhausted(socket.socket):
        left = 2

        def accept(self) -> Any:
            self.left -= 1
            if self.left < 0:
                raise OSError(24, "Too many open files")
            return super().accept()

    with Exhausted() as listener, contextlib.ExitStack() as kept:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        for _ in range(3):
            kept.enter_context(socket.create_connection(listener.getsockname()))
        assert len([kept.enter_context(taken) for taken in _accept(listener)]) == 2


# One worker's server


@contextlib.asynccontextmanager
async def serving(listener: socket.socket, other: socket.socket) -> AsyncIterator[ListeningServer]:
    """A worker's server, and the listener of another worker, which does nothing."""
    front = Front(DataPlane(Catalog([]), Settings()))
    kept = ("http", "ws", "lifespan", "interface", "access_log", "server_header", "proxy_headers")
    config = Config(front, log_config=None, **{name: Worker.CONFIG_KWARGS[name] for name in kept})
    known = {"generations": Generations(), "age": 1, "ppid": os.getppid(), "cfg": SimpleNamespace(workers=1)}
    worker = SimpleNamespace(config=config, wsgi=front, listener=listener, sockets=[listener, other], **known)
    server = ListeningServer(cast(Worker, worker))
    config.load()
    server.lifespan = config.lifespan_class(config)
    await server.startup()
    yield server
    if not front.is_ending:
        await server.shutdown()


def connect_to(listener: socket.socket) -> socket.socket:
    """A connection that waits in this listener's queue, with a request."""
    for _ in range(64):
        connection = socket.create_connection(listener.getsockname(), timeout=10)
        connection.sendall(REQUEST)
        if waits(listener):
            return connection
        connection.close()
    raise AssertionError("the kernel gave this listener none of 64 connections")


def waits(listener: socket.socket) -> bool:
    """Whether a connection is in the listener's queue."""
    return bool(select.select([listener], [], [], 0)[0])


def read_to_the_end(connection: socket.socket) -> bytes:
    with connection, connection.makefile("rb") as received:
        return received.read()


def test_what_waits_for_another_worker_at_two_looks_is_taken() -> None:
    async def main() -> bytes:
        with listening(2) as (own, other):
            async with serving(own, other) as server:
                connection = connect_to(other)
                await server.on_tick(1)
                assert waits(other), "the other worker had no time to take it"
                await server.on_tick(2)
                assert not waits(other)
                connection.shutdown(socket.SHUT_WR)
                return await asyncio.to_thread(read_to_the_end, connection)

    assert uvloop.run(main()).startswith(b"HTTP/1.1 200 OK\r\n")


def test_what_waits_at_the_end_is_answered_once() -> None:
    async def main() -> list[bytes]:
        with listening(2) as (own, other):
            address = own.getsockname()
            async with serving(own, other) as server:
                waiting = [connect_to(other) for _ in range(3)]
                _, answers = await asyncio.gather(
                    server.shutdown(), asyncio.to_thread(lambda: [read_to_the_end(each) for each in waiting])
                )
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(address)
            return answers

    for answer in uvloop.run(main()):
        assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
        assert b"connection: close\r\n" in answer


# The service


def test_a_worker_that_hangs_keeps_no_connection_waiting(service: Service) -> None:
    stopped = min(service.workers())
    halt(stopped)
    try:
        start = time.monotonic()
        for _ in range(12):
            with contextlib.closing(service.connect()) as connection:
                connection.request("GET", "/v2/health/live")
                assert connection.getresponse().status == 200
        assert time.monotonic() - start < 30
    finally:
        os.kill(stopped, signal.SIGCONT)


def test_a_reload_loses_no_connection(service: Service) -> None:
    stop, statuses = threading.Event(), list[Any]()

    def are_replaced(old: set[int]) -> bool:
        now = service.workers()
        return len(now) == 2 and not now & old

    def connect_again_and_again() -> None:
        while not stop.is_set():
            try:
                statuses.append(service.ask("GET", "/v2/health/live")[0])
            except (OSError, http.client.HTTPException) as error:
                statuses.append(error)

    clients = [threading.Thread(target=connect_again_and_again) for _ in range(8)]
    for client in clients:
        client.start()
    try:
        for _ in range(2):
            old = service.workers()
            os.kill(service.process.pid, signal.SIGHUP)
            wait_until(partial(are_replaced, old))
    finally:
        stop.set()
        for client in clients:
            client.join()
    assert set(statuses) == {200}
    assert len(statuses) >= 16, "hardly a connection came during the reloads"


@pytest.fixture
def slow_to_load(artifacts: Path, tmp_path: Path) -> Iterator[Service]:
    """Two workers that wait for Node to start before they are ready."""
    for format in ("onnx", "tfjs"):
        shutil.copytree(artifacts / "keras_cnn" / format, tmp_path / "artifacts" / "keras_cnn" / format)
    state = tmp_path / "state"
    with started(tmp_path / "artifacts", tmp_path / "output", SERVE_WORKERS="2", SERVE_STATE=str(state)) as running:
        wait_until(lambda: len(list(state.glob(FILES))) == 2)  # a worker writes its counts once it is ready
        yield running


def test_the_old_workers_answer_until_the_new_ones_are_ready_and_stay_if_these_are_worse(
    slow_to_load: Service, tmp_path: Path
) -> None:
    service = slow_to_load
    model = tmp_path / "artifacts" / "keras_cnn" / "onnx" / "model.onnx"
    whole, old = model.read_bytes(), service.workers()

    def is_answered() -> bool:
        """Whether every model answers, which it does at any time."""
        codes = [service.ask("GET", f"/v2/models/keras_cnn-{name}/ready")[0] for name in ("onnx", "tfjs")]
        assert codes == [200, 200]
        return True

    model.write_bytes(b"damaged")
    os.kill(service.process.pid, signal.SIGHUP)
    wait_until(lambda: is_answered() and service.log.count("The reload is refused") == 2)
    wait_until(lambda: is_answered() and service.workers() == old)
    model.write_bytes(whole)
    os.kill(service.process.pid, signal.SIGHUP)
    wait_until(lambda: is_answered() and len(service.workers()) == 2 and not service.workers() & old)


def test_workers_know_who_is_old_and_who_is_ready() -> None:
    known = Generations()
    assert (known.is_old(1), known.next_ones(2), known.models_before()) == (False, {LOADING}, set())
    assert not known.is_reloaded(1, 2)
    known.set_ready(1, ["b", "a"])
    assert known.next_ones(1) == {READY}
    assert known.models_before() == {"a", "b"}
    known.begin(3)
    assert [known.is_old(age) for age in (1, 2, 3)] == [True, True, False]
    # one that replaces a worker that died has nobody to leave the service to
    assert [known.is_reloaded(age, 2) for age in (2, 3, 4, 5)] == [False, True, True, False]
    assert known.next_ones(2) == {LOADING}
    known.refuse(3)
    known.set_ready(4, [])
    assert known.next_ones(2) == {REFUSED, READY}
    assert known.models_before() == set()
    known.stop()
    assert not known.is_old(1)


def test_nothing_comes_into_a_queue_once_new_connections_are_dropped() -> None:
    with listening(1) as (listener,), connect_to(listener):
        drop_new(listener)
        with pytest.raises(TimeoutError):
            socket.create_connection(listener.getsockname(), timeout=0.3)
        accepted = _accept(listener)
        assert len(accepted) == 1
        accepted[0].close()


def test_the_end_of_the_service_answers_every_connection_that_was_made(artifacts: Path, tmp_path: Path) -> None:
    shutil.copytree(artifacts / "keras_cnn" / "onnx", tmp_path / "artifacts" / "keras_cnn" / "onnx")
    stop, answers, lost = threading.Event(), list[bytes](), list[OSError]()

    def connect_again_and_again(port: int) -> None:
        while not stop.is_set():
            try:
                connection = socket.create_connection(("127.0.0.1", port), timeout=10)
            except OSError:  # the service has ended
                continue
            try:
                connection.sendall(REQUEST)
                with connection:
                    answers.append(connection.recv(65536)[:15])
            except OSError as error:
                lost.append(error)

    with started(tmp_path / "artifacts", tmp_path / "output", SERVE_WORKERS="2") as service:
        wait_until(lambda: len(service.workers()) == 2)
        clients = [threading.Thread(target=connect_again_and_again, args=[service.port]) for _ in range(8)]
        for client in clients:
            client.start()
        wait_until(lambda: len(answers) > 200)
        service.stop()
        stop.set()
        for client in clients:
            client.join()
    assert lost == []
    assert set(answers) == {b"HTTP/1.1 200 OK"}


def test_every_worker_speaks_tls_where_gunicorn_has_a_certificate(artifacts: Path, tmp_path: Path) -> None:
    shutil.copytree(artifacts / "keras_cnn" / "onnx", tmp_path / "artifacts" / "keras_cnn" / "onnx")
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 1 -subj /CN=localhost"
    subprocess.run([*command.split(), "-keyout", key, "-out", certificate], check=True, capture_output=True)
    settings = {"SERVE_WORKERS": "2", "GUNICORN_CMD_ARGS": f"--certfile={certificate} --keyfile={key}"}
    context = ssl.create_default_context(cafile=str(certificate))
    context.check_hostname = False
    with started(tmp_path / "artifacts", tmp_path / "output", **settings) as service:
        wait_until(lambda: len(service.workers()) == 2)
        stopped = min(service.workers())
        for hangs in (False, True):  # one worker takes the connections of the other
            if hangs:
                halt(stopped)
            for _ in range(12):
                plain = socket.create_connection(("127.0.0.1", service.port), timeout=20)
                with context.wrap_socket(plain, server_hostname="localhost") as connection:
                    connection.sendall(REQUEST)
                    assert connection.recv(65536).startswith(b"HTTP/1.1 200 OK")
        os.kill(stopped, signal.SIGCONT)
        with socket.create_connection(("127.0.0.1", service.port), timeout=20) as plain:
            plain.sendall(REQUEST)
            with contextlib.suppress(ConnectionResetError):
                assert not plain.recv(65536).startswith(b"HTTP")
