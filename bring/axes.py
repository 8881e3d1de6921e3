"""Which axis of each tensor is the batch, and how small free sizes may be: found by asking the model.

A file seldom says which size is the batch. Most models have it first in every tensor. But audio (samples,) has none,
nor has a sample rate, a recurrent state has it second, and some graphs take one batch alone. And a free length has a
least size, below which a window or a pooling has nothing to work on. Both show when the model is asked.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from bring.asking import Asking, Axes, Sizes, rows_of
from bring.description import FILE, Description, Input
from bring.lengths import free_places, least
from bring.probe import Predicts, shapes_of
from contract.errors import BroughtError
from contract.manifest import TensorSpec
from verify.questions import FREE

LENGTHS = tuple(FREE * 2**power for power in range(11))
"""What free sizes become, until the model answers."""
SQUARE = FREE * 4
"""The longest that two free sizes of an input become together, until nothing else is left to be asked."""
HEARD = 4096
"""The longest that they become only to find answers that depend on what is so long."""


@dataclass(frozen=True)
class Signature:
    """The tensors of a model, with the axis of their batch in their layout, and their least sizes."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    batch: int | None
    """The only batch that its graph takes; None where it takes any, or has none."""

    @property
    def has_rows(self) -> bool:
        """Whether each tensor begins with the batch."""
        return all(spec.batch_axis == 0 for spec in (*self.inputs, *self.outputs))


def find(source: Predicts, outputs: Sequence[TensorSpec], description: Description, name: str) -> Signature:
    """What the model's answers show. Raises BroughtError where it answers no sizes that its inputs can have."""
    asking = Asking(source, description)
    given = {entry.name: entry for entry in description.inputs}
    candidates = list(_candidates(source.inputs, given))
    if answered := _answered(asking, source.inputs, candidates):
        if not any(entry.batch is not None for entry in given.values()):
            answered = _with_time_first(asking, source.inputs, answered)
        return _signature(asking, source.inputs, outputs, answered)
    if asking.has_nan:  # whoever probes the values says what to do about it
        asking.takes_nan = True
        if answered := _answered_at(asking, source.inputs, candidates, FREE):
            return _signature(asking, source.inputs, outputs, answered)
    raise BroughtError(
        f"{name} was read, but does not answer {shapes_of(source.inputs)}: {asking.reason} If its inputs have other "
        f"sizes or values than these, say so in {FILE}, such as:\n\n    [[input]]\n    name = "
        f'"{source.inputs[0].name}"\n    shape = [-1, 16000]\n    batch = "none"  # or the number of its axis'
    )


@dataclass(frozen=True)
class Answered:
    """Sizes of inputs that a model answers."""

    axes: Axes
    """Where the batch is."""
    batch: int
    sizes: Sequence[Sizes]
    shapes: Sequence[Sizes]
    """Those of the answers."""


def _with_time_first(asking: Asking, inputs: Sequence[TensorSpec], answered: Answered) -> Answered:
    """With the batch second, as recurrent layers of PyTorch have it, where rows are apart there and mixed at the first.

    As it is where the second sizes are not free: then the first ones are the batch, whatever the model does with it.
    """
    seconds: Axes = tuple(_free_second(spec) for spec in inputs)
    is_first = answered.batch == 2 and all(axis == 0 for axis in answered.axes)
    if not is_first or None in seconds or 1 not in seconds or _is_apart(asking, answered):
        return answered
    other = _answered(asking, inputs, [(seconds, 2)])
    return other if other and _is_apart(asking, other) else answered


def _free_second(spec: TensorSpec) -> int | None:
    """The second axis, or the only one of a vector such as lengths; None where it is not free."""
    axis = 1 if len(spec.shape) > 2 else 0
    return axis if len(spec.shape) != 2 and spec.shape[axis : axis + 1] == (None,) else None


def _is_apart(asking: Asking, answered: Answered) -> bool:
    """Whether each row is answered as it is alone."""
    more = [_sizes_with(size, axis, 3) for size, axis in zip(answered.sizes, answered.axes, strict=True)]
    grown = asking.shapes(more)
    if grown is None:
        return False
    places = [_grown(*pair) for pair in zip(answered.shapes, grown, strict=True)]
    return _are_rows(asking, more, places, answered.axes)


