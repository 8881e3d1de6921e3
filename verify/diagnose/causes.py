"""The known causes, each tested at the place where the two part.

A check is an experiment: it makes the source do what the artifact is suspected of, and measures the difference that
remains. It holds when almost nothing remains.
"""

from collections.abc import Callable

import numpy as np

from verify.diagnose import layers, pictures, weights
from verify.diagnose.case import Case, Check
from verify.diagnose.match import Pair, matched_above

CHECKS: dict[str, Callable[[Case], Check]] = {
    "precision": weights.precision,
    "softmax": layers.softmax,
    "normalisation": pictures.normalisation,
    "layout of the pictures": pictures.input_layout,
    "values of the pictures": pictures.values,
    "layout after Flatten": layers.flatten_order,
    "BatchNorm in training mode": layers.batch_norm,
    "weights": weights.other_weights,
    "bias missing": weights.no_bias,
    "epsilon of BatchNorm": layers.epsilon,
    "operator": layers.operator,
    "pooling": layers.pooling,
    "resizing": layers.resizing,
    "padding": layers.padding,
    "scale of a layer": layers.scale,
    "rows of a batch": layers.rows_mixed,
}
"""In this order: the first that holds is the conclusion."""


def unknown(case: Case) -> Check:
    """The conclusion where no check holds."""
    above = matched_above(case.place, case.pairs, case.artifact_trace)
    given = max((pair.relative for pair in above), default=0.0)
    evidence = (
        f"the layer's input is off by {given:.1e} of its largest value, its output by "
        f"{case.place.relative:.1e}{_where(case.place)}"
    )
    advice = f"Compare the weights and settings of {case.place.source.label} with {case.place.artifact.label}'s."
    return Check("unknown", False, evidence, case.place.relative, advice)


def _where(place: Pair) -> str:
    """Whether the difference is in a part of the layer only, such as one channel."""
    difference = np.abs(place.arrangement.apply(place.source.array) - place.artifact.array)
    parts = []
    for axis in range(1, difference.ndim):
        along = difference.max(axis=tuple(other for other in range(difference.ndim) if other != axis))
        off = np.flatnonzero(~(along <= along.max() / 100))
        parts.append((len(off) / len(along), axis, off))
    share, axis, off = min(parts, key=lambda part: part[0])
    if share > 0.5:
        return ", everywhere in it"
    some = ", ".join(map(str, off[:8])) + (", ..." if len(off) > 8 else "")
    return f", but only at index {some} of the {difference.shape[axis]} on axis {axis} (the pictures are axis 0)"
