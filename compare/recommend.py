"""Which row to ship: the rule, from a report to a decision. compare/advice.py puts the decision into sentences.

A row fits when it keeps its source's answers and meets the constraints. Among the rows that fit, only those count whose
accuracy cannot be told apart from the best one. Of these, the rule chooses the row with the smallest product of time
and size: a row that takes twice as long must be half as large. Rows whose products overlap within the noise are ties.

web/src/recommend.ts is the twin of this file; tests/recommend_cases.json holds both to the same cases.
"""

import enum
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from compare.figures import Figure, Missing
from compare.report import Constraints, Relaxation, Report, ReportError, Target

MB, MS = 1e6, 1e-3

TARGETS = {
    "server": Target(
        title="a server",
        where="server",
        families=None,
        time="http_p50@1",
        size="ship",
        time_label="the median time of a request with one picture",
        size_label="the size of the artifact and its runtime's packages",
    ),
    "browser": Target(
        title="a browser",
        where="browser",
        families=None,
        time="p50@1",
        size="download",
        time_label="the median time of one picture in Chromium",
        size_label="the download of the artifact and its runtime",
    ),
    "mobile": Target(
        title="a phone",
        where="server",
        families=("tflite", "onnx"),
        time="p50@1",
        size="disk",
        time_label="the median time of one picture on this machine's processor",
        size_label="the size of the artifact's files",
        note="No phone was measured. The times come from this machine, so use them only to rank the formats.",
    ),
}
"""A target's name -> which rows it takes and by which figures; every report carries this table."""


@dataclass(frozen=True)
class Candidate:
    """A row that was measured, with the figures that the rule compares."""

    name: str
    accuracy: Figure
    time: Figure
    size: Figure
    agreement: Figure
    keeps_answers: bool = True
    """Whether parity passed."""

    @property
    def cost(self) -> Figure:
        """The product of time and size, between the products of their ends."""
        return Figure(
            self.time.value * self.size.value,
            "",
            self.time.low * self.size.low,
            self.time.high * self.size.high,
            self.time.samples,
            self.time.spread,
        )

    def dominates(self, other: "Candidate") -> bool:
        """Whether this one is worse in no figure, and better in at least one beyond the noise."""
        worse_in_none = (
            self.accuracy.value >= other.accuracy.value
            and self.time.value <= other.time.value
            and self.size.value <= other.size.value
        )
        pairs = (self.accuracy, other.accuracy), (self.time, other.time), (self.size, other.size)
        return worse_in_none and any(mine.differs_from(theirs) for mine, theirs in pairs)


class Reason(enum.Enum):
    """Why a row is not chosen."""

    NOT_MEASURED = enum.auto()
    OTHER_ANSWERS = enum.auto()
    OUTSIDE_LIMITS = enum.auto()
    TIE = enum.auto()
    LESS_ACCURATE = enum.auto()
    DOMINATED = enum.auto()
    COSTLIER = enum.auto()


@dataclass(frozen=True)
class Rejection:
    """Why a row is not chosen, and what to name in the explanation."""

    reason: Reason
    rival: str | None = None
    """The row that is preferred, for the last four reasons."""
    missing: str = ""
    """The figure without a value, for NOT_MEASURED."""
    limits: tuple[str, ...] = ()
    """The constraints that the row does not meet, for OUTSIDE_LIMITS."""


@dataclass(frozen=True)
class Decision:
    """The decision for one target. Strings are names of rows."""

    candidates: Mapping[str, Candidate]
    choice: str | None
    ties: tuple[str, ...]
    """Rows that cannot be told apart from the choice within the noise."""
    front: tuple[str, ...]
    """The Pareto front of the rows that fit, or of all candidates if none fits; the fastest first."""
    rejected: Mapping[str, Rejection]
    """Every row of the target that is not chosen, by name."""
    relax: tuple[Relaxation, ...] = ()
    """If nothing fits only because of the constraints: what would have to give way."""

    @property
    def relax_together(self) -> bool:
        """Whether all of `relax` must give way at once for its row; otherwise each alone is enough for its own row."""
        return len({relaxation.row for relaxation in self.relax}) < len(self.relax)


