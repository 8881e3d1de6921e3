"""Frozen graphs of TensorFlow 1 (.pb): a graph whose variables are constants; written as a SavedModel."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from bring import names
from bring.description import DTYPES, Description, Input
from bring.inputs import described_input
from bring.probe import Arrays
from bring.readers.savedmodel import save_wrapped, spec_of
from bring.wrapping import Wrapping
from contract.errors import BroughtError, one_line
from contract.manifest import TensorSpec

SIDE = {"Assert", "NoOp", "Print", "PrintV2", "Const", "Placeholder"}
"""Operators that nobody reads, and that are not answers."""
NO_VALUE = {"dtype", "tensor_shape", "version_number"}
"""Fields of a constant that has no value."""


class FrozenSource:
    """Its inputs are its placeholders, its outputs the tensors that nothing in it reads."""

    format = "savedmodel"
    can_predict = True
    can_wrap = True
    fit = "stretch"
    scales = False
    note = "It goes on as a SavedModel, with the tensors as outputs that nothing in the graph reads."

    def __init__(self, path: Path, description: Description) -> None:
        try:
            definition = tf.compat.v1.GraphDef.FromString(path.read_bytes())
            _check_constants(definition, path.name)
            imported = tf.compat.v1.wrap_function(lambda: tf.import_graph_def(definition, name=""), [])
        except BroughtError:
            raise
        except Exception as error:  # TensorFlow may raise anything on a damaged file
            raise BroughtError(
                f"TensorFlow {tf.__version__} cannot read {path.name}: {one_line(error, 600)}"
            ) from error
        operations = imported.graph.get_operations()
        entries = [operation.outputs[0] for operation in operations if operation.type == "Placeholder"]
        exits = [
            tensor
            for operation in operations
            if operation.type not in SIDE and not any(output.consumers() for output in operation.outputs)
            for tensor in operation.outputs
        ]
        if not entries or not exits:
            raise BroughtError(f"{path.name} has {len(entries)} placeholders and {len(exits)} outputs: expected some.")
        self._function = imported.prune(entries, exits)
        described = {entry.name: entry for entry in description.inputs}
        inputs = [_entry(tensor, described.get(names.clean(tensor.name))) for tensor in entries]
        self.inputs, self.outputs, self.renamed = names.own(inputs, [_exit(tensor) for tensor in exits])

    def predict(self, inputs: Arrays) -> Sequence[NDArray[Any]]:
        answers = self._call(*(tf.constant(inputs[spec.name]) for spec in self.inputs))
        return [np.asarray(answer) for answer in answers]

    def write(self, folder: Path, wrapping: Wrapping) -> Sequence[Path]:
        return save_wrapped(self._call, [], folder, wrapping)

    def _call(self, *tensors: Any) -> Sequence[Any]:
        return list(tf.nest.flatten(self._function(*tensors)))


def _check_constants(definition: Any, name: str) -> None:
    """Raises BroughtError for a graph of which no constant has a value: zeros alone may be left out of a file."""
    constants = [node.attr["value"].tensor for node in definition.node if node.op == "Const"]
    if constants and all({field.name for field, _ in constant.ListFields()} <= NO_VALUE for constant in constants):
        raise BroughtError(
            f"{name} is a graph without its weights: none of its {len(constants)} constants has a value. TF.js before "
            "version 1.0 wrote such a file, with the weights in others beside it. Bring the frozen graph or the "
            "SavedModel that it was converted from, or the model.json that a later TF.js converter writes of that."
        )


def _entry(tensor: Any, described: Input | None) -> TensorSpec:
    """The input; where its rank is unknown, the user says it."""
    if described is None or tensor.shape.rank is not None:
        return spec_of(tensor, tensor.name)
    return replace(described_input(described, DTYPES), name=tensor.name)


def _exit(tensor: Any) -> TensorSpec:
    """The output; where its rank is unknown, the answer says it."""
    known = tensor if tensor.shape.rank is not None else tf.TensorSpec([None], tensor.dtype)
    return spec_of(known, tensor.name)
