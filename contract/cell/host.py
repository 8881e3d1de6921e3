"""Start a process in a cell, and say which parts of a cell this system gives."""

import functools
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from contract.cell import calls, groups, landlock, view
from contract.cell.enter import BUBBLEWRAP, INSIDE, NAMESPACES, NOTHING, RULES
from contract.code import ROOT

CODE = ("contract", "train", "export", "serve", "verify", "bring", "compare", "web/node_modules", "requirements.lock")
"""What a command in a cell may read of the checkout."""
TRIAL = "import contract.code, numpy, tempfile; tempfile.TemporaryFile()"
TRIAL_SECONDS = 60
STOP_SECONDS = 15.0

NOBODY, OVERFLOW = "nobody", 65534
STREAM = int | IO[bytes] | None

NO_FILES = "its own view of files (the kernel gives neither a mount namespace nor Landlock)"
NO_NETWORK = "a way to keep it off the network (the kernel gives neither a network namespace nor seccomp)"
NO_USER = "another user than root (nobody cannot read this Python, or this checkout)"
NO_GROUP = "a control group (its memory is looked at ten times a second instead)"
NO_NAMESPACES = "namespaces (the kernel's Landlock and a filter of system calls take their place)"


@dataclass(frozen=True)
class Parts:
    """What a cell consists of on this system."""

    means: str
    """NAMESPACES, BUBBLEWRAP, RULES or NOTHING of enter.py."""
    user: int | None
    """Whom a command of root's runs as; None: as this process."""

    @property
    def lacks(self) -> tuple[str, ...]:
        """The parts that are missing, without which no stranger's file is read."""
        missing = []
        if self.means == NOTHING:
            missing.append(NO_FILES)
            if not calls.is_known_here():
                missing.append(NO_NETWORK)
            if _is_root() and self.user is None:
                missing.append(NO_USER)
        return tuple(missing)

    @property
    def is_apart(self) -> bool:
        """Whether the kernel keeps processes and files apart by namespaces."""
        return self.means in (NAMESPACES, BUBBLEWRAP)

    @property
    def weaker(self) -> str:
        """What is not as it should be, and no reason to refuse; empty where all is there."""
        if self.is_apart or self.lacks:
            return ""
        return f"{NO_NAMESPACES}; {NO_USER}" if _is_root() and self.user is None else NO_NAMESPACES


@dataclass(frozen=True)
class Request:
    """A command, and what it may use."""

    command: Sequence[str]
    folder: Path
    """The only folder that it may write to, where it starts."""
    root: Path
    """An empty folder, over which the cell's root is mounted in the cell's own namespace; it is left to this module."""
    readable: Iterable[Path] = ()
    """What it may read besides the system's programs, Python, and the project's code."""
    file_size: int = 8 << 30
    processes: int = 4096
    keep: tuple[int, ...] = ()
    """Open files that it inherits, besides its three streams."""
    scratch: int = 0
    """If not 0, its folder is one in memory, of so many bytes; it takes namespaces."""
    memory: int = 0
    """If not 0, the most bytes of memory that all its processes have, where a control group can be made."""


class Process:
    """A command in a cell. `child` is the process outside of the cell that watches over it."""

    def __init__(
        self, child: "subprocess.Popen[bytes]", lifeline: int, means: str, group: groups.Group | None = None
    ) -> None:
        self.child, self._lifeline, self._means, self._group = child, lifeline, means, group
        self._ran_out = False

    @property
    def returncode(self) -> int | None:
        """Its exit status; negative for the signal that ended it; None while it runs."""
        code = self.child.poll()
        signalled = self._means == BUBBLEWRAP and code is not None and 128 < code < 128 + signal.NSIG
        return 128 - code if signalled and code is not None else code

    @property
    def ran_out_of_memory(self) -> bool:
        """Whether the kernel ended a process of the cell because it took more memory than it may."""
        if self._group is not None and not self._ran_out:
            self._ran_out = self._group.has_ended_processes
        return self._ran_out

    def stop(self) -> None:
        """End it, with everything that it started."""
        if self._lifeline >= 0:
            os.close(self._lifeline)
            self._lifeline = -1
        try:
            self.child.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            with suppress(ProcessLookupError):
                os.killpg(self.child.pid, signal.SIGKILL)
            self.child.wait()
        if self._group is not None:
            self._ran_out = self.ran_out_of_memory
            self._group.remove()
            self._group = None


