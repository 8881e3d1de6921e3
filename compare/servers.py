"""Server processes on free loopback ports: start them, measure them from outside, and stop them with their children."""

import contextlib
import http.client
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from contract.cell import kernel
from contract.code import ROOT

HOST = "127.0.0.1"
LOGS = ROOT / "build" / "logs"
"""Where each server's output goes: `<name>.log`."""
START_SECONDS = 180
STOP_SECONDS = 20

CLOCK_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Server:
    """A running server."""

    name: str
    port: int
    process: subprocess.Popen[bytes]
    log: Path
    ready_seconds: float
    """Seconds from the start of the process to its first answer."""

    def tree(self) -> list[int]:
        """Process ids of the server and of all its descendants, parents before children."""
        parents = _parents()
        tree = [self.process.pid]
        for process in tree:  # grows during the loop
            tree += [child for child, parent in parents.items() if parent == process]
        return tree

    def workers(self) -> list[int]:
        """Process ids of the server's children; its own if it has none."""
        children = [process for process, parent in _parents().items() if parent == self.process.pid]
        return children or [self.process.pid]

    def kill(self) -> None:
        """End all its processes at once, where nothing is under way: an orderly end takes half a second."""
        for process in self.tree():
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)

    def rss(self) -> float:
        """Resident memory in MiB; a shared page counts once for each process."""
        return sum(map(rss, self.tree()))

    def pss(self) -> float:
        """Memory in MiB; a shared page counts once."""
        return sum(map(pss, self.tree()))

    def cpu_seconds(self) -> float:
        """Seconds of processor time of all its processes."""
        return sum(map(cpu_seconds, self.tree()))


@contextlib.contextmanager
def started(name: str, command: Sequence[str], ready: str, folder: Path = ROOT, **settings: str) -> Iterator[Server]:
    """Run `command` in `folder` until the end of the block; it is ready when the path `ready` answers 200.

    The server gets its port as PORT in the environment, and in the command in place of `{port}`. `settings` are further
    environment variables. Raises RuntimeError, with the end of the log, if the server does not become ready.
    """
    port = free_port()
    LOGS.mkdir(parents=True, exist_ok=True)
    log = LOGS / f"{name}.log"
    arguments = [part.replace("{port}", str(port)) for part in command]
    keep = {key: value for key, value in os.environ.items() if not key.startswith(("SERVE_", "GUNICORN_"))}
    start = time.perf_counter()
    with log.open("wb") as output:
        process = subprocess.Popen(
            arguments,
            env=keep | {"PORT": str(port)} | settings,
            cwd=folder,
            stdout=output,
            stderr=output,
            # However a measurement ends, killed too, its server ends with it.
            preexec_fn=partial(kernel.die_with_parent, signal.SIGTERM),
        )
    try:
        seconds = _wait_until_ready(process, port, ready, log, start)
        yield Server(name, port, process, log, seconds)
    finally:
        _stop(process)


def ours(
    artifacts: Path, workers: int = 2, root: Path = ROOT, **settings: str
) -> contextlib.AbstractContextManager[Server]:
    """Run this project's service on a folder of artifacts until the end of the block; `root` is another checkout."""
    settings |= {"SERVE_TRUST": os.environ.get("SERVE_TRUST", "0")}  # it judges as whoever measures it does
    settings |= {"ARTIFACTS": str(artifacts.resolve()), "HOST": HOST, "SERVE_WORKERS": str(workers)}
    name = "ours" if root == ROOT else "baseline"
    return started(name, [python_of(root), "-m", "serve"], "/v2/health/ready", root, **settings)


def python_of(root: Path) -> str:
    """The Python of a checkout: of its own environment if it has one."""
    own = root / ".venv" / "bin" / "python"
    return str(own) if root != ROOT and own.is_file() else sys.executable


def free_port() -> int:
    """A port of the loopback interface that is free now."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


def ask(port: int, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None) -> tuple[int, bytes]:
    """Status and body of one request on its own connection: a POST if there is a body, otherwise a GET."""
    connection = http.client.HTTPConnection(HOST, port, timeout=30)
    with contextlib.closing(connection):
        connection.request("GET" if body is None else "POST", path, body, dict(headers or {}))
        response = connection.getresponse()
        return response.status, response.read()


def _wait_until_ready(process: subprocess.Popen[bytes], port: int, path: str, log: Path, start: float) -> float:
    while time.perf_counter() - start < START_SECONDS:
        with contextlib.suppress(OSError, http.client.HTTPException):
            if ask(port, path)[0] == 200:
                return time.perf_counter() - start
        if process.poll() is not None:
            break
        time.sleep(0.01)
    raise RuntimeError(f"{log.stem} did not start:\n{log.read_text(errors='replace')[-3000:]}")


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Terminate the server as an operator would, then kill what is left of its processes."""
    tree = Server("", 0, process, Path(), 0).tree() if process.poll() is None else []
    start_times = {pid: _start_time(pid) for pid in tree}
    process.terminate()
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    for pid, start_time in start_times.items():
        if start_time is not None and _start_time(pid) == start_time:  # not another process that has the same id by now
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def _parents() -> dict[int, int]:
    stats = {int(path.parent.name): _stat(int(path.parent.name)) for path in Path("/proc").glob("[0-9]*/stat")}
    return {process: int(stat[1]) for process, stat in stats.items() if stat}


def _start_time(process: int) -> str | None:
    """When a process started, in clock ticks since boot; None if it is gone."""
    stat = _stat(process)
    return stat[19] if stat else None


def _stat(process: int) -> list[str]:
    """The fields of /proc/PID/stat from the third on; empty if the process is gone."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def cpu_seconds(process: int) -> float:
    """Seconds of processor time that a process has used, in the kernel too."""
    stat = _stat(process)
    return (int(stat[11]) + int(stat[12])) / CLOCK_TICKS if stat else 0.0


def rss(process: int) -> float:
    """Resident memory of a process in MiB."""
    return _kilobytes(Path(f"/proc/{process}/status"), "VmRSS:") / 1024


def pss(process: int) -> float:
    """Memory of a process in MiB; of a shared page, only its share counts."""
    return _kilobytes(Path(f"/proc/{process}/smaps_rollup"), "Pss:") / 1024


def _kilobytes(path: Path, field: str) -> int:
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith(field)), 0)
