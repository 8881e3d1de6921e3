"""What the user says about a model besides its file: in `model.toml` next to it, or on the command line.

    name = "flowers"                  # default: the file's name
    labels = "labels.txt"             # one label a line, or a list: ["daisy", "rose"]
    data = "pictures"                 # a folder with one subfolder for each class
    architecture = "nets:build"       # module:callable, for a file that has only weights: bring/architecture.py
    architecture_path = "packages"    # where Python finds it, besides beside the file
    kind = "tensors"                  # or "pictures": what it takes, where the file leaves it open
    answers = "logits"                # or "probabilities" or "values"; default: guessed from some answers

    [preprocess]                      # how a picture, pixels 0..255 in RGB, becomes the model's input
    size = [224, 224]                 # height, width; default: the file's
    channels = 3
    scale = "1/255"                   # (pixels * scale - mean) / std
    mean = [0.485, 0.456, 0.406]
    std = [0.229, 0.224, 0.225]
    layout = "NCHW"                   # default: from the shape
    order = "RGB"                     # or "BGR"; mean and std are in the same order
    fit = "stretch"                   # or "contain", "cover": see contract/image.py; default: as the framework does

    rows = "rows.npz"                 # real rows for a model that takes no pictures; or "rows.csv": bring/rows.py

    [[input]]                         # what an input looks like; all but the name may be left out
    name = "tokens"
    vocabulary = 30000                # ids 0 to 29999; or range = [0.001, 50]; or a list: values = [1, 2, 5]
    shape = [-1, 128]                 # -1: any size; a size that the file leaves free becomes this one
    dtype = "int32"                   # dtype and shape have to be said only where the file has only weights
    batch = 0                         # the axis of the batch, or "none"; default: found by asking the model

On the command line the keys of [preprocess] are `PREPROCESS="size=224 scale=1/255 mean=0.5,0.5,0.5"`, or a name in
`PRESETS`. The command line overrides `model.toml`; anything the file already says need not be set.
"""

import difflib
import json
import math
import re
import tomllib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from fractions import Fraction
from pathlib import Path
from typing import Any, Self

from bring import architecture
from bring.names import clean
from contract.errors import BroughtError
from contract.manifest import FITS
from contract.records import decode, encode, parse
from verify.questions import Domain

