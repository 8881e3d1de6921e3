"""The fast front, an ASGI application: tensors never enter Flask, everything else does.

Reading a request, checking it and writing the answer cost more than a small model. So the calls that carry tensors,
and the health checks, are answered here, on the event loop. The Flask application behind it answers all others, in
threads. Both use the same pipelines and the same data plane, and give the same answers.
"""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, MutableMapping
from typing import Any, cast

from a2wsgi import WSGIMiddleware

from contract.errors import BodyIncomplete, Overloaded
from serve.access_log import Answered, access_log, log_access
from serve.app import app_over
from serve.dataplane import DataPlane
from serve.held import Held
from serve.origins import Origins
from serve.pipeline import LARGE, READERS_OF_V1, Pipeline, read_infer
from serve.protocol import Reply, encoding, oip, tfserving
from serve.replies import DATA_HEADERS, echoed, error_reply, json_reply, too_large
from serve.stats import WRITE_SECONDS

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

FLASK_THREADS, PICTURE_THREADS = 10, 4
"""For all that does not wait for a model; for the pictures of one model, and for those that are compared."""

LOG_SECONDS = 2.0
"""How long the end of the service waits for the last lines of the access log."""

READ_HEADERS = {
    name.encode(): name
    for name in ("accept-encoding", "content-encoding", "content-length", oip.HEADER_LENGTH.lower(), "x-request-id")
}
"""The request headers that are read here, by their bytes. The others are not decoded."""

COMMON_HEADERS = [(name.lower().encode(), value.encode()) for name, value in DATA_HEADERS.items()]


