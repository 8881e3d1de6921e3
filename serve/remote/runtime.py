"""A service in another container as a runtime: raw tensors by the Open Inference Protocol.

Each remote is checked once a second, from a thread of its own. While it does not answer, hangs, or serves other bytes
than this process knows, calls fail at once, and the error states why.
"""

import asyncio
import contextlib
import functools
import json
import os
import socket
import threading
from collections.abc import Callable
from functools import partial
from typing import Any, TypeGuard, cast
from urllib.parse import urlsplit

from numpy.typing import NDArray

from contract.errors import DeadlineExceeded, InputError, ModelUnavailable, RosettaError, RuntimeFailure, one_line
from contract.manifest import Manifest
from contract.tensors import Tensors
from serve.protocol import VERSION, Reply, oip, tensors
from serve.protocol.memory import Memory
from serve.protocol.oip_reader import AnswerReader
from serve.remote.http import CONNECT_SECONDS, Answer, Call, Connections, Done, settle

CHECK_SECONDS = 1.0
"""The time between two checks of a remote."""

ANSWER_SECONDS = 3.0
"""A remote that does not answer a check within this time hangs."""


class RemoteRuntime:
    """Lets the service at `address` (http://host:port) run the artifact of the same manifest."""

    in_process = False

    def __init__(
        self, address: str, manifest: Manifest, seconds: float, key: str | None = None, version: str = VERSION
    ) -> None:
        self.title, self.platform = "a remote runtime", "remote"  # until the remote names its own
        self.sizes: dict[str, int] = {}
        """The bytes of each of the artifact's files, by the remote's description."""
        self.trouble = f"{address} was not reached yet."
        """Why calls would fail; empty while they would not."""
        parts = urlsplit(address)
        self._address = address
        self._manifest = manifest
        self._host, self._port = parts.hostname or "", parts.port or 80
        self._path = f"/v2/models/{manifest.name}/versions/{version}"
        self._seconds = seconds
        self._who = f"Host: {self._host}" + (f"\r\nAuthorization: Bearer {key}" if key else "")
        """The headers that every request to the remote has."""
        self._connections: dict[asyncio.AbstractEventLoop, Connections] = {}
        self._heads: Memory[Any, bytes] = Memory()
        """What comes before a request's values: by the shapes of its tensors, or by the lengths of a relayed one."""
        self._reader = AnswerReader(manifest.outputs)
        self._checks = asyncio.run_coroutine_threadsafe(self._keep_checking(), _checking_loop())

    def start(self, inputs: Tensors, done: Callable[[Tensors | Exception], None]) -> None:
        """Send the call from an event loop; `done` is called later with what `predict` returns or raises.

        The errors are ModelUnavailable, DeadlineExceeded, InputError or RuntimeFailure, with the remote's own message.
        """
        self._send(self._request(inputs), self._seconds, lambda answer: done(self._outcome(answer)))

    def relay(
        self, body: bytes, header_length: str | None, seconds: float, done: Callable[[Reply | Exception], None]
    ) -> None:
        """Send a request of the protocol as it is; `done` is called later with the answer as it is, or with an error.

        `header_length` is the value of the header of that name, where there is one. The time limit is in seconds.
        """
        key = len(body), header_length
        head = self._heads.get(key) or self._heads.remember(key, self._http_head(*key))
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
        """`start` for coroutines."""
        future = asyncio.get_running_loop().create_future()
        self.start(inputs, partial(settle, future))
        return cast(Tensors, await future)

    def predict(self, inputs: Tensors) -> Tensors:
        """`infer` for threads."""
        return asyncio.run_coroutine_threadsafe(self.infer(inputs), _checking_loop()).result()

    def close(self) -> None:
        self._checks.cancel()
        self._set_trouble("the service ends.")

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
        head = self._heads.get(key) or self._heads.remember(key, self._head(arrays, data))
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
            self._who,
            f"Content-Type: application/{'octet-stream' if binary else 'json'}",
            f"Content-Length: {length}",
            *([f"{oip.HEADER_LENGTH}: {header_length}"] if binary else []),
        )
        return "\r\n".join((*lines, "", "")).encode()

    def _outputs(self, answer: Answer) -> Tensors:
        """The outputs, where they lie in the answer's body."""
        end = answer.header_length
        try:
            return self._reader.read(bytes(answer.body[:end]), memoryview(answer.body)[end:])
        except (ValueError, TypeError, KeyError, InputError) as error:
            raise RuntimeFailure(
                f"{self._address} answered for {self._manifest.name} without the model's outputs "
                f"({one_line(error)}). Deploy images of one release."
            ) from error

    def _refusal(self, answer: Answer) -> RosettaError:
        kinds: dict[int, type[RosettaError]] = {400: InputError, 503: ModelUnavailable, 504: DeadlineExceeded}
        return kinds.get(answer.status, RuntimeFailure)(
            f"{self._manifest.name} at {self._address} answered with status {answer.status}: {_message(answer)}"
        )

    # --- Whether it can be called

    async def _keep_checking(self) -> None:
        while True:
            self._set_trouble(await self._check())
            await asyncio.sleep(CHECK_SECONDS)

    async def _check(self) -> str:
        """What is wrong with the remote now; empty if nothing is."""
        request = f"GET {self._path} HTTP/1.1\r\n{self._who}\r\n\r\n".encode()
        try:
            answer = await self._here().request(request, ANSWER_SECONDS)
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
                f"{self._address} does not describe {self._manifest.name} as this service would. "
                "Deploy images of one release."
            )
        if digests != self._manifest.files:
            return f"{self._address} has other files than this one's manifest names. Deploy images of the same build."
        return ""

    def _set_trouble(self, trouble: str) -> None:
        """Note what is wrong with the remote. If anything is, the calls under way fail now."""
        self.trouble = trouble
        if trouble:
            for loop, connections in list(self._connections.items()):
                with contextlib.suppress(RuntimeError):  # that loop has ended
                    loop.call_soon_threadsafe(connections.close, ConnectionAbortedError(trouble))


def _is_success(answer: Answer | Exception) -> TypeGuard[Answer]:
    return isinstance(answer, Answer) and answer.status == 200


def _reason(error: OSError) -> str:
    """What an error means, without the many words that Python adds to a refused connection."""
    if isinstance(error, socket.gaierror):
        return "its name is not known"
    text = os.strerror(error.errno) if error.errno else str(error)
    return text or f"no connection within {CONNECT_SECONDS:g} s"


def _message(answer: Answer) -> str:
    try:
        return str(json.loads(answer.body)["error"])
    except (ValueError, TypeError, KeyError):
        return repr(answer.body[:80])


@functools.cache
def _checking_loop() -> asyncio.AbstractEventLoop:
    """An event loop in a thread of its own, for all remotes of this process: one that hangs there delays nothing."""
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="remotes", daemon=True).start()
    return loop
