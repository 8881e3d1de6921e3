"""A service in another container as a runtime: raw tensors by the Open Inference Protocol, connections kept alive.

A gateway's calls are I/O, so its event loop awaits them. Each remote is looked at once a second, from a thread of its
own: while it does not answer, hangs, or serves other bytes than this process knows, calls fail at once and say why.
"""

import asyncio
import contextlib
import functools
import json
import os
import re
import socket
import threading
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, TypeGuard, cast
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray

from contract.errors import DeadlineExceeded, InputError, ModelUnavailable, RosettaError, RuntimeFailure, one_line
from contract.manifest import Manifest, TensorSpec
from serve.protocol import Reply, oip, tensors
from serve.runtimes import Tensors, numpy_dtype

LOOK_SECONDS = 1.0
"""How long after a look at a remote comes the next."""

ANSWER_SECONDS = 3.0
"""A remote that does not answer within this time when it is looked at, or connected to, hangs."""

RECYCLE_SECONDS = 30.0
"""An older connection is not used again, so that calls reach replicas that are new."""

REMEMBERED = 256
"""How many shapes of requests, and of answers, are remembered."""

Layout = list[tuple[TensorSpec, np.dtype[Any], list[int], slice]]
"""Of each output: what the manifest says, its dtype, its shape, and its place in the bytes behind the JSON."""

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
"""Called once with the answer, or with what went wrong. A future would cost turns of the event loop."""


class Head(NamedTuple):
    """What the lines before an answer's body say of it."""

    status: int
    length: int
    header_length: int | None
    is_last: bool
    """Whether the connection ends with this answer."""


_heads: dict[bytes, Head | None] = {}
"""By those lines: they are the same for many answers, until a second is over. None where they are none of HTTP/1.1."""


def _parse_head(head: bytes) -> Head | None:
    status, length, header_length = _STATUS.match(head), _LENGTH.search(head), _HEADER_LENGTH.search(head)
    if status is None or length is None:
        return None
    is_last = _CLOSE.search(head) is not None
    return Head(int(status[1]), int(length[1]), int(header_length[1]) if header_length else None, is_last)


class Call(NamedTuple):
    """A request, the seconds that its answer is waited for, and who waits."""

    request: bytes
    seconds: float
    done: Done


class Connection(asyncio.Protocol):
    """One connection of HTTP/1.1, with one request at a time."""

    def __init__(self, connections: "Connections") -> None:
        self._connections = connections
        self._loop = asyncio.get_running_loop()
        self._call: Call | None = None
        """The one that is under way."""
        self._deadline = self._alarm = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._received: bytes | bytearray = b""
        self._head: Head | None = None
        """Of the answer under way, once it is whole."""
        self.expires = self._loop.time() + RECYCLE_SECONDS
        self.is_open = True
        self.has_answered = False

    def send(self, call: Call, now: float) -> None:
        """Ask; what is not answered ends the connection, with a ConnectionError or a TimeoutError."""
        self._call, self._deadline = call, now + call.seconds
        if not self.is_open:  # it was closed as soon as it was there
            self.fail(ConnectionResetError("the connection was closed"))
            return
        if self._timer is None or self._alarm > self._deadline:
            self._set_timer()
        self._transport.write(call.request)

    def _set_timer(self) -> None:
        """One timer serves many requests: it is set anew when it comes too early, not at each."""
        if self._timer is not None:
            self._timer.cancel()
        self._alarm = self._deadline
        self._timer = self._loop.call_at(self._alarm, self._look_at_clock)

    def _look_at_clock(self) -> None:
        self._timer = None
        if self._call is None:
            return
        if self._loop.time() < self._deadline:
            self._set_timer()
        else:
            self.fail(TimeoutError(f"no answer within {self._call.seconds:g} s"))

    def _tell(self, answer: Answer | Exception) -> None:
        call, self._call = self._call, None
        if call is not None:
            self._connections.came(self, call, answer)

    def fail(self, error: Exception) -> None:
        """End the connection, and what waits for it."""
        self.is_open = False
        self._transport.abort()
        if self._timer is not None:
            self._timer.cancel()
        self._tell(error)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._connections.open.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self.fail(ConnectionResetError("the connection was closed"))
        self._connections.open.discard(self)

    def data_received(self, data: bytes) -> None:
        if self._call is None:
            self.fail(ConnectionAbortedError("it answered without being asked"))
            return
        if not self._received:
            self._received = data  # usually all of it, which is not copied then
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
            self._tell(Answer(head.status, body, len(body) if head.header_length is None else head.header_length))

    def _read_head(self) -> None:
        head, end, body = self._received.partition(b"\r\n\r\n")
        if not end:
            return
        known = bytes(head)
        read = _heads.get(known) or _remember(_heads, known, _parse_head(known))
        if read is None:
            self.fail(ConnectionAbortedError("what it sent is no answer in HTTP/1.1 with a Content-Length"))
            return
        self._received, self._head = body, read


