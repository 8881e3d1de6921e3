"""The sentences of a recommendation: which row to ship, why, and why not another one.

compare/recommend.py decides; this file only explains. Each number in a sentence names its place in the report, so that
a test can look it up.
"""

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from compare.recommend import TARGETS, Decision, Reason, Rejection, limits_of, recommend
from compare.report import Constraints, Recommendation, Relaxation, Report, ReportError, Sentence


def add_recommendations(report: Report, target: str | None, constraints: Constraints) -> Report:
    """The report with a recommendation for each target: first for `target`, under the constraints.

    Raises ReportError if nothing was measured for `target`. Another target without measurements is left out.
    """
    recommendations = [advise(report, target, constraints)] if target else []
    for other in TARGETS:
        if other != target:
            with contextlib.suppress(ReportError):
                recommendations.append(advise(report, other, Constraints(), len(recommendations)))
    return dataclasses.replace(report, recommendations=tuple(recommendations))


def advise(report: Report, target: str, constraints: Constraints = Constraints(), place: int = 0) -> Recommendation:  # noqa: B008 - it is frozen
    """Decide, and say why; `place` is the recommendation's index in the report.

    Raises ReportError if the target or a constraint is not valid, or if no row of the target was measured.
    """
    decision = recommend(report, target, constraints)
    words = _Words(report, target, constraints, decision, place)
    return Recommendation(
        target=target,
        constraints=constraints,
        choice=decision.choice,
        ties=decision.ties,
        front=decision.front,
        reasons=tuple(words.reasons()),
        rejected={name: words.rejection(name, rejection) for name, rejection in decision.rejected.items()},
        relax=decision.relax,
    )


@dataclass(frozen=True)
class _Cited:
    """A part of a sentence that stands in the report: the words, and a JSON pointer to their place."""

    text: str
    pointer: str


def sentence(template: str, **parts: str | _Cited) -> Sentence:
    """Fill the template's placeholders; parts that it does not name are ignored."""
    used = {name: part for name, part in parts.items() if f"{{{name}}}" in template}
    text = template.format(**{name: part if isinstance(part, str) else part.text for name, part in used.items()})
    return Sentence(text, {part.pointer: part.text for part in used.values() if isinstance(part, _Cited)})


