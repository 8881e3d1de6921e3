"""Bring your own model: from a file to every format that it can be written in, compared with itself.

The file takes the place of training (bring); exports and parity are those of our own models. Whatever reads the
file runs in a child without a network (bring/sandbox.py). An edge that fails is tried by its other routes, parity
decides between them, and what cannot be had at all leaves its reason in `failed/<format>.json`; the others go on.
"""

import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from bring import sandbox
from bring.causes import explain
from bring.data_folder import class_folders, questions_for
from bring.description import FILE as MODEL_TOML
from bring.description import Description, describe
from bring.sandbox import GIB, Cell, ChildFailed, Limits
from contract.code import LOCK, files_of
from contract.errors import BroughtError
from contract.failed_edge import FailedEdge, FailedRoute, write_failed_edge
from contract.manifest import MANIFEST, Manifest, read_manifest, verify_files, write_json
from contract.parity_result import ParityResult, read_status
from export import EXPORTERS, find_routes
from verify import questions
from verify.samples import write_samples_of

SCHEMA = 1
DONE = "brought.json"
CODE = ("bring.source", "bring.readers.*", "bring.verdict.*", "export.*")
"""What artifacts are made by: other code makes them anew."""


@dataclass(frozen=True)
class Cost:
    """What a model took."""

    seconds: float
    peak: int
    """Resident bytes, the most that a child took."""


@dataclass
class Edge:
    """A format that is to be reached, and what was tried for it."""

    parent: str
    format: str
    routes: Sequence[str]
    tried: int = 0
    errors: list[tuple[str, str]] = field(default_factory=list)
    """(route, what it said)."""
    logs: list[str] = field(default_factory=list)
    unable: str = ""
    """What the runtime said of the last artifact that it could not run."""
    kept: tuple[float, Path] | None = None
    """The best of what failed parity: how far off it is, and where it was put aside."""

    @property
    def has_another(self) -> bool:
        return self.tried < len(self.routes)


def bring(path: Path, name: str, artifacts: Path, said: Mapping[str, str], limits: Limits) -> Cost | None:
    """Write `artifacts/<name>` anew, whole, or not at all; None where it is the same already. Raises RosettaError."""
    state = _state(path, said)
    if _is_done(artifacts / name, state):
        print(f"{name}: nothing changed since it was brought", flush=True)
        return None
    start = time.monotonic()
    description = _with_classes(describe(path, said))
    with sandbox.cell(artifacts, path, limits) as cell:
        model = cell.folder / name
        written = sandbox.run(
            cell, "bring.source", str(path.resolve()), str(model), "--name", name, "--said", description.to_json()
        )
        told = json.loads(written.output.splitlines()[-1])
        manifest = read_manifest(model / str(told["format"]))
        print(f"{name}: {manifest.made_with['verdict']}", flush=True)
        asked = questions_for(manifest, description.data, int(told["below"]), path.name)
        questions.write(cell.folder / questions.FOLDER / f"{name}.npz", asked)
        walk = Walk(cell, name, manifest, written.peak)
        walk.go()
        _check(model, name)
        write_json(model / DONE, state)
        _take(cell.folder / questions.FOLDER / f"{name}.npz", artifacts / questions.FOLDER / f"{name}.npz")
        _take(model, artifacts / name)
    if asked.pictures is not None:
        write_samples_of(asked, manifest, artifacts / "samples")
    cost = Cost(time.monotonic() - start, walk.peak)
    print(f"{name}: brought in {cost.seconds:.0f} s, at most {cost.peak / GIB:.1f} GiB of memory", flush=True)
    return cost


def _with_classes(description: Description) -> Description:
    """The subfolders of DATA name the classes where nothing else does, and where there is one a class."""
    if description.data is None or description.labels:
        return description
    return replace(description, classes=tuple(folder.name for folder in class_folders(description.data)))


