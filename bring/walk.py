"""Bring your own model: from a file to every format that it can be written in, each compared with the file itself.

The file takes the place of training; exports and parity are those of our own models. Whatever reads the file runs in a
child process without a network (contract/cell/sandbox.py). bring/search.py decides what is tried next. A format that
cannot be made leaves its reason in `failed/<format>.json`; the others go on.
"""

import json
import re
import shutil
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bring import neighbours, words
from bring.data_folder import class_folders, questions_for, set_aside
from bring.description import Description, describe
from bring.progress import Progress
from bring.publish import check, given_by, hash_of_code, hashes_of_read, is_published, publish
from bring.search import Attempt, Edge, Export, PutAside, Search, Verify, reachable
from bring.workshop import Workshops, modules_to_run
from contract import calibration as calibrations
from contract.behaviour import read_behaviour
from contract.calibration import Calibration
from contract.cell import sandbox
from contract.cell.harvest import Harvest
from contract.cell.sandbox import Cell, ChildFailed, Finished, Limits
from contract.errors import BroughtError, shortened
from contract.failed_edge import FailedEdge, write_failed_edge
from contract.formats import FORMATS, family_of
from contract.mac_record import QUESTIONS
from contract.manifest import BROUGHT, MANIFEST, Manifest, read_manifest, write_json
from contract.parity_result import ParityResult, read_status
from contract.precisions import NONE, chosen
from verify import questions
from verify.mac.proof import leave_script
from verify.samples import write_samples_of

PROGRESS_SECONDS = 0.2

Outcome = Finished | ChildFailed
"""What came of a step."""

LOG = 20_000
"""Characters of a converter's or runtime's output that are kept: a graph that is printed whole says no more."""


@dataclass(frozen=True)
class Cost:
    """What it took to bring a model."""

    seconds: float
    peak: int
    """Resident bytes, the most that a child took."""


@dataclass(frozen=True)
class Reduced:
    """Which variants of reduced precision are made, and what they may lose: PRECISION and MAX_LOSS."""

    precision: str = NONE
    max_loss: str = ""

    @property
    def formats(self) -> tuple[str, ...]:
        """Raises PrecisionError."""
        return tuple(precision.format for precision in chosen(self.precision))

    @property
    def calibrates(self) -> bool:
        """Whether one of them takes ranges from rows. Raises PrecisionError."""
        return any(precision.calibrated for precision in chosen(self.precision))


def bring(
    path: Path,
    name: str,
    artifacts: Path,
    options: Mapping[str, str],
    limits: Limits,
    reduced: Reduced = Reduced(),
) -> Cost | None:
    """Write `artifacts/<name>` anew, whole, or not at all; None where nothing changed since the last time.

    `options` are those of bring/options.py that the user set. Raises RosettaError.
    """
    start = time.monotonic()
    description = _with_classes(describe(path, options))
    expected = given_by(path, description) | {"reduced": [*reduced.formats, reduced.max_loss]}
    if (artifacts / name / BROUGHT).exists() and is_published(
        artifacts / name, path, expected | {"code": hash_of_code()}
    ):
        print(words.unchanged(name), flush=True)
        return None
    with sandbox.cell(artifacts, path, limits) as cell, Workshops() as workshops:
        cell = sandbox.showing(cell, path, neighbours.of(path, cell, description.architecture))
        if description.architecture_path is not None:
            cell = sandbox.showing_folder(cell, Path(description.architecture_path))
        model = cell.folder / name
        description = _with_rows_in(cell, description)
        about = ("--name", name, "--description", description.to_json())
        if sandbox.has_room_for_two(cell):
            workshops.prepare_all(cell)
        expected["code"] = hash_of_code()  # here, while the others import
        written = workshops.read(cell, "bring.source", str(cell.file), str(model), *about)
        summary = _summary(written.output, path.name)
        expected["read"] = hashes_of_read(path, summary["read"])  # at once, before anybody changes them
        harvest = Harvest(cell.folder, name, cell.kept / "records")
        harvest.read_records()
        source = read_manifest(harvest.records / summary["format"])
        _print_reading(name, source, description)
        rows = questions_for(source, description, summary["integer_bound"], path.name)
        calibration = None
        if reduced.calibrates and (description.data or description.rows):
            rows, calibration = set_aside(rows)
        questions_file = Path(questions.FOLDER, f"{name}.npz")
        questions.write(cell.given / questions_file, rows)
        walk = Walk(cell, workshops, harvest, name, source, written.peak)
        samples = cell.kept / "samples"
        with ThreadPoolExecutor(1) as beside:  # 200 pictures take a second, for which nothing has to wait at the end
            writing = beside.submit(write_samples_of, rows, source, samples) if rows.pictures is not None else None
            walk.go()
            if reduced.formats:
                walk.reduce(reduced, calibration)
        check(walk.made)
        write_json(walk.made / BROUGHT, expected)
        publish(cell.given / questions_file, artifacts / questions_file)
        publish(walk.made, artifacts / name)
        if writing is not None:
            writing.result()
            publish(samples, artifacts / "samples")
    cost = Cost(time.monotonic() - start, walk.peak)
    print(words.done(name, cost.seconds, cost.peak), flush=True)
    return cost


