"""What a reduced precision loses: which classes, and in which layers.

Classes are compared on the same rows in pairs, as the gate compares accuracy. Layers are compared with those of the
float32 artifact of the same format, which has the same names. A layer's rounding reaches all that follow it; so what
counts is by how much the error grows from a layer's inputs to its values.
"""

import contextlib
import math
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from contract.ledger import ClassLoss, LayerLoss
from contract.manifest import MANIFEST, Manifest, read_manifest
from contract.tensors import numpy_dtype
from verify.diagnose.tracers import Step, Trace, Tracer, Values, joined, load_tracer
from verify.precision.gate import paired_interval
from verify.questions import Questions

MOST = 3
"""How many classes and layers are named."""
LEAST_ROWS = 20
"""Of a class with fewer rows nothing is said."""
ROWS = 16
"""How many rows the layers are compared on; not 1, for which some files have another graph."""
SECONDS = 10.0
"""How long the float32 artifact may take for all rows: of a slow one, fewer are looked at."""
MEMORY = 400_000_000
"""Bytes that the layers of one artifact may take."""
RESTORED = "_DequantizeLinear_Output"
SMALL = 1e-4
"""A smaller growth of the error is float32's own rounding."""


def lost_classes(
    before: NDArray[Any], after: NDArray[Any], right: NDArray[Any], labels: Sequence[str]
) -> tuple[ClassLoss, ...]:
    """The classes that lose most of their right answers, at most MOST; none that loses nothing.

    `before` and `after` are the classes (N,) that the source and the variant give, `right` those that are right: the
    source's own where that is unknown. The intervals hold together at 95 %, so each is wider than one of its own.
    """
    losses = []
    for number, rows in zip(*np.unique(right, return_counts=True), strict=True):
        of_class = right == number
        change = (after[of_class] == number).astype(np.float64) - (before[of_class] == number)
        if rows < LEAST_ROWS or change.sum() >= 0:
            continue
        low, high = paired_interval(change, _z(len(np.unique(right))))
        name = labels[number] if number < len(labels) else f"class {number}"
        losses.append(ClassLoss(name, int(rows), float(change.mean()), low, high))
    return tuple(sorted(losses, key=lambda loss: loss.change)[:MOST])


def _z(classes: int) -> float:
    return statistics.NormalDist().inv_cdf(1 - 0.025 / max(classes, 1))


def lost_layers(path: Path, manifest: Manifest, questions: Questions) -> tuple[LayerLoss, ...]:
    """The layers whose error grows most, at most MOST; none where one of the two cannot be traced in little time."""
    parent = path.with_name(manifest.parent or "")
    if not manifest.parent or not (parent / MANIFEST).exists() or len(manifest.inputs) > 1 or questions.are_calls:
        return ()
    with contextlib.suppress(Exception):  # a framework may refuse to keep every value, and this is only an account
        return growth(*_traces(((parent, read_manifest(parent)), (path, manifest)), questions))
    return ()


def _traces(artifacts: Sequence[tuple[Path, Manifest]], questions: Questions) -> tuple[Trace, ...]:
    """Of the same rows, as many as memory and time allow; of a fixed batch, call by call."""
    entry, fixed = artifacts[0][1].inputs[0], max(manifest.batch or 0 for _, manifest in artifacts)
    rows = next(iter(questions.rows(0, ROWS, {entry.name: numpy_dtype(entry.dtype)}).values()))
    traces = list[Trace]()
    for path, manifest in artifacts:
        with contextlib.closing(load_tracer(path, manifest)) as tracer:
            if not traces:
                rows = rows[: _count(tracer, rows[: fixed or 1], len(rows))]
            starts = range(0, len(rows) // fixed * fixed, fixed) if fixed else [0]
            traces.append(joined([tracer.trace(rows[start : start + (fixed or ROWS)]) for start in starts]))
    return tuple(traces)


def _count(tracer: Tracer, first: Values, most: int) -> int:
    """How many rows to trace, as a call with the first of them shows."""
    start = time.monotonic()
    size = sum(step.array.nbytes for step in tracer.trace(first).valued) // len(first)
    slow = (time.monotonic() - start) / len(first)
    return max(len(first), int(min(most, MEMORY / max(size, 1), SECONDS / max(slow, 1e-9))))


def growth(parent: Trace, variant: Trace) -> tuple[LayerLoss, ...]:
    """The layers of the variant whose error grows most beyond that of the values that they are computed from."""
    known = {_label(step): step for step in parent.valued}
    # What a layer gives is what is restored from its rounded values: before it, a fused activation is missing.
    restored = {_label(step) for step in variant.valued if step.label.endswith(RESTORED)}
    errors: dict[str, float] = {}
    losses = []
    for name, step in variant.steps.items():
        above = max((errors.get(each, 0.0) for each in step.inputs), default=0.0)
        same = known.get(_label(step)) if step.value is not None else None
        if same is None or same.array.shape != step.array.shape or step.label in restored:
            errors[name] = above  # a cast, or an operator that only the variant has
            continue
        errors[name] = error = _error(same.array, step.array)
        own = math.sqrt(max(0.0, error**2 - above**2))
        if own > SMALL:
            losses.append(LayerLoss(same.label, same.op, own, error))
    return tuple(sorted(losses, key=lambda loss: -loss.own)[:MOST])


def _label(step: Step) -> str:
    """As the float32 artifact has it: the quantiser of ONNX Runtime adds to the names of what it restores."""
    return step.label.removesuffix(RESTORED).removesuffix(":0")


def _error(reference: Values, values: Values) -> float:
    """The root mean square of the difference, as a share of the reference's own; 1 where it is not finite."""
    size = float(np.sqrt(np.mean(np.square(reference, dtype=np.float64)))) or 1.0
    with np.errstate(invalid="ignore", over="ignore"):
        off = float(np.sqrt(np.mean(np.square(reference.astype(np.float64) - values))))
    return off / size if math.isfinite(off) else 1.0
