"""Every measurement of `make compare`: in fresh processes, in rounds, in a new random order each round.

Within a round every artifact has its turn before any has its second, so that a machine which is slow for a while is
slow for all. A measurement that cannot be made leaves its reason, and the others go on.
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
from compare.answers import MANY, AskedAnswers, read_answers
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
"""Kind of measurement -> the modules that make it: their code, and all that they import, is what it depends on."""
PAGE = ROOT / "web" / "dist" / "index.html"
"""What `browser` depends on besides; it names its scripts by their content."""

SECONDS = {"answers": 5.0, "time": 5.0, "http": 5.0, "browser": 4.0, "fault": 5.0}
"""What a measurement takes, roughly: for the time left."""


@dataclass(frozen=True)
class Found:
    """An artifact's folder, and what is there; `problem` says why it cannot be measured."""

    folder: Path
    manifest: Manifest | None
    problem: str = ""

    @property
    def name(self) -> str:
        return f"{self.folder.parent.name}-{self.folder.name}"


@dataclass(frozen=True)
class Task:
    """One measurement."""

    name: str
    kind: str
    about: Record
    measure: Callable[[], Record]


@dataclass
class Measurements:
    """What came of the tasks, by name; a reason where nothing came."""

    results: dict[str, Record] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)


def find(artifacts: Path) -> list[Found]:
    """Every artifact, damaged ones too, and every conversion that failed. Raises ArtifactMissing when there is none."""
    folders = sorted(path.parent for path in artifacts.glob(f"*/*/{MANIFEST}") if ".partial" not in str(path))
    if not folders:
        raise ArtifactMissing(f"There is no artifact in {artifacts}. Make them with `make artifacts`.")
    failed = [
        Found(artifacts / edge.model / edge.format, None, " ".join(filter(None, (edge.reason, edge.advice))))
        for edge in read_failed_edges(artifacts)
    ]
    return [*map(_found, folders), *(found for found in failed if found.folder not in folders)]


def _found(folder: Path) -> Found:
    try:
        manifest = read_manifest(folder)
        verify_files(folder, manifest)
    except (RosettaError, OSError) as error:
        return Found(folder, None, str(error))
    return Found(folder, manifest)


def code_of(kind: str) -> str:
    """The sha256 over all code that a kind of measurement depends on."""
    files = files_of(*CODE[kind], __name__)
    return digest([*files, PAGE] if kind == "browser" else files)


