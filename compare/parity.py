"""Parity: how far an artifact's answers are from its source's, on the same real pictures.

    python -m compare.parity artifacts/keras_cnn      compares all its artifacts, writes `parity.json` beside each

It is a star, not a chain: each artifact is compared with its source, in its real runtime, on all test pictures, at
batch 1 and at batch 64. Float32 passes when no probability differs by more than 1e-4 and no class changes, near-ties
excepted: pictures whose two best classes lie so close in the source that rounding alone can swap them.
"""

import argparse
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from contract import dataset
from contract.errors import ArtifactMissing, ParityError, RosettaError
from contract.manifest import MANIFEST, Manifest, read_manifest, sha256_of, verify_files
from contract.parity_result import BatchParity, Flip, ParityResult, write_parity
from serve.runtimes import Runtime, load_runtime

Answers = NDArray[np.floating[Any]]

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
    # NaN compares false with everything: an answer that is not a number is as far off as can be.
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


def _cosine(reference: Answers, candidate: Answers) -> Answers:
    lengths = np.linalg.norm(reference, axis=1) * np.linalg.norm(candidate, axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        cosine = (reference * candidate).sum(axis=1) / lengths
    result: Answers = np.nan_to_num(cosine, nan=-1.0)
    return result


def _divergence(reference: Answers, candidate: Answers) -> float | None:
    """The largest KL divergence of a row. A class that only the source holds possible makes it infinite."""
    for answers in (reference, candidate):
        if not ((answers >= 0).all() and np.allclose(answers.sum(axis=1), 1, atol=1e-3)):
            return None
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = np.where(reference > 0, reference * np.log(reference / candidate), 0.0)
    return float(max(0.0, terms.sum(axis=1).max()))  # below zero by rounding alone


def _flips(reference: Answers, candidate: Answers, difference: Answers, tolerance: Tolerance) -> Iterator[Flip]:
    source, artifact = reference.argmax(axis=1), candidate.argmax(axis=1)
    for image in np.flatnonzero(source != artifact):
        best = np.sort(reference[image])[::-1]
        margin, largest = float(best[0] - best[1]), float(difference[image].max())
        # Not twice the difference of this very picture: no class can change without that.
        near_tie = margin <= 2 * tolerance.max_abs_diff
        yield Flip(int(image), int(source[image]), int(artifact[image]), margin, largest, near_tie)


def judge(batches: Iterable[BatchParity], tolerance: Tolerance = FLOAT32) -> list[str]:
    """Why the comparison does not pass, one sentence a reason; empty when it passes."""
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


def answer(runtime: Runtime, manifest: Manifest, images: NDArray[Any], batch: int) -> Answers:
    """The artifact's first output for images (N, ...) of its input's dtype, asked in batches of `batch`."""
    name, output = manifest.inputs[0].name, manifest.outputs[0].name
    rows = [
        runtime.predict({name: images[start : start + batch]})[output]
        for start in tqdm(
            range(0, len(images), batch),
            desc=f"{manifest.name}, batch {batch}",
            unit="call",
            leave=False,
            delay=1,
            disable=None,
        )
    ]
    return np.concatenate(rows) if rows else np.empty((0, 0))


def verify_model(folder: Path, split: dataset.Split) -> dict[str, ParityResult]:
    """Compare every artifact of the model in `folder` with its source; write and return the results by format.

    An artifact that cannot be compared does not keep the others from it: what is wrong with the first of them is raised
    at the end. Raises ArtifactError, ModelUnavailable or RuntimeFailure, and ParityError when nothing can be compared.
    """
    manifests = {path.parent: read_manifest(path.parent) for path in sorted(folder.glob(f"*/{MANIFEST}"))}
    sources = [path for path, manifest in manifests.items() if manifest.is_source]
    if len(sources) != 1:
        raise ArtifactMissing(f"{folder} has {len(sources)} source artifacts, expected one. Run `make artifacts`.")
    (source,) = sources
    references = ask(source, manifests[source], split)
    results, errors = {}, []
    for path, manifest in manifests.items():
        if path == source:
            continue
        try:
            result = _result(path, manifest, source, references, split, time.perf_counter())
        except RosettaError as error:
            errors.append(error)
            continue
        write_parity(path, result)
        results[manifest.format] = result
        print(line(result), flush=True)
    if errors:
        raise errors[0]
    return results


def ask(path: Path, manifest: Manifest, split: dataset.Split) -> dict[int, Answers]:
    """The artifact's answers by batch size. Raises ArtifactCorrupt, ModelUnavailable or RuntimeFailure."""
    verify_files(path, manifest)
    images = split.images.astype(manifest.inputs[0].dtype)
    runtime = load_runtime(path, manifest)
    try:
        return {batch: answer(runtime, manifest, images, batch) for batch in BATCHES}
    finally:
        runtime.close()


def _result(
    path: Path,
    manifest: Manifest,
    source: Path,
    references: Mapping[int, Answers],
    split: dataset.Split,
    start: float,
) -> ParityResult:
    answers = ask(path, manifest, split)
    batches = tuple(compare(references[batch], answers[batch], batch) for batch in BATCHES)
    reasons = judge(batches)
    return ParityResult(
        artifact=manifest.name,
        source=read_manifest(source).name,
        artifact_sha256=sha256_of(path / MANIFEST),
        source_sha256=sha256_of(source / MANIFEST),
        passed=not reasons,
        reasons=tuple(reasons),
        tolerance=FLOAT32.max_abs_diff,
        images=len(split.images),
        accuracy=float((answers[BATCHES[-1]].argmax(axis=1) == split.labels).mean()),
        batches=batches,
        seconds=round(time.perf_counter() - start, 1),
    )


def line(result: ParityResult) -> str:
    """One line for people."""
    verdict = "passed" if result.passed else "FAILED: " + "; ".join(result.reasons)
    return (
        f"{result.artifact:22} largest difference {result.max_abs_diff:.1e}, "
        f"same class {result.agreement:.2%} of {result.images}: {verdict}"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Verify the models given; exit status 1 when one artifact's parity fails."""
    parser = argparse.ArgumentParser(
        prog="python -m compare.parity", description="Compare artifacts with their source."
    )
    parser.add_argument("models", type=Path, nargs="+", help="folders of models, such as artifacts/keras_cnn")
    parser.add_argument("--dataset", default="fashion_mnist", help=f"one of {', '.join(dataset.DATASETS)}")
    parser.add_argument("--limit", type=int, help="compare on the first pictures only")
    options = parser.parse_args(arguments)
    try:
        split = dataset.load(options.dataset, "test", options.limit)
        results = [result for folder in options.models for result in verify_model(folder, split).values()]
    except RosettaError as error:
        sys.exit(f"error: {error}")
    failed = [result.artifact for result in results if not result.passed]
    if failed:
        model, _, format = failed[0].partition("-")
        sys.exit(
            f"error: parity failed for {', '.join(failed)}: these are served as unverified. "
            f"Where it goes wrong, and why: make diagnose DATASET={options.dataset} MODEL={model} FORMAT={format}"
        )


if __name__ == "__main__":
    main()