def _answered(asking: Asking, inputs: Sequence[TensorSpec], candidates: Sequence[tuple[Axes, int]]) -> Answered | None:
    """What is answered with the shortest of LENGTHS on whose values answers depend; else with the shortest of all."""
    shortest: Answered | None = None
    lengths = LENGTHS if any(None in spec.shape for spec in inputs) else LENGTHS[:1]
    squares = [pair for pair in candidates if _grows_in_two(inputs, pair[0])]
    others = [pair for pair in candidates if pair not in squares]
    tries = [(length, candidates if length <= SQUARE else others) for length in lengths]
    for length, some in [*tries, *((length, squares) for length in lengths if length > SQUARE)]:
        if shortest and length > HEARD:
            break
        if answered := _answered_at(asking, inputs, some, length):
            signals = {number for number, _ in free_places(inputs, answered.axes)}
            if not signals or asking.heard(answered.sizes, signals):
                return answered
            shortest = shortest or answered
    return shortest


def _grows_in_two(inputs: Sequence[TensorSpec], axes: Axes) -> bool:
    """Whether an input has two free sizes besides its batch: a signal of 10,000 values becomes 10,000 of them."""
    return any(
        sum(size is None and place != axis for place, size in enumerate(spec.shape)) > 1
        for spec, axis in zip(inputs, axes, strict=True)
    )


def _answered_at(
    asking: Asking, inputs: Sequence[TensorSpec], candidates: Sequence[tuple[Axes, int]], length: int
) -> Answered | None:
    """The first candidate that the model answers, with free sizes of this length."""
    for axes, batch in candidates:
        sizes = [_sizes(spec, axis, batch, length) for spec, axis in zip(inputs, axes, strict=True)]
        if (shapes := asking.shapes(sizes)) is not None:
            return Answered(axes, batch, sizes, shapes)
    return None


def _candidates(inputs: Sequence[TensorSpec], given: dict[str, Input]) -> Iterator[tuple[Axes, int]]:
    """The axes that the batches may have, and the batch to try with them, the likeliest first."""
    axis_of = {name: entry.batch for name, entry in given.items() if entry.batch is not None}
    firsts: Axes = tuple(axis_of.get(spec.name, 0) if spec.shape else None for spec in inputs)
    states: Axes = tuple(axis_of.get(spec.name, _free_axis(spec)) for spec in inputs)
    none: Axes = tuple(axis_of.get(spec.name) for spec in inputs)
    kinds = [tuple(None if axis == -1 else axis for axis in axes) for axes in (firsts, states, none)]
    sizes = [{spec.shape[axis] for spec, axis in zip(inputs, axes, strict=True) if axis is not None} for axes in kinds]
    if _is_batch(sizes[0], inputs) and not axis_of:
        fixed = next(iter(sizes[0]))
        many = (2, 1) if any(len(spec.shape) > 1 for spec in inputs) else (2,)
        yield from ((kinds[0], batch) for batch in (many if fixed is None else (fixed,)))
    elif axis_of and len(sizes[0]) == 1:
        yield from ((kinds[0], batch) for batch in (2, 1))
    if kinds[1] != kinds[0] and any(axis is not None for axis in kinds[1]):
        yield from ((kinds[1], batch) for batch in (2, 1))
    yield (None,) * len(inputs), 1


def _is_batch(sizes: set[int | None], inputs: Sequence[TensorSpec]) -> bool:
    """Whether all inputs begin with one size, which may be the batch: (16000,) is not a batch of single values."""
    if len(sizes) != 1 or any(not spec.shape for spec in inputs):
        return False
    return sizes <= {None, 1} or any(len(spec.shape) > 1 for spec in inputs)


def _free_axis(spec: TensorSpec) -> int | None:
    """Where the batch is if it is free: first, or second as in the state of a recurrent layer."""
    if spec.shape[:1] == (None,):
        return 0
    return 1 if len(spec.shape) > 2 and spec.shape[1] is None else None


def _sizes(spec: TensorSpec, axis: int | None, batch: int, length: int) -> Sizes:
    return tuple(batch if place == axis else length if size is None else size for place, size in enumerate(spec.shape))


