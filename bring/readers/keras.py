"""Keras files, `.h5` and `.keras`."""

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from bring import names
from bring.description import Description
from bring.probe import Arrays
from bring.readers.keras_entries import NOTE, with_entries
from bring.wrapping import Source, Wrapping
from contract.errors import BroughtError, one_line
from contract.manifest import TensorSpec
from export.keras_model import computed_in, load_keras_file

SCALING = ("Rescaling", "Normalization")
FIRST = 4
"""How many of the first layers may be the one that scales."""


def read(path: Path, description: Description) -> Source:
    """The model as Keras 3 reads it, else as tf_keras does. Raises BroughtError with Keras 3's words."""
    try:
        return KerasSource(path, description)
    except BroughtError as error:
        from bring.readers import keras2  # only files of Keras 2 need it

        try:
            return keras2.read(_named(path), description)
        except BroughtError as other:
            raise BroughtError(f"{error} {other}") from error


def _named(path: Path) -> Path:
    """The file under a name with the suffix of its content: both versions of Keras go by it."""
    with path.open("rb") as stream:
        suffix = ".keras" if stream.read(2) == b"PK" else ".h5"
    return path if path.suffix == suffix else Path(shutil.copy(path, Path.cwd() / f"model{suffix}"))


class KerasSource:
    format = "keras"
    can_predict = True
    can_wrap = True
    fit = "stretch"

    def __init__(self, path: Path, description: Description) -> None:
        named = _named(path)
        self._suffix = named.suffix
        try:
            mended = with_entries(named) if self._suffix == ".h5" else None
            self._path = named = mended or named
            self._model = load_keras_file(named, description.trusted)
        except Exception as error:  # Keras may raise anything on a damaged file
            raise BroughtError(f"Keras {keras.__version__} cannot read {path.name}: {one_line(error, 600)}") from error
        if not getattr(self._model, "inputs", None):
            raise BroughtError(
                f"{path.name} does not say the shape of its input. Build the model before saving it: "
                "begin with keras.Input(shape=...), or call it once."
            )
        outputs = getattr(self._model, "output_names", None) or [tensor.name for tensor in self._model.outputs]
        self.inputs, self.outputs, self.renamed = names.own(
            [replace(spec_of(each, each.name), bounds=_bounds(self._model, each)) for each in self._model.inputs],
            list(map(spec_of, self._model.outputs, outputs)),
        )
        self.computed_in = computed_in(self._model)
        notes = [NOTE] if mended else []
        if self.computed_in:
            counts = ", ".join(f"{count} in {dtype}" for dtype, count in self.computed_in.items())
            notes.append(f"Its layers with weights do not all compute in float32: {counts}.")
        self.note = " ".join(notes)
        layers = [type(layer).__name__ for layer in self._model.layers[:FIRST]]
        self.scales = any(layer in SCALING for layer in layers)

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
        for step in wrapping.ending:
            answers[0] = _ended(answers[0], step)
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


def _ended(answers: Any, step: str) -> Any:
    if step != "both":
        return keras.layers.Activation(step, name=step)(answers)
    # A product with a matrix, which every runtime knows: (1 - p, p).
    both = keras.layers.Dense(2, trainable=False, name="both")
    pair = both(answers)
    both.set_weights([np.array([[-1, 1]], np.float32), np.array([1, 0], np.float32)])
    return pair


def _bounds(model: Any, tensor: Any) -> tuple[int, int] | None:
    """The ids that an input takes which goes into embeddings; None where it goes into none."""
    sizes = list(_tables(model, tensor))
    return (-min(sizes), min(sizes) - 1) if sizes else None  # Keras counts negative ids from the end


def _tables(model: Any, tensor: Any) -> Iterator[int]:
    """The numbers of rows of the embeddings that a tensor goes into, also in models that are layers of this one."""
    for layer in model.layers:
        for node in layer._inbound_nodes:
            for place, entry in enumerate(node.input_tensors):
                if entry is not tensor:
                    continue
                if isinstance(layer, keras.layers.Embedding):
                    yield layer.input_dim
                elif isinstance(layer, keras.Model) and place < len(getattr(layer, "inputs", None) or ()):
                    yield from _tables(layer, layer.inputs[place])


def spec_of(tensor: Any, name: str) -> TensorSpec:
    shape = tuple(tensor.shape)
    layout = "NHWC" if len(shape) == 4 else "N" + "D" * (len(shape) - 1)
    return TensorSpec(name, keras.backend.standardize_dtype(getattr(tensor.dtype, "name", tensor.dtype)), shape, layout)
