"""Where the steps of bringing a model run: in few processes, which load each framework once and fork for each step.

A framework's import takes seconds of each step, mostly more than what the step is for. So a process in the cell
(bring/steps.py) imports it before the step, and runs the step in a fork. What converts and what answers have one each,
which differ in a variable that TensorFlow reads when it is imported; a source of TensorFlow is read in a third one. All
are of one model: no other model's steps ever run in them.

Without a process namespace nobody can end all that a step left running, so there each step is a process of its own.
"""

import json
import os
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import Any, BinaryIO, Self

from contract.cell import host, sandbox
from contract.cell.host import Process
from contract.cell.sandbox import Cell, ChildFailed, Finished

CONVERTS, ANSWERS, READS = "converts", "answers", "reads"
WORKSHOPS = {"export": CONVERTS, "export.precision": CONVERTS, "verify": ANSWERS}
"""The module of a step -> which workshop runs it."""
VARIABLES: Mapping[str, Mapping[str, str]] = {CONVERTS: {"TF_ENABLE_ONEDNN_OPTS": "0"}, ANSWERS: {}, READS: {}}
"""As export/__main__.py and bring/source.py set it for themselves."""

TENSORFLOW, TORCH = ("tensorflow",), ("torch", "torch._export.serde.serialize")
"""The modules of each framework that take long to import; of PyTorch, what reading a program takes as well."""
READ_BY = {".onnx": (), ".tflite": (), **dict.fromkeys((".pt2", ".pt", ".pth", ".jit", ".safetensors"), TORCH)}
"""The suffix of a user's file -> what reading it imports, where that is not TensorFlow."""
RUN_BY = {"torch": TORCH, "keras": TENSORFLOW, "savedmodel": TENSORFLOW}
"""A format -> the framework that runs it. PyTorch is first: it was never tried after TensorFlow."""

START_SECONDS = 60.0


def modules_to_run(formats: Collection[str]) -> Sequence[str]:
    """What running artifacts in these formats imports."""
    return list(dict.fromkeys(module for format in RUN_BY if format in formats for module in RUN_BY[format]))


class Workshops:
    """The processes that run one model's steps; they start when they are needed, and end with the block."""

    def __init__(self) -> None:
        self._running = ExitStack()
        self._open: dict[str, Workshop] = {}
        self._is_ahead = False
        """Whether processes import what they will need before they are asked."""

    def __enter__(self) -> Self:
        self._running.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._running.__exit__(*error)

    def run(self, cell: Cell, module: str, *arguments: str, load: Sequence[str] = ()) -> Finished:
        """Run `python -m module arguments` in the cell, after these modules were imported. Raises ChildFailed."""
        if not cell.parts.is_apart:
            return sandbox.run(cell, module, *arguments)
        return self._of(cell, WORKSHOPS[module]).run([module, *arguments], load)

    def read(self, cell: Cell, module: str, *arguments: str) -> Finished:
        """Run the step that reads the cell's file, and that answers as the source. Raises ChildFailed.

        TensorFlow answers by other kernels where it converts, and two forks of one process would draw the same numbers.
        So only what is read without TensorFlow shares a process, with what converts.
        """
        if not cell.parts.is_apart:
            return sandbox.run(cell, module, *arguments)
        load = READ_BY.get(cell.file.suffix, TENSORFLOW)
        if load != TENSORFLOW:
            return self._of(cell, CONVERTS).run([module, *arguments], load)
        workshop = self._of(cell, READS)
        if self._is_ahead:
            workshop.wait_until_loaded(load)
            self.prepare(cell, "export", load)
        try:
            return workshop.run([module, *arguments], load)
        finally:
            workshop.process.stop()  # its memory is for others

    def prepare(self, cell: Cell, module: str, load: Sequence[str]) -> None:
        """Let the workshop of this module import what it will need, while others work."""
        if cell.parts.is_apart:
            self._of(cell, WORKSHOPS[module]).ask(None, load)

    def prepare_all(self, cell: Cell) -> None:
        """Let the processes that will be needed import TensorFlow before, and while, one of them reads the cell's file.

        Two import at a time: beside a third one, the one that reads would begin later, and all others wait for it. What
        converts comes when that one has imported, and it is the one that reads a file of any other kind.
        """
        load = READ_BY.get(cell.file.suffix, TENSORFLOW)
        if load == TENSORFLOW:
            self._is_ahead = True
            self._of(cell, READS).ask(None, load)
        self.prepare(cell, "verify", list(dict.fromkeys([*load, *TENSORFLOW])))

    def stop(self) -> None:
        """End all of them."""
        self._running.close()
        self._open.clear()

    def _of(self, cell: Cell, name: str) -> "Workshop":
        if name not in self._open or self._open[name].process.returncode is not None:
            self._open[name] = self._running.enter_context(opened(cell, VARIABLES[name]))
        return self._open[name]