def start(
    request: Request,
    environment: Mapping[str, str],
    stdin: STREAM = subprocess.DEVNULL,
    stdout: STREAM = None,
    stderr: STREAM = None,
    parts: Parts | None = None,
) -> Process:
    """Start a command in a cell of `parts` (default: the best that this system gives)."""
    parts = parts or find_parts()
    variables = dict(environment)
    if parts.means == RULES:
        variables["PYTHONPATH"] = str(_linked_code(request.root))
    group = groups.made(request.memory) if request.memory else None
    reading, writing = os.pipe()
    try:
        os.write(writing, f"{_room(request, parts, reading, group)!r}\n".encode())
        child = subprocess.Popen(
            _enter(f"open({reading}, closefd=False).readline()"),
            cwd="/",
            env=variables,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            start_new_session=True,
            pass_fds=(reading, *request.keep),
        )
    except BaseException:
        os.close(writing)
        if group is not None:
            group.remove()
        raise
    finally:
        os.close(reading)
    return Process(child, writing, parts.means, group)


def environment(folder: Path) -> dict[str, str]:
    """The variables of a Python command whose only folder is `folder`: few of this process's own."""
    inherited = {name: value for name, value in os.environ.items() if name in ("PATH", "LANG", "LC_ALL", "VIRTUAL_ENV")}
    return inherited | {
        "HOME": str(folder),
        "TMPDIR": str(folder),
        "USER": NOBODY,
        "KERAS_HOME": str(folder),
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONPATH": str(ROOT),
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "ORT_DISABLE_TELEMETRY": "1",
        "CUDA_VISIBLE_DEVICES": "",
    }


def find_parts() -> Parts:
    """The best that this system gives. It is tried once for each process."""
    return _find_parts(sys.executable)


@functools.cache
def _find_parts(python: str) -> Parts:
    return next((parts for parts in _candidates() if _works(parts)), Parts(NOTHING, None))


def _candidates() -> list[Parts]:
    user = _nobody() if _is_root() else None
    candidates = [Parts(NAMESPACES, user)]
    if user is None and shutil.which("bwrap"):
        candidates.append(Parts(BUBBLEWRAP, None))
    if landlock.version() and calls.is_known_here():
        candidates.append(Parts(RULES, user))
        if user is not None:  # root without a capability, where nobody else can read this Python
            candidates.append(Parts(RULES, None))
    return [*candidates, Parts(NOTHING, user)]


def _works(parts: Parts) -> bool:
    """Whether a small program runs in such a cell: what else could say it, of so many systems?"""
    with tempfile.TemporaryDirectory(prefix="cell.") as made:
        Path(made).chmod(0o755)
        root, folder = Path(made, "root"), Path(made, "work")
        root.mkdir()
        folder.mkdir()
        if parts.user is not None:
            os.chown(folder, parts.user, parts.user)
        request = Request([sys.executable, "-c", TRIAL], folder, root)
        process = start(request, environment(folder), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, parts=parts)
        deadline = time.monotonic() + TRIAL_SECONDS
        while process.returncode is None and time.monotonic() < deadline:
            time.sleep(0.005)
        process.stop()
        return process.returncode == 0


def _is_root() -> bool:
    """Whether this is the machine's root: not a container's whose root is another user of the machine."""
    if os.geteuid() != 0:
        return False
    try:
        return Path("/proc/self/uid_map").read_text().split() == ["0", "0", str(2**32 - 1)]
    except OSError:
        return True


def _nobody() -> int:
    try:
        return pwd.getpwnam(NOBODY).pw_uid
    except KeyError:
        return OVERFLOW


