"""Which row to ship: the rule, from a report to a decision. compare/advice.py puts the decision into sentences.

A row fits when it keeps its source's answers, as far as is known also on the target's processor, and meets the
constraints. Among the rows that fit, only those count whose
accuracy cannot be told apart from the best one, on the same questions. Of these, the smallest product of time and size
wins: a row that takes twice as long must be half as large. Rows whose products overlap within the noise are ties.

The measured order of ties that are close says nothing, so PREFERENCES choose among these: the row that has least to be
excused, then the smaller one, then the one that is nearer to what was trained.

web/src/recommend.ts is the twin of this file; tests/recommend_cases.json holds both to the same cases.
"""

import base64
import enum
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from compare.figures import Figure, Measured, Missing
from compare.report import Artifact, Constraints, Relaxation, Report, ReportError, Target
from contract.formats import is_reduced
from contract.precisions import TABLE

MB, MS = 1e6, 1e-3

FLOAT32 = "float32"
"""The precision of a format without a suffix."""

SAME_SIZE = 1.05
"""Among ties, rows that are larger by less than this factor count as equally large."""


def _phone(title: str, accelerator: str, *families: str) -> Target:
    """A phone, of which this machine's times only say the order of formats. It has these families, besides those that
    both kinds of phone have."""
    return Target(
        title=title,
        where="server",
        families=("tflite", "onnx", "executorch", *families),
        time="p50@1",
        size="disk",
        time_label="the median time of one picture on this machine's processor",
        size_label="the size of the artifact's files",
        note="No phone was measured. The times come from this machine, so use them only to rank the formats.",
        parts=("XNNPACK", accelerator),
        on_arm=True,
    )


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
    "android": _phone("an Android phone", "NNAPI"),
    "ios": _phone("an iPhone", "Core ML", "coreai", "coreml"),
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
    right: bytes = b""
    """A bit for each question, 1 where the answer is right; empty where that is unknown."""
    caveats: tuple[int, int] = (0, 0)
    """What has to be excused, the fewer the better: 0 where it gives its source's answers, 1 where it keeps a class of
    its accuracy, 2 where it does neither; then how many marks it bears, such as "stored only"."""
    steps: int = 1
    """How far it is from what was trained: 0 for a source, 1 for a conversion, 2 for a reduced precision."""
    precision: str = FLOAT32
    fails_on_arm: bool = False
    """Whether it gives other answers on ARM, where the target's processor is of this kind."""

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

    def differs_in_accuracy(self, other: "Candidate") -> bool:
        """Whether the two accuracies can be told apart: on the same questions, if these are known.

        What both answer right, or both wrong, says nothing: McNemar's test, at 95 %, with his correction for counts.
        """
        if not self.right or len(self.right) != len(other.right):
            return self.accuracy.differs_from(other.accuracy)
        mine, theirs = (int.from_bytes(each.right) for each in (self, other))
        won, lost = (mine & ~theirs).bit_count(), (theirs & ~mine).bit_count()
        return abs(won - lost) - 1 > 1.96 * math.sqrt(won + lost)

    def dominates(self, other: "Candidate") -> bool:
        """Whether this one is worse in no figure and no caveat, and better in at least one beyond the noise."""
        worse_in_none = (
            self.caveats <= other.caveats
            and self.accuracy.value >= other.accuracy.value
            and self.time.value <= other.time.value
            and self.size.value <= other.size.value
        )
        return worse_in_none and (
            self.differs_in_accuracy(other) or self.time.differs_from(other.time) or self.size.differs_from(other.size)
        )

    def is_close_to(self, other: "Candidate") -> bool:
        """Whether a further run may well put either of the two first: one's interval holds the other's product."""
        return self.cost.holds(other.cost.value) or other.cost.holds(self.cost.value)


class Reason(enum.Enum):
    """Why a row is not chosen."""

    NOT_MEASURED = enum.auto()
    OTHER_ANSWERS = enum.auto()
    OTHER_ANSWERS_ON_ARM = enum.auto()
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
    preference: str = ""
    """Which of PREFERENCES decided against a tie; empty where its product did."""


