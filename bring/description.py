"""What the user says about a model besides its file: in `model.toml` next to it, or on the command line.

    name = "flowers"                  # default: the file's name
    labels = "labels.txt"             # one label a line, or a list: ["daisy", "rose"]
    data = "pictures"                 # a folder with one subfolder for each class
    architecture = "nets:build"       # module:callable, for a file that has only weights
    answers = "logits"                # or "probabilities" or "values"; default: guessed from some answers

    [preprocess]                      # how a picture, pixels 0..255 in RGB, becomes the model's input
    size = [224, 224]                 # height, width; default: the file's
    channels = 3
    scale = "1/255"                   # (pixels * scale - mean) / std
    mean = [0.485, 0.456, 0.406]
    std = [0.229, 0.224, 0.225]
    layout = "NCHW"                   # default: from the shape
    order = "RGB"                     # or "BGR"; mean and std are in the same order
    fit = "contain"                   # or "cover": see contract/image.py

    [[input]]                         # only for a file that has only weights
    name = "tokens"
    dtype = "int32"
    shape = [-1, 128]                 # -1: any size

On the command line the keys of [preprocess] are `PREPROCESS="size=224 scale=1/255 mean=0.5,0.5,0.5"`, or a name in
`PRESETS`. The command line overrides `model.toml`; anything the file already says need not be set.
"""

import difflib
import json
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from fractions import Fraction
from pathlib import Path
from typing import Any, Self

from contract.errors import BroughtError
from contract.records import decode, encode, parse

