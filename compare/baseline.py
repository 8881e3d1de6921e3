"""What changed since an older report: a guard for upgrades of converters, runtimes and the service.

Answers changed if a picture changes its class, or if the accuracy or a verdict changes. A figure changed if its spread
no longer overlaps the old one; it fails the comparison if it also got worse by more than the margin.
"""

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from compare.answers import unpack_classes
from compare.figures import Figure, Measured, shown
from compare.metrics import COMPUTE, HIGHER, NEITHER, START, SYSTEM, metric, title
from compare.report import Artifact, Report, Row

MARGIN = 0.2
"""By how much a figure may get worse: the spread in one report does not cover how a machine varies from day to day."""
NOTED = 0.05
"""The report mentions a change of the machine's own pace from this share on."""
WORK = {COMPUTE: "fixed computation", SYSTEM: "an exchange over loopback", START: "the start of a process"}
"""What the machine's pace is measured by."""


@dataclass(frozen=True)
class Change:
    """One line of the comparison."""

    what: str
    text: str
    fails: bool

    def __str__(self) -> str:
        return f"{'WORSE' if self.fails else '     '}  {self.what}: {self.text}"


def changes(old: Report, new: Report, margin: float = MARGIN) -> list[Change]:
    """Everything that changed beyond the noise; failures come first."""
    return failures_first([*_settings(old, new), *_artifacts(old, new), *_figures(old, new, margin)])


def changed_answers(old: Report, new: Report) -> list[Change]:
    """What changed besides the values of figures: versions, pictures, artifacts, answers, and what is not measured."""
    lost = (
        Change(before.name, f"{title(figure)} {text}", fails)
        for before, after in _both(old, new)
        for figure, was in before.figures.items()
        if not isinstance(after.figures.get(figure), Figure)
        for text, fails in [_changed(figure, was, after.figures.get(figure), MARGIN, 1.0)]
        if text
    )
    return [*_settings(old, new), *_artifacts(old, new), *lost]


def failures_first(changes: Iterable[Change]) -> list[Change]:
    """The changes in their order, each once."""
    return sorted(dict.fromkeys(changes), key=lambda change: not change.fails)


def doubtful(old: Report, new: Report, margin: float = MARGIN) -> frozenset[str]:
    """The rows with a failing figure. Of some hundred figures a few fail by chance, and pass if measured again."""
    return frozenset(change.what for change in _figures(old, new, margin) if change.fails and change.what in new.rows)


RANKED = ("p50@1", "http_p50@1", "throughput@64", "cold_start", "memory", "first_answer", "download")
"""The figures by which rows are put in order."""


def reversals(old: Report, new: Report) -> tuple[int, list[str]]:
    """How many pairs of rows differ beyond the noise in both reports, and which of these pairs changed places."""
    pairs, reversed_pairs = 0, []
    for name in RANKED:
        known = sorted(_row_figures(old, new, name), key=lambda row: row[0])
        for (first, a, c), (second, b, d) in itertools.combinations(known, 2):
            if a.differs_from(b) and c.differs_from(d):
                pairs += 1
                if (a.value < b.value) != (c.value < d.value):
                    reversed_pairs.append(f"{first} and {second}: {title(name)}")
    return pairs, reversed_pairs


def _row_figures(old: Report, new: Report, name: str) -> Iterator[tuple[str, Figure, Figure]]:
    for row in old.rows.keys() & new.rows.keys():
        before, after = old.rows[row].figures.get(name), new.rows[row].figures.get(name)
        if isinstance(before, Figure) and isinstance(after, Figure):
            yield row, before, after


