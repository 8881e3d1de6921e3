"""gunicorn's worker process: uvicorn's event loop over the front, with connections of our own."""

import asyncio
import mmap
import os
import signal
import socket
import sys
import time
from collections.abc import Sized
from functools import partial
from typing import Any

from gunicorn.arbiter import Arbiter
from uvicorn import Config, Server
from uvicorn_worker import UvicornWorker

from serve.connection import Connection

SLOTS, ABSENT = 256, -1

YIELD_SECONDS = 0.0002
"""For so long a connection is left to workers that have fewer. The event loop goes on turning meanwhile: with a timer
of 2 ms instead, two workers waited for each other, and took 1,900 connections a second together."""

PAUSE_SECONDS = 0.5
"""For so long no connection is taken where the process may not open any more."""


class Shares:
    """How many connections each worker has, in memory that all of them see. Made before they are."""

    def __init__(self) -> None:
        self._counts = memoryview(mmap.mmap(-1, 4 * SLOTS)).cast("i")
        for slot in range(SLOTS):
            self._counts[slot] = ABSENT
        self._taken: set[int] = set()

    def take(self) -> int | None:
        """A slot for a new worker, which counts from its first `tell` on; None where there are too many workers."""
        slot = next((slot for slot in range(SLOTS) if slot not in self._taken), None)
        if slot is not None:
            self._taken.add(slot)
        return slot

    def leave(self, slot: int | None) -> None:
        """The worker has ended."""
        if slot is not None:
            self._counts[slot] = ABSENT
            self._taken.discard(slot)

    def tell(self, slot: int | None, connections: int) -> None:
        if slot is not None:
            self._counts[slot] = connections

    def fewest(self) -> int:
        return min((count for count in self._counts.tolist() if count != ABSENT), default=0)


class Acceptor:
    """Takes connections from the socket that all workers share: one in a turn of the event loop, and a fair share.

    The event loop's own way takes all that wait at once. Of 64 connections that came together, the busier of two
    workers had 34 to 46 that way, and its callers waited for as long; it has 32 to 35 this way.
    """

    def __init__(
        self, listener: socket.socket, make_connection: Any, connections: Sized, shares: Shares, slot: int | None
    ):
        self._loop = asyncio.get_running_loop()
        self._listener = listener
        self._make_connection = partial(make_connection, told_when_lost=self.tell)
        self._connections = connections
        self._shares, self._slot = shares, slot
        self._opening: set[asyncio.Task[Any]] = set()
        self._pause: asyncio.TimerHandle | None = None
        self._left_until = 0.0
        self._is_open = True
        listener.setblocking(False)
        self._listen()
        self.tell()

    def tell(self) -> int:
        """Let the other workers know how many connections this one has."""
        count = len(self._connections) + len(self._opening)
        if self._is_open:
            self._shares.tell(self._slot, count)
        return count

    def _listen(self) -> None:
        self._loop.add_reader(self._listener, self._accept)

    def _is_for_others(self) -> bool:
        """Whether another worker has fewer connections, and still time to take this one."""
        fewest = self._shares.fewest()
        if self.tell() <= fewest + 1 + fewest // 8:
            return False
        now = time.perf_counter()
        if now > self._left_until + YIELD_SECONDS:  # it is a new one
            self._left_until = now + YIELD_SECONDS
        return now < self._left_until

    def _accept(self) -> None:
        if self._is_for_others():
            return  # the socket stays readable: this is called again in the next turn
        try:
            connection, _ = self._listener.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return  # another worker has it, or its sender is gone
        except OSError:  # too many open files: those that wait keep the socket readable
            self._loop.remove_reader(self._listener)
            self._pause = self._loop.call_later(PAUSE_SECONDS, self._listen)
            return
        connection.setblocking(False)
        task = self._loop.create_task(self._loop.connect_accepted_socket(self._make_connection, connection))
        self._opening.add(task)
        task.add_done_callback(self._opening.discard)
        self.tell()

    def close(self) -> None:
        """As of a server of the event loop: no connection is taken any more."""
        self._is_open = False
        if self._pause is not None:
            self._pause.cancel()
        self._loop.remove_reader(self._listener)
        self._shares.tell(self._slot, ABSENT)

    async def wait_closed(self) -> None:
        """What was taken is a connection of uvicorn's, which knows of it."""
        await asyncio.gather(*self._opening, return_exceptions=True)


class SharingServer(Server):
    """uvicorn's server over listeners that other processes have, too."""

    def __init__(self, config: Config, shares: Shares, slot: int | None) -> None:
        super().__init__(config)
        self._shares, self._slot = shares, slot

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=[])
        connection = partial(
            Connection,
            config=self.config,
            server_state=self.server_state,
            app_state=self.lifespan.state,
            _loop=asyncio.get_running_loop(),
        )
        connections = self.server_state.connections
        self.servers: list[Any] = [
            Acceptor(listener, connection, connections, self._shares, self._slot) for listener in sockets or []
        ]


class Worker(UvicornWorker):  # type: ignore[misc]  # it has no types
    """Set as gunicorn's `worker_class`."""

    CONFIG_KWARGS: dict[str, Any] = {  # noqa: RUF012 - uvicorn_worker's own attribute
        "loop": "uvloop",
        "http": Connection,
        "ws": "none",
        "lifespan": "on",
        "interface": "asgi3",
        "access_log": False,  # the front writes its own
        "server_header": False,
        "proxy_headers": False,
        "timeout_notify": 1,
    }

    shares: Shares
    slot: int | None
    """Set by gunicorn's first process, before it forks."""

    async def _serve(self) -> None:
        self.config.app = self.wsgi
        server = SharingServer(self.config, self.shares, self.slot) if self.cfg.workers > 1 else Server(self.config)
        self._install_sigquit_handler()
        await server.serve(sockets=self.sockets)
        if not server.started:
            sys.exit(Arbiter.WORKER_BOOT_ERROR)

    async def callback_notify(self) -> None:
        """Tell gunicorn's first process that this one lives; end with it, if it was killed."""
        self.notify()
        if os.getppid() != self.ppid:
            self.handle_exit(signal.SIGTERM, None)

    def handle_exit(self, sig: int, frame: object) -> None:
        """Also called for SIGQUIT, which uvicorn does not know: Ctrl-C at gunicorn's first process."""
        signal.raise_signal(signal.SIGTERM)
