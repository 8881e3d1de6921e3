"""Children that read a user's file, each in a cell (contract/cell/), with limits of memory, time, disk, processes."""

import contextlib
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO, Self

from contract.cell import groups, host
from contract.cell.harvest import remove_below
from contract.cell.host import Parts, Process
from contract.errors import BroughtError, RosettaError

POLL_SECONDS = 0.1
DISK_POLLS = 10
"""Its folder is measured each time that this many polls have passed."""
MAX_OUTPUT = 64 << 20
COPIES = "file"
"""Where the user's file lies among what is given, when the child could not read the file itself."""
MAX_DEPTH = 64
MAX_ENTRIES = 100_000
GIB = 2**30
FRAMEWORKS, COPIES_IN_MEMORY = 2 * GIB, 20
"""What a child takes at most as a rule: so many bytes, and so many times the model's."""

LISTS_CHILDREN = Path("/proc/self/task", str(os.getpid()), "children").exists()

UNPRINTABLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
"""What moves a terminal's cursor, or more: a child's words are shown to people."""


@dataclass(frozen=True)
class Limits:
    """The most that a child may use."""

    seconds: float = 900
    memory: float = 6 * GIB
    """Bytes of all its processes together: the kernel's count where there is a control group, and resident ones."""
    file_size: int = 8 * GIB
    disk: float = 32 * GIB
    """Bytes of all files in its folder."""
    processes: int = 4096
    """Processes and threads. Frameworks start some for each processor."""
    insist: bool = True
    """Whether to refuse where a necessary part of the cell cannot be had; SANDBOX=none reads the file anyway."""

    @classmethod
    def of_environment(cls, seconds: float = 900) -> Self:
        """The limits that make's settings MEMORY_GIB, MINUTES and SANDBOX give; `seconds` where MINUTES is not set.

        Raises BroughtError if one of them is not a number.
        """
        known = {name: os.environ.get(name) or "" for name in ("MINUTES", "MEMORY_GIB")}
        try:
            minutes, memory = float(known["MINUTES"] or seconds / 60), float(known["MEMORY_GIB"] or cls.memory / GIB)
        except ValueError:
            raise BroughtError(f"MINUTES and MEMORY_GIB are numbers, got {known}.") from None
        return cls(60 * minutes, memory * GIB, insist=os.environ.get("SANDBOX") != "none")


@dataclass(frozen=True)
class Finished:
    """A child that ended without an error."""

    output: str
    log: str
    """What it wrote to both streams."""
    seconds: float
    peak: int
    """The most resident bytes, sampled every POLL_SECONDS."""


class ChildFailed(RosettaError):
    """A child ended with an error, or was killed at a limit."""

    def __init__(self, reason: str, log: str, peak: int = 0, is_at_limit: bool = False, output: str = "") -> None:
        super().__init__(reason)
        self.is_at_limit = is_at_limit
        self.log = log
        self.output = output
        self.peak = peak
        """The most resident bytes that it took."""


@dataclass(frozen=True)
class Cell:
    """Where children run, one after the other."""

    folder: Path
    """The only folder that they may write to. This process writes nothing into it: see contract/cell/harvest.py."""
    given: Path
    """What this process gives them to read."""
    kept: Path
    """This process's own folder, which they do not see."""
    root: Path
    file: Path
    """Where they find the user's file."""
    parts: Parts
    limits: Limits
    readable: tuple[Path, ...] = ()
    """What they may read besides the file."""


@contextlib.contextmanager
def cell(beside: Path, file: Path, limits: Limits) -> Iterator[Cell]:
    """A cell for children that read `file`, until the end of the block; inside the folder `beside` where possible.

    `beside` is made if it is missing, and removed again if nothing was put into it. Raises BroughtError where this
    system lacks a part of the cell, unless the limits do not insist on it.
    """
    parts = host.find_parts()
    if parts.lacks and limits.insist:
        raise BroughtError(
            f"{file.name} was not read: a part of the sandbox is missing here: {'; '.join(parts.lacks)}. Run it on a "
            "system that has it, or, if you trust whoever made the file, set SANDBOX=none."
        )
    without_group = "" if groups.find_place() else host.NO_GROUP
    if missing := "; ".join([*parts.lacks, *filter(None, [parts.weaker, without_group])]):
        print(f"The sandbox lacks a part here: {missing}.", flush=True)
    is_new = not beside.exists()
    beside.mkdir(parents=True, exist_ok=True)
    place = beside if parts.is_apart or parts.user is None or _others_may_enter(beside) else None
    made = Path(tempfile.mkdtemp(prefix=".brought.", dir=place)).resolve()
    try:
        yield _furnished(made, file.resolve(), parts, limits)
    finally:
        _remove(made)
        if is_new:
            with contextlib.suppress(OSError):  # it is not empty
                beside.rmdir()


