"""The parity result beside an artifact's manifest, and the artifact's status that follows from it.

A result holds for exactly the bytes that were compared: it names the sha256 of both manifests, and these name the
sha256 of every file.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from contract.arm_proof import ArmProof, read_proof
from contract.formats import why_not_run
from contract.mac_record import MAC
from contract.manifest import MANIFEST, Manifest, read_manifest, sha256_of, write_json
from contract.placement import Placement
from contract.records import RecordError, content_of, decode, encode, parse

PARITY = "parity.json"

SOURCE, VERIFIED, ORDINARY, UNVERIFIED, FAILED = WORDS = (
    "source",
    "verified",
    "verified on ordinary inputs",
    "unverified",
    "failed",
)
"""All words of a status, but for those of reduced precisions, which `verified_at` makes."""


@dataclass(frozen=True)
class Flip:
    """A picture that the artifact puts into another class than the source does."""

    image: int
    """Its index in the split."""
    source: int
    artifact: int
    """The class that each of the two gives."""
    margin: float
    """The source's largest probability minus its second largest."""
    difference: float
    """The largest absolute difference between the two answers to this picture."""
    near_tie: bool
    """The margin is at most twice the tolerance: rounding alone can change the order."""


@dataclass(frozen=True)
class BatchParity:
    """All pictures, compared at one batch size."""

    batch: int
    max_abs_diff: float
    mean_abs_diff: float
    min_cosine: float
    max_kl: float | None
    """The largest Kullback-Leibler divergence of a picture's answer from the source's, in nats; None where answers are
    not probabilities."""
    agreement: float
    """The share of pictures that both put into the same class."""
    flips: tuple[Flip, ...]


@dataclass(frozen=True)
class EdgeDifference:
    """An edge question to which the artifact's answer is not the source's."""

    question: str
    """What is special about its inputs: "values from -120 to 120"."""
    output: str
    expected: str
    got: str
    """The value that is furthest off, as people read it: "101.7" became "nan"."""

    def __str__(self) -> str:
        return f"with {self.question}, {self.output} is {self.got} instead of {self.expected}"


@dataclass(frozen=True)
class Kept:
    """How much of its source an artifact of reduced precision keeps, on the same rows."""

    measure: str
    """What was compared: "accuracy"; "agreement" where the right answers are unknown; "variation" where answers are no
    classes, the share of the variation of the source's answers that it repeats."""
    rows: int
    source: float
    artifact: float
    """The measure of each of the two."""
    share: float
    """The artifact's, divided by the source's."""
    low: float
    high: float
    """The ends of its two-sided 95 % interval, for the same rows in pairs."""
    limit: float
    """Its class: the largest limit that the whole interval reaches; the smallest one where it reaches none."""

    @property
    def passes(self) -> bool:
        return self.low >= self.limit

    def __str__(self) -> str:
        """`99.87 % of its source's accuracy on 10,000 rows (95 % interval 99.65 % to 100.09 %)`."""
        return (
            f"{_percent(self.share, 2)} of its source's {self.measure} on {self.rows:,} rows "
            f"(95 % interval {_percent(self.low, 2)} to {_percent(self.high, 2)})"
        )


def _percent(share: float, digits: int) -> str:
    return f"{100 * share:.{digits}f} %"


@dataclass(frozen=True)
class ParityResult:
    """How far an artifact's answers are from its source's, and whether that passes."""

    artifact: str
    source: str
    artifact_sha256: str
    source_sha256: str
    """Of the two manifests."""
    passed: bool
    reasons: tuple[str, ...]
    """Why it did not pass; empty when it did."""
    tolerance: float
    images: int
    accuracy: float | None
    """The share of pictures that the artifact answers right; None where labels are unknown."""
    batches: tuple[BatchParity, ...]
    seconds: float
    edges: int
    """How many edge questions the source could answer."""
    differs: tuple[EdgeDifference, ...]
    """Where the artifact's answers are not the source's."""
    processor: str
    """The processor's model and its vector instructions: answers were compared on this one."""
    kept: Kept | None = None
    """Of an artifact of reduced precision, which is judged by this; None where the tolerance judges."""
    lowered: str = ""
    """Of an artifact of float32: what shows that its runtime computes in less; empty where nothing does."""
    placements: tuple[Placement, ...] = ()
    """Where its operators run; empty where its runtime does not show it."""
    system: str = ""
    """What it ran on, where nothing here runs it: "macOS 15.5"; empty for others."""
    record_sha256: str = ""
    """Of the answers from there, `mac.json`."""

    def __post_init__(self) -> None:
        if not self.batches:
            raise ValueError("batches is empty: expected a comparison at one batch size at least")

    @property
    def max_abs_diff(self) -> float:
        return max(batch.max_abs_diff for batch in self.batches)

    @property
    def agreement(self) -> float:
        return min(batch.agreement for batch in self.batches)


