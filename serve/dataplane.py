"""The data plane, which every front calls: tensors or a picture in, answers and times out."""

import asyncio
import contextlib
import hashlib
import logging
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, ThreadPoolExecutor
from concurrent.futures import TimeoutError as PoolTimeout
from dataclasses import dataclass, replace
from typing import Any, Self, cast

import numpy as np
from numpy.typing import NDArray

from contract.errors import (
    DeadlineExceeded,
    ModelUnavailable,
    NotAPictureModel,
    RuntimeFailure,
    one_line,
)
from contract.formats import needs
from contract.image import HELD_BYTES, held_bytes, image_to_batch
from contract.manifest import ImageSpec
from contract.tensors import Tensors
from serve.apart.runtime import ApartRuntime
from serve.batching import RELAYED, Answered, Batcher, Limits, ended, failure
from serve.callers import Callers
from serve.catalog import Catalog, ServedModel, load_catalog
from serve.control import Control, Done, done_in
from serve.gauges import Gauges, Numbers, memory_bytes
from serve.held import Held
from serve.keys import Keys
from serve.open_files import connections_beside, files_open
from serve.protocol import InferRequest
from serve.remote.runtime import RemoteRuntime
from serve.runtimes import Runtime, warm_up_inputs
from serve.settings import Settings
from serve.stats import ModelStats, Stats

Batch = NDArray[np.float32]

log = logging.getLogger(__name__)

REMOTE_CALLS = 4
"""Calls to a remote that may be under way at once; requests that come meanwhile form the next batch."""

READERS = 2
"""Threads that decompress and read large bodies: more at once would hold more memory, and be no faster."""

TRIAL_SECONDS = 0.5
"""The time between two trials of a model that hung."""

SMALL_PIXELS, PIXELS_A_BYTE = 12_000_000, 12
"""A picture of more pixels than the first has so many for each of its bytes at most: a few bytes must not cost much."""

MEASURED_ROWS = 8
MEASURING_SECONDS = 0.1


@dataclass(frozen=True)
class Times:
    """Milliseconds that a request spent in each part of the service."""

    preprocess: float
    queue: float
    compute: float

    def to_json(self) -> dict[str, float]:
        return {part: round(value, 3) for part, value in vars(self).items()}


@dataclass(frozen=True)
class Prediction:
    """A model's answer to one picture."""

    model: ServedModel
    probabilities: NDArray[np.floating[Any]]
    """(classes,)"""
    times: Times
    tensor: str
    """The sha256 of the model's input as little-endian float32: the page compares it with its own."""

    @property
    def winner(self) -> int:
        return int(self.probabilities.argmax())

    def to_json(self) -> dict[str, Any]:
        labels = self.model.described.class_names(len(self.probabilities))
        return {
            "model": self.model.name,
            "label": labels[self.winner],
            "probabilities": dict(zip(labels, self.probabilities.tolist(), strict=True)),
            "ms": self.times.to_json(),
            "tensor": self.tensor,
        }


