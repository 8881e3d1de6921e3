"""A POST of tensors to a model, from its body to its reply: all fronts call this.

A front reads the body, within the limit, and sends the reply. What happens in between is the same for all of them:
the request is read and checked, run, and answered; one that fails is counted, and its reply states why. A gateway's
pipeline may also relay a request: pass it on to the remote as it came.

There is a method for each way to wait: `submit` calls back, `run` is awaited, and `run_now` blocks its thread.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeVar, TypeVarTuple, Unpack

from contract.errors import RosettaError
from contract.tensors import Tensors
from serve.batching import Answered
from serve.callers import BYTES, ROWS
from serve.catalog import ServedModel
from serve.dataplane import DataPlane
from serve.protocol import InferRequest, Reply, encoding, oip, tfserving
from serve.remote.runtime import RemoteRuntime
from serve.replies import error_reply, fault_reply

LARGE = 250_000
"""Bytes; a larger body is read in a thread, and a larger answer compressed in one. Less costs less than the thread."""

MANY_LISTS = 4096
"""A body of so many lists and objects is read in a thread, too: to make them takes longer than to read numbers."""

Headers = Mapping[str, str]
"""A request's headers by their lower-case names."""

Answer = Callable[[Tensors, float, float], Reply]
"""(the outputs, the seconds in the queue, the seconds of the call) -> the reply."""
Read = Callable[[bytes, Headers, ServedModel], tuple[InferRequest, Answer]]
"""(the body, its headers, the model) -> the checked request, and what makes the reply of its outputs."""

_Arguments = TypeVarTuple("_Arguments")
_Result = TypeVar("_Result")

_HEADER_LENGTH = oip.HEADER_LENGTH.lower()

log = logging.getLogger(__name__)


def read_infer(body: bytes, headers: Headers, model: ServedModel) -> tuple[InferRequest, Answer]:
    """The Open Inference Protocol's infer."""
    request = model.reader.read(body, headers.get(_HEADER_LENGTH))
    return request, partial(oip.infer_reply, model.name, request, version=model.version)


def read_predict(body: bytes, headers: Headers, model: ServedModel) -> tuple[InferRequest, Answer]:
    """TensorFlow Serving's predict."""
    request, form = tfserving.parse_predict(body, model.described)
    return request, partial(tfserving.predict_reply, request, form)


def read_classify(body: bytes, headers: Headers, model: ServedModel) -> tuple[InferRequest, Answer]:
    """TensorFlow Serving's classify."""
    tfserving.check_classifies(model.described)
    request = tfserving.parse_examples(body, model.described)
    return request, partial(tfserving.classify_reply, model.described, request)


def read_regress(body: bytes, headers: Headers, model: ServedModel) -> tuple[InferRequest, Answer]:
    """TensorFlow Serving's regress."""
    tfserving.check_regresses(model.described)
    request = tfserving.parse_examples(body, model.described)
    return request, partial(tfserving.regress_reply, request)


READERS_OF_V1: Mapping[str, Read] = {"predict": read_predict, "classify": read_classify, "regress": read_regress}
"""The verbs of TensorFlow Serving's API."""


def _pass_on(done: Callable[[Reply], None], task: asyncio.Task[Reply]) -> None:
    if not task.cancelled():
        done(task.result())


