"""The fast front, under gunicorn's `asgi` worker: tensors never enter Flask, everything else does.

Reading a request, checking it and writing the answer cost more than a small model. So the calls that carry tensors,
and the health checks, are answered here, on the event loop; the Flask application behind does the rest, in threads.
Both use the same protocol and the same data plane, and give the same answers.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any, cast

from a2wsgi import WSGIMiddleware

from contract.errors import BodyTooLarge, RosettaError
from serve.app import app_over
from serve.catalog import ServedModel
from serve.dataplane import DataPlane
from serve.protocol import Reply, encoding
from serve.replies import TensorCall, error_reply, infer_call, json_reply, predict_call
from serve.stats import WRITE_SECONDS

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

FLASK_THREADS = 10


class Front:
    """An ASGI application over a data plane, with the Flask application behind it."""

    def __init__(self, plane: DataPlane) -> None:
        self.plane = plane
        # a2wsgi's types are narrower than what ASGI servers and Flask promise
        self._flask: Any = WSGIMiddleware(cast(Any, app_over(plane)), workers=FLASK_THREADS)
        self._limit = plane.settings.max_bytes
        self._calls: dict[str, tuple[ServedModel, TensorCall]] = {}
        for name, model in plane.catalog.items():
            for version in ("", "/versions/1"):
                self._calls[f"/v2/models/{name}{version}/infer"] = model, infer_call
                self._calls[f"/v1/models/{name}{version}:predict"] = model, predict_call
        self._writer: asyncio.Task[None] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._lifespan(receive, send)
            return
        path, method = scope["path"], scope["method"]
        if method == "POST" and (call := self._calls.get(path)) is not None:
            await _send(send, await self._answer(scope, receive, *call))
        elif method == "GET" and path == "/v2/health/live":
            await _send(send, json_reply({"live": True}))
        elif method == "GET" and path == "/v2/health/ready":
            ready = self.plane.ready
            await _send(send, json_reply({"ready": ready}, 200 if ready else 503))
        else:
            await self._flask(scope, receive, send)

    async def _answer(self, scope: Scope, receive: Receive, model: ServedModel, call: TensorCall) -> Reply:
        start = self.plane.clock()
        try:
            headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
            body = await self._body(headers, receive)
            request, answer = call(body, headers, model.described)
            outputs = await self.plane.infer(model, request, start)
            reply = answer(outputs)
        except RosettaError as error:
            reply = error_reply(error)
            self.plane.count_failure(model, reply.code, start)
            return reply
        if accepted := headers.get("accept-encoding"):
            reply = _compressed(reply, accepted)
        return reply

    async def _body(self, headers: MutableMapping[str, str], receive: Receive) -> bytes:
        message = await receive()
        body: bytes = message.get("body", b"")
        if message.get("more_body"):
            body = await self._rest(body, receive)
        if len(body) > self._limit:
            raise BodyTooLarge(f"The request is larger than {self._limit} bytes, the limit. Send less at once.")
        if compression := headers.get("content-encoding"):
            return encoding.decompress(body, compression, self._limit)
        return body

    async def _rest(self, first: bytes, receive: Receive) -> bytes:
        """Read on to the end, so that the connection can be used again, but keep no more than the limit."""
        parts, size, more = [first], len(first), True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                break
            part = message.get("body", b"")
            size += len(part)
            if size <= self._limit:
                parts.append(part)
            more = message.get("more_body", False)
        if size > self._limit:
            raise BodyTooLarge(f"The request is larger than {self._limit} bytes, the limit. Send less at once.")
        return b"".join(parts)

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


def _compressed(reply: Reply, accepted: str) -> Reply:
    body, name = encoding.compress(reply.body, accepted)
    if name is None:
        return reply
    headers = reply.headers | {"Content-Encoding": name, "Vary": "Accept-Encoding"}
    return Reply(body, reply.code, reply.content_type, headers)


async def _send(send: Send, reply: Reply) -> None:
    await send({"type": "http.response.start", "status": reply.code, "headers": list(_headers(reply))})
    await send({"type": "http.response.body", "body": reply.body})


def _headers(reply: Reply) -> Iterable[tuple[bytes, bytes]]:
    yield b"content-type", reply.content_type.encode()
    yield b"content-length", str(len(reply.body)).encode()
    yield b"x-content-type-options", b"nosniff"
    for name, value in reply.headers.items():
        yield name.lower().encode(), value.encode()


def create_front() -> Front:
    """The front over the artifacts that the environment names. gunicorn calls this in each worker."""
    return Front(DataPlane.from_environment())
