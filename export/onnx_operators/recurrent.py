"""LSTM, GRU and RNN: written out step by step where the number of steps is known, else as a loop."""

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from export.onnx_operators.graph import Handler, Node
from export.onnx_operators.values import Untranslated, plain, sizes_of

UNROLLED = 128
"""Steps that are written out: a longer sequence is a loop, which fewer runtimes have."""

Step = Callable[[Any, tuple[Any, ...]], tuple[Any, ...]]
"""(a step's share of the input (N, gates * units), the state) -> the next state, whose first part is the answer."""

ACTIVATIONS: dict[str, Callable[[Any], Any]] = {
    "sigmoid": tf.sigmoid, "tanh": tf.tanh, "relu": tf.nn.relu, "softsign": tf.nn.softsign,
}  # fmt: skip


def _layer(gates: int, states: int, step: Callable[..., Step]) -> Handler:
    def apply(
        node: Node, x: Any, kernel: Any, recurrent: Any, bias: Any = None, lengths: Any = None, *initial: Any
    ) -> tuple[Any, ...]:
        if node.get("layout", 0):
            raise Untranslated("a recurrent layer with the batch first")
        if any(state is not None for state in initial[states:]):
            raise Untranslated("an LSTM with peepholes")
        x, kernel, recurrent, bias, lengths = (plain(value) for value in (x, kernel, recurrent, bias, lengths))
        given = [plain(state) for state in initial[:states]]
        directions, units = recurrent.shape[0], recurrent.shape[-1]
        backward = {"forward": [False], "reverse": [True], "bidirectional": [False, True]}[
            node.get("direction", "forward")
        ]
        batch = sizes_of(x)[1]
        answers, ends = [], []
        for place, is_backward in zip(range(directions), backward, strict=True):
            state = tuple(
                tf.zeros([batch, units], x.dtype) if place_of is None else place_of[place]
                for place_of in (*given, *[None] * (states - len(given)))
            )
            share = tf.matmul(x, node.turned(kernel[place]))
            own = None if bias is None else bias[place]
            stepper = step(node, recurrent[place], own, units, _activations(node, place, gates))
            answer, end = _run(stepper, share, state, lengths, is_backward)
            answers.append(answer)
            ends.append(end)
        whole = tf.stack(answers, axis=1)  # (steps, directions, N, units)
        return (whole, *(tf.stack(parts) for parts in zip(*ends, strict=True)))[: node.outputs]

    return apply


def _activations(node: Node, direction: int, gates: int) -> list[Callable[[Any], Any]]:
    usual = {1: ["Tanh"], 3: ["Sigmoid", "Tanh"], 4: ["Sigmoid", "Tanh", "Tanh"]}[gates]
    names = [
        name.decode() if isinstance(name, bytes) else name for name in node.attributes.get("activations", ())
    ] or usual * 2
    own = names[direction * len(usual) : (direction + 1) * len(usual)]
    if node.get("clip") or any(name.lower() not in ACTIVATIONS for name in own):
        raise Untranslated(f"a recurrent layer with {', '.join(own)} or a clip")
    return [ACTIVATIONS[name.lower()] for name in own]


def _run(step: Step, share: Any, state: tuple[Any, ...], lengths: Any, is_backward: bool) -> tuple[Any, Any]:
    """The answers (steps, N, units), and the last state."""
    steps = sizes_of(share)[0]

    def advance(place: Any, now: tuple[Any, ...]) -> tuple[tuple[Any, ...], Any]:
        new = step(share[place], now)
        if lengths is None:
            return new, new[0]
        is_within = tf.expand_dims(tf.less(place, tf.cast(lengths, tf.int32)), 1)
        kept = tuple(tf.where(is_within, after, before) for after, before in zip(new, now, strict=True))
        return kept, tf.where(is_within, new[0], tf.zeros_like(new[0]))

    if isinstance(steps, int) and steps <= UNROLLED:
        answers: list[Any] = [None] * steps
        for place in reversed(range(steps)) if is_backward else range(steps):
            state, answers[place] = advance(place, state)
        return tf.stack(answers), state
    return _loop(advance, steps, state, share, is_backward)


def _loop(
    advance: Callable[..., Any], steps: Any, state: tuple[Any, ...], share: Any, is_backward: bool
) -> tuple[Any, Any]:
    answers = tf.TensorArray(share.dtype, size=steps, element_shape=state[0].shape)

    def body(count: Any, now: tuple[Any, ...], written: Any) -> Any:
        place = steps - 1 - count if is_backward else count
        new, answer = advance(place, now)
        return count + 1, new, written.write(place, answer)

    _, state, answers = tf.while_loop(lambda count, *_: count < steps, body, (tf.constant(0), state, answers))
    return answers.stack(), state


def _lstm(node: Node, recurrent: Any, bias: Any, units: int, activations: Any) -> Step:
    if node.get("input_forget", 0):
        raise Untranslated("an LSTM whose input gate is coupled with its forget gate")
    gate, cell, output = activations
    added = None if bias is None else bias[: 4 * units] + bias[4 * units :]
    turned = node.turned(recurrent)

    def step(share: Any, state: tuple[Any, ...]) -> tuple[Any, ...]:
        h, c = state
        total = share + tf.matmul(h, turned)
        i, o, f, g = tf.split(total if added is None else total + added, 4, axis=-1)
        c = gate(f) * c + gate(i) * cell(g)
        return gate(o) * output(c), c

    return step


def _gru(node: Node, recurrent: Any, bias: Any, units: int, activations: Any) -> Step:
    gate, candidate = activations
    turned = node.turned(recurrent)
    of_input = None if bias is None else bias[: 3 * units]
    of_state = None if bias is None else bias[3 * units :]

    def step(share: Any, state: tuple[Any, ...]) -> tuple[Any, ...]:
        (h,) = state
        z, r, n = tf.split(share if of_input is None else share + of_input, 3, axis=-1)
        if node.get("linear_before_reset", 0):
            own = tf.matmul(h, turned)
            own_z, own_r, own_n = tf.split(own if of_state is None else own + of_state, 3, axis=-1)
            z, r = gate(z + own_z), gate(r + own_r)
            n = candidate(n + r * own_n)
        else:
            pair = tf.matmul(h, turned[:, : 2 * units])
            own_z, own_r = tf.split(pair if of_state is None else pair + of_state[: 2 * units], 2, axis=-1)
            z, r = gate(z + own_z), gate(r + own_r)
            own_n = tf.matmul(r * h, turned[:, 2 * units :])
            n = candidate(n + (own_n if of_state is None else own_n + of_state[2 * units :]))
        return ((1 - z) * n + z * h,)

    return step


def _plain(node: Node, recurrent: Any, bias: Any, units: int, activations: Any) -> Step:
    added = None if bias is None else bias[:units] + bias[units:]
    turned = node.turned(recurrent)

    def step(share: Any, state: tuple[Any, ...]) -> tuple[Any, ...]:
        total = share + tf.matmul(state[0], turned)
        return (activations[0](total if added is None else total + added),)

    return step


KEEP = frozenset({"LSTM", "GRU", "RNN"})
"""Their weights are exchanged before they become the graph's own."""

OPERATORS: dict[str, Handler] = {
    "LSTM": _layer(4, 2, _lstm),
    "GRU": _layer(3, 1, _gru),
    "RNN": _layer(1, 1, _plain),
}
