"""How fast the machine itself is while rows are measured: fixed work of the project's own, which no upgrade changes.

python -m compare.pace      for each line of kinds, such as `compute start`, prints their seconds as JSON

A shared machine is slower on some days, but not in everything alike: a runtime's call hardly moves while a request over
HTTP, or the start of a process, takes twice as long. So there is fixed work of each kind.
"""

import contextlib
import json
import os
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from compare.metrics import COMPUTE, START, SYSTEM
from contract.code import ROOT
from contract.errors import RuntimeFailure

SECONDS = 0.05


def _median(call: Callable[[], object], seconds: float = SECONDS) -> float:
    times: list[float] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def _compute() -> Callable[[], object]:
    """About what a small network computes: some products of matrices, and what lies between them."""
    random = np.random.default_rng(0)
    rows, weights = random.random((64, 64), np.float32), random.random((4, 64, 64), np.float32)

    def work() -> object:
        values = rows
        for weight in weights:
            values = np.maximum(values @ weight - 16, 0)
        return values

    return work


def _exchange() -> float:
    """A small request and its answer over the loopback interface, between two processes."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        child = os.fork()
        if not child:
            _echo(server)
        with socket.create_connection(server.getsockname()) as connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

            def request() -> None:
                connection.sendall(b"x" * 3136)
                connection.recv(4096)

            seconds = _median(request)
    os.waitpid(child, 0)
    return seconds


def _echo(server: socket.socket) -> None:
    """The child's part: a short answer to whatever comes, until the connection ends."""
    try:
        connection, _ = server.accept()
        while connection.recv(4096):
            connection.sendall(b"x" * 40)
    finally:
        os._exit(0)


def _start() -> float:
    """A Python that imports NumPy, from the page cache: once, since each row of each round has it measured."""
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", "import numpy"], check=True)
    return time.perf_counter() - start


WORK: dict[str, Callable[[], float]] = {COMPUTE: lambda: _median(_compute()), SYSTEM: _exchange, START: _start}
"""Kind of work -> the median seconds that it takes now."""


@contextlib.contextmanager
def measuring() -> Iterator[Callable[..., dict[str, Any]]]:
    """What measures kinds of work when it is called, in a process of its own, until the end of the block.

    A call raises RuntimeFailure where that process has ended.
    """
    command = [sys.executable, "-m", "compare.pace"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=ROOT, stdin=pipe, stdout=pipe, bufsize=0) as process:
        assert process.stdin and process.stdout
        output, lines = process.stdin, process.stdout

        def measure(*kinds: str) -> dict[str, Any]:
            with contextlib.suppress(OSError):  # it has ended: the line that does not come says so
                output.write(f"{' '.join(kinds)}\n".encode())
            if not (line := lines.readline()):
                raise RuntimeFailure(
                    f"The process that measures the machine's pace ended, exit status {process.wait()}."
                )
            measured: dict[str, Any] = json.loads(line)
            return measured

        yield measure  # the end of its input ends the process


def main() -> None:
    """Measure what each line of standard input names."""
    for line in sys.stdin:
        print(json.dumps({kind: WORK[kind]() for kind in line.split()}), flush=True)


if __name__ == "__main__":
    main()
