"""Rows that are picked, or reversed, each by numbers of its own, in TF.js.

TF.js has no ReverseSequence, of which masked layers are made that read backwards. Its WebAssembly backend answers
Gather with batch_dims from wrong rows, from the second row on. Both are written here as a Gather from one list.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from export.splicing import splice


def is_gather_by_rows(node: Any) -> bool:
    return bool(node.op == "GatherV2" and node.attr["batch_dims"].i != 0)


def write_out(graph: Any, definition: Any, node: Any) -> None:
    """Replace the node, of `graph`, in its definition. One of unknown ranks or of an unknown axis stays as it is."""
    operation = graph.get_operation_by_name(node.name)
    are_ranks_known = all(tensor.shape.rank is not None for tensor in operation.inputs)
    if not are_ranks_known or (node.op == "GatherV2" and tf.get_static_value(operation.inputs[2]) is None):
        return
    write = _reversal(operation) if node.op == "ReverseSequence" else _gather(operation)

    def numbers_alone(x: Any, *others: Any) -> Any:
        y = write(tf.cast(x, tf.int32) if x.dtype == tf.bool else x, *others)
        return tf.cast(y, x.dtype)

    given = [tf.TensorSpec(tensor.shape, tensor.dtype) for tensor in operation.inputs]
    splice(definition, node, numbers_alone, given, is_in_loop=True)


def _reversal(operation: Any) -> Callable[..., Any]:
    rows, lengths = operation.inputs
    sequence, batch = operation.get_attr("seq_dim"), operation.get_attr("batch_dim")
    known = tf.get_static_value(lengths)
    if known is not None and np.all(known == rows.shape[sequence]):
        return lambda x, _: tf.reverse(x, [sequence])
    return lambda x, lengths: reversed_each(x, lengths, sequence, batch)


def _gather(operation: Any) -> Callable[..., Any]:
    batch, number = operation.get_attr("batch_dims"), int(tf.get_static_value(operation.inputs[2]))
    return lambda x, places, _: gathered(
        x, places, number % len(x.shape), batch if batch > 0 else batch + len(places.shape)
    )


def reversed_each(x: Any, lengths: Any, sequence: int, batch: int) -> Any:
    """The first `lengths[i]` places of row i along the axis `sequence` in the other order, and the rest as they are."""
    others = [axis for axis in range(len(x.shape)) if axis not in (batch, sequence)]
    order = [batch, sequence, *others]
    rows = tf.transpose(x, order)
    places = tf.range(tf.shape(rows)[1])[None]
    last = tf.cast(lengths, tf.int32)[:, None] - 1
    is_within = tf.cast(places <= last, tf.int32)
    turned = gathered(rows, places + is_within * (last - 2 * places), 1, 1)
    return tf.transpose(turned, np.argsort(order))


def gathered(x: Any, places: Any, axis: int, batch: int) -> Any:
    """tf.gather(x, places, axis=axis, batch_dims=batch), where `batch` is at least 1 and at most `axis`."""
    rest, outer = len(places.shape) - batch, axis - batch
    rows = tf.transpose(x, [*range(batch), axis, *(each for each in range(batch, len(x.shape)) if each != axis)])
    sizes = tf.shape(rows)
    count = sizes[0]
    for place in range(1, batch):
        count = count * sizes[place]
    flat = tf.reshape(rows, tf.concat([[count * sizes[batch]], sizes[batch + 1 :]], 0))
    begins = tf.reshape(tf.range(count) * sizes[batch], tf.concat([sizes[:batch], [1] * rest], 0))
    y = tf.gather(flat, begins + tf.cast(places, tf.int32))
    first, last = batch + rest, batch + rest + outer
    return tf.transpose(y, [*range(batch), *range(first, last), *range(batch, first), *range(last, len(y.shape))])
