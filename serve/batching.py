"""Dynamic batching: requests that wait for the same model run together.

Each model has one queue in each worker process. It lives in the event loop, so it needs no locks. How it is emptied
depends on how long the model takes. A fast one runs in the loop itself, at the end of the turn in which its requests
came: handing a call of 30 us to a thread costs more than the call. A slower one runs in the inference pool, and the
requests that come meanwhile form the next batch. Nothing waits for a batch to fill, unless a delay is set.
"""

import asyncio
import itertools
import re
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

from contract.errors import (
    DeadlineExceeded,
    InputError,
    ModelUnavailable,
    Overloaded,
    RosettaError,
    RuntimeFailure,
    one_line,
)
from contract.tensors import Tensors
from serve.catalog import ServedModel
from serve.protocol import Reply
from serve.remote.runtime import RemoteRuntime
from serve.runtimes import joined
from serve.stats import ModelStats

INLINE_SECONDS = 0.002
"""A call that is expected to take longer does not run in the event loop: health checks and other models wait there.

A thread costs a call 0.16 ms: a sixth of a call of 1 ms, and a twelfth of one of 2 ms.
"""

RELAYED = 8
"""While a remote has fewer requests to answer, each is relayed as it came. More run in batches: with 64 callers, that
made a fifth to a half more requests a second than to relay all."""

Answered = tuple[Tensors, float, float]
"""A request's outputs, its seconds in the queue, and the seconds of the call that it was part of."""

Answers = tuple[list[Tensors | Exception], float, float]
"""One answer, or one error, for each request of a batch; when the call began; and its seconds."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a model's queue may hold, and how it is emptied."""

    max_batch: int = 32
    """Rows in one call, unless a single request has more."""
    max_queue: int = 4096
    """Rows that may wait; more are refused."""
    delay: float = 0.0
    """Seconds that a slow model waits for more rows before it starts a batch that is not full."""
    enabled: bool = True
    """False: each request is a call of its own."""


class Waiting:
    """A request in the queue."""

    __slots__ = ("deadline", "future", "inputs", "key", "queued", "rows")

    def __init__(
        self,
        inputs: Tensors,
        deadline: float,
        future: asyncio.Future[Answered],
        rows: int,
        has_free_sizes: bool = True,
    ) -> None:
        self.inputs = inputs
        self.deadline = deadline
        self.future = future
        self.queued = time.perf_counter()
        self.rows = rows
        # Only equal shapes run together; the batch, which comes first, may differ. Where no other size is free, the
        # protocol has checked that they are equal.
        self.key = tuple((name, array.shape[1:]) for name, array in inputs.items()) if has_free_sizes else ()