class Bench:
    """The artifacts, the pictures, and how they are measured."""

    def __init__(self, artifacts: Path, data: str, limit: int | None, settings: Settings) -> None:
        self.artifacts = artifacts
        self.found = find(artifacts)
        self.data, self.limit = data, limit
        self._questions: dict[Path, Questions] = {}
        self.settings = settings
        self.rounds, self._doubted = settings.rounds, frozenset[str]()
        self.machine: Machine = this_machine()
        self.store = Store(artifacts / "report" / "measured")
        self._code = {kind: code_of(kind) for kind in CODE}
        self._sessions = contextlib.ExitStack()
        self._session: Session | str | None = None

    def questions(self, found: Found) -> Questions:
        """What the artifacts of this model are asked. Raises DataError."""
        model = found.folder.parent
        if model not in self._questions:
            self._questions[model] = questions.load(model, self.data, self.limit)
        return self._questions[model]

    def pictures(self, found: Found) -> NDArray[np.uint8]:
        """Raises RuntimeFailure for a model that takes none."""
        if (pictures := self.questions(found).pictures) is None:
            raise RuntimeFailure("It takes no pictures: only the runtime alone is timed.")
        return pictures

    def doubt(self, rows: frozenset[str], rounds: int) -> None:
        """Let the next run measure these rows in so many more rounds."""
        self.rounds, self._doubted = self.rounds + rounds, rows

    def run(self) -> Measurements:
        """Make what was not made before."""
        done, pending = Measurements(), list(self._stages())
        for stage in pending:
            for task in stage:
                if stored := self.store.get(task.name, task.about):
                    done.results[task.name] = stored
        left = [[task for task in stage if task.name not in done.results] for stage in pending]
        total = sum(SECONDS[task.kind] for stage in left for task in stage)
        with tqdm(total=total, unit="s", bar_format=BAR, dynamic_ncols=True, disable=None) as bar:
            for number, stage in enumerate(left, 1):
                if bar.disable and stage:  # in a log a line a stage is enough
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
        """Tasks that are made one after another; what is in one stage is in random order."""
        order = random.Random(self.settings.seed)
        usable = [found for found in self.found if found.manifest]
        yield self._shuffled(order, map(self._answers, usable))
        for round in range(self.rounds):
            server = [found for found in usable if self._is_due(f"{found.name}@server", round)]
            yield self._shuffled(order, (self._time(found, round) for found in server))
            yield self._shuffled(order, (self._http(found, round) for found in server))
            yield self._shuffled(order, (task for found in usable for task in self._browser(found, round)))
        yield [self._fault(found) for found in usable if found.manifest and found.manifest.format in SCRIPTS]

    def _is_due(self, row: str, round: int) -> bool:
        return round < self.settings.rounds or row in self._doubted

    @staticmethod
    def _shuffled(order: random.Random, tasks: Iterable[Task]) -> list[Task]:
        listed = list(tasks)
        order.shuffle(listed)
        return listed

    def _task(self, kind: str, found: Found, name: str, measure: Callable[[], Record], **settings: Any) -> Task:
        about = {
            "schema": SCHEMA,
            "artifact": sha256_of(found.folder / MANIFEST),
            "code": self._code[kind],
            "machine": [self.machine.processor, self.machine.cores, self.machine.python],
            "versions": dict(self.machine.versions),
            "settings": settings,
        }
        return Task(f"{kind}-{name}", kind, about, measure)

    # --- Kinds of measurements

    def _answers(self, found: Found) -> Task:
        file = self.answers_file(found.name)

        def measure() -> Record:
            limit = ["--limit", str(self.limit)] if self.limit else []
            run_child("compare.answers", str(found.folder), str(file), "--dataset", self.data, *limit)
            return {"file": file.name, "sha256": sha256_of(file)}

        # The digest of a file that is gone or half is another one, so it is asked again.
        written = sha256_of(file) if file.is_file() else None
        task = self._task("answers", found, found.name, measure, dataset=self.data, limit=self.limit)
        stored = self.store.get(task.name, task.about)
        if stored and stored["sha256"] != written:
            (self.store.folder / f"{task.name}.json").unlink()
        return task

    def answers_file(self, name: str) -> Path:
        return self.store.folder / f"answers-{name}.npz"

    def answers(self, found: Found) -> AskedAnswers:
        try:
            return read_answers(self.answers_file(found.name))
        except OSError:
            raise RuntimeFailure(f"{found.name} gave no answers that others could be checked against.") from None

    def _time(self, found: Found, round: int) -> Task:
        seconds, threads = self.settings.seconds, self.settings.threads

        def measure() -> Record:
            output = run_child(
                "compare.latency", str(found.folder), "--seconds", str(seconds), "--threads", str(threads)
            )
            return {**json.loads(output.splitlines()[-1]), "bare": bare_interpreter()}

        return self._task("time", found, f"{found.name}-{round}", measure, seconds=seconds, threads=threads)

    def _http(self, found: Found, round: int) -> Task:
        seconds, threads = self.settings.seconds, self.settings.threads

        def measure() -> Record:
            answers = self.answers(found)[MANY]
            return http_calls.measure(found.folder, self.pictures(found)[:MANY], answers[:MANY], seconds, threads)

        return self._task("http", found, f"{found.name}-{round}", measure, seconds=seconds, threads=threads)

    def _browser(self, found: Found, round: int) -> Iterator[Task]:
        seconds = self.settings.seconds
        for runtime in RUNTIMES.get(family_of(found.folder.name), ()):

            def measure(runtime: str = runtime) -> Record:
                answers = self.answers(found)[MANY]
                return self._open_session().measure(found.folder, runtime, self.pictures(found), answers, seconds)

            if self._is_due(row := f"{found.name}@{runtime}", round):
                yield self._task("browser", found, f"{row}-{round}", measure, seconds=seconds)

    def _open_session(self) -> Session:
        """One for all rows of a stage. Raises RuntimeFailure each time when it could not be opened."""
        if self._session is None:
            folders = [
                found.folder for found in self.found if found.manifest and family_of(found.manifest.format) in RUNTIMES
            ]
            try:
                self._session = self._sessions.enter_context(Session.over(folders))
            except RosettaError as error:
                self._session = str(error)
        if isinstance(self._session, str):
            raise RuntimeFailure(self._session)
        return self._session

    def _fault(self, found: Found) -> Task:
        return self._task("fault", found, found.folder.name, lambda: fault_of(found.folder.name))


BAR = "{desc}: {percentage:3.0f}%|{bar}| {elapsed} gone, about {remaining} left"


def run_child(module: str, *arguments: str) -> str:
    """What `python -m module` prints, in a fresh process. Raises RuntimeFailure with the reason when it fails."""
    command = [sys.executable, "-m", module, *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=CHILD_SECONDS)
    if done.returncode:
        said = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        raise RuntimeFailure(said[-1].removeprefix("error: "))
    return done.stdout


def _reason(error: Exception) -> str:
    if isinstance(error, subprocess.TimeoutExpired):
        return f"It took longer than {error.timeout:.0f} s."
    return str(error).strip() or type(error).__name__
