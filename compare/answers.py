"""An artifact's answers to every test picture, and the figures that `make compare` derives from them.

    python -m compare.answers FOLDER FILE      writes the answers into FILE (.npz), prints nothing

This command runs in its own process; for an artifact that somebody brought, in a cell. Two such files, the artifact's
and its source's, give accuracy, parity, and the pictures that change their class.
"""

import argparse
import base64
import contextlib
import io
import sys
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
from numpy.typing import NDArray

from compare.figures import Figure, Measured, Missing, exact, share
from compare.latency import BATCHES as TIMED
from compare.latency import CELL_SECONDS, leave
from compare.report import FlippedPicture
from contract.cell import command
from contract.cell.command import is_own
from contract.cell.harvest import read_file
from contract.errors import BroughtError, RosettaError
from contract.manifest import Manifest, read_manifest, verify_files
from contract.parity_result import BatchParity
from serve.runtimes import load_runtime
from verify.parity import BATCHES, Answers, Tolerance, answer, compare_all, judge
from verify.questions import Questions, give
from verify.questions import load as load_questions
from verify.questions import read as read_questions

MANY = BATCHES[-1]
LARGEST = TIMED[-1]
"""Rows of the largest call that is timed."""
GALLERY = 24
"""How many flipped pictures of an artifact the report shows."""

FILE = "answers.npz"
MAX_BYTES = 1 << 30
"""The largest file of answers that is taken out of a cell."""

AnswersByBatch = Mapping[int, Answers]
"""Batch size -> answers (pictures, classes)."""


def most(answers: AnswersByBatch) -> Answers:
    """The answers at the larger batch size; of a model that is called as a whole there is one alone."""
    return answers[MANY] if MANY in answers else answers[BATCHES[0]]


def read_answers(file: Path | io.BytesIO) -> AnswersByBatch:
    """The answers in a file that this command wrote. Raises OSError if it is gone."""
    with np.load(file, allow_pickle=False) as arrays:
        return {int(name): arrays[name] for name in arrays.files}


UNKNOWN = Missing("The right answers are unknown. Set DATA to a folder with one subfolder of pictures for each class.")


def ask(folder: Path, manifest: Manifest, questions: Questions) -> AnswersByBatch:
    """Every question at each batch size, and the first ones again and again in one call of LARGEST rows.

    A model that is called as a whole is asked one by one alone. Raises ArtifactCorrupt, ModelUnavailable or
    RuntimeFailure.
    """
    verify_files(folder, manifest)
    output = manifest.outputs[0].name
    with contextlib.closing(load_runtime(folder, manifest)) as runtime:
        batches = BATCHES[:1] if questions.are_calls else BATCHES
        answers = {batch: answer(runtime, manifest, questions, batch)[output] for batch in batches}
        if questions.are_calls:
            return answers
        first = {name: np.resize(rows[:MANY], (LARGEST, *rows.shape[1:])) for name, rows in questions.inputs.items()}
        return answers | {LARGEST: answer(runtime, manifest, replace(questions, inputs=first), LARGEST)[output]}


def ask_in_cell(folder: Path, dataset: str, limit: int | None) -> AnswersByBatch:
    """What `ask` gives, for an artifact that somebody brought: it answers in a cell.

    Raises ArtifactMissing, ChildFailed with what `ask` says there, and BroughtError where there is no cell, or no
    answers come out.
    """
    read_manifest(folder)  # fails here, before a cell is made, if there is no artifact
    with command.cell_of(folder.parent, CELL_SECONDS) as cell:
        about = ["--questions", give(cell, folder.parent, dataset, limit), *(["--limit", limit] if limit else [])]
        command.run(cell, "compare.answers", cell.file / folder.name, cell.folder / FILE, *about)
        content = read_file(cell.folder, FILE, MAX_BYTES)
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            if sum(part.file_size for part in archive.infolist()) > MAX_BYTES:
                raise ValueError(f"they are more than {MAX_BYTES} bytes")
        answers = read_answers(io.BytesIO(content))
        if not answers or any(rows.ndim != 2 or rows.dtype.kind not in "fiub" for rows in answers.values()):
            raise ValueError("they are no tables of numbers")
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile) as error:
        raise BroughtError(f"{folder} left no answers: {error}") from error
    return answers


