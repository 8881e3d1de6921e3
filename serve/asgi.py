"""The fast front, an ASGI application: tensors never enter Flask, everything else does.

Reading a request, checking it and writing the answer cost more than a small model. So the calls that carry tensors,
and the health checks, are answered here, on the event loop. The Flask application behind it answers all others, in
threads. Both use the same pipelines and the same data plane, and give the same answers.
"""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping
from typing import Any, cast

from a2wsgi import WSGIMiddleware

from contract.errors import BodyIncomplete
from serve.access_log import log_access
from serve.app import app_over
from serve.dataplane import DataPlane
from serve.pipeline import Pipeline, read_infer, read_predict
from serve.protocol import VERSION, Reply, encoding, oip
from serve.replies import DATA_HEADERS, echoed, error_reply, json_reply, too_large
from serve.stats import WRITE_SECONDS

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

FLASK_THREADS = 10

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
        # a2wsgi's types are narrower than what ASGI servers and Flask promise
        self._flask: Any = WSGIMiddleware(cast(Any, app_over(plane)), workers=FLASK_THREADS)
        self._limit = plane.settings.max_bytes
        self.logs_access = plane.settings.access_log
        self.is_ending = False
        """Whether the service ends: each connection gets one more answer at most."""
        self.pipelines: dict[bytes, Pipeline] = {}
        """By the paths that take tensors."""
        for name, model in plane.catalog.items():
            infer, predict = Pipeline(plane, model, read_infer), Pipeline(plane, model, read_predict)
            for version in ("", f"/versions/{VERSION}"):
                self.pipelines[f"/v2/models/{name}{version}/infer".encode()] = infer
                self.pipelines[f"/v1/models/{name}{version}:predict".encode()] = predict
        self._writer: asyncio.Task[None] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._lifespan(receive, send)
            return
        if self.logs_access:
            send = _logged(scope, send)
        path, method, headers = scope["path"], scope["method"], read_headers(scope["headers"])
        if method == "POST" and (pipeline := self.pipelines.get(path.encode())) is not None:
            reply = await self._answer(headers, receive, pipeline)
        elif method == "GET" and path == "/v2/health/live":
            reply = json_reply({"live": True})
        elif method == "GET" and path == "/v2/health/ready":
            reply = json_reply({"ready": self.plane.ready}, 200 if self.plane.ready else 503)
        else:
            await self._call_flask(scope, receive, send)
            return
        await _send(send, reply, headers)

    async def _answer(self, headers: Mapping[str, str], receive: Receive, pipeline: Pipeline) -> Reply:
        start = self.plane.clock()
        try:
            body = await self._body(headers, receive)
        except Exception as error:
            return pipeline.failed(error, start)
        return await pipeline.run(body, headers, self.plane.clock())  # a slow sender's time does not count

    async def _body(self, headers: Mapping[str, str], receive: Receive) -> bytes:
        body, size = await self._read(receive)
        if size > self._limit:
            raise too_large(self._limit)
        if compression := headers.get("content-encoding"):
            return encoding.decompress(body, compression, self._limit)
        return body

    async def _read(self, receive: Receive) -> tuple[bytes, int]:
        """The body as it was sent, and its size; of one over the limit only the size.

        It is read to its end, within bounds: else the sender may get a broken connection instead of the answer.
        """
        message = await receive()
        body: bytes = message.get("body", b"")
        parts, size = [body], len(body)
        while message.get("more_body") and size <= 4 * self._limit:
            message = await receive()
            size += len(message.get("body", b""))
            if size <= self._limit:
                parts.append(message.get("body", b""))
        if message["type"] == "http.disconnect":
            raise BodyIncomplete(f"The body stopped after {size} bytes, before its end. Send the request again.")
        return (parts[0] if len(parts) == 1 else b"".join(parts)) if size <= self._limit else b"", size

    async def _call_flask(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand the request over once its body is there: a slow sender would hold one of the few threads."""
        try:
            body, size = await self._read(receive)
        except BodyIncomplete as error:
            await _send(send, error_reply(error), {})
            return
        framing = (b"content-length", b"transfer-encoding")
        headers = [(name, value) for name, value in scope["headers"] if name not in framing]
        headers.append((b"content-length", b"%d" % size))

        async def replay() -> MutableMapping[str, Any]:
            return {"type": "http.request", "body": body}

        await self._flask({**scope, "headers": headers}, replay, send)

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        await receive()
        self._writer = asyncio.create_task(self._write_stats())
        await send({"type": "lifespan.startup.complete"})
        await receive()
        self._writer.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._writer
        self.plane.close()
        await send({"type": "lifespan.shutdown.complete"})

    async def _write_stats(self) -> None:
        while True:
            await asyncio.sleep(WRITE_SECONDS)
            self.plane.stats.write()


def read_headers(headers: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    """A request's headers that are read here, by their lower-case names."""
    return {READ_HEADERS[name]: value.decode("latin-1") for name, value in headers if name in READ_HEADERS}


def wire(reply: Reply, request: Mapping[str, str]) -> tuple[bytes, dict[str, str]]:
    """The body, compressed if the caller accepts that, and the headers: without its length and the common ones."""
    body, compression = encoding.compress(reply.body, request.get("accept-encoding", ""))
    headers = {"content-type": reply.content_type, **reply.headers}
    if compression:
        headers |= {"content-encoding": compression, "vary": "Accept-Encoding"}
    if request_id := echoed(request.get("x-request-id", "")):
        headers["x-request-id"] = request_id
    return body, headers


async def _send(send: Send, reply: Reply, request: Mapping[str, str]) -> None:
    body, described = wire(reply, request)
    headers = [(name.lower().encode(), value.encode()) for name, value in described.items()]
    headers += [(b"content-length", b"%d" % len(body)), *COMMON_HEADERS]
    await send({"type": "http.response.start", "status": reply.code, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _logged(scope: Scope, send: Send) -> Send:
    """`send`, which also writes the line of the access log once the answer is sent."""
    start, size = time.perf_counter(), 0
    head: MutableMapping[str, Any] = {}

    async def sending(message: MutableMapping[str, Any]) -> None:
        nonlocal head, size
        if message["type"] == "http.response.start":
            head = message
        size += len(message.get("body", b""))
        await send(message)
        if message["type"] == "http.response.body" and not message.get("more_body"):
            request_id = dict(head["headers"]).get(b"x-request-id", b"").decode("latin-1") or None
            seconds = time.perf_counter() - start
            log_access(scope, scope["method"], scope["raw_path"], head["status"], size, seconds, request_id)

    return sending


def create_front() -> Front:
    """The front over the artifacts that the environment names. gunicorn calls this in each worker."""
    return Front(DataPlane.from_environment())
