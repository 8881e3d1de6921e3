"""Old and new by turns: what an upgrade costs, measured at the same moments, which needs no pace.

The old and the new artifact each run in a process, or behind a service, of its own. Both are there at once, and take
turns of some hundredths of a second: whatever else the machine does slows both alike, and only the calls that it
disturbed least are compared. A row that looks worse is measured in further rounds, and these alone decide, so that of
some hundred figures none fails by chance.

Where the old artifacts lie in another checkout of this project, its code and its environment run them.
"""

import contextlib
import functools
import json
import math
import random
import statistics
import subprocess
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from compare.answers import MANY, AnswersByBatch
from compare.baseline import Change
from compare.browser import Session, runtimes_of, sessions
from compare.figures import Figure, shown
from compare.http_calls import CheckedCalls, connected, first_answers, served
from compare.latency import undisturbed
from compare.measure import Bench, Subject, reason_of
from compare.metrics import title
from compare.report import Report
from compare.servers import python_of
from compare.store import Record
from contract.code import ROOT
from contract.errors import RosettaError, RuntimeFailure
from contract.manifest import read_manifest

BATCHES = (1, 64)
FIRST, FURTHER = 2, (8, 4, 4)
"""Rounds for every pair, and for a row that looked worse in the first: so many at once, until it is sure."""
STUDENT = {8: 4.785, 12: 4.025, 16: 3.733}
"""Rounds -> the value of Student's t that is exceeded one time in a thousand, on one side."""
SLICE, SLICES = 0.03, 15
"""Seconds of one turn, and how many turns each side has at each batch size of a round."""
PAGE_SECONDS = 0.5
"""Seconds of calls with one picture in a page: longer than the rounds of a report, which has no margin to keep."""

CLOSE, FAR = 0.08, 0.2
"""By how much a figure may get worse: of what is measured by many turns, and of what each round has once."""
MARGINS = {("http", "cold_start"): FAR, ("browser", "first_answer"): FAR, ("browser", "p50@1"): FAR}
"""(kind of measurement, figure) -> its margin, where it is not CLOSE."""
BROWSER = {"p50@1": "p50", "first_answer": "first_answer"}
"""Figure -> its name in what a page measured."""


@dataclass(frozen=True)
class Side:
    """An artifact, and the checkout whose code runs it."""

    folder: Path
    root: Path = ROOT

    @property
    def name(self) -> str:
        return f"{self.folder.parent.name}-{self.folder.name}"


@dataclass(frozen=True)
class Turn:
    """One round of one figure."""

    old: float
    new: float

    @property
    def ratio(self) -> float:
        return self.new / self.old


def root_of(artifacts: Path) -> Path:
    """The checkout in which a folder of artifacts lies, if it has this command; otherwise this checkout."""
    parents = (folder for folder in artifacts.resolve().parents if (folder / "compare" / "turns.py").is_file())
    return next(parents, ROOT)


Pair = tuple[Side, Side]
"""The old artifact and the new one."""
Round = Mapping[str, Turn]
"""Figure -> its turn."""
Turns = dict[str, list[Turn]]
"""Figure -> its turn in each round."""
Key = tuple[str, str]
"""A row, and the kind of measurement."""


# --- One round of a pair


def alone(pair: Pair, threads: int) -> Round:
    """The runtime alone: its calls, and its memory. Raises RuntimeFailure if a side cannot run."""
    with contextlib.ExitStack() as stack:
        old, new = (stack.enter_context(_child(side, threads)) for side in pair)
        turns = {f"p50@{batch}": _by_turns(old.seconds(batch), new.seconds(batch)) for batch in BATCHES}
        return turns | {"memory": Turn(old.memory, new.memory)}


def over_http(pair: Pair, pictures: NDArray[Any], answers: Sequence[AnswersByBatch], threads: int) -> Round:
    """A service for each: its start, its memory, and its calls. Raises RuntimeFailure if a side cannot be served."""
    with contextlib.ExitStack() as stack:
        services = [stack.enter_context(served(side.folder, threads, side.root)) for side in pair]
        calls = [
            CheckedCalls(stack.enter_context(connected(service.port)), read_manifest(side.folder), pictures, expected)
            for side, service, expected in zip(pair, services, answers, strict=True)
        ]
        turns = {}
        for batch in BATCHES:
            old, new = (functools.partial(undisturbed, each.call("binary", batch)) for each in calls)
            turns[f"http_p50@{batch}"] = _by_turns(old, new)
        memory = [service.rss() * 2**20 for service in services]
        starts = [service.ready_seconds for service in services]
        return turns | {"service_memory": Turn(*memory), "cold_start": Turn(*starts)}


