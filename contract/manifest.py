"""An artifact is a folder with its files and a manifest: what is in it, and what goes in and comes out.

The manifest is written last and names the sha256 of every file, so a folder without one does not exist, and a
folder whose files differ from it is not loaded.
"""

import contextlib
import errno
import functools
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sized
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Self

from contract.errors import ArtifactCorrupt, ArtifactError, ArtifactMissing
from contract.records import RecordError, content_of, decode, encode, parse, without_schema

MANIFEST = "manifest.json"
BROUGHT = "brought.json"
"""What bringing a model writes beside its artifacts; nothing that reads the model can leave it out."""
SCHEMA = 1

MODEL_NAME = re.compile(r"[a-z0-9_]+")
FORMAT_NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)?")
FITS = ("stretch", "contain", "cover")


@dataclass(frozen=True)
class TensorSpec:
    """One input or output. `None` in `shape` stands for any size, such as the batch."""

    name: str
    dtype: str
    shape: tuple[int | None, ...]
    layout: str
    """A letter for each axis: `NHWC`. The axis called N is the batch; a tensor without it has none. It is empty where
    nothing is known, and the first axis is the batch then."""
    bounds: tuple[int, int] | None = None
    """The least and the greatest id that an input takes, where its ids are rows of a table; None where none is known.
    A runtime may answer an id beyond them with anything, so the service refuses it."""
    least: tuple[int, ...] | None = None
    """The least size of each axis that the model can compute with; None where none is known."""

    @property
    def batch_axis(self) -> int | None:
        """The axis of the batch, or None where there is none."""
        place = self.layout.find("N") if self.layout else 0
        return place if 0 <= place < len(self.shape) else None

    def shape_at(self, batch: int | None) -> tuple[int | None, ...]:
        """The shape with this batch, or with any for None; as it is where it has none."""
        return tuple(batch if axis == self.batch_axis else size for axis, size in enumerate(self.shape))

    def sizes_at(self, batch: int, usual: int = 1) -> tuple[int, ...]:
        """The shape with this batch, and with `usual` for each other free size, or with the least one above that."""
        least = self.least or (1,) * len(self.shape)
        shape = zip(self.shape_at(batch), least, strict=True)
        return tuple(max(usual, known) if size is None else size for size, known in shape)


@dataclass(frozen=True)
class ImageSpec:
    """How a picture becomes the input: `contract/image.py` says what each setting means."""

    height: int
    width: int
    channels: int
    resample: str = "area"
    fit: str = "contain"
    invert: str = "never"

    def __post_init__(self) -> None:
        if min(self.height, self.width) < 1 or self.channels not in (1, 3):
            raise ValueError(f"{self.shape} is not the size of a picture: expected (height, width, 1 or 3)")
        for setting, value, known in (
            ("resample", self.resample, ("area",)),
            ("fit", self.fit, FITS),
            ("invert", self.invert, ("auto", "never")),
        ):
            if value not in known:
                raise ValueError(f"{setting} is {value!r}: expected {' or '.join(known)}")

    @property
    def shape(self) -> tuple[int, int, int]:
        """(height, width, channels) of one picture, in pixels."""
        return self.height, self.width, self.channels


