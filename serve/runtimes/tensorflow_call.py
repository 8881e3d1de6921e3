"""How the TensorFlow runtimes call a function: as a frozen graph where it can be frozen.

A call of a small network's concrete function takes about 280 us, of which the graph itself takes a quarter: the rest is
eager execution. With its variables as constants, a session runs the same graph in the caller's own thread.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray
from tensorflow.core.protobuf import config_pb2
from tensorflow.python.framework import convert_to_constants

MAX_BYTES = 2**29
"""Larger models are not frozen: that copies the variables, and beside theirs a call's own cost does not count."""

Call = Callable[..., Sequence[NDArray[Any]]]
"""Arrays, in the function's flat order -> all its outputs, in their flat order."""


def set_threads(threads: int) -> None:
    """TensorFlow's pools have one size for the whole process, which can be set only before its first operation."""
    try:
        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.threading.set_inter_op_parallelism_threads(threads)
    except RuntimeError:
        pass  # another artifact was loaded before, with the same setting


def frozen_call(function: Any, inputs: int, threads: int) -> Call | None:
    """A tf.ConcreteFunction with `inputs` tensors, frozen; None where that is not possible.

    It is not possible where the function changes its variables, reads tables, or has more than MAX_BYTES of weights.
    """
    if _reads_tables(function) or _bytes_of_variables(function) > MAX_BYTES:
        return None
    graph = tf.Graph()
    try:
        definition, names = _with_constants(function)
        with graph.as_default():
            tf.graph_util.import_graph_def(definition, name="")
    except Exception:  # TensorFlow raises anything for what it cannot freeze
        return None
    if len(names) != inputs:  # what it reads besides, such as a table, is still an input
        return None
    # -1: operators run in the caller's thread. To hand them to a pool costs more than a small network's operators do.
    settings = config_pb2.ConfigProto(intra_op_parallelism_threads=threads, inter_op_parallelism_threads=-1)
    session = tf.compat.v1.Session(graph=graph, config=settings)
    # `Session.make_callable` does the same, but takes 110 us longer: it prepares each call as `Session.run` does.
    run = session._make_callable_from_options(
        config_pb2.CallableOptions(feed=names, fetch=[tensor.name for tensor in function.outputs])
    )
    return lambda *arrays: [np.asarray(answer) for answer in run(*arrays)]


def _with_constants(function: Any) -> tuple[Any, list[str]]:
    """The function's graph with its variables as constants, and the names of its inputs.

    TensorFlow's `convert_variables_to_constants_v2` does this, and then makes a function of the graph, node by node.
    Nobody calls that one here, and for a deep network it takes three times as long as the graph itself.
    """
    data = convert_to_constants._FunctionConverterDataInEager(
        function, lower_control_flow=True, aggressive_inlining=False
    )
    definition, converted = convert_to_constants._replace_variables_by_constants(data)
    constants = {id(function.graph.internal_captures[index]) for index in converted}
    return definition, [tensor.name for tensor in function.inputs if id(tensor) not in constants]


def _reads_tables(function: Any) -> bool:
    """Whether it holds resources that are not variables: these live outside of the graph."""
    variables = {id(variable.handle) for variable in function.variables}
    return any(held.dtype == tf.resource and id(held) not in variables for held in function.captured_inputs)


def _bytes_of_variables(function: Any) -> int:
    return sum(variable.dtype.size * (variable.shape.num_elements() or 0) for variable in function.variables)


def eager_call(function: Callable[..., Any]) -> Call:
    """A function of tensors as a function of arrays."""
    return lambda *arrays: [answer.numpy() for answer in tf.nest.flatten(function(*map(tf.constant, arrays)))]
