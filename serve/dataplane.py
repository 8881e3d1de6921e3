"""What every front calls: tensors or a picture in, answers and times out."""

import asyncio
import hashlib
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping
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
from serve.batching import Answered, Batcher, Limits, failure
from serve.catalog import Catalog, ServedModel, load_catalog
from serve.protocol import InferRequest, Reply, oip
from serve.remote import RemoteRuntime
from serve.runtimes import Tensors, warm_up_inputs
from serve.settings import Settings
from serve.stats import ModelStats, Stats

Batch = NDArray[np.float32]

log = logging.getLogger(__name__)

REMOTE_CALLS = 4
"""Calls to a remote that may be under way at once; what comes meanwhile forms the next batch."""

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
    """The sha256 of what the model saw, as little-endian float32: the page shows that it sees the same."""

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
    """The models of one worker process, their queues, the pool that runs them, and what they did."""

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
        """Let what runs finish, write the last numbers, and end every runtime."""
        for pool in (self._pool, *self._own_pools.values()):
            pool.shutdown(wait=False, cancel_futures=True)
        self.stats.write()
        self.catalog.close()

    async def infer(self, model: ServedModel, request: InferRequest, start: float) -> Tensors:
        """Run a checked request that came at `start`, together with what else waits for the model.

        Raises ModelUnavailable, Overloaded, DeadlineExceeded, or RuntimeFailure when the runtime fails inside.
        """
        return self.answered(model, request, start, await self.begin(model, request, start))

    def begin(self, model: ServedModel, request: InferRequest, start: float) -> asyncio.Future[Answered]:
        """Queue a checked request; the future gives what `answered` takes. Both fail as `infer` does."""
        batcher = self._batchers.get(model.name) or self._batcher(model)
        seconds = self._seconds(request.timeout)
        future = batcher.submit(request.inputs, start + seconds)
        if not batcher.is_free():
            timer = asyncio.get_running_loop().call_later(
                start + seconds - self.clock(), self._expire, future, model, seconds
            )
            future.add_done_callback(lambda _: timer.cancel())
        return future

    def relay(
        self,
        model: ServedModel,
        body: bytes,
        headers: Mapping[str, str],
        done: Callable[[Reply | RosettaError], None],
    ) -> bool:
        """Pass a request of the Open Inference Protocol on to the model's remote, as it came.

        False where it has to be read here: something in it besides the values is new, or it is to be part of a batch.
        True if `done` is called later, with the remote's answer as it is or with what went wrong.
        """
        batcher = self._batchers.get(model.name) or self._batcher(model)
        if not batcher.may_relay:
            return False
        header_length = headers.get(oip.HEADER_LENGTH.lower())
        layout = oip.known_layout(body, header_length, model.described)
        if layout is None:
            return False
        batcher.relay(body, header_length, layout.rows, self._seconds(layout.timeout), done)
        return True

    def answered(self, model: ServedModel, request: InferRequest, start: float, answered: Answered) -> Tensors:
        """Count a request's answer; its outputs."""
        outputs, queued, _ = answered
        self.stats[model.name].count_answer(request.rows, queued, self.clock() - start)
        return outputs

    def _expire(self, future: asyncio.Future[Answered], model: ServedModel, seconds: float) -> None:
        if not future.done():
            future.set_exception(_too_slow(model, seconds))

    def infer_now(self, model: ServedModel, request: InferRequest, start: float) -> tuple[Tensors, Times]:
        """The same without an event loop: the call waits for a place in the pool. For threads, such as Flask's."""
        runtime = model.runtime
        seconds = self._seconds(request.timeout)
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

    def _batcher(self, model: ServedModel) -> Batcher:
        settings = self.settings
        limits = Limits(settings.max_batch, settings.max_queue, settings.batch_delay / 1e6, settings.batching)
        own = self._own_pools.get(model.name)
        pool, calls = (own, _calls_of(model)) if own else (self._pool, self._calls)
        batcher = Batcher(model, self.stats[model.name], pool, calls, limits)
        self._batchers[model.name] = batcher
        return batcher

    def _seconds(self, asked: float | None) -> float:
        return min(asked or self.settings.timeout, self.settings.timeout)

    # --- Pictures

    def classify(self, model: ServedModel, picture: bytes) -> Prediction:
        """A picture's bytes -> the model's answer. Raises ImageError for bytes that are no usable picture."""
        return self._classify(model, *self._preprocess(picture, image_spec(model)))

    def compare(self, picture: bytes) -> Iterator[dict[str, Any]]:
        """The same picture through every model that takes pictures, one row each, in the catalog's order.

        A model that fails has a row with an `error`. Raises ImageError at once for bytes that are no usable picture.
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
    """How many calls another process may be sent at once: a child takes one, a service as many as it can answer."""
    return REMOTE_CALLS if isinstance(model.loaded, RemoteRuntime) else 1


def measure(model: ServedModel, stats: ModelStats) -> None:
    """Learn what a call of the model costs, and what each row adds: by this it is decided where its calls run.

    It is endless where another process runs it, which may hang, and where several rows at once cannot be run.
    """
    stats.call_seconds = float("inf")
    if model.loaded is None or not model.loaded.in_process:
        return
    try:
        one, many = (_median_seconds(model, rows) for rows in (1, MEASURED_ROWS))
    except Exception as error:  # a runtime may raise anything; its requests will say so
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
