"""Which format to ship, and why: pure functions over a report.

A row fits when it keeps its source's answers and meets the constraints. Of the rows that fit, those whose accuracy
cannot be told from the best one's are left; of these the one with the smallest product of time and size is chosen: what
takes twice as long has to be half as large. Where the spreads of two products meet, that is said.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from compare.figures import Figure, Missing
from compare.report import Constraints, Recommendation, Relaxation, Report, ReportError, Sentence
from contract.formats import family_of

MB, MS = 1e6, 1e-3


@dataclass(frozen=True)
class Target:
    """Where a model is to run: which rows can, and what counts as their time and size."""

    title: str
    where: str
    families: tuple[str, ...] | None
    time: str
    size: str
    time_means: str
    size_means: str
    note: str = ""


TARGETS = {
    "server": Target(
        "a server", "server", None, "http_p50@1", "ship",
        "the median time of a request with one picture", "the artifact and its runtime's packages",
    ),
    "browser": Target(
        "a browser", "browser", None, "p50@1", "download",
        "the median time of one picture in Chromium", "the download, artifact and runtime",
    ),
    "mobile": Target(
        "a phone", "server", ("tflite", "onnx"), "p50@1", "disk",
        "the median time of one picture on this machine's processor", "the artifact's file",
        "No phone was measured: the times are this machine's, and hold for the order at most.",
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Candidate:
    """A row that was measured, with the three figures that count."""

    name: str
    accuracy: Figure
    time: Figure
    size: Figure
    agreement: Figure

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
        """Nowhere worse, and somewhere better beyond the noise."""
        nowhere_worse = (
            self.accuracy.value >= other.accuracy.value
            and self.time.value <= other.time.value
            and self.size.value <= other.size.value
        )
        clearly = (self.accuracy, other.accuracy), (self.time, other.time), (self.size, other.size)
        return nowhere_worse and any(mine.differs_from(theirs) for mine, theirs in clearly)


def check(target: str | None, constraints: Constraints) -> None:
    """Raises ReportError for a target that there is not, and for constraints that nothing can meet."""
    if target is not None and target not in TARGETS:
        raise ReportError(f"TARGET={target} is not known: expected one of {', '.join(TARGETS)}.")
    for name, value in (("MAX_MB", constraints.max_mb), ("MAX_MS", constraints.max_ms)):
        if value is not None and not 0 < value < math.inf:
            raise ReportError(f"{name}={value:g} cannot be met: expected a number above 0.")
    agreement = constraints.min_agreement
    if agreement is not None and not 0 <= agreement <= 1:
        raise ReportError(
            f"MIN_AGREEMENT={agreement:g} cannot be met: expected a share from 0 to 1, such as 0.999 for 99.9 %."
        )
    if target is None and constraints != Constraints():
        raise ReportError(f"The constraints need a TARGET: one of {', '.join(TARGETS)}.")


def front_of(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Those that no other dominates, the fastest first."""
    front = [one for one in candidates if not any(other.dominates(one) for other in candidates)]
    return sorted(front, key=lambda one: (one.time.value, one.name))


def choose(candidates: Sequence[Candidate]) -> tuple[Candidate, list[Candidate]]:
    """The choice, and those that cannot be told apart from it. There must be at least one candidate."""
    best = max(candidates, key=lambda one: one.accuracy.value)
    accurate = [one for one in candidates if not one.accuracy.differs_from(best.accuracy)]
    choice = min(accurate, key=lambda one: (one.cost.value, one.name))
    ties = [one for one in accurate if one is not choice and not one.cost.differs_from(choice.cost)]
    return choice, ties


def recommend(report: Report, target: str, constraints: Constraints = Constraints(), place: int = 0) -> Recommendation:  # noqa: B008 - it is frozen
    """The recommendation that will be at `place` in the report's list.

    Raises ReportError when a constraint cannot be met by anything, or no row of the target was measured.
    """
    check(target, constraints)
    return _Advice(report, target, constraints, place).given()


