"""The results of `make compare` as `report.json` keeps them: typed, versioned, each figure with unit and spread."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from compare.figures import Measured, Missing
from contract.arm_proof import ArmProof
from contract.errors import RosettaError
from contract.formats import family_of
from contract.ledger import NEWER, Ledger
from contract.manifest import write_json
from contract.placement import Placement
from contract.records import RecordError, decode, encode, parse

SCHEMA = 2
"""The page reads this version too: web/src/report.ts."""
REPORT = "report.json"


class ReportError(RosettaError):
    """A report cannot be read, written, or compared with another."""


@dataclass(frozen=True)
class Machine:
    """The machine and the versions that the figures were measured with."""

    processor: str
    cores: int
    memory: int
    """Bytes."""
    system: str
    python: str
    versions: Mapping[str, str]
    """Name of a package -> its version."""

    def is_like(self, other: "Machine") -> bool:
        """Whether the times of both can be compared."""
        return (self.processor, self.cores) == (other.processor, other.cores)

    def __str__(self) -> str:
        return f"{self.processor}, {self.cores} cores, {self.memory / 2**30:.0f} GiB, {self.system}"


@dataclass(frozen=True)
class Settings:
    """How the figures were measured."""

    rounds: int
    seconds: float
    """How long each round repeats calls with one picture."""
    threads: int
    """Threads of one runtime."""
    batches: tuple[int, ...]
    parity_batches: tuple[int, ...]
    seed: int
    """Seed of the order in which the last run measured the artifacts; an earlier run may have stored some results."""


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
    """Three labels: the right class, the class that the source gives, and the class that the artifact gives."""
    source_margin: float
    artifact_margin: float
    """The largest probability minus the second largest."""
    near_tie: bool


@dataclass(frozen=True)
class Artifact:
    """One model in one format: its answers, and the size of its files."""

    name: str
    model: str
    format: str
    source: str | None
    """The artifact that it is compared with; None for the source itself."""
    sha256: str
    """The sha256 of its manifest."""
    verdict: str
    """"source", "passed", for a reduced precision its class ("passed at 99 %"), or why it did not pass."""
    figures: Mapping[str, Measured]
    per_class: Mapping[str, Measured] = field(default_factory=dict)
    """Label -> the share of its test pictures that are classified correctly."""
    flips: tuple[FlippedPicture, ...] = ()
    flip_count: int = 0
    """How many pictures change their class; `flips` holds the first of them."""
    classes: str = ""
    """The class of every test picture: base64 of zlib of uint16. Empty if the artifact gave no answers."""
    right: str = ""
    """A bit for every test picture, 1 where its class is right: base64. Empty if the right classes are unknown."""
    ledger: Ledger | None = None
    """What is in the file of a reduced precision; None for others."""
    status: str = ""
    """Its word on the page and in its metadata, when this was measured; empty in older reports."""
    differs: tuple[str, ...] = ()
    """Its answers at edges that are not its source's, a phrase for each."""
    placements: tuple[Placement, ...] = ()
    """Where its operators run; empty where its runtime does not show it."""
    arm: ArmProof | None = None
    """Whether it answers so on an ARM processor, which was emulated; None where that is unknown."""
    outlook: str = ""
    """What is known of its format's future; empty where its makers go on with it."""
    proven_on: str = ""
    """On what alone its answers are proven, where that is for proof, and not for time; empty for others."""
    needs: str = ""
    """The system that alone runs it, where nothing is known of its answers there: "macOS"; empty for others."""

    @property
    def keeps_answers(self) -> bool:
        """Whether it gives its source's answers: it is the source, or parity passed."""
        return self.verdict == "source" or self.verdict.split(" at ")[0] == "passed"

    @property
    def word(self) -> str:
        """Its status, or why it did not pass."""
        return self.status if self.keeps_answers and self.status else self.verdict


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
    """What the runtime used: threads, instruction set, graphics adapter."""
    figures: Mapping[str, Measured]
    marks: tuple[str, ...] = ()
    """Of a reduced precision: "slower" or "larger" than float32 beyond the noise, "stored only"."""


