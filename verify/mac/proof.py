"""The proof of an artifact that a Mac alone runs: what its file shows here, and what a Mac answered to the questions.

A record of a Mac is not taken at its word. The answers in it are compared with the source's, by the gate's tolerance,
and count only for the very bytes that gave them.
"""

import contextlib
import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from contract.coreml_program import PACKAGE, STORED_AS, faults
from contract.errors import ArtifactCorrupt
from contract.formats import why_not_run
from contract.mac_record import MAC, QUESTIONS, SCRIPT, UNITS, MacRecord, Run, read_record
from contract.manifest import MANIFEST, Manifest, read_manifest, sha256_of, verify_files
from contract.parity_result import PARITY, BatchParity, ParityResult
from contract.records import RecordError
from contract.tensors import Tensors, numpy_dtype
from verify.parity import Reference, Tolerance, answer, compare_all, differences_in_words, judge

ROWS = 500
"""Questions for a Mac, at most."""
MOST_BYTES = 16 << 20
"""Of the questions, and of the answers to them."""


def prove(path: Path, manifest: Manifest, source: Path, reference: Reference) -> ParityResult | None:
    """Judge what a Mac answered; None where it did not, or its record does not count: then no result stays, either.

    The questions and the script for a Mac are left beside the artifact. Raises ArtifactCorrupt where its files are not
    those of the manifest, or have something else than the manifest and its name say.
    """
    verify_files(path, manifest)
    if problems := faults(path / PACKAGE, manifest):
        raise ArtifactCorrupt(f"{manifest.name} is not what its manifest says: {'; '.join(problems)}. Export it again.")
    reference = _bounded(reference, manifest)
    leave_questions(path, manifest, reference)
    leave_script(path)
    try:
        result = _judged(path, manifest, source, reference, read_record(path))
    except RecordError as error:
        print(f"{manifest.name}: its {MAC} does not count: {error}. Run `python3 {SCRIPT}` on a Mac again.", flush=True)
        result = None
    if result is None:
        (path / PARITY).unlink(missing_ok=True)
        print(
            f"{manifest.name}: {why_not_run(manifest.format)}. Its file was read: inputs, outputs, and float32 are the "
            f"source's. To prove its answers, copy the folder {path.parent.name}/{path.name} to a Mac, and run "
            f"`python3 {SCRIPT}` in it.",
            flush=True,
        )
    return result


def leave_script(folder: Path) -> None:
    """Write the script beside an artifact that has questions for it. It is this project's, and no cell's."""
    if (folder / QUESTIONS).exists():
        _write(folder / SCRIPT, Path(__file__).with_name(SCRIPT).read_bytes())


def leave_questions(path: Path, manifest: Manifest, reference: Reference) -> None:
    """Write the questions, unless those that lie there are the same: a record names their bytes.

    The source's answers in them are for the script alone, and differ in their last digits from processor to processor.
    """
    about = _about(path, manifest, reference)
    inputs = {f"input {name}": rows for name, rows in reference.questions.inputs.items()}
    if _are_there(path / QUESTIONS, about, inputs):
        return
    answers = {
        f"answer {batch} {name}": table
        for batch, tables in reference.ordinary.items()
        for name, table in tables.items()
    }
    content = io.BytesIO()
    text = np.frombuffer(json.dumps(about).encode(), np.uint8)
    np.savez_compressed(content, **inputs, **answers, about=text)  # type: ignore[arg-type]
    _write(path / QUESTIONS, content.getvalue())


