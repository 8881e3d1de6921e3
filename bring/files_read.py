"""Which files of the user's folder a process reads besides the model's own: as Python reports each file that it opens.

The module that ARCH names, what it imports in turn, and what it opens: only the process that runs them knows.
"""

import importlib.util
import os
import sys
import sysconfig
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any


def record_reading(folder: Path) -> Callable[[Iterable[Path]], list[str]]:
    """Note each file below `folder` that this process opens to read it, from now on until it ends.

    The result takes other files that were read, such as by a library in C, and returns all names relative to `folder`.
    A file that was not there is among them, since it may come to be.
    """
    elsewhere = [Path(sysconfig.get_path(name)) for name in ("stdlib", "platstdlib", "purelib", "platlib")]
    elsewhere += [path.resolve() for path in elsewhere] + [Path.cwd()]
    opened: dict[Path, None] = {}

    def note(event: str, arguments: tuple[Any, ...]) -> None:
        if event != "open" or isinstance(arguments[0], int) or arguments[2] & os.O_ACCMODE != os.O_RDONLY:
            return
        path = Path(os.path.normpath(Path(os.fsdecode(arguments[0])).absolute()))
        if path.is_relative_to(folder) and not any(map(path.is_relative_to, elsewhere)):
            opened[_source_of(path)] = None

    sys.addaudithook(note)
    return lambda others: sorted({path.relative_to(folder).as_posix() for path in (*opened, *others)})


def _source_of(path: Path) -> Path:
    """A compiled module's source; any other file itself."""
    try:
        return Path(importlib.util.source_from_cache(path))
    except ValueError:  # it is not a compiled module
        return path
