"""An HTTP/1.1 client for an event loop: connections that are kept alive, with one request at a time on each.

Whoever sends a request is called back. A future for each would cost a turn of the event loop.
"""

import asyncio
import re
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, cast

from serve.protocol.memory import Memory

CONNECT_SECONDS = 3.0
"""A server that does not accept a connection within this time hangs."""

RECYCLE_SECONDS = 30.0
"""An older connection is not used again, so that calls reach replicas that are new."""

_STATUS = re.compile(rb"HTTP/1\.1 (\d{3})")
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_HEADER_LENGTH = re.compile(rb"\r\ninference-header-content-length: *(\d+)", re.IGNORECASE)
_CLOSE = re.compile(rb"\r\nconnection: *close", re.IGNORECASE)


class Answer(NamedTuple):
    """An HTTP answer. The JSON that comes before a body's raw tensors ends at `header_length`."""

    status: int
    body: bytes | bytearray
    header_length: int


Done = Callable[[Answer | Exception], None]
"""Called once, with the answer or with the error."""


class Head(NamedTuple):
    """The lines before an answer's body, parsed."""

    status: int
    length: int
    header_length: int | None
    is_last: bool
    """Whether the connection ends with this answer."""

    @classmethod
    def parse(cls, lines: bytes) -> "Head | None":
        """None where the lines are not HTTP/1.1 with a Content-Length."""
        status, length, header_length = _STATUS.match(lines), _LENGTH.search(lines), _HEADER_LENGTH.search(lines)
        if status is None or length is None:
            return None
        is_last = _CLOSE.search(lines) is not None
        return cls(int(status[1]), int(length[1]), int(header_length[1]) if header_length else None, is_last)


class Call(NamedTuple):
    """A request, its time limit in seconds, and the callback that gets its answer."""

    request: bytes
    seconds: float
    done: Done


class Connection(asyncio.Protocol):
    """One connection."""

    def __init__(self, connections: "Connections") -> None:
        self._connections = connections
        self._loop = asyncio.get_running_loop()
        self._call: Call | None = None
        """The call under way."""
        self._deadline = self._alarm = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._received: bytes | bytearray = b""
        self._head: Head | None = None
        """Of the answer that is being received, once its lines are complete."""
        self.expires = self._loop.time() + RECYCLE_SECONDS
        self.is_open = True
        self.has_answered = False

    def send(self, call: Call, now: float) -> None:
        """Send a request. A request without an answer ends the connection, with a ConnectionError or a TimeoutError."""
        self._call, self._deadline = call, now + call.seconds
        if not self.is_open:  # it was closed as soon as it was made
            self.fail(ConnectionResetError("the connection was closed"))
            return
        if self._timer is None or self._alarm > self._deadline:
            self._set_timer()
        self._transport.write(call.request)

    def _set_timer(self) -> None:
        """One timer serves many requests: it is set again when it fires too early, not for each request."""
        if self._timer is not None:
            self._timer.cancel()
        self._alarm = self._deadline
        self._timer = self._loop.call_at(self._alarm, self._check_deadline)

    def _check_deadline(self) -> None:
        self._timer = None
        if self._call is None:
            return
        if self._loop.time() < self._deadline:
            self._set_timer()
        else:
            self.fail(TimeoutError(f"no answer within {self._call.seconds:g} s"))

    def _finish(self, outcome: Answer | Exception) -> None:
        call, self._call = self._call, None
        if call is not None:
            self._connections.finish(self, call, outcome)

    def fail(self, error: Exception) -> None:
        """End the connection; the call under way fails with the error."""
        self.is_open = False
        self._transport.abort()
        if self._timer is not None:
            self._timer.cancel()
        self._finish(error)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._connections.open.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self.fail(ConnectionResetError("the connection was closed"))
        self._connections.open.discard(self)

    def data_received(self, data: bytes) -> None:
        if self._call is None:
            self.fail(ConnectionAbortedError("it sent an answer without a request"))
            return
        if not self._received:
            self._received = data  # usually the whole answer, which is not copied then
        else:
            if isinstance(self._received, bytes):
                self._received = bytearray(self._received)
            self._received += data
        if self._head is None:
            self._read_head()
        head = self._head
        if head is not None and len(self._received) >= head.length:
            body, self._received, self._head = self._received, b"", None
            self.is_open = not head.is_last
            self._finish(Answer(head.status, body, len(body) if head.header_length is None else head.header_length))

    def _read_head(self) -> None:
        lines, end, body = self._received.partition(b"\r\n\r\n")
        if not end:
            return
        head = self._connections.head(bytes(lines))
        if head is None:
            self.fail(ConnectionAbortedError("its answer is not HTTP/1.1 with a Content-Length"))
            return
        self._received, self._head = body, head


class Connections:
    """The connections of one event loop to one address."""

    def __init__(self, host: str, port: int) -> None:
        self._host, self._port = host, port
        self._loop = asyncio.get_running_loop()
        self.open: set[Connection] = set()
        self._idle: list[Connection] = []
        self._connecting: set[asyncio.Task[None]] = set()
        self._heads: Memory[bytes, Head | None] = Memory()
        """By an answer's lines: many answers have the same ones, until the date's next second."""

    def send(self, call: Call) -> None:
        """Send a request on an idle connection, or on a new one.

        It fails with an OSError; with a UnicodeError, if the host is not a name.
        """
        now = self._loop.time()
        while self._idle:
            connection = self._idle.pop()
            if connection.is_open and now < connection.expires:
                connection.send(call, now)
                return
            connection.fail(ConnectionAbortedError("it is too old"))
        task = self._loop.create_task(self._send_on_new(call))
        self._connecting.add(task)
        task.add_done_callback(self._connecting.discard)

    async def request(self, request: bytes, seconds: float) -> Answer:
        """`send` for coroutines."""
        future = self._loop.create_future()
        self.send(Call(request, seconds, partial(settle, future)))
        return cast(Answer, await future)

    async def _send_on_new(self, call: Call) -> None:
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                _, connection = await self._loop.create_connection(lambda: Connection(self), self._host, self._port)
        except (OSError, UnicodeError) as error:
            call.done(error)
        else:
            connection.send(call, self._loop.time())

    def head(self, lines: bytes) -> Head | None:
        """The lines before a body, parsed."""
        return self._heads.get(lines) or self._heads.remember(lines, Head.parse(lines))

    def finish(self, connection: Connection, call: Call, outcome: Answer | Exception) -> None:
        """A connection calls this at the end of its call."""
        if connection.is_open:
            connection.has_answered = True
            self._idle.append(connection)
            call.done(outcome)
            return
        connection.fail(ConnectionAbortedError("it was the last answer"))
        if isinstance(outcome, ConnectionResetError) and connection.has_answered:
            self.send(call)  # the server closed it meanwhile, as idle ones are: take another
        else:
            call.done(outcome)

    def close(self, error: Exception) -> None:
        """End all connections; calls under way fail with the error."""
        for connection in list(self.open):
            connection.fail(error)
        self._idle.clear()


def settle(future: asyncio.Future[Any], outcome: object) -> None:
    """Give a future its result or its error, unless it was cancelled."""
    if future.done():
        return
    if isinstance(outcome, Exception):
        future.set_exception(outcome)
    else:
        future.set_result(outcome)
