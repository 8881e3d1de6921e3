"""What `make compare` found, as `report.json` keeps it: typed, versioned, each figure with its unit and its spread."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from compare.figures import Measured, Missing
from contract.errors import RosettaError
from contract.manifest import write_json
from contract.records import RecordError, decode, encode, parse

SCHEMA = 1
REPORT = "report.json"


class ReportError(RosettaError):
    """A report cannot be read, or not be compared with another."""


@dataclass(frozen=True)
class Machine:
    """What the figures were measured on, and with."""

    processor: str
    cores: int
    memory: int
    """Bytes."""
    system: str
    python: str
    versions: Mapping[str, str]
    """Name of a package -> its version."""

    def is_like(self, other: "Machine") -> bool:
        """Whether times of the two may be compared."""
        return (self.processor, self.cores) == (other.processor, other.cores)

    def __str__(self) -> str:
        return f"{self.processor}, {self.cores} cores, {self.memory / 2**30:.0f} GiB, {self.system}"


@dataclass(frozen=True)
class Settings:
    """How it was measured."""

    rounds: int
    seconds: float
    """How long calls with one picture are repeated in each round."""
    threads: int
    """Of one runtime."""
    batches: tuple[int, ...]
    parity_batches: tuple[int, ...]
    seed: int
    """Of the order in which artifacts took their turns, in the last run: an earlier one may have begun."""


@dataclass(frozen=True)
class FlippedPicture:
    """A test picture that an artifact puts into another class than its source."""

    image: int
    """Its index in the test split."""
    batch: int
    png: str
    """The picture, in base64."""
    label: str
    source: str
    artifact: str
    """The right class, the source's, and the artifact's."""
    source_margin: float
    artifact_margin: float
    """The largest probability minus the second largest."""
    near_tie: bool


@dataclass(frozen=True)
class Artifact:
    """One model in one format: what it answers, and what its files cost."""

    name: str
    model: str
    format: str
    source: str | None
    """The artifact that it was compared with; None for the source itself."""
    sha256: str
    """Of its manifest."""
    verdict: str
    """"source", "passed", or why it did not pass."""
    figures: Mapping[str, Measured]
    per_class: Mapping[str, Measured] = field(default_factory=dict)
    """Label -> the share of its test pictures that are answered right."""
    flips: tuple[FlippedPicture, ...] = ()
    flip_count: int = 0
    """How many there are; `flips` holds the first of them."""
    classes: str = ""
    """The class of every test picture: base64 of zlib of uint16. Empty where none was asked."""

    @property
    def keeps_the_answers(self) -> bool:
        return self.verdict in ("source", "passed")


@dataclass(frozen=True)
class Row:
    """One artifact on one runtime: its times, and what the runtime costs."""

    name: str
    """`<artifact>@<runtime>`, as the page names it."""
    artifact: str
    where: str
    """"server" or "browser"."""
    runtime: str
    backend: str
    """What it ran on: threads, instruction set, graphics adapter."""
    figures: Mapping[str, Measured]


@dataclass(frozen=True)
class Training:
    """One framework's training script, and how it went."""

    model: str
    framework: str
    script: str
    figures: Mapping[str, Measured]
    fault: str
    """A deliberate error in the shapes, as source code."""
    message: str
    """What the framework says of it, or why it was not tried."""
    where: str
    """The last line of the project's own in the traceback."""


@dataclass(frozen=True)
class Constraints:
    """What must hold: megabytes, milliseconds for one picture, the share of pictures that keep the source's class."""

    max_mb: float | None = None
    max_ms: float | None = None
    min_agreement: float | None = None


@dataclass(frozen=True)
class Sentence:
    """Words, and every number in them with its place in the report: a JSON pointer -> the number as shown."""

    text: str
    numbers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Relaxation:
    """A constraint that would have to give way, from what was asked to what is there."""

    constraint: str
    asked: float
    needed: float
    row: str


@dataclass(frozen=True)
class Recommendation:
    """Which row to ship, and why. The front is sorted from the fastest to the slowest."""

    target: str
    constraints: Constraints
    choice: str | None
    ties: tuple[str, ...]
    """Rows that cannot be told apart from the choice within the noise."""
    front: tuple[str, ...]
    """The Pareto front of accuracy, time and size among the rows that fit, or among all where none does."""
    reasons: tuple[Sentence, ...]
    lost: Mapping[str, Sentence]
    """Every other row -> why it was not chosen."""
    relax: tuple[Relaxation, ...] = ()


@dataclass(frozen=True)
class Report:
    """Everything that was measured."""

    schema: int
    made: str
    """The day."""
    seconds: float
    """That the measurements took, those that an earlier run had stored included."""
    dataset: str
    title: str
    labels: tuple[str, ...]
    pictures: int
    machine: Machine
    settings: Settings
    artifacts: Mapping[str, Artifact]
    rows: Mapping[str, Row]
    training: Mapping[str, Training]
    recommendations: tuple[Recommendation, ...] = ()

    def figure(self, row: str, name: str) -> Measured:
        """A row's figure, or its artifact's."""
        of_row, of_artifact = self.rows[row].figures, self.artifacts[self.rows[row].artifact].figures
        return of_row.get(name) or of_artifact.get(name) or Missing("It is not measured for such a row.")

    def measured(self) -> Iterator[tuple[str, str, Measured]]:
        """Every figure of every artifact and row, with both names."""
        both: tuple[Artifact | Row, ...] = (*self.artifacts.values(), *self.rows.values())
        yield from ((one.name, name, found) for one in both for name, found in one.figures.items())

    def pointer(self, row: str, name: str) -> str:
        """Where `figure` finds it, as a JSON pointer."""
        if name in self.rows[row].figures:
            return f"/rows/{row}/figures/{name}"
        return f"/artifacts/{self.rows[row].artifact}/figures/{name}"


def write_report(folder: Path, report: Report) -> None:
    write_json(folder / REPORT, encode(report))


def read_report(path: Path) -> Report:
    """Raises ReportError where there is none, where it is of another schema, or where it cannot be read."""
    try:
        data = parse(path.read_bytes())
        if isinstance(data, dict) and data.get("schema", SCHEMA) != SCHEMA:
            raise ReportError(
                f"{path} is a report of schema {data['schema']}, expected {SCHEMA}: it cannot be compared with one of "
                "today. Check out the version that wrote it and compare there, or take a new baseline with this one."
            )
        return decode(Report, data)
    except OSError as error:
        raise ReportError(f"There is no report {path} ({error.strerror}). Make one with `make compare`.") from None
    except RecordError as error:
        raise ReportError(f"{path} cannot be read as a report ({error}).") from error
