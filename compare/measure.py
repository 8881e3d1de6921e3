"""Every measurement of `make compare`: in fresh processes, in rounds, in a new random order each round.

All artifacts finish a round before the next one starts, so that a machine that is slow for a while is slow for all. If
a measurement fails, its reason is kept, and the others go on.
"""

import contextlib
import json
import random
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from bring.verdict.artifact import judge_again, judge_model
from compare import http_calls
from compare.answers import AnswersByBatch, most, read_answers
from compare.browser import SWIFTSHADER, Session, runtimes_of, sessions
from compare.footprint import bare_interpreter
from compare.machine import this_machine
from compare.metrics import COMPUTE, START, SYSTEM
from compare.pace import measuring
from compare.report import SCHEMA, Machine, Settings
from compare.servers import python_of
from compare.store import Record, Store
from compare.training import SCRIPTS, fault_of
from contract.cell.command import is_own
from contract.code import ROOT, digest, files_of
from contract.errors import ArtifactMissing, BroughtError, RosettaError, RuntimeFailure
from contract.failed_edge import read_failed_edges
from contract.formats import needs, proven_on
from contract.manifest import MANIFEST, Manifest, read_manifest, sha256_of, verify_files
from verify import questions
from verify.questions import Questions

CHILD_SECONDS = 300

CODE = {
    "answers": ("compare.answers", "serve.runtimes.*"),
    "time": ("compare.latency", "compare.pace", "serve.runtimes.*"),
    "http": ("compare.http_calls", "compare.pace", "serve.*"),
    "browser": ("compare.browser",),
    "fault": ("compare.training", "train.*"),
}
"""Kind of measurement -> the modules that make it. It depends on their code and on everything that they import."""
PAGE = ROOT / "web" / "dist" / "index.html"
"""`browser` depends on this file too; the names of its scripts contain their hashes."""

ANSWERED_AT_ONCE = 2
"""How many of our own artifacts answer the test pictures at once, which nobody times; a brought one may be large."""
REPEATS = 2
"""How often a round in a browser is repeated whose download is another than in the other rounds."""
SAME_DOWNLOAD = 1.01
"""How many times the smallest download the largest may be."""

SECONDS = {"answers": 2.0, "time": 2.0, "http": 3.0, "browser": 3.0, "fault": 4.0}
"""About how long a measurement takes, to estimate the time left."""


@dataclass(frozen=True)
class Subject:
    """An artifact to measure: its folder, and its manifest or the reason why it cannot be measured."""

    folder: Path
    manifest: Manifest | None
    """None if the artifact is damaged, if it would do more than compute, or if its conversion failed."""
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
    """Every artifact, including damaged and refused ones, and every conversion that failed.

    Raises ArtifactMissing if there is no artifact.
    """
    folders = sorted(path.parent for path in artifacts.glob(f"*/*/{MANIFEST}") if ".partial" not in str(path))
    if not folders:
        raise ArtifactMissing(f"There is no artifact in {artifacts}. Run `make artifacts` to make them.")
    failed = [
        Subject(artifacts / edge.model / edge.format, None, " ".join(filter(None, (edge.reason, edge.advice))))
        for edge in read_failed_edges(artifacts)
    ]
    verdicts = _verdicts({folder.parent for folder in folders})
    return [
        *(_opened(folder, verdicts) for folder in folders),
        *(each for each in failed if each.folder not in folders),
    ]


def _verdicts(models: Iterable[Path]) -> dict[Path, str]:
    """The artifacts of brought models -> why they are not measured, or ""."""
    verdicts: dict[Path, str] = {}
    for model in sorted(model for model in models if not is_own(model)):
        try:
            verdicts |= {model / format: reason for format, reason in judge_model(model).items()}
        except BroughtError as error:
            verdicts |= {path.parent: str(error) for path in model.glob(f"*/{MANIFEST}")}
    return verdicts


def _opened(folder: Path, verdicts: Mapping[Path, str]) -> Subject:
    try:
        manifest = read_manifest(folder)
        verify_files(folder, manifest)
        if folder not in verdicts:
            judge_again(folder, manifest)
        elif verdicts[folder]:
            raise BroughtError(verdicts[folder])
    except BroughtError as error:
        subject = Subject(folder, None, str(error))
        print(f"{subject.name} is not measured: {error}", file=sys.stderr, flush=True)
        return subject
    except (RosettaError, OSError) as error:
        return Subject(folder, None, str(error))
    return Subject(folder, manifest)


