"""Workers are reloaded and killed under load: no request may fail but those that a killed worker was answering.

The clients send no request twice: each request without an answer counts as failed.
"""

import contextlib
import http.client
import os
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from bench.serving.calls import Call
from bench.serving.result import Row
from bench.serving.setting import Setting
from compare import servers
from compare.servers import HOST, Server

CONNECTIONS = 8
WORKERS = 2
TIMES = 3
PAUSE = 3.0
"""Seconds between two restarts: the old workers have ended by then."""


@dataclass
class Client:
    """A client that sends one request after the other, and its results."""

    port: int
    call: Call
    reconnects: bool
    """Whether each request has a connection of its own, which may wait in the queue of a worker that ends."""
    answered: int = 0
    failed: int = 0
    slowest: float = 0.0

    def run(self, stop: threading.Event) -> None:
        connection = http.client.HTTPConnection(HOST, self.port, timeout=60)
        while not stop.is_set():
            start = time.perf_counter()
            try:
                connection.request("POST", self.call.path, self.call.body, dict(self.call.headers))
                response = connection.getresponse()
                good = response.status == 200 and bool(response.read())
            except (OSError, http.client.HTTPException):
                good = False
                connection.close()
            if self.reconnects:
                connection.close()
            self.answered += good
            self.failed += not good
            self.slowest = max(self.slowest, time.perf_counter() - start)
        connection.close()


def reloaded_and_killed(setting: Setting) -> list[Row]:
    call = setting.model.json(1)
    with servers.ours(setting.artifacts, WORKERS) as server:
        call.check(server)
        reloads = _under_load(server, call, lambda: _reload(server))
        reconnected = _under_load(server, call, lambda: _reload(server), reconnects=True)
        kills = _under_load(server, call, lambda: _kill_a_worker(server))
        call.check(server)
    measure = f"Workers under load of {CONNECTIONS} connections"
    return [
        _row(measure, f"ours, {TIMES} reloads", *reloads, "no failed request"),
        _row(measure, f"ours, {TIMES} reloads, a connection a request", *reconnected, "no failed request"),
        _row(measure, f"ours, {TIMES} workers killed", *kills, "failed <= in flight there"),
    ]


def _row(measure: str, name: str, clients: list[Client], in_flight: int, target: str) -> Row:
    failed = sum(client.failed for client in clients)
    figures = {
        "answered": sum(client.answered for client in clients),
        "failed": failed,
        "in flight": in_flight,
        "slowest ms": 1000 * max(client.slowest for client in clients),
    }
    return Row(measure, name, figures, target=target, reached=failed <= in_flight)


def _under_load(
    server: Server, call: Call, event: Callable[[], int], reconnects: bool = False
) -> tuple[list[Client], int]:
    """The clients after a few events under load, and how many requests these may cost: each `event` returns its own."""
    clients, stop = [Client(server.port, call, reconnects) for _ in range(CONNECTIONS)], threading.Event()
    with ThreadPoolExecutor(CONNECTIONS) as pool:
        running = [pool.submit(client.run, stop) for client in clients]
        allowed = 0
        for _ in range(TIMES):
            time.sleep(PAUSE / 3)
            allowed += event()
            time.sleep(PAUSE)
        stop.set()
        for client in running:
            client.result()
    return clients, allowed


def _reload(server: Server) -> int:
    """Start new workers and wait until the old ones have ended."""
    old = server.workers()
    server.process.send_signal(signal.SIGHUP)
    deadline = time.monotonic() + 60
    while set(old) & set(server.workers()) and time.monotonic() < deadline:
        time.sleep(0.05)
    return 0


def _kill_a_worker(server: Server) -> int:
    """Kill the worker with the most connections. Their number is returned: each has at most one request."""
    connections = {worker: _connections(worker, server.port) for worker in server.workers()}
    worker = max(connections, key=lambda worker: connections[worker])
    os.kill(worker, signal.SIGKILL)
    return connections[worker]


def _connections(process: int, port: int) -> int:
    """How many established connections to `port` a process holds."""
    lines = Path(f"/proc/{process}/net/tcp").read_text().splitlines()[1:]
    fields = (line.split() for line in lines)
    established = {f"socket:[{line[9]}]" for line in fields if line[3] == "01" and line[1].endswith(f":{port:04X}")}
    held = []
    for descriptor in Path(f"/proc/{process}/fd").iterdir():
        with contextlib.suppress(OSError):
            held.append(str(descriptor.readlink()))
    return sum(name in established for name in held)