class _Advice:
    """One recommendation in the making."""

    def __init__(self, report: Report, target: str, constraints: Constraints, place: int) -> None:
        self.report, self.target, self.constraints, self.place = report, TARGETS[target], constraints, place
        self.target_name = target
        self.lost: dict[str, Sentence] = {}
        self.candidates = {name: one for name in self._names() if (one := self._candidate(name))}
        if not self.candidates:
            reason = next((sentence.text for sentence in self.lost.values()), "there is no artifact for it.")
            raise ReportError(f"Nothing was measured for TARGET={target}: {reason}")

    def given(self) -> Recommendation:
        kept = [one for one in self.candidates.values() if self._keeps_answers(one)]
        fitting = [one for one in kept if not self._missed(one)]
        relax, choice, ties = tuple[Relaxation, ...](), None, list[Candidate]()
        front = front_of(fitting or list(self.candidates.values()))
        if fitting:
            choice, ties = choose(fitting)
            reasons = self._praise(choice, ties)
        else:
            relax = tuple(self._relaxations(kept))
            reasons = self._nothing_fits(relax) if kept else [Sentence("No artifact keeps its source's answers.")]
        for one in self.candidates.values():
            if one is not choice:
                self.lost[one.name] = self._why_not(one, choice, ties, fitting)
        if self.target.note:
            reasons.append(Sentence(self.target.note))
        return Recommendation(
            target=self.target_name,
            constraints=self.constraints,
            choice=choice.name if choice else None,
            ties=tuple(one.name for one in ties),
            front=tuple(one.name for one in front),
            reasons=tuple(reasons),
            lost=dict(sorted(self.lost.items())),
            relax=relax,
        )

    # --- What there is to choose from

    def _names(self) -> list[str]:
        target = self.target
        return [
            name
            for name, row in self.report.rows.items()
            if row.where == target.where
            and (target.families is None or family_of(self.report.artifacts[row.artifact].format) in target.families)
        ]

    def _candidate(self, name: str) -> Candidate | None:
        wanted = ("accuracy", self.target.time, self.target.size, "agreement")
        figures = [self.report.figure(name, figure) for figure in wanted]
        for figure, found in zip(wanted, figures, strict=True):
            if isinstance(found, Missing):
                reason = _Part(found.missing, f"{self.report.pointer(name, figure)}/missing")
                self.lost[name] = say("It was not measured: {reason}", reason=reason)
                return None
        accuracy, time, size, agreement = (found for found in figures if isinstance(found, Figure))
        return Candidate(name, accuracy, time, size, agreement)

    def _keeps_answers(self, one: Candidate) -> bool:
        """By its parity, or, where the caller says how many pictures may change their class, by that."""
        artifact = self.report.artifacts[self.report.rows[one.name].artifact]
        return artifact.keeps_the_answers or self.constraints.min_agreement is not None

    def _missed(self, one: Candidate) -> list[str]:
        return [name for name, limit in self._limits().items() if not _meets(name, limit, one)]

    def _limits(self) -> dict[str, float]:
        named = {name: getattr(self.constraints, name) for name in VALUES}
        return {name: value for name, value in named.items() if value is not None}

    # --- Words

    def _number(self, one: Candidate, figure: str) -> "_Part":
        found = self.report.figure(one.name, figure)
        return _Part(str(found), f"{self.report.pointer(one.name, figure)}/value")

    def _three(self, one: Candidate) -> dict[str, "_Part"]:
        names = {"accuracy": "accuracy", "time": self.target.time, "size": self.target.size, "agreement": "agreement"}
        return {name: self._number(one, figure) for name, figure in names.items()}

    def _limit(self, name: str) -> "_Part":
        value = self._limits()[name]
        return _Part(f"{name.upper()}={value:g}", f"/recommendations/{self.place}/constraints/{name}")

    def _praise(self, choice: Candidate, ties: Sequence[Candidate]) -> list[Sentence]:
        row, target = self.report.rows[choice.name], self.target
        runtime = _Part(row.runtime, f"/rows/{choice.name}/runtime")
        sentences = [
            say(
                "For {target}, ship {artifact}, on {runtime}.",
                target=target.title,
                artifact=row.artifact,
                runtime=runtime,
            ),
            say(
                "It answers {accuracy} of the {pictures} test pictures right. Its time is {time}: {time_means}. "
                "Its size is {size}: {size_means}.",
                pictures=_Part(f"{self.report.pictures:,}", "/pictures"),
                time_means=target.time_means,
                size_means=target.size_means,
                **self._three(choice),
            ),
            self._against_source(choice),
        ]
        for tie in ties:
            text = "{name} cannot be told apart from it within the noise: {time} and {size}."
            sentences.append(say(text, name=tie.name, **self._three(tie)))
        return sentences

    def _against_source(self, choice: Candidate) -> Sentence:
        artifact = self.report.artifacts[self.report.rows[choice.name].artifact]
        if artifact.source is None:
            return say("It is a source itself: nothing is lost by a conversion.")
        source = self.candidates.get(f"{artifact.source}@server") if self.target_name == "server" else None
        if source is None:
            text = "Its source, {source}, cannot be shipped there. {agreement} of the pictures keep their class."
            return say(text, source=artifact.source, **self._three(choice))
        old, new = self._three(source), self._three(choice)
        return say(
            "Against its source, {source}: {time} instead of {old_time}, {size} instead of {old_size}; "
            "it gives up {gives_up}, and {agreement} of the pictures keep their class.",
            source=artifact.source,
            old_time=old["time"],
            old_size=old["size"],
            gives_up=self._gives_up(choice, source),
            **new,
        )

    def _gives_up(self, choice: Candidate, source: Candidate) -> "str | _Part":
        worse = {"time": choice.time.value > source.time.value, "size": choice.size.value > source.size.value}
        given = [name for name, is_worse in worse.items() if is_worse]
        given += ["accuracy"] if choice.accuracy.value < source.accuracy.value else []
        return " and ".join(given) or "nothing of time, size or accuracy"

    def _nothing_fits(self, relax: Sequence[Relaxation]) -> list[Sentence]:
        limits = {name: self._limit(name) for name in self._limits()}
        listed = ", ".join(f"{{{name}}}" for name in limits)
        sentences = [say(f"Nothing fits {listed}.", **limits)]
        alone = len({one.row for one in relax}) == len(relax)
        for number, one in enumerate(relax):
            needed = _Part(f"{one.needed:g}", f"/recommendations/{self.place}/relax/{number}/needed")
            verb = "Lower" if one.constraint == "min_agreement" else "Raise"
            ending = ", and {row} fits." if alone else ", for {row}: no single constraint is enough."
            asked = _Part(f"{one.asked:g}", f"/recommendations/{self.place}/relax/{number}/asked")
            text = f"{verb} {one.constraint.upper()} from {{asked}} to {{needed}}{ending}"
            sentences.append(say(text, asked=asked, needed=needed, row=one.row))
        return sentences

    def _why_not(
        self, one: Candidate, choice: Candidate | None, ties: Sequence[Candidate], fitting: Sequence[Candidate]
    ) -> Sentence:
        artifact = self.report.rows[one.name].artifact
        if not self._keeps_answers(one):
            verdict = self.report.artifacts[artifact].verdict
            return say(
                "Its answers are not its source's: {verdict}.", verdict=_Part(verdict, f"/artifacts/{artifact}/verdict")
            )
        if missed := self._missed(one):
            limits = {name: self._limit(name) for name in missed}
            values = {f"{name}_is": self._number(one, self._figure_of(name)) for name in missed}
            text = ", and ".join(f"it has {{{name}_is}}, outside {{{name}}}" for name in missed)
            return say(text[0].upper() + text[1:] + ".", **limits, **values)
        assert choice is not None  # it fits, so something was chosen
        mine, theirs = self._three(one), {f"its_{name}": part for name, part in self._three(choice).items()}
        if one in ties:
            text = "Within the noise it equals {name}: {time} and {its_time}, {size} and {its_size}."
            return say(text, name=choice.name, **mine, **theirs)
        if one.accuracy.differs_from(choice.accuracy) and one.accuracy.value < choice.accuracy.value:
            return say(
                "It is less accurate than {name}: {accuracy} against {its_accuracy}.",
                name=choice.name,
                **mine,
                **theirs,
            )
        return self._dominated(one, fitting) or say(self._trade(one, choice), name=choice.name, **mine, **theirs)

    def _dominated(self, one: Candidate, fitting: Sequence[Candidate]) -> Sentence | None:
        better = [other for other in fitting if other.dominates(one)]
        if not better:
            return None
        best, _ = choose(better)
        theirs = {f"its_{name}": part for name, part in self._three(best).items()}
        text = (
            "{name} is nowhere worse: {its_accuracy} right against {accuracy}, {its_time} against {time}, "
            "{its_size} against {size}."
        )
        return say(text, name=best.name, **self._three(one), **theirs)

    @staticmethod
    def _trade(one: Candidate, choice: Candidate) -> str:
        """It is on the front, and has one advantage at least."""
        slower, larger = one.time.value > choice.time.value, one.size.value > choice.size.value
        if slower and not larger:
            return "It is smaller than {name}, {size} against {its_size}, but takes {time} against {its_time}."
        if larger and not slower:
            return "It takes {time} against the {its_time} of {name}, but {size} against {its_size}."
        return "It takes {time} against the {its_time} of {name}, and {size} against {its_size}."

    def _figure_of(self, constraint: str) -> str:
        return {"max_mb": self.target.size, "max_ms": self.target.time, "min_agreement": "agreement"}[constraint]

    # --- What to relax

    def _relaxations(self, kept: Sequence[Candidate]) -> list[Relaxation]:
        """One constraint each where one is enough; else all that the row that misses least misses."""
        found = []
        for name in self._limits():
            only = [one for one in kept if self._missed(one) == [name]]
            if only:
                nearest = min(only, key=lambda one: (self._excess(name, one), one.name))
                found.append(self._relaxation(name, nearest))
        if found or not kept:
            return found
        nearest = min(kept, key=lambda one: (sum(self._excess(name, one) for name in self._missed(one)), one.name))
        return [self._relaxation(name, nearest) for name in self._missed(nearest)]

    def _relaxation(self, name: str, one: Candidate) -> Relaxation:
        return Relaxation(name, self._limits()[name], rounded_to_fit(name, VALUES[name](one)), one.name)

    def _excess(self, name: str, one: Candidate) -> float:
        """How far a row misses a constraint, as the logarithm of the factor."""
        value, limit = VALUES[name](one), self._limits()[name]
        return math.log(limit / max(value, 1e-9)) if name == "min_agreement" else math.log(value / limit)