def _settings(old: Report, new: Report) -> Iterator[Change]:
    if not new.machine.is_like(old.machine):
        yield Change("machine", f"{new.machine} instead of {old.machine}: times are not compared", False)
    if (old.dataset, old.pictures) != (new.dataset, new.pictures):
        text = f"{new.pictures:,} pictures of {new.dataset} instead of {old.pictures:,} of {old.dataset}"
        yield Change("pictures", text, True)
    for name in sorted(old.machine.versions.keys() | new.machine.versions.keys()):
        before, after = old.machine.versions.get(name, "none"), new.machine.versions.get(name, "none")
        if before != after:
            yield Change("version", f"{name} {after} instead of {before}", False)


def _artifacts(old: Report, new: Report) -> Iterator[Change]:
    for name, before in old.artifacts.items():
        after = new.artifacts.get(name)
        if after is None:
            yield Change(name, "it is gone", True)
            continue
        yield from (Change(name, text, True) for text in _answers(before, after))
    for name in new.artifacts.keys() - old.artifacts.keys():
        yield Change(name, "it is new", False)


def _answers(before: Artifact, after: Artifact) -> Iterator[str]:
    if before.keeps_answers and not after.keeps_answers:
        yield f"its answers are no longer its source's: {after.verdict}"
    if not before.classes or before.classes == after.classes:
        return
    if not after.classes:
        yield "it gives no answers any more"
        return
    old, new = unpack_classes(before.classes), unpack_classes(after.classes)
    if old.shape == new.shape:
        yield f"{np.count_nonzero(old != new):,} of {len(old):,} pictures changed their class"


def _figures(old: Report, new: Report, margin: float) -> Iterator[Change]:
    same_machine = new.machine.is_like(old.machine)
    paces = _paces(old, new) if same_machine else {}
    for kind, pace in paces.items():
        if abs(pace - 1) > NOTED:
            text = f"{WORK[kind]} takes {pace:.2f} times as long; what depends on it is compared after division by that"
            yield Change("machine", text, False)
    for before, after in _both(old, new):
        for figure, was in before.figures.items():
            if metric(figure).better == NEITHER or (metric(figure).timed and not same_machine):
                continue
            pace = paces.get(metric(figure).pace, 1.0)
            text, fails = _changed(figure, was, after.figures.get(figure), margin, pace)
            if text:
                yield Change(before.name, f"{title(figure)} {text}", fails)


def _paces(old: Report, new: Report) -> dict[str, float]:
    """How many times as long the machine itself takes for each kind of work; 1 where that is within the noise.

    Reports without this measurement have no pace: a figure that moved is then a change.
    """
    paces = {}
    for kind, now in new.paces.items():
        was = old.paces.get(kind)
        if isinstance(was, Figure) and isinstance(now, Figure):
            paces[kind] = now.value / was.value if now.differs_from(was) else 1.0
    return paces


def _both(old: Report, new: Report) -> Iterator[tuple[Artifact | Row, Artifact | Row]]:
    """Artifacts and rows that are in both reports."""
    yield from ((before, new.artifacts[name]) for name, before in old.artifacts.items() if name in new.artifacts)
    yield from ((before, new.rows[name]) for name, before in old.rows.items() if name in new.rows)


def _changed(name: str, was: Measured, now: Measured | None, margin: float, pace: float) -> tuple[str, bool]:
    """How a figure changed, and whether it fails; empty if it did not change beyond the machine's pace."""
    if not isinstance(was, Figure):
        return "", False
    if not isinstance(now, Figure):
        reason = now.missing if now else "The report no longer has it."
        return f"was {was}, and is not measured now: {reason}", True
    is_rate = metric(name).better == HIGHER
    factor = pace if is_rate else 1 / pace
    if not replace(now, low=now.low * factor, high=now.high * factor).differs_from(was):
        return "", False
    sign = -1 if is_rate else 1
    value = now.value * factor
    change = (value - was.value) / abs(was.value) if was.value else float(np.sign(value)) * np.inf
    fails = sign * change > (0 if name == "agreement" else margin)
    return f"{shown(was.value, was.unit)} -> {shown(now.value, now.unit)} ({change:+.0%})", fails