class Connections:
    """The connections that one event loop has to one address."""

    def __init__(self, host: str, port: int) -> None:
        self._host, self._port = host, port
        self._loop = asyncio.get_running_loop()
        self.open: set[Connection] = set()
        self._idle: list[Connection] = []
        self._connecting: set[asyncio.Task[None]] = set()

    def send(self, call: Call) -> None:
        """Ask on a kept connection, or on a new one. What goes wrong is an OSError; UnicodeError, if it is the host."""
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

    async def ask(self, request: bytes, seconds: float) -> Answer:
        """The same for those who await it."""
        future = self._loop.create_future()
        self.send(Call(request, seconds, partial(settle, future)))
        return cast(Answer, await future)

    async def _send_on_new(self, call: Call) -> None:
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                _, connection = await self._loop.create_connection(lambda: Connection(self), self._host, self._port)
        except (OSError, UnicodeError) as error:
            call.done(error)
        else:
            connection.send(call, self._loop.time())

    def came(self, connection: Connection, call: Call, answer: Answer | Exception) -> None:
        """A connection's word on its call."""
        if connection.is_open:
            connection.has_answered = True
            self._idle.append(connection)
            call.done(answer)
            return
        connection.fail(ConnectionAbortedError("it was the last answer"))
        if isinstance(answer, ConnectionResetError) and connection.has_answered:
            self.send(call)  # it was closed meanwhile, as idle ones are: take another
        else:
            call.done(answer)

    def close(self, error: Exception) -> None:
        """End all connections; calls under way fail with the error."""
        for connection in list(self.open):
            connection.fail(error)
        self._idle.clear()


