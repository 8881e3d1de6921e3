"""Every measurement of `make compare`: in fresh processes, in rounds, in a new random order each round.

All artifacts finish a round before the next one starts, so that a machine that is slow for a while is slow for all. If
a measurement fails, its reason is kept, and the others go on.
"""

import contextlib
import json
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from compare import http_calls
from compare.answers import MANY, AnswersByBatch, read_answers
from compare.browser import RUNTIMES, Session
from compare.footprint import bare_interpreter
from compare.machine import this_machine
from compare.report import SCHEMA, Machine, Settings
from compare.store import Record, Store
from compare.training import SCRIPTS, fault_of
from contract.code import ROOT, digest, files_of
from contract.errors import ArtifactMissing, RosettaError, RuntimeFailure
from contract.failed_edge import read_failed_edges
from contract.formats import family_of
from contract.manifest import MANIFEST, Manifest, read_manifest, sha256_of, verify_files
from verify import questions
from verify.questions import Questions

CHILD_SECONDS = 300

CODE = {
    "answers": ("compare.answers", "serve.runtimes.*"),
    "time": ("compare.latency", "serve.runtimes.*"),
    "http": ("compare.http_calls", "serve.*"),
    "browser": ("compare.browser",),
    "fault": ("compare.training", "train.*"),
}
"""Kind of measurement -> the modules that make it. It depends on their code and on everything that they import."""
PAGE = ROOT / "web" / "dist" / "index.html"
"""`browser` depends on this file too; the names of its scripts contain their hashes."""

SECONDS = {"answers": 5.0, "time": 5.0, "http": 5.0, "browser": 4.0, "fault": 5.0}
"""About how long a measurement takes, to estimate the time left."""


@dataclass(frozen=True)
class Subject:
    """An artifact to measure: its folder, and its manifest or the reason why it cannot be measured."""

    folder: Path
    manifest: Manifest | None
    """None if the artifact is damaged, or if its conversion failed."""
    problem: str = ""
    """Why there is no manifest, as a sentence."""

    @property
    def name(self) -> str:
        return f"{self.folder.parent.name}-{self.folder.name}"


@dataclass(frozen=True)
class Task:
    """One measurement: what it depends on, and the function that makes it."""

    name: str
    kind: str
    about: Record
    measure: Callable[[], Record]


@dataclass
class Measurements:
    """The results of the tasks by name, and the reasons of those that failed."""

    results: dict[str, Record] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)


def find_subjects(artifacts: Path) -> list[Subject]:
    """Every artifact, including damaged ones, and every conversion that failed.

    Raises ArtifactMissing if there is no artifact.
    """
    folders = sorted(path.parent for path in artifacts.glob(f"*/*/{MANIFEST}") if ".partial" not in str(path))
    if not folders:
        raise ArtifactMissing(f"There is no artifact in {artifacts}. Run `make artifacts` to make them.")
    failed = [
        Subject(artifacts / edge.model / edge.format, None, " ".join(filter(None, (edge.reason, edge.advice))))
        for edge in read_failed_edges(artifacts)
    ]
    return [*map(_opened, folders), *(each for each in failed if each.folder not in folders)]


def _opened(folder: Path) -> Subject:
    try:
        manifest = read_manifest(folder)
        verify_files(folder, manifest)
    except (RosettaError, OSError) as error:
        return Subject(folder, None, str(error))
    return Subject(folder, manifest)


def code_of(kind: str) -> str:
    """The sha256 of all code that a kind of measurement depends on."""
    files = files_of(*CODE[kind], __name__)
    return digest([*files, PAGE] if kind == "browser" else files)