def _write(path: Path, content: bytes) -> None:
    """Write a file, or take the place of a link: in a cell, what lies beside the artifact is linked."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_bytes(content)
    partial.replace(path)


def _about(path: Path, manifest: Manifest, reference: Reference) -> Mapping[str, Any]:
    """What the script has to know besides the questions."""
    return {
        "manifest": sha256_of(path / MANIFEST),
        "package": PACKAGE,
        "units": list(UNITS),
        "batches": {str(batch): reference.questions_at(batch).count for batch in reference.ordinary},
        "inputs": {spec.name: STORED_AS.get(spec.dtype, spec.dtype) for spec in manifest.inputs},
        "outputs": [spec.name for spec in manifest.outputs],
        "are_calls": reference.questions.are_calls,
        "tolerance": reference.questions.tolerance,
    }


def _are_there(file: Path, about: Mapping[str, Any], inputs: Mapping[str, Any]) -> bool:
    with contextlib.suppress(OSError, ValueError, KeyError, EOFError), np.load(file, allow_pickle=False) as arrays:
        known = json.loads(arrays["about"].tobytes())
        return bool(known == about and all(np.array_equal(arrays[name], rows) for name, rows in inputs.items()))
    return False


def _bounded(reference: Reference, manifest: Manifest) -> Reference:
    """To as many questions as ROWS and MOST_BYTES allow; at least to one."""
    count = reference.questions.count
    sent = sum(rows[:1].nbytes for rows in reference.questions.inputs.values())
    values = sum(table.shape[1] * len(table) / count for table in reference.ordinary[max(reference.ordinary)].values())
    answered = 8 * values * len(UNITS) * len(reference.ordinary)
    return reference.first(max(1, min(ROWS, int(MOST_BYTES / max(sent, answered, 1)))))


def _judged(
    path: Path, manifest: Manifest, source: Path, reference: Reference, record: MacRecord | None
) -> ParityResult | None:
    """Raises RecordError where the record is of other bytes, or lacks answers."""
    if record is None:
        return None
    _check(path, manifest, record)
    tolerance = Tolerance(reference.questions.tolerance)
    reasons = differences_in_words(read_manifest(source), manifest)
    batches: list[BatchParity] = []
    for run, batch in _in_order(record, reference):
        parity = compare_all(reference.ordinary[batch], _answers(run, manifest, reference, batch), batch, tolerance)
        parity = parity if manifest.has_classes else replace(parity, flips=())
        batches.append(parity)
        reasons += [f"with {run.units}, {reason}" for reason in judge([parity], tolerance)]
    return ParityResult(
        artifact=manifest.name,
        source=read_manifest(source).name,
        artifact_sha256=sha256_of(path / MANIFEST),
        source_sha256=sha256_of(source / MANIFEST),
        passed=not reasons,
        reasons=tuple(reasons),
        tolerance=tolerance.max_abs_diff,
        images=reference.questions.count,
        accuracy=None,
        batches=tuple(batches),
        seconds=0.0,
        edges=0,
        differs=(),
        processor=record.machine,
        system=record.system,
        record_sha256=sha256_of(path / MAC),
    )


def _check(path: Path, manifest: Manifest, record: MacRecord) -> None:
    """Raise RecordError unless the record is of this artifact, and of the bytes that lie here."""
    if record.artifact != manifest.name:
        raise RecordError(f"it is of {record.artifact[:100]}")
    here = {name: sha256_of(path / name) for name in (MANIFEST, *manifest.files, QUESTIONS)}
    if others := [name for name in {**here, **record.files} if here.get(name) != record.files.get(name)]:
        raise RecordError(f"it is of another {others[0]} than the one that lies here, which was changed since")


def _in_order(record: MacRecord, reference: Reference) -> Iterator[tuple[Run, int]]:
    """Each run that there has to be, with its batch size. Raises RecordError where one is missing."""
    runs = {(run.units, run.batch): run for run in record.runs}
    for units in UNITS:
        for batch in reference.ordinary:
            if (units, batch) not in runs:
                raise RecordError(f"it has no answers at batch {batch} with {units}")
            yield runs[units, batch], batch


def _answers(run: Run, manifest: Manifest, reference: Reference, batch: int) -> Mapping[str, Any]:
    """Raises RecordError where answers are missing, or have another shape than the source's."""
    questions = reference.questions_at(batch)
    calls = -(-questions.count // batch)
    if len(run.calls) != calls:
        raise RecordError(f"it has {len(run.calls)} calls at batch {batch} with {run.units}, expected {calls}")
    try:
        tables = answer(Recorded(run, manifest), manifest, questions, batch)
    except (KeyError, ValueError) as error:
        raise RecordError(f"its answers at batch {batch} with {run.units} cannot be used: {error}") from error
    for name, expected in reference.ordinary[batch].items():
        if tables[name].shape != expected.shape:
            raise RecordError(f"{name} has the shape {tables[name].shape}, expected the source's {expected.shape}")
    return tables


class Recorded:
    """Answers that were given elsewhere, call by call, as a runtime gives them."""

    platform, in_process = "coreml", True

    def __init__(self, run: Run, manifest: Manifest) -> None:
        self.title = f"Core ML, {run.units}"
        self._calls = iter(run.calls)
        self._dtypes = {spec.name: numpy_dtype(spec.dtype) for spec in manifest.outputs}

    def predict(self, inputs: Tensors) -> Tensors:
        call = next(self._calls)
        return {name: call[name].array.astype(dtype) for name, dtype in self._dtypes.items()}

    def close(self) -> None:
        """Nothing is held."""
