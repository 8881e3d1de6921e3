"""The emulated Python, as a runtime of the artifacts that are loaded in it."""

import contextlib
import os
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from contract.cell.frames import Frames
from contract.cell.tensors import HALF, Room
from contract.code import ROOT
from contract.errors import ModelUnavailable, RuntimeFailure
from contract.manifest import Manifest
from contract.tensors import Tensors

ARM = ROOT / ".venv" / "arm"
"""What `bootstrap arm` makes: the emulator, a Debian for ARM with Python, and the runtimes' packages."""
SET_UP = "Run `make verify-arm`, which sets it up; remove .venv/arm first if it is damaged."
PHONE = "cortex-a76"
"""The processor that is emulated: phones have had it, and its instructions, since 2019."""
START_SECONDS = 120.0
CALL_SECONDS = 300.0
"""A call of many rows of a large network takes minutes on an emulated processor."""


@dataclass(frozen=True)
class Emulation:
    """How a Python is started on another processor."""

    command: Sequence[str]
    """The program and its arguments, up to the module's."""
    packages: Path | None
    """The folder with what it imports besides this project; None where it has that itself."""
    processor: str
    """Which one that is: "cortex-a76"."""
    machine: str = "aarch64"
    """What this Python has to say that it runs on."""


class Emulated:
    """A process on that processor, which is started when the first artifact is loaded. It holds the last one."""

    platform, in_process = "emulated", False

    def __init__(self, emulation: Emulation) -> None:
        self._emulation = emulation
        self._process: subprocess.Popen[bytes] | None = None
        self._files: tuple[int, ...] = ()
        self.title = ""

    def load(self, folder: Path, manifest: Manifest) -> Self:
        """Load the artifact in `folder`; this is its runtime then.

        Raises ModelUnavailable where the process does not start, RuntimeFailure where it cannot load the artifact.
        """
        if self._process is None or self._process.poll() is not None:
            self.close()
            self._start()
        self._send({"folder": str(folder.resolve())})
        self.title = str(self._received().get("title"))
        return self

    def predict(self, inputs: Tensors) -> Tensors:
        """Raises RuntimeFailure where the process dies, hangs, or fails inside."""
        described, payloads = self._room.put(inputs, 0)
        self._send({"tensors": described}, payloads)
        outputs = self._room.take(self._received()["tensors"], self._payload, 0)
        return {name: value.copy() for name, value in outputs.items()}  # the memory is the next call's

    def close(self) -> None:
        """End the process. The next artifact starts another one."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        for file in self._files:
            os.close(file)
        self._process, self._files = None, ()

    def _start(self) -> None:
        memory = _new_memory()
        (theirs_in, ours_out), (ours_in, theirs_out) = os.pipe(), os.pipe()
        theirs, self._files = (theirs_in, theirs_out, memory), (ours_in, ours_out, memory)
        self._frames, self._room = Frames(ours_out, ours_in), Room(memory, writes_first=True)
        command = [*self._emulation.command, "-m", "verify.arm.child", *map(str, theirs)]
        environment = _environment(self._emulation)
        try:
            try:
                self._process = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, pass_fds=theirs)
            finally:  # before anything is read: a pipe that is open here as well never ends
                os.close(theirs_in)
                os.close(theirs_out)
            machine = self._received(START_SECONDS).get("machine")
        except (OSError, RuntimeFailure) as error:
            self.close()
            raise ModelUnavailable(f"The emulated Python does not start ({error}). {SET_UP}") from error
        if machine != self._emulation.machine:
            self.close()
            raise ModelUnavailable(
                f"The emulated Python runs on {machine}, expected {self._emulation.machine}. {SET_UP}"
            )

    def _send(self, header: Mapping[str, Any], payloads: Sequence[memoryview] = ()) -> None:
        with self._or_failure():
            self._frames.send(header, payloads, time.monotonic() + CALL_SECONDS)

    def _received(self, seconds: float = CALL_SECONDS) -> dict[str, Any]:
        with self._or_failure():
            header, self._payload = self._frames.receive(time.monotonic() + seconds)
        if "error" in header:
            raise RuntimeFailure(str(header["error"]))
        return header

    @contextlib.contextmanager
    def _or_failure(self) -> Iterator[None]:
        """What goes wrong with the pipes, as RuntimeFailure. It ends the process: part of a frame may be on its way."""
        try:
            yield
        except (OSError, EOFError, ValueError) as error:  # a timeout is an OSError
            assert self._process is not None
            with contextlib.suppress(subprocess.TimeoutExpired):  # one that has closed its pipes is about to end
                self._process.wait(1)
            self._process.kill()
            status = self._process.wait()
            ended = f"signal {-status}" if status < 0 else f"exit status {status}"
            raise RuntimeFailure(f"its process ended: {error}, {ended}") from error


def _new_memory() -> int:
    """A file that both processes map: on a disk, since in a cell no process may make one that is in memory alone."""
    with tempfile.TemporaryFile() as file:
        file.truncate(2 * HALF)
        return os.dup(file.fileno())


def of_phone(arm: Path = ARM, processor: str = PHONE) -> Emulation:
    """A phone's processor. Raises ModelUnavailable where nothing is set up in the folder `arm`."""
    pythons = sorted((arm / "root" / "usr" / "bin").glob("python3.*[0-9]"))
    emulator = arm / "qemu-aarch64"
    if not (emulator.is_file() and pythons):
        raise ModelUnavailable(f"There is no emulated system in {arm}. Run `make verify-arm`, which sets it up.")
    # Its libraries are looked for in the root first; what is not there, such as an artifact, is this system's.
    command = [str(emulator), "-L", str(arm / "root"), "-cpu", processor, str(pythons[-1])]
    return Emulation(command, arm / "packages", processor)


def _environment(emulation: Emulation) -> dict[str, str]:
    """Little of this process's own: its libraries are for another processor."""
    kept = {name: os.environ[name] for name in ("HOME", "LANG", "TMPDIR") if name in os.environ}
    if emulation.packages is None:
        return kept | {"PYTHONPATH": str(ROOT)}
    paths = str(ROOT), str(emulation.packages)
    compiled = str(emulation.packages.with_name("compiled"))  # another version of Python than this project's own
    return kept | {"PYTHONPATH": os.pathsep.join(paths), "PYTHONPYCACHEPREFIX": compiled}
