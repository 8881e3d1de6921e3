"""Which layers stay in float where a variant loses too much: the first and the last, then those that lose most.

The search is bounded in time, and leaves at most half of the layers in float: beyond that little is gained. It is
judged on calibration rows; the parity gate judges its result on others.
"""

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from tqdm import tqdm

ENOUGH = 0.995
"""A variant that keeps so much on calibration rows is left as it is."""
GAIN = 0.002
"""A repair that wins less is not worth its time at each call."""
SECONDS = 60.0


@dataclass(frozen=True)
class Repair:
    """What a search came to."""

    in_float: tuple[str, ...]
    """Layers that stay in float; empty where nothing is gained by it."""
    before: float
    after: float
    """What is kept on calibration rows, from 0 to 1."""
    tried: int
    """How many variants were made for it."""
    seconds: float

    def described(self) -> dict[str, Any]:
        """What a manifest says of it."""
        return {
            "in_float": list(self.in_float),
            "kept_before": round(self.before, 4),
            "kept_after": round(self.after, 4),
            "variants_tried": self.tried,
            "seconds": round(self.seconds, 1),
        }


def search(
    layers: Sequence[str],
    kept: Callable[[Sequence[str]], float],
    loss_alone: Callable[[str], float],
    seconds: float = SECONDS,
) -> Repair | None:
    """The repair of a variant; None for one that keeps enough, or that has too few layers to choose from.

    `layers` are in the graph's order. `kept` makes a variant with these layers in float, and says what it keeps;
    `loss_alone` says how far answers move when only that layer is quantised.
    """
    start = time.monotonic()
    before = kept(())
    if before >= ENOUGH or len(layers) < 3:
        return None
    best, chosen, tried = before, tuple[str, ...](), 1
    order = _by_loss(layers, loss_alone, start + seconds / 2)
    tried += len(order) - len(_ends(layers))
    size = len(_ends(layers))
    while size <= max(len(layers) // 2, 1) and time.monotonic() < start + seconds:
        result, tried = kept(order[:size]), tried + 1
        if result > best:
            best, chosen = result, tuple(order[:size])
        if result >= ENOUGH or size == len(order):
            break
        size = min(2 * size, len(order))
    if best - before < GAIN:
        best, chosen = before, ()
    return Repair(chosen, before, best, tried, time.monotonic() - start)


def _ends(layers: Sequence[str]) -> list[str]:
    return [layers[0], layers[-1]]


def _by_loss(layers: Sequence[str], loss_alone: Callable[[str], float], end: float) -> list[str]:
    """The first and the last layer, then the others by their loss, as far as the time suffices."""
    losses: dict[str, float] = {}
    inner = tqdm(layers[1:-1], "which layers lose most", unit="layer", leave=False, disable=None, file=sys.stdout)
    for layer in inner:
        if time.monotonic() > end:
            break
        losses[layer] = loss_alone(layer)
    return [*_ends(layers), *sorted(losses, key=lambda layer: -losses[layer])]
