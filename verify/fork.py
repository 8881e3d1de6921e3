"""A fork of this process that does a part of its work, with a log of its own.

It is made before anything is computed, and waits for what it needs: a fork has one thread, and would wait for ever for
those that a framework's computation started. Its standard error is a file, which is printed when it has ended: of what
two processes write at once, nobody can say which line is whose.
"""

import os
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

from contract.errors import RuntimeFailure


class Fork:
    """The fork, as the process sees it that made it."""

    def __init__(self, process: int, pipe: Connection, log: BinaryIO) -> None:
        self._process = process
        self._pipe = pipe
        self._log = log
        self._ended: int | None = None

    def begin(self, given: Any) -> None:
        """Give it what its work needs, which can be pickled."""
        with suppress(OSError):  # it has ended: `result` says how
            self._pipe.send(given)

    def result(self) -> Any:
        """What its work returns, once it is done. Raises RuntimeFailure where the fork crashed."""
        try:
            returned = self._pipe.recv()
        except (EOFError, OSError):
            code = self.wait()
            how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"
            raise RuntimeFailure(f"It {how}: the library that it ran crashed on this file.") from None
        self.wait()
        return returned

    def wait(self) -> int:
        """Its exit status, negative for a signal, once it has ended. Its log is printed at the first call."""
        if self._ended is None:
            self._ended = os.waitstatus_to_exitcode(os.waitpid(self._process, 0)[1])
            self._log.seek(0)
            sys.stderr.write(self._log.read().decode(errors="replace"))
            sys.stderr.flush()
        return self._ended


@contextmanager
def forked(work: Callable[[Any], Any]) -> Iterator[Fork]:
    """A fork that calls `work` with what it is given; it ends with the block, also where that was nothing."""
    pipe, end = Pipe()
    with tempfile.TemporaryFile() as log:
        sys.stdout.flush()
        sys.stderr.flush()
        process = os.fork()
        if process == 0:
            pipe.close()
            _become(work, end, log)
        end.close()
        fork = Fork(process, pipe, log)
        try:
            yield fork
        finally:
            pipe.close()
            fork.wait()


class Taken:
    """Which parts of the work a process took, where its fork takes others: each part is done once."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        """Both see it. It is empty at first."""
        self._own: set[str] = set()

    def take(self, part: str) -> bool:
        """Whether this process shall do it."""
        try:
            (self._folder / part).mkdir()
        except FileExistsError:
            return False
        self._own.add(part)
        return True

    def by_others(self) -> list[str]:
        """The parts that other processes took."""
        return sorted({path.name for path in self._folder.iterdir()} - self._own)


def _become(work: Callable[[Any], Any], pipe: Connection, log: BinaryIO) -> NoReturn:
    status = 1
    try:
        os.dup2(log.fileno(), 2)
        with suppress(EOFError):  # nothing is to be done
            pipe.send(work(pipe.recv()))
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