class RemoteRuntime:
    """Asks the service at `address` (http://host:port) to run the artifact of the same manifest."""

    in_process = False

    def __init__(self, address: str, manifest: Manifest, seconds: float) -> None:
        self.title, self.platform = "a remote runtime", "remote"  # until it says its own
        self.sizes: dict[str, int] = {}
        """The bytes of each of the artifact's files, as the remote says."""
        self.trouble = f"{address} was not reached yet."
        """Why calls would fail; empty while they would not."""
        parts = urlsplit(address)
        self._address = address
        self._manifest = manifest
        self._host, self._port = parts.hostname or "", parts.port or 80
        self._path = f"/v2/models/{manifest.name}"
        self._seconds = seconds
        self._connections: dict[asyncio.AbstractEventLoop, Connections] = {}
        self._heads: dict[Any, bytes] = {}
        self._layouts: dict[bytes, Layout] = {}
        self._watch = asyncio.run_coroutine_threadsafe(self._keep_looking(), _watching_loop())

    def start(self, inputs: Tensors, done: Callable[[Tensors | Exception], None]) -> None:
        """Send the call from an event loop, and tell `done` later what `predict` gives or raises.

        The errors are ModelUnavailable, DeadlineExceeded, InputError or RuntimeFailure, with what the remote says.
        """
        self._send(self._request(inputs), self._seconds, lambda answer: done(self._outcome(answer)))

    def relay(
        self, body: bytes, header_length: str | None, seconds: float, done: Callable[[Reply | Exception], None]
    ) -> None:
        """Send a request of the protocol as it is, and tell `done` later the answer as it is, or what `start` would.

        `header_length` is the value of the header of that name, where there is one; the answer is waited for so many
        seconds.
        """
        key = len(body), header_length
        head = self._heads.get(key) or _remember(self._heads, key, self._http_head(*key))
        self._send(head + body, seconds, lambda answer: done(self._reply(answer)))

    def _send(self, request: bytes, seconds: float, done: Done) -> None:
        if self.trouble:
            error = ModelUnavailable(f"{self._manifest.name} is not served: {self.trouble}")
            asyncio.get_running_loop().call_soon(done, error)
        else:
            self._here().send(Call(request, seconds, done))

    def _outcome(self, answer: Answer | Exception) -> Tensors | Exception:
        if not _is_success(answer):
            return self._failure(answer)
        try:
            return self._outputs(answer)
        except RuntimeFailure as error:
            return error

    def _reply(self, answer: Answer | Exception) -> Reply | Exception:
        if not _is_success(answer):
            return self._failure(answer)
        if answer.header_length == len(answer.body):
            return Reply(bytes(answer.body))
        headers = {oip.HEADER_LENGTH: str(answer.header_length)}
        return Reply(bytes(answer.body), content_type="application/octet-stream", headers=headers)

    def _failure(self, answer: Answer | Exception) -> Exception:
        if isinstance(answer, Answer):
            return self._refusal(answer)
        if isinstance(answer, TimeoutError):
            return DeadlineExceeded(f"{self._address} gave no answer for {self._manifest.name}: {answer}.")
        if isinstance(answer, OSError):
            return ModelUnavailable(
                f"{self._address} did not answer for {self._manifest.name} ({_reason(answer)}). Send it again."
            )
        return answer

    async def infer(self, inputs: Tensors) -> Tensors:
        """`start` for those who await it."""
        future = asyncio.get_running_loop().create_future()
        self.start(inputs, partial(settle, future))
        return cast(Tensors, await future)

    def predict(self, inputs: Tensors) -> Tensors:
        """For threads; raises what `infer` does."""
        return asyncio.run_coroutine_threadsafe(self.infer(inputs), _watching_loop()).result()

    def close(self) -> None:
        self._watch.cancel()
        self._tell("the service ends.")

    def _here(self) -> Connections:
        loop = asyncio.get_running_loop()
        connections = self._connections.get(loop)
        if connections is None:
            connections = self._connections[loop] = Connections(self._host, self._port)
        return connections

    # --- The protocol

    def _request(self, inputs: Tensors) -> bytes:
        arrays = [inputs[spec.name] for spec in self._manifest.inputs]
        data = [tensors.to_bytes(array) for array in arrays]
        key = *(array.shape for array in arrays), *map(len, data)
        head = self._heads.get(key) or _remember(self._heads, key, self._head(arrays, data))
        return b"".join((head, *data))

    def _head(self, arrays: list[NDArray[Any]], data: list[bytes]) -> bytes:
        """All of a request before the raw tensors; it is the same for all requests of these shapes."""
        described = [
            {
                "name": spec.name,
                "datatype": tensors.DATATYPES[spec.dtype],
                "shape": array.shape,
                "parameters": {"binary_data_size": len(values)},
            }
            for spec, array, values in zip(self._manifest.inputs, arrays, data, strict=True)
        ]
        header = json.dumps({"inputs": described, "parameters": {"binary_data_output": True}}).encode()
        return self._http_head(len(header) + sum(map(len, data)), str(len(header))) + header

    def _http_head(self, length: int, header_length: str | None) -> bytes:
        binary = header_length is not None
        lines = (
            f"POST {self._path}/infer HTTP/1.1",
            f"Host: {self._host}",
            f"Content-Type: application/{'octet-stream' if binary else 'json'}",
            f"Content-Length: {length}",
            *([f"{oip.HEADER_LENGTH}: {header_length}"] if binary else []),
        )
        return "\r\n".join((*lines, "", "")).encode()

    def _outputs(self, answer: Answer) -> Tensors:
        """The arrays lie where they came: in the answer's body."""
        header, payload = bytes(answer.body[: answer.header_length]), memoryview(answer.body)[answer.header_length :]
        try:
            layout = self._layouts.get(header) or _remember(self._layouts, header, self._layout(header))
            return {
                spec.name: np.ndarray(shape, dtype, payload, place.start)
                if dtype.kind != "O"
                else tensors.from_bytes(payload[place], shape, spec)
                for spec, dtype, shape, place in layout
            }
        except (ValueError, TypeError, KeyError, InputError) as error:
            raise RuntimeFailure(
                f"{self._address} answered for {self._manifest.name} what is none of its outputs "
                f"({one_line(error)}). Is it the same release?"
            ) from error

    def _layout(self, header: bytes) -> Layout:
        """Where each output lies behind this header, which is the same for all answers of these shapes."""
        found: dict[str, tuple[str, list[int], slice]] = {}
        end = 0
        for output in json.loads(header)["outputs"]:
            start, end = end, end + output["parameters"]["binary_data_size"]
            found[output["name"]] = output["datatype"], output["shape"], slice(start, end)
        layout = []
        for spec in self._manifest.outputs:
            datatype, shape, place = found[spec.name]
            if datatype != tensors.DATATYPES[spec.dtype]:
                raise ValueError(f"{spec.name} has datatype {datatype}")
            layout.append((spec, numpy_dtype(spec.dtype), shape, place))
        return layout

    def _refusal(self, answer: Answer) -> RosettaError:
        kinds: dict[int, type[RosettaError]] = {400: InputError, 503: ModelUnavailable, 504: DeadlineExceeded}
        return kinds.get(answer.status, RuntimeFailure)(
            f"{self._manifest.name} at {self._address} answered with status {answer.status}: {_message(answer)}"
        )

    # --- Whether it can be asked

    async def _keep_looking(self) -> None:
        while True:
            self._tell(await self._look())
            await asyncio.sleep(LOOK_SECONDS)

    async def _look(self) -> str:
        """What is wrong with the remote now; empty if nothing is."""
        request = f"GET {self._path} HTTP/1.1\r\nHost: {self._host}\r\n\r\n".encode()
        try:
            answer = await self._here().ask(request, ANSWER_SECONDS)
        except OSError as error:
            return f"{self._address} does not answer ({_reason(error)}). Start it, or wait for it."
        except UnicodeError as error:
            return f"{self._address} cannot be looked up ({error}). Correct SERVE_REMOTES."
        if answer.status != 200:
            return f"{self._address} answered with status {answer.status}: {_message(answer)}"
        try:
            described = json.loads(answer.body)
            files = described["parameters"]["files"]
            self.title, self.platform = described["parameters"]["runtime"], described["platform"]
            self.sizes.update({name: file["bytes"] for name, file in files.items()})
            digests = {name: file["sha256"] for name, file in files.items()}
        except (ValueError, TypeError, KeyError, AttributeError):
            return (
                f"{self._address} does not describe {self._manifest.name} as this service would. Is it of one release?"
            )
        if digests != self._manifest.files:
            return f"{self._address} has other files than this one's manifest names. Deploy images of the same build."
        return ""

    def _tell(self, trouble: str) -> None:
        """Note how the remote is; what was sent to one that hangs is not waited for any longer."""
        self.trouble = trouble
        if trouble:
            for loop, connections in list(self._connections.items()):
                with contextlib.suppress(RuntimeError):  # that loop has ended
                    loop.call_soon_threadsafe(connections.close, ConnectionAbortedError(trouble))


