"""One line of JSON for each request. It holds text from callers, so a JSON writer makes it, not a format string.

A thread writes the lines: whoever reads them may stall, and the disk may be full. Lines that cannot be written in time
are dropped, and the next one that can be written says how many.
"""

import json
import logging
import os
import queue
import threading
import urllib.parse
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple

from serve.keys import called_by
from serve.protocol import Reply

MAX_WAITING = 10_000
"""Lines that wait to be written; further ones are dropped."""

STANDARD_OUTPUT = 1

log = logging.getLogger(__name__)


class AccessLog:
    """Lines on their way to a file. Its thread starts with the first line: after the worker was forked."""

    def __init__(self, file: int = STANDARD_OUTPUT) -> None:
        self._file = file
        self._lines: queue.Queue[bytes] = queue.Queue(MAX_WAITING)
        self._thread: threading.Thread | None = None
        self.dropped = 0
        """Lines that were dropped, since the start."""
        self._told = 0
        self._torn = False

    def write(self, line: Mapping[str, Any]) -> None:
        """Queue a line; never waits."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="access log", daemon=True)
            self._thread.start()
        try:
            self._lines.put_nowait(_encode(line))
        except queue.Full:
            self._drop("whoever reads standard output is too slow")

    def close(self, seconds: float) -> None:
        """Wait this long at most until all lines are written."""
        if self._thread is not None:
            deadline = threading.Event()
            while self._lines.unfinished_tasks and seconds > 0:
                deadline.wait(0.02)
                seconds -= 0.02

    def _run(self) -> None:
        while True:
            line = self._lines.get()
            try:
                if self.dropped > self._told:
                    dropped = self.dropped - self._told
                    self._put(_encode({"dropped_lines": dropped}))
                    self._told += dropped
                self._put(line)
            except OSError as error:
                self._drop(error.strerror or str(error))
            self._lines.task_done()

    def _put(self, line: bytes) -> None:
        if self._torn:  # a disk that ran full took half of a line
            line = b"\n" + line
        rest = memoryview(line)
        while rest:
            written = os.write(self._file, rest)
            self._torn = written < len(rest)
            rest = rest[written:]

    def _drop(self, reason: str) -> None:
        self.dropped += 1
        if self.dropped == 1:
            log.warning("Lines of the access log are dropped: %s. Its next line says how many.", reason)


def _encode(line: Mapping[str, Any]) -> bytes:
    return json.dumps(line).encode() + b"\n"


access_log = AccessLog()


class Answered(NamedTuple):
    """What a line says of an answer."""

    status: int
    size: int
    """Bytes, as they were sent."""
    seconds: float
    request_id: str | None
    reply: Reply | None
    """Where a model gave it."""


def log_access(scope: Mapping[str, Any], method: str, url: bytes, answer: Answered) -> None:
    """Write a request's line: who called what, and how it was answered."""
    client, reply, called = scope.get("client"), answer.reply, called_by(url)
    access_log.write(
        {
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "client": client and client[0],
            "key": scope.get("key"),
            "method": method,
            "path": urllib.parse.unquote(url.partition(b"?")[0].decode("latin-1")),
            "model": called if "-" in called else None,
            "rows": reply.rows or None if reply else None,
            "queue_ms": round(1000 * reply.queue, 3) if reply and reply.rows else None,
            "status": answer.status,
            "bytes": answer.size,
            "seconds": round(answer.seconds, 6),
            "request_id": answer.request_id,
        }
    )
