"""What both training scripts share, so that only the frameworks differ: data, order, settings, and the artifact.

The recipe: Adam, batches of 64, a learning rate that falls from 0.002 to 0 along a half cosine, the training pictures
in a new order every epoch. The order comes from NumPy, so that both frameworks see the same pictures in the same order.
"""

import argparse
import math
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from contract import dataset
from contract.errors import RosettaError, TrainingError
from contract.manifest import Manifest, TensorSpec, sha256_of_files, staged, write_manifest


@dataclass(frozen=True)
class Recipe:
    """The settings of one training. `limit` keeps only the first pictures of each split, for tests."""

    dataset: str = "fashion_mnist"
    epochs: int = 14
    batch_size: int = 64
    learning_rate: float = 0.002
    seed: int = 1
    limit: int | None = None

    def __post_init__(self) -> None:
        for name, value in (("epochs", self.epochs), ("batch_size", self.batch_size), ("limit", self.limit)):
            if value is not None and value < 1:
                raise TrainingError(f"{name} is {value}, expected at least 1.")

    def order(self, epoch: int, count: int) -> NDArray[np.int64]:
        """The order of the training pictures in this epoch (count,), the same in every framework."""
        return np.random.default_rng((self.seed, epoch)).permutation(count)

    @property
    def classes(self) -> int:
        return len(dataset.get(self.dataset).labels)

    def steps(self, count: int) -> int:
        """How many batches the whole training takes."""
        return self.epochs * self.batches(count)

    def batches(self, count: int) -> int:
        """How many batches an epoch takes."""
        return -(-count // self.batch_size)


@dataclass
class Progress:
    """Says each epoch, with the time left, and keeps its seconds.

    It draws no bar: `make` trains both models at a time, and two bars on a terminal overwrite each other.
    """

    recipe: Recipe
    title: str
    seconds: list[float] = field(default_factory=list)

    def epochs(self) -> Iterator[int]:
        """The number of each epoch, from 0; the caller trains it before it takes the next."""
        for epoch in range(self.recipe.epochs):
            left = ""
            if self.seconds:
                left = f", {statistics.median(self.seconds) * (self.recipe.epochs - epoch):.0f} s left"
            print(f"{self.title}: epoch {epoch + 1}/{self.recipe.epochs}{left}", flush=True)
            start = time.perf_counter()
            yield epoch
            self.seconds.append(round(time.perf_counter() - start, 2))


@dataclass(frozen=True)
class Trained:
    """What a training script returns besides its files."""

    framework: str
    parameters: int
    epoch_seconds: list[float]
    test_accuracy: float


Train = Callable[[Recipe, dataset.Split, dataset.Split, Path], Trained]
"""(recipe, training split, test split, folder to write the model's files to)."""


def accuracy(probabilities: NDArray[np.float32], labels: NDArray[np.uint8]) -> float:
    """The share of rows of `probabilities` (N, classes) whose largest value is at the row's label (N,).

    NaN when one of them is not a number: a training that diverged would otherwise answer every picture with class 0.
    """
    if not np.isfinite(probabilities).all():
        return math.nan
    return float((probabilities.argmax(axis=1) == labels).mean())


def make_artifact(train: Train, recipe: Recipe, model: str, format: str, folder: Path) -> Manifest:
    """Train, and write the source artifact. Whenever this stops, `folder` holds the old artifact or the new one.

    Raises TrainingError when the answers are not numbers, DataError when the data cannot be read.
    """
    known = dataset.get(recipe.dataset)
    training, test = (dataset.load(recipe.dataset, split, recipe.limit) for split in ("train", "test"))
    with staged(folder) as staging:
        start = time.perf_counter()
        trained = train(recipe, training, test, staging)
        if not np.isfinite(trained.test_accuracy):
            raise TrainingError(
                f"{model} did not learn: its answers are not numbers. Try a smaller learning rate, or another seed."
            )
        manifest = Manifest(
            model=model,
            format=format,
            parent=None,
            inputs=(TensorSpec("pixels", "float32", (None, *known.image.shape), "NHWC"),),
            outputs=(TensorSpec("probabilities", "float32", (None, len(known.labels)), "NC"),),
            image=known.image,
            labels=known.labels,
            files=sha256_of_files(staging, [path for path in staging.iterdir() if path.is_file()]),
            made_with=asdict(recipe)
            | asdict(trained)
            | {"train_images": len(training.images), "seconds": round(time.perf_counter() - start, 1)},
        )
        write_manifest(staging, manifest)
    print(f"{manifest.name}: it answers {trained.test_accuracy:.4f} of the test pictures correctly", flush=True)
    return manifest


def main(train: Train, model: str, format: str, arguments: Sequence[str] | None = None) -> None:
    """The command line of a training script; `--help` lists the settings."""
    parser = argparse.ArgumentParser(description=f"Train {model} and write its source artifact.")
    parser.add_argument("folder", type=Path, help="the artifact's folder, such as artifacts/%(prog)s")
    defaults: dict[str, Any] = asdict(Recipe())
    for name, value in defaults.items():
        kind = int if value is None else type(value)
        parser.add_argument(f"--{name.replace('_', '-')}", type=kind, default=value, help=f"default: {value}")
    settings = vars(parser.parse_args(arguments))
    folder = settings.pop("folder")
    try:
        make_artifact(train, Recipe(**settings), model, format, folder)
    except RosettaError as error:
        sys.exit(f"error: {error}")