def _furnished(made: Path, file: Path, parts: Parts, limits: Limits) -> Cell:
    folder, given, kept, root = (made / name for name in ("folder", "given", "kept", "root"))
    for path, mode in ((folder, 0o700), (given, 0o755), (kept, 0o700), (root, 0o755)):
        path.mkdir()
        path.chmod(mode)
    if parts.user is not None:
        made.chmod(0o711)
        os.chown(folder, parts.user, parts.user)
        if not _others_may_read(file, alone=parts.is_apart):
            file = _copied(file, given / COPIES / file.name)
    return Cell(folder, given, kept, root, file, parts, limits)


def showing(cell: Cell, file: Path, beside: Sequence[Path]) -> Cell:
    """The cell, whose children may also read these files and folders beside `file`.

    Where the file is a copy, these are copied beside it. Raises BroughtError for a folder, which may hold anything.
    """
    folder = file.resolve().parent
    if cell.file == file.resolve():
        for path in beside:
            if cell.parts.user is not None and path.is_dir() and ~path.stat().st_mode & 0o005:
                raise BroughtError(
                    f"Others may not enter the folder {path}, and what reads {file.name} runs as another user. Run "
                    f"`chmod go+rx {path}`."
                )
        return replace(cell, readable=tuple(beside))
    for path in beside:
        if path.is_dir():
            raise BroughtError(
                f"{path} has files that others may not read, as {file.name}: what reads it runs as another user. "
                f"Run `chmod -R go+rX {path}`."
            )
        copy = cell.file.parent / path.relative_to(folder)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)
        for made in (copy, *copy.relative_to(cell.given).parents):
            (cell.given / made).chmod(0o755 if (cell.given / made).is_dir() else 0o644)
    return cell


def showing_folder(cell: Cell, folder: Path) -> Cell:
    """The cell, whose children may also read this folder. Raises BroughtError for one that they could not read."""
    if cell.parts.user is not None and not _others_may_read(folder, alone=cell.parts.is_apart):
        raise BroughtError(
            f"{folder} has files that others may not read: what reads it runs as another user. "
            f"Run `chmod -R go+rX {folder}`."
        )
    return replace(cell, readable=(*cell.readable, folder.resolve()))


def _copied(file: Path, copy: Path) -> Path:
    """A copy that everybody may read, for a child that is another user than root."""
    copy.parent.mkdir()
    if file.is_dir():
        shutil.copytree(file, copy, symlinks=True)
    else:
        shutil.copyfile(file, copy)
    for path in (copy.parent, copy, *copy.rglob("*")):
        if not path.is_symlink():
            path.chmod(0o755 if path.is_dir() else 0o644)
    return copy


def _remove(made: Path) -> None:
    folder = os.open(made, os.O_RDONLY | os.O_DIRECTORY)
    try:
        for name in ("folder", "given", "kept", "root"):
            remove_below(folder, name)
    finally:
        os.close(folder)
    made.rmdir()


def run(cell: Cell, module: str, *arguments: str, variables: Mapping[str, str] | None = None) -> Finished:
    """Run `python -m module arguments` in the cell, with these variables beside the cell's own.

    Raises ChildFailed with the child's last line as the reason, or with the limit that it exceeded.
    """
    start = time.monotonic()
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        process = host.start(
            request(cell, [sys.executable, "-m", module, *arguments]),
            host.environment(cell.folder) | dict(variables or {}),
            subprocess.DEVNULL,
            output,
            errors,
            parts=cell.parts,
        )
        try:
            peak, excess = watch(Watched(process, ending(process)), cell, (output, errors), start)
        finally:
            process.stop()
        return finished(cell, (output, errors), process.returncode or 0, excess, peak, start)


