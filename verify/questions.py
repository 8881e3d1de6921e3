"""The rows on which artifacts are compared with their source: the same for all artifacts of a model.

Our own models are compared on the test pictures of a data set. A user's own model has its own questions, in
`<artifacts>/questions/<model>.npz`: `bring` makes them from the user's pictures, or from the shapes of the inputs.
"""

import io
import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from contract import dataset
from contract.errors import DataError
from contract.image import image_to_batch
from contract.manifest import ImageSpec, TensorSpec

FOLDER = "questions"

_ABOUT = "about.json"
_LABELS = "labels"


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

    @property
    def count(self) -> int:
        return len(next(iter(self.inputs.values())))

    @property
    def pictures(self) -> NDArray[np.uint8] | None:
        """(N, H, W, C) where each row is one picture and nothing else, otherwise None."""
        first, *others = self.inputs.values()
        return first if not others and first.dtype == np.uint8 and first.ndim == 4 else None

    def rows(self, start: int, stop: int, dtypes: Mapping[str, np.dtype[Any]]) -> dict[str, NDArray[Any]]:
        """The rows from `start` up to, not including, `stop`; each input in its dtype."""
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


def read(file: Path, limit: int | None = None) -> Questions:
    """Read what `write` wrote. Raises DataError on anything else."""
    try:
        with file.open("rb") as stream, np.load(stream, allow_pickle=False) as arrays:
            about = json.loads(arrays[_ABOUT].tobytes())
            inputs = {name: _restored(arrays[f"input {name}"], kind) for name, kind in about["inputs"].items()}
            labels = arrays[_LABELS][:limit] if _LABELS in arrays.files else None
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"{file} cannot be read ({error}). Remove it and run the same command again.") from error
    return Questions({name: rows[:limit] for name, rows in inputs.items()}, labels, about["title"], about["tolerance"])


def write(file: Path, questions: Questions) -> None:
    """Write atomically, as arrays that NumPy reads without pickle."""
    kinds = {name: "bytes" if rows.dtype == object else "plain" for name, rows in questions.inputs.items()}
    about = json.dumps({"title": questions.title, "tolerance": questions.tolerance, "inputs": kinds}).encode()
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


def invented(inputs: Sequence[TensorSpec], rows: int, below: int, seed: int = 0) -> dict[str, NDArray[Any]]:
    """Rows in the inputs' dtypes and shapes, with different magnitudes and structures, so that faults show.

    Free axes have the size FREE; integers are at least 0 and below `below`.
    """
    random = np.random.default_rng((seed, rows))
    return {spec.name: _invented(spec, rows, below, random) for spec in inputs}


def _invented(spec: TensorSpec, rows: int, below: int, random: np.random.Generator) -> NDArray[Any]:
    shape = (rows, *(FREE if size is None else size for size in spec.shape[1:]))
    if spec.dtype == "bytes":
        words = random.integers(0, 100_000, shape)
        texts: NDArray[Any] = np.frompyfunc(lambda number: b"word %d" % number, 1, 1)(words)
        return texts
    kind = "float32" if spec.dtype in ("bfloat16", "float16") else spec.dtype
    if kind == "bool":
        return random.integers(0, 2, shape).astype(bool)
    if np.dtype(kind).kind in "iu":
        return random.integers(0, below if kind != "uint8" or len(shape) != 4 else 256, shape).astype(kind)
    # Rows of different scales, each with a slope along every axis: every permutation changes them.
    scales = np.geomspace(0.1, 3, rows).reshape(-1, *[1] * (len(shape) - 1))
    slopes = [
        np.linspace(-1, 1, size).reshape([-1 if axis == place else 1 for axis in range(len(shape))])
        for place, size in enumerate(shape)
        if place
    ]
    values = random.normal(size=shape) * scales + sum(slopes)
    return values.astype("float16" if spec.dtype == "float16" else kind)


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
