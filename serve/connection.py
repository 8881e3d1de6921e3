"""One HTTP connection: uvicorn's, with a shorter way for tensors, and limits for slow callers.

Between the parser and the application, ASGI makes a task, a scope and four messages for each request; they cost as much
as a small model does. So a small POST of tensors goes straight from the parser to its pipeline here. Unusual ones -
compressed, in chunks, large, pipelined - and all other requests take uvicorn's way.
"""

import asyncio
import functools
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import httptools
import orjson
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from contract.errors import RosettaError
from serve.access_log import Answered, log_access
from serve.asgi import Front, read_headers, wire
from serve.callers import BYTES, CONNECTIONS, REQUESTS
from serve.origins import is_host
from serve.pipeline import LARGE, Pipeline
from serve.protocol import Reply, oip
from serve.replies import CODE_HEADERS, DATA_HEADERS, status_code
from serve.stats import NO_MODEL

MAX_HEADERS, MAX_HEADER_BYTES, MAX_URL = 100, 65_536, 16_384

CHECKED = (b"host", b"origin", b"sec-fetch-site", b"authorization")
"""Headers of which a request has one at most, and that say whose request it is."""

BYTES_A_SECOND = 50_000
"""A sender has the time limit of a request, and one more second for each 50,000 bytes that it has sent."""

CHECK_SECONDS = 2.0

LINGER_SECONDS = 1.0
"""A connection stays open for this long before it is closed: a request, or the rest of one, may be on its way."""

Headers = tuple[tuple[bytes, bytes], ...]

PREFLIGHT: Headers = (
    (b"access-control-allow-methods", b"GET, POST"),
    (
        b"access-control-allow-headers",
        f"Authorization, Content-Type, Content-Encoding, {oip.HEADER_LENGTH}, X-Request-ID".encode(),
    ),
)

COMMON_LINES = "".join(f"{name.lower()}: {value}\r\n" for name, value in DATA_HEADERS.items())


@dataclass(slots=True)
class Head:
    """A request's method, URL and headers, and what the service makes of them."""

    sent: tuple[bytes, str, bytes, Headers]
    """The method, the version of HTTP, the URL and the headers as they came."""
    url: bytes
    headers: Headers
    """By their lower-case names."""
    read: Mapping[str, str]
    """Those that the service reads."""
    cors: Headers
    expects_continue: bool
    keep_alive: bool
    is_small_post: bool
    """Whether it may be a request for tensors that takes the short way."""