class DataPlane:
    """The models of one worker process, with their queues, the pool that runs them, and their statistics."""

    clock: Callable[[], float] = staticmethod(time.perf_counter)

    def __init__(self, catalog: Catalog, settings: Settings, loaded_before: Done | None = None) -> None:
        self.catalog = catalog
        self.settings = settings
        self.stats = Stats([model.key for model in catalog.every_version()], settings.state)
        self.keys = Keys(settings)
        self.callers = Callers(settings)
        # One pool for all models: more calls at once would only wait for each other, and each caller for all of them.
        self._calls = settings.calls
        self._pool = ThreadPoolExecutor(self._calls, thread_name_prefix="inference")
        self.readers = ThreadPoolExecutor(READERS, thread_name_prefix="reading")
        self.held = Held(settings.max_held)
        """Bodies, while they come and are read."""
        self._pictures = Held(settings.max_held)
        """Pictures, while they are decoded."""
        self.connections = 0
        self.idle: dict[object, None] = {}
        """The connections that wait for a request, the longest first."""
        self.gauges = Gauges(settings.state, self._measure)
        self._is_closing = threading.Event()
        self._own_pools: dict[str, ThreadPoolExecutor] = {}
        self._batchers: dict[str, Batcher] = {}
        for model in catalog.every_version():
            self._prepare(model)
        self.control = Control(settings, self._replace, done_in(settings) if loaded_before is None else loaded_before)
        self.on_replaced: Callable[[str], None] = lambda _: None
        """Called with the name of each model that was loaded, or unloaded, while the service runs."""
        self.max_connections = self._max_connections()
        """Connections to each port of this worker."""

    def _max_connections(self) -> int:
        """As many as the settings say, unless the files that may be open are too few. Call it with all models there."""
        remotes = sum(isinstance(model.loaded, RemoteRuntime) for model in self.catalog.every_version())
        others = files_open() + remotes * (RELAYED + REMOTE_CALLS)
        return connections_beside(others, self.settings.max_connections, 2 if self.settings.grpc_port else 1)

    def _prepare(self, model: ServedModel) -> None:
        """Measure a model, and give it a pool of its own where another process runs it."""
        stats = self.stats.of(model.key)
        if model.loaded is not None:
            measure(model, stats)
            if not model.loaded.in_process:  # only its own requests wait for it, and not for the one that it replaces
                self._own_pools[model.key] = ThreadPoolExecutor(_calls_of(model), thread_name_prefix=model.name)

    def _replace(self, versions: list[ServedModel]) -> list[ServedModel]:
        """Serve these versions of a model from now on. Requests that have begun keep the old ones, which are returned.

        Their counts stay.
        """
        for model in versions:
            self._prepare(model)
        old = self.catalog.replace(versions)
        self.on_replaced(versions[-1].name)
        for model in old:
            if (batcher := self._batchers.get(model.key)) is not None and batcher.model is model:
                del self._batchers[model.key]  # a queue that is empty must not hold the model
        return old

    def _is_served(self, model: ServedModel) -> bool:
        """Whether no other has taken its place."""
        return any(served is model for served in self.catalog.versions(model.name))

    @classmethod
    def from_environment(cls) -> Self:
        settings = Settings.from_environment()
        loaded_before = done_in(settings)  # first: what another worker loads meanwhile is loaded here again
        return cls(load_catalog(settings.artifacts, settings), settings, loaded_before)

    @property
    def ready(self) -> bool:
        """Every model that should run can be run; at least one of them, where the settings ask for no more.

        Where only some formats are served and no model has them, there is nothing to wait for.
        """
        states = [model.ready for model in self.catalog.every_version() if not model.is_refused]
        if not states:
            return bool(self.settings.formats and not self.catalog)
        return all(states) if self.settings.ready == "all" else any(states)

    def _measure(self) -> Numbers:
        """This worker's gauges."""
        return {
            "connections": self.connections,
            "requests_in_flight": self.connections - len(self.idle),
            "queue_rows": {name: batcher.rows for name, batcher in self._batchers.copy().items()},
            "held_bytes": self.held.bytes + self._pictures.bytes,
            "memory_bytes": memory_bytes(),
        }

    def close(self) -> None:
        """Write the last statistics, and end every runtime. Calls that did not begin or end by then are unavailable."""
        self._is_closing.set()
        for pool in (self._pool, self.readers, *self._own_pools.values()):
            pool.shutdown(wait=False, cancel_futures=True)
        self.stats.write()
        self.catalog.close()

    async def infer(self, model: ServedModel, request: InferRequest, start: float) -> Answered:
        """Run a checked request that came at `start`, together with others that wait for the model.

        Raises ModelUnavailable, Overloaded, DeadlineExceeded, or RuntimeFailure when the runtime fails inside.
        """
        answered = await self.begin(model, request, start)
        self.finish(model, request, start, answered)
        return answered

    def begin(self, model: ServedModel, request: InferRequest, start: float) -> asyncio.Future[Answered]:
        """Queue a checked request; the future's result is for `finish`. Both raise what `infer` raises."""
        batcher = self.batcher(model)
        seconds = self.seconds(request.timeout)
        future = batcher.submit(request.inputs, start + seconds)
        if not batcher.is_free():
            timer = asyncio.get_running_loop().call_later(
                start + seconds - self.clock(), self._expire, future, model, start, seconds
            )
            future.add_done_callback(lambda _: timer.cancel())
        return future

    def finish(self, model: ServedModel, request: InferRequest, start: float, answered: Answered) -> int:
        """Count the answer to a request that came at `start`; its rows."""
        _, queued, computed = answered
        if model.key in self._own_pools:
            model.breaker.answered()
        rows = model.described.rows_of(request.inputs)
        self.stats[model.key].count_answer(rows, queued, computed, self.clock() - start)
        return rows

    def check_time(self, model: ServedModel, start: float) -> None:
        """Raise DeadlineExceeded for a request that came at `start`, and whose time has passed."""
        if self.clock() - start > self.settings.timeout:
            raise _too_slow(model, self.settings.timeout)

    def _expire(self, future: asyncio.Future[Answered], model: ServedModel, start: float, seconds: float) -> None:
        if not future.done():
            future.set_exception(_too_slow(model, seconds))
            self._note_timeout(model, start, seconds)

    def _note_timeout(self, model: ServedModel, start: float, seconds: float) -> None:
        """A request's own limit may be short: only one as long as the service's says something about the model."""
        own = self._own_pools.get(model.key)
        if own is None or self._is_closing.is_set() or not self._is_served(model):
            return
        if seconds >= self.settings.timeout and model.breaker.timed_out(start, seconds):
            log.warning("%s is not served: %s", model.name, model.breaker.trouble)
            own.submit(self._try_until_it_answers, model)

    def _try_until_it_answers(self, model: ServedModel) -> None:
        """Call a model that hung, in the thread in which its calls wait, until it answers or nobody needs it."""
        while not self._is_closing.wait(TRIAL_SECONDS) and self._is_served(model):
            with contextlib.suppress(Exception):  # it may raise anything
                cast(Runtime, model.loaded).predict(warm_up_inputs(model.described))
                model.breaker.answered()
                return

    def infer_now(self, model: ServedModel, request: InferRequest, start: float) -> tuple[Tensors, Times]:
        """`infer` for threads, such as Flask's: the call waits for a place in the pool."""
        runtime = model.runtime
        seconds = self.seconds(request.timeout)
        began = self.clock()

        def call() -> tuple[Tensors, float, float]:
            called = self.clock()
            return runtime.predict(request.inputs), called - began, self.clock() - called

        try:
            future = self._own_pools.get(model.key, self._pool).submit(call)
        except RuntimeError:  # the pool is shut down
            raise ended(model.name) from None
        try:
            outputs, queued, computed = future.result(seconds)
        except PoolTimeout:
            future.cancel()  # nobody waits for it any more
            self._note_timeout(model, start, seconds)
            raise _too_slow(model, seconds) from None
        except CancelledError:
            raise ended(model.name) from None
        except Exception as error:
            raise failure(model.name, error, request.inputs) from None
        finally:
            del future  # it has the error, and the error's traceback has this frame: the cycle would hold the tensors
        if model.key in self._own_pools:
            model.breaker.answered()
        stats, rows = self.stats[model.key], model.described.rows_of(request.inputs)
        stats.count_call(rows, computed)
        stats.count_answer(rows, queued, computed, self.clock() - start)
        return outputs, Times(0, 1000 * queued, 1000 * computed)

    def count_failure(self, model: ServedModel, code: int, start: float) -> None:
        self.stats[model.key].count_failure(code, self.clock() - start)

    def batcher(self, model: ServedModel) -> Batcher:
        """The model's queue in this event loop, made for its first request."""
        batcher = self._batchers.get(model.key)
        if batcher is None or batcher.model is not model:
            batcher = self._make_batcher(model)
            if self._is_served(model):  # else it is for this request alone
                self._batchers[model.key] = batcher
        return batcher

    def _make_batcher(self, model: ServedModel) -> Batcher:
        settings = self.settings
        limits = Limits(settings.max_batch, settings.max_queue, settings.batch_delay / 1e6, settings.batching)
        own = self._own_pools.get(model.key)
        pool, calls = (own, _calls_of(model)) if own else (self._pool, self._calls)
        return Batcher(model, self.stats[model.key], pool, calls, limits)

    def seconds(self, timeout: float | None) -> float:
        """A request's time limit in seconds: its own, if that is shorter than the service's."""
        return min(timeout or self.settings.timeout, self.settings.timeout)

    # --- Pictures

    def classify(self, model: ServedModel, picture: bytes) -> Prediction:
        """A picture's bytes -> the model's answer. Raises ImageError for bytes that are not a usable picture."""
        return self._classify(model, *self._preprocess(picture, image_spec(model)))

    def compare(self, picture: bytes) -> Iterator[dict[str, Any]]:
        """The same picture through every model that takes pictures, one row each, in the catalog's order.

        A model that fails has a row with an `error`; one that runs on another system alone has none, since it is never
        asked. Raises ImageError at once for bytes that are not a usable picture.
        """
        batches: dict[ImageSpec, tuple[Batch, float]] = {}
        sources: dict[str, Prediction] = {}
        for model in self.catalog.values():
            if model.manifest is not None and needs(model.manifest.format):
                continue
            row: dict[str, Any] = {"model": model.name, "status": model.status.word, "source": model.source}
            try:
                spec = image_spec(model)
                if spec not in batches:
                    batches[spec] = self._preprocess(picture, spec)
                prediction = self._classify(model, *batches[spec])
            except NotAPictureModel:
                continue
            except (ModelUnavailable, RuntimeFailure, DeadlineExceeded) as error:
                yield row | {"error": str(error)}
                continue
            sources[model.name] = prediction
            source = model.name if model.described.is_source else model.source
            yield prediction.to_json() | row | _agreement(prediction, sources.get(source or ""))

    def _preprocess(self, picture: bytes, spec: ImageSpec) -> tuple[Batch, float]:
        limit = min(self.settings.max_pixels, max(SMALL_PIXELS, PIXELS_A_BYTE * len(picture)))
        with self._pictures.wait(min(held_bytes(picture), HELD_BYTES * limit), self.settings.timeout):
            start = self.clock()
            return image_to_batch(picture, spec, limit), 1000 * (self.clock() - start)

    def _classify(self, model: ServedModel, batch: Batch, preprocess: float) -> Prediction:
        spec, output = model.described.inputs[0], model.described.outputs[0].name
        request = InferRequest({spec.name: batch.astype(spec.dtype, copy=False)}, ((output, False),))
        outputs, times = self.infer_now(model, request, self.clock())
        check_numbers(model, outputs[output])
        tensor = hashlib.sha256(batch.astype("<f4", copy=False).tobytes()).hexdigest()
        return Prediction(model, outputs[output][0], replace(times, preprocess=preprocess), tensor)


