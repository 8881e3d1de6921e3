"""An artifact's answers to every test picture, and the figures that `make compare` derives from them.

    python -m compare.answers FOLDER FILE      writes the answers into FILE (.npz), prints nothing

This command runs in its own process. Two such files, the artifact's and its source's, give accuracy, parity, and the
pictures that change their class.
"""

import argparse
import base64
import io
import sys
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
from numpy.typing import NDArray

from compare.figures import Figure, Measured, Missing, exact, share
from compare.report import FlippedPicture
from contract.errors import RosettaError
from contract.manifest import read_manifest
from contract.parity_result import BatchParity
from verify.parity import BATCHES, Answers, Tolerance, ask, compare_all, judge
from verify.questions import Questions
from verify.questions import load as load_questions

MANY = BATCHES[-1]
GALLERY = 24
"""How many flipped pictures of an artifact the report shows."""

AnswersByBatch = Mapping[int, Answers]
"""Batch size -> answers (pictures, classes)."""


def read_answers(file: Path) -> AnswersByBatch:
    """The answers in a file that this command wrote. Raises OSError if it is gone."""
    with np.load(file) as arrays:
        return {int(name): arrays[name] for name in arrays.files}


UNKNOWN = Missing("The right answers are unknown. Set DATA to a folder with one subfolder of pictures for each class.")


def accuracy(answers: AnswersByBatch, questions: Questions) -> Measured:
    """The share of pictures that are classified correctly at the larger batch size."""
    if questions.labels is None:
        return UNKNOWN
    right = answers[MANY].argmax(axis=1) == questions.labels
    return share(int(right.sum()), len(right))


def accuracy_per_class(answers: AnswersByBatch, questions: Questions, labels: tuple[str, ...]) -> dict[str, Measured]:
    """Label -> the accuracy on the pictures of this class; empty if the right answers are unknown."""
    if questions.labels is None:
        return {}
    right = answers[MANY].argmax(axis=1) == questions.labels
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
    before, after = (each[MANY].argmax(axis=1) == questions.labels for each in (source, answers))
    difference = after.astype(np.float64) - before
    reach = 1.96 * float(difference.std()) / len(difference) ** 0.5
    value = float(difference.mean())
    return Figure(
        value, "share", value - reach, value + reach, len(difference), "95% interval of the paired differences"
    )


def parity(source: AnswersByBatch, answers: AnswersByBatch, tolerance: float = 1e-4) -> tuple[BatchParity, ...]:
    """Compare the answers with the source's at each batch size. Raises ParityError if they cannot be compared."""
    return tuple(
        compare_all({"": source[batch]}, {"": answers[batch]}, batch, Tolerance(tolerance)) for batch in BATCHES
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
    classes = answers[MANY].argmax(axis=1).astype("<u2")
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
    options = parser.parse_args()
    try:
        manifest = read_manifest(options.folder)
        questions = load_questions(options.folder.parent, options.dataset, options.limit)
        outputs = ask(options.folder, manifest, questions)
        answers = {batch: tensors[manifest.outputs[0].name] for batch, tensors in outputs.items()}
    except RosettaError as error:
        sys.exit(f"error: {error}")
    partial = options.file.with_suffix(".partial.npz")
    np.savez(partial, **{str(batch): rows for batch, rows in answers.items()})  # type: ignore[arg-type]
    partial.replace(options.file)


if __name__ == "__main__":
    main()
