"""Whole numbers in TensorFlow's graphs that are computed from the sizes of tensors alone, and so are small."""

from typing import Any

import tensorflow as tf

from export.splicing import splice

SIZES = ("Shape", "Size", "Rank")
"""Operators whose results are far below 2^24."""


def is_whole(node: Any) -> bool:
    return bool(tf.as_dtype(node.attr["T"].type).is_integer)


def is_of_sizes(definition: Any, node: Any) -> bool:
    """Whether a node of the graph depends on no value that a caller gives, but for the sizes of tensors."""
    by_name, seen, waiting = {each.name: each for each in definition.node}, set[str](), [node.name]
    while waiting:
        name = waiting.pop().lstrip("^").partition(":")[0]
        if name not in seen and by_name[name].op not in SIZES:
            seen.add(name)
            waiting += by_name[name].input
    return not any(by_name[name].op.startswith("Placeholder") for name in seen)


DIVISIONS = {"TruncateDiv": tf.truncatediv, "FloorDiv": tf.math.floordiv}


def divide_in_32_bits(definition: Any) -> bool:
    """Divide sizes of int64 as int32, which TF Lite divides alone; whether there were any."""
    nodes = [node for node in definition.node if node.op in DIVISIONS and node.attr["T"].type == tf.int64]
    nodes = [node for node in nodes if is_of_sizes(definition, node)]
    for node in nodes:
        splice(definition, node, _in_32_bits(node.op), [tf.TensorSpec(None, tf.int64)] * 2)
    return bool(nodes)


def _in_32_bits(operator: str) -> Any:
    def divide(*numbers: Any) -> Any:
        return tf.cast(DIVISIONS[operator](*(tf.cast(number, tf.int32) for number in numbers)), tf.int64)

    return divide
