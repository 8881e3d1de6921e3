"""One HTTP connection: uvicorn's, with a shorter way for tensors, and limits for slow callers.

Between the parser and the application, ASGI makes a task, a scope and four messages for each request; they cost as much
as a small model does. So a small POST of tensors goes straight from the parser to its pipeline here. Unusual ones -
compressed, in chunks, large, pipelined - and all other requests take uvicorn's way.
"""

import asyncio
import functools
from typing import Any

import httptools
import orjson
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from serve.access_log import log_access
from serve.asgi import Front, read_headers, wire
from serve.batching import Answered
from serve.pipeline import LARGE, Pipeline
from serve.protocol import Reply
from serve.replies import DATA_HEADERS

MAX_CONNECTIONS = 1000
"""In one worker; further ones are refused with 503."""

MAX_HEADERS, MAX_HEADER_BYTES = 100, 65_536

BYTES_A_SECOND = 50_000
"""A sender has the time limit of a request, and one more second for each 50,000 bytes that it has sent."""

CHECK_SECONDS = 2.0

LINGER_SECONDS = 1.0
"""A connection stays open for this long before it is closed: a request, or the rest of one, may be on its way."""

COMMON_LINES = "".join(f"{name.lower()}: {value}\r\n" for name, value in DATA_HEADERS.items())


