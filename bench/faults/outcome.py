"""One fault through the real gate and the real diagnosis."""

import contextlib
import io
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bench.faults import bases
from bench.faults.faults import EDGES, Fault
from bench.faults.plants import Bed, planted
from contract.behaviour import read_behaviour
from contract.errors import RosettaError, one_line
from contract.manifest import read_manifest
from contract.parity_result import FAILED, ORDINARY, VERIFIED, ParityResult, Status, read_status
from verify.diagnose.diagnosis import Diagnosis, diagnose
from verify.parity import LARGE, verify_model
from verify.questions import Questions, load

KINDS: dict[str, Callable[[ParityResult], bool]] = {
    "manifest": lambda result: any("its source's" in reason for reason in result.reasons),
    "row by row": lambda result: any("at batch 1 " in reason for reason in result.reasons),
    "64 rows": lambda result: any("at batch 64 " in reason for reason in result.reasons),
    "large call": lambda result: any(f"at batch {LARGE} " in reason for reason in result.reasons),
    "repetition": lambda result: any("the same question" in reason for reason in result.reasons),
    "edges": lambda result: bool(result.differs),
}
"""The parts of parity, and how each of them says that it noticed something."""

RIGHT, UNKNOWN, WRONG = "right", "unknown", "wrong"
NAMELESS = "unknown"
"""The conclusion of a diagnosis in which no cause holds."""


@dataclass(frozen=True)
class Outcome:
    """What became of a planted fault."""

    fault: Fault
    word: str
    """The status that metadata and the page show."""
    closed_by: tuple[str, ...]
    """Which parts of parity noticed it: some of KINDS."""
    reason: str
    """What parity says first; empty where it says nothing."""
    cause: str
    """What the diagnosis concludes; empty where it was not made, or could not be."""
    evidence: str
    seconds: float

    @property
    def is_closed(self) -> bool:
        """Nobody is told that it is verified; or, for a fault that only edges show, not without these words."""
        return self.word not in (VERIFIED, ORDINARY) or (self.word == ORDINARY and self.fault.shows == EDGES)

    @property
    def named(self) -> str:
        if self.cause in ("", NAMELESS):
            return UNKNOWN
        return RIGHT if self.cause.startswith(self.fault.causes) else WRONG


def try_out(fault: Fault, artifacts: Path, made: Path, limit: int) -> Outcome:
    """Plant the fault into a copy, compare it with its source, and diagnose it. Raises RosettaError."""
    start = time.perf_counter()
    healthy = bases.find(fault.base, artifacts, made)
    written = io.StringIO()
    with (
        tempfile.TemporaryDirectory() as folder,
        contextlib.redirect_stdout(written),
        contextlib.redirect_stderr(written),
    ):
        bed = planted(healthy, fault.format, fault.plant, Path(folder))
        questions = load(bed.artifact.parent, "fashion_mnist", limit)
        status = _gate(bed, questions)
        cause, evidence = _diagnosed(bed, questions) if status.word != VERIFIED else ("", "")
        closed_by = tuple(kind for kind, noticed in KINDS.items() if status.parity and noticed(status.parity))
        behaviour = read_behaviour(bed.artifact)
        if behaviour and behaviour.mixing:
            closed_by = (*closed_by, "rows")
    seconds = round(time.perf_counter() - start, 1)
    return Outcome(fault, status.word, closed_by, _reason(status), cause, evidence, seconds)


def _gate(bed: Bed, questions: Questions) -> Status:
    try:
        verify_model(bed.artifact.parent, questions)
    except RosettaError as error:
        return Status(FAILED, one_line(error))
    return read_status(bed.artifact)


def _reason(status: Status) -> str:
    """The first thing that parity found."""
    result = status.parity
    if result is None:
        return status.reason if status.word != VERIFIED else ""
    return next(iter((*result.reasons, *map(str, result.differs))), "")


def _diagnosed(bed: Bed, questions: Questions) -> tuple[str, str]:
    try:
        diagnosis: Diagnosis = diagnose(
            bed.artifact.parent, read_manifest(bed.artifact), read_manifest(bed.source), questions
        )
    except RosettaError as error:
        return "", one_line(error)
    return (
        (diagnosis.checks[-1].cause, diagnosis.checks[-1].evidence)
        if diagnosis.checks
        else ("", "it finds nothing wrong")
    )