def request(cell: Cell, command: Sequence[str], keep: tuple[int, ...] = ()) -> host.Request:
    """For this command in the cell, which inherits the open files `keep`."""
    return host.Request(
        command,
        cell.folder,
        cell.root,
        (cell.file, cell.given, *cell.readable),
        file_size=cell.limits.file_size,
        processes=cell.limits.processes,
        keep=keep,
        memory=int(cell.limits.memory),
    )


def finished(
    cell: Cell, streams: tuple[BinaryIO, BinaryIO], status: int, excess: str, peak: int, start: float
) -> Finished:
    """What became of a child. Raises ChildFailed for one with an exit status, or with a limit that it exceeded."""
    written, complaints = map(_tail, streams)
    log = written + complaints
    if excess or status:
        # Where the file is a copy, its place says nothing to whoever brought it.
        reason = _reason(status, complaints).replace(f"{cell.given / COPIES}/", "")
        raise ChildFailed(excess or reason, log, peak, bool(excess), written)
    return Finished(written, log, time.monotonic() - start, peak)


def _others_may_read(path: Path, alone: bool) -> bool:
    """Whether everybody may read a file, or a folder with all that is in it; unless `alone`, by its whole path."""
    if not alone and not _others_may_enter(path.parent):
        return False
    wanted = {True: 0o005, False: 0o004}
    parts = [path, *path.rglob("*")] if path.is_dir() else [path]
    return all(not ~part.stat().st_mode & wanted[part.is_dir()] for part in parts if not part.is_symlink())


def _others_may_enter(path: Path) -> bool:
    """Whether everybody may enter each folder down to `path`."""
    return all(folder.stat().st_mode & 0o001 for folder in (path.resolve(), *path.resolve().parents))


@dataclass(frozen=True)
class Watched:
    """A child to watch."""

    process: Process
    """What it is part of."""
    has_ended: Callable[[float], bool]
    """Whether it has ended, after so many seconds at most."""
    besides: int | None = None
    """A descendant that is not part of it."""


def has_room_for_two(cell: Cell) -> bool:
    """Whether two children of this cell can work at once: there are two cores, and memory for both."""
    return cell.parts.is_apart and len(os.sched_getaffinity(0)) > 1 and _available() > 2 * _most(cell)


def can_be_in_two(cell: Cell) -> bool:
    """Whether one of two such children can be two processes, which share its limit of memory."""
    most = _most(cell)
    return has_room_for_two(cell) and _available() > 3 * most and cell.limits.memory >= 2 * most


def _most(cell: Cell) -> float:
    """Bytes of memory that a child takes at most as a rule."""
    files = [cell.file, *cell.file.rglob("*")] if cell.file.is_dir() else [cell.file]
    size = sum(file.stat().st_size for file in files if file.is_file())
    return min(cell.limits.memory, FRAMEWORKS + COPIES_IN_MEMORY * size)


def _available() -> float:
    """Bytes of memory that could be had now, as the system says, or this process's control group; 0 where none does."""
    try:
        known = re.search(r"^MemAvailable:\s+(\d+) kB$", Path("/proc/meminfo").read_text(), re.MULTILINE)
    except OSError:
        return 0
    free = [1024 * int(known[1])] if known else [0]
    with contextlib.suppress(OSError, ValueError):  # "max" is not a number
        group = Path("/sys/fs/cgroup")
        free.append(int((group / "memory.max").read_text()) - int((group / "memory.current").read_text()))
    return min(free)


def ending(process: Process) -> Callable[[float], bool]:
    """What waits so many seconds for the end of a process, and says whether it has ended."""

    def has_ended(seconds: float) -> bool:
        try:
            process.child.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    return has_ended