@dataclass(frozen=True)
class DeviceRow:
    """One artifact in one runtime of a visitor's device, as the page checked it there."""

    row: str
    """`<artifact>@<runtime>`."""
    artifact: str
    device: str
    """As its owner calls it."""
    browser: str
    made: str
    """When: ISO 8601."""
    backend: str
    wrong: int
    """How many of the questions were answered otherwise than by the source."""
    figures: Mapping[str, Measured]
    """agreement, difference and time."""


@dataclass(frozen=True)
class Training:
    """One framework's training script, and the figures of its training."""

    model: str
    framework: str
    script: str
    figures: Mapping[str, Measured]
    fault: str
    """Source code with a deliberate error in the shapes."""
    message: str
    """The framework's message, or why the code was not run."""
    where: str
    """The last line of the traceback that is the project's own code."""


@dataclass(frozen=True)
class Target:
    """Where a model is to run: which rows can run there, and which figures count as their time and size."""

    title: str
    where: str
    """The rows' `where`: "server" or "browser"."""
    families: tuple[str, ...] | None
    """Families of formats that run there; None if all do."""
    time: str
    size: str
    """Names of figures."""
    time_label: str
    size_label: str
    """What these figures are, as the subject of a sentence."""
    note: str = ""
    """A reservation about all rows, as a sentence."""
    accuracy: str = "accuracy"
    """The figure that counts as accuracy: agreement with the source, where the right answers are unknown."""
    parts: tuple[str, ...] = ()
    """Parts of runtimes that there are: the advice says how many of the choice's operators run on them."""
    on_arm: bool = False
    """Whether its processor is of 64-bit ARM: what gives other answers there is not chosen."""

    def takes(self, artifact: Artifact) -> bool:
        """Whether an artifact runs there. What is not run here, or for proof alone, runs only where its family is
        named."""
        if self.families is None:
            return not (artifact.proven_on or artifact.needs)
        return family_of(artifact.format) in self.families


@dataclass(frozen=True)
class Constraints:
    """Limits: megabytes, milliseconds for one picture, the share of pictures that keep the source's class; and the
    precisions that may be chosen, such as `float32` and `int8`: all where none is named."""

    max_mb: float | None = None
    max_ms: float | None = None
    min_agreement: float | None = None
    allow_precision: tuple[str, ...] = ()


@dataclass(frozen=True)
class Sentence:
    """A sentence, and where its numbers stand in the report: a JSON pointer -> the number as shown."""

    text: str
    numbers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Relaxation:
    """A constraint that would have to give way, from its limit to the value that a row needs."""

    constraint: str
    limit: float
    needed: float
    row: str


@dataclass(frozen=True)
class Recommendation:
    """Which row to ship, and why."""

    target: str
    constraints: Constraints
    choice: str | None
    ties: tuple[str, ...]
    """Rows that cannot be told apart from the choice within the noise."""
    front: tuple[str, ...]
    """The Pareto front of accuracy, time and size: of the rows that fit, or of all if none fits; the fastest first."""
    reasons: tuple[Sentence, ...]
    rejected: Mapping[str, Sentence]
    """Every other row of the target -> why it is not the choice."""
    relax: tuple[Relaxation, ...] = ()
    more_ties: int = 0
    """How many of `ties` the reasons do not name."""


