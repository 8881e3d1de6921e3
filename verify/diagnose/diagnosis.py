"""Compare an artifact with its source as `make verify` does; where that fails, find the place and the cause."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from contract.errors import ModelUnavailable, ParityError, RosettaError, one_line
from contract.manifest import Manifest
from contract.parity_result import BatchParity
from serve.runtimes import load_runtime
from verify.diagnose.causes import CHECKS, TOLERANCES, Case, Check, precision_of, unknown
from verify.diagnose.match import Pair, first_difference, match, relative_difference
from verify.diagnose.tracers import Trace, Tracer, Values, joined, load_tracer
from verify.parity import BATCHES, FLOAT32, Answers, answer, compare, judge
from verify.questions import Questions

TRACED = 31
"""How many pictures the layers are compared on. A prime, so that no number of channels is mistaken for the batch."""
WORST = 8
"""How many pictures are shown."""


@dataclass(frozen=True)
class Picture:
    """A test picture, and both answers to it; an answer is a class and its probability."""

    index: int
    label: int | None
    source: tuple[int, float]
    artifact: tuple[int, float]
    difference: float


@dataclass(frozen=True)
class Diagnosis:
    """Whether an artifact answers like its source, and if not, where and why."""

    artifact: Manifest
    source: Manifest
    images: int
    reasons: tuple[str, ...]
    """Why parity fails; empty when it passes, and nothing is wrong."""
    batch: int
    """The batch size that was traced: one at which parity fails, if it does."""
    traced: int
    """How many pictures the layers were compared on."""
    tolerance: float
    """The largest difference that a layer may have, as a share of its largest value."""
    pairs: tuple[Pair, ...]
    place: Pair | None
    """The first pair that differs; None where nothing is wrong, or where no layer is the cause."""
    checks: tuple[Check, ...]
    """Every cause that was tested; the last one is the conclusion. Empty where nothing is wrong."""
    pictures: tuple[Picture, ...]
    seconds: float


def diagnose(folder: Path, artifact: Manifest, source: Manifest, questions: Questions) -> Diagnosis:
    """Compare the artifact with its source, both in `folder`, on these pictures. The caller has checked their files.

    Raises ModelUnavailable, RuntimeFailure and ParityError when the two cannot be compared or traced.
    """
    start = time.perf_counter()
    if questions.pictures is None:
        raise ParityError(f"{artifact.name} takes no pictures: only models that take pictures can be diagnosed.")
    images = questions.pictures.astype(artifact.inputs[0].dtype)
    here, there = (_answers(folder, manifest, questions, *BATCHES) for manifest in (source, artifact))
    parities = [compare(here[batch], there[batch], batch) for batch in BATCHES]
    reasons = judge(parities)
    batch = _batch_to_trace(parities)
    worst = np.argsort(-_by_picture(here[batch], there[batch]), kind="stable")
    with closing(load_tracer(folder / source.format, source)) as tracer:
        case = _case(folder, artifact, source, tracer, images[_chosen(worst)], batch)
        case = replace(case, batch_dependence=relative_difference(there[BATCHES[0]], there[BATCHES[-1]])[0])
        checks = _checks(case, folder, artifact) if reasons else []
    return Diagnosis(
        artifact=artifact,
        source=source,
        images=len(images),
        reasons=tuple(reasons),
        batch=batch,
        traced=len(case.images),
        tolerance=case.tolerance,
        pairs=case.pairs,
        place=case.place if reasons and checks[-1].cause != RUNTIME else None,
        checks=tuple(checks),
        pictures=tuple(_pictures(worst[:WORST], questions, here[batch], there[batch])) if reasons else (),
        seconds=round(time.perf_counter() - start, 1),
    )


def _answers(folder: Path, manifest: Manifest, questions: Questions, *batches: int) -> dict[int, Answers]:
    output = manifest.outputs[0].name
    with closing(load_runtime(folder / manifest.format, manifest)) as runtime:
        return {batch: answer(runtime, manifest, questions, batch)[output] for batch in batches}


def _batch_to_trace(parities: Sequence[BatchParity]) -> int:
    """The largest batch size that fails: most faults show there, and many pictures are traced at once."""
    failing = [parity for parity in parities if judge([parity])]
    return max(parity.batch for parity in failing or parities)


def _by_picture(here: Answers, there: Answers) -> Answers:
    """The largest difference between the answers to each picture (N,)."""
    with np.errstate(invalid="ignore"):
        difference = np.abs(here - there).max(axis=1)
    return np.where(np.isfinite(difference), difference, np.inf)


def _chosen(worst: NDArray[np.intp]) -> list[int]:
    """The indices of the pictures to trace, rising: the worst, and others from the whole range."""
    others = worst[WORST :: max(1, len(worst) // TRACED)]
    return sorted([*worst[:WORST], *others][:TRACED])


def _case(folder: Path, artifact: Manifest, source: Manifest, tracer: Tracer, images: Values, batch: int) -> Case:
    pieces = [slice(i, i + 1) for i in range(len(images))] if batch == 1 else [slice(None)]
    here = _traced(tracer, source, images, pieces)
    with closing(load_tracer(folder / artifact.format, artifact)) as other:
        there = _traced(other, artifact, images, pieces)
        kept = precision_of(other.weights())
    if kept == precision_of(tracer.weights()):
        kept = "float32"  # the conversion lost no precision
    pairs = match(here, there, TOLERANCES[kept])
    place = first_difference(pairs, there, TOLERANCES[kept])
    if not place.differs(TOLERANCES[kept]):
        place = first_difference(pairs, there, TOLERANCES["float32"])
    start = pairs.index(place)
    return Case(
        source=tracer,
        images=images,
        pieces=pieces,
        source_trace=here,
        artifact_trace=there,
        # A pair that differs before the place is not the same layer: it only looked like it.
        pairs=(*(pair for pair in pairs[:start] if not pair.differs(TOLERANCES[kept])), *pairs[start:]),
        place=place,
        precision=kept,
    )


def _traced(tracer: Tracer, manifest: Manifest, images: Values, pieces: Sequence[slice]) -> Trace:
    try:
        return joined([tracer.trace(images[piece]) for piece in pieces])
    except RosettaError:
        raise
    except Exception as error:  # a framework may run a graph and still not return every tensor of it
        raise ModelUnavailable(f"{manifest.name} cannot be traced: {one_line(error, 300)}.") from error


def _checks(case: Case, folder: Path, artifact: Manifest) -> list[Check]:
    """A check for each cause, up to the first that holds; if none does, all of them and \"unknown\"."""
    checks = []
    tests: dict[str, Callable[[Case], Check]] = {RUNTIME: partial(served, folder, artifact), **CHECKS}
    for cause, check in tests.items():
        try:
            checks.append(check(case))
        except RosettaError:
            raise
        except Exception as error:  # a framework may refuse the change that a check makes
            checks.append(Check(cause, False, f"could not be tried: {one_line(error, 300)}"))
        if checks[-1].holds:
            return checks
    return [*checks, unknown(case)]


