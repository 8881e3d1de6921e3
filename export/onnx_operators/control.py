"""Nodes with graphs inside: If and Loop. What is decided while tracing leaves no loop in the artifact."""

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf
from onnx import GraphProto

from contract.errors import ExportError
from export.onnx_operators.graph import Handler, Node
from export.onnx_operators.values import Untranslated, plain

UNROLLED = 128
"""Passes that are written out."""


def answers_of(node: Node, graph: GraphProto, inputs: list[Any]) -> list[Any]:
    values = dict(node.attributes["values"]) | dict(zip((each.name for each in graph.input), inputs, strict=True))
    node.translation.run(graph, values)
    return [plain(values[each.name]) for each in graph.output]


def _if(node: Node, condition: Any) -> Any:
    known = condition if isinstance(condition, np.ndarray) else tf.get_static_value(condition)
    branches = [node.attributes[name] for name in ("then_branch", "else_branch")]
    if known is not None:
        return tuple(answers_of(node, branches[0 if bool(np.all(known)) else 1], []))
    if _only_squeezes(branches[0]):
        return tuple(answers_of(node, branches[0], []))
    settle(node)
    then, otherwise = (_branch(node, branch) for branch in branches)
    try:
        return tuple(tf.cond(tf.reshape(condition, []), then, otherwise))
    except ExportError:  # of inputs of this size only one branch can make something: parity decides about it
        return tuple(_first_possible(node, branches))


def _only_squeezes(graph: GraphProto) -> bool:
    """Whether a branch leaves out an axis and does nothing else, as PyTorch writes "if its size is 1".

    What comes next needs one rank, which is the smaller one wherever a network was trained.
    """
    return {node.op_type for node in graph.node} - {"Constant"} == {"Squeeze"}


def _first_possible(node: Node, branches: list[GraphProto]) -> list[Any]:
    error = None
    for branch in branches:
        try:
            return answers_of(node, branch, [])
        except ExportError as reason:
            error = error or reason
    raise error or ExportError("an If without branches")


def _branch(node: Node, graph: GraphProto) -> Callable[[], list[Any]]:
    return lambda: [tf.convert_to_tensor(answer) for answer in answers_of(node, graph, [])]


def settle(node: Node) -> None:
    """Permute what lies around the node now: a tensor that is made inside a branch or a loop exists only there."""
    for value in node.attributes["values"].values():
        plain(value)


def _loop(node: Node, count: Any, condition: Any, *state: Any) -> Any:
    body: GraphProto = node.attributes["body"]
    carried = len(state)
    if isinstance(count, np.ndarray) and int(count) <= UNROLLED and _always(body, condition):
        collected: list[list[Any]] = [[] for _ in body.output[carried + 1 :]]
        for place in range(int(count)):
            answers = answers_of(node, body, [np.array(place, np.int64), np.array(True), *state])
            state = tuple(answers[1 : carried + 1])
            for values, answer in zip(collected, answers[carried + 1 :], strict=True):
                values.append(answer)
        return (*state, *(tf.stack(values) for values in collected))
    if len(body.output) > carried + 1:
        raise Untranslated("a loop of an unknown number of passes that collects values")
    return _while(node, body, count, condition, state)


def _always(body: GraphProto, condition: Any) -> bool:
    """Whether the loop never ends early: what it answers is the condition that it was given, or a known true."""
    if condition is not None and not (isinstance(condition, np.ndarray) and bool(condition)):
        return False
    name = body.output[0].name
    for node in reversed(body.node):
        if name in node.output:
            if node.op_type == "Identity":
                name = node.input[0]
                continue
            value = node.attribute[0].t if node.op_type == "Constant" else None
            return value is not None and bool(value.raw_data[:1] == b"\x01" or list(value.int32_data) == [1])
    constants = {tensor.name: tensor for tensor in body.initializer}
    return name == body.input[1].name or name in constants


def _while(node: Node, body: GraphProto, count: Any, condition: Any, state: tuple[Any, ...]) -> Any:
    limit = tf.constant(2**31 - 1, tf.int64) if count is None else tf.cast(tf.reshape(count, []), tf.int64)
    start = tf.constant(True) if condition is None else tf.reshape(condition, [])

    def advance(place: Any, _: Any, *now: Any) -> Any:
        goes_on, *new = answers_of(node, body, [place, tf.constant(True), *now])
        return (place + 1, tf.reshape(goes_on, []), *new)

    settle(node)
    first = (tf.constant(0, tf.int64), start, *(tf.convert_to_tensor(value) for value in state))
    shapes = tuple(value.shape for value in first)
    return tf.while_loop(lambda place, goes_on, *_: (place < limit) & goes_on, advance, first, shapes)[2:]


OPERATORS: dict[str, Handler] = {"If": _if, "Loop": _loop}