def _is_success(answer: Answer | Exception) -> TypeGuard[Answer]:
    return isinstance(answer, Answer) and answer.status == 200


def settle(future: asyncio.Future[Any], outcome: object) -> None:
    """Give a future its result or its error, unless nobody waits for it any more."""
    if future.done():
        return
    if isinstance(outcome, Exception):
        future.set_exception(outcome)
    else:
        future.set_result(outcome)


def _remember(known: dict[Any, Any], key: Any, value: Any) -> Any:
    if len(known) >= REMEMBERED:
        known.clear()
    known[key] = value
    return value


def _reason(error: OSError) -> str:
    """What an error means, without what Python adds: a refused connection is told of in many words."""
    if isinstance(error, socket.gaierror):
        return "its name is not known"
    text = os.strerror(error.errno) if error.errno else str(error)
    return text or f"nothing came within {ANSWER_SECONDS:g} s"


def _message(answer: Answer) -> str:
    try:
        return str(json.loads(answer.body)["error"])
    except (ValueError, TypeError, KeyError):
        return repr(answer.body[:80])


@functools.cache
def _watching_loop() -> asyncio.AbstractEventLoop:
    """An event loop in a thread of its own, for all remotes of this process: what hangs there holds up nothing else."""
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="remotes", daemon=True).start()
    return loop
