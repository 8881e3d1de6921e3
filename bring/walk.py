"""Bring your own model: from a file to every format that it can be written in, each compared with the file itself.

The file takes the place of training; exports and parity are those of our own models. Whatever reads the file runs in a
child process without a network (bring/sandbox.py). bring/search.py decides what is tried next. A format that cannot be
made leaves its reason in `failed/<format>.json`; the others go on.
"""

import json
import re
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from tqdm import tqdm

from bring import sandbox, words
from bring.data_folder import class_folders, questions_for
from bring.description import Description, describe
from bring.publish import FINGERPRINT, check, fingerprint, is_published, publish
from bring.sandbox import Cell, ChildFailed, Limits
from bring.search import Attempt, Edge, Export, PutAside, Search, Verify, reachable
from contract.behaviour import read_behaviour
from contract.errors import BroughtError
from contract.failed_edge import write_failed_edge
from contract.manifest import MANIFEST, Manifest, read_manifest, write_json
from contract.parity_result import ParityResult, read_status
from verify import questions
from verify.samples import write_samples_of


@dataclass(frozen=True)
class Cost:
    """What it took to bring a model."""

    seconds: float
    peak: int
    """Resident bytes, the most that a child took."""


def bring(path: Path, name: str, artifacts: Path, options: Mapping[str, str], limits: Limits) -> Cost | None:
    """Write `artifacts/<name>` anew, whole, or not at all; None where nothing changed since the last time.

    `options` are those of bring/options.py that the user set. Raises RosettaError.
    """
    expected = fingerprint(path, options)
    if is_published(artifacts / name, expected):
        print(words.unchanged(name), flush=True)
        return None
    start = time.monotonic()
    description = _with_classes(describe(path, options))
    with sandbox.cell(artifacts, path, limits) as cell:
        model = cell.folder / name
        written = sandbox.run(
            cell,
            "bring.source",
            str(path.resolve()),
            str(model),
            "--name",
            name,
            "--description",
            description.to_json(),
        )
        summary = json.loads(written.output.splitlines()[-1])
        source = read_manifest(model / str(summary["format"]))
        print(f"{name}: {source.made_with['verdict']}", flush=True)
        rows = questions_for(source, description.data, int(summary["integer_bound"]), path.name)
        questions_file = Path(questions.FOLDER, f"{name}.npz")
        questions.write(cell.folder / questions_file, rows)
        walk = Walk(cell, name, source, written.peak)
        walk.go()
        check(model)
        write_json(model / FINGERPRINT, expected)
        publish(cell.folder / questions_file, artifacts / questions_file)
        publish(model, artifacts / name)
    if rows.pictures is not None:
        write_samples_of(rows, source, artifacts / "samples")
    cost = Cost(time.monotonic() - start, walk.peak)
    print(words.done(name, cost.seconds, cost.peak), flush=True)
    return cost


def _with_classes(description: Description) -> Description:
    """With the subfolders of DATA as names of the classes, for a model that has no labels and as many classes."""
    if description.data is None or description.labels:
        return description
    return replace(description, classes=tuple(folder.name for folder in class_folders(description.data)))


