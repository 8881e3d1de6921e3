"""One connection of gRPC, in the worker's own event loop: its calls, their messages, and their limits.

Python's grpcio has a thread and a loop of its own, and costs twice as much for each call as all else of it.
"""

import asyncio
import re
import time
import urllib.parse
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Protocol, cast

from contract.errors import Overloaded, RosettaError
from serve.callers import BYTES, CONNECTIONS
from serve.dataplane import DataPlane
from serve.protocol import encoding
from serve.replies import too_large
from serve.rpc.http2 import ENHANCE_YOUR_CALM, MAX_CALLS, NO_ERROR, Headers, Http2, Violation, header_block

WAITING_MESSAGES, WAITING_BYTES = 8, 1_048_576
"""What a stream may have ahead of its work: messages that came, and bytes of answers that nobody reads."""

RESETS = 200
"""Calls that a caller may take back besides as many as it lets finish."""

CHECK_SECONDS, SILENT_SECONDS, PING_SECONDS = 2.0, 60.0, 20.0
"""How often a connection is looked at; after how long a silence it is asked whether it lives, and until when."""

BYTES_A_SECOND = 50_000

TURN_SECONDS = 0.005
"""How long a connection takes frames, or a stream its messages, before all else has its turn: 256 KB that come at once
may hold 20,000 frames, and a megabyte 200,000 messages."""

PREFIX = 5
"""Bytes before each message: whether it is compressed, and its length."""

TIMEOUT = re.compile(rb"(\d{1,8})([HMSmun])")
UNITS = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}

UNIMPLEMENTED, INVALID_ARGUMENT, RESOURCE_EXHAUSTED, DEADLINE_EXCEEDED = 12, 3, 8, 4

ANSWER = header_block([(b":status", b"200"), (b"content-type", b"application/grpc")])
DONE = header_block([(b"grpc-status", b"0")])
NOT_GRPC = header_block([(b":status", b"415")])
PLAIN = " !\"#$&'()*+,-./:;<=>?@[\\]^_`{|}~"
"""What stands for itself in an error's message."""