RUNTIME = "runtime"


def served(folder: Path, artifact: Manifest, case: Case) -> Check:
    """Whether the graph is right layer by layer, and only the runtime that serves it computes something else."""
    questions = Questions({artifact.inputs[0].name: case.images}, None, "")
    answers = _answers(folder, artifact, questions, len(case.images[case.pieces[0]]))
    (as_served,) = answers.values()
    traced = case.artifact_trace.value(case.artifact_trace.output)
    here = case.source_trace.value(case.source_trace.output)
    wrong, right = (relative_difference(traced, other)[0] for other in (as_served, here))
    evidence = (
        f"run layer by layer, the artifact is off by {right:.1e} from its source, "
        f"and by {wrong:.1e} from the runtime that serves it"
    )
    limit = max(case.tolerance, FLOAT32.max_abs_diff)
    advice = "Run it with another version of its runtime, or with fewer optimisations."
    return Check(RUNTIME, right <= limit < wrong, evidence, right, advice)


def _pictures(indices: NDArray[np.intp], questions: Questions, here: Answers, there: Answers) -> Iterator[Picture]:
    differences = _by_picture(here, there)
    for index in map(int, indices):
        source, artifact = ((int(row.argmax()), float(row.max())) for row in (here[index], there[index]))
        label = None if questions.labels is None else int(questions.labels[index])
        yield Picture(index, label, source, artifact, float(differences[index]))