def wrong_in_a_large_call(source: AnswersByBatch, answers: AnswersByBatch, tolerance: float = 1e-4) -> str:
    """How the answers in a call of LARGEST rows differ from the source's; empty if they do not."""
    if LARGEST not in answers:
        return ""
    expected = np.resize(source[MANY][:MANY], (LARGEST, *source[MANY].shape[1:]))
    batch = compare_all({"": expected}, {"": answers[LARGEST]}, LARGEST, Tolerance(tolerance))
    return "; ".join(judge((batch,), Tolerance(tolerance)))


def accuracy(answers: AnswersByBatch, questions: Questions) -> Measured:
    """The share of pictures that are classified correctly at the larger batch size."""
    if questions.labels is None:
        return UNKNOWN
    right = most(answers).argmax(axis=1) == questions.labels
    return share(int(right.sum()), len(right))


def pack_right(answers: AnswersByBatch, questions: Questions) -> str:
    """Which pictures are classified correctly, packed for the report; empty if the right answers are unknown."""
    if questions.labels is None:
        return ""
    return base64.b64encode(np.packbits(most(answers).argmax(axis=1) == questions.labels).tobytes()).decode()


def accuracy_per_class(answers: AnswersByBatch, questions: Questions, labels: tuple[str, ...]) -> dict[str, Measured]:
    """Label -> the accuracy on the pictures of this class; empty if the right answers are unknown."""
    if questions.labels is None:
        return {}
    right = most(answers).argmax(axis=1) == questions.labels
    results: dict[str, Measured] = {}
    for number, label in enumerate(labels):
        of_class = right[questions.labels == number]
        results[label] = (
            share(int(of_class.sum()), len(of_class)) if len(of_class) else Missing("No test picture is of this class.")
        )
    return results


def accuracy_change(source: AnswersByBatch, answers: AnswersByBatch, questions: Questions) -> Measured:
    """Accuracy minus the source's, on the same pictures. Pictures with equal answers do not widen the interval."""
    if questions.labels is None:
        return UNKNOWN
    before, after = (most(each).argmax(axis=1) == questions.labels for each in (source, answers))
    difference = after.astype(np.float64) - before
    reach = 1.96 * float(difference.std()) / len(difference) ** 0.5
    value = float(difference.mean())
    return Figure(
        value, "share", value - reach, value + reach, len(difference), "95% interval of the paired differences"
    )


def points_lost(change: Measured) -> Measured:
    """What a change of accuracy takes away, in points of a hundred."""
    if isinstance(change, Missing):
        return change
    low, high = -100 * change.high, -100 * change.low
    return Figure(-100 * change.value, "", low, high, change.samples, change.spread)


def parity(source: AnswersByBatch, answers: AnswersByBatch, tolerance: float = 1e-4) -> tuple[BatchParity, ...]:
    """Compare the answers with the source's at each batch size. Raises ParityError if they cannot be compared."""
    return tuple(
        compare_all({"": source[batch]}, {"": answers[batch]}, batch, Tolerance(tolerance))
        for batch in BATCHES
        if batch in source
    )


def parity_figures(batches: tuple[BatchParity, ...], pictures: int) -> dict[str, Measured]:
    """The five measures at each batch size, and the smallest agreement of all batch sizes."""
    figures: dict[str, Measured] = {"agreement": min((_agreement(batch, pictures) for batch in batches), key=_value)}
    for batch in batches:
        measures = {
            "max_abs_diff": batch.max_abs_diff,
            "mean_abs_diff": batch.mean_abs_diff,
            "cosine_distance": max(0.0, 1 - batch.min_cosine),  # only rounding makes it negative
            "max_kl": batch.max_kl,
        }
        figures |= {f"{name}@{batch.batch}": _finite(value, pictures) for name, value in measures.items()}
        figures[f"agreement@{batch.batch}"] = _agreement(batch, pictures)
    return figures


