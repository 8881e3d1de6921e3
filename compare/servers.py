"""Server processes: started on a free port of this machine, watched from outside, and stopped with all they started."""

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
from pathlib import Path

from contract.code import ROOT

HOST = "127.0.0.1"
LOGS = ROOT / "build" / "logs"
"""What each server writes, by its name."""
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
    """From the start of the process to its first answer."""

    def tree(self) -> list[int]:
        """The server's process and all that come from it, oldest first."""
        parents = _parents()
        found = [self.process.pid]
        for process in found:  # grows while it is walked
            found += [child for child, parent in parents.items() if parent == process]
        return found

    def workers(self) -> list[int]:
        """The processes that the first one started; itself, where it started none."""
        children = [process for process, parent in _parents().items() if parent == self.process.pid]
        return children or [self.process.pid]

    def rss(self) -> float:
        """Megabytes of resident memory, pages that are shared counted once for each process."""
        return sum(map(rss, self.tree()))

    def pss(self) -> float:
        """Megabytes of memory, shared pages counted once."""
        return sum(map(pss, self.tree()))

    def cpu_seconds(self) -> float:
        return sum(map(cpu_seconds, self.tree()))


@contextlib.contextmanager
def started(name: str, command: Sequence[str], ready: str, folder: Path = ROOT, **settings: str) -> Iterator[Server]:
    """Run `command` in `folder` until the end of the block; it is ready when the path `ready` answers 200.

    It finds its port in the environment, as PORT, or in the command, in place of `{port}`.
    """
    port = free_port()
    LOGS.mkdir(parents=True, exist_ok=True)
    log = LOGS / f"{name}.log"
    arguments = [part.replace("{port}", str(port)) for part in command]
    keep = {key: value for key, value in os.environ.items() if not key.startswith(("SERVE_", "GUNICORN_"))}
    start = time.perf_counter()
    with log.open("wb") as output:
        process = subprocess.Popen(
            arguments, env=keep | {"PORT": str(port)} | settings, cwd=folder, stdout=output, stderr=output
        )
    try:
        seconds = _wait_until_ready(process, port, ready, log, start)
        yield Server(name, port, process, log, seconds)
    finally:
        _stop(process)


def ours(artifacts: Path, workers: int = 2, **settings: str) -> contextlib.AbstractContextManager[Server]:
    """This project's service over a folder of artifacts."""
    settings |= {"ARTIFACTS": str(artifacts.resolve()), "HOST": HOST, "SERVE_WORKERS": str(workers)}
    return started("ours", [sys.executable, "-m", "serve"], "/v2/health/ready", ROOT, **settings)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


def ask(port: int, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None) -> tuple[int, bytes]:
    """One request on a connection of its own: a POST where there is a body."""
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
    """End it as an operator would, then whatever of its processes is left."""
    started = Server("", 0, process, Path(), 0).tree() if process.poll() is None else []
    begun = {pid: _begun(pid) for pid in started}
    process.terminate()
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    for pid, begin in begun.items():
        if begin is not None and _begun(pid) == begin:  # not another process by the same number
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def _parents() -> dict[int, int]:
    stats = {int(path.parent.name): _stat(int(path.parent.name)) for path in Path("/proc").glob("[0-9]*/stat")}
    return {process: int(stat[1]) for process, stat in stats.items() if stat}


def _begun(process: int) -> str | None:
    stat = _stat(process)
    return stat[19] if stat else None


def _stat(process: int) -> list[str]:
    """The fields of /proc/PID/stat from the third on; none where there is no such process any more."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def cpu_seconds(process: int) -> float:
    """Seconds that a process has computed, in the kernel too."""
    stat = _stat(process)
    return (int(stat[11]) + int(stat[12])) / CLOCK_TICKS if stat else 0.0


def rss(process: int) -> float:
    """Megabytes of memory that are resident."""
    return _kilobytes(Path(f"/proc/{process}/status"), "VmRSS:") / 1024


def pss(process: int) -> float:
    """Megabytes of memory, of shared pages this process's share."""
    return _kilobytes(Path(f"/proc/{process}/smaps_rollup"), "Pss:") / 1024


def _kilobytes(path: Path, field: str) -> int:
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith(field)), 0)
