"""The healthy models that faults are planted into.

The project's own two come from the folder of artifacts. Two small ones are made here, once: `colour` takes coloured
pictures and has what the own two lack (normalisation, resizing, strides with padding, a leaky activation), and
`numbers` takes a row of numbers and gives two outputs of one shape.
"""

import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bring.verdict.artifact import judge_again
from contract import dataset
from contract.cell.command import insist_on_own
from contract.code import ROOT
from contract.errors import ArtifactMissing, ExportError
from contract.manifest import (
    MANIFEST,
    ImageSpec,
    Manifest,
    TensorSpec,
    read_manifest,
    sha256_of_files,
    staged,
    write_manifest,
)
from verify import questions
from verify.questions import Questions

OWN = {"keras_cnn": "keras", "torch_cnn": "torch"}
"""The project's own models, and the format of their sources."""
COLOUR = ImageSpec(height=28, width=20, channels=3)
LABELS = tuple(f"class {number}" for number in range(10))
FEATURES = 12
ROWS = 200
"""How many questions the two models are asked."""
TOLERANCE = 1e-3
"""That of models that users bring."""


def find(name: str, artifacts: Path, made: Path) -> Path:
    """The folder of a healthy model: in `artifacts` for our own, else in `made`, where it is written if it is missing.

    Raises ArtifactMissing where our own is missing, and BroughtError where others made it, or a file of it does more
    than compute.
    """
    if name in OWN:
        folder = artifacts / name
        if not (folder / OWN[name] / MANIFEST).exists():
            raise ArtifactMissing(f"{folder} has no source artifact. Run `make artifacts`.")
        insist_on_own(folder)
        for path in folder.glob(f"*/{MANIFEST}"):
            judge_again(path.parent, read_manifest(path.parent))
        return folder
    if not (made / name / "tfjs" / MANIFEST).exists():
        MADE[name](made / name)
        _export_all(made / name / "keras")
    return made / name


def _export_all(source: Path) -> None:
    """Convert to every format, in another process: the converter to TF.js changes the process that it runs in."""
    command = [sys.executable, "-m", "export", str(source), "all"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ExportError(f"{source} could not be exported: {done.stderr[-1000:]}")


def _colour(folder: Path) -> None:
    """A network that was trained for a moment: its answers are spread, and its statistics are those of no batch."""
    import keras

    keras.utils.set_random_seed(1)
    layers = keras.layers
    network = keras.Sequential(
        [
            keras.Input(COLOUR.shape, name="pixels"),
            layers.Rescaling([1 / 58, 1 / 57, 1 / 59], [-124 / 58, -116 / 57, -104 / 59]),
            layers.Conv2D(8, 3, strides=2, padding="same", use_bias=False, name="first"),
            layers.BatchNormalization(name="norm"),
            layers.LeakyReLU(0.2, name="leaky"),
            layers.Resizing(8, 8, name="resized"),  # as many channels as rows and columns
            layers.Conv2D(12, 3, padding="same", activation="relu", name="second"),
            layers.AveragePooling2D(2, name="pool"),
            layers.Flatten(name="flat"),
            layers.Dense(16, activation="relu", name="hidden"),
            layers.Dense(16, activation="tanh", name="square"),
            layers.Dense(len(LABELS), activation="softmax", name="probabilities"),
        ]
    )
    split = dataset.load("fashion_mnist", "train", 3000)
    network.compile(keras.optimizers.Adam(0.003), "sparse_categorical_crossentropy")
    network.fit(_coloured(split.images).astype(np.float32), split.labels, batch_size=64, epochs=2, verbose=0)
    test = dataset.load("fashion_mnist", "test", ROWS)
    rows = Questions({"pixels": _coloured(test.images)}, test.labels, "coloured pictures", TOLERANCE)
    _write(folder, network, rows, {"probabilities": len(LABELS)}, COLOUR)


def _coloured(pictures: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(N, 28, 28, 1) -> (N, 28, 20, 3): the middle of each picture, tinted, on a background with a slope."""
    count, random = len(pictures), np.random.default_rng(1)
    tint, ground = random.uniform(0.4, 1, (count, 1, 1, 3)), random.uniform(0, 120, (count, 1, 1, 3))
    slope = np.linspace(0, 1, COLOUR.width)[None, None, :, None] + np.linspace(0, 1, COLOUR.height)[None, :, None, None]
    middle = pictures[:, :, 4 : 4 + COLOUR.width].astype(np.float64)
    return np.clip(middle * tint + ground * slope, 0, 255).astype(np.uint8)


def _numbers(folder: Path) -> None:
    """Two outputs of one shape, neither of them probabilities."""
    import keras

    keras.utils.set_random_seed(2)
    layers = keras.layers
    entry = keras.Input((FEATURES,), name="features")
    hidden = layers.Dense(24, activation="relu", name="hidden")(entry)
    middle = layers.Dense(24, activation="tanh", name="middle")(hidden)
    outputs = [layers.Dense(3, name=name)(middle) for name in ("low", "high")]
    rows = {"features": np.random.default_rng(3).normal(size=(ROWS, FEATURES)).astype(np.float32)}
    network = keras.Model(entry, outputs)
    _write(folder, network, Questions(rows, None, "invented rows", TOLERANCE), {"low": 3, "high": 3}, None)


def _write(folder: Path, network: object, rows: Questions, outputs: Mapping[str, int], image: ImageSpec | None) -> None:
    """Write the source artifact, and its questions where `verify.questions.load` finds them."""
    name, values = next(iter(rows.inputs.items()))
    questions.write(folder.parent / questions.FOLDER / f"{folder.name}.npz", rows)
    with staged(folder / "keras") as staging:
        network.save(staging / "model.h5", include_optimizer=False)  # type: ignore[attr-defined]
        manifest = Manifest(
            model=folder.name,
            format="keras",
            parent=None,
            inputs=(TensorSpec(name, "float32", (None, *values.shape[1:]), "NHWC" if image else "NC"),),
            outputs=tuple(TensorSpec(output, "float32", (None, size), "NC") for output, size in outputs.items()),
            image=image,
            labels=LABELS if image else (),
            files=sha256_of_files(staging, [staging / "model.h5"]),
        )
        write_manifest(staging, manifest)


MADE: Mapping[str, Callable[[Path], None]] = {"colour": _colour, "numbers": _numbers}
