"""The result of examining a file, and the checks that all kinds of files share."""

import mmap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from contract.errors import BroughtError

EXPECTED = (
    "Expected a Keras .h5 or .keras, a SavedModel's folder, a .pt2 of torch.export, TorchScript, weights as "
    ".safetensors or .pt (with ARCH=module:callable), an .onnx, a .tflite, or a TF.js model.json."
)


@dataclass(frozen=True)
class Finding:
    """One reason not to read a file."""

    what: str
    """For people: what is in the file, what it would do, and what to do instead."""
    trustable: bool = True
    """Whether TRUST=1 lets it pass: it does so for code of the file, not for a file that cannot be used."""


@dataclass(frozen=True)
class Examination:
    """What the bytes of a file say: its kind, the findings, and the files that make up the model."""

    kind: str
    findings: list[Finding]
    files: tuple[Path, ...]


def mapped(path: Path) -> memoryview:
    """The bytes of a file that is not empty, without reading those that nobody looks at: the weights."""
    with path.open("rb") as stream:
        return memoryview(mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ))


def few(names: Iterable[str], most: int = 6) -> str:
    """At most `most` of the names, quoted, each cut to 80 characters: they come from a file of unknown origin."""
    distinct = list(dict.fromkeys(names))
    shown = ", ".join(repr(name if len(name) <= 80 else f"{name[:77]}...") for name in distinct[:most])
    return shown if len(distinct) <= most else f"{shown} and {len(distinct) - most} more"


def count_of(shape: Sequence[Any], most: int) -> int:
    """The values of a tensor. Raises ValueError where one of its sizes is none, or they are more than `most`.

    It ends at once there: the product of many long numbers takes minutes.
    """
    if not all(type(size) is int and size >= 0 for size in shape):
        raise ValueError("the shape of a tensor has something else than sizes")
    count = int(0 not in shape)
    for size in shape:
        count *= size
        if count > most:
            raise ValueError(f"a tensor has more than {most} values")
    return count


def leaves(folder: Path, name: str) -> bool:
    """Whether a path that is written in a file leads out of the folder, by itself or through a symbolic link."""
    name = name.replace("\\", "/")
    return "\0" in name or "://" in name or not (folder / name).resolve().is_relative_to(folder.resolve())


def part_of(folder: Path, name: str, owner: Path, at_least: int = 0) -> Path:
    """A file that `owner` names. Raises BroughtError if it is missing or shorter than `at_least` bytes."""
    part = folder / name
    if not part.is_file():
        raise BroughtError(f"{owner} names the file {few([name])}, which is not there. Bring the whole folder.")
    if (size := part.stat().st_size) < at_least:
        raise BroughtError(
            f"{part} is truncated: it has {size} bytes, expected {at_least} or more. Copy it again, whole."
        )
    return part
