"""Scan: a graph that runs for each entry of a sequence."""

from typing import Any

import numpy as np
import tensorflow as tf
from onnx import GraphProto, NodeProto, helper, numpy_helper

from export.onnx_operators.control import UNROLLED, answers_of, settle
from export.onnx_operators.graph import Handler, Node
from export.onnx_operators.values import Untranslated, plain, sizes_of

LARGEST = 2**22
"""Values of all steps for one row that are computed at once. A row has them all in memory, where ONNX Runtime has those
of one step: 16 MiB of float32."""
EACH = frozenset({"Identity", "Add", "Sub", "Mul", "Div", "Abs", "Neg", "Pow", "Sqrt", "Exp", "Max", "Min", "Cast"})
REDUCING = frozenset({"ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceSumSquare", "ReduceL1", "ReduceL2"})


def _scan(node: Node, *values: Any) -> Any:
    if node.opset < 9:
        raise Untranslated("a Scan of before opset 9")
    if any(node.get(name) and any(node.get(name)) for name in ("scan_input_axes", "scan_output_axes")):
        raise Untranslated("a Scan along another axis than the first")
    states = len(values) - int(node.attributes["num_scan_inputs"])
    state, sequences = list(values[:states]), [plain(value) for value in values[states:]]
    steps = sizes_of(sequences[0])[0]
    at_once = _at_once(node, state, sequences) if isinstance(steps, int) else None
    if at_once is not None:
        return tuple(at_once)
    way = _unrolled if isinstance(steps, int) and steps <= UNROLLED else _looped
    return tuple(way(node, state, sequences, steps))


def _turns(node: Node, name: str, count: int) -> list[bool]:
    """Which of the sequences run from their end."""
    return [bool(turn) for turn in node.get(name) or [0] * count]


def _step(node: Node, state: list[Any], sequences: list[Any], place: Any, steps: Any) -> list[Any]:
    """The answers of one step."""
    turns = _turns(node, "scan_input_directions", len(sequences))
    places = [steps - 1 - place if turn else place for turn in turns]
    entries = [sequence[at] for sequence, at in zip(sequences, places, strict=True)]
    return answers_of(node, node.attributes["body"], [*state, *entries])


def _unrolled(node: Node, state: list[Any], sequences: list[Any], steps: int) -> list[Any]:
    """Each step written out."""
    states, collected = len(state), []
    for place in range(steps):
        answers = _step(node, state, sequences, place, steps)
        state = answers[:states]
        collected.append(answers[states:])
    columns = [list(column) for column in zip(*collected, strict=True)]
    turns = _turns(node, "scan_output_directions", len(columns))
    return [*state, *(tf.stack(column[::-1] if turn else column) for turn, column in zip(turns, columns, strict=True))]


def _looped(node: Node, state: list[Any], sequences: list[Any], steps: Any) -> list[Any]:
    """A loop of the artifact's own, for steps that are many, or as many as the rows that are sent."""
    settle(node)
    states, steps = len(state), tf.cast(steps, tf.int32)
    sequences = [tf.convert_to_tensor(sequence) for sequence in sequences]
    first = [tf.convert_to_tensor(value) for value in state]
    like = [tf.convert_to_tensor(each) for each in _step(node, list(first), sequences, 0, steps)[states:]]
    turns = _turns(node, "scan_output_directions", len(like))
    arrays = [tf.TensorArray(each.dtype, steps, element_shape=each.shape) for each in like]

    def advance(place: Any, now: list[Any], collected: list[Any]) -> Any:
        answers = [tf.convert_to_tensor(answer) for answer in _step(node, now, sequences, place, steps)]
        written = [
            array.write(steps - 1 - place if turn else place, answer)
            for array, turn, answer in zip(collected, turns, answers[states:], strict=True)
        ]
        return place + 1, answers[:states], written

    _, last, collected = tf.while_loop(lambda place, *_: place < steps, advance, (tf.constant(0), first, arrays))
    return [*last, *(array.stack() for array in collected)]