class _Words:
    """Makes the sentences of one recommendation."""

    def __init__(self, report: Report, target: str, constraints: Constraints, decision: Decision, place: int) -> None:
        self.report, self.constraints, self.decision, self.place = report, constraints, decision, place
        self.target = report.targets[target]
        self.figures = {
            "accuracy": "accuracy",
            "time": self.target.time,
            "size": self.target.size,
            "agreement": "agreement",
        }

    # --- What to ship

    def reasons(self) -> Iterator[Sentence]:
        """Why the choice is the choice, or what to relax if nothing fits."""
        if self.decision.choice:
            yield from self._choice(self.decision.choice)
        elif self.decision.relax:
            yield from self._nothing_fits(self.decision.relax)
        else:
            yield Sentence("No artifact keeps its source's answers.")
        if self.target.note:
            yield Sentence(self.target.note)

    def _choice(self, choice: str) -> Iterator[Sentence]:
        row, target = self.report.rows[choice], self.target
        yield sentence(
            "For {target}, ship {artifact} on {runtime}.",
            target=target.title,
            artifact=row.artifact,
            runtime=_Cited(row.runtime, f"/rows/{choice}/runtime"),
        )
        yield sentence(
            "It classifies {accuracy} of the {pictures} test pictures correctly. "
            "{time_label} is {time}. {size_label} is {size}.",
            pictures=_Cited(f"{self.report.pictures:,}", "/pictures"),
            time_label=_capitalized(target.time_label),
            size_label=_capitalized(target.size_label),
            **self._figures(choice),
        )
        yield self._against_source(choice)
        for tie in self.decision.ties:
            text = "Within the noise, {name} is as good: {time} and {size}."
            yield sentence(text, name=tie, **self._figures(tie))

    def _against_source(self, choice: str) -> Sentence:
        source = self.report.artifacts[self.report.rows[choice].artifact].source
        if source is None:
            return Sentence("It is the source artifact, so no conversion changes its answers.")
        kept = "{agreement} of the pictures keep their class."
        rows = [each for name, each in self.decision.candidates.items() if self.report.rows[name].artifact == source]
        if not rows:
            text = f"Its source, {{source}}, is not a candidate here. {kept}"
            return sentence(text, source=source, **self._figures(choice))
        source_row = min(rows, key=lambda row: row.cost.value).name
        return sentence(
            "Compared with its source, {source}, it takes {time} instead of {old_time} and {size} instead of "
            f"{{old_size}}. It is {{worse}}. {kept}",
            source=source_row.removesuffix("@server"),
            worse=self._worse(choice, source_row),
            **self._figures(choice),
            **self._figures(source_row, "old_"),
        )

    def _worse(self, choice: str, source: str) -> str:
        new, old = self.decision.candidates[choice], self.decision.candidates[source]
        is_worse = {
            "time": new.time.value > old.time.value,
            "size": new.size.value > old.size.value,
            "accuracy": new.accuracy.value < old.accuracy.value,
        }
        worse = [name for name, is_so in is_worse.items() if is_so]
        return f"worse in {' and '.join(worse)}" if worse else "not worse in time, size or accuracy"

    def _nothing_fits(self, relax: Sequence[Relaxation]) -> Iterator[Sentence]:
        limits = {name: self._limit(name) for name in limits_of(self.constraints)}
        yield sentence(f"Nothing fits {', '.join(f'{{{name}}}' for name in limits)}.", **limits)
        needed = {each.constraint: self._relaxed(number, "needed", each.needed) for number, each in enumerate(relax)}
        if self.decision.relax_together:
            settings = " and ".join(f"{name.upper()}={{{name}}}" for name in needed)
            text = f"No single constraint is enough. With {settings}, {{row}} fits."
            yield sentence(text, row=relax[0].row, **needed)
            return
        for number, each in enumerate(relax):
            verb = "Lower" if each.constraint == "min_agreement" else "Raise"
            yield sentence(
                f"{verb} {each.constraint.upper()} from {{limit}} to {{needed}}, and {{row}} fits.",
                limit=self._relaxed(number, "limit", each.limit),
                needed=needed[each.constraint],
                row=each.row,
            )

    # --- Why not another row

    def rejection(self, name: str, rejection: Rejection) -> Sentence:
        """Why a row is not the choice."""
        match rejection.reason:
            case Reason.NOT_MEASURED:
                reason = _Cited(
                    self.report.missing(name, rejection.missing),
                    f"{self.report.pointer(name, rejection.missing)}/missing",
                )
                return sentence("It was not measured: {reason}", reason=reason)
            case Reason.OTHER_ANSWERS:
                artifact = self.report.artifacts[self.report.rows[name].artifact]
                verdict = _Cited(artifact.verdict, f"/artifacts/{artifact.name}/verdict")
                return sentence("Its answers differ from its source's: {verdict}.", verdict=verdict)
            case Reason.OUTSIDE_LIMITS:
                limits = {limit: self._limit(limit) for limit in rejection.limits}
                text = " ".join(OUTSIDE[limit] for limit in rejection.limits)
                return sentence(text, **self._figures(name), **limits)
        rival = rejection.rival or ""
        text = self._costlier(name, rival) if rejection.reason is Reason.COSTLIER else BEATEN[rejection.reason]
        return sentence(text, rival=rival, **self._figures(name), **self._figures(rival, "its_"))

    def _costlier(self, name: str, choice: str) -> str:
        """The row is as accurate as the choice, and better in one thing at most."""
        this, other = self.decision.candidates[name], self.decision.candidates[choice]
        if this.size.value < other.size.value:
            return "It is smaller than {rival} ({size} against {its_size}), but slower ({time} against {its_time})."
        if this.time.value < other.time.value:
            return "It is faster than {rival} ({time} against {its_time}), but larger ({size} against {its_size})."
        return (
            "It is not more accurate than {rival} beyond the noise ({accuracy} against {its_accuracy}), "
            "and it costs more: {time} against {its_time}, {size} against {its_size}."
        )

    # --- Parts of sentences

    def _figures(self, row: str, prefix: str = "") -> dict[str, _Cited]:
        """Accuracy, time, size and agreement of a row."""
        return {
            f"{prefix}{name}": _Cited(str(self.report.figure(row, figure)), f"{self.report.pointer(row, figure)}/value")
            for name, figure in self.figures.items()
        }

    def _limit(self, constraint: str) -> _Cited:
        value = limits_of(self.constraints)[constraint]
        pointer = f"/recommendations/{self.place}/constraints/{constraint}"
        return _Cited(f"{constraint.upper()}={value:g}", pointer)

    def _relaxed(self, number: int, part: str, value: float) -> _Cited:
        return _Cited(f"{value:g}", f"/recommendations/{self.place}/relax/{number}/{part}")


OUTSIDE = {
    "max_mb": "Its size, {size}, exceeds {max_mb}.",
    "max_ms": "Its time, {time}, exceeds {max_ms}.",
    "min_agreement": "Its agreement, {agreement}, is below {min_agreement}.",
}
"""Constraint -> the sentence for a row that does not meet it."""

BEATEN = {
    Reason.TIE: "Within the noise, it is as good as {rival}: {time} against {its_time}, {size} against {its_size}.",
    Reason.LESS_ACCURATE: "It is less accurate than {rival}: {accuracy} against {its_accuracy}.",
    Reason.DOMINATED: (
        "{rival} is at least as good in everything: {its_accuracy} correct against {accuracy}, "
        "{its_time} against {time}, {its_size} against {size}."
    ),
}
"""Reason -> the sentence for a row that fits, beside the rival that is preferred."""


def _capitalized(text: str) -> str:
    return text[0].upper() + text[1:]