class Bench:
    """The artifacts, the test pictures, and the measurements of them.

    `limit` is the number of test pictures to use; None for all.
    """

    def __init__(self, folder: Path, dataset: str, limit: int | None, settings: Settings) -> None:
        self.subjects = find_subjects(folder)
        self.dataset, self.limit = dataset, limit
        self._questions: dict[Path, Questions] = {}
        self.settings = settings
        self.rounds, self._doubted = settings.rounds, frozenset[str]()
        self.machine: Machine = this_machine()
        self.store = Store(folder / "report" / "measured")
        self._code = {kind: code_of(kind) for kind in CODE}
        self._sessions = contextlib.ExitStack()
        self._session: Session | str | None = None

    def questions(self, subject: Subject) -> Questions:
        """The questions for the artifacts of this model. Raises DataError."""
        model = subject.folder.parent
        if model not in self._questions:
            self._questions[model] = questions.load(model, self.dataset, self.limit)
        return self._questions[model]

    def pictures(self, subject: Subject) -> NDArray[np.uint8]:
        """The test pictures. Raises RuntimeFailure for a model that takes other tensors."""
        if (pictures := self.questions(subject).pictures) is None:
            raise RuntimeFailure("It takes no pictures, so only the runtime alone is timed.")
        return pictures

    def doubt(self, rows: frozenset[str], rounds: int) -> None:
        """Make the next run measure these rows in further rounds."""
        self.rounds, self._doubted = self.rounds + rounds, rows

    def run(self) -> Measurements:
        """Make every measurement that is not stored yet, and return all."""
        done, pending = Measurements(), list(self._stages())
        for stage in pending:
            for task in stage:
                if stored := self.store.get(task.name, task.about):
                    done.results[task.name] = stored
        left = [[task for task in stage if task.name not in done.results] for stage in pending]
        total = sum(SECONDS[task.kind] for stage in left for task in stage)
        with tqdm(total=total, unit="s", bar_format=BAR, dynamic_ncols=True, disable=None) as bar:
            for number, stage in enumerate(left, 1):
                if bar.disable and stage:  # a log gets one line for each stage
                    print(
                        f"measuring, {number}/{len(left)}: {len(stage)} of {stage[0].kind}", file=sys.stderr, flush=True
                    )
                with self._sessions:
                    self._run_stage(stage, done, bar)
                self._session = None
        return done

    def _run_stage(self, stage: list[Task], done: Measurements, bar: Any) -> None:
        for task in stage:
            bar.set_description_str(task.name)
            start = time.perf_counter()
            try:
                measured = task.measure()
            except (RosettaError, RuntimeError, OSError, subprocess.SubprocessError) as error:
                done.failures[task.name] = _reason(error)
            else:
                done.results[task.name] = {**measured, "seconds": round(time.perf_counter() - start, 2)}
                self.store.put(task.name, task.about, done.results[task.name])
            bar.update(SECONDS[task.kind])

    def _stages(self) -> Iterator[list[Task]]:
        """The stages in their order; the tasks within a stage are in random order."""
        order = random.Random(self.settings.seed)
        usable = [subject for subject in self.subjects if subject.manifest]
        yield self._shuffled(order, map(self._answers, usable))
        for round in range(self.rounds):
            server = [subject for subject in usable if self._is_due(f"{subject.name}@server", round)]
            yield self._shuffled(order, (self._time(subject, round) for subject in server))
            yield self._shuffled(order, (self._http(subject, round) for subject in server))
            yield self._shuffled(order, (task for subject in usable for task in self._browser(subject, round)))
        yield [self._fault(subject) for subject in usable if subject.manifest and subject.manifest.format in SCRIPTS]

    def _is_due(self, row: str, round: int) -> bool:
        return round < self.settings.rounds or row in self._doubted

    @staticmethod
    def _shuffled(order: random.Random, tasks: Iterable[Task]) -> list[Task]:
        listed = list(tasks)
        order.shuffle(listed)
        return listed

    def _task(self, kind: str, subject: Subject, name: str, measure: Callable[[], Record], **settings: Any) -> Task:
        about = {
            "schema": SCHEMA,
            "artifact": sha256_of(subject.folder / MANIFEST),
            "code": self._code[kind],
            "machine": [self.machine.processor, self.machine.cores, self.machine.python],
            "versions": dict(self.machine.versions),
            "settings": settings,
        }
        return Task(f"{kind}-{name}", kind, about, measure)

    # --- Kinds of measurements

    def _answers(self, subject: Subject) -> Task:
        file = self.answers_file(subject.name)

        def measure() -> Record:
            limit = ["--limit", str(self.limit)] if self.limit else []
            run_child("compare.answers", str(subject.folder), str(file), "--dataset", self.dataset, *limit)
            return {"file": file.name, "sha256": sha256_of(file)}

        # A file that is gone or damaged has another digest: then the artifact is asked again.
        written = sha256_of(file) if file.is_file() else None
        task = self._task("answers", subject, subject.name, measure, dataset=self.dataset, limit=self.limit)
        stored = self.store.get(task.name, task.about)
        if stored and stored["sha256"] != written:
            (self.store.folder / f"{task.name}.json").unlink()
        return task

    def answers_file(self, name: str) -> Path:
        return self.store.folder / f"answers-{name}.npz"

    def answers(self, subject: Subject) -> AnswersByBatch:
        try:
            return read_answers(self.answers_file(subject.name))
        except OSError:
            raise RuntimeFailure(f"{subject.name} gave no answers to check others against.") from None

    def _time(self, subject: Subject, round: int) -> Task:
        seconds, threads = self.settings.seconds, self.settings.threads

        def measure() -> Record:
            output = run_child(
                "compare.latency", str(subject.folder), "--seconds", str(seconds), "--threads", str(threads)
            )
            return {**json.loads(output.splitlines()[-1]), "bare": bare_interpreter()}

        return self._task("time", subject, f"{subject.name}-{round}", measure, seconds=seconds, threads=threads)

    def _http(self, subject: Subject, round: int) -> Task:
        seconds, threads = self.settings.seconds, self.settings.threads

        def measure() -> Record:
            answers = self.answers(subject)[MANY]
            return http_calls.measure(subject.folder, self.pictures(subject)[:MANY], answers[:MANY], seconds, threads)

        return self._task("http", subject, f"{subject.name}-{round}", measure, seconds=seconds, threads=threads)

    def _browser(self, subject: Subject, round: int) -> Iterator[Task]:
        seconds = self.settings.seconds
        for runtime in RUNTIMES.get(family_of(subject.folder.name), ()):

            def measure(runtime: str = runtime) -> Record:
                answers = self.answers(subject)[MANY]
                return self._open_session().measure(subject.folder, runtime, self.pictures(subject), answers, seconds)

            if self._is_due(row := f"{subject.name}@{runtime}", round):
                yield self._task("browser", subject, f"{row}-{round}", measure, seconds=seconds)

    def _open_session(self) -> Session:
        """The session for all rows of a stage. Raises RuntimeFailure, each time, if it could not be opened."""
        if self._session is None:
            folders = [
                subject.folder
                for subject in self.subjects
                if subject.manifest and family_of(subject.manifest.format) in RUNTIMES
            ]
            try:
                self._session = self._sessions.enter_context(Session.over(folders))
            except RosettaError as error:
                self._session = str(error)
        if isinstance(self._session, str):
            raise RuntimeFailure(self._session)
        return self._session

    def _fault(self, subject: Subject) -> Task:
        return self._task("fault", subject, subject.folder.name, lambda: fault_of(subject.folder.name))


BAR = "{desc}: {percentage:3.0f}%|{bar}| {elapsed} elapsed, about {remaining} left"


def run_child(module: str, *arguments: str) -> str:
    """The output of `python -m module` in a fresh process. Raises RuntimeFailure with the reason if it fails."""
    command = [sys.executable, "-m", module, *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=CHILD_SECONDS)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        raise RuntimeFailure(lines[-1].removeprefix("error: "))
    return done.stdout


def _reason(error: Exception) -> str:
    if isinstance(error, subprocess.TimeoutExpired):
        return f"It took longer than {error.timeout:.0f} s."
    return str(error).strip() or type(error).__name__
