"""TensorFlow SavedModel: the signature `serving_default`, or the only one."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from bring.description import Description
from bring.wrapping import Around, Arrays
from contract.errors import BroughtError, one_line
from contract.manifest import Manifest, TensorSpec
from export import signatures


class BroughtSavedModel:
    format = "savedmodel"
    can_ask = True
    can_wrap = True
    scales = False
    """A SavedModel's graph does not tell it reliably: variables and calls hide what comes first."""

    def __init__(self, path: Path, description: Description) -> None:
        try:
            self._model = tf.saved_model.load(str(path))
        except Exception as error:  # of any kind, on a folder that it does not like
            raise BroughtError(
                f"TensorFlow {tf.__version__} cannot read {path.name}: {one_line(error, 600)}"
            ) from error
        known = dict(self._model.signatures)
        if "serving_default" not in known and len(known) != 1:
            raise BroughtError(
                f"{path.name} has the signatures {', '.join(known) or 'none'}: one called serving_default is expected. "
                "Save it with tf.saved_model.save(model, folder, signatures=...), or with keras's model.export(folder)."
            )
        self._function = known.get("serving_default") or next(iter(known.values()))
        asked: dict[str, Any] = self._function.structured_input_signature[1]
        self._keys = {_clean(key): key for key in sorted(asked)}
        self.inputs = tuple(_spec(asked[key], name) for name, key in self._keys.items())
        given: dict[str, Any] = self._function.structured_outputs
        self._given = sorted(given)
        self.outputs = tuple(_spec(given[key], _clean(key)) for key in self._given)

    def predict(self, inputs: Arrays) -> Sequence[NDArray[Any]]:
        answers = self._call(*(tf.constant(inputs[spec.name]) for spec in self.inputs))
        return [np.asarray(answer) for answer in answers]

    def write(self, folder: Path, around: Around) -> Sequence[Path]:
        """Saved anew, with signatures for any batch and for one."""

        def function(*tensors: Any) -> Sequence[Any]:
            if around.preprocess is not None:
                tensors = (_prepared(tensors[0], around),)
            answers = list(self._call(*tensors))
            if around.softmax:
                answers[0] = tf.nn.softmax(answers[0])
            return answers

        manifest = Manifest("model", "savedmodel", None, around.inputs, around.outputs, None, (), batch=around.batch)
        variables = self._function.graph.variables or self._function.variables
        return signatures.save(function, [*variables, self._model], manifest, folder)

    def _call(self, *tensors: Any) -> Sequence[Any]:
        named = {self._keys[spec.name]: tensor for spec, tensor in zip(self.inputs, tensors, strict=True)}
        answers = self._function(**named)
        return [answers[key] for key in self._given]


def _prepared(pixels: Any, around: Around) -> Any:
    assert around.preprocess is not None
    factors, offsets = around.affine()
    if around.preprocess.order == "BGR":
        pixels = tf.gather(pixels, list(range(len(factors)))[::-1], axis=3)
    if around.preprocess.changes_values:
        pixels = pixels * tf.constant(factors, tf.float32) + tf.constant(offsets, tf.float32)
    return tf.transpose(pixels, (0, 3, 1, 2)) if around.preprocess.layout == "NCHW" else pixels


def _spec(tensor: Any, name: str) -> TensorSpec:
    if tensor.shape.rank is None:
        raise BroughtError(f"The shape of {name!r} is not known, not even how many sizes it has: export it with one.")
    shape = tuple(tensor.shape.as_list())
    dtype = "bytes" if tensor.dtype == tf.string else tensor.dtype.name
    layout = "NHWC" if len(shape) == 4 else "N" + "D" * (len(shape) - 1)
    return TensorSpec(name, dtype, shape, layout)


def _clean(name: str) -> str:
    return re.sub(r"\W", "_", name)
