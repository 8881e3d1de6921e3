"""Parity: how far an artifact's answers are from its source's, on the same real pictures.

Parity is a star, not a chain: each artifact is compared with its source, in its real runtime, on all its questions (for
our own models, the test pictures), at batch 1 and at batch 64. Float32 passes when no probability differs by more than
1e-4 and no class changes. Near-ties are excepted: pictures whose two best classes are so close in the source that
rounding alone can swap them. For answers that are not probabilities the limit is the same share of the source's largest
value.
"""

import contextlib
import sys
import time
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from contract.behaviour import Behaviour, write_behaviour
from contract.errors import ArtifactMissing, ParityError, RosettaError, RuntimeFailure, one_line
from contract.manifest import MANIFEST, Manifest, read_manifest, sha256_of, verify_files
from contract.parity_result import BatchParity, Flip, ParityResult, write_parity
from contract.tensors import numpy_dtype
from serve.runtimes import Runtime, load_runtime
from verify.behaviour import observe
from verify.edges import EdgeAnswer, answer_edges, edge_differences, edge_questions
from verify.processor import processor
from verify.questions import Questions

Answers = NDArray[np.floating[Any]]
"""(N, values): one output's answers."""
AllAnswers = Mapping[str, Answers]
"""Output's name -> its answers."""

BATCHES = (1, 64)


@dataclass(frozen=True)
class Tolerance:
    """What passes. The default is for float32, where converters reorder sums: 2e-6 is usual, 1e-4 is a fault."""

    max_abs_diff: float = 1e-4


FLOAT32 = Tolerance()


def compare(reference: Answers, candidate: Answers, batch: int, tolerance: Tolerance = FLOAT32) -> BatchParity:
    """Compare two tables of answers (N, classes) to the same N inputs, row by row.

    Raises ParityError when there is nothing to compare or the shapes differ: an empty comparison never passes.
    """
    if reference.shape != candidate.shape:
        raise ParityError(f"The answers have shape {candidate.shape}, expected the source's {reference.shape}.")
    if reference.size == 0:
        raise ParityError("No answers were compared: at least one input is needed.")
    reference, candidate = reference.astype(np.float64), candidate.astype(np.float64)
    with np.errstate(invalid="ignore"):  # infinity minus infinity
        difference = np.abs(reference - candidate)
    # NaN compares false with everything: an answer that is not a number counts as infinitely far off.
    difference[~np.isfinite(difference)] = np.inf
    return BatchParity(
        batch=batch,
        max_abs_diff=float(difference.max()),
        mean_abs_diff=float(difference.mean()),
        min_cosine=float(_cosine(reference, candidate).min()),
        max_kl=_divergence(reference, candidate),
        agreement=float((reference.argmax(axis=1) == candidate.argmax(axis=1)).mean()),
        flips=tuple(_flips(reference, candidate, difference, tolerance)),
    )


def compare_all(reference: AllAnswers, candidate: AllAnswers, batch: int, tolerance: Tolerance) -> BatchParity:
    """`compare` for each output, as one result. Differences are relative to the size of the output's own values."""
    parities = []
    for name, expected in reference.items():
        unit = _unit_of(expected)
        parities.append(compare(expected / unit, candidate[name] / unit, batch, tolerance))
    return combine(parities)


