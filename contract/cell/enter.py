"""Build a cell around this process, run a command in it, and end with the command's status.

contract/cell/host.py starts it, by itself: it imports little, and runs before anything of a stranger's is read.

Three processes: this one stays outside, and ends everything when its caller ends or lets go of the lifeline. The second
one is the first of the cell's process namespace; when it ends, the kernel ends all others. The third one becomes the
command. Where there is no process namespace, the first one adopts all descendants, and ends them one by one.
"""

import os
import resource
import select
import signal
import sys
import time
from collections.abc import Callable

from contract.cell import calls, kernel, landlock, view

TYPE_CHECKING = False
if TYPE_CHECKING:  # every child waits for what is imported here
    from typing import Any, NoReturn

    Room = dict[str, Any]

NAMESPACES, BUBBLEWRAP, RULES, NOTHING = "namespaces", "bubblewrap", "rules", "nothing"
"""The means by which a cell keeps files and processes apart, the strongest first."""
INSIDE = "inside"
"""Bubblewrap has built the namespaces, and runs this program in them."""

NOT_BUILT = 125
"""The exit status where the cell could not be built; standard error says why."""
SWEEP_SECONDS = 10.0


def main(room: "Room") -> "NoReturn":
    """Enter the cell that `room` describes; host.py makes it, of a `Request` and of the parts that there are."""
    try:
        os.umask(0o022)
        if room["means"] == INSIDE:
            _close_from_here(room)
            kernel.hide_from_others()
            _first(room)
        os.set_inheritable(room["lifeline"], False)
        if room["group"]:
            _write(room["group"], "0")
        status = _run(room)
    except OSError as error:
        print(f"The cell could not be built: {error}", file=sys.stderr, flush=True)
        os._exit(NOT_BUILT)
    _end_as(os.waitstatus_to_exitcode(status))


def _run(room: "Room") -> int:
    """Run the command; its wait status."""
    if room["means"] == NAMESPACES:
        _unshare(room)
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(reading)
            _end_first_where_memory_runs_out()
            _guarded(lambda: _first(room, writing))
        os.close(writing)
        status = _wait(child, room["lifeline"])
        answer = os.read(reading, 16)
        return int(answer) if answer else status
    if room["means"] == BUBBLEWRAP:
        child = os.fork()
        if child == 0:
            _end_first_where_memory_runs_out()
            os.execv(room["bubblewrap"][0], room["bubblewrap"])
        return _wait(child, room["lifeline"])
    kernel.adopt_orphans()
    child = os.fork()
    if child == 0:
        _end_first_where_memory_runs_out()
        _guarded(lambda: _become(room))
    status = _wait(child, room["lifeline"])
    _sweep()
    return status


def _guarded(action: Callable[[], object]) -> "NoReturn":
    """In a fork: never return into the code of the process that forked."""
    try:
        action()
    except BaseException as error:
        print(f"The cell could not be built: {error}", file=sys.stderr, flush=True)
    os._exit(NOT_BUILT)


def _unshare(room: "Room") -> None:
    user, group = os.geteuid(), os.getegid()
    apart = kernel.NEW_ANYTHING
    if room["user"] is not None:  # root needs no user namespace: its process becomes another user instead
        kernel.unshare(apart & ~kernel.NEW_USERS)
        return
    kernel.unshare(apart)
    _write("/proc/self/setgroups", "deny")
    _write("/proc/self/uid_map", f"{user} {user} 1")
    _write("/proc/self/gid_map", f"{group} {group} 1")


def _write(path: str, text: str) -> None:
    with open(path, "w") as stream:
        stream.write(text)


def _end_first_where_memory_runs_out() -> None:
    """Before the process that stays outside: that one ends what is left of the cell."""
    try:
        _write("/proc/self/oom_score_adj", "1000")
    except OSError:
        pass  # a help, not a protection


def _first(room: "Room", writing: int | None = None) -> "NoReturn":
    """The first process of the namespace: build the view, start the command, and collect what ends."""
    if room["means"] == NAMESPACES:
        view.build(room["root"], room["readable"], room["links"], room["folder"], room["scratch"])
        _give_up_privileges(room)
    child = os.fork()
    if child == 0:
        _guarded(lambda: _become(room))
    ended = None
    while ended != child:
        ended, status = os.wait()
    if writing is None:  # bubblewrap says no more than this, and a first process cannot end itself by a signal
        code = os.waitstatus_to_exitcode(status)
        os._exit(code if code >= 0 else 128 - code)
    os.write(writing, str(status).encode())
    os._exit(0)


def _give_up_privileges(room: "Room") -> None:
    kernel.drop_bounding_set()
    if room["user"] is not None:
        os.setgroups([])
        os.setresgid(room["user"], room["user"], room["user"])
        os.setresuid(room["user"], room["user"], room["user"])
    kernel.drop_capabilities()
    kernel.hide_from_others()
    kernel.die_with_parent(signal.SIGKILL)


def _become(room: "Room") -> "NoReturn":
    """Take on what is left of the cell, and become the command. Nothing that follows can undo any of it."""
    os.setsid()  # signals to its group, and to its terminal, reach nobody else
    is_alone = room["means"] in (NAMESPACES, INSIDE)
    if not is_alone:
        _give_up_privileges(room)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for limit, value in ((resource.RLIMIT_FSIZE, room["file_size"]), (resource.RLIMIT_NPROC, room["processes"])):
        hard = resource.getrlimit(limit)[1]
        most = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(limit, (most, most))
    os.chdir(room["folder"])
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    kernel.forbid_new_privileges()
    if room["means"] == RULES:
        landlock.restrict([*room["readable"], *view.PROCESSES], [room["folder"], *view.DEVICES])
    if room["filter"]:
        calls.forbid(calls.rules(others_visible=not is_alone, files_by_rules=room["means"] == RULES))
    os.execv(room["command"][0], room["command"])


def _wait(child: int, lifeline: int) -> int:
    """Wait for its end, and end it when the other side of the lifeline is closed; its wait status."""
    ended = os.pidfd_open(child)
    poll = select.poll()
    poll.register(ended, select.POLLIN)
    poll.register(lifeline, select.POLLHUP)
    if ended not in dict(poll.poll()):
        os.kill(child, signal.SIGKILL)
    return os.waitpid(child, 0)[1]


def _sweep() -> None:
    """End every descendant: each becomes a child of this process when its own parent ends."""
    deadline = time.monotonic() + SWEEP_SECONDS
    while time.monotonic() < deadline:
        for number in (signal.SIGSTOP, signal.SIGKILL):  # what is stopped starts no other
            for child in _children():
                try:
                    os.kill(child, number)
                except (ProcessLookupError, PermissionError):
                    pass
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return
        time.sleep(0.001)


def _children() -> list[int]:
    children = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{name}/stat") as stat:
                parent = stat.read().rpartition(")")[2].split()[1]
        except (OSError, IndexError):
            continue
        if int(parent) == os.getpid():
            children.append(int(name))
    return children


def _close_from_here(room: "Room") -> None:
    """Bubblewrap passes on what it was given: only the streams, and what the caller names, are the command's."""
    kept = {0, 1, 2, *room["keep"]}
    for name in os.listdir("/proc/self/fd"):
        if int(name) not in kept:
            try:
                os.close(int(name))
            except OSError:
                pass  # the list itself


def _end_as(status: int) -> "NoReturn":
    """End as the command did, by a signal where it was one."""
    if status < 0:
        if -status not in (signal.SIGKILL, signal.SIGSTOP):
            signal.signal(-status, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        os.kill(os.getpid(), -status)
    os._exit(abs(status))
