"""`python -m serve` as the tests start it, and ask it."""

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from contract.code import ROOT

START_SECONDS = 180
"""Loading every framework takes its time where the processors are busy."""
STOP_SECONDS = 30

Answer = tuple[int, Message, bytes]
"""Status, headers, body."""


def free_port() -> int:
    """A port that is free, and that no other of the processes that run the tests takes for its own."""
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    own = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    while True:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port: int = probe.getsockname()[1]
        # By tens: Linux gives even numbers alone to those that bind, and odd ones to those that connect.
        if port // 10 % workers == own:
            return port


def wait_until(condition: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


def listens(port: int) -> bool:
    """Whether the port is there: a worker opens that of gRPC once its models are loaded."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def halt(process: int) -> None:
    """Stop a process, and return once each of its threads stands: until then it may still take a request."""
    os.kill(process, signal.SIGSTOP)
    wait_until(lambda: is_stopped(process))


def is_stopped(process: int) -> bool:
    """Whether none of its threads runs."""
    states = []
    for stat in Path(f"/proc/{process}/task").glob("*/stat"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # a thread that has ended
            states.append(stat.read_text().rpartition(")")[2].split()[0])
    return set(states) <= {"T"}


def settings(artifacts: Path, **more: str) -> Mapping[str, str]:
    """The environment with these settings and no others."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("SERVE_", "GUNICORN_"))}
    return {**clean, "HOST": "127.0.0.1", "PORT": str(free_port()), "ARTIFACTS": str(artifacts), **more}


def descendants_of(ancestor: int) -> dict[int, str]:
    """The process id and name of every process that this one started, and that these started."""
    parents, names = {}, {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            before, _, after = stat.read_text().rpartition(")")
            process = int(stat.parent.name)
            names[process], parents[process] = before.partition("(")[2], int(after.split()[1])
    found = {ancestor}
    while more := {process for process, parent in parents.items() if parent in found} - found:
        found |= more
    return {process: names[process] for process in found - {ancestor}}


@dataclass
class Service:
    """A running `python -m serve`."""

    process: subprocess.Popen[bytes]
    port: int
    folder: Path
    """Where its output goes."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def printed(self) -> str:
        return (self.folder / "stdout").read_text()

    @property
    def log(self) -> str:
        return (self.folder / "stderr").read_text()

    def descendants(self) -> dict[int, str]:
        """The process id and name of every process that it started, and that these started."""
        return descendants_of(self.process.pid)

    def workers(self) -> set[int]:
        """The process ids of the workers."""
        return {process for process, name in self.descendants().items() if "node" not in name.lower()}

    def connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)

    def ask(self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None) -> Answer:
        """One request on a connection of its own; a body that is an iterator is sent in chunks."""
        return ask(self.port, method, path, body, headers)

    def ask_json(self, method: str, path: str, body: bytes | None = None) -> Any:
        """A request whose answer is JSON. Raises AssertionError unless its status is 200."""
        status, _, answer = self.ask(method, path, body, {"Content-Type": "application/octet-stream"})
        assert status == 200, answer
        return json.loads(answer)

    def stop(self) -> None:
        """Ask it to end, and wait for it; it may have ended before."""
        self.process.terminate()
        try:
            self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise


def ask(port: int, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None) -> Answer:
    """One request to this machine, on a connection of its own."""
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=60)) as connection:
        return ask_on(connection, method, path, body, headers)


def ask_on(
    connection: http.client.HTTPConnection,
    method: str,
    path: str,
    body: Any = None,
    headers: Mapping[str, str] | None = None,
) -> Answer:
    """One request on a connection that may have had others: status, headers, body."""
    connection.request(method, path, body, dict(headers or {}))
    response = connection.getresponse()
    return response.status, response.headers, response.read()


@contextlib.contextmanager
def started(artifacts: Path, folder: Path, most_files: str = "", **more: str) -> Iterator[Service]:
    """Start the service, wait for its banner, and end it. `most_files`: the hard limit of files that it may open."""
    environment = settings(artifacts, **more)
    folder.mkdir()
    with (folder / "stdout").open("wb") as stdout, (folder / "stderr").open("wb") as stderr:
        command = [sys.executable, "-m", "serve"]
        if most_files:
            command = ["sh", "-c", f'ulimit -n {most_files} && exec "$@"', "sh", *command]
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=stdout, stderr=stderr)
    service = Service(process, int(environment["PORT"]), folder)
    try:
        wait_until(lambda: "curl" in service.printed or process.poll() is not None, START_SECONDS)
        assert process.poll() is None, service.log
        yield service
    finally:
        service.stop()


class Gate:
    """Stands before a service as its remote's address; while it is shut, what calls a model waits there.

    A service that is halted would be noticed within seconds, and then calls fail at once.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.holds = threading.Event()
        """Set once a call waits."""
        self._is_open = threading.Event()
        self._is_open.set()

    @contextlib.contextmanager
    def shut(self) -> Iterator[None]:
        self.holds.clear()
        self._is_open.clear()
        try:
            yield
        finally:
            self._is_open.set()

    def pass_on(self, path: str) -> None:
        """Return at once, or, for a call of a model, once the gate is open."""
        if path.endswith("/infer") and not self._is_open.is_set():
            self.holds.set()
            self._is_open.wait(60)


@contextlib.contextmanager
def gate(service: Service) -> Iterator[Gate]:
    """A gate before a service, at an address of its own."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:  # the name that http.server asks for
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            guard.pass_on(self.path)
            status, headers, answer = service.ask(self.command, self.path, body, dict(self.headers))
            self.send_response_only(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(answer)

        do_POST = do_GET

        def log_message(self, format: str, *args: Any) -> None:
            """Nothing: the tests look at answers, not at a log."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        guard = Gate(f"http://127.0.0.1:{server.server_port}")
        serving = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        serving.start()
        try:
            yield guard
        finally:
            server.shutdown()
            serving.join()
