"""The service's side of a process apart: it starts it in a cell, asks it, and replaces it when it fails."""

import asyncio
import functools
import itertools
import logging
import os
import queue
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from contract.cell.frames import Frames
from contract.cell.tensors import LAYOUTS, Room, new_memory
from contract.errors import ArtifactError, BroughtError, InputError, ModelUnavailable, Overloaded, RuntimeFailure
from contract.manifest import Manifest, verify_files
from contract.tensors import Tensors

if TYPE_CHECKING:
    from contract.cell import host

START_SECONDS = 120.0
CALL_SECONDS = 60.0
LOOP_SECONDS = 1.0
"""How long the event loop waits for a model whose calls take a few milliseconds at most."""
MOST_CALLS = 8
"""Lanes of one process: each has open files in the service."""
RETRY_SECONDS = 5.0
"""From one failed start to the next one."""
SCRATCH_BYTES = 64 << 20
"""What it may write, in memory; and to its log."""
LOG_TAIL = 2000
TOO_MUCH_MEMORY = "It took more memory than SERVE_ISOLATION_BYTES lets it have, so the system ended it."

log = logging.getLogger(__name__)


class Lane:
    """One of the ways to a process apart: it carries one call at a time."""

    def __init__(self) -> None:
        self.memory = new_memory()
        theirs_in, ours_out = os.pipe()
        ours_in, theirs_out = os.pipe()
        self.ours, self.theirs = (ours_in, ours_out), (theirs_in, theirs_out, self.memory)
        self.frames, self.room = Frames(ours_out, ours_in), Room(self.memory, writes_first=True)
        self._layouts: dict[tuple[Any, ...], int] = {}

    def layout_of(self, inputs: Tensors) -> int:
        """The number of the inputs' layout; 0 for one of those that are too many to have one."""
        key = tuple([(name, value.shape, value.dtype.char) for name, value in inputs.items()])
        layout = self._layouts.get(key, 0)
        if not layout and len(self._layouts) < LAYOUTS:
            layout = self._layouts[key] = len(self._layouts) + 1
        return layout


class Child:
    """A process apart that has loaded its artifact, and what belongs to it."""

    def __init__(
        self, folder: Path, manifest: Manifest, threads: int, calls: int, trusted: bool, most_bytes: int
    ) -> None:
        """Raises ModelUnavailable where it does not start, and BroughtError where it refuses the artifact."""
        self._made = Path(tempfile.mkdtemp(prefix="apart."))
        self._log = self._made / "log"
        self._all = [Lane() for _ in range(calls)]
        self.free: queue.SimpleQueue[Lane | None] = queue.SimpleQueue()
        """None among them: it has ended, and whoever waits for a lane gets none."""
        for lane in self._all:
            self.free.put(lane)
        try:
            self._process = self._started(folder.resolve(), threads, trusted, most_bytes)
        except BaseException:
            self._clean_up()
            raise
        finally:
            _close(file for lane in self._all for file in lane.theirs)
        self.process_id = self._process.child.pid
        try:
            header, _ = self._all[0].frames.receive(time.monotonic() + START_SECONDS)
        except (OSError, EOFError, ValueError) as error:
            self._process.stop()
            header = {"error": f"The process of {manifest.name} did not start ({error}): {self.last_words()}"}
        if words := header.get("refused") or header.get("error"):
            self.stop()
            raise BroughtError(_shown(words)) if "refused" in header else ModelUnavailable(_shown(words))
        self.title, self.platform = _shown(header.get("title"), 100), _shown(header.get("platform"), 100)

    def _started(self, folder: Path, threads: int, trusted: bool, most_bytes: int) -> "host.Process":
        from contract.cell import host  # a service without brought models starts without it

        work, root = self._made / "work", self._made / "root"
        for path in (work, root):
            path.mkdir()
        lanes = tuple(file for lane in self._all for file in lane.theirs)
        numbers = map(str, (threads, int(trusted), *lanes))
        command = [sys.executable, "-m", "serve.apart.child", str(folder), *numbers]
        request = host.Request(
            command,
            work,
            root,
            (folder,),
            file_size=SCRATCH_BYTES,
            keep=lanes,
            scratch=SCRATCH_BYTES,
            memory=most_bytes,
        )
        with self._log.open("wb") as output:
            return host.start(request, host.environment(work), stdout=output, stderr=output)

    def stop(self) -> None:
        """End the process; calls that are under way fail."""
        self._process.stop()
        self._clean_up()

    def last_words(self) -> str:
        """The end of what it wrote, safe to print, and whether it took too much memory."""
        with self._log.open("rb") as output:
            output.seek(-min(LOG_TAIL, os.fstat(output.fileno()).st_size), os.SEEK_END)
            words = _shown(output.read().decode(errors="replace")).strip()
        return f"{words}\n{TOO_MUCH_MEMORY}".strip() if self._process.ran_out_of_memory else words

    def _clean_up(self) -> None:
        for _ in self._all:  # those of calls that are under way come when these have failed
            if lane := self.free.get():
                _close(lane.ours)
        self.free.put(None)
        shutil.rmtree(self._made, ignore_errors=True)