class Batcher:
    """One model's queue."""

    def __init__(
        self, model: ServedModel, stats: ModelStats, pool: ThreadPoolExecutor, calls: int, limits: Limits
    ) -> None:
        self.model = model
        self._runtime = model.runtime
        self._remote = self._runtime if isinstance(self._runtime, RemoteRuntime) else None
        self._stats = stats
        self._pool = pool
        self._calls = calls
        self._limits = limits
        self._loop = asyncio.get_running_loop()
        self._queue: deque[Waiting] = deque()
        self._rows = 0
        self._running = 0
        self._under_way = 0
        """Requests that were sent to a remote, and are not answered yet."""
        self._next_turn: asyncio.Handle | None = None
        self._is_delayed = False
        # A model of a fixed batch, of whole calls, or whose rows were not shown to be independent takes requests one by
        # one.
        self._manifest = model.described
        specs = (*self._manifest.inputs, *self._manifest.outputs)
        has_batch = self._manifest.has_rows and all(spec.shape[:1] == (None,) for spec in specs)
        self._together = limits.enabled and has_batch and not model.mixing
        self._has_free_sizes = any(None in spec.shape[1:] for spec in model.described.inputs)

    @property
    def rows(self) -> int:
        """Rows that wait."""
        return self._rows

    def submit(self, inputs: Tensors, deadline: float) -> asyncio.Future[Answered]:
        """Queue checked inputs.

        Raises Overloaded when the queue is full.
        """
        rows = self._manifest.rows_of(inputs)
        waiting = Waiting(inputs, deadline, self._loop.create_future(), rows, self._has_free_sizes)
        if self._rows + waiting.rows > self._limits.max_queue and self._queue:
            raise Overloaded(
                f"{self.model.name} is busy: {self._rows} rows wait for it, at most {self._limits.max_queue} may. "
                "Send the request again in a moment."
            )
        self._queue.append(waiting)
        self._rows += waiting.rows
        self._schedule()
        return waiting.future

    def _schedule(self) -> None:
        if not self._queue or self._running >= self._calls:
            return
        delay = self._delay()
        if self._next_turn is not None:
            if delay or not self._is_delayed:
                return
            self._next_turn.cancel()  # the batch is full: it need not wait any more
        self._is_delayed = delay > 0
        self._next_turn = self._loop.call_later(delay, self._turn) if delay else self._loop.call_soon(self._turn)

    def _delay(self) -> float:
        is_full = self._rows >= self._limits.max_batch or not self._together
        return 0.0 if is_full or self.is_quick(self._rows) else self._limits.delay

    def _turn(self) -> None:
        """Run the queue: all of it while calls are quick, else one batch for each free place in the pool."""
        self._next_turn = None
        while self._queue and self._running < self._calls:
            batch = self._take()
            rows = sum(waiting.rows for waiting in batch)
            if not batch:
                continue
            if self.is_quick(rows):
                self._finish(batch, *self._call(batch))
                continue
            if self._remote is not None:
                self._call_remote(batch)
                continue
            try:
                done = self._loop.run_in_executor(self._pool, self._call, batch)
            except RuntimeError:  # the pool is shut down
                self._end(batch)
                continue
            self._running += 1
            done.add_done_callback(lambda done, batch=batch: self._finish_slow(batch, done))  # type: ignore[misc]

    @property
    def may_relay(self) -> bool:
        """Whether this is a remote's queue, and few wait for it."""
        return self._remote is not None and len(self._queue) + self._under_way < RELAYED

    def relay(
        self,
        body: bytes,
        header_length: str | None,
        rows: int,
        seconds: float,
        done: Callable[[Reply | RosettaError], None],
    ) -> None:
        """Pass a request on as it came; `done` is called with the answer, or with an error after so many seconds."""
        assert self._remote is not None
        finish = partial(self._relayed, rows, time.perf_counter(), done)
        self._remote.relay(body, header_length, seconds, finish)
        self._under_way += 1

    def _relayed(
        self, rows: int, start: float, done: Callable[[Reply | RosettaError], None], outcome: Reply | Exception
    ) -> None:
        self._under_way -= 1
        seconds = time.perf_counter() - start
        if isinstance(outcome, Reply):
            self._stats.count_relayed(rows, seconds)
            done(outcome)
        else:
            self._stats.count_call(rows, seconds)
            done(failure(self.model.name, outcome))

    def _call_remote(self, batch: Sequence[Waiting]) -> None:
        """Run a batch on the remote. The answer comes in a later turn of the loop."""
        assert self._remote is not None
        self._running += 1
        self._under_way += len(batch)
        finish = partial(self._finish_remote, batch, time.perf_counter())
        try:
            self._remote.start(joined([waiting.inputs for waiting in batch]), finish)
        except Exception as error:
            self._loop.call_soon(finish, bare(error))

    def _finish_remote(self, batch: Sequence[Waiting], start: float, outcome: Tensors | Exception) -> None:
        self._running -= 1
        self._under_way -= len(batch)
        if isinstance(outcome, InputError) and len(batch) > 1:
            # The runtime there may refuse a single row: try each request alone. Any other error concerns all of them.
            for waiting in batch:
                self._call_remote([waiting])
            return
        self._finish(batch, self._split_outcome(batch, outcome), start, time.perf_counter() - start)
        self._schedule()

    def _split_outcome(self, batch: Sequence[Waiting], outcome: Tensors | Exception) -> list[Tensors | Exception]:
        if isinstance(outcome, Exception):
            return [outcome] * len(batch)
        try:
            return list(self._split([waiting.inputs for waiting in batch], outcome))
        except RuntimeFailure as error:
            return [bare(error)] * len(batch)

    def is_free(self) -> bool:
        """Whether the whole queue runs in this turn of the event loop."""
        return not self._running and self.is_quick(self._rows)

    def is_quick(self, rows: int) -> bool:
        """Whether a call of this many rows runs in the event loop."""
        return self._stats.expected_seconds(rows) < INLINE_SECONDS

    def _take(self) -> list[Waiting]:
        """The next batch: the oldest request, and those behind it of the same shape, as far as they fit.

        Requests that have expired or were cancelled are dropped here, before they cost anything.
        """
        batch: list[Waiting] = []
        rows, now = 0, time.perf_counter()
        while self._queue:
            waiting = self._queue[0]
            if batch and (
                waiting.key != batch[0].key or rows + waiting.rows > self._limits.max_batch or not self._together
            ):
                break
            self._queue.popleft()
            self._rows -= waiting.rows
            if waiting.future.done():
                continue
            if now > waiting.deadline:
                waiting.future.set_exception(self._too_late(now - waiting.queued))
                continue
            batch.append(waiting)
            rows += waiting.rows
        return batch

    def _too_late(self, waited: float) -> DeadlineExceeded:
        return DeadlineExceeded(
            f"{self.model.name} is busy: the request waited {1000 * waited:.0f} ms, longer than its time limit. "
            "Send it again in a moment, or with a longer timeout."
        )

    def _call(self, batch: Sequence[Waiting]) -> Answers:
        start = time.perf_counter()
        parts = [waiting.inputs for waiting in batch]
        answers = self._tried(parts)
        if len(parts) > 1 and isinstance(answers[0], Exception):
            # One bad row must not fail the others: each request is tried alone.
            answers = [answer for part in parts for answer in self._tried([part])]
        return answers, start, time.perf_counter() - start

    def _tried(self, parts: Sequence[Tensors]) -> list[Tensors | Exception]:
        """The outputs of each request, or for each the error of the call."""
        try:
            return list(self._split(parts, self._runtime.predict(joined(parts))))
        except Exception as error:
            return [bare(error)] * len(parts)

    def _split(self, parts: Sequence[Tensors], outputs: Tensors) -> list[Tensors]:
        """The outputs of joined requests -> the outputs of each request."""
        if len(parts) == 1:
            return [outputs]
        ends = list(itertools.accumulate(len(next(iter(part.values()))) for part in parts))
        if any(len(array) != ends[-1] for array in outputs.values()):
            raise RuntimeFailure(f"{self.model.name} did not give one row for each row.")
        starts = [0, *ends[:-1]]
        return [
            {name: array[start:end] for name, array in outputs.items()} for start, end in zip(starts, ends, strict=True)
        ]

    def _finish_slow(self, batch: Sequence[Waiting], done: asyncio.Future[Answers]) -> None:
        self._running -= 1
        if done.cancelled():  # the pool was shut down before the call began
            self._end(batch)
        else:
            self._finish(batch, *done.result())
        self._schedule()

    def _end(self, batch: Sequence[Waiting]) -> None:
        for waiting in batch:
            if not waiting.future.done():
                waiting.future.set_exception(ended(self.model.name))

    def _finish(
        self, batch: Sequence[Waiting], answers: Sequence[Tensors | Exception], start: float, seconds: float
    ) -> None:
        self._stats.count_call(sum(waiting.rows for waiting in batch), seconds)
        for waiting, answer in zip(batch, answers, strict=True):
            if waiting.future.done():  # it was cancelled, or expired
                continue
            if isinstance(answer, Exception):
                waiting.future.set_exception(failure(self.model.name, answer, waiting.inputs))
            else:
                waiting.future.set_result((answer, start - waiting.queued, seconds))


