"""gunicorn's worker process: uvicorn's event loop over the front."""

import asyncio
import contextlib
import logging
import os
import select
import signal
import socket
import sys
from collections.abc import Iterable
from functools import partial
from types import FrameType
from typing import Any

from gunicorn.arbiter import Arbiter
from uvicorn import Server
from uvicorn_worker import UvicornWorker

from serve.connection import Connection
from serve.generations import READY, REFUSED, Generations
from serve.keys import Keys
from serve.tls import watch_certificate
from serve.watched import Watched

LOOK_TICKS = 10
"""uvicorn's ticks, of 0.1 seconds each, between two looks at files that may be replaced."""

log = logging.getLogger(__name__)


class ListeningServer(Server):
    """uvicorn's server over one listener of its own, which also looks after the listeners of the other workers.

    If a worker was killed, hangs, or still loads its models, another worker takes its connections within 0.2 seconds.
    A worker that ends takes all connections that wait, and answers each one last time. Later ones wait for the other
    workers, or for the next ones: a reload loses no connection, and the old workers serve until the new ones are ready.
    At the end of the service nothing comes after the last look at a queue: its sockets drop what is new by then.
    """

    def __init__(self, worker: "Worker") -> None:
        super().__init__(worker.config)
        self._front = worker.wsgi
        self._listener = worker.listener
        self._others = [listener for listener in worker.sockets if listener is not worker.listener]
        self._worker = worker
        self._grpc: Any = None
        """The gRPC port, if there is one."""
        self._is_replaced = False
        """Whether it serves only until the next workers are ready."""
        self._watched: list[Keys | Watched] = [self._front.plane.keys]
        self._waiting: set[socket.socket] = set()
        """The other workers' listeners with connections in their queues at the last look."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup([self._listener.dup()])
        if self.config.ssl is not None and self._front.plane.settings.tls_cert is not None:
            self._watched.append(watch_certificate(self._front.plane.settings, self.config.ssl))
        if self._front.plane.settings.grpc_port:
            from serve.rpc.server import Server as GrpcServer

            self._grpc = GrpcServer(self._front.plane)
            await self._grpc.start()
            self._watched += self._grpc.watched
        catalog = self._front.plane.catalog
        ready = [name for name, model in catalog.items() if model.ready]
        self._worker.generations.set_ready(self._worker.age, ready)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        worker = self._worker
        if sig == signal.SIGTERM and os.getppid() == worker.ppid and worker.generations.is_old(worker.age):
            self._is_replaced = True
        else:
            super().handle_exit(sig, frame)

    def _check_next_ones(self) -> None:
        """End once all workers of the next generation are ready; go on if one of them cannot do as well."""
        generations, worker = self._worker.generations, self._worker
        states = generations.next_ones(worker.cfg.workers)
        if not generations.is_old(worker.age) or states == {READY}:
            super().handle_exit(signal.SIGTERM, None)
        elif REFUSED in states:
            self._is_replaced = False

    async def on_tick(self, counter: int) -> bool:
        """uvicorn calls this every 0.1 seconds. Take what has waited for another worker since the last time."""
        if self._others:
            waiting = set(select.select(self._others, [], [], 0)[0])
            await self._open([taken for listener in waiting & self._waiting for taken in _accept(listener)])
            self._waiting = waiting
        if counter % LOOK_TICKS == 0:
            for watched in self._watched:
                watched.look()
        if self._is_replaced:
            self._check_next_ones()
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._front.is_ending = True
        if self._grpc is not None:
            self._grpc.end()
        for server in self.servers:
            server.close()
        taken = []
        for listener in (self._listener, *self._others):
            taken += _accept(listener)
            listener.close()  # at once: if it is the last of its copies, what comes in between is lost
        await self._open(taken)
        await super().shutdown()

    async def _wait_tasks_to_complete(self) -> None:
        """uvicorn waits here for what HTTP has under way, before the models end: wait for gRPC's calls, too."""
        await super()._wait_tasks_to_complete()
        if self._grpc is not None:
            await self._grpc.wait()

    async def _open(self, taken: Iterable[socket.socket]) -> None:
        loop = asyncio.get_running_loop()
        make_connection = partial(
            Connection, config=self.config, server_state=self.server_state, app_state=self.lifespan.state, _loop=loop
        )
        opening = [loop.connect_accepted_socket(make_connection, each, ssl=self.config.ssl) for each in taken]
        await asyncio.gather(*opening, return_exceptions=True)  # a client may be gone by now


def _accept(listener: socket.socket) -> list[socket.socket]:
    """All connections that wait in a listener's queue, as far as the process may open files."""
    taken = []
    with contextlib.suppress(OSError):  # BlockingIOError: the queue is empty
        while True:
            taken.append(listener.accept()[0])
    return taken


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

    listener: socket.socket
    """The listener whose connections are this worker's, as long as it takes them in time. Set before the fork."""
    generations: Generations
    """Set before the fork, too."""

    async def _serve(self) -> None:
        if lost := self._lost_models():
            log.error("The reload is refused, and the workers that serve go on: %s", lost)
            self.generations.refuse(self.age)
            self.wsgi.plane.close()
            return
        self.config.app = self.wsgi
        server = ListeningServer(self)
        self._install_sigquit_handler()
        await server.serve()
        if not server.started:
            sys.exit(Arbiter.WORKER_BOOT_ERROR)

    def _lost_models(self) -> str:
        """Why models cannot be run that the workers run which a reload is to replace; empty if there are none."""
        if not self.generations.is_reloaded(self.age, self.cfg.workers):
            return ""
        before = self.generations.models_before()
        models = self.wsgi.plane.catalog.items()
        return " ".join(model.failure for name, model in models if name in before and model.failure)

    async def callback_notify(self) -> None:
        """Let gunicorn's first process know that this one lives; end with it, if it was killed."""
        self.notify()
        if os.getppid() != self.ppid:
            self.handle_exit(signal.SIGTERM, None)

    def handle_exit(self, sig: int, frame: object) -> None:
        """Also called for SIGQUIT, which uvicorn does not know: Ctrl-C at gunicorn's first process."""
        signal.raise_signal(signal.SIGTERM)