class ApartRuntime:
    """Runs an artifact in a process apart, which judges it first, and takes several calls at once."""

    in_process = False

    def __init__(
        self,
        folder: Path,
        manifest: Manifest,
        threads: int,
        calls: int = 1,
        trusted: bool = False,
        most_bytes: int = 0,
    ) -> None:
        """`most_bytes` of memory, where a control group can be made; 0: no limit. Raises as Child does."""
        self.calls = min(calls, MOST_CALLS)
        self._start = functools.partial(Child, folder, manifest, threads, self.calls, trusted, most_bytes)
        self._folder, self._manifest = folder, manifest
        self._name = manifest.name
        self._outputs = {spec.name: spec.dtype == "bytes" for spec in manifest.outputs}
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()  # of the next two
        self._is_closed = False
        self._child: Child | None = self._start()
        self.title, self.platform = self._child.title, self._child.platform

    def predict(self, inputs: Tensors) -> Tensors:
        """Raises InputError where the runtime there refuses the inputs, RuntimeFailure when the process dies or hangs.

        It is replaced then. Until it is, calls fail at once.
        """
        in_loop = _in_event_loop()
        seconds = LOOP_SECONDS if in_loop else CALL_SECONDS
        child = self._child
        try:
            lane = child.free.get(timeout=seconds) if child is not None else None
        except queue.Empty:
            raise Overloaded(f"{self._name} is busy with other requests. Send the request again.") from None
        try:
            if child is None or lane is None:
                raise RuntimeFailure(f"The process of {self._name} is being replaced. Send the request again.")
            return self._call(child, lane, inputs, time.monotonic() + seconds, is_awaited=in_loop)
        finally:
            if child is not None:
                child.free.put(lane)

    def _call(self, child: Child, lane: Lane, inputs: Tensors, deadline: float, is_awaited: bool) -> Tensors:
        number, layout = next(self._numbers), lane.layout_of(inputs)
        try:
            if layout and lane.room.put_same(inputs, layout):
                lane.frames.send_short(layout, number, deadline)
            else:
                described, payloads = lane.room.put(inputs, layout)
                lane.frames.send({"call": number, "layout": layout, "tensors": described}, payloads, deadline)
            if is_awaited:  # by all requests; in a thread it would keep the interpreter's lock from them
                lane.frames.look()
            header, payload = lane.frames.receive(deadline)
            if header.get("call") != number:
                raise ValueError(f"it answered call {header.get('call')}, not {number}")
            if header.get("same") == layout:
                return _copied(lane.room.take_same(layout))
            if "tensors" in header:
                outputs = lane.room.take(header["tensors"], payload, layout)
                if {name: value.dtype == object for name, value in outputs.items()} != self._outputs:
                    raise ValueError("it answered with other outputs")
                return _copied(outputs)
        except BaseException as error:  # whatever it is, part of a frame may be on its way
            self._replace(child)
            if not isinstance(error, Exception):
                raise
            raise RuntimeFailure(f"The process of {self._name} failed ({error}). It is replaced.") from error
        if "refused" in header:
            raise InputError(_shown(header["refused"]))
        raise RuntimeFailure(f"{self._name} failed inside its runtime: {_shown(header.get('error'))}")

    def _replace(self, child: Child) -> None:
        """End a child, and start another one, in a thread: the event loop waits for neither."""
        with self._lock:
            if self._child is not child:  # another call that failed was first
                return
            self._child = None
        threading.Thread(target=self._start_again, args=(child,), daemon=True, name=f"replace {self._name}").start()

    def _start_again(self, child: Child) -> None:
        log.warning("The process of %s is replaced. It wrote: %s", self._name, child.last_words() or "nothing")
        child.stop()
        while not self._is_closed:
            try:
                verify_files(self._folder, self._manifest)  # it may be another export by now
                started = self._start()
            except (ArtifactError, BroughtError, ModelUnavailable, OSError) as error:
                log.warning("The process of %s cannot be replaced: %s", self._name, error)
                time.sleep(RETRY_SECONDS)
                continue
            with self._lock:
                if not self._is_closed:
                    self._child = started
                    return
            started.stop()

    @property
    def process_id(self) -> int | None:
        return self._child.process_id if self._child else None

    def close(self) -> None:
        with self._lock:
            self._is_closed = True
            child, self._child = self._child, None
        if child is not None:
            child.stop()


def _shown(words: object, most: int = LOG_TAIL) -> str:
    """What a process apart wrote, as text that steers no terminal."""
    return "".join(sign for sign in str(words)[:most] if sign.isprintable() or sign == "\n")


def _copied(tensors: Tensors) -> Tensors:
    """Copies that the process apart cannot change any more."""
    return {name: value.copy() for name, value in tensors.items()}


def _in_event_loop() -> bool:
    """Whether everything else waits while this thread does."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def _close(files: Iterable[int]) -> None:
    for file in files:
        os.close(file)
