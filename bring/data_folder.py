"""A folder of pictures, one subfolder a class -> the questions for a model that somebody brought."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from contract.errors import BroughtError, ImageError
from contract.image import MAX_PIXELS, image_to_batch
from contract.manifest import ImageSpec, Manifest
from verify.questions import Questions, invented, invented_pictures

MOST = 2000
"""How many pictures are asked: each artifact answers every one twice."""
INVENTED = 64
TOLERANCE = 1e-3
"""Deep networks add up more rounding than our own two: 1e-3 of a probability changes no decision, 1e-2 is a fault."""


def questions_for(manifest: Manifest, data: Path | None, below: int, name: str) -> Questions:
    """Pictures from `data`; without it invented pictures, or tensors in the shapes of the inputs.

    Raises BroughtError for a folder whose classes are not the model's, or that has no picture.
    """
    if manifest.image is None:
        if data is not None:
            raise BroughtError(f"DATA holds pictures, and {name} takes none: leave it out.")
        return Questions(invented(manifest.inputs, INVENTED, below), None, "invented tensors", TOLERANCE)
    entry = manifest.inputs[0].name
    if data is None:
        pictures = invented_pictures(manifest.image, INVENTED)
        return Questions({entry: pictures}, None, "shipped and invented pictures", TOLERANCE)
    return _from_folder(manifest, manifest.image, entry, data)


def _from_folder(manifest: Manifest, image: ImageSpec, entry: str, data: Path) -> Questions:
    classes = class_folders(data)
    numbers = _numbers([folder.name for folder in classes], manifest.labels, data)
    files = [(file, number) for folder, number in zip(classes, numbers, strict=True) for file in _files(folder)]
    # Every class in turn, so that a part of them has all classes; the same part each time.
    order = np.random.default_rng(0).permutation(len(files))[:MOST]
    pictures, labels, unread = [], [], []
    for index in order:
        file, number = files[index]
        try:
            pictures.append(image_to_batch(file.read_bytes(), image, MAX_PIXELS)[0].astype(np.uint8))
            labels.append(number)
        except (ImageError, OSError) as error:
            unread.append(f"{file.name}: {error}")
    if not pictures:
        why = f" The first of {len(unread)}: {unread[0]}" if unread else ""
        raise BroughtError(f"DATA={data} has no picture that can be read.{why}")
    if unread:
        print(f"{len(unread)} of {len(order)} pictures are left out, the first: {unread[0]}", flush=True)
    title = f"{len(pictures)} pictures of {data.name}"
    return Questions({entry: np.stack(pictures)}, np.array(labels), title, TOLERANCE)


def class_folders(data: Path) -> Sequence[Path]:
    """The subfolders that are classes, by name. Raises BroughtError where there is none."""
    folders = sorted(path for path in data.iterdir() if path.is_dir() and not path.name.startswith("."))
    if not folders:
        raise BroughtError(f"DATA={data} has no subfolder: one a class is expected, with its pictures in it.")
    return folders


def _numbers(names: Sequence[str], labels: Sequence[str], data: Path) -> list[int]:
    """The class of each subfolder: by its name where labels have names, else by its place."""
    if set(names) <= set(labels):
        return [labels.index(name) for name in names]
    if len(names) == len(labels) and all(label.startswith("class ") for label in labels):
        return list(range(len(names)))
    strange = [name for name in names if name not in labels]
    raise BroughtError(
        f"DATA={data} has {len(names)} subfolders, and {len(strange)} of them are no label of the model "
        f"({', '.join(strange[:3])}): {len(labels)} labels are known ({', '.join(labels[:3])}, ...). "
        "Name the subfolders as the labels, or say LABELS=labels.txt, one a line, in the order of the model's outputs."
    )


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.rglob("*")) if path.is_file() and not path.name.startswith("."))