@dataclass
class Walk:
    """The exports of one brought model, and their parity."""

    cell: Cell
    name: str
    source: Manifest
    peak: int
    """The most memory that a child took."""
    log: str = ""
    """What the last comparison wrote, where an artifact could not be run."""

    def __post_init__(self) -> None:
        self.model = self.cell.folder / self.name
        self.edges = {edge.format: edge for edge in reachable(self.source.format)}

    def go(self) -> None:
        """Until every format passes, or has no other route."""
        if len(self.edges) > 1:
            self._export_all()
        with tqdm(total=len(self.edges) + 1, desc=self.name, unit="step", dynamic_ncols=True, disable=None) as bar:
            while True:
                for edge in self.edges.values():
                    if not (self.model / edge.format / MANIFEST).exists():
                        bar.set_postfix_str(f"{edge.parent} -> {edge.format}")
                        self._export(edge)
                        bar.update(bar.n < bar.total - 1)
                bar.set_postfix_str("parity")
                self._verify()
                if (again := self._worth_another_route()) is None:
                    break
                self._put_aside(again)
        for edge in self.edges.values():
            self._settle(edge)

    def _export_all(self) -> None:
        """By the first routes, in one process: a framework's start costs more than a small model's conversion.

        What fails is tried by its other routes, each in a process of its own.
        """
        source = self.model / self.source.format
        try:
            self.peak = max(self.peak, sandbox.run(self.cell, "export", str(source), "all").peak)
            failures = {}
        except ChildFailed as error:
            failures = dict(re.findall(r"^error: (\w+): (.*)$", error.log, re.MULTILINE))
            log = error.log
        for edge in self.edges.values():
            if edge.format in failures:
                edge.errors.append((edge.routes[0], failures[edge.format]))
                edge.logs.append(f"--- {edge.parent} -> {edge.format}, by {edge.routes[0]}\n{log}")
            if edge.format in failures or (self.model / edge.format / MANIFEST).exists():
                edge.tried = 1

    def _export(self, edge: Edge) -> None:
        """Along the first route that works; its errors stay."""
        parent = self.model / edge.parent
        if not (parent / MANIFEST).exists():
            return
        while edge.has_another:
            number, route = edge.tried, edge.routes[edge.tried]
            edge.tried += 1
            try:
                done = sandbox.run(self.cell, "export", str(parent), edge.format, "--route", str(number))
            except ChildFailed as error:
                edge.errors.append((route, str(error)))
                edge.logs.append(f"--- {edge.parent} -> {edge.format}, by {route}\n{error.log}")
            else:
                self.peak = max(self.peak, done.peak)
                return

    def _verify(self) -> None:
        """All artifacts against the source; one that cannot be run leaves no result."""
        try:
            done = sandbox.run(self.cell, "verify", str(self.model))
            self.peak, self.log = max(self.peak, done.peak), ""
        except ChildFailed as error:
            self.log = error.log

    def _result(self, edge: Edge) -> ParityResult | None:
        folder = self.model / edge.format
        return read_status(folder).parity if (folder / MANIFEST).exists() else None

    def _worth_another_route(self) -> Edge | None:
        """The first edge from the source whose artifact does not answer like it, if there is another route to it."""
        for edge in self.edges.values():
            result = self._result(edge)
            is_there = (self.model / edge.format / MANIFEST).exists()
            if is_there and edge.has_another and not (result and result.passed):
                return edge
        return None

    def _put_aside(self, edge: Edge) -> None:
        """Make room for the next route's artifact; what was exported from this one goes with it."""
        result = self._result(edge)
        off = result.max_abs_diff if result else float("inf")
        self._note(edge, result)
        if result is None:
            edge.logs.append(f"--- {edge.format}, by {edge.routes[edge.tried - 1]}, run\n{self.log}")
        if edge.kept is None or off < edge.kept[0]:
            aside = self.cell.folder / f"aside-{edge.format}-{edge.tried}"
            (self.model / edge.format).rename(aside)
            edge.kept = (off, aside)
        for format in (edge.format, *self._below(edge.format)):
            shutil.rmtree(self.model / format, ignore_errors=True)
        for below in self._below(edge.format):
            self.edges[below].tried = 0

    def _below(self, format: str) -> Iterator[str]:
        for edge in self.edges.values():
            if edge.parent == format:
                yield edge.format
                yield from self._below(edge.format)

    def _settle(self, edge: Edge) -> None:
        """Keep the best of what was tried, or say why there is nothing."""
        result = self._result(edge)
        off = result.max_abs_diff if result else float("inf")
        target = self.model / edge.format
        if result is None and (target / MANIFEST).exists():
            self._note(edge, result)
        if edge.kept and not (result and result.passed) and edge.kept[0] <= off and not any(self._below(edge.format)):
            shutil.rmtree(target, ignore_errors=True)
            edge.kept[1].rename(target)
            result = self._result(edge)
        if not (target / MANIFEST).exists():
            self._fail(edge, edge.errors[-1][1] if edge.errors else f"its parent, {edge.parent}, could not be made")
            shutil.rmtree(target, ignore_errors=True)
        elif result is None:
            self._fail(edge, edge.unable)
            shutil.rmtree(target, ignore_errors=True)
        else:
            print(f"{self.name}-{edge.format}: {_parity_words(result)}", flush=True)

    def _note(self, edge: Edge, result: ParityResult | None) -> None:
        """What became of the last route's artifact, which is no good."""
        if result is None:
            edge.unable = f"it was converted, and its runtime cannot run it: {self._last_words(edge.format)}"
        edge.errors.append((edge.routes[edge.tried - 1], _parity_words(result)))

    def _last_words(self, format: str) -> str:
        mine = f"{self.name}-{format}"
        lines = [line for line in self.log.splitlines() if mine in line or line.startswith("error: ")]
        return (lines or ["see the log"])[-1].removeprefix("error: ")

    def _fail(self, edge: Edge, said: str) -> None:
        log = "\n".join([*edge.logs, self.log])
        cause = explain(f"{edge.parent} -> {edge.format}", self._for_people(said), log)
        routes = tuple(FailedRoute(route, self._for_people(error)) for route, error in edge.errors)
        failed = FailedEdge(self.name, edge.format, edge.parent, cause.reason, cause.cause, cause.advice, routes)
        write_failed_edge(self.cell.folder, failed, log.replace(str(self.cell.folder), ""))
        print(f"{self.name}-{edge.format}: failed. {' '.join(filter(None, (cause.reason, cause.advice)))}", flush=True)

    def _for_people(self, said: str) -> str:
        """Without the folder of this run, which is gone when somebody reads it, and without advice about it."""
        said = re.sub(r" Remove \S+ and (?:export it again|run `make artifacts`)\.", "", said)
        return said.replace(f"{self.cell.folder}/", "")


