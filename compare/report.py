"""The results of `make compare` as `report.json` keeps them: typed, versioned, each figure with unit and spread."""

import json
import types
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from compare.figures import Figure, Measured, Missing
from contract.errors import RosettaError
from contract.manifest import write_json

SCHEMA = 2
"""The page reads this version too: web/src/report.ts."""
REPORT = "report.json"

T = TypeVar("T")


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
    """"source", "passed", or why it did not pass."""
    figures: Mapping[str, Measured]
    per_class: Mapping[str, Measured] = field(default_factory=dict)
    """Label -> the share of its test pictures that are classified correctly."""
    flips: tuple[FlippedPicture, ...] = ()
    flip_count: int = 0
    """How many pictures change their class; `flips` holds the first of them."""
    classes: str = ""
    """The class of every test picture: base64 of zlib of uint16. Empty if the artifact gave no answers."""

    @property
    def keeps_answers(self) -> bool:
        """Whether it gives its source's answers: it is the source, or parity passed."""
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
    """What the runtime used: threads, instruction set, graphics adapter."""
    figures: Mapping[str, Measured]


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

    def takes(self, format: str) -> bool:
        """Whether an artifact in this format runs there."""
        return self.families is None or format.split("-")[0] in self.families


@dataclass(frozen=True)
class Constraints:
    """Limits: megabytes, milliseconds for one picture, the share of pictures that keep the source's class."""

    max_mb: float | None = None
    max_ms: float | None = None
    min_agreement: float | None = None


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
    recommendations: tuple[Recommendation, ...] = ()

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
    write_json(folder / REPORT, asdict(report))


def read_report(path: Path) -> Report:
    """Raises ReportError if there is no report, if it has another schema, or if it cannot be read."""
    try:
        data = json.loads(path.read_bytes())
        if data["schema"] != SCHEMA:
            raise ReportError(
                f"{path} has schema {data['schema']}, expected {SCHEMA}: another version of this project wrote it. "
                "Run `make compare` again to write a new one. To compare with an old baseline, check out the version "
                "that wrote it."
            )
        return decode(Report, data)
    except OSError as error:
        raise ReportError(f"There is no report {path} ({error.strerror}). Run `make compare` to write one.") from None
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise ReportError(f"{path} cannot be read as a report ({type(error).__name__}: {error}).") from error


def decode(kind: type[T], data: Any) -> T:
    """JSON -> the type, which is made of dataclasses, mappings, tuples, unions of these, and plain values.

    Raises TypeError or KeyError for anything else.
    """
    result: T = _decode(kind, data)
    return result


def _decode(kind: Any, data: Any) -> Any:
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return _decode_one_of(arguments, data)
    if origin is tuple:
        return tuple(_decode(arguments[0], item) for item in data)
    if origin is not None:
        return {str(key): _decode(arguments[1], item) for key, item in data.items()}
    if isinstance(kind, type) and is_dataclass(kind):
        hints = get_type_hints(kind)
        return kind(**{part.name: _decode(hints[part.name], data[part.name]) for part in fields(kind)})
    if kind is float and isinstance(data, int) and not isinstance(data, bool):
        return float(data)
    if not isinstance(data, kind):
        raise TypeError(f"{data!r} is not of type {kind.__name__}")
    return data


def _decode_one_of(kinds: tuple[Any, ...], data: Any) -> Any:
    if Missing in kinds:
        return _decode(Missing if "missing" in data else Figure, data)
    return None if data is None else _decode(kinds[0], data)
