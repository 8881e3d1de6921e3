"""Keras files, `.h5` and `.keras`."""

import itertools
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from bring.description import Description
from bring.wrapping import Arrays, Wrapping
from contract.errors import BroughtError, one_line
from contract.manifest import TensorSpec
from export.keras_model import load_keras_file

SCALING = ("Rescaling", "Normalization")
FIRST = 4
"""How many of the first layers may be the one that scales."""


class KerasSource:
    format = "keras"
    can_predict = True
    can_wrap = True

    def __init__(self, path: Path, description: Description) -> None:
        self._path = path
        # Keras goes by the suffix, which the file need not have.
        self._suffix = ".keras" if path.read_bytes()[:2] == b"PK" else ".h5"
        try:
            self._model = self._load(path, description)
        except BroughtError:
            raise
        except Exception as error:  # Keras may raise anything on a damaged file
            raise BroughtError(f"Keras {keras.__version__} cannot read {path.name}: {one_line(error, 600)}") from error
        if not getattr(self._model, "inputs", None):
            raise BroughtError(
                f"{path.name} does not say the shape of its input. Build the model before saving it: "
                "begin with keras.Input(shape=...), or call it once."
            )
        self.inputs = tuple(_spec(tensor, tensor.name) for tensor in self._model.inputs)
        names = getattr(self._model, "output_names", None) or [tensor.name for tensor in self._model.outputs]
        self.outputs = tuple(
            _spec(tensor, name) for tensor, name in zip(self._model.outputs, _unique(names), strict=True)
        )
        layers = [type(layer).__name__ for layer in self._model.layers[:FIRST]]
        self.scales = any(layer in SCALING for layer in layers)

    def _load(self, path: Path, description: Description) -> Any:
        if path.suffix == self._suffix:
            return load_keras_file(path, description.trusted)
        copy = shutil.copy(path, Path.cwd() / f"model{self._suffix}")
        return load_keras_file(Path(copy), description.trusted)

    def predict(self, inputs: Arrays) -> Sequence[NDArray[Any]]:
        values = [inputs[spec.name] for spec in self.inputs]
        answers = self._model(values[0] if len(values) == 1 else values, training=False)
        return [np.asarray(answer) for answer in keras.tree.flatten(answers)]

    def write(self, folder: Path, wrapping: Wrapping) -> Sequence[Path]:
        """A copy of the file where nothing is added around its graph."""
        target = folder / f"model{self._suffix if wrapping.is_nothing else '.keras'}"
        if wrapping.is_nothing:
            shutil.copyfile(self._path, target)
        else:
            self._wrapped(wrapping).save(target)
        return [target]

    def _wrapped(self, wrapping: Wrapping) -> Any:
        entries = [keras.Input(spec.shape[1:], dtype=spec.dtype, name=spec.name) for spec in wrapping.inputs]
        values = list(entries)
        if wrapping.preprocess is not None:
            values = [_prepared(entries[0], wrapping)]
        answers = keras.tree.flatten(self._model(values[0] if len(values) == 1 else values))
        if wrapping.softmax:
            answers[0] = keras.layers.Softmax(name="probabilities")(answers[0])
        return keras.Model(entries, answers if len(answers) > 1 else answers[0], name="shipped")


def _prepared(pixels: Any, wrapping: Wrapping) -> Any:
    assert wrapping.preprocess is not None
    factors, offsets = wrapping.affine()
    if wrapping.preprocess.order == "BGR":
        # A product with a matrix, as in a 1x1 convolution: every runtime is fast at it, and not at a reversed slice.
        swap = keras.layers.Dense(len(factors), use_bias=False, trainable=False, name="rgb_to_bgr")
        pixels = swap(pixels)
        swap.set_weights([np.eye(len(factors), dtype=np.float32)[:, ::-1]])
    if wrapping.preprocess.changes_values:
        pixels = keras.layers.Rescaling(factors, offsets, name="preprocess")(pixels)
    return keras.layers.Permute((3, 1, 2), name="to_nchw")(pixels) if wrapping.preprocess.layout == "NCHW" else pixels


def _unique(names: Sequence[str]) -> list[str]:
    """Each name once: Keras calls outputs after their layers, and a layer that is used twice gives two of them."""
    unique: list[str] = []
    for name in names:
        numbered = (f"{name}_{number}" for number in itertools.count(1))
        unique.append(name if name not in unique else next(each for each in numbered if each not in (*unique, *names)))
    return unique


def _spec(tensor: Any, name: str) -> TensorSpec:
    clean = re.sub(r"\W", "_", name.split(":")[0])
    shape = tuple(tensor.shape)
    layout = "NHWC" if len(shape) == 4 else "N" + "D" * (len(shape) - 1)
    return TensorSpec(clean, keras.backend.standardize_dtype(tensor.dtype), shape, layout)