@dataclass(frozen=True)
class Decision:
    """The decision for one target. Strings are names of rows."""

    candidates: Mapping[str, Candidate]
    choice: str | None
    ties: tuple[str, ...]
    """Rows that cannot be told apart from the choice within the noise, the smallest product first."""
    front: tuple[str, ...]
    """The Pareto front of the rows that fit, or of all candidates if none fits; the fastest first."""
    rejected: Mapping[str, Rejection]
    """Every row of the target that is not chosen, by name."""
    relax: tuple[Relaxation, ...] = ()
    """If nothing fits only because of the constraints: what would have to give way."""
    unranked: tuple[str, ...] = ()
    """Rows that keep their answers, as far as a runtime that is for proof alone shows, and meet the constraints; and
    those of which nothing is known here, since another system runs them. They have no time to rank them by, so none of
    them is chosen."""

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
    words = dict.fromkeys((FLOAT32, *(precision.suffix for precision in TABLE)))
    if unknown := [word for word in constraints.allow_precision if word not in words]:
        raise ReportError(
            f"ALLOW_PRECISION has {unknown[0][:40]!r}, which is not a precision; use some of {', '.join(words)}."
        )
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
    allowed = [each for each in candidates if each.precision in (constraints.allow_precision or (each.precision,))]
    right = [each for each in allowed if each.keeps_answers or constraints.min_agreement is not None]
    accepted = [each for each in right if not each.fails_on_arm]  # a share of agreement was counted here, not there
    fitting = [each for each in accepted if not _missed(each, constraints)]
    choice, ties, preferences = choose(fitting) if fitting else (None, [], {})
    for each in candidates:
        if each not in allowed:
            rejected[each.name] = Rejection(Reason.OUTSIDE_LIMITS, limits=("allow_precision",))
        elif each not in right:
            rejected[each.name] = Rejection(Reason.OTHER_ANSWERS)
        elif each not in accepted:
            rejected[each.name] = Rejection(Reason.OTHER_ANSWERS_ON_ARM)
        elif limits := _missed(each, constraints):
            rejected[each.name] = Rejection(Reason.OUTSIDE_LIMITS, limits=tuple(limits))
        elif choice and each is not choice:
            rejected[each.name] = (
                Rejection(Reason.TIE, choice.name, preference=preferences.get(each.name, ""))
                if each in ties
                else _rejection(each, choice, fitting)
            )
    return Decision(
        candidates={each.name: each for each in candidates},
        choice=choice.name if choice else None,
        ties=_names(ties),
        front=_names(front_of(fitting or candidates)),
        rejected=dict(sorted(rejected.items())),
        relax=() if fitting else tuple(_relaxations(accepted, constraints)),
        unranked=tuple(_unranked(report, report.targets[target], constraints)),
    )


def _unranked(report: Report, target: Target, constraints: Constraints) -> Iterator[str]:
    """The rows of the target without a time that meet the constraints; none of them is known to meet one of time."""
    if constraints.max_ms is not None:
        return
    for row in report.rows.values():
        artifact = report.artifacts[row.artifact]
        size, agreement = (report.figure(row.name, name) for name in (target.size, "agreement"))
        if (
            row.where == target.where
            and target.takes(artifact)
            and (_is_proven(artifact, agreement, constraints) or (artifact.needs and constraints.min_agreement is None))
            and isinstance(size, Figure)
            and size.value <= MB * (constraints.max_mb or math.inf)
            and _precision(artifact) in (constraints.allow_precision or (_precision(artifact),))
        ):
            yield row.name


def _is_proven(artifact: Artifact, agreement: Measured, constraints: Constraints) -> bool:
    """Whether a runtime that is for proof alone shows that it keeps its answers, as far as the constraints ask."""
    return (
        bool(artifact.proven_on)
        and isinstance(agreement, Figure)
        and (artifact.keeps_answers or constraints.min_agreement is not None)
        and agreement.value >= (constraints.min_agreement or 0)
    )


def _precision(artifact: Artifact) -> str:
    return artifact.format.partition("-")[2] or FLOAT32


def _names(candidates: Iterable[Candidate]) -> tuple[str, ...]:
    return tuple(each.name for each in candidates)