def check(target: str | None, constraints: Constraints) -> None:
    """Raises ReportError for an unknown target, for limits that nothing can meet, and for limits without a target."""
    known = f"{', '.join([*TARGETS][:-1])} or {[*TARGETS][-1]}"
    if target is not None and target not in TARGETS:
        raise ReportError(f"TARGET={target} is not a target; use {known}.")
    for name, value in (("MAX_MB", constraints.max_mb), ("MAX_MS", constraints.max_ms)):
        if value is not None and not 0 < value < math.inf:
            raise ReportError(f"{name}={value:g} is not a limit; use a number above 0.")
    agreement = constraints.min_agreement
    if agreement is not None and not 0 <= agreement <= 1:
        raise ReportError(f"MIN_AGREEMENT={agreement:g} is not a share; use 0 to 1, such as 0.999 for 99.9 %.")
    if target is None and constraints != Constraints():
        raise ReportError(f"The constraints need a TARGET; use {known}.")


def recommend(report: Report, target: str, constraints: Constraints = Constraints()) -> Decision:  # noqa: B008 - it is frozen
    """Decide which row of a target to ship.

    Raises ReportError if the target or a constraint is not valid, or if no row of the target was measured.
    """
    check(target, constraints)
    candidates, rejected = _candidates(report, report.targets[target])
    if not candidates:
        missing = (report.missing(name, rejection.missing) for name, rejection in rejected.items())
        raise ReportError(f"Nothing was measured for TARGET={target}: {next(missing, 'no artifact runs there.')}")
    accepted = [each for each in candidates if each.keeps_answers or constraints.min_agreement is not None]
    fitting = [each for each in accepted if not _missed(each, constraints)]
    choice, ties = choose(fitting) if fitting else (None, [])
    for each in candidates:
        if each not in accepted:
            rejected[each.name] = Rejection(Reason.OTHER_ANSWERS)
        elif limits := _missed(each, constraints):
            rejected[each.name] = Rejection(Reason.OUTSIDE_LIMITS, limits=tuple(limits))
        elif choice and each is not choice:
            rejected[each.name] = _rejection(each, choice, ties, fitting)
    return Decision(
        candidates={each.name: each for each in candidates},
        choice=choice.name if choice else None,
        ties=_names(ties),
        front=_names(front_of(fitting or candidates)),
        rejected=dict(sorted(rejected.items())),
        relax=() if fitting else tuple(_relaxations(accepted, constraints)),
    )


def _names(candidates: Iterable[Candidate]) -> tuple[str, ...]:
    return tuple(each.name for each in candidates)


def _candidates(report: Report, target: Target) -> tuple[list[Candidate], dict[str, Rejection]]:
    """The target's rows that were measured, and those that were not."""
    candidates, rejected = [], {}
    names = ("accuracy", target.time, target.size, "agreement")
    for row in report.rows.values():
        artifact = report.artifacts[row.artifact]
        if row.where != target.where or not target.takes(artifact.format):
            continue
        figures = [report.figure(row.name, name) for name in names]
        missing = [name for name, figure in zip(names, figures, strict=True) if isinstance(figure, Missing)]
        if missing:
            rejected[row.name] = Rejection(Reason.NOT_MEASURED, missing=missing[0])
        else:
            accuracy, time, size, agreement = (figure for figure in figures if isinstance(figure, Figure))
            candidates.append(Candidate(row.name, accuracy, time, size, agreement, artifact.keeps_answers))
    return candidates, rejected


# --- What to choose


def front_of(candidates: Sequence[Candidate]) -> list[Candidate]:
    """The candidates that no other dominates, the fastest first."""
    front = [each for each in candidates if not any(other.dominates(each) for other in candidates)]
    return sorted(front, key=lambda each: (each.time.value, each.name))