def _print_reading(name: str, source: Manifest, description: Description) -> None:
    """Say what the file was taken for."""
    print(f"{name}: {source.made_with['verdict']}", flush=True)
    for note in source.made_with["notes"]:
        print(f"{name}: {note}", flush=True)
    if description.answers is None and set(source.made_with["ending"]) - {"both"}:
        print(words.taken_as_logits(name, source.made_with["ending"][0]), flush=True)


def _summary(output: str, name: str) -> dict[str, Any]:
    """The last line of bring.source. Raises BroughtError for anything else: what read the file may have printed it."""
    try:
        summary = json.loads(output.splitlines()[-1])
        names = summary["read"]
        is_known = summary["format"] in FORMATS and type(summary["integer_bound"]) is int
        if is_known and isinstance(names, list) and all(isinstance(name, str) for name in names):
            return dict(summary)
    except (ValueError, LookupError, TypeError, RecursionError):
        pass
    raise BroughtError(f"{name} was read, and what it is was not reported: nothing of it is kept.")


def _with_classes(description: Description) -> Description:
    """With the subfolders of DATA as names of the classes, for a model that has no labels and as many classes."""
    if description.data is None or description.labels or description.answers == "values":
        return description
    return replace(description, classes=tuple(folder.name for folder in class_folders(description.data)))


def _with_rows_in(cell: Cell, description: Description) -> Description:
    """With a copy of the user's rows in the cell: its children may not read the user's folders."""
    if description.rows is None:
        return description
    folder = cell.given / "rows"
    folder.mkdir()
    copy = Path(shutil.copyfile(description.rows, folder / description.rows.name))
    folder.chmod(0o755)  # whatever this user's umask is
    copy.chmod(0o644)
    return replace(description, rows=copy)


