"""The proof of one model's artifacts: the gate's questions, asked here and on the emulated processor.

An artifact of float32 has to answer there as its source does here, by the gate's own tolerance. One of reduced
precision has to answer there as it does here, within what the gate allows it between two ways to call it: what it keeps
of its source's accuracy, the gate has shown on more questions than an emulated processor can answer.
"""

import contextlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from bring.verdict.artifact import judge_again
from contract.arm_proof import ArmProof, write_proof
from contract.errors import (
    ArtifactError,
    ArtifactMissing,
    BroughtError,
    ModelUnavailable,
    RosettaError,
    RuntimeFailure,
    one_line,
)
from contract.formats import family_of, is_reduced
from contract.manifest import MANIFEST, Manifest, read_manifest, sha256_of, verify_files
from contract.parity_result import FAILED, UNVERIFIED, BatchParity, read_status
from serve.runtimes import Runtime, load_runtime
from verify.arm.emulation import Emulated, Emulation
from verify.behaviour import ask_alone
from verify.edges import answer_edges, edge_differences, edge_questions
from verify.parity import (
    NUMBERS_ONLY,
    USUAL,
    AllAnswers,
    Reference,
    Tolerance,
    answer,
    are_by_rows,
    batches_of,
    compare_all,
    in_time,
    judge,
    same_artifact,
)
from verify.questions import Questions
from verify.spread import spread

FAMILIES = ("onnx", "tflite")
"""Those of phones whose runtime is set up for ARM."""
LEFT_OUT = {
    "executorch": "its runtime for ARM needs PyTorch's build, which takes 870 MB",
    "coreai": "Apple's runtime for Linux has no build for ARM",
    "coreml": "it needs macOS",
}
"""Those that are not, and why."""
ALONE = 16
"""Questions that are asked one at a time, where kernels may be others than for many."""


@dataclass(frozen=True)
class Side:
    """The answers of an artifact on one processor."""

    ordinary: Mapping[int, AllAnswers]
    """By batch size."""
    edges: Mapping[tuple[str, str], str]
    """(question, output) -> how it is not the source's, where it is not."""


def prove_model(folder: Path, questions: Questions, emulation: Emulation) -> list[ArmProof]:
    """Prove every artifact of the model in `folder` whose runtime there is for ARM, and write the proofs beside them.

    What is unverified here, or does more than compute, is left out, with a line that says so. Raises ArtifactError,
    BroughtError, ModelUnavailable and RuntimeFailure where the source or the emulation cannot be run.
    """
    manifests = {path.parent: read_manifest(path.parent) for path in sorted(folder.glob(f"[!.]*/{MANIFEST}"))}
    sources = [path for path, manifest in manifests.items() if manifest.is_source]
    if len(sources) != 1:
        raise ArtifactMissing(f"{folder} has {len(sources)} source artifacts, expected one. Run `make artifacts`.")
    verified = dict(_verified(manifests))
    if not verified:
        print(f"{folder.name} has no verified artifact in {' or '.join(FAMILIES)}", flush=True)
        return []
    judge_again(sources[0], manifests[sources[0]])
    try:
        reference = _reference(sources[0], manifests[sources[0]], questions)
    except RosettaError:
        raise
    except Exception as error:  # a runtime may raise anything
        raise RuntimeFailure(f"{manifests[sources[0]].name} cannot be run: {one_line(error)}") from error
    proofs = []
    with contextlib.closing(Emulated(emulation)) as emulated:
        for path, manifest in verified.items():
            proof = _proof(path, manifest, sources[0], reference, emulated, emulation.processor)
            write_proof(path, proof)
            print(line(proof), flush=True)
            proofs.append(proof)
    return proofs


def line(proof: ArmProof) -> str:
    """The proof in one line, for people."""
    whose = "its own answers here" if proof.expected == proof.artifact else "its source's"
    measured = (
        f"largest difference {proof.max_abs_diff:.1e} from {whose}, {proof.changed} of {proof.rows} rows change class"
    )
    verdict = (
        "; ".join(("proven on ARM", *proof.differs)) if proof.passed else f"not proven: {'; '.join(proof.reasons)}"
    )
    return f"{proof.artifact:24} {f'{measured}: ' if proof.rows else ''}{verdict}"


def _verified(artifacts: Mapping[Path, Manifest]) -> Iterator[tuple[Path, Manifest]]:
    for path, manifest in artifacts.items():
        family = family_of(manifest.format)
        if family in LEFT_OUT:
            print(f"{manifest.name} is left out: {LEFT_OUT[family]}", flush=True)
        if family not in FAMILIES:
            continue
        status = read_status(path)
        if status.word in (UNVERIFIED, FAILED):
            print(f"{manifest.name} is not asked: it is {status.word} here, too", flush=True)
            continue
        try:
            judge_again(path, manifest)
        except BroughtError as error:
            print(f"{manifest.name} is not asked: {error}", flush=True)
        else:
            yield path, manifest


