"""Commands that load artifacts: of a model that somebody brought, each runs itself once more, in a cell.

The command that was started reads no more than manifests. It shows the cell the model's folder, read-only, gives it the
questions, and takes what comes out as data. The command in the cell has the option `--in-cell`.
"""

import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from contract.cell import host, sandbox
from contract.cell.harvest import Harvest
from contract.cell.host import Process
from contract.cell.sandbox import Cell, ChildFailed, Finished, Limits
from contract.code import ROOT
from contract.dataset import DATASETS
from contract.errors import BroughtError
from contract.manifest import BROUGHT, MANIFEST
from contract.records import RecordError

OWN = ("keras_cnn", "torch_cnn")
"""The models that this project trains."""
ARTIFACTS = {ROOT / "artifacts", *(ROOT / f"artifacts-{dataset}" for dataset in DATASETS)}
"""Where it puts them, unless somebody chooses another folder."""
MOST_OF_A_LINE = 1 << 16


def is_own(model: Path) -> bool:
    """Whether the folder of a model is where this checkout trains its own, and nobody brought what is in it.

    Anybody may write a manifest, so nothing in a folder that comes from elsewhere makes it one of ours.
    """
    folder = model.resolve()
    return folder.parent in ARTIFACTS and folder.name in OWN and not (folder / BROUGHT).exists()


def insist_on_own(model: Path) -> None:
    """Before artifacts are loaded without a cell. Raises BroughtError for what others made, unless SANDBOX=none."""
    if not is_own(model) and os.environ.get("SANDBOX") != "none":
        raise BroughtError(
            f"{model} was not trained by this checkout, and this benchmark loads what it measures without a sandbox. "
            "`make compare` measures it in one. If you trust whoever made it, set SANDBOX=none."
        )


@contextmanager
def cell_of(model: Path, seconds: float = 900) -> Iterator[Cell]:
    """A cell whose children may read the folder of this model, `cell.file`, for so many seconds.

    Raises BroughtError where this system lacks a part of it, unless SANDBOX=none.
    """
    # A signal becomes an exception, so that the cell's folder is removed, too.
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit("error: ended before it was done."))
    try:
        with sandbox.cell(Path(tempfile.gettempdir()), model, Limits.of_environment(seconds)) as cell:
            yield cell
    finally:
        signal.signal(signal.SIGTERM, before)


def run(cell: Cell, module: str, *arguments: object) -> Finished:
    """Run this command in the cell. Raises ChildFailed."""
    return sandbox.run(cell, module, *map(str, arguments), "--in-cell", variables=trust())


@contextmanager
def talking(cell: Cell, module: str, *arguments: object) -> Iterator["Talk"]:
    """This command in the cell, until the end of the block: it answers lines. Its limits end it."""
    words = [sys.executable, "-m", module, *map(str, arguments), "--in-cell"]
    with tempfile.TemporaryFile() as nothing, tempfile.TemporaryFile() as errors:
        variables = host.environment(cell.folder) | trust()
        pipe = subprocess.PIPE
        process = host.start(sandbox.request(cell, words), variables, pipe, pipe, errors, parts=cell.parts)
        talk = Talk(cell, process, (nothing, errors))
        watching = threading.Thread(target=talk.watch, daemon=True)
        watching.start()
        try:
            yield talk
        finally:
            process.stop()
            watching.join()
            process.child.communicate()  # closes its pipes


class Talk:
    """A command in a cell that answers each line with a line."""

    def __init__(self, cell: Cell, process: Process, streams: tuple[BinaryIO, BinaryIO]) -> None:
        self._cell, self._process, self._streams = cell, process, streams
        self._start, self._excess, self._peak = time.monotonic(), "", 0

    def watch(self) -> None:
        """Wait until it ends, and end it at a limit."""
        watched = sandbox.Watched(self._process, sandbox.ending(self._process))
        self._peak, self._excess = sandbox.watch(watched, self._cell, self._streams, self._start)
        if self._excess:
            self._process.stop()

    def ask(self, line: str = "") -> str:
        """Its next line that is JSON, after it was sent this one. Raises ChildFailed where none comes."""
        pipes = self._process.child
        assert pipes.stdin and pipes.stdout
        with suppress(OSError):  # it has ended: what it answers says so
            pipes.stdin.write(line.encode())
            pipes.stdin.flush()
        while answer := pipes.stdout.readline(MOST_OF_A_LINE):
            if answer[:1] in b"{0123456789":  # frameworks print, too
                return answer.decode(errors="replace")
        pipes.wait()
        status = self._process.returncode or 1
        sandbox.finished(self._cell, self._streams, status, self._excess, self._peak, self._start)
        raise AssertionError("a status that is not 0 is a failure")


