"""A graph with some of its nodes written with others."""

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2


def rewritten(function: Any, rewrite: Callable[[Any], bool]) -> Any | None:
    """A concrete function's graph after `rewrite` changed its definition, as a function of its inputs in their order.

    Its variables become constants. None where `rewrite` says that there was nothing to change.
    """
    frozen = convert_variables_to_constants_v2(function)
    definition = frozen.graph.as_graph_def()
    if not rewrite(definition):
        return None
    inputs, outputs = ([tensor.name for tensor in tensors] for tensors in (frozen.inputs, frozen.outputs))
    wrapped = tf.compat.v1.wrap_function(lambda: tf.graph_util.import_graph_def(definition, name=""), [])
    return wrapped.prune(_elements(wrapped, inputs), _elements(wrapped, outputs))


def _elements(wrapped: Any, names: Sequence[str]) -> list[Any]:
    return [wrapped.graph.as_graph_element(name) for name in names]


def splice(
    definition: Any, node: Any, write: Callable[..., Any], given: Sequence[Any], is_in_loop: bool = False
) -> None:
    """Put the nodes of a function of TensorFlow in place of one node, which then only names their result.

    `write` takes the node's inputs, which `given` describes: a tf.TensorSpec for each. Where the node is part of a
    loop, or may be, each new constant is tied to the node's first input, and so belongs to the same loop.
    """
    with tf.Graph().as_default() as graph:
        inputs = [tf.compat.v1.placeholder(spec.dtype, spec.shape, f"given_{n}") for n, spec in enumerate(given)]
        written = write(*inputs)
    outside = {tensor.op.name: source for tensor, source in zip(inputs, node.input, strict=False)}
    for inner in graph.as_graph_def().node:
        if inner.name in outside:
            continue
        copy = definition.node.add()
        copy.CopyFrom(inner)
        copy.name = f"{node.name}/{inner.name}"
        copy.input[:] = [outside.get(name) or f"{node.name}/{name}" for name in inner.input]
        if is_in_loop and inner.op == "Const":
            copy.input[:] = [f"^{node.input[0].partition(':')[0].lstrip('^')}"]
    node.op, node.input[:] = "Identity", [f"{node.name}/{written.name.removesuffix(':0')}"]
    node.attr.clear()
    node.attr["T"].type = written.dtype.as_datatype_enum