@dataclass(frozen=True)
class Report:
    """Everything that was measured."""

    schema: int
    made: str
    """The date, as YYYY-MM-DD."""
    seconds: float
    """How long the measurements took, including those that an earlier run stored."""
    dataset: str
    title: str
    labels: tuple[str, ...]
    pictures: int
    machine: Machine
    settings: Settings
    artifacts: Mapping[str, Artifact]
    rows: Mapping[str, Row]
    training: Mapping[str, Training]
    targets: Mapping[str, Target]
    devices: tuple[DeviceRow, ...] = ()
    """What visitors' devices answered; no recommendation depends on it."""
    paces: Mapping[str, Measured] = field(default_factory=dict)
    """Kind of fixed work -> how long it took between the measurements: see compare/pace.py."""
    recommendations: tuple[Recommendation, ...] = ()
    code: Mapping[str, str] = field(default_factory=dict)
    """Kind of measurement -> the sha256 of the code that it depends on."""

    def figure(self, row: str, name: str) -> Measured:
        """A row's figure, or its artifact's."""
        of_row, of_artifact = self.rows[row].figures, self.artifacts[self.rows[row].artifact].figures
        return of_row.get(name) or of_artifact.get(name) or Missing("It is not measured for rows of this kind.")

    def missing(self, row: str, name: str) -> str:
        """Why a row's figure is missing; empty if it is not."""
        figure = self.figure(row, name)
        return figure.missing if isinstance(figure, Missing) else ""

    def measured(self) -> Iterator[tuple[str, str, Measured]]:
        """Every figure of every artifact and row: the name of the artifact or row, the figure's name, the figure."""
        both: tuple[Artifact | Row, ...] = (*self.artifacts.values(), *self.rows.values())
        yield from ((each.name, name, figure) for each in both for name, figure in each.figures.items())

    def pointer(self, row: str, name: str) -> str:
        """The place of a row's figure in the report, as a JSON pointer."""
        if name in self.rows[row].figures:
            return f"/rows/{row}/figures/{name}"
        return f"/artifacts/{self.rows[row].artifact}/figures/{name}"


def write_report(folder: Path, report: Report) -> None:
    write_json(folder / REPORT, encode(report))


LATER: Mapping[str, Mapping[str, Any]] = {
    "targets": {"accuracy": "accuracy", "parts": []},
    "artifacts": {
        "right": "",
        "ledger": None,
        "status": "",
        "differs": [],
        "placements": [],
        "arm": None,
        "outlook": "",
        "proven_on": "",
        "needs": "",
    },
    "rows": {"marks": []},
}
"""Fields that reports of this schema have not always had, with what they were before."""


def _with_later_fields(data: Any) -> Any:
    """A report that may be older than some of its fields; what is not a report stays as it is."""
    if not isinstance(data, dict):
        return data
    for key, fields in LATER.items():
        if isinstance(old := data.get(key), dict):
            filled = {name: {**fields, **each} if isinstance(each, dict) else each for name, each in old.items()}
            data = {**data, key: filled}
    if isinstance(artifacts := data.get("artifacts"), dict):
        data = {**data, "artifacts": {name: _with_losses(each) for name, each in artifacts.items()}}
    if isinstance(advice := data.get("recommendations"), list):
        data = {**data, "recommendations": [_with_later_advice(each) for each in advice]}
    return {"code": {}, "devices": [], **data}


def _with_losses(artifact: Any) -> Any:
    ledger = artifact.get("ledger") if isinstance(artifact, dict) else None
    return {**artifact, "ledger": {**NEWER, **ledger}} if isinstance(ledger, dict) else artifact


def _with_later_advice(data: Any) -> Any:
    if not isinstance(data, dict) or not isinstance(constraints := data.get("constraints"), dict):
        return data
    return {"more_ties": 0, **data, "constraints": {"allow_precision": [], **constraints}}


def read_report(path: Path) -> Report:
    """Raises ReportError if there is no report, if it has another schema, or if it cannot be read."""
    try:
        data = parse(path.read_bytes())
        if isinstance(data, dict) and data.get("schema", SCHEMA) != SCHEMA:
            raise ReportError(
                f"{path} has schema {data['schema']}, expected {SCHEMA}: another version of this project wrote it. "
                "Run `make compare` again to write a new one. To compare with an old baseline, check out the version "
                "that wrote it."
            )
        return decode(Report, _with_later_fields(data))
    except OSError as error:
        raise ReportError(f"There is no report {path} ({error.strerror}). Run `make compare` to write one.") from None
    except RecordError as error:
        raise ReportError(f"{path} cannot be read as a report ({error}).") from error