class Front:
    """An ASGI application over a data plane, with the Flask application behind it."""

    def __init__(self, plane: DataPlane) -> None:
        self.plane = plane
        self._app = app_over(plane)
        self._flasks: dict[str, Any] = {}
        """The Flask application in threads of their own for each place where requests may wait."""
        self._limit = plane.settings.max_bytes
        self.logs_access = plane.settings.access_log
        self.origins = Origins(plane.settings)
        self.is_ending = False
        """Whether the service ends: each connection gets one more answer at most."""
        self.pipelines: dict[bytes, Pipeline] = {}
        """By the paths that take tensors."""
        self._paths: dict[str, set[bytes]] = {}
        """By a model's name: those that are its own."""
        for name in plane.catalog:
            self._open(name)
        plane.on_replaced = self._open
        self._writer: asyncio.Task[None] | None = None

    def _open(self, name: str) -> None:
        """Answer tensors for a model, in each of its versions."""
        paths: dict[bytes, Pipeline] = {}
        newest = self.plane.catalog[name].version
        for model in self.plane.catalog.versions(name):
            numbered, is_newest = f"/versions/{model.version}", model.version == newest
            infer = Pipeline(self.plane, model, read_infer)
            for version in ("", numbered) if is_newest else (numbered,):
                paths[f"/v2/models/{name}{version}/infer".encode()] = infer
            for verb, read in READERS_OF_V1.items():
                answering = Pipeline(self.plane, model, read)
                for version in ("", f"/labels/{tfserving.LABEL}", numbered) if is_newest else (numbered,):
                    paths[f"/v1/models/{name}{version}:{verb}".encode()] = answering
        for path in self._paths.get(name, set()) - paths.keys():
            del self.pipelines[path]
        self.pipelines.update(paths)
        self._paths[name] = set(paths)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._lifespan(receive, send)
            return
        log = _Logged(scope, send) if self.logs_access else None
        send = log.send if log else send
        path, method, headers = scope["path"], scope["method"], read_headers(scope["headers"])
        if method == "POST" and (pipeline := self.pipelines.get(path.encode())) is not None:
            reply = await self._answer(headers, receive, pipeline, scope.get("caller"))
            if log:
                log.reply = reply
        elif method == "GET" and path == "/v2/health/live":
            reply = json_reply({"live": True})
        elif method == "GET" and path == "/v2/health/ready":
            reply = json_reply({"ready": self.plane.ready}, 200 if self.plane.ready else 503)
        else:
            await self._call_flask(scope, receive, send)
            return
        await self._send(send, reply, headers)

    async def _answer(
        self, headers: Mapping[str, str], receive: Receive, pipeline: Pipeline, caller: str | None
    ) -> Reply:
        start = self.plane.clock()
        with self._body(receive) as body:
            try:
                content = await body.read()
                if body.size > self._limit:
                    raise too_large(self._limit)
            except Exception as error:
                return pipeline.failed(error, start)
            start = self.plane.clock()  # a slow sender's time does not count
            return await pipeline.run(content, headers, start, caller)

    async def _call_flask(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand the request over once its body is there: a slow sender would hold one of the few threads."""
        with self._body(receive) as body:
            try:
                content = await body.read()
            except (BodyIncomplete, Overloaded) as error:
                await self._send(send, error_reply(error), {})
                return
            framing = (b"content-length", b"transfer-encoding")
            headers = [(name, value) for name, value in scope["headers"] if name not in framing]
            headers.append((b"content-length", b"%d" % body.size))

            async def replay() -> MutableMapping[str, Any]:
                return {"type": "http.request", "body": content}

            await self._flask(scope["path"])({**scope, "headers": headers}, replay, send)

    def _flask(self, path: str) -> Any:
        """The threads for a path: a picture waits for its model, and all else must not wait behind it."""
        name = path.removeprefix("/predict/")
        place = name if path != name and name in self.plane.catalog else path if path == "/compare" else ""
        if place not in self._flasks:
            # a2wsgi's types are narrower than what ASGI servers and Flask promise
            threads = PICTURE_THREADS if place else FLASK_THREADS
            self._flasks[place] = WSGIMiddleware(cast(Any, self._app), workers=threads)
        return self._flasks[place]

    @contextlib.contextmanager
    def _body(self, receive: Receive) -> Iterator["Body"]:
        body = Body(receive, self._limit, self.plane.held)
        try:
            yield body
        finally:
            self.plane.held.give(body.held)

    async def _send(self, send: Send, reply: Reply, request: Mapping[str, str]) -> None:
        if len(reply.body) < LARGE:
            body, described = wire(reply, request)
        else:
            loop = asyncio.get_running_loop()
            body, described = await loop.run_in_executor(self.plane.readers, wire, reply, request)
        headers = [(name.lower().encode(), value.encode()) for name, value in described.items()]
        headers += [(b"content-length", b"%d" % len(body)), *COMMON_HEADERS]
        await send({"type": "http.response.start", "status": reply.code, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        await receive()
        self._writer = asyncio.create_task(self._write_stats())
        await send({"type": "lifespan.startup.complete"})
        await receive()
        self._writer.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._writer
        self.plane.close()
        access_log.close(LOG_SECONDS)
        await send({"type": "lifespan.shutdown.complete"})

    async def _write_stats(self) -> None:
        while True:
            await asyncio.sleep(WRITE_SECONDS)
            await asyncio.to_thread(self._write_numbers)
            if self.plane.settings.control:
                await asyncio.to_thread(self.plane.control.follow)

    def _write_numbers(self) -> None:
        self.plane.stats.write()
        with contextlib.suppress(OSError):  # the statistics have logged it
            self.plane.gauges.write()


class Body:
    """A request's body while it comes: what it holds is counted."""

    def __init__(self, receive: Receive, limit: int, held: Held) -> None:
        self._receive, self._limit, self._held = receive, limit, held
        self.size = 0
        """Bytes that came."""
        self.held = 0

    async def read(self) -> bytes:
        """The body as it was sent; nothing of one over the limit. Raises BodyIncomplete or Overloaded.

        It is read to its end, within bounds: else the sender may get a broken connection instead of the answer.
        """
        parts: list[bytes] = []
        refusal: Overloaded | None = None
        more = True
        while more and self.size <= 4 * self._limit:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise BodyIncomplete(
                    f"The body stopped after {self.size} bytes, before its end. Send the request again."
                )
            part, more = message.get("body", b""), message.get("more_body", False)
            self.size += len(part)
            if self.size > self._limit or refusal is not None:
                continue
            try:
                self._held.take(len(part), self.held)
            except Overloaded as error:
                refusal = error
                parts.clear()
            else:
                self.held += len(part)
                parts.append(part)
        if refusal is not None:
            raise refusal
        return b"".join(parts) if self.size <= self._limit else b""


def read_headers(headers: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    """A request's headers that are read here, by their lower-case names.

    Several lines of one name are one list with commas, as RFC 9110 says, and as WSGI has them.
    """
    read: dict[str, str] = {}
    for line, value in headers:
        if name := READ_HEADERS.get(line):
            text = value.decode("latin-1")
            read[name] = f"{read[name]},{text}" if name in read else text
    return read


def wire(reply: Reply, request: Mapping[str, str]) -> tuple[bytes, dict[str, str]]:
    """The body, compressed if the caller accepts that, and the headers: without its length and the common ones."""
    body, compression = encoding.compress(reply.body, request.get("accept-encoding", ""))
    headers = {"content-type": reply.content_type, **reply.headers}
    if compression:
        headers |= {"content-encoding": compression, "vary": "Accept-Encoding"}
    if request_id := echoed(request.get("x-request-id", "")):
        headers["x-request-id"] = request_id
    return body, headers


class _Logged:
    """A request and its answer on the way to the access log."""

    def __init__(self, scope: Scope, send: Send) -> None:
        self._scope, self._send = scope, send
        self._start, self._size = time.perf_counter(), 0
        self._head: MutableMapping[str, Any] = {}
        self.reply: Reply | None = None
        """The answer of a model, if it is one."""

    async def send(self, message: MutableMapping[str, Any]) -> None:
        """Send a part of the answer; write the line once all of it is sent."""
        if message["type"] == "http.response.start":
            self._head = message
        self._size += len(message.get("body", b""))
        await self._send(message)
        if message["type"] == "http.response.body" and not message.get("more_body"):
            scope, seconds = self._scope, time.perf_counter() - self._start
            request_id = dict(self._head["headers"]).get(b"x-request-id", b"").decode("latin-1") or None
            answer = Answered(self._head["status"], self._size, seconds, request_id, self.reply)
            log_access(scope, scope["method"], scope["raw_path"], answer)


def create_front() -> Front:
    """The front over the artifacts that the environment names. gunicorn calls this in each worker."""
    return Front(DataPlane.from_environment())
