"""TensorFlow SavedModels: the signature `serving_default`, or the only signature."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

from bring import names
from bring.description import WHOLE, Description
from bring.probe import Arrays
from bring.readers import savedmodel_v1
from bring.wrapping import Wrapping
from contract.errors import BroughtError, one_line
from contract.manifest import Manifest, TensorSpec
from export import signatures

ENDINGS: Mapping[str, Callable[[Any], Any]] = {
    "softmax": tf.nn.softmax,
    "sigmoid": tf.sigmoid,
    "both": lambda p: tf.concat([1 - p, p], 1),
}


FROZEN = "TensorFlow 1 wrote it: its variables are constants now, since TensorFlow 2 does not save those of that time."


class SavedModelSource:
    format = "savedmodel"
    can_predict = True
    can_wrap = True
    fit = "stretch"
    scales = False
    """It cannot be seen reliably: variables and calls in the graph hide what comes first."""

    def __init__(self, path: Path, description: Description) -> None:
        inputs: Mapping[str, Any]
        outputs: Mapping[str, Any]
        self._function: Any
        self._first = _of_tensorflow_1(path)
        if self._first:
            inputs, outputs, self._function, _ = self._first
            self.note = FROZEN
        else:
            self._model, self._function = _loaded(path)
            inputs, outputs = self._function.structured_input_signature[1], self._function.structured_outputs
        self._input_keys, self._output_keys = sorted(inputs), sorted(outputs)
        entries = [spec_of(inputs[key], key) for key in self._input_keys]
        if any(spec.dtype in WHOLE for spec in entries):  # to look costs a copy of all weights
            entries = list(_with_bounds(entries, self._function))
        exits = [spec_of(outputs[key], key) for key in self._output_keys]
        self.inputs, self.outputs, self.renamed = names.own(entries, exits)

    def predict(self, inputs: Arrays) -> Sequence[NDArray[Any]]:
        answers = self._call(*(tf.constant(inputs[spec.name]) for spec in self.inputs))
        return [np.asarray(answer) for answer in answers]

    def write(self, folder: Path, wrapping: Wrapping) -> Sequence[Path]:
        """Saved again, with a signature for any batch and one for a single row."""
        if self._first:  # without the loaded model, which has what initialises the variables that are gone
            return save_wrapped(self._call, self._first.tables, folder, wrapping)
        variables = self._function.graph.variables or self._function.variables
        return save_wrapped(self._call, [*variables, self._model], folder, wrapping)

    def _call(self, *tensors: Any) -> Sequence[Any]:
        if self._first:
            answers = self._function(*tensors)
        else:
            answers = self._function(**dict(zip(self._input_keys, tensors, strict=True)))
        return [answers[key] for key in self._output_keys]


def _loaded(path: Path) -> tuple[Any, Any]:
    """The model as TensorFlow 2 reads it, and its signature. Raises BroughtError."""
    try:
        model = tf.saved_model.load(str(path))
    except Exception as error:  # TensorFlow may raise anything on a damaged folder
        raise BroughtError(f"TensorFlow {tf.__version__} cannot read {path.name}: {one_line(error, 600)}") from error
    known = dict(model.signatures)
    key = savedmodel_v1.chosen(known)
    if key is None:
        raise BroughtError(
            f"{path.name} has the signatures {', '.join(known) or 'none'}: expected one called serving_default. "
            "Save it with tf.saved_model.save(model, folder, signatures=...), or with keras's model.export(folder)."
        )
    return model, known[key]


def _of_tensorflow_1(path: Path) -> savedmodel_v1.Frozen | None:
    """Its signature with constants in place of variables, where TensorFlow 1 wrote it and that can be had."""
    try:
        return savedmodel_v1.read(path)
    except Exception:  # TensorFlow may raise anything; then it is as TensorFlow 2 reads it
        return None


def save_wrapped(
    call: Callable[..., Sequence[Any]], variables: Sequence[Any], folder: Path, wrapping: Wrapping
) -> Sequence[Path]:
    """Write what `call` computes as a SavedModel, with its wrapping; `variables` are those that it reads."""

    def function(*tensors: Any) -> Sequence[Any]:
        if wrapping.preprocess is not None:
            tensors = (_prepared(tensors[0], wrapping),)
        answers = list(call(*tensors))
        for step in wrapping.ending:
            answers[0] = ENDINGS[step](answers[0])
        return answers

    manifest = Manifest("model", "savedmodel", None, wrapping.inputs, wrapping.outputs, None, (), batch=wrapping.batch)
    return signatures.save(function, variables, manifest, folder)


def _with_bounds(specs: Sequence[TensorSpec], function: Any) -> Iterator[TensorSpec]:
    """The inputs, by the function's names, with the ids that they take which choose rows of tables."""
    try:
        frozen = convert_variables_to_constants_v2(function, lower_control_flow=False)
    except Exception:  # TensorFlow may raise anything; then no bounds are known
        yield from specs
        return
    bounds_of: dict[str, list[tuple[int, int]]] = {}
    for operation in frozen.graph.get_operations():
        if operation.type == "GatherV2":
            table, ids, axis = map(_origin, operation.inputs)
            name, counts_from_the_end = _placeholder(ids)
            if name and table.op.type == "Const" and tf.get_static_value(axis) == 0:
                rows = int(table.shape[0])
                bounds_of.setdefault(name, []).append((-rows if counts_from_the_end else 0, rows - 1))
    for spec in specs:
        bounds = bounds_of.get(spec.name, [])
        yield replace(spec, bounds=(max(low for low, _ in bounds), min(high for _, high in bounds)) if bounds else None)


def _origin(tensor: Any) -> Any:
    """Where a tensor's values come from, before what only passes them on or makes them another integer."""
    while tensor.op.type in ("Identity", "Cast", "ReadVariableOp"):
        tensor = tensor.op.inputs[0]
    return tensor


def _placeholder(tensor: Any) -> tuple[str, bool]:
    """The name of the input that a tensor is, or ""; and whether negative ids are counted from the end, as by Keras."""
    is_counted = tensor.op.type == "SelectV2" and _origin(tensor.op.inputs[0]).op.type == "Less"
    origin = _origin(tensor.op.inputs[2]) if is_counted else tensor
    return (origin.op.name if origin.op.type == "Placeholder" else ""), is_counted


def _prepared(pixels: Any, wrapping: Wrapping) -> Any:
    assert wrapping.preprocess is not None
    factors, offsets = wrapping.affine()
    if wrapping.preprocess.order == "BGR":
        pixels = tf.gather(pixels, list(range(len(factors)))[::-1], axis=3)
    if wrapping.preprocess.changes_values:
        pixels = pixels * tf.constant(factors, tf.float32) + tf.constant(offsets, tf.float32)
    return tf.transpose(pixels, (0, 3, 1, 2)) if wrapping.preprocess.layout == "NCHW" else pixels


def spec_of(tensor: Any, name: str) -> TensorSpec:
    if tensor.shape.rank is None:
        raise BroughtError(f"The shape of {name!r} is unknown, even its rank: export the model with a shape for it.")
    shape = tuple(tensor.shape.as_list())
    dtype = "bytes" if tensor.dtype == tf.string else tensor.dtype.name
    layout = "NHWC" if len(shape) == 4 else "N" + "D" * (len(shape) - 1)
    return TensorSpec(name, dtype, shape, layout)