class Walk:
    """Carries out the steps of the search, in the sandbox: the exports of one model, and their parity."""

    def __init__(
        self, cell: Cell, workshops: Workshops, harvest: Harvest, name: str, source: Manifest, peak: int
    ) -> None:
        self.cell = cell
        self.workshops = workshops
        self.harvest = harvest
        self.name = name
        self.source = source
        self.peak = peak
        """Resident bytes, the most that a child took."""
        self.search = Search(list(reachable(source.format)))
        self.made = cell.kept / "made" / name
        """What is kept, checked, in a folder that no child sees."""
        self._model = cell.folder / name
        self._questions = cell.given / questions.FOLDER / f"{name}.npz"
        self._source_is_checked = False
        self._parity_log = ""
        """What the last comparison wrote, where an artifact could not be run."""
        self._parity_ended = ""
        """Why that comparison ended."""
        self._load = modules_to_run({source.format, *self.search.edges})
        """What every step imports."""
        self._logs: dict[str, list[str]] = {format: [] for format in self.search.edges}
        """What the converters wrote that failed, by the format."""
        self._run_logs: dict[str, str] = {}
        """What each artifact's runtime wrote when it was compared the last time; no other artifact's words."""

    def go(self) -> None:
        """Until every format passes, or has no other route; then keep the best of each."""
        edges = list(self.search.edges.values())
        self.workshops.prepare(self.cell, "verify", self._load)
        with Progress(self.name, len(edges)) as progress:
            if len(edges) > 1:
                self._export_all(progress)
            while step := self.search.next_step():
                made = [edge.artifact for edge in edges if edge.artifact is not None]
                progress.reached(len(made), sum(artifact.was_compared for artifact in made))
                match step:
                    case Export(edge):
                        progress.doing(f"{edge.parent} -> {edge.format}, by {edge.routes[step.route]}")
                        self._export(step)
                    case Verify():
                        progress.doing(f"comparing {', '.join(self.search.unverified())}")
                        self._verify()
                    case PutAside():
                        self._put_aside(step)
        self.harvest.copy_artifact(self.source.format, self.made / self.source.format)
        for edge in edges:
            self._settle(edge)

    def reduce(self, reduced: Reduced, rows: Calibration | None) -> None:
        """Make variants of reduced precision of what is there, and compare them; what fails leaves its record."""
        about = ["--precision", reduced.precision]
        if rows is not None:
            file = self.cell.given / calibrations.FOLDER / f"{self.name}.npz"
            calibrations.write(file, rows)
            about += ["--calibration", str(file)]
        try:
            output = self._run("export.precision", str(self._model), *about)
        except ChildFailed:
            output = "\n".join(self._alone(format, about) for format in reduced.formats)
        for format, reason in words.not_made(output, self.name).items():
            self._record_variant(format, reason)
        made = [format for format in reduced.formats if (self.harvest.records / format / MANIFEST).exists()]
        if not made:
            return
        about = ["--formats", *made, *(["--max-loss", reduced.max_loss] if reduced.max_loss else [])]
        try:
            self._run("verify", str(self._model), "--judged", "--questions", str(self._questions), *about)
        except ChildFailed as error:
            self._parity_log = error.log
        for format in made:
            self._settle_variant(format)

    def _alone(self, format: str, about: Sequence[str]) -> str:
        """The line of a variant that is not there, after the process that makes all of them was ended.

        A quantiser may crash, or take more memory than it may: that is no reason for the other variants.
        """
        records = self.harvest.records
        if (records / format / MANIFEST).exists() or not (records / family_of(format) / MANIFEST).exists():
            return ""
        try:
            return self._run("export.precision", str(self._model), *about, "--only", format)
        except ChildFailed as error:
            return words.not_made_line(f"{self.name}-{format}", str(error))

    def _settle_variant(self, format: str) -> None:
        parity = self._result(format)
        if not isinstance(parity, ParityResult):
            self._record_variant(format, f"it was made, and its runtime cannot run it: {parity}")
            return
        self.harvest.copy_artifact(format, self.made / format)
        print(f"{self.name}-{format}: {words.of_parity(parity, self.source.has_classes)}", flush=True)

    def _record_variant(self, format: str, reason: str) -> None:
        failed = FailedEdge(self.name, format, family_of(format), reason)
        write_failed_edge(self.made.parent, failed, f"{reason}\n")
        print(words.failed(failed), flush=True)

    def _export_all(self, progress: Progress) -> None:
        """Along the first routes, in one process: a framework's start costs more than a small model's conversion.

        What fails is tried along its other routes, each in a step of its own. Where the machine has room for it,
        another process compares each artifact as soon as it is there.
        """
        export, failures, log = ("export", str(self._model / self.source.format), "all"), {}, ""
        compared = None
        if sandbox.has_room_for_two(self.cell):
            exported, compared = self._side_by_side(export, progress)
        else:
            progress.doing("converting")
            exported = self._outcome(*export)
        self.harvest.read_records()
        self.peak = max(self.peak, exported.peak + (compared.peak if compared else 0))
        if isinstance(exported, ChildFailed):
            failures, log = dict(re.findall(r"^error: (\w+): (.*)$", exported.log, re.MULTILINE)), exported.log
        self._record_exports(failures, log)
        ended = isinstance(compared, ChildFailed) and compared.is_at_limit  # it had less than it has alone
        if compared and not ended and self.search.unverified():
            self._record_comparison(compared)

    def _side_by_side(self, export: Sequence[str], progress: Progress) -> tuple[Outcome, Outcome]:
        """Run this export, and compare what it writes meanwhile; what came of both."""
        until = self.cell.given / "all_converted"
        compare = (*self._comparison(list(self.search.edges)), "--until", str(until))
        if sandbox.can_be_in_two(self.cell):
            compare += ("--in-two",)
        self.workshops.prepare(self.cell, "export", self._load)  # before there are two threads
        with ThreadPoolExecutor(2) as pool:
            try:
                steps = [pool.submit(self._outcome, *step) for step in (export, compare)]
                while left := [step for step in steps if not step.done()]:
                    if steps[0] not in left:
                        until.touch()
                    progress.reached(*self.harvest.counts(), self.search.edges)
                    wait(left, PROGRESS_SECONDS, FIRST_COMPLETED)
                exported, compared = (step.result() for step in steps)
                return exported, compared
            except BaseException:
                self.workshops.stop()  # or the pool would wait for what nobody needs
                raise

    def _record_exports(self, failures: Mapping[str, str], log: str) -> None:
        for edge in self.search.edges.values():
            if edge.format in failures:
                section = words.section(log, f"{edge.parent} -> {edge.format}")
                self._fail(edge, failures[edge.format], f"{section}{failures[edge.format]}")
            elif (self.harvest.records / edge.format / MANIFEST).exists():
                edge.converted()

    def _export(self, step: Export) -> None:
        edge = step.edge
        try:
            self._run("export", str(self._model / edge.parent), edge.format, "--route", str(step.route))
        except ChildFailed as error:
            self._fail(edge, str(error), error.log)
        else:
            edge.converted()

    def _fail(self, edge: Edge, error: str, log: str) -> None:
        title = f"--- {edge.parent} -> {edge.format}, by {edge.routes[edge.next_route]}"
        self._logs[edge.format].append(f"{title}\n{shortened(log, LOG)}")
        edge.failed(error)

    def _verify(self) -> None:
        """Compare with the source what has no result yet; what cannot be run gets none."""
        new = self.search.unverified()
        if not new and self._source_is_checked:
            self.search.verified({})
            return
        compared = self._outcome(*self._comparison(new))
        self.harvest.read_records()
        self.peak = max(self.peak, compared.peak)
        self._record_comparison(compared)

    def _comparison(self, formats: Sequence[str]) -> tuple[str, ...]:
        about = ["--formats", *formats] if formats else []
        return "verify", str(self._model), "--judged", "--questions", str(self._questions), "--quick", *about

    def _record_comparison(self, compared: Outcome) -> None:
        """Record what a comparison says of all artifacts that had no result."""
        has_failed = isinstance(compared, ChildFailed)
        self._parity_log, self._parity_ended = (compared.log, str(compared)) if has_failed else ("", "")
        self._check_source()
        self._source_is_checked = True
        new = self.search.unverified()
        for format in new:
            self._run_logs[format] = shortened(words.section(self._parity_log, f"{self.name}-{format}"), LOG)
        self.search.verified({format: self._result(format) for format in new})

    def _check_source(self) -> None:
        """Raise BroughtError where the source itself gives no answers that others could be compared with."""
        behaviour = read_behaviour(self.harvest.records / self.source.format)
        if behaviour is None:
            reason = words.runtime_error(self._parity_log, f"{self.name}-{self.source.format}", self._parity_ended)
            raise BroughtError(f"the file was read, and its model cannot be run: {reason}")
        if behaviour.unsteady:
            raise BroughtError(f"the model {behaviour.unsteady_words}")

    def _result(self, format: str) -> ParityResult | str | None:
        """What parity says of an artifact, or why its runtime could not run it; None where nothing here runs it."""
        parity = read_status(self.harvest.records / format).parity
        if parity is None and (self.harvest.records / format / QUESTIONS).exists():
            return None
        return parity or words.runtime_error(self._parity_log, f"{self.name}-{format}", self._parity_ended)

    def _put_aside(self, step: PutAside) -> None:
        edge, attempt = step.edge, step.edge.artifact
        if attempt and attempt.parity is None:
            self._logs[edge.format].append(f"--- {edge.format}, by {attempt.route}, run\n{self._run_logs[edge.format]}")
        if step.is_best:
            self.harvest.put_aside(edge.format)
        for format in (edge.format, *step.below):
            self.harvest.remove(format)
        self.search.put_aside(step)

    def _settle(self, edge: Edge) -> None:
        """Keep the best of what was tried, or record why there is nothing."""
        ending = self.search.ending(edge)
        if ending is None or not (ending.parity or ending.is_unknown):
            self._record_failure(edge, ending)
            return
        if ending is edge.aside:
            self.harvest.take_back(edge.format)
        self.harvest.copy_artifact(edge.format, self.made / edge.format)
        leave_script(self.made / edge.format)
        print(words.kept(f"{self.name}-{edge.format}", edge, ending, self.source.has_classes), flush=True)

    def _record_failure(self, edge: Edge, ending: Attempt | None) -> None:
        run = [self._run_logs[edge.format]] if ending is not None else []
        logs = [*self._logs[edge.format], *run]
        log = "\n".join(logs)
        # The reason is that of the last route: no other one's log is evidence of it.
        failed = words.failed_edge(self.source, edge, ending, logs[-1] if logs else "", self.cell.folder)
        write_failed_edge(self.made.parent, failed, log.replace(str(self.cell.folder), ""))
        print(words.failed(failed), flush=True)

    def _outcome(self, module: str, *arguments: str) -> Outcome:
        """What came of a step; nothing of what it left behind is looked at."""
        try:
            return self.workshops.run(self.cell, module, *arguments, load=self._load)
        except ChildFailed as error:
            return error

    def _run(self, module: str, *arguments: str) -> str:
        """What it printed. Raises ChildFailed; what it left behind counts either way."""
        done = self._outcome(module, *arguments)
        self.harvest.read_records()
        self.peak = max(self.peak, done.peak)
        if isinstance(done, ChildFailed):
            raise done
        return done.output