PRESETS: dict[str, dict[str, Any]] = {
    "none": {},
    "unit": {"scale": "1/255"},
    "symmetric": {"scale": "1/127.5", "mean": 1},
    "imagenet": {"scale": "1/255", "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]},
    "caffe": {"mean": [103.939, 116.779, 123.68], "order": "BGR"},
}
"""The usual ways of preprocessing, by name: pixels as they are, 0..1, -1..1, and ImageNet's two conventions."""

ANSWERS = ("probabilities", "logits", "values")
KINDS = ("pictures", "tensors")
LAYOUTS = ("NHWC", "NCHW")
ORDERS = ("RGB", "BGR")

FILE = "model.toml"
MAX_LABELS = 100_000
WHOLE = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
DTYPES = ("float32", "float16", "bfloat16", "float64", *WHOLE, "bool", "bytes")
"""What an input may be."""


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
    fit: str | None = None
    """None: as the loaders of the model's own framework do."""
    says_values: bool = field(default=False, compare=False)
    """Whether the user says how values change, be it not at all; a size alone does not say it."""

    @property
    def changes_values(self) -> bool:
        return (self.scale, set(self.mean), set(self.std)) != (1.0, {0.0}, {1.0})


@dataclass(frozen=True)
class Input:
    """What the user says about an input; None where the user says nothing."""

    name: str
    dtype: str | None = None
    shape: tuple[int | None, ...] | None = None
    """The batch first; None in it is any size; () is a single value, without a batch."""
    range: tuple[int | float, int | float] | None = None
    """The least and the greatest value."""
    values: tuple[bool | int | float | str, ...] = ()
    batch: int | None = None
    """The axis of the batch; -1 for an input without one."""
    vocabulary: int | None = None
    """How many ids there are: 0 up to this, without it."""

    @property
    def domain(self) -> Domain | None:
        """The values that it takes."""
        if self.vocabulary is not None:
            return Domain(0, self.vocabulary - 1, is_whole=True)
        if self.values:
            return Domain(values=self.values)
        return None if self.range is None else Domain(*self.range)


@dataclass(frozen=True)
class Description:
    """All that the user says about a model; None where the user says nothing."""

    name: str | None = None
    labels: tuple[str, ...] = ()
    data: Path | None = None
    architecture: str | None = None
    architecture_path: str | None = None
    """A folder in which Python finds `architecture` and what it imports, besides that of the file."""
    answers: str | None = None
    kind: str | None = None
    """What it takes: "pictures" or "tensors"."""
    preprocess: Preprocess | None = None
    inputs: tuple[Input, ...] = ()
    rows: Path | None = None
    trusted: bool = False
    classes: tuple[str, ...] = ()
    """The subfolders of `data`: labels for a model that has none and as many classes."""

    @property
    def domains(self) -> dict[str, Domain]:
        """The values that inputs take, by their names."""
        return {entry.name: entry.domain for entry in self.inputs if entry.domain is not None}

    @property
    def has_tensors(self) -> bool:
        """Whether it says that the model takes no pictures, or what inputs look like that are none."""
        return bool(self.domains) or self.rows is not None or self.kind == "tensors"

    @property
    def has_pictures(self) -> bool:
        """Whether it says that the model takes pictures, or something about them."""
        return self.kind == "pictures" or self.preprocess is not None or self.data is not None

    def without_inputs(self, names: Collection[str]) -> Self:
        """All but what it says about these inputs."""
        return replace(self, inputs=tuple(entry for entry in self.inputs if entry.name not in names))

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
    for key in ("name", "answers", "kind"):
        if options.get(key):
            changes[key] = options[key]
    if options.get("arch"):
        changes["architecture"] = options["arch"]
    if options.get("arch-path"):
        changes["architecture_path"] = options["arch-path"]
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
    except (ValueError, RecursionError) as error:  # a number of many digits is no TOMLDecodeError
        raise BroughtError(f"{file} is not valid TOML: {error}.") from None
    known = (
        "name",
        "labels",
        "data",
        "architecture",
        "architecture_path",
        "answers",
        "kind",
        "preprocess",
        "input",
        "rows",
    )
    _check_keys(values, known, str(file))
    changes: dict[str, Any] = {key: values[key] for key in ("name", "architecture", "answers", "kind") if key in values}
    for key, value in changes.items():
        if not isinstance(value, str):
            raise BroughtError(f'{file}: {key} is {value!r}, expected text, such as {key} = "...".')
    if "architecture_path" in values:
        changes["architecture_path"] = str(file.parent / str(values["architecture_path"]))
    if "labels" in values:
        labels = values["labels"]
        changes["labels"] = tuple(labels) if isinstance(labels, list) else read_labels(file.parent / str(labels))
    if "data" in values:
        changes["data"] = file.parent / str(values["data"])
    if "rows" in values:
        changes["rows"] = file.parent / str(values["rows"])
    if "preprocess" in values:
        value = values["preprocess"]
        changes["preprocess"] = parse_preprocess(value) if isinstance(value, str) else _preprocess(value, str(file))
    if "input" in values:
        changes["inputs"] = _inputs(values["input"], f"{file}, [[input]]")
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
                    f"PREPROCESS: {word!r} is neither a setting nor a preset{nearest(word, PRESETS)} Expected one of "
                    f'{", ".join(PRESETS)}, or settings such as "size=224 scale=1/255 mean=0.5,0.5,0.5 std=0.2".'
                )
            values |= PRESETS[word] or {"scale": 1}
        else:
            values[key] = value.split(",") if "," in value else value
    return _preprocess(values, "PREPROCESS")


def _preprocess(values: Mapping[str, Any], where: str) -> Preprocess:
    _check_keys(values, [known.name for known in fields(Preprocess) if known.init and known.compare], where)
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
    return Preprocess(**changes, says_values=not changes.keys().isdisjoint(("scale", "mean", "std")))


def _inputs(entries: Any, where: str) -> tuple[Input, ...]:
    if not isinstance(entries, list):
        raise BroughtError(f"{where}: got {entries!r}, expected tables: write [[input]] above each.")
    inputs = tuple(_input(entry, where) for entry in entries)
    names = [entry.name for entry in inputs]
    if twice := [name for name in names if names.count(name) > 1]:
        raise BroughtError(f"{where}: {twice[0]!r} is there twice, expected each input once.")
    return inputs


