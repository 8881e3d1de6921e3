"""What an artifact answers to every test picture, asked in a process of its own.

    python -m compare.answers FOLDER FILE      writes the answers into FILE (.npz), prints nothing

From two such files comes all that `make compare` says of answers: accuracy, parity, and the pictures that flip.
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
from verify import questions
from verify.parity import BATCHES, Answers, Tolerance, ask, compare_all, judge
from verify.questions import Questions

MANY = BATCHES[-1]
GALLERY = 24
"""How many flipped pictures of an artifact are shown."""

AskedAnswers = Mapping[int, Answers]
"""Batch size -> answers (pictures, classes)."""


def read_answers(file: Path) -> AskedAnswers:
    """Raises OSError where the file is gone."""
    with np.load(file) as arrays:
        return {int(name): arrays[name] for name in arrays.files}


UNKNOWN = Missing("Nobody knows the right answers: give pictures in one folder a class, DATA=folder.")


def accuracy(answers: AskedAnswers, asked: Questions) -> Measured:
    if asked.labels is None:
        return UNKNOWN
    right = answers[MANY].argmax(axis=1) == asked.labels
    return share(int(right.sum()), len(right))


def accuracy_per_class(answers: AskedAnswers, asked: Questions, labels: tuple[str, ...]) -> dict[str, Measured]:
    if asked.labels is None:
        return {}
    right = answers[MANY].argmax(axis=1) == asked.labels
    results: dict[str, Measured] = {}
    for number, label in enumerate(labels):
        mine = right[asked.labels == number]
        results[label] = (
            share(int(mine.sum()), len(mine)) if len(mine) else Missing("No test picture is of this class.")
        )
    return results


def accuracy_change(source: AskedAnswers, answers: AskedAnswers, asked: Questions) -> Measured:
    """Accuracy minus the source's, on the same pictures: those that both answer alike add nothing to its interval."""
    if asked.labels is None:
        return UNKNOWN
    before, after = (given[MANY].argmax(axis=1) == asked.labels for given in (source, answers))
    difference = after.astype(np.float64) - before
    reach = 1.96 * float(difference.std()) / len(difference) ** 0.5
    value = float(difference.mean())
    return Figure(value, "share", value - reach, value + reach, len(difference), "95% interval of the pairs")


def parity(source: AskedAnswers, answers: AskedAnswers, tolerance: float = 1e-4) -> tuple[BatchParity, ...]:
    return tuple(
        compare_all({"": source[batch]}, {"": answers[batch]}, batch, Tolerance(tolerance)) for batch in BATCHES
    )


def parity_figures(batches: tuple[BatchParity, ...], pictures: int) -> dict[str, Measured]:
    """The five measures at each batch size, and the smallest agreement of them."""
    figures: dict[str, Measured] = {"agreement": min((_agreement(batch, pictures) for batch in batches), key=_value)}
    for batch in batches:
        measures = {
            "max_abs_diff": batch.max_abs_diff,
            "mean_abs_diff": batch.mean_abs_diff,
            "cosine_distance": max(0.0, 1 - batch.min_cosine),  # below zero by rounding alone
            "max_kl": batch.max_kl,
        }
        figures |= {f"{name}@{batch.batch}": _finite(value, pictures) for name, value in measures.items()}
        figures[f"agreement@{batch.batch}"] = _agreement(batch, pictures)
    return figures


def _finite(value: float | None, pictures: int) -> Measured:
    if value is None:
        return Missing("The answers are no probabilities.")
    return exact(value, "", pictures) if np.isfinite(value) else Missing("It is infinite: see the verdict.")


def _agreement(batch: BatchParity, pictures: int) -> Figure:
    return share(round(batch.agreement * pictures), pictures)


def _value(figure: Figure) -> float:
    return figure.value


def verdict(batches: tuple[BatchParity, ...], tolerance: float = 1e-4) -> str:
    return "; ".join(judge(batches, Tolerance(tolerance))) or "passed"


def flips(
    source: AskedAnswers,
    answers: AskedAnswers,
    batches: tuple[BatchParity, ...],
    asked: Questions,
    labels: tuple[str, ...],
) -> list[FlippedPicture]:
    """Every picture that changes its class, at any batch size; each once."""
    found = {flip.image: (parity.batch, flip) for parity in reversed(batches) for flip in parity.flips}
    if asked.pictures is None:
        return []
    return [
        FlippedPicture(
            image=image,
            batch=batch,
            png=png(asked.pictures[image]),
            label="" if asked.labels is None else _named(labels, int(asked.labels[image])),
            source=_named(labels, flip.source),
            artifact=_named(labels, flip.artifact),
            source_margin=flip.margin,
            artifact_margin=_margin(answers[batch][image]),
            near_tie=flip.near_tie,
        )
        for image, (batch, flip) in sorted(found.items())
    ]


def _named(labels: tuple[str, ...], index: int) -> str:
    return labels[index] if index < len(labels) else f"class {index}"


def _margin(row: NDArray[Any]) -> float:
    second, first = np.sort(row.astype(np.float64))[-2:]
    return float(first - second)


def png(pixels: NDArray[np.uint8]) -> str:
    """A picture (H, W, C) as PNG, in base64."""
    file = io.BytesIO()
    PIL.Image.fromarray(pixels.squeeze()).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def pack_classes(answers: AskedAnswers) -> str:
    """The class of every picture at the larger batch size, small enough for a report."""
    classes = answers[MANY].argmax(axis=1).astype("<u2")
    return base64.b64encode(zlib.compress(classes.tobytes(), 9)).decode()


def unpack_classes(packed: str) -> NDArray[np.uint16]:
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
        asked = ask(options.folder, manifest, questions.load(options.folder.parent, options.dataset, options.limit))
        answers = {batch: outputs[manifest.outputs[0].name] for batch, outputs in asked.items()}
    except RosettaError as error:
        sys.exit(f"error: {error}")
    partial = options.file.with_suffix(".partial.npz")
    np.savez(partial, **{str(batch): rows for batch, rows in answers.items()})  # type: ignore[arg-type]
    partial.replace(options.file)


if __name__ == "__main__":
    main()
