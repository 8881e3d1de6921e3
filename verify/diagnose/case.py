"""Two runs that differ, and the experiments' common part: run the source otherwise, and measure what remains."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from contract.errors import ModelUnavailable
from verify.diagnose.match import Pair, first_difference, match
from verify.diagnose.tracers import Changeable, Kept, Step, Trace, Tracer, Values, joined

TOLERANCES = {"float32": 1e-5, "float16": 5e-3, "bfloat16": 5e-2, "int8": 1e-1}
"""The largest difference that a layer may have, as a share of its largest value, for each precision of the weights.

Measured were 2e-6 for float32 in another order of summation, 8e-4 for float16, 7e-2 for int8. A fault that is smaller
than the rounding cannot be told from it.
"""
FEW = 16
"""Arrays with fewer values than this do not count for an artifact's precision."""
LEFT = 1e-3
"""A check explains a difference when no more than this share of the layer's largest value remains, and no more than a
tenth of the difference."""
NEXT = 3
"""How many layers, from the place on, a check looks at."""
TRIED = 12
"""How many arrays of weights are tried one by one."""
WINDOW = 24
"""How many of the source's steps, from the place on, an experiment keeps: enough for these layers."""


@dataclass(frozen=True)
class Check:
    """One cause that was tested."""

    cause: str
    holds: bool
    evidence: str
    """What was measured, in words."""
    left: float | None = None
    """The difference that remains, as a share of the layer's largest value; None where nothing could be tried."""
    advice: str = ""
    answers_left: float = np.inf
    """The difference between the answers that remains."""
    is_partial: bool = False
    """It explains the place, and the answers still differ: another fault follows."""


@dataclass(frozen=True)
class Case:
    """The two runs on the same pictures, and the place where they part."""

    source: Tracer
    images: Values
    pieces: Sequence[slice]
    """The pictures of each call: all at once, or one by one."""
    source_trace: Trace
    artifact_trace: Trace
    pairs: tuple[Pair, ...]
    place: Pair
    precision: str
    """That of the artifact's weights where they are coarser than the source's; otherwise "float32"."""
    weights: Sequence[NDArray[Any]] = ()
    """Every array that the artifact stores."""
    batch_dependence: float = 0.0
    """The largest difference between the artifact's answers to the same picture alone and among others."""

    @property
    def tolerance(self) -> float:
        return TOLERANCES[self.precision]

    @property
    def limit(self) -> float:
        """What a check may leave."""
        return max(self.tolerance, LEFT)

    @property
    def changeable(self) -> Changeable:
        """Raises ModelUnavailable where the source's framework runs no changed models."""
        if not isinstance(self.source, Changeable):
            raise ModelUnavailable("the source cannot be run with a change")
        return self.source

    @cached_property
    def kept(self) -> frozenset[str]:
        """The source's steps that an experiment looks at: from shortly before the place on."""
        names = [step.name for step in self.source_trace.valued]
        start = names.index(self.place.source.name)
        return frozenset([*names[max(0, start - 2) : start + WINDOW], self.source_trace.output])

    def run(self, images: Values, kept: Kept = None) -> Trace:
        """The source's trace on other pictures."""
        return joined([self.source.trace(images[piece], kept) for piece in self.pieces])

    def run_with_values(self, values: Mapping[str, Values]) -> Trace:
        """The source's trace with these values of its steps. Raises ModelUnavailable."""
        parts = (({name: value[piece] for name, value in values.items()}, piece) for piece in self.pieces)
        traces = [self.changeable.with_values(self.images[piece], part, self.kept) for part, piece in parts]
        return joined(traces)

    def run_with_weights(self, weights: Mapping[str, NDArray[Any]]) -> Trace:
        """The source's trace with these arrays in the place of its own. Raises ModelUnavailable."""
        traces = [self.changeable.with_weights(self.images[piece], weights, self.kept) for piece in self.pieces]
        return joined(traces)

    def test(self, cause: str, trace: Trace, change: str, advice: str, whole: bool = False) -> Check:
        """Whether the source, run with this change, agrees with the artifact from the place on.

        One of the next layers has to agree: at the place itself the two frameworks may name different tensors. With
        `whole`, the answers have to agree, too: a step inside of a larger function is not the function.
        """
        pairs, limit = match(trace, self.artifact_trace, self.tolerance), self.limit
        near = self._from_place(pairs)[:NEXT]
        at = next((pair for pair in near if not pair.differs(limit)), min(near, key=lambda pair: pair.relative))
        label, left, before = at.source.label, at.relative, self.place.relative
        if at.differs(limit) or left > before / 10:
            return Check(cause, False, f"{change}, the source is off by {left:.1e} at {label}", left)
        seen = f"{change}, the source is off by {left:.1e} instead of {before:.1e} at {label}"
        answers = pairs[-1].difference
        if answers <= limit:
            return Check(cause, True, f"{seen}, and by {answers:.1e} in its answers", left, advice, answers)
        then = first_difference(pairs, self.artifact_trace, limit).source.label
        evidence = f"{seen}, but by {answers:.1e} in its answers: another fault follows at {then}"
        return Check(cause, not whole, evidence, left, f"{advice} Then run this again.", answers, is_partial=True)

    def _from_place(self, pairs: Sequence[Pair]) -> list[Pair]:
        """The pairs at the place in the artifact or after it."""
        names = [step.name for step in self.artifact_trace.valued]
        start = names.index(self.place.artifact.name)
        return [pair for pair in pairs if names.index(pair.artifact.name) >= start]

    def upstream(self) -> Iterator[Step]:
        """The source's steps that the place is computed from, the nearest first."""
        pending, seen = list(self.place.source.inputs), set[str]()
        while pending:
            name = pending.pop(0)
            step = self.source_trace.steps.get(name)
            if name in seen or step is None:
                continue
            seen.add(name)
            pending.extend(step.inputs)
            if step.value is not None:
                yield step

    def nearest(self, names: Sequence[str]) -> list[str]:
        """The weights that are learned next to the place's layer: each costs a run."""
        layer = re.split(r"[/ (]", self.place.source.label)[0]
        known = list(self.changeable.named_weights())
        centre = next((number for number, name in enumerate(known) if layer in name), 0)
        return sorted(names, key=lambda name: abs(known.index(name) - centre))[:TRIED]

    def suspects(self) -> Iterator[tuple[Step, Step]]:
        """(what it is computed from, a step), for each step that may be the faulty one.

        It is the place in the source, or a step before it that has no pair, since the artifact leaves it out, or one
        of the next, since the place is only the first where both have values that look alike.
        """
        matched = {pair.source.name for pair in self.pairs if not pair.differs(self.tolerance)}
        steps = self.source_trace.valued
        place = steps.index(self.place.source)
        for step in (self.place.source, *self.upstream(), *steps[place + 1 : place + NEXT]):
            above = [self.source_trace.steps[name] for name in step.inputs if name in self.source_trace.steps]
            valued = [other for other in above if other.value is not None]
            if step.name not in matched and len(valued) == 1:
                yield valued[0], step


def best_of(checks: Sequence[Check], otherwise: Check) -> Check:
    """The check that holds, or the one that came closest."""
    known = [check for check in checks if check.left is not None]
    return min(known, key=lambda check: (not check.holds, check.answers_left, check.left), default=otherwise)
