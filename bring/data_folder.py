"""From the user's pictures or rows, or from what is known of the inputs, to the questions for a user's model."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from bring.description import Description
from bring.rows import read_rows
from contract.calibration import ROWS, Calibration
from contract.errors import BroughtError, ImageError
from contract.image import decode, fit
from contract.manifest import FITS, ImageSpec, Manifest
from verify.questions import Domain, Questions, invented, invented_pictures

MAX_PICTURES = 2000
"""More are not used: each artifact answers every picture twice."""
INVENTED = 64
"""How many rows are invented without a folder of pictures."""
LEAST_TO_SHARE = 100
"""With fewer rows none are set aside to calibrate on."""
SHARE = 5
"""One row in so many is set aside, at most ROWS."""
TOLERANCE = 1e-3
"""Deep networks accumulate more rounding than our own two: 1e-3 of a probability changes nothing, 1e-2 is a fault."""


def questions_for(manifest: Manifest, description: Description, integer_bound: int, name: str) -> Questions:
    """The user's pictures or rows; without these invented pictures, or invented rows of the values that inputs take.

    Invented integers of which nothing is known stay below `integer_bound`. Raises BroughtError for a folder whose
    classes are not the model's, or that has no picture, and for rows that do not fit.
    """
    if manifest.image is None:
        if description.data is not None:
            raise BroughtError(f"DATA is for pictures, and {name} takes none: leave DATA out.")
        return _of_rows(manifest, description, integer_bound)
    entry = manifest.inputs[0].name
    if description.data is None:
        pictures = invented_pictures(manifest.image, INVENTED)
        return Questions({entry: pictures}, None, "shipped and invented pictures", TOLERANCE, are_invented=True)
    return _from_folder(manifest, manifest.image, entry, description.data)


def set_aside(questions: Questions) -> tuple[Questions, Calibration | None]:
    """The last of a user's rows, on which quantisers calibrate, and the questions without them: accuracy is judged on
    other rows. Where there are too few to share, all stay questions."""
    if questions.count < LEAST_TO_SHARE:
        return questions, None
    kept = questions.count - min(ROWS, questions.count // SHARE)
    numbers = range(kept, questions.count)
    rows = Calibration(
        {name: values[kept:] for name, values in questions.inputs.items()},
        f"{questions.title}, those after the first {kept} in the order of the questions",
        tuple(map(str, numbers)),
    )
    labels = None if questions.labels is None else questions.labels[:kept]
    first = {name: values[:kept] for name, values in questions.inputs.items()}
    return replace(questions, inputs=first, labels=labels), rows


def _of_rows(manifest: Manifest, description: Description, integer_bound: int) -> Questions:
    own = {spec.name for spec in manifest.inputs}  # a number that became a constant of the program is no input
    domains = {name: domain for name, domain in description.domains.items() if name in own}
    if manifest.made_with.get("preprocess"):  # pixels of pictures, of a model whose calls are whole
        domains = {manifest.inputs[0].name: Domain(0, 255)} | domains
    are_calls = not manifest.has_rows
    if description.rows is not None:
        rows = read_rows(description.rows, manifest.inputs, domains, are_calls)
        title = f"{len(next(iter(rows.values())))} rows of {description.rows.name}"
    else:
        grown = invented(manifest.inputs, INVENTED, integer_bound, domains=domains, are_calls=are_calls)
        rows = {name: values[mixed_order(INVENTED)] for name, values in grown.items()}
        title = f"{INVENTED} invented rows" + (" in the ranges of model.toml" if domains else "")
    return Questions(rows, None, title, TOLERANCE, domains, are_calls, description.rows is None)


def mixed_order(count: int) -> list[int]:
    """The numbers of rows that grow from the first to the last, such that any first few are of all sizes.

    A slow model is asked these alone. The largest row comes first: most faults show there.
    """
    digits = len(f"{count - 1:b}")
    *others, last = range(count)
    return [last, *sorted(others, key=lambda number: f"{number:0{digits}b}"[::-1])]


def _from_folder(manifest: Manifest, image: ImageSpec, entry: str, data: Path) -> Questions:
    names = [folder.name for folder in class_folders(data)]
    # Of a model that does not classify, the subfolders are not classes.
    numbers = _numbers(names, manifest.labels, data) if manifest.has_classes else range(len(names))
    pictures, labels, unreadable, reshaped = [], [], [], 0
    files = pictures_in(data)
    for file, place in files:
        try:
            pixels = decode(file.read_bytes())
            pictures.append(fit(pixels, image))
            labels.append(numbers[place])
            reshaped += pixels.shape[0] * image.width != pixels.shape[1] * image.height
        except (ImageError, OSError) as error:
            unreadable.append(f"{file.name}: {error}")
    if not pictures:
        why = f" The first of {len(unreadable)}: {unreadable[0]}" if unreadable else ""
        raise BroughtError(f"DATA={data} has no picture that can be read.{why}")
    if unreadable:
        print(
            f"{len(unreadable)} of {len(files)} pictures cannot be read and are left out. The first: {unreadable[0]}",
            flush=True,
        )
    title = f"{len(pictures)} pictures of {data.name}"
    if reshaped and manifest.made_with.get("fit_is_default"):
        print(_default_fit(f"{reshaped} of {title}", image), flush=True)
    known = np.array(labels) if manifest.has_classes else None
    return Questions({entry: np.stack(pictures)}, known, title, TOLERANCE)


def _default_fit(pictures: str, image: ImageSpec) -> str:
    """What is said of pictures of another aspect ratio than the model's, when the user did not choose their fit."""
    others = " or ".join(f"fit={other}" for other in FITS if other != image.fit)
    return (
        f"{pictures} have another aspect ratio than the model's input of {image.height}x{image.width}: "
        f"fit={image.fit} was used, the default of its framework's loaders. If training used another, add {others} "
        "to PREPROCESS."
    )


def pictures_in(data: Path) -> list[tuple[Path, int]]:
    """The files that become questions, each with the place of its subfolder: in a random order, so that the first ones
    are of all classes; the same order each time. Raises BroughtError where there is no subfolder."""
    files = [(file, place) for place, folder in enumerate(class_folders(data)) for file in _files(folder)]
    return [files[index] for index in np.random.default_rng(0).permutation(len(files))[:MAX_PICTURES]]


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
