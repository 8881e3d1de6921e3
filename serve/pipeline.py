"""A POST of tensors to a model, from its body to its reply: all fronts call this.

A front reads the body, within the limit, and sends the reply. What happens in between is the same for all of them:
the request is read and checked, run, and answered; one that fails is counted, and its reply states why. A gateway's
pipeline may also relay a request: pass it on to the remote as it came.

There is a method for each way to wait: `submit` calls back, `run` is awaited, and `run_now` blocks its thread.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping
from functools import partial

from contract.errors import RosettaError
from contract.tensors import Tensors
from serve.batching import Answered
from serve.catalog import ServedModel
from serve.dataplane import DataPlane
from serve.protocol import InferRequest, Reply, oip, tfserving
from serve.remote.runtime import RemoteRuntime
from serve.replies import error_reply, fault_reply

LARGE = 250_000
"""Bytes; a larger body is read in a thread: nested JSON may take seconds. A smaller one costs less than the thread."""

Headers = Mapping[str, str]
"""A request's headers by their lower-case names."""

Answer = Callable[[Tensors], Reply]
Read = Callable[[bytes, Headers, ServedModel], tuple[InferRequest, Answer]]
"""(the body, its headers, the model) -> the checked request, and what makes the reply of its outputs."""

_HEADER_LENGTH = oip.HEADER_LENGTH.lower()

log = logging.getLogger(__name__)


def read_infer(body: bytes, headers: Headers, model: ServedModel) -> tuple[InferRequest, Answer]:
    """The Open Inference Protocol's infer."""
    request = model.reader.read(body, headers.get(_HEADER_LENGTH))
    return request, partial(oip.infer_reply, model.name, request)


def read_predict(body: bytes, headers: Headers, model: ServedModel) -> tuple[InferRequest, Answer]:
    """TensorFlow Serving's predict."""
    request, form = tfserving.parse_predict(body, model.described)
    return request, partial(tfserving.predict_reply, request, form)


class Pipeline:
    """The requests to one model in one protocol."""

    def __init__(self, plane: DataPlane, model: ServedModel, read: Read) -> None:
        self._plane, self._model, self._read = plane, model, read
        self._is_relayed = read is read_infer and isinstance(model.loaded, RemoteRuntime)

    def submit(
        self, body: bytes, headers: Headers, start: float, done: Callable[[Reply], None]
    ) -> asyncio.Future[Answered] | None:
        """Start a request from the event loop; `done` is called with its reply, at once if it is refused.

        Cancel the future that is returned, if any, when nobody waits for the reply any more.
        """
        try:
            self._model.check_runnable()  # its error comes before any error in the request
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
        try:
            reply = answer(self._plane.finish(self._model, request, start, future.result()))
        except Exception as error:
            reply = self.failed(error, start)
        done(reply)

    async def run(self, body: bytes, headers: Headers, start: float) -> Reply:
        """The reply to a request."""
        try:
            self._model.check_runnable()
            if len(body) < LARGE:
                request, answer = self._read(body, headers, self._model)
            else:
                request, answer = await asyncio.to_thread(self._read, body, headers, self._model)
            return answer(await self._plane.infer(self._model, request, start))
        except Exception as error:
            return self.failed(error, start)

    def run_now(self, body: bytes, headers: Headers, start: float) -> Reply:
        """The reply to a request, for threads."""
        try:
            self._model.check_runnable()
            request, answer = self._read(body, headers, self._model)
            return answer(self._plane.infer_now(self._model, request, start)[0])
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
        batcher.relay(body, header_length, layout.rows, seconds, partial(self._relayed, start, done))
        return True

    def _relayed(self, start: float, done: Callable[[Reply], None], outcome: Reply | RosettaError) -> None:
        done(self.failed(outcome, start) if isinstance(outcome, RosettaError) else outcome)