def in_browser(sides: Sequence[Record]) -> Round:
    """What a fresh page measured, for each side."""
    downloads = [each["runtime_download"] + each["model_download"] for each in sides]
    turns = {figure: Turn(*(float(each[name]) for each in sides)) for figure, name in BROWSER.items()}
    return turns | {"download": Turn(*downloads)}


@dataclass(frozen=True)
class _Child:
    """A process that measures one artifact when it is asked to: `python -m compare.latency FOLDER --turns`."""

    process: "subprocess.Popen[str]"
    memory: float

    def seconds(self, batch: int) -> Callable[[float], float]:
        """What measures a turn of so many seconds."""

        def turn(seconds: float) -> float:
            assert self.process.stdin
            with contextlib.suppress(BrokenPipeError):
                self.process.stdin.write(f"{batch} {seconds}\n")
                self.process.stdin.flush()
            return float(_line_of(self.process))

        return turn


@contextlib.contextmanager
def _child(side: Side, threads: int) -> Iterator[_Child]:
    command = [python_of(side.root), "-m", "compare.latency", str(side.folder.resolve()), "--turns"]
    with subprocess.Popen(
        [*command, "--threads", str(threads)],
        cwd=side.root,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield _Child(process, json.loads(_line_of(process))["memory"])
        finally:
            process.terminate()  # it removes its cell, if it has one


def _line_of(process: "subprocess.Popen[str]") -> str:
    """Its next line. Raises RuntimeFailure, with the end of its log, if it has ended."""
    assert process.stdout and process.stderr
    while line := process.stdout.readline():
        if line[0] in "{0123456789":  # frameworks print, too
            return line
    lines = process.stderr.read().strip().splitlines() or ["it ended without a word"]
    raise RuntimeFailure(lines[-1].removeprefix("error: "))


def _by_turns(old: Callable[[float], float], new: Callable[[float], float]) -> Turn:
    """Old, new, new, old, and so on: a load that grows or falls is the same for both."""
    for warm_up in (old, new):
        warm_up(SLICE)
    pairs = [(old(SLICE), new(SLICE)) if n % 2 else (new(SLICE), old(SLICE))[::-1] for n in range(SLICES)]
    return Turn(*(min(side) for side in zip(*pairs, strict=True)))


# --- All pairs, and what has changed


@dataclass(frozen=True)
class Timed:
    """A row that both sides have, and how to measure a round of it."""

    row: str
    kind: str
    """`time`, `http` or `browser`."""
    measure: Callable[[], Round]

    @property
    def key(self) -> Key:
        return self.row, self.kind


@contextlib.contextmanager
def timed_rows(old: Bench, new: Bench, report: Report) -> Iterator[list[Timed]]:
    """Every row that both have and that the new report has figures of; a browser runs until the end of the block."""
    before = {subject.name: subject for subject in old.subjects if subject.manifest}
    both = [(before[each.name], each) for each in new.subjects if each.manifest and each.name in before]
    in_page = [pair for pair in both if any(_is_measured(report, row, "p50@1") for row in _browser_rows(pair[1]))]
    with contextlib.ExitStack() as stack:
        pages: Sequence[Session] = ()
        if in_page:
            sides = zip(zip(*in_page, strict=True), (old.root, new.root), strict=True)
            pages = stack.enter_context(sessions(*(([each.folder for each in side], root) for side, root in sides)))
        yield [row for pair in both for row in (*_on_server(pair, old, new, report), *_in_page(pair, old, new, pages))]


def _browser_rows(subject: Subject) -> dict[str, str]:
    """Row -> runtime."""
    return {f"{subject.name}@{runtime}": runtime for runtime in runtimes_of(subject.folder.name)}


def _is_measured(report: Report, row: str, figure: str) -> bool:
    return row in report.rows and isinstance(report.figure(row, figure), Figure)


def _on_server(subjects: tuple[Subject, Subject], old: Bench, new: Bench, report: Report) -> Iterator[Timed]:
    pair, threads = (Side(subjects[0].folder, old.root), Side(subjects[1].folder, new.root)), new.settings.threads

    def http() -> Round:
        answers = [first_answers(bench.answers(each)) for bench, each in zip((old, new), subjects, strict=True)]
        return over_http(pair, new.pictures(subjects[1])[:MANY], answers, threads)

    row = f"{pair[1].name}@server"
    if _is_measured(report, row, "p50@1"):
        yield Timed(row, "time", lambda: alone(pair, threads))
    if _is_measured(report, row, "http_p50@1"):
        yield Timed(row, "http", http)


def _in_page(subjects: tuple[Subject, Subject], old: Bench, new: Bench, pages: Sequence[Session]) -> Iterator[Timed]:
    def measure(runtime: str) -> Round:
        return in_browser(
            [
                page.measure(
                    subject.folder,
                    runtime,
                    bench.pictures(subject),
                    bench.answers(subject)[MANY],
                    PAGE_SECONDS,
                )
                for page, bench, subject in zip(pages, (old, new), subjects, strict=True)
            ]
        )

    for row, runtime in _browser_rows(subjects[1]).items() if pages else ():
        yield Timed(row, "browser", functools.partial(measure, runtime))


def compare_by_turns(rows: Sequence[Timed], margin: float | None, seed: int) -> list[Change]:
    """Measure all rows, those that look worse in further rounds, and tell what changed."""
    order, failures = random.Random(seed), dict[Key, str]()
    first, further = defaultdict[Key, Turns](dict), defaultdict[Key, Turns](dict)
    _measure(rows, FIRST, order, first, failures)
    doubtful = [row for row in rows if _is_doubtful(row, first[row.key], margin)]
    for count in FURTHER:
        _measure(doubtful, count, order, further, failures)
        doubtful = [row for row in doubtful if _is_open(row, further[row.key], margin) and row.key not in failures]
    failed = [
        Change(row.row, f"it cannot be measured by turns: {failures[row.key]}", False)
        for row in rows
        if row.key in failures
    ]
    changed = (_change(row, figure, turns, margin) for row in rows for figure, turns in further[row.key].items())
    return [*failed, *(change for change in changed if change)]


def _measure(
    rows: Sequence[Timed], count: int, order: random.Random, into: dict[Key, Turns], failures: dict[Key, str]
) -> None:
    """So many rounds of these rows; all rows finish one before the next one starts."""
    listed = [row for _ in range(count) for row in order.sample(rows, len(rows))]
    for row in tqdm(listed, desc="by turns", unit="pair", dynamic_ncols=True, disable=None):
        try:
            measured = row.measure()
        except (RosettaError, RuntimeError, OSError, subprocess.SubprocessError) as error:
            failures[row.key] = reason_of(error)
            continue
        for figure, turn in measured.items():
            into[row.key].setdefault(figure, []).append(turn)


def _margin_of(row: Timed, figure: str, margin: float | None) -> float:
    return margin if margin is not None else MARGINS.get((row.kind, figure), CLOSE)


def _logs(turns: Sequence[Turn]) -> NDArray[np.float64]:
    return np.log([turn.ratio for turn in turns])


def _is_doubtful(row: Timed, figures: Turns, margin: float | None) -> bool:
    """Whether a figure of the first rounds is worse, or better, by more than half of its margin."""
    halves = {figure: float(np.log1p(_margin_of(row, figure, margin) / 2)) for figure in figures}
    return any(abs(float(_logs(turns).mean())) > halves[figure] for figure, turns in figures.items())


def _is_open(row: Timed, figures: Turns, margin: float | None) -> bool:
    """Whether a figure is beyond its margin in the middle, and its rounds are too far apart to be sure."""
    beyond = {
        figure: abs(float(np.median(_logs(turns)))) > np.log1p(_margin_of(row, figure, margin))
        for figure, turns in figures.items()
    }
    return any(beyond[figure] and not _is_sure(turns) for figure, turns in figures.items())


def _is_sure(turns: Sequence[Turn]) -> bool:
    """Whether the mean is beyond no change at all: by Student's test, one time in a thousand if nothing changed."""
    logs = _logs(turns)
    error = float(logs.std(ddof=1)) / math.sqrt(len(logs))
    return abs(float(logs.mean())) > STUDENT[len(logs)] * error


def _change(row: Timed, figure: str, turns: Sequence[Turn], margin: float | None) -> Change | None:
    """A figure has changed whose middle is beyond the margin, if its rounds are sure of it."""
    middle, limit = float(np.median(_logs(turns))), float(np.log1p(_margin_of(row, figure, margin)))
    if len(turns) not in STUDENT or abs(middle) <= limit or not _is_sure(turns):
        return None
    old, new = (statistics.median(values) for values in zip(*((turn.old, turn.new) for turn in turns), strict=True))
    unit = "B" if "memory" in figure or "download" in figure else "s"
    text = f"{title(figure)} {shown(old, unit)} -> {shown(new, unit)} ({np.expm1(middle):+.0%}, by turns)"
    return Change(row.row, text, middle > 0)
