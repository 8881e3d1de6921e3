"""What the examination of a file can say, in words that every kind of file shares."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from contract.errors import BroughtError

EXPECTED = (
    "Expected a Keras .h5 or .keras, a SavedModel's folder, a .pt2 of torch.export, weights as .safetensors or .pt "
    "(with ARCH=module:callable), an .onnx, a .tflite, or a TF.js graph model's model.json."
)


@dataclass(frozen=True)
class Finding:
    """One thing that speaks against reading a file."""

    what: str
    """For people: what it is, what it would do, and what else can be done."""
    trustable: bool = True
    """Whether trust is the question: TRUST=1 lets such a finding pass, and no other."""


@dataclass(frozen=True)
class Told:
    """What one kind's examination tells: the kind, what was found, and the files that make up the model."""

    kind: str
    findings: list[Finding]
    files: tuple[Path, ...]


def few(names: Iterable[str], most: int = 6) -> str:
    """The names, quoted, each cut to a line's part and no more than `most`: they come from a file of unknown origin."""
    distinct = list(dict.fromkeys(names))
    said = ", ".join(repr(name if len(name) <= 80 else f"{name[:77]}...") for name in distinct[:most])
    return said if len(distinct) <= most else f"{said} and {len(distinct) - most} more"


def leaves(folder: Path, name: str) -> bool:
    """Whether a relative path, as a file spells it, ends outside of the folder, by itself or by a symbolic link."""
    name = name.replace("\\", "/")
    return "\0" in name or "://" in name or not (folder / name).resolve().is_relative_to(folder.resolve())


def part_of(folder: Path, name: str, owner: Path, at_least: int = 0) -> Path:
    """A file that another one names. Raises BroughtError when it is missing, or shorter than it has to be."""
    part = folder / name
    if not part.is_file():
        raise BroughtError(f"{owner} names the file {few([name])}, which is not there. Bring the whole folder.")
    if (size := part.stat().st_size) < at_least:
        raise BroughtError(
            f"{part} is truncated: it has {size} bytes, expected {at_least} or more. Copy it again, whole."
        )
    return part
