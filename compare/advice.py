"""The sentences of a recommendation: which row to ship, why, and why not another one.

compare/recommend.py decides; this file only explains. Each number in a sentence names its place in the report, so that
a test can look it up.
"""

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from compare.figures import Figure
from compare.marks import float32_row
from compare.recommend import TARGETS, Decision, Reason, Rejection, limits_of, recommend
from compare.report import Artifact, Constraints, Recommendation, Relaxation, Report, ReportError, Sentence
from contract.precisions import PRECISIONS

THUMB = "int8"
"""The precision that is said to be faster."""
WORTH_SAYING = 1.05
"""From how many times its float32's time on a row of that precision disproves the rule of thumb."""
NAMED = 3
"""How many ties a recommendation names; the rest is a count."""


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
        more_ties=max(0, len(decision.ties) - NAMED),
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
            "accuracy": self.target.accuracy,
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
        elif all(each.limits == ("allow_precision",) for each in self.decision.rejected.values()):
            text = "No artifact here is within {allowed}. PRECISION says which variants are made."
            yield sentence(text, allowed=self._limit("allow_precision"))
        else:
            yield Sentence("No artifact keeps its source's answers.")
        yield from self._unranked()
        if self.target.note:
            yield Sentence(self.target.note)

    def _unranked(self) -> Iterator[Sentence]:
        """What else may run there, without a time: what is proven where, or that nothing is; its size, and its
        outlook."""
        for name in self.decision.unranked:
            place, artifact = f"/artifacts/{self._artifact(name).name}", self._artifact(name)
            text = (
                "{name} may run there, too: {agreement} of the pictures keep their class on {proven_on}, and its files "
                "have {size}. It has no time to rank it by."
            )
            if artifact.needs:
                text = (
                    "{name} may run there, too: it is converted, and not run here, since it needs {needs}. Nothing is "
                    "known of its answers and its time. Its files have {size}."
                )
            yield sentence(
                text,
                name=artifact.name,
                proven_on=_Cited(artifact.proven_on, f"{place}/proven_on"),
                needs=artifact.needs,
                **self._figures(name),
            )
            yield from self._outlook(name)

    def _choice(self, choice: str) -> Iterator[Sentence]:
        row, target = self.report.rows[choice], self.target
        yield sentence(
            "For {target}, ship {artifact} on {runtime}.",
            target=target.title,
            artifact=row.artifact,
            runtime=_Cited(row.runtime, f"/rows/{choice}/runtime"),
        )
        yield sentence(
            f"{CORRECT[target.accuracy]} {{time_label}} is {{time}}. {{size_label}} is {{size}}.",
            pictures=_Cited(f"{self.report.pictures:,}", "/pictures"),
            time_label=_capitalized(target.time_label),
            size_label=_capitalized(target.size_label),
            **self._figures(choice),
        )
        if isinstance(kept := row.figures.get("browser_agreement"), Figure):
            place = f"/rows/{choice}/figures/browser_agreement"
            yield sentence(
                "That share is the server's. Of the {asked} pictures that Chromium was asked, {same} have the same "
                "class there.",
                asked=_Cited(f"{kept.samples:,}", f"{place}/samples"),
                same=_Cited(str(kept), f"{place}/value"),
            )
        yield self._against_source(choice)
        yield from self._at_edges(choice)
        yield from self._gives_up(choice)
        yield from self._placed(choice)
        yield from self._on_arm(choice)
        yield from self._outlook(choice)
        yield from self._most_accurate(choice)
        yield from self._rule_of_thumb(choice)
        yield from self._ties()

    def _ties(self) -> Iterator[Sentence]:
        """The ties that are nearest to the choice, why each is not preferred, and how many more there are."""
        for tie in self.decision.ties[:NAMED]:
            but = PREFERRED[self.decision.rejected[tie].preference]
            text = f"Within the noise, {{name}} is as good: {{time}} and {{size}}{but}."
            yield sentence(text, name=tie, **self._figures(tie), **self._caveats(tie))
        if (more := len(self.decision.ties) - NAMED) > 0:
            rows = "row is" if more == 1 else "rows are"
            count = _Cited(f"{more:g}", f"/recommendations/{self.place}/more_ties")
            yield sentence(f"{{count}} more {rows} as good within the noise.", count=count)

    def _caveats(self, row: str) -> dict[str, str | _Cited]:
        """A row's status, or why it has none of those that pass, and its marks."""
        artifact = self._artifact(row)
        place = "verdict" if artifact.word == artifact.verdict else "status"
        verdict = _Cited(artifact.word, f"/artifacts/{artifact.name}/{place}")
        return {"verdict": verdict, "marks": " and ".join(self.report.rows[row].marks)}

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

    def _at_edges(self, choice: str) -> Iterator[Sentence]:
        """Where the choice gives other answers than its source, beyond ordinary inputs."""
        artifact = self._artifact(choice)
        if artifact.differs:
            place = f"/artifacts/{artifact.name}"
            first, status = (
                _Cited(artifact.differs[0], f"{place}/differs/0"),
                _Cited(artifact.status, f"{place}/status"),
            )
            yield sentence("It is {status}; {first}.", status=status, first=first)

    def _gives_up(self, choice: str) -> Iterator[Sentence]:
        """What a choice of reduced precision costs in accuracy, beside its source on the same pictures."""
        lost = self.report.artifacts[self.report.rows[choice].artifact].figures.get("points_lost")
        if not isinstance(lost, Figure):
            return
        if lost.value <= 0:
            yield Sentence("Its lower precision gives up no accuracy on these pictures.")
            return
        noise = ", which is within the noise" if lost.low <= 0 else ""
        points = _Cited(str(lost), f"{self.report.pointer(choice, 'points_lost')}/value")
        yield sentence(f"Its lower precision gives up {{points}} points of accuracy{noise}.", points=points)

    def _most_accurate(self, choice: str) -> Iterator[Sentence]:
        """The row that fits and measured as more accurate, where the figures show it."""
        fitting = [name for name, each in self.decision.rejected.items() if each.reason in WITHIN_LIMITS]
        best = max([choice, *fitting], key=lambda name: self.decision.candidates[name].accuracy.value)
        if str(self.decision.candidates[best].accuracy) == str(self.decision.candidates[choice].accuracy):
            return
        text = "The most accurate one, {name}, reaches {accuracy}: on these {pictures} that is within the noise."
        name = self.report.rows[best].artifact
        yield sentence(text, name=name, pictures=QUESTIONS[self.target.accuracy], **self._figures(best))

    def _rule_of_thumb(self, choice: str) -> Iterator[Sentence]:
        """What "int8 is faster" would have cost: the int8 row that is slowest beside its float32."""
        times = {
            name: figure
            for name in self.decision.candidates
            if self._dtype(name) == THUMB
            and isinstance(figure := self.report.rows[name].figures.get("time_beside_float32"), Figure)
            and figure.value >= WORTH_SAYING
        }
        model = self._artifact(choice).model
        times = {name: times[name] for name in times if self._artifact(name).model == model} or times
        if not times:
            return
        worst = max(times, key=lambda name: times[name].value)
        noise = "" if times[worst].low > 1 else ", within the noise"
        yield sentence(
            f"Not every {{dtype}} is faster: {{name}} takes {{times}} times as long as {{other}} here{noise}.",
            dtype=THUMB,
            name=self._artifact(worst).name,
            times=_Cited(str(times[worst]), f"/rows/{worst}/figures/time_beside_float32/value"),
            other=self._artifact(float32_row(self.report, worst) or worst).name,
        )

    def _placed(self, choice: str) -> Iterator[Sentence]:
        """How many of its operators run on what there is at the target."""
        artifact = self._artifact(choice)
        for number, placement in enumerate(artifact.placements):
            if placement.part in self.target.parts:
                place = f"/artifacts/{artifact.name}/placements/{number}"
                counts = {name: getattr(placement, name) for name in ("operators", "total", "pieces")}
                cited = {name: _Cited(str(count), f"{place}/{name}") for name, count in counts.items()}
                yield sentence(f"In its file, {placement.template}.", **cited)

    def _on_arm(self, choice: str) -> Iterator[Sentence]:
        """For a phone: whether the choice gives its answers on a processor of that kind, too."""
        artifact = self._artifact(choice)
        if not self.target.on_arm:
            return
        if (proof := artifact.arm) is None:
            yield Sentence("Its answers are not proven on ARM. `make verify-arm` proves those of TF Lite and ONNX.")
            return
        place = f"/artifacts/{artifact.name}/arm"
        yield sentence(
            "Its answers are proven on ARM ({processor}, emulated) with {rows} questions.",
            processor=_Cited(proof.processor, f"{place}/processor"),
            rows=_Cited(str(proof.rows), f"{place}/rows"),
        )

    def _differs_on_arm(self, artifact: Artifact) -> Sentence:
        proof, place = artifact.arm, f"/artifacts/{artifact.name}/arm"
        assert proof is not None
        return sentence(
            "On ARM ({processor}, emulated) its answers differ: {reason}.",
            processor=_Cited(proof.processor, f"{place}/processor"),
            reason=_Cited(proof.reasons[0], f"{place}/reasons/0"),
        )

    def _outlook(self, choice: str) -> Iterator[Sentence]:
        artifact = self._artifact(choice)
        if artifact.outlook:
            yield sentence("{outlook}", outlook=_Cited(artifact.outlook, f"/artifacts/{artifact.name}/outlook"))

    def _artifact(self, row: str) -> Artifact:
        return self.report.artifacts[self.report.rows[row].artifact]

    def _dtype(self, row: str) -> str:
        precision = PRECISIONS.get(self._artifact(row).format)
        return precision.dtype if precision else ""

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
        limits = {name: self._limit(name) for name in self._limits()}
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
                return sentence("Its answers differ from its source's: {verdict}.", **self._caveats(name))
            case Reason.OTHER_ANSWERS_ON_ARM:
                return self._differs_on_arm(self._artifact(name))
            case Reason.OUTSIDE_LIMITS:
                limits = {limit: self._limit(limit) for limit in rejection.limits}
                text = " ".join(OUTSIDE[limit] for limit in rejection.limits)
                format = _Cited(self._artifact(name).format, f"/artifacts/{self._artifact(name).name}/format")
                return sentence(text, **self._figures(name), **limits, format=format)
        rival = rejection.rival or ""
        text = self._costlier(name, rival) if rejection.reason is Reason.COSTLIER else BEATEN[rejection.reason]
        if rejection.reason is Reason.TIE:
            text = f"{text}{PREFERRED[rejection.preference]}."
        return sentence(text, rival=rival, **self._figures(name), **self._figures(rival, "its_"), **self._caveats(name))

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

    def _limits(self) -> list[str]:
        """The constraints that are set."""
        return [*limits_of(self.constraints), *(["allow_precision"] if self.constraints.allow_precision else [])]

    def _limit(self, constraint: str) -> _Cited:
        value = limits_of(self.constraints).get(constraint)
        text = ",".join(self.constraints.allow_precision) if value is None else f"{value:g}"
        return _Cited(f"{constraint.upper()}={text}", f"/recommendations/{self.place}/constraints/{constraint}")

    def _relaxed(self, number: int, part: str, value: float) -> _Cited:
        return _Cited(f"{value:g}", f"/recommendations/{self.place}/relax/{number}/{part}")