class Failed(Exception):
    """A call ends with this code and message."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


Answering = Callable[["Call", bytes], Awaitable[bytes]]
"""A call and its message -> the message of the answer. Raises Failed."""


class Handler(Protocol):
    """What answers the calls."""

    def unary(self, path: str) -> Answering | None:
        """What answers a call of one message by its path; None if nothing does."""

    def stream(self, path: str) -> Callable[["Call", AsyncIterator[bytes]], AsyncIterator[bytes]] | None:
        """What answers a call of many messages; None if nothing does."""

    def caller(self, call: "Call") -> str | None:
        """Who calls, where callers have limits."""

    def failure(self, error: Exception) -> Failed:
        """An error as gRPC has it."""


class Call:
    """A call: the messages that came, and the answer on its way."""

    __slots__ = (
        "answering",
        "authorization",
        "caller",
        "came",
        "compression",
        "drained",
        "failure",
        "has_begun",
        "held",
        "is_ended",
        "messages",
        "out",
        "path",
        "peer",
        "received",
        "since",
        "stream",
        "task",
        "timer",
        "trailers",
        "unread",
        "working",
    )

    def __init__(self, stream: int, peer: str, now: float) -> None:
        self.stream, self.peer, self.since = stream, peer, now
        self.path = ""
        self.caller: str | None = None
        """Whose it is, where callers have limits."""
        self.authorization = b""
        self.compression = "identity"
        self.received = bytearray()
        """What came of a message that is not whole yet."""
        self.messages: deque[tuple[bool, bytes]] = deque()
        """Whether a message is compressed, and its bytes."""
        self.came: asyncio.Future[None] | None = None
        """What waits for a message."""
        self.drained: asyncio.Future[None] | None = None
        """What waits until the caller has read."""
        self.held = 0
        """Bytes that are counted: of messages that come or wait, and of the one that is worked on."""
        self.working = 0
        """Those of the message that is worked on, as it came and as it was inflated."""
        self.unread = 0
        """Bytes that the caller may not send again yet."""
        self.is_ended = False
        """Whether the caller has sent everything."""
        self.failure: Failed | None = None
        self.task: asyncio.Task[None] | None = None
        self.timer: asyncio.TimerHandle | None = None
        self.has_begun = False
        """Whether the headers of the answer are sent."""
        self.out = bytearray()
        self.trailers: bytes | None = None
        self.answering: Answering | None = None


class Connection(Http2, asyncio.Protocol):
    """A caller's connection."""

    def __init__(self, plane: DataPlane, handler: Handler, connections: set["Connection"]) -> None:
        super().__init__()
        self._plane, self._handler, self._connections = plane, handler, connections
        self._loop = asyncio.get_running_loop()
        self._calls: dict[int, Call] = {}
        self._waiting: set[Call] = set()
        """Calls whose answers wait for room."""
        self._resets, self._finished = 0, 0
        self._heard = self._loop.time()
        self._pinged: float | None = None
        self._stuck: float | None = None
        """Since when the caller does not read, if it does not."""
        self._check: asyncio.TimerHandle | None = None
        self._turn: asyncio.Handle | None = None
        """The next turn, where not all that came is taken."""
        self._is_counted = False

    # --- The connection

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        peer = transport.get_extra_info("peername")
        self._peer = peer[0] if isinstance(peer, tuple) else "this machine"
        self._connections.add(self)
        # Whoever is over a limit of its own takes no other caller's place.
        if not self._take_place() or (len(self._connections) > self._plane.max_connections and not self._close_idle()):
            self._transport.abort()
            return
        self._write()
        self._check = self._loop.call_later(CHECK_SECONDS, self._look)

    def _close_idle(self) -> bool:
        """Close the one without calls that has been silent longest, if there is one: a newcomer has its place."""
        others = self._connections - {self}
        idle = (each for each in others if not each._calls and not each._transport.is_closing())
        longest = min(idle, key=lambda each: each._heard, default=None)
        if longest is None:
            return False
        longest.go_away(NO_ERROR)  # so its caller knows that no call was lost
        longest._write()
        longest._transport.abort()
        return True

    def _take_place(self) -> bool:
        """Count the connection as its address's, where these have limits; False over the limit."""
        if self._plane.callers.are_limited:
            try:
                self._plane.callers.take(self._peer, CONNECTIONS)
            except Overloaded:
                return False
            self._is_counted = True
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        self._connections.discard(self)
        if self._check is not None:
            self._check.cancel()
        if self._turn is not None:
            self._turn.cancel()
        if self._is_counted:
            self._plane.callers.give(self._peer, CONNECTIONS)
        for call in list(self._calls.values()):
            self._drop(call)

    def data_received(self, data: bytes) -> None:
        self._heard, self._pinged = self._loop.time(), None
        self._take_turn(data)

    def _take_turn(self, data: bytes = b"") -> None:
        """Take what came, and what is left of it after a while in another turn. Nothing more is read until then."""
        if self._turn is not None:
            self._turn.cancel()
            self._turn = None
        try:
            is_left = self.receive(data, time.monotonic() + TURN_SECONDS)
        except Violation as violation:
            self._give_up(violation.code)
            return
        self._write()
        if self._transport.is_closing():
            return
        if is_left:
            self._transport.pause_reading()
            self._turn = self._loop.call_soon(self._take_turn)
        elif not data and self._stuck is None:
            self._transport.resume_reading()

    def _give_up(self, code: int) -> None:
        self.go_away(code)
        self._write()
        self._transport.close()

    def pause_writing(self) -> None:
        self._stuck = self._loop.time()
        self._transport.pause_reading()  # what is asked of it would only be answered into memory

    def resume_writing(self) -> None:
        self._stuck = None
        if self._turn is None:
            self._transport.resume_reading()

    def _write(self) -> None:
        if self.out and not self._transport.is_closing():
            self._transport.write(bytes(self.out))
        self.out.clear()

    def _look(self) -> None:
        """End what takes too long, and ask a silent caller whether it is still there."""
        self._check = self._loop.call_later(CHECK_SECONDS, self._look)
        now, limit = self._loop.time(), self._plane.settings.timeout
        if self._stuck is not None and now - self._stuck > limit:
            self._transport.abort()
            return
        for call in list(self._calls.values()):
            if not call.is_ended and call.task is None and now - call.since > limit + call.held / BYTES_A_SECOND:
                self._fail(call, Failed(DEADLINE_EXCEEDED, f"The request was not complete within {limit} s."))
        if self._pinged is not None and now - self._pinged > PING_SECONDS:
            self._transport.abort()
            return
        if self._pinged is None and now - self._heard > SILENT_SECONDS:
            self._pinged = now
            self.ping()
        self._write()

    @property
    def is_answering(self) -> bool:
        """Whether an answer is due to a message that came."""
        return any(call.working for call in self._calls.values())

    def end(self) -> None:
        """Take no more calls, and close once those under way are answered."""
        self.go_away(NO_ERROR)
        self._write()
        self._close_if_idle()

    def _close_if_idle(self) -> None:
        if self.is_ending and not self._calls:
            self._write()
            self._transport.close()

    # --- What comes

    def on_headers(self, stream: int, headers: Headers) -> None:
        call = self._calls[stream] = Call(stream, self._peer, self._heard)
        if headers.get(b":method") != b"POST" or not headers.get(b"content-type", b"").startswith(b"application/grpc"):
            self.send_headers(stream, NOT_GRPC, True)
            self._drop(call)
            return
        call.path = headers.get(b":path", b"").decode("latin-1")
        call.authorization = headers.get(b"authorization", b"")
        call.compression = headers.get(b"grpc-encoding", b"identity").decode("latin-1")
        if (limit := headers.get(b"grpc-timeout")) and (match := TIMEOUT.fullmatch(limit)):
            late = Failed(DEADLINE_EXCEEDED, "The call's own time limit has passed.")
            call.timer = self._loop.call_later(int(match[1]) * UNITS[match[2]], self._fail, call, late)
        call.caller = self._handler.caller(call)
        if len(self._calls) > 1 and sum(len(connection._calls) for connection in self._connections) > MAX_CALLS:
            self._fail(call, Failed(RESOURCE_EXHAUSTED, f"{MAX_CALLS} calls are under way already."))
        elif answering := self._handler.stream(call.path):
            call.task = self._loop.create_task(self._answer_stream(call, answering(call, self._bodies(call))))
        else:
            call.answering = self._handler.unary(call.path)
            if call.answering is None:
                self._fail(call, Failed(UNIMPLEMENTED, f"There is no call {call.path[:100]!r}."))

    def on_data(self, stream: int, data: bytes, size: int) -> None:
        call = self._calls.get(stream)
        if call is None:  # it is over
            self.acknowledge(stream, size)
            return
        call.unread += size
        try:
            self._hold(call, len(data))
            if (
                not call.received and len(data) >= PREFIX and _length(data) == len(data) - PREFIX
            ):  # the usual: all of it
                call.messages.append((data[0] != 0, data[PREFIX:]))
                self._wake(call)
            else:
                call.received += data
                self._cut(call)
        except RosettaError as error:
            self._fail(call, self._handler.failure(error))
        if len(call.messages) < WAITING_MESSAGES:
            self._acknowledge(call)

    def on_end(self, stream: int) -> None:
        call = self._calls.get(stream)
        if call is None:
            return
        call.is_ended = True
        self._wake(call)
        if call.task is None:
            call.task = self._loop.create_task(self._answer_one(call))

    def on_reset(self, stream: int) -> None:
        self._resets += 1
        if call := self._calls.get(stream):
            self._drop(call)
        if self._resets > RESETS + self._finished:
            raise Violation(ENHANCE_YOUR_CALM)

    def on_room(self) -> None:
        for call in list(self._waiting):
            if self.room(call.stream) > 0:
                self._flush(call)

    def _hold(self, call: Call, size: int) -> None:
        """Count so many bytes more of a call. Raises Overloaded over a limit: of all that is held, or of its caller."""
        self._plane.held.take(size, call.held)
        try:
            if call.caller is not None:
                self._plane.callers.take(call.caller, BYTES, size, call.held)
        except Overloaded:
            self._plane.held.give(size)
            raise
        call.held += size

    def _give_back(self, call: Call, size: int) -> None:
        """Count so many bytes less of a call."""
        self._plane.held.give(size)
        if call.caller is not None and size:
            self._plane.callers.give(call.caller, BYTES, size)
        call.held -= size

    def _acknowledge(self, call: Call) -> None:
        """Let the caller send as much again."""
        self.acknowledge(call.stream, call.unread)
        call.unread = 0

    def _cut(self, call: Call) -> None:
        """Take the whole messages out of what came. Raises BodyTooLarge."""
        received = call.received
        while len(received) >= PREFIX:
            end = PREFIX + _length(received)
            if end - PREFIX > self._plane.settings.max_bytes:
                raise too_large(self._plane.settings.max_bytes)
            if len(received) < end:
                return
            call.messages.append((received[0] != 0, bytes(received[PREFIX:end])))
            del received[:end]
            self._wake(call)

    def _wake(self, call: Call) -> None:
        """Let what waits for a message, or for their end, look again."""
        if call.came is not None and not call.came.done():
            call.came.set_result(None)

    # --- What goes

    async def _answer_one(self, call: Call) -> None:
        try:
            if len(call.messages) != 1 or call.received:
                raise Failed(UNIMPLEMENTED, f"The call has {len(call.messages)} messages, expected one.")
            assert call.answering is not None
            answer = await call.answering(call, await self._plain(call))
        except Failed as error:
            self._fail(call, error)
        else:
            self._send(call, answer)
            self._finish(call, DONE)
        self._write()

    async def _answer_stream(self, call: Call, answers: AsyncIterator[bytes]) -> None:
        end = time.monotonic() + TURN_SECONDS
        try:
            async for answer in answers:
                self._send(call, answer)
                self._flush(call)
                self._write()
                if time.monotonic() > end:
                    await asyncio.sleep(0)
                    end = time.monotonic() + TURN_SECONDS
                while len(call.out) > WAITING_BYTES:
                    call.drained = self._loop.create_future()
                    await call.drained
        except Failed as error:
            self._fail(call, error)
        else:
            self._finish(call, DONE)
        self._write()

    async def _bodies(self, call: Call) -> AsyncIterator[bytes]:
        """The messages of a call, as they come."""
        while True:
            while not call.messages:
                if call.is_ended:
                    return
                call.came = self._loop.create_future()
                await call.came
            yield await self._plain(call)
            if call.stream in self._calls:  # else all of it is given back
                self._give_back(call, call.working)
            call.working = 0

    async def _plain(self, call: Call) -> bytes:
        """The next message, decompressed: it counts in both forms until its answer. Raises Failed."""
        is_compressed, body = call.messages.popleft()
        call.working = PREFIX + len(body)
        if call.unread:
            self._acknowledge(call)
            self._write()
        if not is_compressed:
            return body
        decompress = partial(encoding.decompress, body, call.compression, self._plane.settings.max_bytes)
        try:
            plain = await self._loop.run_in_executor(self._plane.readers, decompress)
            self._hold(call, len(plain))
        except RosettaError as error:
            raise self._handler.failure(error) from error
        call.working += len(plain)
        return plain

    def _send(self, call: Call, answer: bytes) -> None:
        if call.stream in self._calls:
            call.out += b"\0%b%b" % (len(answer).to_bytes(4, "big"), answer)

    def _finish(self, call: Call, trailers: bytes) -> None:
        if call.stream in self._calls:
            call.trailers = trailers
            self._flush(call)

    def _fail(self, call: Call, error: Failed) -> None:
        """Answer a call with an error, and forget what may still come of it."""
        if call.stream not in self._calls or call.trailers is not None:
            return
        message = urllib.parse.quote(str(error)[:2000], safe=PLAIN).encode()
        call.out.clear()
        task = call.task
        self._finish(call, header_block([(b"grpc-status", b"%d" % error.code), (b"grpc-message", message)]))
        if task is not None and task is not asyncio.current_task():
            task.cancel()
        self._write()

    def _flush(self, call: Call) -> None:
        """Send what the caller has room for; then the trailers, if they are due."""
        stream, out = call.stream, call.out
        if not call.has_begun and (out or call.trailers is DONE):
            self.send_headers(stream, ANSWER)
            call.has_begun = True
        while out and (room := self.room(stream)) > 0:
            self.send_data(stream, out[:room])
            del out[:room]
        if out:
            self._waiting.add(call)
        if call.drained is not None and not call.drained.done() and len(out) <= WAITING_BYTES:
            call.drained.set_result(None)
        if call.trailers is None or out:
            return
        self.send_headers(stream, call.trailers if call.has_begun else ANSWER + call.trailers, True)
        if not call.is_ended:
            self.reset(stream, NO_ERROR)
        self._finished += 1
        call.task = None  # it comes to its end by itself
        self._drop(call)

    def _drop(self, call: Call) -> None:
        """Forget a call that is over."""
        self._calls.pop(call.stream, None)
        self._waiting.discard(call)
        self.forget(call.stream)
        self._give_back(call, call.held)
        self._acknowledge(call)  # the connection's other calls need the room
        if call.timer is not None:
            call.timer.cancel()
        if call.task is not None:
            call.task.cancel()
        self._close_if_idle()


def _length(prefixed: bytes | bytearray) -> int:
    """The bytes of a message by what comes before it."""
    return int.from_bytes(prefixed[1:PREFIX], "big")