class Pipeline:
    """The requests to one model in one protocol."""

    def __init__(self, plane: DataPlane, model: ServedModel, read: Read) -> None:
        self._plane, self._model, self._read = plane, model, read
        self._limit = plane.settings.max_bytes
        self._is_relayed = read is read_infer and isinstance(model.loaded, RemoteRuntime)

    def _is_slow(self, body: bytes, headers: Headers) -> bool:
        """Whether reading the body may take so long that other requests would notice it."""
        if len(body) >= LARGE:
            return True
        size = len(body)
        if self._read is read_infer and (text := headers.get(_HEADER_LENGTH, "")).isdecimal() and len(text) < 10:
            size = int(text)  # of JSON: behind it, tensors are binary
        if size < 2 * MANY_LISTS:  # each ends, too: to be deep instead is an error that is seen at once
            return False
        return body.count(b"[", 0, size) + body.count(b"{", 0, size) > MANY_LISTS

    def submit(
        self, body: bytes, headers: Headers, start: float, done: Callable[[Reply], None], caller: str | None = None
    ) -> asyncio.Future[Any] | None:
        """Start a request from the event loop; `done` is called with its reply, at once if it is refused.

        `caller` is who sent it, where callers have limits.

        Cancel the future that is returned, if any, when nobody waits for the reply any more.
        """
        if caller is not None or self._is_slow(body, headers):
            task = asyncio.get_running_loop().create_task(self.run(body, headers, start, caller))
            task.add_done_callback(partial(_pass_on, done))
            return task
        try:
            self._model.check_runnable()
            if self._is_relayed and self._relay(body, headers, start, done):
                return None
            request, answer = self._read(body, headers, self._model)
            future = self._plane.begin(self._model, request, start)
        except Exception as error:
            done(self.failed(error, start))
            return None
        future.add_done_callback(partial(self._finish, request, answer, start, done))
        return future

    def _finish(
        self,
        request: InferRequest,
        answer: Answer,
        start: float,
        done: Callable[[Reply], None],
        future: asyncio.Future[Answered],
    ) -> None:
        if future.cancelled():
            return
        failure = future.exception()
        if isinstance(failure, Exception):  # raised here, it would refer to this frame, and that to it
            done(self.failed(failure, start))
            return
        try:
            answered = future.result()
            rows = self._plane.finish(self._model, request, start, answered)
            reply = answer(*answered)
            reply.rows, reply.queue = rows, answered[1]
        except Exception as error:
            reply = self.failed(error, start)
        done(reply)

    async def run(self, body: bytes, headers: Headers, start: float, caller: str | None = None) -> Reply:
        """The reply to a request, whose body may be compressed: what it inflates to counts until the reply is made."""
        try:
            with contextlib.ExitStack() as having:
                if compression := headers.get("content-encoding"):
                    sent = len(body)
                    body = await self._in_thread(start, encoding.decompress, body, compression, self._limit)
                    having.enter_context(self._plane.held.having(len(body), sent))
                    having.enter_context(self._plane.callers.having(caller, BYTES, len(body), sent))
                if self._is_slow(body, headers):
                    request, answer = await self._in_thread(start, self._read_runnable, body, headers)
                else:
                    request, answer = self._read_runnable(body, headers)
                del body
                rows = self._model.described.rows_of(request.inputs)
                having.enter_context(self._plane.callers.having(caller, ROWS, rows))
                answered = await self._plane.infer(self._model, request, start)
            reply = answer(*answered)
            reply.rows, reply.queue = rows, answered[1]
            return reply
        except Exception as error:
            return self.failed(error, start)

    async def _in_thread(
        self, start: float, read: Callable[[Unpack[_Arguments]], _Result], *arguments: *_Arguments
    ) -> _Result:
        """Read in a thread what would hold up the others. Raises DeadlineExceeded if they held it up too long."""

        def read_in_time() -> _Result:
            self._plane.check_time(self._model, start)
            return read(*arguments)

        return await asyncio.get_running_loop().run_in_executor(self._plane.readers, read_in_time)

    def _read_runnable(self, body: bytes, headers: Headers) -> tuple[InferRequest, Answer]:
        self._model.check_runnable()  # its error comes before any error in the request
        return self._read(body, headers, self._model)

    def run_now(self, body: bytes, headers: Headers, start: float) -> Reply:
        """The reply to a request, for threads."""
        try:
            request, answer = self._read_runnable(body, headers)
            outputs, times = self._plane.infer_now(self._model, request, start)
            return answer(outputs, times.queue / 1000, times.compute / 1000)
        except Exception as error:
            return self.failed(error, start)

    def failed(self, error: Exception, start: float) -> Reply:
        """Count a request that came at `start` and failed; the reply to it."""
        if isinstance(error, RosettaError):
            reply = error_reply(error)
        else:
            log.error("A request to %s failed", self._model.name, exc_info=error)
            reply = fault_reply()
        self._plane.count_failure(self._model, reply.code, start)
        return reply

    def _relay(self, body: bytes, headers: Headers, start: float, done: Callable[[Reply], None]) -> bool:
        """Pass a request on as it came, if only its values are new and it need not be part of a batch."""
        batcher = self._plane.batcher(self._model)
        if not batcher.may_relay:
            return False
        header_length = headers.get(_HEADER_LENGTH)
        layout = self._model.reader.known_layout(body, header_length)
        if layout is None:
            return False
        seconds = self._plane.seconds(layout.timeout)
        batcher.relay(
            body, header_length, layout.rows(self._model.described), seconds, partial(self._relayed, start, done)
        )
        return True

    def _relayed(self, start: float, done: Callable[[Reply], None], outcome: Reply | RosettaError) -> None:
        if isinstance(outcome, RosettaError):
            outcome = self.failed(outcome, start)
        else:
            self._model.breaker.answered()
        done(outcome)
