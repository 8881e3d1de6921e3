"""What each caller has under way in one worker. A caller is a key by its name, or an address where no key is needed.

A caller over a limit of its own gets 429; one that comes while all together have too much gets 503.
"""

import contextlib
from collections.abc import Iterator
from contextlib import AbstractContextManager

from contract.errors import Overloaded
from serve.settings import Settings

CONNECTIONS, REQUESTS, ROWS, BYTES = "connections", "requests", "rows", "bytes"

NOTHING: AbstractContextManager[None] = contextlib.nullcontext()


class TooMany(Overloaded):
    """One caller has more under way than a caller may."""


class Callers:
    """Connections, requests, rows and bytes, by caller. Used in the event loop alone."""

    def __init__(self, settings: Settings) -> None:
        self._limits = {
            CONNECTIONS: settings.caller_connections,
            REQUESTS: settings.caller_requests,
            ROWS: settings.caller_rows,
            BYTES: settings.caller_bytes,
        }
        self._max_requests = settings.max_requests
        self.are_limited = bool(self._max_requests or any(self._limits.values()))
        self._requests = 0
        self._held: dict[str, dict[str, int]] = {}

    def take(self, caller: str, kind: str, amount: int = 1, mine: int = 0) -> None:
        """Let a caller have more. Raises TooMany over its own limit, and Overloaded over that of all requests.

        `mine` is what the same request has already. A request that is more than a limit on its own is let through
        while the caller has nothing else: it would never be.
        """
        held = self._held.setdefault(caller, dict.fromkeys(self._limits, 0))
        limit = self._limits[kind]
        if limit and held[kind] > mine and held[kind] + amount > limit:
            raise TooMany(
                f"{caller} has {held[kind]} {kind} under way in this worker, and a caller may have {limit}. "
                "Wait for the answers before you send more."
            )
        if kind == REQUESTS:
            if self._max_requests and self._requests >= self._max_requests:
                raise Overloaded(
                    f"{self._requests} requests are under way, at most {self._max_requests} may be. "
                    "Send the request again in a moment."
                )
            self._requests += amount
        held[kind] += amount

    def give(self, caller: str, kind: str, amount: int = 1) -> None:
        """Let a caller have less: what it took before."""
        held = self._held[caller]
        held[kind] -= amount
        if kind == REQUESTS:
            self._requests -= amount
        if not any(held.values()):
            del self._held[caller]

    def having(self, caller: str | None, kind: str, amount: int, mine: int = 0) -> AbstractContextManager[None]:
        """Take, and give at the end. Nothing for no caller."""
        # Without limits nobody counts, and a generator for each request would cost a microsecond.
        return NOTHING if caller is None else self._having(caller, kind, amount, mine)

    @contextlib.contextmanager
    def _having(self, caller: str, kind: str, amount: int, mine: int) -> Iterator[None]:
        self.take(caller, kind, amount, mine)
        try:
            yield
        finally:
            self.give(caller, kind, amount)
