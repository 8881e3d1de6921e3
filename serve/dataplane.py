"""The data plane, which every front calls: tensors or a picture in, answers and times out."""

import asyncio
import hashlib
import logging
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as PoolTimeout
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from contract.errors import (
    DeadlineExceeded,
    ModelUnavailable,
    NotAPictureModel,
    RosettaError,
    RuntimeFailure,
    one_line,
)
from contract.image import image_to_batch
from contract.manifest import ImageSpec
from contract.tensors import Tensors
from serve.batching import Answered, Batcher, Limits, failure
from serve.catalog import Catalog, ServedModel, load_catalog
from serve.protocol import InferRequest
from serve.remote.runtime import RemoteRuntime
from serve.runtimes import warm_up_inputs
from serve.settings import Settings
from serve.stats import ModelStats, Stats

Batch = NDArray[np.float32]

log = logging.getLogger(__name__)

REMOTE_CALLS = 4
"""Calls to a remote that may be under way at once; requests that come meanwhile form the next batch."""

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

    def __init__(self, catalog: Catalog, settings: Settings) -> None:
        self.catalog = catalog
        self.settings = settings
        self.stats = Stats(catalog, settings.state)
        # One pool for all models, and all workers' together as large as the machine: more calls at once would only wait
        # for each other, and each caller for all of them.
        self._calls = max(1, (os.cpu_count() or 1) // settings.threads // settings.workers)
        self._pool = ThreadPoolExecutor(self._calls, thread_name_prefix="inference")
        self._own_pools: dict[str, ThreadPoolExecutor] = {}
        self._batchers: dict[str, Batcher] = {}
        for name, model in catalog.items():
            if model.loaded is not None:
                measure(model, self.stats[name])
                if not model.loaded.in_process:  # it may hang: only its own requests wait for it then
                    self._own_pools[name] = ThreadPoolExecutor(_calls_of(model), thread_name_prefix=name)

    @classmethod
    def from_environment(cls) -> Self:
        settings = Settings.from_environment()
        return cls(load_catalog(settings.artifacts, settings), settings)

    @property
    def ready(self) -> bool:
        """At least one model can be run: a damaged artifact does not take the others down.

        Where only some formats are served and no model has them, there is nothing to wait for.
        """
        return any(model.ready for model in self.catalog.values()) or bool(self.settings.formats and not self.catalog)

    def close(self) -> None:
        """Let running calls finish, write the last statistics, and end every runtime."""
        for pool in (self._pool, *self._own_pools.values()):
            pool.shutdown(wait=False, cancel_futures=True)
        self.stats.write()
        self.catalog.close()

    async def infer(self, model: ServedModel, request: InferRequest, start: float) -> Tensors:
        """Run a checked request that came at `start`, together with others that wait for the model.

        Raises ModelUnavailable, Overloaded, DeadlineExceeded, or RuntimeFailure when the runtime fails inside.
        """
        return self.finish(model, request, start, await self.begin(model, request, start))

    def begin(self, model: ServedModel, request: InferRequest, start: float) -> asyncio.Future[Answered]:
        """Queue a checked request; the future's result is for `finish`. Both raise what `infer` raises."""
        batcher = self.batcher(model)
        seconds = self.seconds(request.timeout)
        future = batcher.submit(request.inputs, start + seconds)
        if not batcher.is_free():
            timer = asyncio.get_running_loop().call_later(
                start + seconds - self.clock(), self._expire, future, model, seconds
            )
            future.add_done_callback(lambda _: timer.cancel())
        return future

    def finish(self, model: ServedModel, request: InferRequest, start: float, answered: Answered) -> Tensors:
        """Count the answer to a request that came at `start`; its outputs."""
        outputs, queued, _ = answered
        self.stats[model.name].count_answer(request.rows, queued, self.clock() - start)
        return outputs

    def _expire(self, future: asyncio.Future[Answered], model: ServedModel, seconds: float) -> None:
        if not future.done():
            future.set_exception(_too_slow(model, seconds))

    def infer_now(self, model: ServedModel, request: InferRequest, start: float) -> tuple[Tensors, Times]:
        """`infer` for threads, such as Flask's: the call waits for a place in the pool."""
        runtime = model.runtime
        seconds = self.seconds(request.timeout)
        began = self.clock()

        def call() -> tuple[Tensors, float, float]:
            called = self.clock()
            return runtime.predict(request.inputs), called - began, self.clock() - called

        future = self._own_pools.get(model.name, self._pool).submit(call)
        try:
            outputs, queued, computed = future.result(seconds)
        except PoolTimeout as error:
            future.cancel()  # nobody waits for it any more
            raise _too_slow(model, seconds) from error
        except RosettaError:
            raise
        except Exception as error:
            raise failure(model.name, error) from error
        stats = self.stats[model.name]
        stats.count_call(request.rows, computed)
        stats.count_answer(request.rows, queued, self.clock() - start)
        return outputs, Times(0, 1000 * queued, 1000 * computed)

    def count_failure(self, model: ServedModel, code: int, start: float) -> None:
        self.stats[model.name].count_failure(code, self.clock() - start)

    def batcher(self, model: ServedModel) -> Batcher:
        """The model's queue in this event loop, made for its first request."""
        batcher = self._batchers.get(model.name)
        if batcher is None:
            batcher = self._batchers[model.name] = self._make_batcher(model)
        return batcher

    def _make_batcher(self, model: ServedModel) -> Batcher:
        settings = self.settings
        limits = Limits(settings.max_batch, settings.max_queue, settings.batch_delay / 1e6, settings.batching)
        own = self._own_pools.get(model.name)
        pool, calls = (own, _calls_of(model)) if own else (self._pool, self._calls)
        return Batcher(model, self.stats[model.name], pool, calls, limits)

    def seconds(self, timeout: float | None) -> float:
        """A request's time limit in seconds: its own, if that is shorter than the service's."""
        return min(timeout or self.settings.timeout, self.settings.timeout)

    # --- Pictures

    def classify(self, model: ServedModel, picture: bytes) -> Prediction:
        """A picture's bytes -> the model's answer. Raises ImageError for bytes that are not a usable picture."""
        return self._classify(model, *self._preprocess(picture, image_spec(model)))

    def compare(self, picture: bytes) -> Iterator[dict[str, Any]]:
        """The same picture through every model that takes pictures, one row each, in the catalog's order.

        A model that fails has a row with an `error`. Raises ImageError at once for bytes that are not a usable picture.
        """
        batches: dict[ImageSpec, tuple[Batch, float]] = {}
        sources: dict[str, Prediction] = {}
        for model in self.catalog.values():
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
        start = self.clock()
        return image_to_batch(picture, spec, self.settings.max_pixels), 1000 * (self.clock() - start)

    def _classify(self, model: ServedModel, batch: Batch, preprocess: float) -> Prediction:
        spec, output = model.described.inputs[0], model.described.outputs[0].name
        request = InferRequest({spec.name: batch.astype(spec.dtype, copy=False)}, ((output, False),))
        outputs, times = self.infer_now(model, request, self.clock())
        tensor = hashlib.sha256(batch.astype("<f4", copy=False).tobytes()).hexdigest()
        return Prediction(model, outputs[output][0], replace(times, preprocess=preprocess), tensor)


def _too_slow(model: ServedModel, seconds: float) -> DeadlineExceeded:
    return DeadlineExceeded(
        f"{model.name} did not answer within {seconds:g} s, the request's time limit. "
        "Send fewer rows at once, or allow more with SERVE_TIMEOUT."
    )


def _calls_of(model: ServedModel) -> int:
    """How many calls may be sent to another process at once: a child takes one, a service several."""
    return REMOTE_CALLS if isinstance(model.loaded, RemoteRuntime) else 1


def measure(model: ServedModel, stats: ModelStats) -> None:
    """Measure what a call of the model costs, and what each row adds: this decides where its calls run.

    The cost counts as infinite where another process runs the model, which may hang, and where it takes only one row.
    """
    stats.call_seconds = float("inf")
    if model.loaded is None or not model.loaded.in_process:
        return
    try:
        one, many = (_median_seconds(model, rows) for rows in (1, MEASURED_ROWS))
    except Exception as error:  # a runtime may raise anything; requests get the error
        log.warning("%s could not be measured: %s", model.name, one_line(error))
        return
    stats.row_seconds = max(0.0, (many - one) / (MEASURED_ROWS - 1))
    stats.call_seconds = max(0.0, one - stats.row_seconds)


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
