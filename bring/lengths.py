"""The least sizes that a model computes with, where its file leaves sizes free."""

from collections.abc import Callable, Mapping, Sequence

from bring.asking import Asking, Axes, Place, Sizes
from contract.manifest import TensorSpec


def free_places(inputs: Sequence[TensorSpec], axes: Axes) -> list[Place]:
    """The free sizes of the inputs, besides that of the batch."""
    return [
        (number, place)
        for number, (spec, axis) in enumerate(zip(inputs, axes, strict=True))
        for place, size in enumerate(spec.shape)
        if size is None and place != axis
    ]


def least(asking: Asking, free: Sequence[Place], sizes: Sequence[Sizes]) -> list[Sizes | None]:
    """The least sizes of each input, whose `free` ones may be other than in `sizes`, which are answered.

    None where a size of 1 will do everywhere.
    """
    if not free:
        return [None] * len(sizes)
    signals = {number for number, _ in free}
    depend = asking.heard(sizes, signals)

    def answers(changes: Mapping[Place, int]) -> bool:
        return asking.shapes(_with(sizes, changes)) is not None

    def is_enough(changes: Mapping[Place, int]) -> bool:
        """Whether it answers, and depends on its signals in all outputs that do so at a greater size."""
        if not answers(changes):
            return False
        heard = asking.heard(_with(sizes, changes), signals)
        # What is divided by its own sum, such as a softmax over the length, is 1 at a length of 1.
        return depend <= heard or (1 in changes.values() and bool(heard))

    def lowest(changed: Callable[[int], Mapping[Place, int]], works: int) -> int:
        first = 1 if answers(changed(1)) else _lowest(lambda size: answers(changed(size)), 1, works)
        if first == works or is_enough(changed(first)):
            return first
        return _lowest(lambda size: is_enough(changed(size)), first, works)

    together = lowest(lambda size: dict.fromkeys(free, size), sizes[free[0][0]][free[0][1]])
    if together == 1:
        return [None] * len(sizes)
    chosen = dict.fromkeys(free, together)
    if len(free) > 1:
        alone = {place: lowest(lambda size, place=place: {place: size}, together) for place in free}  # type: ignore[misc]
        chosen = alone if is_enough(alone) else chosen
    return [
        tuple(chosen.get((number, place), 1) for place in range(len(each))) if number in signals else None
        for number, each in enumerate(sizes)
    ]


def _with(sizes: Sequence[Sizes], changes: Mapping[Place, int]) -> list[Sizes]:
    return [
        tuple(changes.get((number, place), size) for place, size in enumerate(each))
        for number, each in enumerate(sizes)
    ]


def _lowest(holds: Callable[[int], bool], low: int, high: int) -> int:
    """The least size above `low` for which it holds, if it holds for all above that; it does for `high`."""
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high