def trust() -> dict[str, str]:
    """What a command in a cell knows of this one's variables: whether a manifest's word for trust counts."""
    return {name: os.environ[name] for name in ("SERVE_TRUST",) if name in os.environ}


def show(done: Finished | ChildFailed, cell: Cell) -> str:
    """Print what a child wrote, each stream to this process's own; return its error, which the caller reports.

    Its folder is gone when somebody reads this, so the model's stands for it.
    """
    output, complaints, error = (
        text.replace(str(cell.folder / cell.file.name), str(cell.file))
        for text in (done.output, done.log[len(done.output) :], str(done) if isinstance(done, ChildFailed) else "")
    )
    print(output, end="", flush=True)
    errors = [*re.finditer(r"^error: ", complaints, re.MULTILINE)] if error else []
    print(complaints[: errors[-1].start()] if errors else complaints, end="", file=sys.stderr, flush=True)
    return error


def give(cell: Cell, file: Path, name: str) -> Path:
    """A copy of a file in what the cell's children may read. Raises BroughtError for what is not a plain file.

    A link that came with the model might lead to a private one.
    """
    if file.is_symlink() or not file.is_file():
        raise BroughtError(f"{file} is not a plain file: what reads it would see where it leads. Copy the file itself.")
    copy = cell.given / name
    shutil.copyfile(file, copy)
    copy.chmod(0o644)
    return copy


def linked(model: Path, records: Path, names: Collection[str], copied: Collection[str] = ()) -> Path:
    """A folder for the records of these names inside of `records`, with links to all other files of the artifacts.

    Those in `copied` are there from the beginning, as each manifest is: what is written anew must not follow a link.
    """
    for manifest in model.glob(f"[!.]*/{MANIFEST}"):
        folder = records / model.name / manifest.parent.name
        folder.mkdir(parents=True)
        for path in manifest.parent.iterdir():
            if path.name not in {*names, MANIFEST}:
                (folder / path.name).symlink_to(path)
        for name in (MANIFEST, *copied):
            if (manifest.parent / name).is_file():
                shutil.copyfile(manifest.parent / name, folder / name)
    return records / model.name


def records_of(cell: Cell, names: Collection[str]) -> Path:
    """A folder with copies of the records of these names that a command left in its cell, below the formats' names.

    Raises BroughtError for what is not a plain file.
    """
    harvest = Harvest(cell.folder, cell.file.name, cell.kept / "records", (MANIFEST, *names))
    harvest.read_records()
    return harvest.records


def publish_records(records: Path, model: Path, readers: Mapping[str, Callable[[bytes], object]]) -> Collection[Path]:
    """Write the records in the folder `records` beside the manifests of the model in `model`, once all were read.

    `readers` are their names, and what reads each, and raises RecordError. The result is what was written. Raises
    BroughtError for what is none.
    """
    contents: dict[Path, bytes] = {}
    for artifact in (path.parent for path in model.glob(f"[!.]*/{MANIFEST}")):
        for name, read in readers.items():
            if not (record := records / artifact.name / name).exists():
                continue
            contents[artifact / name] = record.read_bytes()
            try:
                read(contents[artifact / name])
            except RecordError as error:
                raise BroughtError(f"What was compared left no {name} of {artifact}: {error}") from error
    for path, content in contents.items():
        publish(path, content)
    return contents


def publish(path: Path, content: bytes) -> None:
    """Write what came out of a cell, atomically, into a folder that is no link. Raises BroughtError where it is one."""
    if path.parent.is_symlink():
        raise BroughtError(f"{path.parent} is a link: {path.name} is not written where it leads.")
    path.parent.mkdir(parents=True, exist_ok=True)
    # Whoever made the folder cannot have put a link there: they could not know the name.
    partial = path.with_name(f".{path.name}.{secrets.token_hex(8)}.partial")
    try:
        partial.write_bytes(content)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