def _at_once(node: Node, state: list[Any], sequences: list[Any]) -> list[Any] | None:
    """All steps in one computation, where each knows nothing of the others: distances to rows that were learnt.

    What differs from step to step has the steps as another, first axis. None where the body does more than this.
    """
    body: GraphProto = node.attributes["body"]
    names, states = [each.name for each in body.input], len(state)
    is_turned = any(_turns(node, "scan_input_directions", 1) + _turns(node, "scan_output_directions", 1))
    is_small = all(np.prod(sequence.shape, initial=1) <= LARGEST for sequence in sequences if _is_known(sequence))
    if is_turned or not is_small or not all(map(_is_known, sequences)):
        return None
    values = dict(node.attributes["values"]) | dict(zip(names, [*state, *sequences], strict=True))
    values |= {tensor.name: numpy_helper.to_array(tensor) for tensor in body.initializer}
    ranks = {name: len(sequence.shape) - 1 for name, sequence in zip(names[states:], sequences, strict=True)}
    for each in body.node:
        if not _run(node, each, values, ranks):
            return None
    kept, ends = ([each.name for each in part] for part in (body.output[:states], body.output[states:]))
    is_kept = all(_origin(body, end) == name for end, name in zip(kept, names[:states], strict=True))
    return [*state, *(plain(values[end]) for end in ends)] if is_kept and all(end in ranks for end in ends) else None


def _is_known(value: Any) -> bool:
    return None not in tuple(value.shape)


def _run(node: Node, each: NodeProto, values: dict[str, Any], ranks: dict[str, int]) -> bool:
    """Add a node's values for all steps, and the rank of one step's; whether that can be done."""
    if not any(name in ranks for name in each.input):
        node.translation.run(GraphProto(node=[each]), values)
        return True
    inputs = {name: plain(values[name]) for name in each.input if name}
    if each.op_type in EACH:
        rank = max(ranks.get(name, len(value.shape)) for name, value in inputs.items())
        changed = {name: _widened(inputs[name], rank - ranks[name]) for name in inputs if name in ranks}
    elif each.op_type in REDUCING and (moved := _moved(each, inputs, ranks[each.input[0]])) is not None:
        each, rank, changed = moved
    else:
        return False
    scratch = values | changed
    node.translation.run(GraphProto(node=[each]), scratch)
    values[each.output[0]], ranks[each.output[0]] = scratch[each.output[0]], rank
    return True


def _widened(value: Any, more: int) -> Any:
    """The value with more axes behind the steps, so that it meets one of a higher rank."""
    return value[(slice(None), *[np.newaxis] * more)] if more else value


def _moved(each: NodeProto, inputs: dict[str, Any], rank: int) -> tuple[NodeProto, int, dict[str, Any]] | None:
    """A reduction of one axis further, the rank of its result, and the axes by their name; None for unknown axes."""
    about = {attribute.name: helper.get_attribute_value(attribute) for attribute in each.attribute}
    axes = about.get("axes") or (inputs.get(each.input[1]) if len(each.input) > 1 else None)
    if not isinstance(axes, list | tuple | np.ndarray) or not len(axes):
        return None
    places = np.array([int(axis) % rank + 1 for axis in axes], np.int64)
    result = rank if about.get("keepdims", 1) else rank - len(places)
    if len(each.input) > 1:
        return each, result, {each.input[1]: places}
    about["axes"] = places.tolist()
    return helper.make_node(each.op_type, each.input, each.output, **about), result, {}


def _origin(body: GraphProto, name: str) -> str:
    """The name of which another one is only a copy."""
    copies = {each.output[0]: each.input[0] for each in body.node if each.op_type == "Identity"}
    while name in copies:
        name = copies[name]
    return name


OPERATORS: dict[str, Handler] = {"Scan": _scan}
