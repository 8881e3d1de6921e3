"""From a folder of pictures, one subfolder for each class, to the questions for a user's model."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from contract.errors import BroughtError, ImageError
from contract.image import MAX_PIXELS, image_to_batch
from contract.manifest import ImageSpec, Manifest
from verify.questions import Questions, invented, invented_pictures

MAX_PICTURES = 2000
"""More are not used: each artifact answers every picture twice."""
INVENTED = 64
"""How many rows are invented without a folder of pictures."""
TOLERANCE = 1e-3
"""Deep networks accumulate more rounding than our own two: 1e-3 of a probability changes nothing, 1e-2 is a fault."""


def questions_for(manifest: Manifest, data: Path | None, integer_bound: int, name: str) -> Questions:
    """Pictures from `data`; without it invented pictures, or invented tensors in the shapes of the inputs.

    Invented integers stay below `integer_bound`. Raises BroughtError for a folder whose classes are not the model's, or
    that has no picture.
    """
    if manifest.image is None:
        if data is not None:
            raise BroughtError(f"DATA is for pictures, and {name} takes none: leave DATA out.")
        return Questions(invented(manifest.inputs, INVENTED, integer_bound), None, "invented tensors", TOLERANCE)
    entry = manifest.inputs[0].name
    if data is None:
        pictures = invented_pictures(manifest.image, INVENTED)
        return Questions({entry: pictures}, None, "shipped and invented pictures", TOLERANCE)
    return _from_folder(manifest, manifest.image, entry, data)


def _from_folder(manifest: Manifest, image: ImageSpec, entry: str, data: Path) -> Questions:
    classes = class_folders(data)
    numbers = _numbers([folder.name for folder in classes], manifest.labels, data)
    files = [(file, number) for folder, number in zip(classes, numbers, strict=True) for file in _files(folder)]
    # In random order, so that the first ones are of all classes; the same order each time.
    order = np.random.default_rng(0).permutation(len(files))[:MAX_PICTURES]
    pictures, labels, unreadable = [], [], []
    for index in order:
        file, number = files[index]
        try:
            pictures.append(image_to_batch(file.read_bytes(), image, MAX_PIXELS)[0].astype(np.uint8))
            labels.append(number)
        except (ImageError, OSError) as error:
            unreadable.append(f"{file.name}: {error}")
    if not pictures:
        why = f" The first of {len(unreadable)}: {unreadable[0]}" if unreadable else ""
        raise BroughtError(f"DATA={data} has no picture that can be read.{why}")
    if unreadable:
        print(
            f"{len(unreadable)} of {len(order)} pictures cannot be read and are left out. The first: {unreadable[0]}",
            flush=True,
        )
    title = f"{len(pictures)} pictures of {data.name}"
    return Questions({entry: np.stack(pictures)}, np.array(labels), title, TOLERANCE)


def class_folders(data: Path) -> Sequence[Path]:
    """The subfolders, each a class, sorted by name. Raises BroughtError where there is none."""
    folders = sorted(path for path in data.iterdir() if path.is_dir() and not path.name.startswith("."))
    if not folders:
        raise BroughtError(f"DATA={data} has no subfolder: expected one for each class, with its pictures.")
    return folders


def _numbers(names: Sequence[str], labels: Sequence[str], data: Path) -> list[int]:
    """The number of each subfolder's class: by its name where the labels have names, otherwise by its place."""
    if set(names) <= set(labels):
        return [labels.index(name) for name in names]
    if len(names) == len(labels) and all(label.startswith("class ") for label in labels):
        return list(range(len(names)))
    unknown = [name for name in names if name not in labels]
    raise BroughtError(
        f"DATA={data} has {len(names)} subfolders, and {len(unknown)} of them are not labels of the model "
        f"({', '.join(unknown[:3])}): it has {len(labels)} labels ({', '.join(labels[:3])}, ...). Name the subfolders "
        "after the labels, or set LABELS=labels.txt: one label a line, in the order of the model's outputs."
    )


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.rglob("*")) if path.is_file() and not path.name.startswith("."))
