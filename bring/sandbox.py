"""Child processes that read a user's file: without a network, not as root, with limits of memory and time.

All protection that the system allows is used: a network namespace needs root or user namespaces, another user needs
root and a checkout that others may read.
"""

import contextlib
import ctypes
import os
import pwd
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from contract.code import ROOT
from contract.errors import RosettaError

NEW_USER, NEW_NETWORK = 0x10000000, 0x40000000
"""unshare(2)'s CLONE_NEWUSER and CLONE_NEWNET."""
LIBC = ctypes.CDLL(None, use_errno=True)

NOBODY = "nobody"
POLL_SECONDS = 0.1
GIB = 2**30


@dataclass(frozen=True)
class Limits:
    """The most that a child may use."""

    seconds: float = 900
    memory: float = 6 * GIB
    """Resident bytes, of all its processes together."""
    file_size: int = 8 * GIB


@dataclass(frozen=True)
class Finished:
    """A child that ended without an error."""

    output: str
    log: str
    """What it wrote to both streams."""
    seconds: float
    peak: int
    """The most resident bytes, sampled every POLL_SECONDS."""


class ChildFailed(RosettaError):
    """A child ended with an error, or was killed at a limit."""

    def __init__(self, reason: str, log: str) -> None:
        super().__init__(reason)
        self.log = log


@dataclass(frozen=True)
class Cell:
    """Where children run: the only folder that they may write to, their user, and their limits."""

    folder: Path
    user: int | None
    """None: as this process."""
    limits: Limits


@contextlib.contextmanager
def cell(beside: Path, file: Path, limits: Limits) -> Iterator[Cell]:
    """A cell for children that read `file`, until the end of the block; inside the folder `beside` where possible.

    `beside` is made if it is missing, and removed again if nothing was put into it.
    """
    user = _other_user(file)
    is_new = not beside.exists()
    beside.mkdir(parents=True, exist_ok=True)
    place = beside if user is None or _others_may_enter(beside) else None
    try:
        with tempfile.TemporaryDirectory(prefix=".brought.", dir=place) as made:
            if user is not None:
                os.chown(made, user, -1)
            yield Cell(Path(made).resolve(), user, limits)
    finally:
        if is_new:
            with contextlib.suppress(OSError):  # it is not empty
                beside.rmdir()


def run(cell: Cell, module: str, *arguments: str) -> Finished:
    """Run `python -m module arguments` in the cell.

    Raises ChildFailed with the child's last line as the reason, or with the limit that it exceeded.
    """
    folder, limits = cell.folder, cell.limits
    settings = {
        "HOME": str(folder),
        "TMPDIR": str(folder),
        "KERAS_HOME": str(folder),
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONPATH": str(ROOT),
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "ORT_DISABLE_TELEMETRY": "1",
        "CUDA_VISIBLE_DEVICES": "",
    }
    inherited = {name: value for name, value in os.environ.items() if name in ("PATH", "LANG", "LC_ALL", "VIRTUAL_ENV")}
    start = time.monotonic()
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        child = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            cwd=folder,
            env=inherited | settings,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=errors,
            start_new_session=True,
            preexec_fn=lambda: _confine(cell.user, limits),
        )
        try:
            peak, excess = _watch(child, limits, start)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            child.wait()
        written, complaints = _tail(output), _tail(errors)
    log = written + complaints
    if excess or child.returncode:
        raise ChildFailed(excess or _reason(child.returncode, complaints), log)
    return Finished(written, log, time.monotonic() - start, peak)


def _confine(user: int | None, limits: Limits) -> None:
    """Runs in the child before its program starts. What the system does not allow is skipped."""
    if LIBC.unshare(NEW_NETWORK) and user is None:
        LIBC.unshare(NEW_USER | NEW_NETWORK)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (limits.file_size, limits.file_size))
    os.umask(0o022)
    if user is not None:
        os.setgroups([])
        os.setgid(user)
        os.setuid(user)


def _other_user(file: Path) -> int | None:
    """The user of root's children; None if this is not root, or if that user could not read checkout or file."""
    if os.geteuid() != 0:
        return None
    try:
        user = pwd.getpwnam(NOBODY).pw_uid
    except KeyError:
        return None
    readable = (file, ROOT, Path(sys.prefix), Path(sys.executable).resolve(), Path(sys.base_prefix))
    return user if all(map(_others_may_enter, readable)) and file.stat().st_mode & 0o004 else None


def _others_may_enter(path: Path) -> bool:
    """Whether everybody may enter each folder down to `path`; what does not exist yet counts as its parent."""
    existing = [folder for folder in (path.resolve(), *path.resolve().parents) if folder.exists()]
    return all(folder.stat().st_mode & 0o001 for folder in existing if folder.is_dir())


def _watch(child: "subprocess.Popen[bytes]", limits: Limits, start: float) -> tuple[int, str]:
    """Wait until it ends: its peak of resident bytes, and the limit that it exceeded, or ""."""
    peak = 0
    while True:
        try:
            child.wait(POLL_SECONDS)
        except subprocess.TimeoutExpired:
            peak = max(peak, _resident(child.pid))
        else:
            return peak, ""
        if peak > limits.memory:
            return peak, f"It took more than {limits.memory / GIB:.3g} GiB of memory and was ended."
        if time.monotonic() - start > limits.seconds:
            return peak, f"It took longer than {limits.seconds:.0f} s and was ended."


def _resident(session: int) -> int:
    """Resident bytes of all processes of a session."""
    total = 0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            fields = stat.read_text().rpartition(")")[2].split()
            if int(fields[3]) == session:
                total += int(fields[21]) * resource.getpagesize()
    return total


def _tail(stream: BinaryIO, most: int = 1_000_000) -> str:
    """The last `most` bytes of a stream, as text."""
    size = stream.seek(0, os.SEEK_END)
    stream.seek(max(0, size - most))
    return stream.read().decode(errors="replace")


def _reason(status: int, errors: str) -> str:
    if status < 0:
        return f"It was ended by {signal.Signals(-status).name}: the library that it ran crashed on this file."
    lines = [line for line in errors.strip().splitlines() if line.strip()]
    starts = [number for number, line in enumerate(lines) if line.startswith("error: ")]
    if starts:  # the message may continue on the next lines
        return "\n".join(lines[starts[-1] :]).removeprefix("error: ")
    return (lines or [f"exit status {status}"])[-1]