def reachable(format: str) -> Iterator[Edge]:
    """Every format that can be reached from this one, each along the fewest edges; parents before their children."""
    known, parents = {format}, [format]
    for parent in parents:
        for source, target in EXPORTERS:
            if source == parent and target not in known:
                known.add(target)
                parents.append(target)
                yield Edge(parent, target, [route.name for route in find_routes(source, target)])


def _parity_words(result: ParityResult | None) -> str:
    if result is None:
        return "its runtime cannot run it"
    words = f"largest difference {result.max_abs_diff:.1e}, same class {result.agreement:.2%} of {result.images}"
    return f"{words}, passed" if result.passed else f"{words}: {'; '.join(result.reasons)}"


# --- What is there already, and what takes its place


def _state(path: Path, said: Mapping[str, str]) -> dict[str, Any]:
    """What the artifacts depend on: the file, what is said of it, and the code."""
    digest = hashlib.sha256()
    files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
    beside = [path.parent / MODEL_TOML, *(Path(said[key]) for key in ("labels",) if key in said)]
    for file in (*files, *beside, *files_of(*CODE), LOCK):
        if file.is_file():
            with file.open("rb") as stream:
                digest.update(hashlib.file_digest(stream, "sha256").digest())
    data = Path(said["data"]) if "data" in said else None
    pictures = sum(len(list(folder.iterdir())) for folder in class_folders(data)) if data and data.is_dir() else 0
    return {"schema": SCHEMA, "sha256": digest.hexdigest(), "said": dict(said), "pictures": pictures}


def _is_done(folder: Path, state: Mapping[str, Any]) -> bool:
    try:
        return bool(json.loads((folder / DONE).read_bytes()) == state)
    except (OSError, ValueError):
        return False


def _check(model: Path, name: str) -> None:
    """What children wrote is looked at before it is taken: no links, and files that are what their manifests say."""
    for path in model.rglob("*"):
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            raise BroughtError(f"{path.name} is no plain file: nothing of {name} is taken.")
    for manifest in model.glob(f"*/{MANIFEST}"):
        verify_files(manifest.parent, read_manifest(manifest.parent))


def _take(made: Path, target: Path) -> None:
    """Put what a child made in its place: owned by this user, the old one gone only when the new one is there."""
    target.parent.mkdir(parents=True, exist_ok=True)
    coming = target.with_name(f".{target.name}.{os.getpid()}.partial")
    if made.is_dir():
        shutil.copytree(made, coming)
    else:
        shutil.copyfile(made, coming)
    old = target.with_name(f".{target.name}.{os.getpid()}.old.partial")
    if target.exists():
        target.rename(old)
    coming.rename(target)
    shutil.rmtree(old, ignore_errors=True) if old.is_dir() else old.unlink(missing_ok=True)
