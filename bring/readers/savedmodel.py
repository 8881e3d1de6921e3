"""TensorFlow SavedModels: the signature `serving_default`, or the only signature."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from bring.description import Description
from bring.wrapping import Arrays, Wrapping
from contract.errors import BroughtError, one_line
from contract.manifest import Manifest, TensorSpec
from export import signatures


class SavedModelSource:
    format = "savedmodel"
    can_predict = True
    can_wrap = True
    scales = False
    """It cannot be seen reliably: variables and calls in the graph hide what comes first."""

    def __init__(self, path: Path, description: Description) -> None:
        try:
            self._model = tf.saved_model.load(str(path))
        except Exception as error:  # TensorFlow may raise anything on a damaged folder
            raise BroughtError(
                f"TensorFlow {tf.__version__} cannot read {path.name}: {one_line(error, 600)}"
            ) from error
        known = dict(self._model.signatures)
        if "serving_default" not in known and len(known) != 1:
            raise BroughtError(
                f"{path.name} has the signatures {', '.join(known) or 'none'}: expected one called serving_default. "
                "Save it with tf.saved_model.save(model, folder, signatures=...), or with keras's model.export(folder)."
            )
        self._function = known.get("serving_default") or next(iter(known.values()))
        inputs: dict[str, Any] = self._function.structured_input_signature[1]
        self._input_keys = {_clean(key): key for key in sorted(inputs)}
        self.inputs = tuple(_spec(inputs[key], name) for name, key in self._input_keys.items())
        outputs: dict[str, Any] = self._function.structured_outputs
        self._output_keys = sorted(outputs)
        self.outputs = tuple(_spec(outputs[key], _clean(key)) for key in self._output_keys)

    def predict(self, inputs: Arrays) -> Sequence[NDArray[Any]]:
        answers = self._call(*(tf.constant(inputs[spec.name]) for spec in self.inputs))
        return [np.asarray(answer) for answer in answers]

    def write(self, folder: Path, wrapping: Wrapping) -> Sequence[Path]:
        """Saved again, with a signature for any batch and one for a single row."""

        def function(*tensors: Any) -> Sequence[Any]:
            if wrapping.preprocess is not None:
                tensors = (_prepared(tensors[0], wrapping),)
            answers = list(self._call(*tensors))
            if wrapping.softmax:
                answers[0] = tf.nn.softmax(answers[0])
            return answers

        manifest = Manifest(
            "model", "savedmodel", None, wrapping.inputs, wrapping.outputs, None, (), batch=wrapping.batch
        )
        variables = self._function.graph.variables or self._function.variables
        return signatures.save(function, [*variables, self._model], manifest, folder)

    def _call(self, *tensors: Any) -> Sequence[Any]:
        named = {self._input_keys[spec.name]: tensor for spec, tensor in zip(self.inputs, tensors, strict=True)}
        answers = self._function(**named)
        return [answers[key] for key in self._output_keys]


def _prepared(pixels: Any, wrapping: Wrapping) -> Any:
    assert wrapping.preprocess is not None
    factors, offsets = wrapping.affine()
    if wrapping.preprocess.order == "BGR":
        pixels = tf.gather(pixels, list(range(len(factors)))[::-1], axis=3)
    if wrapping.preprocess.changes_values:
        pixels = pixels * tf.constant(factors, tf.float32) + tf.constant(offsets, tf.float32)
    return tf.transpose(pixels, (0, 3, 1, 2)) if wrapping.preprocess.layout == "NCHW" else pixels


def _spec(tensor: Any, name: str) -> TensorSpec:
    if tensor.shape.rank is None:
        raise BroughtError(f"The shape of {name!r} is unknown, even its rank: export the model with a shape for it.")
    shape = tuple(tensor.shape.as_list())
    dtype = "bytes" if tensor.dtype == tf.string else tensor.dtype.name
    layout = "NHWC" if len(shape) == 4 else "N" + "D" * (len(shape) - 1)
    return TensorSpec(name, dtype, shape, layout)


def _clean(name: str) -> str:
    return re.sub(r"\W", "_", name)