class Connection(HttpToolsProtocol):
    """A connection of uvicorn's whose application is the front."""

    def __init__(self, *args: Any, **named: Any) -> None:
        super().__init__(*args, **named)
        self._front: Front = self.app
        self._plane = self._front.plane
        self._keys, self._callers = self._plane.keys, self._plane.callers
        self._address = ""
        self._is_counted = False
        """Whether it is one of its address's connections, where these have limits."""
        self._under_way: deque[UnderWay] = deque()
        """The requests without an answer yet, where callers have limits."""
        self._seconds = self._plane.settings.timeout
        self._in_headers, self._in_body = True, False
        self._received = 0
        """Bytes of the request that is being received."""
        self._since: float | None = None
        """When that request began, or the connection."""
        self._stuck: float | None = None
        """Since when the caller has stopped reading its answer, if it has."""
        self._check: asyncio.TimerHandle | None = None
        self._is_last = False
        self._checked: dict[bytes, bytes] = {}
        """Those of the headers `CHECKED` that the request has."""
        self.cors: Headers = ()
        """Headers of the answer by which a browser lets a page of another origin read it."""
        self._head: Head | None = None
        """The newest request's."""
        self._running: RequestResponseCycle | None = None
        """The last request that the application got."""
        self._refusal: bytes | None = None
        """The last answer of this connection: to a request that cannot be read to its end."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in uvicorn
        super().connection_made(transport)
        self._since = self.loop.time()
        self._plane.connections += 1
        if self._callers.are_limited:
            self._address = self.client[0] if self.client else "this machine"
            self._is_counted = self._take(self._address, CONNECTIONS)
            if not self._is_counted:
                return  # it takes no other caller's place
        most = self._plane.max_connections
        if len(self.connections) > most and not self._close_idle():
            self._refuse(503, f"The service has {most} connections already. Try again in a moment.")
            return
        self._plane.idle[self] = None
        self._check = self.loop.call_later(CHECK_SECONDS, self._check_pace)
        if self._front.is_ending:  # it was accepted too late for uvicorn to know of it
            self.shutdown()

    def _close_idle(self) -> bool:
        """Close the connection that has waited longest for a request, if one does: a newcomer has its place."""
        for connection in self._plane.idle:
            assert isinstance(connection, Connection)
            del self._plane.idle[connection]
            connection.transport.abort()
            return True
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._plane.connections -= 1
        while self._under_way:
            self._end_request()
        if self._is_counted:
            self._callers.give(self._address, CONNECTIONS)
        self._plane.idle.pop(self, None)
        if self._running is not None:  # uvicorn looks at the newest request alone, which may wait behind this one
            self._running.disconnected = True
        super().connection_lost(exc)
        if self._check is not None:
            self._check.cancel()

    def data_received(self, data: bytes) -> None:
        if self._refusal is not None:
            return
        self._unset_keepalive_if_required()
        self._plane.idle.pop(self, None)
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
        self.cors = ()
        self._since = self.loop.time()

    def on_url(self, url: bytes) -> None:
        self.url += url
        if len(self.url) > MAX_URL:
            self._refuse(414, f"The request's URL is longer than {MAX_URL} bytes.")

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._in_headers:  # not a trailer, behind a body in chunks: nothing here needs one
            self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        self._in_headers = False
        if self._refusal is None:
            self._read_head()
        if self._refusal is not None or self.parser.should_upgrade():
            return
        if self._callers.are_limited and not self._begin_request():
            return
        self._in_body = True
        if not self._start_tensor_cycle():
            super().on_headers_complete()
            self.cycle.default_headers = [*self.cycle.default_headers, *self.cors]
        if self._is_last:
            self.cycle.keep_alive = False

    def _read_head(self) -> None:
        """Read and check the request's head, except where it is that of the request before, as a caller's mostly is."""
        sent = (self.parser.get_method(), self.parser.get_http_version(), self.url, tuple(self.headers))
        head = self._head
        if head is None or head.sent != sent:
            head = self._head = self._checked_head(*sent)
        self.url, self.headers[:], self.cors = head.url, head.headers, head.cors
        self.expect_100_continue = head.expects_continue
        is_preflight = sent[0] == b"OPTIONS" and self.cors  # browsers send no key with it
        if self._keys.are_needed and self._refusal is None and not is_preflight:
            self._check_key()  # each time: it may have been withdrawn

    def _checked_head(self, method: bytes, version: str, url: bytes, sent: Headers) -> Head:
        """What a request's head comes to; a bad one is refused."""
        headers = tuple((name.lower(), value) for name, value in sent)
        self._check_headers(method, version, headers)
        read = read_headers(headers)
        expects_continue = any(name == b"expect" and value.lower() == b"100-continue" for name, value in headers)
        is_small = "content-encoding" not in read and int(read.get("content-length", LARGE)) < LARGE
        return Head(
            (method, version, url, sent),
            self.url,
            headers,
            read,
            self.cors,
            expects_continue,
            keep_alive=version == "1.1" and self.parser.should_keep_alive(),
            is_small_post=method == b"POST" and is_small and not expects_continue,
        )

    def _check_headers(self, method: bytes, version: str, headers: Headers) -> None:
        """Refuse what RFC 9112 says, and requests that are not meant for this service."""
        checked = [(name, value) for name, value in headers if name in CHECKED]
        self._checked = dict(checked)
        size = sum(len(name) + len(value) + 4 for name, value in headers)
        if len(headers) > MAX_HEADERS:
            self._refuse(431, f"The request has {len(headers)} headers, expected {MAX_HEADERS} at most.")
        elif size > MAX_HEADER_BYTES:
            self._refuse(431, f"The request's headers are larger than {MAX_HEADER_BYTES} bytes.")
        elif version not in ("1.0", "1.1"):
            self._refuse(505, f"The request is of HTTP/{version}, expected HTTP/1.1.")
        elif len(checked) > len(self._checked):
            (repeated, *_) = [name for name, _ in checked if [other for other, _ in checked].count(name) > 1]
            self._refuse(400, f"The request has several headers {repeated.decode()!r}, expected one.")
        elif b"host" not in self._checked and version == "1.1":
            self._refuse(400, "The request has no header 'Host', which HTTP/1.1 requires.")
        elif method == b"CONNECT":
            self._refuse(400, "CONNECT is for proxies, and this is not a proxy.")
        elif not self._read_target(method):
            self._refuse(400, "The request's URL is not a path, such as /v2, or a whole address of this service.")
        else:
            self._check_origin(method)

    def _read_target(self, method: bytes) -> bool:
        """Bring the URL into the form of a path. A whole address counts more than the header Host."""
        if self.url == b"*":
            self.url = b"/*"  # there is nothing at this path
            return method == b"OPTIONS"
        if not self.url.startswith(b"/"):
            scheme, _, rest = self.url.partition(b"://")
            authority, slash, path = rest.partition(b"/")
            if scheme.lower() not in (b"http", b"https") or not is_host(authority):
                return False
            self._checked[b"host"] = authority
            self.url = slash + path or b"/"
        return b"#" not in self.url and self.url.isascii()

    def _check_origin(self, method: bytes) -> None:
        origins, host = self._front.origins, self._checked.get(b"host", b"localhost")
        origin = self._checked.get(b"origin", b"")
        if not is_host(host):
            self._refuse(400, "The header 'Host' is not a name or an address.")
        elif not origins.knows_host(host):
            name = host.decode("latin-1")[:100]
            self._refuse(421, f"This service is not known as {name!r}. Name it in SERVE_HOSTS, or use its address.")
        elif not origins.allows_caller(method, host, origin, self._checked.get(b"sec-fetch-site", b"")):
            self._refuse(403, "A page of another site sent this request. Name the site's origin in SERVE_CORS.")
        elif origins.is_named(origin):
            allowed = ((b"access-control-allow-origin", origin), (b"vary", b"Origin"))
            self.cors = (*allowed, *PREFLIGHT) if method == b"OPTIONS" else allowed

    def _begin_request(self) -> bool:
        """Count a request as its caller's; False, and a refusal, over a limit."""
        scope: Any = self.scope
        scope["caller"] = scope.get("key") or self._address
        if not self._take(scope["caller"], REQUESTS):
            return False
        self._under_way.append(UnderWay(scope["caller"]))
        return True

    def _take(self, caller: str, kind: str, amount: int = 1, mine: int = 0) -> bool:
        """Let a caller have more; False, and a refusal, over a limit."""
        try:
            self._callers.take(caller, kind, amount, mine)
        except RosettaError as error:
            self._refuse(status_code(error), str(error))
            return False
        return True

    def _end_request(self) -> None:
        """The oldest request is answered, or nobody waits for it any more."""
        ended = self._under_way.popleft()
        self._callers.give(ended.caller, REQUESTS)
        if ended.bytes:
            self._callers.give(ended.caller, BYTES, ended.bytes)

    def _check_key(self) -> None:
        """Refuse a caller without a key for what it calls."""
        try:
            key = self._keys.check(self._checked.get(b"authorization", b""), self.url)
        except RosettaError as error:
            self._refuse(status_code(error), str(error))
        else:
            self.scope["key"] = key and key.name  # type: ignore[typeddict-unknown-key]  # for the access log

    def on_body(self, body: bytes) -> None:
        if self._refusal is not None:
            return
        if self._under_way:
            coming = self._under_way[-1]
            if not self._take(coming.caller, BYTES, len(body), coming.bytes):
                return
            coming.bytes += len(body)
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
        if self._refusal is not None:
            return
        method = self.parser.get_method()
        kept = [b"%b: %b\r\n" % header for header in self.headers if header[0] not in (b"connection", b"upgrade")]
        self.parser = httptools.HttpRequestParser(self)
        self.data_received(b"".join([method, b" ", self.url, b" HTTP/1.1\r\n", *kept, b"\r\n", rest]))

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._running = cycle
        super()._start_asgi_task(cycle, app)

    def _start_tensor_cycle(self) -> bool:
        """Start the short way, if the request is for tensors and can be answered next. False if it was not started."""
        pipeline, head = self._front.pipelines.get(self.url), self._head
        if pipeline is None or head is None or not head.is_small_post or self.flow.write_paused or self._is_busy():
            return False
        self.cycle = TensorCycle(self, self._front, pipeline, head.read, head.keep_alive)  # type: ignore[assignment]
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
        reply = Reply(orjson.dumps({"error": message}), code, headers=CODE_HEADERS.get(code, {}))
        seconds = 0.0 if self._since is None else self.loop.time() - self._since
        self._plane.stats[NO_MODEL].count_failure(code, seconds)
        if self._front.logs_access:
            self._log_refusal(Answered(code, len(reply.body), seconds, None, None))
        self._refusal = self.head(code, len(reply.body), wire(reply, {})[1], False, self.cors) + reply.body
        if self.pipeline:
            if self._in_body:
                self.pipeline.popleft()  # the newest: the one that is refused
        elif self._in_body:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
            self._send_refusal()
        elif not self._is_busy():
            self._send_refusal()

    def _log_refusal(self, answer: Answered) -> None:
        scope: Any = self.scope
        if scope is None:  # no request has begun
            log_access({"client": self.client}, "", b"", answer)
        else:
            log_access(scope, self.parser.get_method().decode("latin-1"), self.url, answer)

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self._under_way:
            self._end_request()
        is_answering = self._running is not None and not self._running.response_complete
        if not self.pipeline and not is_answering:
            self._send_refusal()
        if not self._received and not self._is_busy() and self in self.connections:
            self._plane.idle[self] = None

    def _send_refusal(self) -> None:
        """Further bytes are read and dropped for a moment: else the caller may get a reset instead of the answer."""
        if self._refusal is not None and not self.transport.is_closing():
            self.transport.write(self._refusal)
            if self.transport.can_write_eof():  # TLS has no half-closed connections
                self.transport.write_eof()
            self.flow.resume_reading()
            self.loop.call_later(LINGER_SECONDS, self.transport.close)

    def head(self, code: int, size: int, headers: dict[str, str], keep_alive: bool, cors: Headers = ()) -> bytes:
        """The lines before a body of `size` bytes."""
        dated = tuple(self.server_state.default_headers)
        return _lines(code, dated, cors, tuple(headers.items()), size, keep_alive)

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
def _lines(
    code: int, dated: Headers, cors: Headers, headers: tuple[tuple[str, str], ...], size: int, keep_alive: bool
) -> bytes:
    """Within a second most answers have the same."""
    first = b"".join([b"%b: %b\r\n" % header for header in (*dated, *cors)])
    lines = "".join([f"{name}: {value}\r\n" for name, value in headers])
    end = "\r\n" if keep_alive else "connection: close\r\n\r\n"
    return b"".join([STATUS_LINE[code], first, f"{lines}content-length: {size}\r\n{COMMON_LINES}{end}".encode()])