def check_numbers(model: ServedModel, answers: NDArray[Any]) -> None:
    """Raise RuntimeFailure for an answer with NaN in it: the largest of such values is not a class."""
    if wrong := int(np.isnan(answers).sum()):
        raise RuntimeFailure(
            f"{model.name} answered with {wrong} values that are not numbers (NaN) of {answers.size}, so it names no "
            "class. The model is at fault, not the picture: compare its artifact with its source "
            f"(make diagnose MODEL={model.described.model} FORMAT={model.described.format})."
        )


def _too_slow(model: ServedModel, seconds: float) -> DeadlineExceeded:
    return DeadlineExceeded(
        f"{model.name} did not answer within {seconds:g} s, the request's time limit. "
        "Send fewer rows at once, or allow more with SERVE_TIMEOUT."
    )


def _calls_of(model: ServedModel) -> int:
    """How many calls may be sent to another process at once."""
    if isinstance(model.loaded, RemoteRuntime):
        return REMOTE_CALLS
    return model.loaded.calls if isinstance(model.loaded, ApartRuntime) else 1


def measure(model: ServedModel, stats: ModelStats) -> None:
    """Measure what a call of the model costs, and what each row adds: this decides where its calls run.

    The cost counts as infinite where another process runs the model, which may hang, and where it takes only one row. A
    process apart is ended if it hangs in the event loop.
    """
    stats.call_seconds = float("inf")
    if model.loaded is None or not (model.loaded.in_process or isinstance(model.loaded, ApartRuntime)):
        return
    try:
        single = _median_seconds(model, 1)
        many = _median_seconds(model, MEASURED_ROWS) if model.described.has_rows else single
    except Exception as error:  # a runtime may raise anything; requests get the error
        log.warning("%s could not be measured: %s", model.name, one_line(error))
        return
    stats.row_seconds = max(0.0, (many - single) / (MEASURED_ROWS - 1))
    stats.call_seconds = max(0.0, single - stats.row_seconds)


def _median_seconds(model: ServedModel, rows: int) -> float:
    inputs = warm_up_inputs(model.described, rows)
    seconds: list[float] = []
    while len(seconds) < 3 or (sum(seconds) < MEASURING_SECONDS and len(seconds) < 30):
        start = time.perf_counter()
        model.runtime.predict(inputs)
        seconds.append(time.perf_counter() - start)
    return float(np.median(seconds))


def image_spec(model: ServedModel) -> ImageSpec:
    """Raises NotAPictureModel for a model that does not take one picture and give one probability a class."""
    manifest = model.described
    if manifest.image is None or not manifest.classifies:
        raise NotAPictureModel(
            f"{model.name} does not classify pictures. Send tensors to /v2/models/{model.name}/infer."
        )
    return manifest.image


def _agreement(prediction: Prediction, source: Prediction | None) -> dict[str, Any]:
    if source is None:
        return {"max_abs_diff": None, "agrees": None}
    difference = np.abs(prediction.probabilities - source.probabilities).max()
    return {"max_abs_diff": float(difference), "agrees": prediction.winner == source.winner}