@dataclass(frozen=True)
class Manifest:
    """What an artifact is: its place in the graph of formats, its files, its tensors, and how it was made."""

    model: str
    format: str
    parent: str | None
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    image: ImageSpec | None
    labels: tuple[str, ...]
    files: Mapping[str, str] = field(default_factory=dict)
    made_with: Mapping[str, Any] = field(default_factory=dict)
    batch: int | None = None
    """The fixed batch size of its graph, whose runtime then runs other batches piece by piece; None accepts any."""

    def __post_init__(self) -> None:
        check_name("model", self.model, MODEL_NAME)
        check_name("format", self.format, FORMAT_NAME)
        if self.parent is not None:  # it is a folder beside this one
            check_name("format", self.parent, FORMAT_NAME)
        if self.batch is not None and self.batch < 1:
            raise ValueError(f"batch is {self.batch}: expected a whole number of at least 1, or null")
        for path in self.files:
            if PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts:
                raise ValueError(f"the file name {path!r} leaves the artifact's folder")
        for kind, specs in (("inputs", self.inputs), ("outputs", self.outputs)):
            names = [spec.name for spec in specs]
            if len(set(names)) != len(names):  # a dictionary by name would lose a tensor
                raise ValueError(f"two {kind} have one name, of {', '.join(names)}: expected another for each")

    @property
    def name(self) -> str:
        """The served name: `<model>-<format>`."""
        return f"{self.model}-{self.format}"

    @functools.cached_property
    def has_rows(self) -> bool:
        """Whether each tensor begins with the batch, so that a call can be split by rows. Otherwise a call is whole."""
        return all(spec.batch_axis == 0 for spec in (*self.inputs, *self.outputs))

    def rows_of(self, inputs: Mapping[str, Sized]) -> int:
        """How many rows these inputs, by name, are; 1 for a whole call."""
        return len(next(iter(inputs.values()))) if self.has_rows else 1

    @property
    def is_source(self) -> bool:
        return self.parent is None

    @property
    def is_trusted(self) -> bool:
        """Whether the user trusted it (TRUST=1), so that code in its files may run."""
        return self.made_with.get("trusted") is True

    @property
    def is_quantised(self) -> bool:
        """Whether it was brought in whole numbers: it rounds between its layers, whatever its format's precision."""
        return self.made_with.get("is_quantised") is True

    def file(self, *suffixes: str) -> str:
        """The only file with one of these suffixes. Raises ArtifactCorrupt where there are none or several."""
        names = [name for name in self.files if name.endswith(suffixes)]
        if len(names) != 1:
            raise ArtifactCorrupt(f"{self.name} has {len(names)} files {' or '.join(suffixes)}, expected one.")
        return names[0]

    @property
    def classifies(self) -> bool:
        """Whether it takes one picture and gives one probability for each class."""
        if self.image is None or len(self.inputs) != 1 or not self.outputs or len(self.outputs[0].shape) != 2:
            return False
        first = self.outputs[0]
        return first.shape[1] == len(self.labels) if self.labels else first.name == "probabilities"

    @property
    def has_classes(self) -> bool:
        """Whether the values of its first output are classes; those of a map of them, for each place, are not."""
        return self.classifies or (bool(self.labels) and all(len(spec.shape) <= 2 for spec in self.outputs[:1]))

    def class_names(self, count: int) -> tuple[str, ...]:
        """The labels; of a model without any, the numbers of its `count` classes."""
        return self.labels or tuple(f"class {number}" for number in range(count))

    @classmethod
    def from_json(cls, data: Any) -> Self:
        """Read what `to_json` wrote. Raises RecordError on anything else."""
        # Older manifests have no batch, no bounds, and no least sizes.
        values = {"batch": None, **without_schema(data, SCHEMA)}
        tensors = {key: _with_limits(values[key]) for key in ("inputs", "outputs") if key in values}
        return decode(cls, values | tensors)

    def to_json(self) -> dict[str, Any]:
        return {"schema": SCHEMA, **encode(self)}


def _with_limits(specs: Any) -> Any:
    """The tensors of a manifest, each with its limits; anything else as it is, for `decode` to refuse."""
    if not isinstance(specs, list):
        return specs
    return [{"bounds": None, "least": None, **spec} if isinstance(spec, dict) else spec for spec in specs]


def check_name(kind: str, name: str, pattern: re.Pattern[str]) -> None:
    """Raise ValueError unless the whole of `name` matches `pattern`: names become folders and parts of URLs."""
    if not pattern.fullmatch(name):
        raise ValueError(f"{name!r} is not a {kind} name: expected {pattern.pattern}")