@dataclass(slots=True)
class UnderWay:
    """A request without an answer yet: whose it is, and the bytes of its body that came."""

    caller: str
    bytes: int = 0


class TensorCycle:
    """A request for tensors and its answer. uvicorn's protocol uses it like a cycle of its own."""

    __slots__ = (
        "_caller",
        "_connection",
        "_cors",
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
        self, connection: Connection, front: Front, pipeline: Pipeline, headers: Mapping[str, str], keep_alive: bool
    ) -> None:
        self._connection, self._front, self._headers = connection, front, headers
        self._pipeline, self._cors = pipeline, connection.cors
        self._caller: str | None = connection.scope.get("caller")  # type: ignore[assignment]
        self._future: asyncio.Future[Any] | None = None
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
        self._future = self._pipeline.submit(self.body, self._headers, self._start, self._send, self._caller)
        del self._pipeline  # a connection that waits for its next request must not hold the model

    def _send(self, reply: Reply) -> None:
        if len(reply.body) < LARGE:
            self._write(reply, *wire(reply, self._headers))
        else:  # to compress it takes a while
            wired = self._connection.loop.run_in_executor(self._front.plane.readers, wire, reply, self._headers)
            wired.add_done_callback(lambda done: self._write(reply, *done.result()))

    def _write(self, reply: Reply, body: bytes, headers: dict[str, str]) -> None:
        connection = self._connection
        if self.disconnected or connection.transport.is_closing():
            return
        self.response_complete = True
        connection.transport.write(connection.head(reply.code, len(body), headers, self.keep_alive, self._cors) + body)
        if self._front.logs_access:
            seconds = self._front.plane.clock() - self._start
            answer = Answered(reply.code, len(body), seconds, headers.get("x-request-id"), reply)
            log_access(connection.scope, "POST", connection.url, answer)
        if not self.keep_alive:
            connection.transport.close()
        connection.on_response_complete()
