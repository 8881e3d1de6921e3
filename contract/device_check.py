"""What a visitor's own device answered: the page writes it, the service keeps it, and `make compare` shows it.

The text is `{"check":...,"sha256":"..."}`, and the sha256 is that of the bytes between the two keys: a file that was
altered since it was made is refused, and so is one of other artifacts than those that it is compared with.
"""

import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from contract.errors import BodyTooLarge, InputError
from contract.records import RecordError, decode, parse

FOLDER = "devices"
"""Beside the models' folders."""
MOST_BYTES = 1_000_000
MOST_FILES = 100
MOST_ROWS = 1000
MOST_LETTERS = 300

TEXT = re.compile(rb'\{"check":(.*),"sha256":"([0-9a-f]{64})"\}\s*', re.DOTALL)


@dataclass(frozen=True)
class CheckedRow:
    """One artifact in one runtime of the device's browser."""

    artifact: str
    backend: str
    """What it really ran on: threads, instruction set, graphics adapter."""
    questions: int
    """How many were asked and answered."""
    wrong: tuple[int, ...]
    """The test images, or numbers of random inputs, with another answer than the source's, but not `lost`."""
    lost: tuple[int, ...]
    """Other answers than the source's, too, but those that this artifact of reduced precision gives on the server."""
    difference: float | None
    """The largest absolute difference; None where an answer is NaN, or there is none."""
    ms: float | None
    """The median of one call, warm, in milliseconds."""
    error: str
    """Why it could not be run; empty where it could."""

    def __post_init__(self) -> None:
        others = (*self.wrong, *self.lost)
        if not (0 <= len(others) <= self.questions <= 1_000_000) or any(number < 0 for number in others):
            raise ValueError(f"{len(others)} of {self.questions} answers are wrong: expected no more than there are")
        if any(value is not None and not 0 <= value < float("inf") for value in (self.difference, self.ms)):
            raise ValueError("difference and ms: expected a number that is 0 or more, or null")
        if max(map(len, (self.artifact, self.backend, self.error))) > MOST_LETTERS:
            raise ValueError(f"a text is longer than {MOST_LETTERS} characters")


@dataclass(frozen=True)
class DeviceCheck:
    """The check of every row that a browser could run."""

    made: str
    """When: ISO 8601."""
    device: str
    """As its owner calls it."""
    browser: str
    cores: int
    artifacts: Mapping[str, Mapping[str, str]]
    """Artifact -> file -> sha256: what was checked, sources included."""
    rows: Mapping[str, CheckedRow]
    """`<artifact>@<runtime>` -> its check."""

    def __post_init__(self) -> None:
        if not self.rows or len(self.rows) > MOST_ROWS:
            raise ValueError(f"rows: got {len(self.rows)}, expected 1 to {MOST_ROWS}")
        if max(map(len, (self.made, self.device, self.browser))) > MOST_LETTERS:
            raise ValueError(f"a text is longer than {MOST_LETTERS} characters")
        if unknown := [name for name, row in self.rows.items() if name.partition("@")[0] != row.artifact]:
            raise ValueError(f"the row {unknown[0][:100]!r} is not of its artifact")
        if absent := {row.artifact for row in self.rows.values()} - self.artifacts.keys():
            raise ValueError(f"{min(absent)} was checked, and its files are not named")


def read_check(data: bytes, known: Mapping[str, Mapping[str, str]]) -> DeviceCheck:
    """A check of the known artifacts (name -> file -> sha256).

    Raises InputError for one that is altered, of other artifacts, or no check at all, and BodyTooLarge.
    """
    if len(data) > MOST_BYTES:
        raise BodyTooLarge(f"The check has {len(data)} bytes, the limit is {MOST_BYTES}.")
    match = TEXT.fullmatch(data)
    if not match:
        raise InputError(
            'This is not a check of a device: expected {"check":...,"sha256":"..."}, as the page writes it.'
        )
    if (digest := hashlib.sha256(match[1]).hexdigest()) != match[2].decode():
        raise InputError(
            f"The check was altered: its sha256 is {digest[:12]}..., it names {match[2].decode()[:12]}.... "
            "Check the device again, and send the file as it was written."
        )
    try:
        check = decode(DeviceCheck, parse(match[1]))
    except RecordError as error:
        raise InputError(
            f"This is not a check of a device ({error}). Check the device with this version's page."
        ) from None
    for name, files in check.artifacts.items():
        if files != known.get(name):
            what = "has other files than when the device was checked" if name in known else "is not here"
            raise InputError(f"The check is of other artifacts: {name[:100]} {what}. Check the device again.")
    return check


def read_checks(folder: Path, known: Mapping[str, Mapping[str, str]]) -> Iterator[DeviceCheck | str]:
    """The checks that a folder keeps, each read or, as a sentence, the reason why it is left out."""
    for file in sorted(folder.glob("*.json"))[:MOST_FILES]:
        try:
            yield read_check(file.read_bytes(), known)
        except (InputError, OSError) as error:
            yield f"{file.name} is left out. {error}"


def keep_check(folder: Path, data: bytes) -> str:
    """Write a check that was read, and give the name of its file; the same check is kept once.

    Raises InputError where the folder is full, and OSError where it cannot be written.
    """
    name = f"{hashlib.sha256(data).hexdigest()[:16]}.json"
    folder.mkdir(exist_ok=True)
    if not (folder / name).exists():
        if sum(1 for _ in folder.glob("*.json")) >= MOST_FILES:
            raise InputError(
                f"The service keeps {MOST_FILES} checks, and has as many. Remove some from {folder.name}/."
            )
        partial = folder / f".{name}.partial"
        partial.write_bytes(data)
        partial.replace(folder / name)
    return name