def choose(candidates: Sequence[Candidate]) -> tuple[Candidate, list[Candidate]]:
    """The choice, and its ties. There must be at least one candidate."""
    best = _most_accurate(candidates)
    accurate = [each for each in candidates if not each.accuracy.differs_from(best.accuracy)]
    choice = min(accurate, key=lambda each: (each.cost.value, each.name))
    ties = [each for each in accurate if each is not choice and not each.cost.differs_from(choice.cost)]
    return choice, ties


def _most_accurate(candidates: Sequence[Candidate]) -> Candidate:
    return max(candidates, key=lambda each: each.accuracy.value)


def _rejection(
    candidate: Candidate, choice: Candidate, ties: Sequence[Candidate], fitting: Sequence[Candidate]
) -> Rejection:
    """Why a row that fits is not chosen."""
    if candidate in ties:
        return Rejection(Reason.TIE, choice.name)
    for rival in (choice, _most_accurate(fitting)):
        if candidate.accuracy.differs_from(rival.accuracy) and candidate.accuracy.value < rival.accuracy.value:
            return Rejection(Reason.LESS_ACCURATE, rival.name)
    if better := [other for other in fitting if other.dominates(candidate)]:
        return Rejection(Reason.DOMINATED, choose(better)[0].name)
    return Rejection(Reason.COSTLIER, choice.name)


# --- Constraints


VALUES: Mapping[str, Callable[[Candidate], float]] = {
    "max_mb": lambda candidate: candidate.size.value / MB,
    "max_ms": lambda candidate: candidate.time.value / MS,
    "min_agreement": lambda candidate: candidate.agreement.value,
}
"""Constraint -> the value that it limits, in the constraint's unit."""


def limits_of(constraints: Constraints) -> dict[str, float]:
    """The constraints that are set."""
    values = {name: getattr(constraints, name) for name in VALUES}
    return {name: value for name, value in values.items() if value is not None}


def _missed(candidate: Candidate, constraints: Constraints) -> list[str]:
    """The constraints that the candidate does not meet."""
    return [name for name, limit in limits_of(constraints).items() if not _meets(candidate, name, limit)]


def _meets(candidate: Candidate, name: str, limit: float) -> bool:
    value = VALUES[name](candidate)
    return value >= limit if name == "min_agreement" else value <= limit


def _relaxations(accepted: Sequence[Candidate], constraints: Constraints) -> list[Relaxation]:
    """Each constraint that is enough alone; if none is, all that the nearest row does not meet."""
    limits = limits_of(constraints)
    missed = {each.name: _missed(each, constraints) for each in accepted}

    def excess(candidate: Candidate) -> tuple[float, str]:
        return sum(_excess(candidate, name, limits[name]) for name in missed[candidate.name]), candidate.name

    def relaxed(candidate: Candidate) -> list[Relaxation]:
        return [
            Relaxation(name, limits[name], rounded_to_fit(name, VALUES[name](candidate)), candidate.name)
            for name in missed[candidate.name]
        ]

    near = ([each for each in accepted if missed[each.name] == [name]] for name in limits)
    alone = [min(candidates, key=excess) for candidates in near if candidates]
    nearest = alone or ([min(accepted, key=excess)] if accepted else [])
    return [relaxation for candidate in nearest for relaxation in relaxed(candidate)]


def _excess(candidate: Candidate, name: str, limit: float) -> float:
    """By how much a row misses a limit: the logarithm of the factor."""
    value = VALUES[name](candidate)
    return math.log(limit / max(value, 1e-9)) if name == "min_agreement" else math.log(value / limit)


def rounded_to_fit(name: str, value: float) -> float:
    """A limit of three digits, or four decimals for a share, rounded so that the value still meets it."""
    if name == "min_agreement":
        return math.floor(value * 1e4) / 1e4
    step = 10.0 ** (math.floor(math.log10(value)) - 2)
    return float(f"{math.ceil(value / step - 1e-9) * step:.12g}")