def _candidates(report: Report, target: Target) -> tuple[list[Candidate], dict[str, Rejection]]:
    """The target's rows that were measured, and those that were not."""
    candidates, rejected = [], {}
    names = (target.accuracy, target.time, target.size, "agreement")
    for row in report.rows.values():
        artifact = report.artifacts[row.artifact]
        if row.where != target.where or not target.takes(artifact):
            continue
        figures = [report.figure(row.name, name) for name in names]
        missing = [name for name, figure in zip(names, figures, strict=True) if isinstance(figure, Missing)]
        if missing:
            rejected[row.name] = Rejection(Reason.NOT_MEASURED, missing=missing[0])
        else:
            accuracy, time, size, agreement = (figure for figure in figures if isinstance(figure, Figure))
            right = base64.b64decode(artifact.right) if target.accuracy == "accuracy" else b""
            about = artifact.keeps_answers, right, _caveats(artifact, row.marks), _steps(artifact)
            fails_on_arm = target.on_arm and artifact.arm is not None and not artifact.arm.passed
            candidates.append(
                Candidate(row.name, accuracy, time, size, agreement, *about, _precision(artifact), fails_on_arm)
            )
    return candidates, rejected


def _caveats(artifact: Artifact, marks: Sequence[str]) -> tuple[int, int]:
    return 0 if artifact.verdict in ("source", "passed") else 1 if artifact.keeps_answers else 2, len(marks)


def _steps(artifact: Artifact) -> int:
    return 2 if is_reduced(artifact.format) else int(artifact.verdict != "source")


# --- What to choose


def front_of(candidates: Sequence[Candidate]) -> list[Candidate]:
    """The candidates that no other dominates, the fastest first."""
    return sorted(_on_front(candidates), key=lambda each: (each.time.value, each.name))


def choose(candidates: Sequence[Candidate]) -> tuple[Candidate, list[Candidate], dict[str, str]]:
    """The choice, its ties, and which preference decided against whom. There must be at least one candidate."""
    best = _most_accurate(candidates)
    accurate = sorted((each for each in candidates if not each.differs_in_accuracy(best)), key=_by_cost)
    left, preferences = [each for each in accurate if each.is_close_to(accurate[0])], dict[str, str]()
    for preference, prefer in PREFERENCES.items():
        preferred = prefer(left)
        preferences |= {each.name: preference for each in left if each not in preferred}
        left = preferred
    choice = left[0]
    ties = [each for each in accurate if each is not choice and not each.cost.differs_from(choice.cost)]
    return choice, ties, preferences


def _by_cost(candidate: Candidate) -> tuple[float, str]:
    return candidate.cost.value, candidate.name


def _least_excused(candidates: Sequence[Candidate], part: int) -> list[Candidate]:
    least = min(each.caveats[part] for each in candidates)
    return [each for each in candidates if each.caveats[part] == least]


def _smallest(candidates: Sequence[Candidate]) -> list[Candidate]:
    limit = SAME_SIZE * min(each.size.value for each in candidates)
    return [each for each in candidates if each.size.value <= limit]


def _on_front(candidates: Sequence[Candidate]) -> list[Candidate]:
    return [each for each in candidates if not any(other.dominates(each) for other in candidates)]


def _simplest(candidates: Sequence[Candidate]) -> list[Candidate]:
    least = min(each.steps for each in candidates)
    return [each for each in candidates if each.steps == least]


PREFERENCES: Mapping[str, Callable[[Sequence[Candidate]], list[Candidate]]] = {
    "verdict": lambda candidates: _least_excused(candidates, 0),
    "marks": lambda candidates: _least_excused(candidates, 1),
    "size": _smallest,
    "front": _on_front,
    "steps": _simplest,
}
"""What is preferred among close ties, one after the other. What is left then has the smallest product first."""


def _most_accurate(candidates: Sequence[Candidate]) -> Candidate:
    return max(candidates, key=lambda each: each.accuracy.value)


def _rejection(candidate: Candidate, choice: Candidate, fitting: Sequence[Candidate]) -> Rejection:
    """Why a row that fits, and is not a tie, is not chosen."""
    for rival in (choice, _most_accurate(fitting)):
        if candidate.differs_in_accuracy(rival) and candidate.accuracy.value < rival.accuracy.value:
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
    """The limits that are set."""
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