def sha256_of(path: Path) -> str:
    """The hex sha256 of a file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def sha256_of_files(folder: Path, files: Iterable[Path]) -> dict[str, str]:
    """Relative POSIX path -> hex sha256, in the order of the paths."""
    return {path.relative_to(folder).as_posix(): sha256_of(path) for path in sorted(files)}


def write_json(path: Path, data: Any) -> None:
    """Write atomically: a reader sees the old file or the new one, never a half.

    Infinity is written as 1e999: JSON has no infinity, and every reader takes a number too large for a float as one.
    """
    text = re.sub(r"Infinity(?=,?$)", "1e999", json.dumps(data, indent=2, ensure_ascii=False), flags=re.MULTILINE)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        partial.write_text(text + "\n", encoding="utf-8")
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write `manifest.json`: the last thing that happens to an artifact's folder."""
    write_json(folder / MANIFEST, manifest.to_json())


def read_manifest(folder: Path) -> Manifest:
    """Read an artifact's manifest. Its files are not checked: `verify_files` does that.

    Raises ArtifactMissing where there is no manifest, ArtifactCorrupt where it cannot be read.
    """
    path = folder / MANIFEST
    try:
        return Manifest.from_json(parse(content_of(path)))
    except (FileNotFoundError, NotADirectoryError):
        raise ArtifactMissing(
            f"There is no artifact in {folder}: it has no {MANIFEST}. Make it with `make artifacts`."
        ) from None
    except RecordError as error:
        raise ArtifactCorrupt(
            f"{path} cannot be read as a manifest ({error}). Remove {folder} and run `make artifacts`."
        ) from error


def verify_files(folder: Path, manifest: Manifest) -> None:
    """Raise ArtifactCorrupt unless every file exists and has the sha256 that the manifest names."""
    for name, expected in manifest.files.items():
        path = folder / name
        if not path.is_file():
            problem = "is missing"
        elif (got := sha256_of(path)) != expected:
            problem = f"has sha256 {got[:12]}..., expected {expected[:12]}..."
        else:
            continue
        raise ArtifactCorrupt(
            f"{path} {problem}: it is not the file that was exported. Remove {folder} and run `make artifacts`."
        )


@contextlib.contextmanager
def staged(folder: Path) -> Iterator[Path]:
    """Yield an empty folder that replaces `folder` when the block ends without an error.

    Whatever happens inside the block, `folder` is the old artifact or the new one. What an interrupted run left
    beside it is removed first.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        _sweep(folder)
        staging = folder.with_name(f".{folder.name}.{os.getpid()}.partial")
        staging.mkdir()
        try:
            yield staging
            _swap(staging, folder)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
    except Exception as error:
        if not _is_disk_full(error, folder):
            raise
        raise ArtifactError(
            f"No disk space is left for {folder}. Free some and run the same command again; "
            "what was there before is unchanged."
        ) from error


def _is_disk_full(error: Exception, folder: Path) -> bool:
    """Whether a full disk is the cause of an error: frameworks raise their own errors for it."""
    full = (errno.ENOSPC, errno.EDQUOT)
    if isinstance(error, OSError) and error.errno in full:
        return True
    message = f"{error}{error.__cause__}"
    return any(os.strerror(number) in message for number in full) or "file write failed" in message


def _sweep(folder: Path) -> None:
    """Remove what an interrupted run left; restore the old artifact where it stopped halfway through `_swap`."""
    for old in folder.parent.glob(f".{folder.name}.*.old.partial"):
        if not folder.exists():
            old.rename(folder)
    for leftover in folder.parent.glob(f".{folder.name}.*.partial"):
        shutil.rmtree(leftover, ignore_errors=True)


def _swap(staging: Path, folder: Path) -> None:
    if not folder.exists():
        staging.rename(folder)
        return
    old = folder.with_name(f".{folder.name}.{os.getpid()}.old.partial")
    folder.rename(old)
    try:
        staging.rename(folder)
    except OSError:
        old.rename(folder)
        raise
    shutil.rmtree(old, ignore_errors=True)
