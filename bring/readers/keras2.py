"""Models of Keras 2, which Keras 3 does not read: read by tf_keras, and written as a SavedModel.

A layer may have arguments that Keras 3 dropped (DepthwiseConv2D, LSTM), or be an operator of TensorFlow.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
import tf_keras
from numpy.typing import NDArray

from bring import names
from bring.description import Description
from bring.probe import Arrays
from bring.readers.keras import FIRST, SCALING, spec_of
from bring.readers.savedmodel import save_wrapped
from bring.wrapping import Wrapping
from contract.errors import BroughtError, one_line


class FixedDropout(tf_keras.layers.Dropout):  # type: ignore[misc]
    """Of EfficientNets that were trained with Keras 2: outside of training it does nothing, as any dropout."""


KNOWN = {"FixedDropout": FixedDropout, "relu6": tf.nn.relu6, "swish": tf.nn.silu, "hard_swish": tf.nn.relu6}
"""Classes and functions that files name, and that are not part of Keras."""


class Keras2Source:
    """A tf_keras model."""

    format = "savedmodel"
    can_predict = True
    can_wrap = True
    fit = "stretch"
    note = f"Keras 3 does not read it: tf_keras {tf_keras.__version__} does, and it goes on as a SavedModel."

    def __init__(self, model: Any, name: str) -> None:
        """Raises BroughtError for a model that was never built."""
        if not getattr(model, "inputs", None):
            raise BroughtError(
                f"{name} does not say the shape of its input. Build the model before saving it: "
                "begin with keras.Input(shape=...), or call it once."
            )
        self._model = model
        self.inputs, self.outputs, self.renamed = names.own(
            [spec_of(tensor, tensor.name) for tensor in model.inputs],
            list(map(spec_of, model.outputs, _output_names(model))),
        )
        self.scales = any(type(layer).__name__ in SCALING for layer in model.layers[:FIRST])

    def predict(self, inputs: Arrays) -> Sequence[NDArray[Any]]:
        answers = self._call(*(tf.constant(inputs[spec.name]) for spec in self.inputs))
        return [np.asarray(answer) for answer in answers]

    def write(self, folder: Path, wrapping: Wrapping) -> Sequence[Path]:
        # A variable of Keras 3 holds TensorFlow's own.
        weights = [each if isinstance(each, tf.Variable) else each.value for each in self._model.weights]
        return save_wrapped(self._call, [*weights, self._model], folder, wrapping)

    def _call(self, *tensors: Any) -> Sequence[Any]:
        answers = self._model(tensors[0] if len(tensors) == 1 else list(tensors), training=False)
        return list(tf.nest.flatten(answers))


def _output_names(model: Any) -> list[str]:
    names_of: list[str] = getattr(model, "output_names", None) or [tensor.name for tensor in model.outputs]
    return names_of


def read(file: Path, description: Description) -> Keras2Source:
    """The model in an `.h5` or `.keras` file, by its suffix. Raises BroughtError."""
    try:
        model = tf_keras.models.load_model(file, custom_objects=KNOWN, compile=False, safe_mode=not description.trusted)
    except Exception as error:  # Keras may raise anything on a damaged file
        raise BroughtError(
            f"tf_keras {tf_keras.__version__} cannot read {file.name}: {one_line(error, 600)}"
        ) from error
    return Keras2Source(model, file.name)
