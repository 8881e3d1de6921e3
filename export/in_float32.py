"""Graphs of float64 and float16 computed in float32: TF Lite has most of its operators for float32 alone.

Those of bfloat16 stay: it rounds so much that float32 does not answer like it.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np
import tensorflow as tf

OTHERS, SINGLE = (tf.float64.as_datatype_enum, tf.float16.as_datatype_enum), tf.float32.as_datatype_enum


def in_float32(definition: Any) -> bool:
    """Make every float64 and float16 of a graph, and of its functions, float32; whether there was any."""
    functions = definition.library.function
    arguments = [each for call in functions for each in (*call.signature.input_arg, *call.signature.output_arg)]
    are_changed = [_change(node) for nodes in _lists_of_nodes(definition) for node in nodes]
    for argument in arguments:
        if argument.type in OTHERS:
            argument.type = SINGLE
    return any(are_changed)


def _lists_of_nodes(definition: Any) -> Iterable[Any]:
    return definition.node, *(function.node_def for function in definition.library.function)


def _change(node: Any) -> bool:
    is_changed = False
    for value in node.attr.values():
        if value.HasField("type") and value.type in OTHERS:
            value.type, is_changed = SINGLE, True
        elif value.HasField("tensor") and value.tensor.dtype in OTHERS:
            with np.errstate(over="ignore"):  # beyond float32 a number is infinite, as it would be computed
                numbers = tf.make_ndarray(value.tensor).astype(np.float32)
            value.tensor.CopyFrom(tf.make_tensor_proto(numbers))
            is_changed = True
        elif value.HasField("list") and set(OTHERS) & set(value.list.type):
            value.list.type[:] = [SINGLE if kind in OTHERS else kind for kind in value.list.type]
            is_changed = True
    return is_changed