VALUES: Mapping[str, Callable[[Candidate], float]] = {
    "max_mb": lambda one: one.size.value / MB,
    "max_ms": lambda one: one.time.value / MS,
    "min_agreement": lambda one: one.agreement.value,
}
"""Constraint -> what it limits, in the constraint's unit."""


def _meets(name: str, limit: float, one: Candidate) -> bool:
    value = VALUES[name](one)
    return value >= limit if name == "min_agreement" else value <= limit


def rounded_to_fit(name: str, value: float) -> float:
    """Three digits, or four of a share, rounded to the side on which the value still fits."""
    if name == "min_agreement":
        return math.floor(value * 1e4) / 1e4
    step = 10.0 ** (math.floor(math.log10(value)) - 2)
    return float(f"{math.ceil(value / step - 1e-9) * step:.12g}")


@dataclass(frozen=True)
class _Part:
    """Words with numbers in them, and where in the report they come from."""

    text: str
    pointer: str


def say(template: str, **parts: str | _Part) -> Sentence:
    """The template with its parts; those that it does not name are left out."""
    used = {name: part for name, part in parts.items() if f"{{{name}}}" in template}
    text = template.format(**{name: part if isinstance(part, str) else part.text for name, part in used.items()})
    return Sentence(text, {part.pointer: part.text for part in used.values() if isinstance(part, _Part)})
