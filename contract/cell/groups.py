"""A control group for a cell: the kernel ends what takes more memory than the cell may, at once.

A group can be made where this process may write to the tree of groups and the system limits memory by it: as root on
most systems, and as an ordinary user in a session whose part of the tree is the user's own.
"""

import functools
import os
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

PREFIX = "cell."
JOIN = "cgroup.procs"
"""What a process writes 0 to, to be of the group."""
REMOVE_SECONDS = 2.0


@dataclass(frozen=True)
class Version:
    """How a version of control groups calls its files."""

    most: str
    swap: str
    """The most memory that is swapped out, or that and other memory together."""
    swap_counts_all: bool
    events: str
    """Among its lines is `oom_kill`, with how many processes were ended."""


VERSIONS = {
    "cgroup2": Version("memory.max", "memory.swap.max", False, "memory.events"),
    "cgroup": Version("memory.limit_in_bytes", "memory.memsw.limit_in_bytes", True, "memory.oom_control"),
}
"""The kind of file system -> its version."""


@dataclass(frozen=True)
class Group:
    """A group with a limit of memory."""

    folder: Path
    version: Version

    @property
    def has_ended_processes(self) -> bool:
        """Whether the kernel ended one of its processes because memory ran out."""
        with suppress(OSError, ValueError):
            lines = (self.folder / self.version.events).read_text().splitlines()
            return any(int(count) > 0 for name, count in map(str.split, lines) if name == "oom_kill")
        return False

    def remove(self) -> None:
        """What was in it has ended, or does so now: the kernel takes a moment."""
        deadline = time.monotonic() + REMOVE_SECONDS
        while self.folder.exists() and time.monotonic() < deadline:
            with suppress(OSError):
                self.folder.rmdir()
                return
            time.sleep(0.005)


def made(memory: int) -> Group | None:
    """A new group of so many bytes of memory; None where none can be had."""
    place = find_place()
    return _made(*place, memory) if place else None


@functools.cache
def find_place() -> tuple[Path, Version] | None:
    """The group below which this process may make others. It is tried once for each process."""
    try:
        known = Path("/proc/self/cgroup").read_text(), Path("/proc/self/mountinfo").read_text()
    except OSError:
        return None
    return next((place for place in places(*known) if _works(*place)), None)


def _works(parent: Path, version: Version) -> bool:
    group = _made(parent, version, 1 << 30)
    if group is None:
        return False
    joining = ["/bin/sh", "-c", 'echo 0 >"$0"', str(group.folder / JOIN)]
    done = subprocess.run(joining, stderr=subprocess.DEVNULL, check=False)
    group.remove()
    return done.returncode == 0


def _made(parent: Path, version: Version, memory: int) -> Group | None:
    _remove_left_behind(parent)
    try:
        group = Group(Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}.", dir=parent)), version)
    except OSError:
        return None
    try:
        for name, value in ((version.most, memory), (version.swap, memory if version.swap_counts_all else 0)):
            file = group.folder / name
            if name == version.most or file.exists():  # not every kernel limits swapping
                with file.open("r+") as stream:  # "w" would make a file where the kernel has none
                    stream.write(str(value))
    except OSError:
        group.remove()
        return None
    return group


def _remove_left_behind(parent: Path) -> None:
    """Groups of processes that were killed: no process is in them any more."""
    for folder in parent.glob(f"{PREFIX}*.*"):
        if not Path("/proc", folder.name.split(".")[1]).exists():
            with suppress(OSError):
                folder.rmdir()


def places(own_groups: str, mounts: str) -> Iterator[tuple[Path, Version]]:
    """Where groups might be made that limit memory, as /proc/self/cgroup and /proc/self/mountinfo say."""
    path_of = {controllers: path for _, controllers, path in (line.split(":", 2) for line in own_groups.splitlines())}
    for line in mounts.splitlines():
        before, _, after = line.partition(" - ")
        root, mounted = before.split()[3:5]
        kind, _, options = after.split(" ", 2)
        if kind == "cgroup2" and "" in path_of:
            own = Path(mounted, os.path.relpath(path_of[""], root))
            if own != Path(mounted):  # a group has no processes of its own where those below it have limits
                yield own.parent, VERSIONS[kind]
            yield own, VERSIONS[kind]
        elif kind == "cgroup" and "memory" in options.split(",") and "memory" in path_of:
            yield Path(mounted, os.path.relpath(path_of["memory"], root)), VERSIONS[kind]
