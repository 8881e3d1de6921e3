"""How much there is now, in all workers: connections, requests, rows that wait, bytes. Counts are in `serve/stats.py`.

Each worker writes its gauges to a file of its own in the state folder. Those of a worker that has ended do not count.
"""

import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from contract.manifest import write_json

FILES = "gauges-*.json"
"""The workers' files in the state folder."""

PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")

Numbers = Mapping[str, Any]
"""A gauge's name -> its value, or its value for each model."""


class Gauges:
    """This worker's gauges, which `measure` gives, and the way to the other workers' ones."""

    def __init__(self, folder: Path | None, measure: Callable[[], Numbers]) -> None:
        self._measure = measure
        self._folder = folder
        self._written: Numbers = {}

    def write(self) -> None:
        """Let the other workers see this one's gauges, if they changed."""
        if self._folder is not None and (numbers := self._measure()) != self._written:
            write_json(self._folder / FILES.replace("*", str(os.getpid())), numbers)
            self._written = numbers

    def total(self) -> Numbers:
        """The sum over this worker and all others that serve."""
        total: dict[str, Any] = {}
        for numbers in (self._measure(), *self._others()):
            for name, value in numbers.items():
                if isinstance(value, dict):
                    mine = total.setdefault(name, {})
                    mine.update({model: mine.get(model, 0) + rows for model, rows in value.items()})
                else:
                    total[name] = total.get(name, 0) + value
        return total

    def _others(self) -> Iterator[Numbers]:
        for path in self._folder.glob(FILES) if self._folder else ():
            process = path.stem.rpartition("-")[2]
            if process == str(os.getpid()) or not Path("/proc", process).exists():
                continue
            try:
                numbers = json.loads(path.read_bytes())
            except (OSError, ValueError):  # it has just ended
                continue
            if isinstance(numbers, dict):
                yield numbers


def memory_bytes() -> int:
    """The memory that this process holds."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE_BYTES