class Connection(HttpToolsProtocol):
    """A connection of uvicorn's whose application is the front."""

    def __init__(self, *args: Any, **named: Any) -> None:
        super().__init__(*args, **named)
        self._front: Front = self.app
        self._seconds = self._front.plane.settings.timeout
        self._in_headers, self._in_body = True, False
        self._received = 0
        """Bytes of the request that is being received."""
        self._since: float | None = None
        """When that request began, or the connection."""
        self._stuck: float | None = None
        """Since when the caller has stopped reading its answer, if it has."""
        self._check: asyncio.TimerHandle | None = None
        self._is_last = False
        self._running: RequestResponseCycle | None = None
        """The last request that the application got."""
        self._refusal: bytes | None = None
        """The last answer of this connection: to a request that cannot be read to its end."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in uvicorn
        super().connection_made(transport)
        self._since = self.loop.time()
        if len(self.connections) > MAX_CONNECTIONS:
            self._refuse(503, f"The service has {MAX_CONNECTIONS} connections already. Try again in a moment.")
            return
        self._check = self.loop.call_later(CHECK_SECONDS, self._check_pace)
        if self._front.is_ending:  # it was accepted too late for uvicorn to know of it
            self.shutdown()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._running is not None:  # uvicorn looks at the newest request alone, which may wait behind this one
            self._running.disconnected = True
        super().connection_lost(exc)
        if self._check is not None:
            self._check.cancel()

    def data_received(self, data: bytes) -> None:
        if self._refusal is not None:
            return
        self._unset_keepalive_if_required()
        self._received += len(data)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._ignore_upgrade(data[upgrade.args[0] :])
        except httptools.HttpParserError as error:
            self._refuse(400, f"The request is not HTTP/1.1: {error}.")
        else:
            if self._in_headers and self._received > MAX_HEADER_BYTES:
                self._refuse(431, f"The request's headers are larger than {MAX_HEADER_BYTES} bytes.")

    # --- The parser's events

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_headers = True
        self._since = self.loop.time()

    def on_headers_complete(self) -> None:
        self._in_headers = False
        if len(self.headers) > MAX_HEADERS:
            self._refuse(431, f"The request has {len(self.headers)} headers, expected {MAX_HEADERS} at most.")
        if self._refusal is not None or self.parser.should_upgrade():
            return
        self._in_body = True
        if not self._start_tensor_cycle():
            super().on_headers_complete()
        if self._is_last:
            self.cycle.keep_alive = False

    def on_body(self, body: bytes) -> None:
        if self._refusal is not None:
            return
        cycle: Any = self.cycle
        if type(cycle) is TensorCycle:
            cycle.body += body  # its size is bounded: uvicorn would pause reading
        else:
            super().on_body(body)

    def on_message_complete(self) -> None:
        if self._refusal is None and not self.parser.should_upgrade():
            self._in_body, self._received, self._since = False, 0, None
            super().on_message_complete()

    def _ignore_upgrade(self, rest: bytes) -> None:
        """Read a request that asks for another protocol as if it did not, and all that follows it.

        Java's HTTP client asks for HTTP/2 with its first request. The parser does not read on behind such headers.
        """
        if (method := self.parser.get_method()) == b"CONNECT":
            self._refuse(400, "CONNECT is for proxies, and this is not a proxy.")
            return
        kept = [b"%b: %b\r\n" % header for header in self.headers if header[0] not in (b"connection", b"upgrade")]
        self.parser = httptools.HttpRequestParser(self)
        self.data_received(b"".join([method, b" ", self.url, b" HTTP/1.1\r\n", *kept, b"\r\n", rest]))

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._running = cycle
        super()._start_asgi_task(cycle, app)

    def _start_tensor_cycle(self) -> bool:
        """Start the short way, if the request is for tensors and can be answered next. False if it was not started."""
        pipeline = self._front.pipelines.get(self.url)
        if pipeline is None or self.expect_100_continue or self.parser.get_method() != b"POST":
            return False
        if self.flow.write_paused or self._is_busy():
            return False
        headers = read_headers(self.headers)
        if "content-encoding" in headers or int(headers.get("content-length", LARGE)) >= LARGE:
            return False
        keep_alive = self.parser.get_http_version() == "1.1" and self.parser.should_keep_alive()
        self.cycle = TensorCycle(self, self._front, pipeline, headers, keep_alive)  # type: ignore[assignment]
        return True

    # --- Limits

    def pause_writing(self) -> None:
        super().pause_writing()
        self._stuck = self.loop.time()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._stuck = None

    def _check_pace(self) -> None:
        """End the connection of a caller that sends, or reads, too slowly."""
        self._check = self.loop.call_later(CHECK_SECONDS, self._check_pace)
        now = self.loop.time()
        if self._stuck is not None and now - self._stuck > self._seconds:
            self.transport.abort()
        elif self._since is not None and not self.flow.read_paused:
            allowed = self._seconds + self._received / BYTES_A_SECOND
            if now - self._since > allowed:
                self._refuse(408, f"The request was not complete within {allowed:.0f} s. Send it again, faster.")

    def _refuse(self, code: int, message: str) -> None:
        """Answer a request that cannot be read to its end, after the answers before it, and close the connection."""
        if self._refusal is not None:
            return
        headers = {"Retry-After": "1"} if code == 503 else {}
        reply = Reply(orjson.dumps({"error": message}), code, headers=headers)
        self._refusal = self.head(code, len(reply.body), wire(reply, {})[1], False) + reply.body
        if self.pipeline:
            if self._in_body:
                self.pipeline.popleft()  # the newest: the one that is refused
        elif self._in_body:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
            self._send_refusal()
        elif not self._is_busy():
            self._send_refusal()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if not self.pipeline:
            self._send_refusal()

    def _send_refusal(self) -> None:
        """Further bytes are read and dropped for a moment: else the caller may get a reset instead of the answer."""
        if self._refusal is not None and not self.transport.is_closing():
            self.transport.write(self._refusal)
            self.transport.write_eof()
            self.flow.resume_reading()
            self.loop.call_later(LINGER_SECONDS, self.transport.close)

    def head(self, code: int, size: int, headers: dict[str, str], keep_alive: bool) -> bytes:
        """The lines before a body of `size` bytes."""
        dates = [b"%b: %b\r\n" % header for header in self.server_state.default_headers]
        return b"".join([STATUS_LINE[code], *dates, _lines(size, tuple(headers.items()), keep_alive)])

    # --- The end

    def shutdown(self) -> None:
        """uvicorn calls this when the service ends: one more answer, if a request is under way or comes soon."""
        self._end_after_this()
        if not self._is_busy():
            self.loop.call_later(LINGER_SECONDS, self._close_if_idle)

    def _is_busy(self) -> bool:
        """Whether an answer is due."""
        return self.cycle is not None and not self.cycle.response_complete

    def _end_after_this(self) -> None:
        self._is_last = True
        if self._is_busy():
            self.cycle.keep_alive = False

    def _close_if_idle(self) -> None:
        if not self._is_busy() and not self._received:
            self.transport.close()


@functools.lru_cache(256)
def _lines(size: int, headers: tuple[tuple[str, str], ...], keep_alive: bool) -> bytes:
    lines = "".join([f"{name}: {value}\r\n" for name, value in headers])
    end = "\r\n" if keep_alive else "connection: close\r\n\r\n"
    return f"{lines}content-length: {size}\r\n{COMMON_LINES}{end}".encode()


class TensorCycle:
    """A request for tensors and its answer. uvicorn's protocol uses it like a cycle of its own."""

    __slots__ = (
        "_connection",
        "_front",
        "_future",
        "_headers",
        "_pipeline",
        "_start",
        "body",
        "disconnected",
        "keep_alive",
        "message_event",
        "more_body",
        "response_complete",
    )

    def __init__(
        self, connection: Connection, front: Front, pipeline: Pipeline, headers: dict[str, str], keep_alive: bool
    ) -> None:
        self._connection, self._front, self._headers = connection, front, headers
        self._pipeline = pipeline
        self._future: asyncio.Future[Answered] | None = None
        self.keep_alive = keep_alive
        self.body = b""
        self.more_body = True
        self.disconnected = False
        self.response_complete = False
        self.message_event = self

    def set(self) -> None:
        """uvicorn's protocol calls this for each part of the body, at its end, and at the connection's end."""
        if self.disconnected:
            if self._future is not None:
                self._future.cancel()
        elif not (self.more_body or self.response_complete or self._future):
            self._run()

    def _run(self) -> None:
        self._start = self._front.plane.clock()
        self._future = self._pipeline.submit(self.body, self._headers, self._start, self._send)

    def _send(self, reply: Reply) -> None:
        connection = self._connection
        if self.disconnected or connection.transport.is_closing():
            return
        body, headers = wire(reply, self._headers)
        self.response_complete = True
        connection.transport.write(connection.head(reply.code, len(body), headers, self.keep_alive) + body)
        if self._front.logs_access:
            seconds = self._front.plane.clock() - self._start
            request_id = headers.get("x-request-id")
            log_access(connection.scope, "POST", connection.url, reply.code, len(body), seconds, request_id)
        if not self.keep_alive:
            connection.transport.close()
        connection.on_response_complete()
