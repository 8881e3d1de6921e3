"""Compare an artifact with its source as `make verify` does; where that fails, find the place and the cause."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from contract.errors import ModelUnavailable, ParityError, RosettaError, RuntimeFailure, one_line
from contract.formats import is_reduced
from contract.ledger import LayerLoss
from contract.manifest import Manifest
from contract.tensors import numpy_dtype
from serve.runtimes import Runtime, load_runtime
from verify.diagnose.answers import CHECKS as ANSWERS
from verify.diagnose.answers import Exchange
from verify.diagnose.case import TOLERANCES, Case, Check
from verify.diagnose.causes import CHECKS, unknown
from verify.diagnose.match import Pair, first_difference, match, relative_difference
from verify.diagnose.tracers import PASSING, Trace, Tracer, Values, joined, load_tracer
from verify.diagnose.weights import precision_of
from verify.edges import answer_edges, edge_differences, edge_questions
from verify.parity import (
    BATCHES,
    FLOAT32,
    LARGE,
    Tolerance,
    answer,
    batches_of,
    compare_all,
    differences_in_words,
    judge,
    large_call,
)
from verify.precision.losses import lost_layers
from verify.questions import Questions
from verify.spread import spread

TRACED = 31
"""How many pictures the layers are compared on. A prime, so that no number of channels is mistaken for the batch."""
WORST = 8
"""How many pictures are shown."""
MEMORY = 400_000_000
"""Bytes that the layers of one model may take; the frameworks hold about as much again."""


@dataclass(frozen=True)
class Picture:
    """A test picture, and both answers to it; an answer is a class and its probability."""

    index: int
    label: int | None
    source: tuple[int, float]
    artifact: tuple[int, float]
    difference: float


@dataclass(frozen=True)
class Node:
    """A step of a graph as it is drawn: its values are left out."""

    name: str
    label: str
    op: str
    inputs: tuple[str, ...]
    """Names of other nodes."""
    shape: str
    """Without the batch: "26x26x16"; empty where it has no value for each row."""


@dataclass(frozen=True)
class Diagnosis:
    """Whether an artifact answers like its source, and if not, where and why."""

    artifact: Manifest
    source: Manifest
    images: int
    reasons: tuple[str, ...]
    """Why parity fails, or how answers differ at edges; empty when nothing is wrong."""
    is_ordinary: bool
    """Whether only edge questions are answered otherwise."""
    batch: int
    """The batch size that was traced: one at which parity fails, if it does."""
    traced: int
    """How many pictures the layers were compared on; 0 where the answers alone told the cause."""
    tolerance: float
    """The largest difference that a layer may have, as a share of its largest value."""
    pairs: tuple[Pair, ...]
    place: Pair | None
    """The first pair that differs; None where nothing is wrong, or where no layer is the cause."""
    checks: tuple[Check, ...]
    """Every cause that was tested; the last one is the conclusion. Empty where nothing is wrong."""
    pictures: tuple[Picture, ...]
    seconds: float
    graphs: tuple[tuple[Node, ...], tuple[Node, ...]] = ((), ())
    """Every step of the source and of the artifact, in the order of computation; none where no layer was traced."""
    losses: tuple[LayerLoss, ...] = ()
    """Of a reduced precision, the layers that lose most beside the float32 artifact of its format."""


def diagnose(folder: Path, artifact: Manifest, source: Manifest, questions: Questions) -> Diagnosis:
    """Compare the artifact with its source, both in `folder`, on these questions. The caller has checked their files.

    Raises ModelUnavailable, RuntimeFailure and ParityError when the two cannot be compared or traced.
    """
    start = time.perf_counter()
    _check_inputs(artifact)
    with (
        closing(load_runtime(folder / source.format, source)) as here,
        closing(load_runtime(folder / artifact.format, artifact)) as there,
    ):
        questions = spread(here, source, questions)
        exchange = _exchange(here, there, (source, artifact), questions, folder)
        reasons = [*differences_in_words(source, artifact), *judge(exchange.parities, exchange.tolerance)]
        checks = _checks(ANSWERS, exchange) if reasons or exchange.differs else []
    diagnosis = Diagnosis(
        artifact=artifact,
        source=source,
        images=questions.count,
        reasons=tuple(reasons or map(str, exchange.differs)),
        is_ordinary=not reasons,
        batch=min(exchange.here),
        traced=0,
        tolerance=questions.tolerance,
        pairs=(),
        place=None,
        checks=tuple(checks),
        pictures=tuple(_pictures(exchange, questions)) if exchange.failing else (),
        seconds=0.0,
        losses=lost_layers(folder / artifact.format, artifact, questions) if is_reduced(artifact.format) else (),
    )
    if not (checks and checks[-1].holds):
        diagnosis = _traced_diagnosis(diagnosis, exchange, folder)
    return replace(diagnosis, seconds=round(time.perf_counter() - start, 1))


def _check_inputs(artifact: Manifest) -> None:
    """Raise ParityError where there are several inputs, the only one is not a real number, or there are no rows."""
    if not artifact.has_rows:
        raise ParityError(
            f"{artifact.name} is called as a whole, since not all of its tensors are rows: only rows can be diagnosed."
        )
    if len(artifact.inputs) > 1 or np.dtype(numpy_dtype(artifact.inputs[0].dtype)).kind != "f":
        entries = ", ".join(f"{each.name} {each.dtype}" for each in artifact.inputs)
        raise ParityError(
            f"{artifact.name} takes {entries}: only models of one input of real numbers, such as pictures, "
            "can be diagnosed."
        )


def _exchange(
    here: Runtime, there: Runtime, manifests: tuple[Manifest, Manifest], questions: Questions, folder: Path
) -> Exchange:
    """Ask both what parity asks."""
    tolerance, source, artifact = Tolerance(questions.tolerance), *manifests
    known, got = (
        {batch: answer(runtime, manifest, questions, batch) for batch in batches_of(questions)}
        for runtime, manifest in ((here, source), (there, artifact))
    )
    parities = [compare_all(known[batch], got[batch], batch, tolerance) for batch in known]
    large = large_call(questions)
    if large is not None and not judge(parities, tolerance):
        with suppress(Exception):  # a program may accept fewer rows
            known[LARGE] = answer(here, source, large, LARGE)
    if large is not None and LARGE in known:
        got[LARGE] = answer(there, artifact, large, LARGE)
        parities.append(replace(compare_all(known[LARGE], got[LARGE], LARGE, tolerance), flips=()))
    edges = answer_edges(here, edge_questions(artifact.inputs, questions))
    return Exchange(
        source=here,
        artifact=there,
        manifests=manifests,
        questions=questions,
        here=known,
        there=got,
        parities=parities,
        edges=edges,
        differs=edge_differences(there, edges, tolerance.max_abs_diff),
        fresh=lambda: load_runtime(folder / artifact.format, artifact),
    )


def _traced_diagnosis(diagnosis: Diagnosis, exchange: Exchange, folder: Path) -> Diagnosis:
    """Look into the layers; where parity failed, on the worst rows, else on the edge questions that differ."""
    artifact, source, reasons = diagnosis.artifact, diagnosis.source, diagnosis.reasons
    batch = max(exchange.failing or exchange.here)
    rows = exchange.questions.inputs[artifact.inputs[0].name].astype(artifact.inputs[0].dtype)
    chosen = rows[_chosen(np.argsort(-exchange.apart(batch)[: len(rows)], kind="stable"))]
    if exchange.differs and not exchange.failing:
        titles = {difference.question for difference in exchange.differs}
        entry = artifact.inputs[0].name
        wrong = [edge.question.inputs[entry] for edge in exchange.edges if edge.question.title in titles]
        same = [row for row in wrong if row.shape == wrong[0].shape]
        chosen, batch = np.concatenate(same), 1
    with closing(load_tracer(folder / source.format, source)) as tracer:
        case = _case(folder, artifact, source, tracer, chosen, batch)
        off = relative_difference(*(exchange.there[size][artifact.outputs[0].name] for size in BATCHES))[0]
        case = replace(case, batch_dependence=off)
        tests: dict[str, Callable[[Case], Check]] = {RUNTIME: partial(served, folder, artifact), **CHECKS}
        checks = _checks(tests, case) if reasons else []
        if checks and not checks[-1].holds:
            checks.append(unknown(case))
    return replace(
        diagnosis,
        batch=batch,
        traced=len(case.images),
        tolerance=case.tolerance,
        pairs=case.pairs,
        place=case.place if reasons and checks[-1].cause != RUNTIME else None,
        checks=(*diagnosis.checks, *checks),
        graphs=(_graph(case.source_trace), _graph(case.artifact_trace)),
    )


def _graph(trace: Trace) -> tuple[Node, ...]:
    """The steps that lead to the answers, without those that only pass their input on."""
    passed: dict[str, str] = {}
    nodes: dict[str, Node] = {}
    for name, step in trace.steps.items():
        inputs = tuple(dict.fromkeys(passed.get(each, each) for each in step.inputs if each in trace.steps))
        if step.op in PASSING and inputs:
            passed[name] = inputs[0]
        else:
            shape = "" if step.value is None else "x".join(map(str, step.array.shape[1:]))
            nodes[name] = Node(name, step.label, step.op, inputs, shape)
    leading, pending = set[str](), [trace.output]
    while pending:
        if (name := pending.pop()) not in leading:
            leading.add(name)
            pending.extend(nodes[name].inputs)
    return tuple(node for name, node in nodes.items() if name in leading)


def _chosen(worst: NDArray[np.intp]) -> list[int]:
    """The indices of the pictures to trace, rising: the worst, and others from the whole range."""
    others = worst[WORST :: max(1, len(worst) // TRACED)]
    return sorted([*worst[:WORST], *others][:TRACED])


def _case(folder: Path, artifact: Manifest, source: Manifest, tracer: Tracer, images: Values, batch: int) -> Case:
    with closing(load_tracer(folder / artifact.format, artifact)) as other:
        images, pieces, here, there = _traced_both((tracer, other), (source, artifact), images, batch)
        stored = list(other.weights())
    kept = precision_of(stored)
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
        weights=stored,
    )


def _traced_both(
    tracers: tuple[Tracer, Tracer], manifests: tuple[Manifest, Manifest], images: Values, batch: int
) -> tuple[Values, list[slice], Trace, Trace]:
    """As many of the rows as the memory holds, their pieces, and both traces; half as many where that fails."""
    alone = [_traced(*each, images[:1], [slice(None)]) for each in zip(tracers, manifests, strict=True)]
    each = max(sum(step.array.nbytes for step in trace.valued) for trace in alone)
    count = int(min(len(images), max(2, MEMORY // each)))
    if count < len(images):
        print(f"{count} of {len(images)} rows are traced: the layers of one take {each / 1e6:.0f} MB.", flush=True)
    while True:
        few = images[:count]
        pieces = [slice(i, i + 1) for i in range(count)] if batch == 1 else [slice(None)]
        try:
            here, there = (_traced(*each, few, pieces) for each in zip(tracers, manifests, strict=True))
            return few, pieces, here, there
        except (MemoryError, ModelUnavailable) as error:
            if count == 1 or not (isinstance(error, MemoryError) or _is_full(error)):
                raise
            count //= 2
            print(f"The memory is full: {count} rows are traced.", flush=True)


def _is_full(error: Exception) -> bool:
    return any(word in str(error) for word in ("OOM", "bad_alloc", "memory", "RESOURCE_EXHAUSTED"))


def _traced(tracer: Tracer, manifest: Manifest, images: Values, pieces: Sequence[slice]) -> Trace:
    try:
        return joined([tracer.trace(images[piece]) for piece in pieces])
    except (RosettaError, MemoryError):
        raise
    except Exception as error:  # a framework may run a graph and still not return every tensor of it
        raise ModelUnavailable(f"{manifest.name} cannot be traced: {one_line(error, 300)}.") from error


Subject = TypeVar("Subject", Exchange, Case)


def _checks(tests: Mapping[str, Callable[[Subject], Check]], subject: Subject) -> list[Check]:
    """A check for each cause, up to the first that explains the answers, too.

    Where none does, one that explains the place is the last: another fault may follow.
    """
    checks = []
    for cause, test in tests.items():
        try:
            check = test(subject)
        except RuntimeFailure:
            raise
        except Exception as error:  # a framework may refuse the change that a check makes
            check = Check(cause, False, f"could not be tried: {one_line(error, 300)}")
        checks.append(check)
        if check.holds and not check.is_partial:
            return checks
    partial_ones = [check for check in checks if check.holds]
    return sorted(checks, key=lambda check: check is next(iter(partial_ones), None))


RUNTIME = "runtime"


def served(folder: Path, artifact: Manifest, case: Case) -> Check:
    """Whether the graph is right layer by layer, and only the runtime that serves it computes something else."""
    entry, output = artifact.inputs[0].name, artifact.outputs[0].name
    questions = Questions({entry: case.images}, None, "")
    with closing(load_runtime(folder / artifact.format, artifact)) as runtime:
        as_served = answer(runtime, artifact, questions, len(case.images[case.pieces[0]]))[output]
    traced, here = (
        trace.value(trace.output).reshape(as_served.shape) for trace in (case.artifact_trace, case.source_trace)
    )
    wrong, right = (relative_difference(traced, other)[0] for other in (as_served, here))
    evidence = (
        f"run layer by layer, the artifact is off by {right:.1e} from its source, "
        f"and by {wrong:.1e} from the runtime that serves it"
    )
    limit = max(case.tolerance, FLOAT32.max_abs_diff)
    advice = "Run it with another version of its runtime, or with fewer optimisations."
    return Check(RUNTIME, right <= limit < wrong, evidence, right, advice)


def _pictures(exchange: Exchange, questions: Questions) -> Iterator[Picture]:
    """The rows with the largest differences, and both answers to them."""
    batch, output = max(exchange.failing or [min(exchange.here)]), exchange.manifests[0].outputs[0].name
    off = exchange.apart(batch)[: questions.count]
    here, there = exchange.here[batch][output], exchange.there[batch][output]
    for index in map(int, np.argsort(-off, kind="stable")[:WORST]):
        source, artifact = ((int(row.argmax()), float(row.max())) for row in (here[index], there[index]))
        label = None if questions.labels is None else int(questions.labels[index])
        yield Picture(index, label, source, artifact, float(off[index]))