def _input(entry: Any, where: str) -> Input:
    if not isinstance(entry, dict) or not isinstance(entry.get("name"), str):
        raise BroughtError(f'{where}: an input is {entry!r}, expected at least its name: name = "tokens".')
    where = f"{where} {entry['name']}"
    _check_keys(entry, [known.name for known in fields(Input)], where)
    kinds = [key for key in ("range", "values", "vocabulary") if key in entry]
    if len(kinds) > 1:
        raise BroughtError(f"{where} has {' and '.join(kinds)}, expected one of them.")
    changes: dict[str, Any] = {"name": clean(entry["name"])}
    if "dtype" in entry:
        changes["dtype"] = _one_of(str(entry["dtype"]), DTYPES, "dtype", where)
    if "shape" in entry:
        changes["shape"] = _shape(entry["shape"], where)
    if "batch" in entry:
        changes["batch"] = _axis(entry["batch"], where)
    if "vocabulary" in entry:
        changes["vocabulary"] = _whole(entry["vocabulary"], "vocabulary", where)
    if "range" in entry:
        changes["range"] = _range(entry["range"], where)
    if "values" in entry:
        changes["values"] = _values(entry["values"], where)
    return Input(**changes)


def _shape(value: Any, where: str) -> tuple[int | None, ...]:
    if not isinstance(value, list) or any(type(size) is not int for size in value):
        raise BroughtError(
            f"{where}: shape is {value!r}, expected sizes, the batch first, such as [-1, 128]; or [] for one value."
        )
    return tuple(None if size < 1 else size for size in value)


def _axis(value: Any, where: str) -> int:
    if value == "none":
        return -1
    if type(value) is not int or not 0 <= value < 32:
        raise BroughtError(f'{where}: batch is {value!r}, expected the number of its axis, from 0, or "none".')
    return value


def _range(value: Any, where: str) -> tuple[int | float, int | float]:
    is_pair = isinstance(value, list) and len(value) == 2 and all(type(end) in (int, float) for end in value)
    if not is_pair or not all(map(math.isfinite, value)) or value[0] > value[1]:
        raise BroughtError(f"{where}: range is {value!r}, expected the least and the greatest value, such as [0, 1].")
    return value[0], value[1]


def _values(value: Any, where: str) -> tuple[bool | int | float | str, ...]:
    is_list = isinstance(value, list) and 0 < len(value) <= MAX_LABELS
    if not is_list or {type(each) for each in value} not in ({bool}, {int}, {float}, {int, float}, {str}):
        raise BroughtError(
            f"{where}: values is {value!r:.200}, expected a list of numbers, of texts, or of true and false, such as "
            "[1, 2, 5]."
        )
    return tuple(value)


def _checked(description: Description) -> Description:
    if description.answers is not None:
        _one_of(description.answers, ANSWERS, "answers", "ANSWERS")
    if description.kind is not None:
        _one_of(description.kind, KINDS, "kind", "KIND")
    if description.kind == "pictures" and (description.domains or description.rows):
        raise BroughtError(f"KIND says that the model takes pictures, and {FILE} describes tensors. Leave one out.")
    if len(set(description.labels)) != len(description.labels):
        twice = next(label for label in description.labels if description.labels.count(label) > 1)
        raise BroughtError(f"The label {twice!r} is listed twice: each class needs its own.")
    if description.architecture is not None:
        architecture.parse(description.architecture)
    if description.architecture_path is not None and not Path(description.architecture_path).is_dir():
        raise BroughtError(f"ARCH_PATH={description.architecture_path} is not a folder.")
    if description.data is not None and not description.data.is_dir():
        raise BroughtError(
            f"DATA={description.data} is not a folder: expected one with a subfolder of pictures for each class."
        )
    if description.rows is not None and not description.rows.is_file():
        raise BroughtError(f"{FILE} names the rows {description.rows}, and there is no such file.")
    if description.rows is not None and description.data is not None:
        raise BroughtError(
            f"Got rows ({description.rows.name}) and data ({description.data.name}): data is for a model that takes "
            "pictures, rows for any other. Leave one out."
        )
    return description


def _check_keys(values: Mapping[str, Any], known: Iterable[str], where: str) -> None:
    known = tuple(known)
    for key in values:
        if key not in known:
            raise BroughtError(f"{where}: {key!r} is not known{nearest(key, known)} Known: {', '.join(known)}.")


def nearest(word: str, known: Iterable[str]) -> str:
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
        raise BroughtError(f"{where}: {key} is {value!r}{nearest(value, known)} Expected {' or '.join(known)}.")
    return value