def code_of(kind: str, root: Path = ROOT) -> str:
    """The sha256 of all code that a kind of measurement depends on, in the checkout `root`."""
    files = files_of(*CODE[kind], __name__, root=root)
    return digest([*files, root / PAGE.relative_to(ROOT)] if kind == "browser" else files, root)


class Bench:
    """The artifacts, the test pictures, and the measurements of them.

    `limit` is the number of test pictures to use; None for all. `root` is the checkout whose code runs the artifacts,
    and `measured` the folder where measurements are stored.
    """

    def __init__(
        self,
        folder: Path,
        dataset: str,
        limit: int | None,
        settings: Settings,
        root: Path = ROOT,
        measured: Path | None = None,
    ) -> None:
        self.folder, self.root = folder, root
        self.subjects = find_subjects(folder)
        self.dataset, self.limit = dataset, limit
        self._questions: dict[Path, Questions] = {}
        self.settings = settings
        self.rounds, self._doubted = settings.rounds, frozenset[str]()
        self.machine: Machine = this_machine()
        self.store = Store(measured or folder / "report" / "measured")
        self.code = {kind: code_of(kind, root) for kind in CODE}
        self._sessions = contextlib.ExitStack()
        """What the tasks of a stage share."""
        self._session: Session | str | None = None
        self._pacer: Callable[..., Record] | None = None

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

    def run(self, only_answers: bool = False) -> Measurements:
        """Make every measurement that is not stored yet, and return all."""
        done, pending = Measurements(), list(self._stages())[: 1 if only_answers else None]
        for stage in pending:
            for task in stage:
                if stored := self.store.get(task.name, task.about):
                    done.results[task.name] = stored
        self._run_stages([[task for task in stage if task.name not in done.results] for stage in pending], done)
        tasks = {task.name: task for stage in pending for task in stage}
        for _ in range(REPEATS):
            if again := [tasks[name] for name in disagreeing(done.results) if name in tasks]:
                self._run_stages([again], done)
        return done

    def _run_stages(self, left: list[list[Task]], done: Measurements) -> None:
        total = sum(SECONDS[task.kind] for stage in left for task in stage)
        with tqdm(total=total, unit="s", bar_format=BAR, dynamic_ncols=True, disable=None) as bar:
            for number, listed in enumerate(left, 1):
                stage = [task for task in listed if not self._is_shown_already(task, done)]
                bar.update(sum(SECONDS[task.kind] for task in listed) - sum(SECONDS[task.kind] for task in stage))
                if bar.disable and stage:  # a log gets one line for each stage
                    print(
                        f"measuring, {number}/{len(left)}: {len(stage)} of {stage[0].kind}", file=sys.stderr, flush=True
                    )
                with self._sessions:
                    self._run_stage(stage, done, bar)
                self._session = self._pacer = None

    def _run_stage(self, stage: list[Task], done: Measurements, bar: Any) -> None:
        is_timed = any(task.kind != "answers" for task in stage)
        if is_timed or not all(is_own(subject.folder.parent) for subject in self.subjects):
            for task in stage:
                self._run_task(task, done, bar)
            return
        with ThreadPoolExecutor(ANSWERED_AT_ONCE) as pool:
            for _ in pool.map(lambda task: self._run_task(task, done, bar), stage):
                pass

    def _run_task(self, task: Task, done: Measurements, bar: Any) -> None:
        bar.set_description_str(task.name)
        start = time.perf_counter()
        try:
            measured = task.measure()
        except (RosettaError, RuntimeError, OSError, subprocess.SubprocessError) as error:
            done.failures[task.name] = reason_of(error)
        else:
            done.results[task.name] = {**measured, "seconds": round(time.perf_counter() - start, 2)}
            self.store.put(task.name, task.about, done.results[task.name])
        bar.update(SECONDS[task.kind])

    def _is_shown_already(self, task: Task, done: Measurements) -> bool:
        """Whether SwiftShader runs the row: one round shows that it runs, and its time is no graphics processor's."""
        row, _, round = task.name.rpartition("-")
        if task.kind != "browser" or int(round) not in range(1, self.settings.rounds):
            return False
        return SWIFTSHADER in done.results.get(f"{row}-0", {}).get("backend", "").lower()

    def _stages(self) -> Iterator[list[Task]]:
        """The stages in their order; the tasks within a stage are in random order."""
        order = random.Random(self.settings.seed)
        usable = [subject for subject in self.subjects if subject.manifest and not needs(subject.folder.name)]
        yield self._shuffled(order, map(self._answers, usable))
        for round in range(self.rounds):
            timed = [subject for subject in usable if not proven_on(subject.folder.name)]
            server = [subject for subject in timed if self._is_due(f"{subject.name}@server", round)]
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
            "code": self.code[kind],
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
            folder, target = str(subject.folder.resolve()), str(file.resolve())
            run_child("compare.answers", folder, target, "--dataset", self.dataset, *limit, root=self.root)
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
            return {**json.loads(output.splitlines()[-1]), "bare": bare_interpreter(), "pace": self._pace(COMPUTE)}

        return self._task("time", subject, f"{subject.name}-{round}", measure, seconds=seconds, threads=threads)

    def _http(self, subject: Subject, round: int) -> Task:
        seconds, threads = self.settings.seconds, self.settings.threads

        def measure() -> Record:
            measured = http_calls.measure(
                subject.folder, self.pictures(subject), self.answers(subject), seconds, threads
            )
            return {**measured, "pace": self._pace(SYSTEM, START)}

        return self._task("http", subject, f"{subject.name}-{round}", measure, seconds=seconds, threads=threads)

    def _pace(self, *kinds: str) -> Record:
        """How long the machine takes at this moment for fixed work of these kinds."""
        if self._pacer is None:
            self._pacer = self._sessions.enter_context(measuring())
        return self._pacer(*kinds)

    def _browser(self, subject: Subject, round: int) -> Iterator[Task]:
        seconds = self.settings.seconds
        for runtime in runtimes_of(subject.folder.name):

            def measure(runtime: str = runtime) -> Record:
                return self._open_session().measure(
                    subject.folder,
                    runtime,
                    self.pictures(subject),
                    most(self.answers(subject)),
                    seconds,
                    with_classes=round == 0,
                )

            if self._is_due(row := f"{subject.name}@{runtime}", round):
                yield self._task("browser", subject, f"{row}-{round}", measure, seconds=seconds)

    def _open_session(self) -> Session:
        """The session for all rows of a stage. Raises RuntimeFailure, each time, if it could not be opened."""
        if self._session is None:
            folders = [
                subject.folder for subject in self.subjects if subject.manifest and runtimes_of(subject.manifest.format)
            ]
            try:
                (self._session,) = self._sessions.enter_context(sessions((folders, self.root)))
            except RosettaError as error:
                self._session = str(error)
        if isinstance(self._session, str):
            raise RuntimeFailure(self._session)
        return self._session

    def _fault(self, subject: Subject) -> Task:
        return self._task("fault", subject, subject.folder.name, lambda: fault_of(subject.folder.name))


