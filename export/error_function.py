"""The error function by arithmetic alone: TF Lite has no operator for it.

It is formula 7.1.26 of Abramowitz and Stegun, which is off by 1.5e-7 at most.
"""

from collections.abc import Callable, Mapping
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


def written_out(definition: Any, operators: Mapping[str, Callable[[Any], Any]] = WRITTEN) -> bool:
    """Write the operators of one input out in a graph's definition; whether there was any, outside of its functions."""
    nodes = [node for node in definition.node if node.op in operators]
    for node in nodes:
        dtype = tf.as_dtype(node.attr["T"].type)
        splice(definition, node, operators[node.op], [tf.TensorSpec(None, dtype)])
    return bool(nodes)
