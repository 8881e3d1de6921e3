"""What every front calls: tensors or a picture in, answers and times out."""

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from contract.errors import ModelUnavailable, NotAPictureModel, RosettaError, RuntimeFailure
from contract.image import MAX_PIXELS, image_to_batch
from contract.manifest import ImageSpec
from serve.catalog import Catalog, ServedModel
from serve.runtimes import Tensors

Batch = NDArray[np.float32]


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

    @property
    def winner(self) -> int:
        return int(self.probabilities.argmax())

    def to_json(self) -> dict[str, Any]:
        labels = self.model.described.labels
        return {
            "model": self.model.name,
            "label": labels[self.winner],
            "probabilities": dict(zip(labels, self.probabilities.tolist(), strict=True)),
            "ms": self.times.to_json(),
        }


def infer(model: ServedModel, inputs: Tensors) -> tuple[Tensors, Times]:
    """Run checked inputs. Raises ModelUnavailable, or RuntimeFailure when the runtime fails inside."""
    runtime = model.runtime
    start = time.perf_counter()
    try:
        outputs = runtime.predict(inputs)
    except RosettaError:
        raise
    except Exception as error:  # whatever a runtime raises on inputs that were checked is its own fault
        raise RuntimeFailure(f"{model.name} failed inside its runtime: {type(error).__name__}: {error}") from error
    return outputs, Times(0, 0, 1000 * (time.perf_counter() - start))


def classify(model: ServedModel, picture: bytes, max_pixels: int = MAX_PIXELS) -> Prediction:
    """A picture's bytes -> the model's answer. Raises ImageError for bytes that are no usable picture."""
    return _classify(model, *_preprocess(picture, image_spec(model), max_pixels))


def _preprocess(picture: bytes, spec: ImageSpec, max_pixels: int) -> tuple[Batch, float]:
    start = time.perf_counter()
    return image_to_batch(picture, spec, max_pixels), 1000 * (time.perf_counter() - start)


def _classify(model: ServedModel, batch: Batch, preprocess: float) -> Prediction:
    manifest = model.described
    outputs, times = infer(model, {manifest.inputs[0].name: batch.astype(manifest.inputs[0].dtype, copy=False)})
    return Prediction(model, outputs[manifest.outputs[0].name][0], replace(times, preprocess=preprocess))


def image_spec(model: ServedModel) -> ImageSpec:
    """Raises NotAPictureModel for a model that does not take one picture and give one probability a label."""
    manifest = model.described
    takes_picture = manifest.image is not None and len(manifest.inputs) == 1
    if manifest.image is None or not takes_picture or manifest.outputs[0].shape[-1] != len(manifest.labels):
        raise NotAPictureModel(f"{model.name} does not take pictures. Send tensors to /v2/models/{model.name}/infer.")
    return manifest.image


def compare(catalog: Catalog, picture: bytes, max_pixels: int = MAX_PIXELS) -> Iterator[dict[str, Any]]:
    """The same picture through every model that takes pictures, one row each, in the catalog's order.

    A model that fails has a row with an `error`. Raises ImageError at once for bytes that are no usable picture.
    """
    batches: dict[ImageSpec, tuple[Batch, float]] = {}
    sources: dict[str, Prediction] = {}
    for model in catalog.values():
        row: dict[str, Any] = {"model": model.name, "status": model.status.word, "source": model.source}
        try:
            spec = image_spec(model)
            if spec not in batches:
                batches[spec] = _preprocess(picture, spec, max_pixels)
            prediction = _classify(model, *batches[spec])
        except NotAPictureModel:
            continue
        except (ModelUnavailable, RuntimeFailure) as error:
            yield row | {"error": str(error)}
            continue
        sources[model.name] = prediction
        source = model.name if model.described.is_source else model.source
        yield prediction.to_json() | row | _agreement(prediction, sources.get(source or ""))


def _agreement(prediction: Prediction, source: Prediction | None) -> dict[str, Any]:
    if source is None:
        return {"max_abs_diff": None, "agrees": None}
    difference = np.abs(prediction.probabilities - source.probabilities).max()
    return {"max_abs_diff": float(difference), "agrees": prediction.winner == source.winner}
