"""An ONNX graph as a function of TensorFlow: node by node, in ONNX's own order of axes."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import tensorflow as tf
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto, helper, numpy_helper

from contract.errors import ExportError, one_line
from export.onnx_operators.values import plain

Handler = Callable[..., Any]
"""(node, *inputs) -> its output, or a tuple of its outputs. An optional input that is left out is None."""

SHARED = 256
"""Values of an array from which on it becomes a variable, which both signatures share."""


@dataclass(frozen=True)
class Node:
    """One node, for its handler."""

    operator: str
    attributes: Mapping[str, Any]
    opset: int
    outputs: int
    """How many it has."""
    translation: "Translation"
    is_folded: bool = False
    """Whether its inputs are all known, so that it is computed now."""

    def get(self, name: str, default: Any = None) -> Any:
        value = self.attributes.get(name, default)
        return value.decode() if isinstance(value, bytes) else value

    def weight(self, array: Any) -> Any:
        """The array as the graph's own: a large one is kept once, whoever reads it."""
        return array if self.is_folded else self.translation.weight(array)

    def turned(self, matrix: Any) -> Any:
        """The matrix with its axes exchanged, as the graph's own.

        A known one is exchanged now: TF.js 4.22 gives wrong answers for a fused product with a matrix to be exchanged.
        """
        known = plain(matrix)
        return self.weight(np.ascontiguousarray(known.T)) if isinstance(known, np.ndarray) else tf.transpose(known)

    def setting(self, name: str, value: Any, default: Any = None) -> Any:
        """A setting that is an attribute in older opsets, and an input `value` in newer ones, as an array."""
        if name in self.attributes:
            return np.asarray(self.attributes[name])
        return default if value is None else plain(value)


class Translation:
    """A model's graph, ready to be called with tensors."""

    def __init__(self, model: ModelProto, operators: Mapping[str, Handler], keep: frozenset[str]) -> None:
        """`keep` are the operators whose handlers take values as they are held (see values.py).

        Raises ExportError for a graph with operators that none of the handlers is for.
        """
        self.model = model
        self.operators = operators
        self.keep = keep
        self.opset = next((used.version for used in model.opset_import if used.domain in ("", "ai.onnx")), 1)
        self.inputs = [value.name for value in model.graph.input]
        self.variables: dict[str, Any] = {}
        known = {tensor.name for tensor in model.graph.initializer}
        self.inputs = [name for name in self.inputs if name not in known]
        if missing := sorted({_name(node) for node in _nodes(model.graph)} - set(operators)):
            raise ExportError(f"There is no translation of the ONNX operator {', '.join(missing)}.")

    def __call__(self, *tensors: Any) -> list[Any]:
        """The graph's outputs in their order. Raises ExportError with the node that cannot be translated."""
        values: dict[str, Any] = dict(zip(self.inputs, tensors, strict=True))
        self.run(self.model.graph, values)
        answers = [plain(values[output.name]) for output in self.model.graph.output]
        # An input that is an output as well, and a known answer, become tensors of their own.
        return [tf.identity(answer) for answer in answers]

    def run(self, graph: GraphProto, values: dict[str, Any]) -> None:
        """Add the values of all nodes; `values` has the inputs, and for a graph inside a node what lies around it."""
        values |= {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
        for node in graph.node:
            inputs = [values[name] if name else None for name in node.input]
            try:
                outputs = self._outputs(node, inputs, values)
            except ExportError:
                raise
            except Exception as error:  # TensorFlow may raise anything, and does not name the node
                where = f"{node.op_type} {node.name or node.output[0]}"
                raise ExportError(f"The ONNX node {where} cannot be translated: {one_line(error, 300)}") from error
            values |= {name: output for name, output in zip(node.output, outputs, strict=False) if name}

    def _outputs(self, node: NodeProto, inputs: Sequence[Any], values: dict[str, Any]) -> Sequence[Any]:
        attributes = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
        if any(isinstance(value, GraphProto) for value in attributes.values()):
            attributes["values"] = values
        name = _name(node)
        handler, known = self.operators[name], all(isinstance(value, np.ndarray | None) for value in inputs)
        about = Node(name, attributes, self.opset, len(node.output), self, known and "values" not in attributes)
        if name not in self.keep:
            inputs = [plain(value) for value in inputs]
        if about.is_folded:
            with tf.init_scope():
                return [_array(output) for output in _several(handler(about, *inputs))]
        if name not in self.keep:
            inputs = [self.weight(value) for value in inputs]
        return _several(handler(about, *inputs))

    def weight(self, array: Any) -> Any:
        """A large array of fractions as a variable; anything else as it is."""
        if not isinstance(array, np.ndarray) or array.size < SHARED or array.dtype.kind != "f":
            return array
        digest = hashlib.sha256(np.ascontiguousarray(array).data.cast("B")).hexdigest()
        key = f"{array.dtype} {array.shape} {digest}"
        if key not in self.variables:
            with tf.init_scope():
                self.variables[key] = tf.Variable(array, trainable=False)
        return self.variables[key]


def _name(node: NodeProto) -> str:
    return node.op_type if node.domain in ("", "ai.onnx") else f"{node.domain}.{node.op_type}"


def _nodes(graph: GraphProto) -> list[NodeProto]:
    inner = [
        inside for node in graph.node for attribute in node.attribute
        for inside in ([attribute.g] if attribute.HasField("g") else attribute.graphs)
    ]  # fmt: skip
    return [*graph.node, *(node for each in inner for node in _nodes(each))]


def _several(output: Any) -> Sequence[Any]:
    return output if isinstance(output, tuple | list) else (output,)


def _array(output: Any) -> NDArray[Any]:
    output = plain(output)
    return np.asarray(output.numpy() if hasattr(output, "numpy") else output)


def dtype_of(number: int) -> Any:
    """TensorFlow's dtype for ONNX's number of an element type."""
    if number == onnx.TensorProto.STRING:
        return tf.string
    return tf.as_dtype(helper.tensor_dtype_to_np_dtype(number))
