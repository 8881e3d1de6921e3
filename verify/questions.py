"""The rows on which artifacts are compared with their source: the same for all artifacts of a model.

Our own models are compared on the test pictures of a data set. A user's own model has its own questions, in
`<artifacts>/questions/<model>.npz`: `bring` makes them from the user's pictures or rows, or from what is known of the
inputs.
"""

import io
import json
import math
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from contract import dataset
from contract.cell import command
from contract.cell.sandbox import Cell
from contract.errors import DataError
from contract.image import image_to_batch
from contract.manifest import ImageSpec, TensorSpec
from contract.records import decode, encode
from contract.tensors import numpy_dtype

FOLDER = "questions"

_ABOUT = "about.json"
_LABELS = "labels"


@dataclass(frozen=True)
class Domain:
    """The values that an input takes, as the user says or the model's file shows: a range, or a list."""

    low: int | float = 0
    high: int | float = 0
    """Both belong to the range."""
    values: tuple[bool | int | float | str, ...] = ()
    """The list; empty for a range."""
    is_whole: bool = False
    """Whether only whole numbers belong to the range, such as ids, even if the dtype has fractions."""

    def has(self, array: NDArray[Any]) -> bool:
        """Whether all values of an array belong to it, with their own dtype's rounding."""
        if array.dtype == object:
            return bool(np.isin(array, self.listed(array.dtype)).all())
        numbers = array.astype(np.float64)
        if self.values:
            return bool(np.isin(numbers, self.listed(array.dtype).astype(np.float64)).all())
        low, high = self.ends(array.dtype).astype(
            np.float64
        )  # in the array's own dtype: 0.1 as a float32 is a little more than 0.1
        is_inside = bool(((numbers >= low) & (numbers <= high)).all())
        return is_inside and not (self.is_whole and (numbers % 1).any())

    def listed(self, dtype: np.dtype[Any]) -> NDArray[Any]:
        """The list's values in an input's dtype; texts as byte strings."""
        if dtype.kind == "O":
            texts = np.empty(len(self.values), object)
            texts[:] = [str(value).encode() for value in self.values]
            return texts
        return np.array(self.values).astype(dtype)

    def ends(self, dtype: np.dtype[Any]) -> NDArray[Any]:
        """The least and the greatest value, in an input's dtype; of a list of texts, the first and the last."""
        listed = np.sort(self.listed(dtype)) if self.values else np.array([self.low, self.high]).astype(dtype)
        return listed[[0, -1]]


@dataclass(frozen=True)
class Questions:
    """Rows for a model's inputs, and the right answers where they are known."""

    inputs: Mapping[str, NDArray[Any]]
    """Input's name -> (N, ...). Pictures are uint8, and `rows` converts them to the input's dtype."""
    labels: NDArray[Any] | None
    """(N,) classes, or None where they are unknown."""
    title: str
    """Their name, for people: "Fashion-MNIST", "200 pictures of flowers"."""
    tolerance: float = 1e-4
    """The largest difference between answers that passes, for answers of at most 1."""
    domains: Mapping[str, Domain] = field(default_factory=dict)
    """Input's name -> the values that it takes, where the user said so: nothing is asked beyond them."""
    are_calls: bool = False
    """Whether each row is a whole call, of a model whose tensors are not all rows."""
    are_invented: bool = False
    """Whether nobody's data are among them: more of them say little that fewer do not."""

    @property
    def count(self) -> int:
        return len(next(iter(self.inputs.values())))

    @property
    def pictures(self) -> NDArray[np.uint8] | None:
        """(N, H, W, C) where each row is one picture and nothing else, otherwise None."""
        first, *others = self.inputs.values()
        return first if not others and not self.are_calls and first.dtype == np.uint8 and first.ndim == 4 else None

    @property
    def below(self) -> int:
        """A bound above all its whole numbers, which may be indices into a table; 2 where it has none."""
        whole = [rows.max() for rows in self.inputs.values() if rows.dtype.kind in "iu" and rows.size]
        return int(max(whole, default=1)) + 1

    def first(self, count: int) -> "Questions":
        """The first of the questions, `count` at most."""
        inputs = {name: rows[:count] for name, rows in self.inputs.items()}
        return replace(self, inputs=inputs, labels=None if self.labels is None else self.labels[:count])

    def rows(self, start: int, stop: int, dtypes: Mapping[str, np.dtype[Any]]) -> dict[str, NDArray[Any]]:
        """The rows from `start` up to, not including, `stop`; each input in its dtype. Of whole calls it is one."""
        if self.are_calls:
            return {name: np.asarray(self.inputs[name][start], dtype) for name, dtype in dtypes.items()}
        return {name: self.inputs[name][start:stop].astype(dtype, copy=False) for name, dtype in dtypes.items()}