def _cosine(reference: Answers, candidate: Answers) -> Answers:
    lengths = np.linalg.norm(reference, axis=1) * np.linalg.norm(candidate, axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        cosine = (reference * candidate).sum(axis=1) / lengths
    result: Answers = np.nan_to_num(cosine, nan=-1.0)
    return result


def _divergence(reference: Answers, candidate: Answers) -> float | None:
    """The largest KL divergence of a row. A class that is possible only for the source makes it infinite."""
    for answers in (reference, candidate):
        if not ((answers >= 0).all() and np.allclose(answers.sum(axis=1), 1, atol=1e-3)):
            return None
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = np.where(reference > 0, reference * np.log(reference / candidate), 0.0)
    return float(max(0.0, terms.sum(axis=1).max()))  # only rounding makes it negative


def _flips(reference: Answers, candidate: Answers, difference: Answers, tolerance: Tolerance) -> Iterator[Flip]:
    source, artifact = reference.argmax(axis=1), candidate.argmax(axis=1)
    for image in np.flatnonzero(source != artifact):
        best = np.sort(reference[image])[::-1]
        with np.errstate(invalid="ignore"):  # two infinities are a tie
            margin, largest = float(np.nan_to_num(best[0] - best[1], posinf=np.inf)), float(difference[image].max())
        # Not twice this picture's own difference: every change of class is within that.
        near_tie = margin <= 2 * tolerance.max_abs_diff
        yield Flip(int(image), int(source[image]), int(artifact[image]), margin, largest, near_tie)


def judge(batches: Iterable[BatchParity], tolerance: Tolerance = FLOAT32) -> list[str]:
    """Why the comparison does not pass, one phrase for each reason; empty when it passes."""
    reasons = []
    for parity in batches:
        at = f"at batch {parity.batch}"
        if not parity.max_abs_diff <= tolerance.max_abs_diff:
            reasons.append(
                f"the largest difference {at} is {parity.max_abs_diff:.2g}, at most {tolerance.max_abs_diff}"
            )
        changed = [flip.image for flip in parity.flips if not flip.near_tie]
        if changed:
            some = ", ".join(map(str, changed[:5])) + (", ..." if len(changed) > 5 else "")
            reasons.append(f"{len(changed)} pictures change class {at} ({some})")
    return reasons


def _unit_of(reference: Answers) -> float:
    """1 for answers up to 1, such as probabilities; otherwise their largest value, since rounding grows with it."""
    finite = np.abs(reference[np.isfinite(reference)])
    return max(1.0, float(finite.max(initial=0)))


def combine(parities: Sequence[BatchParity]) -> BatchParity:
    """One result for all outputs of a model: the worst of each measure, and the classes of the first output."""
    divergences = [parity.max_kl for parity in parities if parity.max_kl is not None]
    return replace(
        parities[0],
        max_abs_diff=max(parity.max_abs_diff for parity in parities),
        mean_abs_diff=max(parity.mean_abs_diff for parity in parities),
        min_cosine=min(parity.min_cosine for parity in parities),
        max_kl=max(divergences, default=None),
    )


def answer(runtime: Runtime, manifest: Manifest, questions: Questions, batch: int) -> AllAnswers:
    """The artifact's outputs by name, each as a table (N, values), computed in batches of `batch`."""
    dtypes = {spec.name: numpy_dtype(spec.dtype) for spec in manifest.inputs}
    starts = tqdm(
        range(0, questions.count, batch),
        desc=f"{manifest.name}, batch {batch}",
        unit="call",
        leave=False,
        delay=1,
        disable=None,
        file=sys.stdout,  # the frameworks' warnings have standard error for themselves
    )
    parts = [runtime.predict(questions.rows(start, start + batch, dtypes)) for start in starts]
    if missing := [spec.name for spec in manifest.outputs for part in parts[:1] if spec.name not in part]:
        got = ", ".join(parts[0])
        raise RuntimeFailure(f"{manifest.name} has no output {', '.join(missing)}: its runtime gives {got}.")
    return {spec.name: _table([part[spec.name] for part in parts], questions.count) for spec in manifest.outputs}


def _table(parts: Sequence[NDArray[Any]], rows: int) -> Answers:
    """An output's parts, one a call, as one table (N, values) for N `rows`; texts become numbers.

    Of an output that is not a row for each row, such as a state [layers, batch, units], it is one value a line.
    """
    is_by_rows = all(part.ndim for part in parts) and sum(len(part) for part in parts) == rows
    tables = [part.reshape(len(part), -1) if is_by_rows else part.reshape(-1, 1) for part in parts]
    table = np.concatenate(tables) if tables else np.empty((0, 0))
    if table.dtype == object:  # byte strings: equal ones have the same checksum
        table = np.frompyfunc(lambda value: float(zlib.crc32(bytes(value))), 1, 1)(table).astype(np.float64)
    return table


def verify_model(folder: Path, questions: Questions) -> dict[str, ParityResult]:
    """Compare every artifact of the model in `folder` with its source; write and return the results by format.

    When an artifact cannot be compared, the others still are, and the first such error is raised at the end. Raises
    ArtifactError, ModelUnavailable or RuntimeFailure, and ParityError when there is nothing to compare.
    """
    manifests = {path.parent: read_manifest(path.parent) for path in sorted(folder.glob(f"*/{MANIFEST}"))}
    sources = [path for path, manifest in manifests.items() if manifest.is_source]
    if len(sources) != 1:
        raise ArtifactMissing(f"{folder} has {len(sources)} source artifacts, expected one. Run `make artifacts`.")
    (source,) = sources
    try:
        reference = _reference(source, manifests[source], questions)
    except RosettaError:
        raise
    except Exception as error:  # a runtime may raise anything
        raise RuntimeFailure(f"{manifests[source].name} cannot be run: {one_line(error)}") from error
    results: dict[str, ParityResult] = {}
    errors: list[RosettaError] = []
    for path, manifest in manifests.items():
        if path == source:
            continue
        print(f"--- {manifest.name}", file=sys.stderr, flush=True)  # the title of what its runtime writes
        try:
            result = _result(path, manifest, source, reference, questions)
        except Exception as error:  # a runtime may raise anything, and the other artifacts are compared all the same
            errors.append(error if isinstance(error, RosettaError) else RuntimeFailure(one_line(error)))
            print(f"{manifest.name} cannot be compared: {one_line(errors[-1])}", file=sys.stderr, flush=True)
            continue
        write_parity(path, result)
        results[manifest.format] = result
        print(line(result), flush=True)
    if errors:
        raise errors[0]
    return results


def ask(path: Path, manifest: Manifest, questions: Questions) -> dict[int, AllAnswers]:
    """The artifact's answers by batch size. Raises ArtifactCorrupt, ModelUnavailable or RuntimeFailure."""
    verify_files(path, manifest)
    with contextlib.closing(load_runtime(path, manifest)) as runtime:
        return {batch: answer(runtime, manifest, questions, batch) for batch in BATCHES}


@dataclass(frozen=True)
class Reference:
    """What the source answers."""

    ordinary: Mapping[int, AllAnswers]
    """By batch size."""
    edges: Sequence[EdgeAnswer]


@contextlib.contextmanager
def _observed(path: Path, manifest: Manifest, questions: Questions) -> Iterator[tuple[Runtime, Behaviour]]:
    """The artifact's runtime, and how it behaves, which is written beside it. Raises what `ask` raises."""
    verify_files(path, manifest)
    with contextlib.closing(load_runtime(path, manifest)) as runtime:
        behaviour = observe(runtime, manifest, questions, sha256_of(path / MANIFEST))
        write_behaviour(path, behaviour)
        yield runtime, behaviour


def _reference(path: Path, manifest: Manifest, questions: Questions) -> Reference:
    """Raises what `ask` raises, and ParityError where the same question gets different answers, or there is none."""
    if not questions.count:
        raise ParityError("No answers were compared: at least one input is needed.")
    with _observed(path, manifest, questions) as (runtime, behaviour):
        if behaviour.unsteady:
            raise ParityError(f"{manifest.name} {behaviour.unsteady_words}")
        edges = answer_edges(runtime, edge_questions(manifest.inputs, questions))
        return Reference({batch: answer(runtime, manifest, questions, batch) for batch in BATCHES}, edges)


def _result(path: Path, manifest: Manifest, source: Path, reference: Reference, questions: Questions) -> ParityResult:
    start, tolerance = time.perf_counter(), Tolerance(questions.tolerance)
    with _observed(path, manifest, questions) as (runtime, behaviour):
        answers = {batch: answer(runtime, manifest, questions, batch) for batch in BATCHES}
        differs = edge_differences(runtime, reference.edges, tolerance.max_abs_diff)
    batches = tuple(compare_all(reference.ordinary[batch], answers[batch], batch, tolerance) for batch in BATCHES)
    reasons = judge(batches, tolerance)
    if behaviour.unsteady:
        reasons.append(f"it {behaviour.unsteady_words}")
    first = answers[BATCHES[-1]][manifest.outputs[0].name]
    return ParityResult(
        artifact=manifest.name,
        source=read_manifest(source).name,
        artifact_sha256=sha256_of(path / MANIFEST),
        source_sha256=sha256_of(source / MANIFEST),
        passed=not reasons,
        reasons=tuple(reasons),
        tolerance=tolerance.max_abs_diff,
        images=questions.count,
        accuracy=None if questions.labels is None else float((first.argmax(axis=1) == questions.labels).mean()),
        batches=batches,
        seconds=round(time.perf_counter() - start, 1),
        edges=len(reference.edges),
        differs=tuple(differs),
        processor=processor(),
    )


def line(result: ParityResult) -> str:
    """The result in one line, for people."""
    verdict = "passed" if result.passed else "FAILED: " + "; ".join(result.reasons)
    if result.passed and result.differs:
        verdict = f"passed on ordinary inputs; {result.differs[0]}"
    return (
        f"{result.artifact:22} largest difference {result.max_abs_diff:.1e}, "
        f"same class {result.agreement:.2%} of {result.images}: {verdict}"
    )