def _linked_code(root: Path) -> Path:
    """A folder with nothing but the code. Python lists it, and Landlock cannot show a checkout's names without them."""
    for link in (root / name for name in CODE):
        link.parent.mkdir(exist_ok=True)
        if not link.is_symlink():
            link.symlink_to(ROOT / link.relative_to(root))
    return root


def _room(request: Request, parts: Parts, lifeline: int, group: groups.Group | None) -> dict[str, Any]:
    readable, links = paths_of(
        [*_always_readable(), *request.readable, *([request.root] if parts.means == RULES else [])]
    )
    room = {
        "means": parts.means,
        "user": parts.user,
        "command": list(request.command),
        "folder": str(request.folder.resolve()),
        "root": str(request.root.resolve()),
        "readable": readable,
        "links": links,
        "scratch": request.scratch,
        "file_size": request.file_size,
        "processes": request.processes,
        "keep": list(request.keep),
        "filter": calls.is_known_here(),
        "lifeline": lifeline,
        "group": str(group.folder / groups.JOIN) if group else "",
    }
    if parts.means == BUBBLEWRAP:
        room["bubblewrap"] = _bubblewrap(room)
    return room


def _enter(room: str) -> list[str]:
    """The command line that enters a cell. Python starts soonest without site, and reads its own literals soonest."""
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from contract.cell.enter import main; main(eval({room}))"
    return [sys.executable, "-I", "-S", "-c", code]


def _always_readable() -> list[Path]:
    node = shutil.which("node")
    return [
        *map(Path, view.SYSTEM),
        *map(Path, view.SETTINGS),
        *(ROOT / name for name in CODE),
        *(Path(path) for path in (sys.prefix, sys.base_prefix, sys.executable)),
        *([Path(node)] if node else []),
    ]


def paths_of(paths: Iterable[Path]) -> tuple[list[str], dict[str, str]]:
    """The real paths, without those that lie below another; and the symbolic links that lead to them."""
    links: dict[Path, str] = {}
    real = {followed for path in paths if (followed := _followed(path.absolute(), links)) is not None}
    covered = {path for path in real if real & set(path.parents)}
    outside = {str(link): target for link, target in links.items() if not real & {link, *link.parents}}
    return sorted(map(str, real - covered)), outside


def _followed(path: Path, links: dict[Path, str]) -> Path | None:
    """Where a path leads; None where nothing is there. Every link on the way is added to `links`."""
    if not path.exists():
        return None
    reached, rest = Path("/"), list(path.parts[1:])
    while rest:
        part = rest.pop(0)
        if part == "..":
            reached = reached.parent
            continue
        step = reached / part
        if not step.is_symlink():
            reached = step
            continue
        links[step] = target = str(step.readlink())
        rest[:0] = [name for name in Path(target).parts if name != "/"]
        if target.startswith("/"):
            reached = Path("/")
    return reached


def _bubblewrap(room: Mapping[str, Any]) -> list[str]:
    """Bubblewrap's command line for the same cell; it is allowed namespaces on systems that do not give them to all."""
    inside = {**room, "means": INSIDE}
    inside |= {"readable": [], "links": {}}
    folder = room["folder"]
    above = {str(parent) for path in (folder, *room["readable"]) for parent in Path(path).parents}
    return [
        str(shutil.which("bwrap")),
        *("--unshare-all", "--die-with-parent", "--as-pid-1", "--cap-drop", "ALL"),
        *(word for path in room["readable"] for word in ("--ro-bind", path, path)),
        *(word for path, target in room["links"].items() for word in ("--symlink", target, path)),
        *("--proc", "/proc", "--dev", "/dev", "--remount-ro", "/dev", "--chdir", folder),
        *(("--tmpfs", folder) if room["scratch"] else ("--bind", folder, folder)),
        *(word for name in view.TEMPORARY if name not in above for word in ("--symlink", folder, name)),
        *("--remount-ro", "/"),
        *_enter(repr(repr(inside))),
    ]
