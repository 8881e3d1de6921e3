"""What a Mac answered, beside an artifact's manifest: the answers themselves, and which bytes gave them.

Core ML runs on Apple's systems alone. The parity gate leaves questions and a script beside such an artifact; the script
writes this record on a Mac, and the gate judges the answers in it.
"""

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from contract.records import RecordError, content_of, decode, parse, without_schema

MAC = "mac.json"
QUESTIONS = "mac_questions.npz"
SCRIPT = "prove_on_mac.py"
SCHEMA = 1

UNITS = ("CPU_ONLY", "ALL")
"""What computes the answers, as coremltools calls it: the processor alone, and whatever the Mac has."""
KINDS = ("float16", "float32", "float64", "int32", "int64", "bool")
MOST_BYTES = 64 << 20
"""Of a record."""


@dataclass(frozen=True)
class Tensor:
    """One output of one call."""

    dtype: str
    shape: tuple[int, ...]
    data: str
    """Its bytes, the lowest of each number first: base64."""

    def __post_init__(self) -> None:
        if self.dtype not in KINDS:
            raise ValueError(f"dtype is {self.dtype!r}, expected one of {', '.join(KINDS)}")
        if any(size < 0 for size in self.shape):
            raise ValueError(f"shape is {list(self.shape)}: expected sizes of at least 0")

    @property
    def array(self) -> NDArray[Any]:
        """Raises RecordError where the bytes are not as many as the shape says."""
        try:
            data = np.frombuffer(base64.b64decode(self.data, validate=True), np.dtype(self.dtype).newbyteorder("<"))
            return data.reshape(self.shape)
        except ValueError as error:
            raise RecordError(f"an answer cannot be read: {error}") from None


@dataclass(frozen=True)
class Run:
    """All calls of one size, with the same part of the Mac."""

    units: str
    batch: int
    calls: tuple[Mapping[str, Tensor], ...]
    """Output's name -> its answer, call by call."""
    max_abs_diff: float
    same_class: float
    """From the source's answers, as the script saw it; the gate compares them itself."""


@dataclass(frozen=True)
class MacRecord:
    """The answers of an artifact on a Mac."""

    artifact: str
    files: Mapping[str, str]
    """The sha256 of its manifest, of every file that this names, and of the questions."""
    machine: str
    """"Apple M2"."""
    system: str
    """"macOS 15.5"."""
    coremltools: str
    tolerance: float
    passed: bool
    """What the script says of the answers."""
    runs: tuple[Run, ...]


def read_record(folder: Path) -> MacRecord | None:
    """The record in the folder of an artifact, None where there is none. Raises RecordError for anything else."""
    path = folder / MAC
    try:
        return decode(MacRecord, without_schema(parse(content_of(path, MOST_BYTES)), SCHEMA))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise RecordError(str(error)) from error