def _signature(
    asking: Asking, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], answered: Answered
) -> Signature:
    """The tensors, as the model answered."""
    axes, batch, sizes, shapes = answered.axes, answered.batch, answered.sizes, answered.shapes
    is_free = batch == 2 and any(
        axis is not None and spec.shape[axis] is None for spec, axis in zip(inputs, axes, strict=True)
    )
    if is_free:
        more = [_sizes_with(size, axis, 3) for size, axis in zip(sizes, axes, strict=True)]
        others: Sequence[Sizes] = asking.shapes(more) or [
            _sizes_with(shape, 0 if shape[:1] == (2,) else None, 3) for shape in shapes
        ]
        places = [_grown(*pair) for pair in zip(shapes, others, strict=True)]
        if all(len(spec.shape) < 2 for spec in inputs) and not _are_rows(asking, more, places):
            # Single values in a row: samples of one signal, not rows of one value.
            longer = _answered(asking, inputs, [((None,) * len(inputs), 1)])
            return _signature(asking, inputs, outputs, longer or replace(answered, axes=(None,) * len(inputs), batch=1))
    else:
        others = shapes
        places = [0 if axes[0] == 0 and shape[:1] == (batch,) else None for shape in shapes]
    entries = tuple(_placed(spec, axis, None if is_free else batch) for spec, axis in zip(inputs, axes, strict=True))
    sizes_least = least(asking, free_places(inputs, axes), sizes)
    entries = tuple(replace(spec, least=size) for spec, size in zip(entries, sizes_least, strict=True))
    has_free = any(None in spec.shape_at(1) for spec in entries)
    exits = tuple(
        _placed(_answered_spec(spec, pair, has_free), place, None if is_free else batch)
        for spec, pair, place in zip(outputs, zip(shapes, others, strict=True), places, strict=True)
    )
    signature = Signature(entries, exits, None)
    return replace(signature, batch=batch) if signature.has_rows and not is_free else signature


def _sizes_with(sizes: Sizes, axis: int | None, batch: int) -> Sizes:
    return tuple(batch if place == axis else size for place, size in enumerate(sizes))


def _grown(two: Sizes, three: Sizes) -> int | None:
    """The only axis that grew from 2 to 3 with the batch."""
    if len(two) != len(three):
        return None
    changed = [place for place, pair in enumerate(zip(two, three, strict=True)) if pair[0] != pair[1]]
    return changed[0] if len(changed) == 1 and (two[changed[0]], three[changed[0]]) == (2, 3) else None


def _are_rows(asking: Asking, sizes: Sequence[Sizes], places: Sequence[int | None], axes: Axes = ()) -> bool:
    """Whether the first two of three rows, along these axes or the first, and the last two are answered alone as among
    all.

    What reads a sequence answers its beginning the same, whatever follows. `places` are the axes of the answers that
    grow with the rows.
    """
    if any(place is None or (not axes and place != 0) for place in places):
        return False
    among = asking.answers(sizes)
    for rows in (slice(0, 2), slice(1, 3)):
        alone = asking.answers(sizes, rows, axes)
        if alone is None or among is None:
            return False
        for a, b, place in zip(alone, among, places, strict=True):
            if a.dtype != object and not np.allclose(a, rows_of(b, rows, place or 0), 1e-3, 1e-5, True):
                return False
    return True


def _placed(spec: TensorSpec, axis: int | None, batch: int | None) -> TensorSpec:
    """With the batch at this axis of its layout, and so large where only one batch is taken."""
    letters = spec.layout[1:] if spec.layout[:1] == "N" and len(spec.layout) == len(spec.shape) else ""
    rest = iter(letters if axis == 0 else "D" * len(spec.shape))
    layout = "".join("N" if place == axis else next(rest) for place in range(len(spec.shape)))
    placed = replace(spec, layout=layout)
    return placed if axis is None else replace(placed, shape=placed.shape_at(batch))


def _answered_spec(spec: TensorSpec, answered: tuple[Sizes, Sizes], has_free: bool) -> TensorSpec:
    """The output with the rank and the sizes that were answered, twice.

    A size is free that the file leaves so, that was answered otherwise the second time, and that may depend on the free
    sizes of inputs.
    """
    first, second = answered
    known = spec.shape if len(spec.shape) == len(first) else (-1,) * len(first)
    same = second if len(second) == len(first) else (-1,) * len(first)
    sizes = tuple(
        size if size in (here, None) and here == again else None if has_free or size is None or here != again else here
        for size, here, again in zip(known, first, same, strict=True)
    )
    layout = spec.layout if len(spec.layout) == len(sizes) else "N" + "D" * len(sizes[1:]) if sizes else ""
    return replace(spec, shape=sizes, layout=layout)