BAR = "{desc}: {percentage:3.0f}%|{bar}| {elapsed} elapsed, about {remaining} left"


def downloads_agree(downloads: Collection[int]) -> bool:
    """Whether rounds brought the same bytes: a request may count for the page in one and for the runtime in another."""
    return max(downloads) <= SAME_DOWNLOAD * min(downloads)


def disagreeing(results: Mapping[str, Record]) -> list[str]:
    """The rounds in a browser whose download is not that of most rounds of their row: a part was not seen, or twice."""
    rows = defaultdict[str, dict[str, int]](dict)
    for name, record in results.items():
        if name.startswith("browser-"):
            rows[name.rpartition("-")[0]][name] = record["runtime_download"] + record["model_download"]
    return [
        name
        for rounds in rows.values()
        for name, download in rounds.items()
        if not downloads_agree([download, statistics.median_low(rounds.values())])
    ]


def run_child(module: str, *arguments: str, root: Path = ROOT) -> str:
    """The output of `python -m module` in a fresh process, with the code of the checkout `root`.

    Raises RuntimeFailure with the reason if it fails.
    """
    command = [python_of(root), "-m", module, *arguments]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False, timeout=CHILD_SECONDS)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        raise RuntimeFailure(lines[-1].removeprefix("error: "))
    return done.stdout


def reason_of(error: Exception) -> str:
    """Why a measurement failed, for people."""
    if isinstance(error, subprocess.TimeoutExpired):
        return f"It took longer than {error.timeout:.0f} s."
    return str(error).strip() or type(error).__name__