BEYOND_TABLE = re.compile(
    r"idx=(?P<id>-?\d+) must be within the inclusive range \[(?P<low>-?\d+),(?P<high>-?\d+)\]"  # ONNX Runtime
    r"|indices\[[\d,]*\] = (?P<number>-?\d+) is not in \[(?P<first>-?\d+), (?P<end>-?\d+)\)"  # TensorFlow
    r"|index out of range in self|gather index out of bounds"  # PyTorch, LiteRT
)
"""How runtimes refuse an id beyond a table whose size the manifest does not name."""


def bare(error: Exception) -> Exception:
    """An error to be kept, without its traceback and its causes.

    Their frames refer to the tensors, to the model, and by way of a future or a batch to the error itself: all of these
    would stay until the interpreter next looks for cycles.
    """
    error.__cause__ = error.__context__ = None
    return error.with_traceback(None)


def ended(name: str) -> ModelUnavailable:
    """The error of a call that cannot begin any more."""
    return ModelUnavailable(f"{name} is not called any more: the service ends. Send the request again in a moment.")


def failure(name: str, error: Exception, inputs: Tensors | None = None) -> RosettaError:
    """The error as one of ours: inputs were checked, so what a runtime raises is its own fault.

    An id beyond a table is not: only the runtime knew the table, here or in a process apart.
    """
    is_runtimes = isinstance(error, RuntimeFailure) or not isinstance(error, RosettaError)
    if inputs is not None and is_runtimes and (match := BEYOND_TABLE.search(str(error))):
        return InputError(_beyond_table(name, match, inputs))
    if isinstance(error, RosettaError):
        return error
    return RuntimeFailure(f"{name} failed inside its runtime: {one_line(error)}")


def _beyond_table(name: str, match: re.Match[str], inputs: Tensors) -> str:
    id = match["id"] or match["number"]
    if id is None:
        places = [key for key, value in inputs.items() if value.dtype.kind in "iu"] or list(inputs)
        return f"{name} has no row in its table for an id in {' or '.join(map(repr, places))}. Send smaller ids."
    low, high = match["low"] or match["first"], match["high"] or int(match["end"]) - 1
    places = [key for key, value in inputs.items() if value.dtype != object and (value == int(id)).any()]
    origin = f"the input {' or '.join(map(repr, places))} holds" if places else "it makes of the inputs"
    return f"{name} has no row in its table for the id {id}, which {origin}: expected {low} to {high}."