def _finite(value: float | None, pictures: int) -> Measured:
    if value is None:
        return Missing("The answers are not probabilities.")
    return exact(value, "", pictures) if np.isfinite(value) else Missing("It is infinite. The verdict says why.")


def _agreement(batch: BatchParity, pictures: int) -> Figure:
    return share(round(batch.agreement * pictures), pictures)


def _value(figure: Figure) -> float:
    return figure.value


def verdict(batches: tuple[BatchParity, ...], tolerance: float = 1e-4) -> str:
    """The word `passed`, or why the artifact did not pass."""
    return "; ".join(judge(batches, Tolerance(tolerance))) or "passed"


def flips(
    source: AnswersByBatch,
    answers: AnswersByBatch,
    batches: tuple[BatchParity, ...],
    questions: Questions,
    labels: tuple[str, ...],
) -> list[FlippedPicture]:
    """Every picture that changes its class at any batch size; each once."""
    changed = {flip.image: (parity.batch, flip) for parity in reversed(batches) for flip in parity.flips}
    if questions.pictures is None:
        return []
    return [
        FlippedPicture(
            image=image,
            batch=batch,
            png=png(questions.pictures[image]),
            label="" if questions.labels is None else _label(labels, int(questions.labels[image])),
            source=_label(labels, flip.source),
            artifact=_label(labels, flip.artifact),
            source_margin=flip.margin,
            artifact_margin=_margin(answers[batch][image]),
            near_tie=flip.near_tie,
        )
        for image, (batch, flip) in sorted(changed.items())
    ]


def _label(labels: tuple[str, ...], index: int) -> str:
    return labels[index] if index < len(labels) else f"class {index}"


def _margin(row: NDArray[Any]) -> float:
    second, first = np.sort(row.astype(np.float64))[-2:]
    return float(first - second)


def png(pixels: NDArray[np.uint8]) -> str:
    """A picture (H, W, C) as PNG, in base64."""
    file = io.BytesIO()
    PIL.Image.fromarray(pixels.squeeze()).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def pack_classes(answers: AnswersByBatch) -> str:
    """The class of every picture at the larger batch size, packed for the report."""
    classes = most(answers).argmax(axis=1).astype("<u2")
    return base64.b64encode(zlib.compress(classes.tobytes(), 9)).decode()


def unpack_classes(packed: str) -> NDArray[np.uint16]:
    """The classes that `pack_classes` packed."""
    return np.frombuffer(zlib.decompress(base64.b64decode(packed)), "<u2")


def main() -> None:
    """The command line: the artifact's folder, and the file to write."""
    parser = argparse.ArgumentParser(prog="python -m compare.answers")
    parser.add_argument("folder", type=Path)
    parser.add_argument("file", type=Path)
    parser.add_argument("--dataset", default="fashion_mnist")
    parser.add_argument("--limit", type=int)
    parser.add_argument("--in-cell", action="store_true", help="this process is in a cell")
    parser.add_argument("--questions", type=Path, help="the model's questions, where they do not lie beside it")
    options = parser.parse_args()
    try:
        if options.in_cell:
            questions = read_questions(options.questions, options.limit)
            answers = ask(options.folder, read_manifest(options.folder), questions)
        elif is_own(options.folder.parent):
            questions = load_questions(options.folder.parent, options.dataset, options.limit)
            answers = ask(options.folder, read_manifest(options.folder), questions)
        else:
            answers = ask_in_cell(options.folder, options.dataset, options.limit)
    except RosettaError as error:
        sys.exit(f"error: {error}")
    partial = options.file.with_suffix(".partial.npz")
    np.savez(partial, **{str(batch): rows for batch, rows in answers.items()})  # type: ignore[arg-type]
    partial.replace(options.file)
    leave()


if __name__ == "__main__":
    main()
