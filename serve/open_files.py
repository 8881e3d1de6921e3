"""Each connection is an open file, and the system limits how many of them a process has.

A worker that can open no more resets newcomers, before it can let an idle connection give way. So it takes only as many
connections as leave room for what else it opens.
"""

import resource
from pathlib import Path

SPARE = 100
"""Files that a worker may open besides connections while it serves: what it sends, another model's processes, and
newcomers, each of which takes a file before an idle connection gives way. Of more than 1,000, it keeps a tenth free."""


def allow_many_files() -> None:
    """Let the service open as many files as the system allows: shells often allow 1,024."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def files_allowed() -> int:
    """How many files this process may have open."""
    allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 2**31 if allowed == resource.RLIM_INFINITY else allowed


def files_open() -> int:
    """How many it has."""
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def connections_beside(others: int, wanted: int, ports: int) -> int:
    """How many connections a worker takes at each of its ports: as many as are wanted, if there is room for them.

    `others` is how many files it needs besides them.
    """
    allowed = files_allowed()
    room = allowed - others - max(SPARE, allowed // 10)
    return max(1, min(wanted, room // ports))


def too_few_files(wanted: int, taken: int) -> str:
    """What to tell an operator who wants more connections than the system lets a worker have; empty if all fit."""
    if taken == wanted:
        return ""
    return (
        f"SERVE_MAX_CONNECTIONS={wanted} needs more open files than the system lets the service have, "
        f"{files_allowed()}, so a worker takes {taken} connections. Raise the system's hard limit (ulimit -Hn), or set "
        f"SERVE_MAX_CONNECTIONS={taken}."
    )