@dataclass(frozen=True)
class Status:
    """What is known of an artifact's answers, and why.

    "source": it is what the others are compared with. "verified": it answers as its source does, on ordinary inputs and
    at their edges. "verified on ordinary inputs": at some edges it answers otherwise. "verified at 99.9 %": of reduced
    precision, and it keeps so much of its source's accuracy. "unverified": nobody compared exactly these bytes, or they
    failed. A model that cannot be run is "failed" to who serves it.
    """

    word: str
    reason: str
    parity: ParityResult | None = None
    arm: ArmProof | None = None
    """Whether it answers so on an ARM processor, too; None where that is unknown, and for an artifact that is
    unverified here."""


def verified_at(limit: float) -> str:
    """The status of an artifact of reduced precision that passes at this limit: "verified at 99.9 %"."""
    return f"{VERIFIED} at {100 * limit:g} %"


def write_parity(folder: Path, result: ParityResult) -> None:
    """Write `parity.json` beside the manifest in `folder`, atomically."""
    write_json(folder / PARITY, encode(result))


LATER: Mapping[str, Any] = {"kept": None, "lowered": "", "placements": [], "system": "", "record_sha256": ""}
"""Fields that results have not always had, with what they were before."""


def read_status(folder: Path) -> Status:
    """The status of the artifact in `folder`.

    Raises what `read_manifest` raises; anything else that cannot be read makes the artifact unverified.
    """
    manifest = read_manifest(folder)
    status = _status(folder, manifest)
    return status if status.word == UNVERIFIED else replace(status, arm=read_proof(folder, manifest))


def _status(folder: Path, manifest: Manifest) -> Status:
    if manifest.is_source:
        return Status(SOURCE, "training wrote it: the others are compared with it")
    try:
        data = parse(content_of(folder / PARITY))
        known = {**LATER, **data} if isinstance(data, dict) else data
        return _judge(folder, manifest, decode(ParityResult, known))
    except FileNotFoundError:
        if why := why_not_run(manifest.format):
            return Status(UNVERIFIED, f"{why}. `make verify` says how its answers are proven there")
        return Status(UNVERIFIED, "it was never compared with its source: run `make verify`")
    except (OSError, RecordError) as error:
        return Status(UNVERIFIED, f"its {PARITY} cannot be read ({error}): run `make verify`")


def _judge(folder: Path, manifest: Manifest, result: ParityResult) -> Status:
    """Raises OSError where the result names files that cannot be read."""
    if result.artifact_sha256 != sha256_of(folder / MANIFEST):
        return Status(UNVERIFIED, "its parity result is for other bytes than these: run `make verify`")
    source = folder.parent / result.source.removeprefix(f"{manifest.model}-") / MANIFEST
    if not source.is_file() or result.source_sha256 != sha256_of(source):
        return Status(UNVERIFIED, "its source changed since they were compared: run `make verify`")
    if why_not_run(manifest.format) and result.record_sha256 != sha256_of(folder / MAC):
        return Status(UNVERIFIED, f"its {MAC} is not the one that was judged: run `make verify`")
    if not result.passed:
        return Status(UNVERIFIED, "its answers are not its source's: " + "; ".join(result.reasons), result)
    words = f"on {result.system} ({result.processor}): " if result.system else ""
    words += f"{result.images} questions, largest difference {result.max_abs_diff:.1e}"
    words += f"; {result.lowered}" if result.lowered else ""
    if result.kept:
        beyond = f"; not a number {result.differs[0]}" if result.differs else ""
        return Status(verified_at(result.kept.limit), f"it keeps {result.kept}{beyond}", result)
    if result.differs:
        some = "; ".join(map(str, result.differs[:3])) + ("; ..." if len(result.differs) > 3 else "")
        return Status(ORDINARY, f"{words}; {len(result.differs)} differences at edges: {some}", result)
    return Status(VERIFIED, f"{words}; {result.edges} edge questions" if result.edges else words, result)