def of_split(split: dataset.Split, title: str = "", name: str = "pixels") -> Questions:
    return Questions({name: split.images}, split.labels, title)


def load(model: Path, name: str, limit: int | None = None) -> Questions:
    """The questions for the model in the folder `model`: its own, or else the test pictures of the data set `name`.

    Raises DataError when they cannot be read.
    """
    if (file := model.parent / FOLDER / f"{model.name}.npz").is_file():
        return read(file, limit)
    return of_split(dataset.load(name, "test", limit), dataset.get(name).title)


def give(cell: Cell, model: Path, name: str, limit: int | None = None) -> Path:
    """What `load` would load, as a file that the cell's children may read. The model's own file is not opened here.

    Raises DataError and BroughtError.
    """
    file = model.parent / FOLDER / f"{model.name}.npz"
    if not (file.exists() or file.is_symlink()):
        file = cell.kept / "questions.npz"
        write(file, of_split(dataset.load(name, "test", limit), dataset.get(name).title))
    return command.give(cell, file, "questions.npz")


def read(file: Path, limit: int | None = None) -> Questions:
    """Read what `write` wrote. Raises DataError on anything else."""
    try:
        with file.open("rb") as stream, np.load(stream, allow_pickle=False) as arrays:
            about = json.loads(arrays[_ABOUT].tobytes())
            inputs = {name: _restored(arrays[f"input {name}"], kind) for name, kind in about["inputs"].items()}
            labels = arrays[_LABELS][:limit] if _LABELS in arrays.files else None
            domains = {name: decode(Domain, domain) for name, domain in about["domains"].items()}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"{file} cannot be read ({error}). Remove it and run the same command again.") from error
    rows = {name: each[:limit] for name, each in inputs.items()}
    return Questions(
        rows, labels, about["title"], about["tolerance"], domains,
        are_calls=about.get("are_calls", False), are_invented=about.get("are_invented", False),
    )  # fmt: skip


def write(file: Path, questions: Questions) -> None:
    """Write atomically, as arrays that NumPy reads without pickle."""
    kinds = {name: "bytes" if rows.dtype == object else "plain" for name, rows in questions.inputs.items()}
    about = json.dumps(
        {
            "title": questions.title,
            "tolerance": questions.tolerance,
            "inputs": kinds,
            "domains": encode(questions.domains),
            "are_calls": questions.are_calls,
            "are_invented": questions.are_invented,
        }
    ).encode()
    arrays = {f"input {name}": _plain(rows) for name, rows in questions.inputs.items()}
    if questions.labels is not None:
        arrays[_LABELS] = questions.labels
    content = io.BytesIO()
    np.savez(content, **arrays, **{_ABOUT: np.frombuffer(about, np.uint8)})  # type: ignore[arg-type]
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_suffix(".partial")
    partial.write_bytes(content.getvalue())
    partial.replace(file)


def _plain(rows: NDArray[Any]) -> NDArray[Any]:
    """Byte strings in NumPy's own type, which drops zero bytes at the end; the questions made here have none."""
    return rows.astype(bytes) if rows.dtype == object else rows


def _restored(rows: NDArray[Any], kind: str) -> NDArray[Any]:
    return rows.astype(object) if kind == "bytes" else rows


# --- Questions for a model without data

FREE = 16
"""The size of a free axis, other than the batch."""

PICTURES = Path(__file__).with_name("pictures")
"""Small pictures that the project ships, for models without pictures of their own."""


def row_sizes(spec: TensorSpec, are_calls: bool) -> tuple[int, ...]:
    """The shape of one row of an input, or of the input in one whole call, of a batch of 1.

    Free axes have the size FREE, or the least size that the model computes with.
    """
    sizes = spec.sizes_at(1, FREE)
    return sizes if are_calls else sizes[1:]