class Walk:
    """Carries out the steps of the search, in the sandbox: the exports of one model, and their parity."""

    def __init__(self, cell: Cell, name: str, source: Manifest, peak: int) -> None:
        self.cell = cell
        self.name = name
        self.source = source
        self.peak = peak
        """Resident bytes, the most that a child took."""
        self.search = Search(list(reachable(source.format)))
        self._model = cell.folder / name
        self._parity_log = ""
        """What the last comparison wrote, where an artifact could not be run."""
        self._logs: dict[str, list[str]] = {format: [] for format in self.search.edges}
        """What the converters wrote that failed, by the format."""

    def go(self) -> None:
        """Until every format passes, or has no other route; then keep the best of each."""
        edges = list(self.search.edges.values())
        if len(edges) > 1:
            self._export_all()
        with tqdm(total=len(edges), desc=self.name, unit="format", dynamic_ncols=True, disable=None) as bar:
            while step := self.search.next_step():
                bar.n = sum(edge.artifact is not None for edge in edges)
                match step:
                    case Export(edge):
                        bar.set_postfix_str(f"{edge.parent} -> {edge.format}")
                        self._export(step)
                    case Verify():
                        bar.set_postfix_str("parity")
                        self._verify()
                    case PutAside():
                        self._put_aside(step)
        for edge in edges:
            self._settle(edge)

    def _export_all(self) -> None:
        """Along the first routes, in one process: a framework's start costs more than a small model's conversion.

        What fails is tried along its other routes, each in a process of its own.
        """
        failures, log = {}, ""
        try:
            self._run("export", str(self._model / self.source.format), "all")
        except ChildFailed as error:
            failures, log = dict(re.findall(r"^error: (\w+): (.*)$", error.log, re.MULTILINE)), error.log
        for edge in self.search.edges.values():
            if edge.format in failures:
                section = words.section(log, f"{edge.parent} -> {edge.format}")
                self._fail(edge, failures[edge.format], f"{section}{failures[edge.format]}")
            elif (self._model / edge.format / MANIFEST).exists():
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
        self._logs[edge.format].append(f"--- {edge.parent} -> {edge.format}, by {edge.routes[edge.next_route]}\n{log}")
        edge.failed(error)

    def _verify(self) -> None:
        """Compare all artifacts with the source; one that cannot be run has no result."""
        try:
            self._run("verify", str(self._model))
            self._parity_log = ""
        except ChildFailed as error:
            self._parity_log = error.log
        made = [edge.format for edge in self.search.edges.values() if edge.artifact]
        self._check_source()
        self.search.verified({format: self._result(format) for format in made})

    def _check_source(self) -> None:
        """Raise BroughtError where the source itself gives no answers that others could be compared with."""
        behaviour = read_behaviour(self._model / self.source.format)
        if behaviour is None:
            reason = words.runtime_error(self._parity_log, f"{self.name}-{self.source.format}")
            raise BroughtError(f"the file was read, and its model cannot be run: {reason}")
        if behaviour.unsteady:
            raise BroughtError(f"the model {behaviour.unsteady_words}")

    def _result(self, format: str) -> ParityResult | str:
        """What parity says of an artifact, or why its runtime could not run it."""
        parity = read_status(self._model / format).parity
        return parity or words.runtime_error(self._parity_log, f"{self.name}-{format}")

    def _put_aside(self, step: PutAside) -> None:
        edge, attempt = step.edge, step.edge.artifact
        if attempt and attempt.parity is None:
            self._logs[edge.format].append(f"--- {edge.format}, by {attempt.route}, run\n{self._run_log(edge)}")
        if step.is_best:
            shutil.rmtree(self._aside(edge), ignore_errors=True)
            (self._model / edge.format).rename(self._aside(edge))
        for format in (edge.format, *step.below):
            shutil.rmtree(self._model / format, ignore_errors=True)
        self.search.put_aside(step)

    def _run_log(self, edge: Edge) -> str:
        """What the artifact's runtime wrote in the last comparison; no other artifact's words."""
        return words.section(self._parity_log, f"{self.name}-{edge.format}")

    def _aside(self, edge: Edge) -> Path:
        return self.cell.folder / f"aside-{edge.format}"

    def _settle(self, edge: Edge) -> None:
        """Keep the best of what was tried, or record why there is nothing."""
        ending, folder = self.search.ending(edge), self._model / edge.format
        if ending is None or ending is not edge.artifact or ending.parity is None:
            shutil.rmtree(folder, ignore_errors=True)
        if ending is None or ending.parity is None:
            self._record_failure(edge, ending)
            return
        if ending is edge.aside:
            self._aside(edge).rename(folder)
        print(words.kept(f"{self.name}-{edge.format}", ending.parity), flush=True)

    def _record_failure(self, edge: Edge, ending: Attempt | None) -> None:
        run = [self._run_log(edge)] if ending is not None else []
        log = "\n".join([*self._logs[edge.format], *run])
        failed = words.failed_edge(self.name, edge, ending, log, self.cell.folder)
        write_failed_edge(self.cell.folder, failed, log.replace(str(self.cell.folder), ""))
        print(words.failed(failed), flush=True)

    def _run(self, module: str, *arguments: str) -> None:
        """Raises ChildFailed."""
        done = sandbox.run(self.cell, module, *arguments)
        self.peak = max(self.peak, done.peak)
