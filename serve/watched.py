"""Files that may be replaced while the service runs: a file that cannot be used changes nothing."""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

from serve.settings import SettingError

log = logging.getLogger(__name__)

State = tuple[tuple[int, int, int], ...]
"""Of each file: its inode, when it was changed, and its bytes."""


class Watched:
    """Some files, and what takes them into use: it raises SettingError for those that cannot be used."""

    def __init__(self, paths: Sequence[Path], use: Callable[[], None]) -> None:
        self._paths, self._use = paths, use
        self._state = self._look()
        use()

    def look(self) -> None:
        """Use the files if they have changed. What is wrong with them is logged once."""
        if (state := self._look()) == self._state:
            return
        self._state = state
        try:
            self._use()
        except SettingError as error:
            log.error("%s What was read before goes on.", error)

    def _look(self) -> State:
        try:
            files = [path.stat() for path in self._paths]
        except OSError:
            return ()
        return tuple((file.st_ino, file.st_mtime_ns, file.st_size) for file in files)
