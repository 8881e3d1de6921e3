"""What the requests of one worker hold in memory together: bodies while they come, pictures while they are decoded.

A limit on each request does not bound a worker: a thousand bodies of 32 MB may come at once.
"""

import contextlib
import threading
from collections.abc import Iterator

from contract.errors import Overloaded


class Held:
    """Bytes that are held, up to a limit. A single holder may have more than the limit: else it would never run."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._changed = threading.Condition()
        self.bytes = 0

    def take(self, size: int, mine: int = 0) -> None:
        """Hold so many bytes more, `mine` of those held being the caller's own. Raises Overloaded over the limit."""
        with self._changed:
            if not self._fits(size, mine):
                raise Overloaded(
                    f"The requests that are under way hold {self.bytes} bytes, at most {self._limit} may be held. "
                    "Send the request again in a moment."
                )
            self.bytes += size

    def give(self, size: int) -> None:
        """Hold so many bytes less."""
        with self._changed:
            self.bytes -= size
            self._changed.notify_all()

    @contextlib.contextmanager
    def having(self, size: int, mine: int = 0) -> Iterator[None]:
        """Take, and give at the end."""
        self.take(size, mine)
        try:
            yield
        finally:
            self.give(size)

    @contextlib.contextmanager
    def wait(self, size: int, seconds: float) -> Iterator[None]:
        """Hold so many bytes as soon as they fit, for threads. Raises Overloaded after so many seconds."""
        with self._changed:
            self._changed.wait_for(lambda: self._fits(size, 0), seconds)
        self.take(size)
        try:
            yield
        finally:
            self.give(size)

    def _fits(self, size: int, mine: int) -> bool:
        return self.bytes + size <= self._limit or self.bytes == mine