def watch(child: Watched, cell: Cell, streams: Iterable[BinaryIO], start: float) -> tuple[int, str]:
    """Wait until it ends: its peak of resident bytes, and the limit that it exceeded, or ""."""
    peak, polls, limits = 0, 0, cell.limits
    while True:
        if child.has_ended(POLL_SECONDS) and not child.process.ran_out_of_memory:
            return peak, _excess_of_disk(cell)
        peak = max(peak, _resident(child.process.child.pid, child.besides))
        polls += 1
        if peak > limits.memory or child.process.ran_out_of_memory:
            return max(
                peak, int(limits.memory)
            ), f"It took more than {limits.memory / GIB:.3g} GiB of memory and was ended."
        if time.monotonic() - start > limits.seconds:
            return peak, f"It took longer than {limits.seconds:.0f} s and was ended."
        if any(os.fstat(stream.fileno()).st_size > MAX_OUTPUT for stream in streams):
            return peak, f"It wrote more than {MAX_OUTPUT >> 20} MiB of messages and was ended."
        if polls % DISK_POLLS == 0 and (excess := _excess_of_disk(cell)):
            return peak, excess


def _excess_of_disk(cell: Cell) -> str:
    """What is too much in a cell's folder, or ""."""
    total, entries, waiting = 0, 0, [(os.fspath(cell.folder), 0)]
    while waiting:
        path, depth = waiting.pop()
        try:
            with os.scandir(path) as listing:
                for entry in listing:
                    entries += 1
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append((entry.path, depth + 1))
                    else:
                        with contextlib.suppress(FileNotFoundError):
                            total += entry.stat(follow_symlinks=False).st_blocks * 512
                    if entries > MAX_ENTRIES or total > cell.limits.disk:
                        break
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError:
            return "It made a folder that cannot be read, and was ended."
        if depth > MAX_DEPTH or entries > MAX_ENTRIES:
            return f"It made more than {MAX_ENTRIES} files or {MAX_DEPTH} folders in each other, and was ended."
        if total > cell.limits.disk:
            return f"It wrote more than {cell.limits.disk / GIB:.3g} GiB of files and was ended."
    return ""


def _resident(watcher: int, besides: int | None = None) -> int:
    """Resident bytes of all descendants of a process but one, whatever session they are in."""
    children_of = _children if LISTS_CHILDREN else _scanned().__getitem__
    total, waiting = 0, list(children_of(watcher))
    while waiting:
        process = waiting.pop()
        with contextlib.suppress(OSError):  # it has ended
            if process != besides:
                total += int(Path(f"/proc/{process}/statm").read_bytes().split()[1])
            waiting += children_of(process)
    return total * resource.getpagesize()


def youngest_below(process: int) -> int:
    """The last of a line of processes, each the only child of the one before."""
    children_of = _children if LISTS_CHILDREN else _scanned().__getitem__
    while children := children_of(process):
        process = children[-1]
    return process


def _children(process: int) -> list[int]:
    """The children of a process, those of each of its threads; none where it has ended."""
    children: list[int] = []
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{process}/task").iterdir():
            with contextlib.suppress(OSError):  # a thread that has ended
                children += map(int, (task / "children").read_bytes().split())
    return children


def _scanned() -> Mapping[int, list[int]]:
    """The children of every process of the system: a hundred times as slow, for a kernel that does not list them."""
    children = defaultdict[int, list[int]](list)
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            fields = stat.read_text().rpartition(")")[2].split()
            children[int(fields[1])].append(int(stat.parent.name))
    return children


def _tail(stream: BinaryIO, most: int = 1_000_000) -> str:
    """The last `most` bytes of a stream, as text that is safe to print."""
    size = stream.seek(0, os.SEEK_END)
    stream.seek(max(0, size - most))
    return UNPRINTABLE.sub("", stream.read().decode(errors="replace"))


def _reason(status: int, errors: str) -> str:
    if status < 0:
        return f"It was ended by {signal.Signals(-status).name}: the library that it ran crashed on this file."
    lines = [line for line in errors.strip().splitlines() if line.strip()]
    starts = [number for number, line in enumerate(lines) if line.startswith("error: ")]
    if starts:  # the message may continue on the next lines
        return "\n".join(lines[starts[-1] :]).removeprefix("error: ")
    return (lines or [f"exit status {status}"])[-1]