def _reference(path: Path, manifest: Manifest, questions: Questions) -> Reference:
    """What the source answers here."""
    verify_files(path, manifest)
    with contextlib.closing(load_runtime(path, manifest)) as runtime:
        given = in_time(manifest, questions, ask_alone(runtime, manifest, questions).seconds)
        batch = batches_of(given)[-1]
        answers = answer(runtime, manifest, given, batch)
        questions = spread(runtime, manifest, given, answers[manifest.outputs[0].name])
        if questions is not given:
            answers = answer(runtime, manifest, questions, batch)
        ordinary = {batch: answers}
        if batch > 1:
            alone = questions.first(ALONE) if are_by_rows(answers, questions) else questions
            ordinary = {1: answer(runtime, manifest, alone, 1), batch: answers}
        edges = answer_edges(runtime, edge_questions(manifest.inputs, questions))
    return Reference(questions, ordinary, None, edges)


def _proof(
    path: Path, manifest: Manifest, source: Path, reference: Reference, emulated: Emulated, processor: str
) -> ArmProof:
    source_name = read_manifest(source).name
    tolerance = Tolerance(reference.questions.tolerance)
    if reduced := is_reduced(manifest.format):
        tolerance = same_artifact(manifest.format)
    proof = ArmProof(
        artifact=manifest.name,
        source=source_name,
        artifact_sha256=sha256_of(path / MANIFEST),
        source_sha256=sha256_of(source / MANIFEST),
        passed=False,
        reasons=(),
        rows=0,
        expected=manifest.name if reduced else source_name,
        tolerance=tolerance.max_abs_diff,
        max_abs_diff=math.inf,
        changed=0,
        here_max_abs_diff=math.inf,
        here_changed=0,
        edges=0,
        differs=(),
        runtime="",
        processor=processor,
    )
    try:
        return _compared(proof, path, manifest, reference, emulated)
    except (ArtifactError, ModelUnavailable):  # nothing is known of its answers there
        raise
    except Exception as error:  # a runtime may raise anything, and may answer in another shape
        return replace(proof, reasons=(f"it cannot be compared there: {one_line(error)}",), runtime=emulated.title)


def _compared(proof: ArmProof, path: Path, manifest: Manifest, reference: Reference, emulated: Emulated) -> ArmProof:
    """Raises what a runtime raises, and ParityError for answers in another shape."""
    verify_files(path, manifest)
    runtime, tolerance = emulated.load(path, manifest), Tolerance(proof.tolerance)
    seconds = ask_alone(runtime, manifest, reference.questions).seconds
    reference = reference.first(in_time(manifest, reference.questions, seconds).count)
    if len(reference.edges) * seconds > USUAL.all:
        reference = replace(reference, edges=())
    there = _side(runtime, manifest, reference)
    with contextlib.closing(load_runtime(path, manifest)) as runtime_here:
        here = _side(runtime_here, manifest, reference)
    from_here = _batches(manifest, here.ordinary, there.ordinary, tolerance)
    batches = from_here
    if proof.expected != proof.artifact:
        batches = _batches(manifest, reference.ordinary, there.ordinary, tolerance)
    reasons = judge(batches, tolerance)
    return replace(
        proof,
        passed=not reasons,
        reasons=tuple(reasons),
        rows=reference.questions.count,
        max_abs_diff=max(batch.max_abs_diff for batch in batches),
        changed=max(len(batch.flips) for batch in batches),
        here_max_abs_diff=max(batch.max_abs_diff for batch in from_here),
        here_changed=max(len(batch.flips) for batch in from_here),
        edges=len(reference.edges),
        differs=tuple(words for place, words in there.edges.items() if place not in here.edges),
        runtime=emulated.title,
    )


def _side(runtime: Runtime, manifest: Manifest, reference: Reference) -> Side:
    tolerance = NUMBERS_ONLY if is_reduced(manifest.format) else reference.questions.tolerance
    ordinary = {batch: answer(runtime, manifest, reference.questions_at(batch), batch) for batch in reference.ordinary}
    differences = edge_differences(runtime, reference.edges, tolerance)
    return Side(ordinary, {(each.question, each.output): str(each) for each in differences})


def _batches(
    manifest: Manifest,
    expected: Mapping[int, AllAnswers],
    answers: Mapping[int, AllAnswers],
    tolerance: Tolerance,
) -> list[BatchParity]:
    batches = [compare_all(own, answers[batch], batch, tolerance) for batch, own in expected.items()]
    return batches if manifest.has_classes else [replace(batch, flips=()) for batch in batches]
