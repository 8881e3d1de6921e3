"""The gRPC port of a worker: all workers listen on it, and the kernel shares out the connections."""

import asyncio
import contextlib
import logging
import ssl
import urllib.parse
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Any

from google.protobuf.message import DecodeError

from contract.errors import RosettaError
from serve.dataplane import DataPlane
from serve.keys import Key, KeyMissing
from serve.listeners import BACKLOG
from serve.replies import status_code
from serve.rpc.connection import Call, Connection, Failed
from serve.rpc.messages import INFERENCE, REFLECTION
from serve.rpc.service import Service
from serve.settings import SettingError
from serve.tls import watch_certificate
from serve.watched import Watched

CODES = {400: 3, 401: 16, 403: 7, 404: 5, 413: 8, 415: 3, 429: 8, 503: 14, 504: 4}
"""The HTTP status of an error -> gRPC's code."""

INVALID_ARGUMENT, INTERNAL = 3, 13

INFER, STREAM_INFER = f"/{INFERENCE}/ModelInfer", f"/{INFERENCE}/ModelStreamInfer"
REFLECT = f"/{REFLECTION}/ServerReflectionInfo"
"""The paths of the calls that are not in `Service.calls`."""

GRACE_SECONDS = 5.0
"""How long the end waits for streams in which nothing is due."""

log = logging.getLogger(__name__)


class Handler:
    """Finds what answers a call, and turns errors into gRPC's."""

    def __init__(self, plane: DataPlane) -> None:
        self._keys, self._callers, self._service = plane.keys, plane.callers, Service(plane)

    def unary(self, path: str) -> Callable[[Call, bytes], Awaitable[bytes]] | None:
        """What answers a call of one message by its path; None if nothing does."""
        if path == INFER:
            return self._infer
        return partial(self._describe, path) if path in self._service.calls else None

    def stream(self, path: str) -> Callable[[Call, AsyncIterator[bytes]], AsyncIterator[bytes]] | None:
        """What answers a call of many messages; None if nothing does."""
        if path == STREAM_INFER:
            return self._stream
        return self._reflect if path == REFLECT else None

    async def _infer(self, call: Call, body: bytes) -> bytes:
        try:
            sent = await self._service.receive(body)
            return await self._service.infer(sent, self._allows(call), call.caller)
        except Exception as error:
            raise self.failure(error) from error

    async def _describe(self, path: str, call: Call, body: bytes) -> bytes:
        try:
            message = self._service.read(path, body)
            self._check(call, _url(path, message))
            if path.endswith("load"):  # it takes seconds
                return await asyncio.to_thread(self._service.describe, path, message)
            return self._service.describe(path, message)
        except Exception as error:
            raise self.failure(error) from error

    async def _stream(self, call: Call, bodies: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        try:
            async for answer in self._service.stream(bodies, self._allows(call), call.caller):
                yield answer
        except Exception as error:
            raise self.failure(error) from error

    async def _reflect(self, call: Call, bodies: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        try:
            self._check(call, b"/v2")
            async for answer in self._service.reflect(bodies):
                yield answer
        except Exception as error:
            raise self.failure(error) from error

    def _allows(self, call: Call) -> Callable[[str], object]:
        return (lambda model: self._check(call, _model_url(model))) if self._keys.are_needed else _allow

    def _check(self, call: Call, url: bytes) -> Key | None:
        """Raise KeyMissing or CallRefused, as for a request to this URL."""
        return self._keys.check(call.authorization, url) if self._keys.are_needed else None

    def caller(self, call: Call) -> str | None:
        """Who calls, where callers have limits: a key's name, or else an address."""
        if not self._callers.are_limited:
            return None
        with contextlib.suppress(KeyMissing):  # what needs a key is refused once it is known what is called
            if key := self._check(call, b"/v2"):
                return key.name
        return call.peer

    def failure(self, error: Exception) -> Failed:
        """An error as gRPC has it."""
        if isinstance(error, Failed):
            return error
        if isinstance(error, RosettaError):
            return Failed(CODES.get(status_code(error), INTERNAL), str(error))
        if isinstance(error, DecodeError):
            return Failed(INVALID_ARGUMENT, "The request is not a message of the call's type.")
        log.error("A gRPC call failed", exc_info=error)
        return Failed(INTERNAL, "The service failed on this request. Its log states why.")


def _url(path: str, message: Any) -> bytes:
    """The URL by which HTTP has the same call."""
    name = path.rpartition("/")[2]
    if name in ("Check", "ServerReady", "ServerLive"):
        return b"/v2/health/ready"
    if name.startswith("RepositoryModel"):
        return f"/v2/repository/models/{urllib.parse.quote(message.model_name, safe='')}/load".encode()
    if name == "ModelStatistics" and not message.name:
        return b"/v2/models/stats"
    return _model_url(message.name) if name.startswith("Model") else b"/v2"


def _allow(model: str) -> None:
    """Without keys, everybody may call every model."""


def _model_url(name: str) -> bytes:
    return f"/v2/models/{urllib.parse.quote(name, safe='')}/infer".encode()


class Server:
    """The port."""

    def __init__(self, plane: DataPlane) -> None:
        self._plane, self._handler = plane, Handler(plane)
        self._connections: set[Connection] = set()
        self._context: ssl.SSLContext | None = None
        self.watched: list[Watched] = []
        """The files that may be replaced while it runs."""
        if plane.settings.tls_cert is not None:
            self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self._context.set_alpn_protocols(["h2"])
            self.watched.append(watch_certificate(plane.settings, self._context))

    async def start(self) -> None:
        """Raises SettingError where the port cannot be listened on."""
        settings = self._plane.settings
        make = partial(Connection, self._plane, self._handler, self._connections)
        try:
            self._server = await asyncio.get_running_loop().create_server(
                make, settings.host, settings.grpc_port, ssl=self._context, backlog=BACKLOG, reuse_port=True
            )
        except OSError as error:
            raise SettingError(f"GRPC_PORT={settings.grpc_port} cannot be listened on. Set another one.") from error

    def end(self) -> None:
        """Take no more calls."""
        self._server.close()
        for connection in list(self._connections):
            connection.end()

    async def wait(self) -> None:
        """Let the calls under way finish, within a request's time limit. Callers who send nothing have less."""
        loop = asyncio.get_running_loop()
        start = loop.time()
        while self._connections and (waited := loop.time() - start) < self._plane.settings.timeout:
            if waited > GRACE_SECONDS and not any(connection.is_answering for connection in self._connections):
                return
            await asyncio.sleep(0.02)