OUTSIDE = {
    "max_mb": "Its size, {size}, exceeds {max_mb}.",
    "max_ms": "Its time, {time}, exceeds {max_ms}.",
    "min_agreement": "Its agreement, {agreement}, is below {min_agreement}.",
    "allow_precision": "Its format, {format}, is not within {allow_precision}.",
}
"""Constraint -> the sentence for a row that does not meet it."""

CORRECT = {
    "accuracy": "It classifies {accuracy} of the {pictures} test pictures correctly.",
    "agreement": "It answers {accuracy} of the {pictures} questions as its source does; the right answers are unknown.",
}
"""The figure that counts as accuracy -> what the choice achieves."""

BEATEN = {
    Reason.TIE: "Within the noise, it is as good as {rival}: {time} against {its_time}, {size} against {its_size}",
    Reason.LESS_ACCURATE: "It is less accurate than {rival}: {accuracy} against {its_accuracy}.",
    Reason.DOMINATED: (
        "{rival} is at least as good in everything: {its_accuracy} correct against {accuracy}, "
        "{its_time} against {time}, {its_size} against {size}."
    ),
}
"""Reason -> the sentence for a row that fits, beside the rival that is preferred."""


WITHIN_LIMITS = (Reason.TIE, Reason.LESS_ACCURATE, Reason.DOMINATED, Reason.COSTLIER)
"""Why a row is not chosen that meets the constraints and keeps its answers."""

PREFERRED = {
    "": "",
    "verdict": ", but its verdict is '{verdict}'",
    "marks": ", but it is {marks}",
    "size": ", but it is larger",
    "front": ", but another row is at least as good in everything",
    "steps": ", but it is further from what was trained",
}
"""The preference that decided against a tie -> the end of its sentence."""

QUESTIONS = {"accuracy": "pictures", "agreement": "questions"}


def _capitalized(text: str) -> str:
    return text[0].upper() + text[1:]