@contextmanager
def opened(cell: Cell, variables: Mapping[str, str]) -> Iterator["Workshop"]:
    """A workshop whose processes have these variables, until the end of the block."""
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        command = [sys.executable, "-P", "-m", "bring.steps", str(output.fileno())]
        request = sandbox.request(cell, command, keep=(output.fileno(),))
        environment = host.environment(cell.folder) | dict(variables)
        process = host.start(request, environment, subprocess.PIPE, subprocess.PIPE, errors, parts=cell.parts)
        try:
            yield Workshop(cell, process, output, errors)
        finally:
            process.stop()
            process.child.communicate()  # closes its pipes


class Workshop:
    """A process in a cell that runs one step after the other, each in a fork of its own."""

    def __init__(self, cell: Cell, process: Process, output: BinaryIO, errors: BinaryIO) -> None:
        self.process = process
        self._cell = cell
        self._streams = output, errors
        """The process writes where this one reads: both have one place in each file."""
        self._line(START_SECONDS)  # where it does not start, the first step's answer says so
        self._itself = sandbox.youngest_below(process.child.pid)
        """The process that forks: its memory is counted in each of its forks."""

    def wait_until_loaded(self, load: Sequence[str]) -> None:
        """Wait until it has imported these modules. Raises ChildFailed where that takes longer than a step may."""
        self.ask(None, load, answer_loaded=True)
        if self._line(self._cell.limits.seconds) is None:
            self.process.stop()
            limit = f"It took longer than {self._cell.limits.seconds:.0f} s to import {', '.join(load)}, and was ended."
            raise ChildFailed(limit, "", is_at_limit=True)

    def ask(self, step: Sequence[str] | None, load: Sequence[str], answer_loaded: bool = False) -> None:
        """Ask for these imports and for a step; None is for the imports alone, which has an answer on request."""
        pipe = self.process.child.stdin
        assert pipe is not None
        with suppress(OSError):  # it has ended: its answer says so
            request = {"modules": list(load), "step": step, "answer_loaded": answer_loaded}
            os.write(pipe.fileno(), f"{json.dumps(request)}\n".encode())

    def run(self, step: Sequence[str], load: Sequence[str]) -> Finished:
        """Raises ChildFailed with the step's last line as the reason, or with the limit that it exceeded."""
        start, answer = time.monotonic(), b""

        def has_ended(seconds: float) -> bool:
            nonlocal answer
            line = self._line(seconds)
            answer = line or b""
            return line is not None

        for stream in self._streams:
            stream.seek(0)
            stream.truncate()
        self.ask(step, load)
        excess = "not watched"
        try:
            watched = sandbox.Watched(self.process, has_ended, self._itself)
            peak, excess = sandbox.watch(watched, self._cell, self._streams, start)
        finally:
            if excess or not answer:
                self.process.stop()
        status = int(answer) if answer else self.process.returncode or 1
        return sandbox.finished(self._cell, self._streams, status, excess, peak, start)

    def _line(self, seconds: float) -> bytes | None:
        """What it answers: a line, empty where it has ended; None where nothing comes for so long."""
        pipe = self.process.child.stdout
        assert pipe is not None
        ready, _, _ = select.select([pipe], [], [], seconds)
        return os.read(pipe.fileno(), 64) if ready else None
