"""Does a runtime compute in less than the float32 that its artifact says?

Some runtimes take bfloat16 or float16 by themselves, where the processor has it. Their answers may still pass the
tolerance. So the source is also asked the same rows with each input off by float16's rounding. Float32 in another order
moves answers by less than a hundredth of what that does; computing in float16 moves them further, since every layer
rounds.
"""

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from contract.manifest import Manifest
from verify.questions import Questions

ROUNDING = 2.0**-12
"""Half a step of float16, as a share of the value."""
STEP = 2.0**-23
"""A step of float32, as a share of the value."""
ROWS = 64
LOWERED = (
    "it computes in less than float32, or approximates an operator: its answers are {times:.2g} times as far from its "
    "source's as float16's rounding of the inputs moves these"
)


def rounded_inputs(questions: Questions, manifest: Manifest) -> Questions | None:
    """The first rows, each value of a float32 input off by ROUNDING, up or down; None where there is no such input.

    None for a source that rounds to whole numbers, too: who computes with fractions is far from that one.
    """
    if manifest.is_quantised or questions.are_calls or manifest.outputs[0].dtype != "float32":
        return None
    return inputs_off_by(ROUNDING, questions, manifest)


def inputs_off_by(share: float, questions: Questions, manifest: Manifest) -> Questions | None:
    """The first rows, each value of a float32 input off by this share of it, up or down; None without such an input."""
    real = {spec.name for spec in manifest.inputs if spec.dtype == "float32"}
    if not real:
        return None
    few = questions.first(min(ROWS, questions.count))
    random = np.random.default_rng(0)
    inputs = {name: _beside(rows, share, random) if name in real else rows for name, rows in few.inputs.items()}
    return replace(few, inputs=inputs)


def _beside(rows: NDArray[Any], share: float, random: np.random.Generator) -> NDArray[np.float32]:
    """In float32, as they are sent: 64 large pictures in float64 would take longer than the model's answers to them."""
    factors = np.array([1 - share, 1 + share], np.float32)
    beside: NDArray[np.float32] = rows.astype(np.float32) * factors[random.integers(0, 2, rows.shape, np.uint8)]
    return beside


def distance(reference: NDArray[Any], answers: NDArray[Any]) -> float:
    """The root mean square of the difference of the rows that both have; 0 where one of them is not finite."""
    count = min(len(reference), len(answers))
    with np.errstate(invalid="ignore", over="ignore"):
        off = float(np.sqrt(np.mean(np.square(reference[:count].astype(np.float64) - answers[:count]))))
    return off if np.isfinite(off) else 0.0


def lowered(off: float, rounding: float) -> str:
    """What to say of an artifact of float32 whose answers are `off`; `rounding` moves the source's by as much."""
    return LOWERED.format(times=off / rounding) if 0 < rounding <= off else ""
