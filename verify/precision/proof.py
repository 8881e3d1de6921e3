"""Are the quantised weights those of the parent? Each may be off by half a step, and by no more.

Accuracy alone does not show every fault: a zero point that is off by one, the scale of another layer or the wrong axis
may cost little on one data set. Restored to real values, a quantised weight lies within half a step of the parent's.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from verify.precision.files import Constant, Contents

ROOM = 0.51
"""In steps: half of one, and the rounding of the scale."""
CLIPPED = 1.01
"""In steps, of int4: its range ends at 7 on one side and at 8 on the other, and an 8 on the wrong one is clipped."""
REDUCED = ("int8", "uint8", "int4", "uint4", "float16", "bfloat16")
LEAST_HALF = float(np.finfo(np.float16).smallest_subnormal)
"""A converter may keep what is smaller, with its sign, so that nothing is divided by 0."""
LEAST = 4
"""Of fewer values nothing is said: many constants would fit them."""


def foreign_weights(parent: Contents, variant: Contents) -> Iterator[str]:
    """Each reduced weight that is none of the parent's, one phrase."""
    own = [constant.restored() for constant in parent.constants if constant.dtype == "float32"]
    for constant in variant.constants:
        if constant.dtype not in REDUCED or constant.values.size < LEAST:
            continue
        if constant.scale is None and constant.dtype not in ("float16", "bfloat16"):
            continue  # whole numbers that stand for themselves
        off = _nearest(constant, own)
        room = CLIPPED if constant.dtype == "int4" else ROOM
        if off is not None and not off <= room:
            yield f"the weight {constant.name} is {off:.3g} steps from the nearest of its parent's, at most {room}"


def _nearest(constant: Constant, own: Sequence[NDArray[Any]]) -> float | None:
    """How many steps the weight is from the parent's nearest one; None where the parent has none of its shape."""
    # A scale may be negative: then the largest negative number stands for the largest weight.
    restored, step = constant.restored(), np.maximum(np.abs(constant.step()), np.finfo(np.float64).tiny)
    if constant.dtype == "float16":
        step = np.where(np.abs(restored) <= LEAST_HALF, 2 * LEAST_HALF, step)
    alike = [array for array in own if array.shape == restored.shape]
    return min((float((np.abs(array - restored) / step).max()) for array in alike), default=None)
