"""Calibration rows: the data from which a quantiser takes the ranges of activations.

They are never rows that accuracy is judged on. An artifact that was made with them names how many, which, and the
sha256 of the set in its manifest.
"""

import hashlib
import io
import json
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from contract import dataset
from contract.errors import DataError
from contract.manifest import TensorSpec
from contract.tensors import numpy_dtype

ROWS = 200
"""How many rows calibrate: more move the ends of ranges by less than a step."""
FOLDER = "calibration"

_ABOUT = "about.json"


@dataclass(frozen=True)
class Calibration:
    """Rows for a model's inputs."""

    inputs: Mapping[str, NDArray[Any]]
    """Input's name -> (N, ...). Pictures are uint8."""
    title: str
    """Where they are from, for people."""
    which: tuple[str, ...]
    """The name or the number of each row there."""

    def __post_init__(self) -> None:
        if not self.which or any(len(rows) != len(self.which) for rows in self.inputs.values()):
            raise DataError(f"{self.title}: no row calibrates, or not each row has a name.")

    @property
    def sha256(self) -> str:
        """Of the names, dtypes, shapes and values of all rows."""
        total = hashlib.sha256()
        for name, rows in sorted(self.inputs.items()):
            total.update(f"{name}\0{rows.dtype}\0{rows.shape}\0".encode())
            total.update(np.ascontiguousarray(rows).tobytes())
        return total.hexdigest()

    def described(self) -> dict[str, Any]:
        """What a manifest says of them."""
        return {
            "rows": len(self.which),
            "from": self.title,
            "which": " ".join(self.which),
            "sha256": self.sha256,
        }

    def batches(self, specs: tuple[TensorSpec, ...], size: int) -> Iterator[dict[str, NDArray[Any]]]:
        """The rows in the inputs' dtypes, `size` at a time; what is left over in the end is not used."""
        for start in range(0, len(self.which) - size + 1, size):
            yield {
                spec.name: self.inputs[spec.name][start : start + size].astype(numpy_dtype(spec.dtype))
                for spec in specs
            }


def of_training(name: str, entry: str) -> Calibration:
    """ROWS training pictures of a data set, for the input `entry`. Raises DataError."""
    split = dataset.load(name, "train")
    order = np.random.default_rng(0).permutation(len(split.images))[:ROWS]
    title = f"{dataset.get(name).title}, training pictures"
    return Calibration({entry: split.images[order]}, title, tuple(map(str, order)))


def read(file: Path) -> Calibration:
    """Read what `write` wrote. Raises DataError on anything else."""
    try:
        with file.open("rb") as stream, np.load(stream, allow_pickle=False) as arrays:
            about = json.loads(arrays[_ABOUT].tobytes())
            inputs = {name: arrays[f"input {name}"] for name in about["inputs"]}
            return Calibration(inputs, about["title"], tuple(about["which"]))
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"{file} cannot be read ({error}). Remove it and run the same command again.") from error


def write(file: Path, calibration: Calibration) -> None:
    """Write atomically, as arrays that NumPy reads without pickle."""
    about = {"title": calibration.title, "which": calibration.which, "inputs": list(calibration.inputs)}
    arrays = {f"input {name}": rows for name, rows in calibration.inputs.items()}
    content = io.BytesIO()
    np.savez(content, **arrays, **{_ABOUT: np.frombuffer(json.dumps(about).encode(), np.uint8)})  # type: ignore[arg-type]
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_suffix(".partial")
    partial.write_bytes(content.getvalue())
    partial.replace(file)
