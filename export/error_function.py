"""The error function by arithmetic alone: TF Lite has no operator for it.

It is formula 7.1.26 of Abramowitz and Stegun, which is off by 1.5e-7 at most.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import tensorflow as tf

from export.splicing import splice

FACTORS = (1.061405429, -1.453152027, 1.421413741, -0.284496736, 0.254829592)
"""a5 to a1."""
P = 0.3275911


def erf(x: Any) -> Any:
    """The error function of a tensor of fractions."""
    share = 1.0 / (1.0 + P * tf.abs(x))
    total = tf.zeros_like(x)
    for factor in FACTORS:
        total = (total + factor) * share
    return tf.sign(x) * (1.0 - total * tf.exp(-tf.square(x)))


def erfc(x: Any) -> Any:
    return 1.0 - erf(x)


WRITTEN = {"Erf": erf, "Erfc": erfc}
"""TensorFlow's operator -> the same by arithmetic."""


def written_out(function: Any, operators: Mapping[str, Callable[[Any], Any]] = WRITTEN) -> Any | None:
    """A concrete function's graph with operators of one input written out, as a function of its inputs in their order.

    Its variables become constants. None where the graph has no such operator.
    """
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    frozen = convert_variables_to_constants_v2(function)
    definition = frozen.graph.as_graph_def()
    rewritten = [node for node in definition.node if node.op in operators]
    if not rewritten:
        return None
    for node in rewritten:
        dtype = tf.as_dtype(node.attr["T"].type)
        splice(definition, node, operators[node.op], [tf.TensorSpec(None, dtype)])
    inputs, outputs = ([tensor.name for tensor in tensors] for tensors in (frozen.inputs, frozen.outputs))
    wrapped = tf.compat.v1.wrap_function(lambda: tf.graph_util.import_graph_def(definition, name=""), [])
    return wrapped.prune(_elements(wrapped, inputs), _elements(wrapped, outputs))


def _elements(wrapped: Any, names: Sequence[str]) -> list[Any]:
    return [wrapped.graph.as_graph_element(name) for name in names]