def invented(
    inputs: Sequence[TensorSpec],
    rows: int,
    below: int,
    seed: int = 0,
    domains: Mapping[str, Domain] | None = None,
    are_calls: bool = False,
) -> dict[str, NDArray[Any]]:
    """Rows in the inputs' dtypes and shapes, with different magnitudes and structures, so that faults show.

    Free axes have the sizes of `row_sizes`. The values of an input belong to its domain; where none is known, integers
    are at least 0 and below `below`.
    """
    random = np.random.default_rng((seed, rows))
    # An id below zero is not an ordinary one, even for a framework that counts it from the end.
    ordinary = {name: replace(known, low=max(0, known.low)) for name, known in known_domains(inputs).items()}
    known = ordinary | dict(domains or {})
    return {
        spec.name: _invented(spec, (rows, *row_sizes(spec, are_calls)), below, random, known.get(spec.name))
        for spec in inputs
    }


def known_domains(specs: Sequence[TensorSpec]) -> dict[str, Domain]:
    """The domains of the inputs whose bounds are known."""
    return {spec.name: Domain(*spec.bounds, is_whole=True) for spec in specs if spec.bounds}


def _invented(
    spec: TensorSpec, shape: tuple[int, ...], below: int, random: np.random.Generator, domain: Domain | None
) -> NDArray[Any]:
    if domain is not None and domain.values:
        return random.choice(domain.listed(numpy_dtype(spec.dtype)), shape)
    if spec.dtype == "bytes":
        words = random.integers(0, 100_000, shape)
        texts: NDArray[Any] = np.frompyfunc(lambda number: b"word %d" % number, 1, 1)(words)
        return texts
    kind = "float32" if spec.dtype in ("bfloat16", "float16") else spec.dtype
    if kind == "bool":
        return random.integers(0, 2, shape).astype(bool)
    is_whole = np.dtype(kind).kind in "iu"
    if domain is not None and (is_whole or domain.is_whole):
        low, high = math.ceil(domain.low), math.floor(domain.high)
        return random.integers(low, high, shape, np.uint64 if kind == "uint64" else np.int64, True).astype(kind)
    if kind == "int8":  # values of a quantised network, and no ids
        return random.integers(-128, 128, shape).astype(kind)
    if is_whole:
        return random.integers(0, below if kind != "uint8" or len(shape) != 4 else 256, shape).astype(kind)
    values = _varied(shape, random)
    if domain is not None:
        values = domain.low + (domain.high - domain.low) / (1 + np.exp(-values))
    return values.astype("float16" if spec.dtype == "float16" else kind)


def _varied(shape: Sequence[int], random: np.random.Generator) -> NDArray[np.float64]:
    """Rows of different scales, each with a slope along every axis: every permutation changes them."""
    rows = shape[0]
    scales = np.geomspace(0.1, 3, rows).reshape(-1, *[1] * (len(shape) - 1))
    slopes = [
        np.linspace(-1, 1, size).reshape([-1 if axis == place else 1 for axis in range(len(shape))])
        for place, size in enumerate(shape)
        if place
    ]
    return np.asarray(random.normal(size=shape) * scales + sum(slopes))


def invented_pictures(image: ImageSpec, rows: int, seed: int = 0) -> NDArray[np.uint8]:
    """Pictures (rows, H, W, C): the shipped ones, then noise at several scales over slopes of colour."""
    files = sorted(PICTURES.glob("*.png"))[: rows // 2]
    known = [image_to_batch(file.read_bytes(), image)[0].astype(np.uint8) for file in files]
    random = np.random.default_rng(seed)
    return np.stack([*known, *(_noise(image, random) for _ in range(rows - len(known)))])


def _noise(image: ImageSpec, random: np.random.Generator) -> NDArray[np.uint8]:
    height, width, channels = image.shape
    total = np.zeros(image.shape)
    for cells in (2, 5, 12, 31):
        coarse = random.uniform(-1, 1, (cells, cells, channels))
        rows, columns = (np.arange(size) * cells // size for size in (height, width))
        total += coarse[rows][:, columns] / cells**0.3
    total += np.linspace(-1, 1, height)[:, None, None] * random.uniform(-1, 1, channels)
    scaled = (total - total.min()) / max(float(np.ptp(total)), 1e-9)
    return (scaled * 255).astype(np.uint8)  # type: ignore[no-any-return]