PRESETS: dict[str, dict[str, Any]] = {
    "none": {},
    "unit": {"scale": "1/255"},
    "symmetric": {"scale": "1/127.5", "mean": 1},
    "imagenet": {"scale": "1/255", "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]},
    "caffe": {"mean": [103.939, 116.779, 123.68], "order": "BGR"},
}
"""The usual ways of preprocessing, by name: pixels as they are, 0..1, -1..1, and ImageNet's two conventions."""

ANSWERS = ("probabilities", "logits", "values")
LAYOUTS = ("NHWC", "NCHW")
ORDERS = ("RGB", "BGR")
FITS = ("contain", "cover")

FILE = "model.toml"
MAX_LABELS = 100_000


@dataclass(frozen=True)
class Preprocess:
    """How pixels 0..255 become the file's input: `(pixels * scale - mean) / std`, in its channel order and layout."""

    scale: float = 1.0
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    size: tuple[int, int] | None = None
    channels: int | None = None
    layout: str | None = None
    order: str = "RGB"
    fit: str = "contain"

    @property
    def changes_values(self) -> bool:
        return (self.scale, set(self.mean), set(self.std)) != (1.0, {0.0}, {1.0})


@dataclass(frozen=True)
class InputShape:
    """An input of a network whose file has only weights. `shape` is without the batch; None in it is any size."""

    name: str
    dtype: str
    shape: tuple[int | None, ...]


@dataclass(frozen=True)
class Description:
    """All that the user says about a model; None where the user says nothing."""

    name: str | None = None
    labels: tuple[str, ...] = ()
    data: Path | None = None
    architecture: str | None = None
    answers: str | None = None
    preprocess: Preprocess | None = None
    inputs: tuple[InputShape, ...] = ()
    trusted: bool = False
    classes: tuple[str, ...] = ()
    """The subfolders of `data`: labels for a model that has none and as many classes."""

    def to_json(self) -> str:
        return json.dumps(encode(self))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read what `to_json` wrote. Raises RecordError on anything else."""
        return decode(cls, parse(text))


def describe(path: Path, options: Mapping[str, str]) -> Description:
    """What `model.toml` beside the file (or in the folder that is the model) says, and the options of the command line.

    `options` are those of bring/options.py. Raises BroughtError with what is wrong.
    """
    description = Description()
    for folder in (path if path.is_dir() else None, path.parent):
        if folder and (folder / FILE).is_file():
            description = _read_toml(folder / FILE)
            break
    changes: dict[str, Any] = {}
    for key in ("name", "answers"):
        if options.get(key):
            changes[key] = options[key]
    if options.get("arch"):
        changes["architecture"] = options["arch"]
    if options.get("labels"):
        changes["labels"] = read_labels(Path(options["labels"]))
    if options.get("data"):
        changes["data"] = Path(options["data"])
    if options.get("preprocess"):
        changes["preprocess"] = parse_preprocess(options["preprocess"])
    if options.get("trust"):
        changes["trusted"] = True
    return _checked(replace(description, **changes))


def _read_toml(file: Path) -> Description:
    try:
        values = tomllib.loads(file.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BroughtError(f"{file} is not valid TOML: {error}.") from None
    known = ("name", "labels", "data", "architecture", "answers", "preprocess", "input")
    _check_keys(values, known, str(file))
    changes: dict[str, Any] = {key: values[key] for key in ("name", "architecture", "answers") if key in values}
    for key, value in changes.items():
        if not isinstance(value, str):
            raise BroughtError(f'{file}: {key} is {value!r}, expected text, such as {key} = "...".')
    if "labels" in values:
        labels = values["labels"]
        changes["labels"] = tuple(labels) if isinstance(labels, list) else read_labels(file.parent / str(labels))
    if "data" in values:
        changes["data"] = file.parent / str(values["data"])
    if "preprocess" in values:
        value = values["preprocess"]
        changes["preprocess"] = parse_preprocess(value) if isinstance(value, str) else _preprocess(value, str(file))
    if "input" in values:
        changes["inputs"] = tuple(_input(entry, str(file)) for entry in values["input"])
    return Description(**changes)


def read_labels(file: Path) -> tuple[str, ...]:
    """The labels of a text file, one a line; empty lines at the end do not count. Raises BroughtError."""
    try:
        lines = file.read_text(encoding="utf-8-sig").rstrip().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise BroughtError(f"The labels cannot be read from {file}: {error}. Expected one label a line.") from None
    if not lines or len(lines) > MAX_LABELS:
        raise BroughtError(f"{file} has {len(lines)} labels: expected one a line, at least 1 and at most {MAX_LABELS}.")
    return tuple(line.strip() for line in lines)


def parse_preprocess(text: str) -> Preprocess:
    """Parse `size=224 scale=1/255 mean=0.5,0.5,0.5`, or the name of a preset, or both. Raises BroughtError."""
    values: dict[str, Any] = {}
    for word in text.split():
        key, is_setting, value = word.partition("=")
        if not is_setting:
            if word not in PRESETS:
                raise BroughtError(
                    f"PREPROCESS: {word!r} is neither a setting nor a preset{_nearest(word, PRESETS)} Expected one of "
                    f'{", ".join(PRESETS)}, or settings such as "size=224 scale=1/255 mean=0.5,0.5,0.5 std=0.2".'
                )
            values |= PRESETS[word]
        else:
            values[key] = value.split(",") if "," in value else value
    return _preprocess(values, "PREPROCESS")


def _preprocess(values: Mapping[str, Any], where: str) -> Preprocess:
    _check_keys(values, [known.name for known in fields(Preprocess)], where)
    changes: dict[str, Any] = {}
    for key, value in values.items():
        if key == "scale":
            changes[key] = _number(value, key, where)
        elif key in ("mean", "std"):
            changes[key] = tuple(_number(each, key, where) for each in _listed(value))
        elif key == "size":
            numbers = re.sub("[x×]", ",", value) if isinstance(value, str) else value
            sizes = [_whole(each, key, where) for each in _listed(numbers)]
            if len(sizes) not in (1, 2):
                raise BroughtError(f"{where}: size is {value!r}, expected one number or height and width, such as 224.")
            changes[key] = (sizes[0], sizes[-1])
        elif key == "channels":
            changes[key] = _whole(value, key, where)
        else:
            changes[key] = _one_of(str(value), {"layout": LAYOUTS, "order": ORDERS, "fit": FITS}[key], key, where)
    if 0 in changes.get("std", ()):
        raise BroughtError(f"{where}: std is 0: pixels are divided by it.")
    return Preprocess(**changes)


def _input(entry: Any, where: str) -> InputShape:
    example = 'expected [[input]] name = "tokens", dtype = "int32", shape = [-1, 128]'
    if not isinstance(entry, dict):
        raise BroughtError(f"{where}: an input is {entry!r}, {example}.")
    _check_keys(entry, ("name", "dtype", "shape"), f"{where}, [[input]]")
    try:
        shape = tuple(None if size < 1 else int(size) for size in entry["shape"])
        return InputShape(str(entry["name"]), str(entry.get("dtype", "float32")), shape[1:])
    except (KeyError, TypeError):
        raise BroughtError(f"{where}: an input is {entry!r}, {example}, the batch first.") from None


def _checked(description: Description) -> Description:
    if description.answers is not None:
        _one_of(description.answers, ANSWERS, "answers", "ANSWERS")
    if len(set(description.labels)) != len(description.labels):
        twice = next(label for label in description.labels if description.labels.count(label) > 1)
        raise BroughtError(f"The label {twice!r} is listed twice: each class needs its own.")
    if description.data is not None and not description.data.is_dir():
        raise BroughtError(
            f"DATA={description.data} is not a folder: expected one with a subfolder of pictures for each class."
        )
    return description


def _check_keys(values: Mapping[str, Any], known: Iterable[str], where: str) -> None:
    known = tuple(known)
    for key in values:
        if key not in known:
            raise BroughtError(f"{where}: {key!r} is not known{_nearest(key, known)} Known: {', '.join(known)}.")


def _nearest(word: str, known: Iterable[str]) -> str:
    """The end of a sentence about an unknown word: the known one that was probably meant, if any is similar."""
    near = difflib.get_close_matches(word, list(known), 1, 0.5)
    return f"; did you mean {near[0]!r}?" if near else "."


def _listed(value: Any) -> list[Any]:
    if isinstance(value, str):
        return value.split(",")
    return list(value) if isinstance(value, list | tuple) else [value]


def _number(value: Any, key: str, where: str) -> float:
    try:
        if isinstance(value, str) and "/" in value:
            above, _, below = value.partition("/")
            return float(Fraction(above.strip()) / Fraction(below.strip()))
        return float(value)
    except (ValueError, TypeError, ZeroDivisionError):
        raise BroughtError(f"{where}: {key} is {value!r}, expected a number, such as 0.5 or 1/255.") from None


def _whole(value: Any, key: str, where: str) -> int:
    try:
        number = int(value)
    except (ValueError, TypeError):
        number = 0
    if number < 1:
        raise BroughtError(f"{where}: {key} is {value!r}, expected a whole number of at least 1.")
    return number


def _one_of(value: str, known: tuple[str, ...], key: str, where: str) -> str:
    if value not in known:
        raise BroughtError(f"{where}: {key} is {value!r}{_nearest(value, known)} Expected {' or '.join(known)}.")
    return value
