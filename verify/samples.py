"""The test pictures that the page offers: the first ones of each class, as PNG files with an index and a sprite.

python -m verify.samples artifacts/samples
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import PIL.ImageOps

from contract import dataset
from contract.errors import RosettaError
from contract.manifest import Manifest, staged, write_json
from verify.questions import Questions

PER_CLASS = 20
MOST = 200
"""The most samples of a user's own model."""
SPRITE = "sprite.png"
COLUMNS = 20
THUMBNAIL = 48
"""The longest side of a picture in the sprite, in pixels."""


def write_samples(name: str, folder: Path) -> None:
    """Write the first `PER_CLASS` test pictures of each class, in the order of the data set, and `index.json`."""
    known, split = dataset.get(name), dataset.load(name, "test")
    chosen = [np.flatnonzero(split.labels == label)[:PER_CLASS] for label in range(len(known.labels))]
    with staged(folder) as staging:
        samples = []
        for index in sorted(int(index) for indices in chosen for index in indices):
            file = f"{index:04}.png"
            PIL.Image.fromarray(split.images[index].squeeze()).save(staging / file)
            samples.append({"file": file, "index": index, "label": int(split.labels[index])})
        about = {"dataset": known.name, "title": known.title, "licence": known.licence, "labels": known.labels}
        _write_index(staging, about, samples)


def _write_index(folder: Path, about: dict[str, Any], samples: list[dict[str, Any]]) -> None:
    """The index, and one picture with a thumbnail of each sample, row by row: the page shows all with one request."""
    pictures = [PIL.Image.open(folder / sample["file"]) for sample in samples]
    side = max(1, min(THUMBNAIL, max((max(picture.size) for picture in pictures), default=1)))
    sprite = PIL.Image.new("RGB", (COLUMNS * side, max(1, -(-len(pictures) // COLUMNS)) * side))
    for place, picture in enumerate(pictures):
        with picture:
            thumbnail = PIL.ImageOps.contain(picture.convert("RGB"), (side, side), PIL.Image.Resampling.BOX)
        row, column = divmod(place, COLUMNS)
        left, top = (side - thumbnail.width) // 2, (side - thumbnail.height) // 2
        sprite.paste(thumbnail, (column * side + left, row * side + top))
    sprite.save(folder / SPRITE, optimize=True)
    write_json(folder / "index.json", about | {"sprite": {"file": SPRITE, "columns": COLUMNS}, "samples": samples})


def write_samples_of(questions: Questions, manifest: Manifest, folder: Path) -> None:
    """The same for a user's own model: the first pictures of its questions, with their classes if known."""
    pictures = questions.pictures
    assert pictures is not None  # only models that take pictures have samples
    labels = [] if questions.labels is None else questions.labels.tolist()
    with staged(folder) as staging:
        samples: list[dict[str, Any]] = []
        for index, picture in enumerate(pictures[:MOST]):
            file = f"{index:04}.png"
            PIL.Image.fromarray(picture.squeeze()).save(staging / file)
            samples.append({"file": file, "index": index, "label": labels[index] if labels else None})
        about = {"dataset": manifest.model, "title": questions.title, "licence": "", "labels": manifest.labels}
        _write_index(staging, about, samples)


def main() -> None:
    """The command line: the folder to write, and the data set."""
    parser = argparse.ArgumentParser(prog="python -m verify.samples")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--dataset", default="fashion_mnist")
    options = parser.parse_args()
    try:
        write_samples(options.dataset, options.folder)
    except RosettaError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
