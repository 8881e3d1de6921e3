"""What each model did: counted in plain numbers, right with several worker processes.

Each worker writes its numbers to a file of its own in the state folder, a few times a second while they change, and
whoever is asked adds them up. A worker that died leaves its file, so that no count ever falls.
"""

import json
import os
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from contract.manifest import write_json

BOUNDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Upper bounds, in seconds, of the buckets that request times are counted in; one more bucket has no bound."""

WRITE_SECONDS = 0.2


@dataclass
class Duration:
    """How often something happened, and how long it took in all."""

    count: int = 0
    seconds: float = 0.0

    def add(self, seconds: float) -> None:
        self.count += 1
        self.seconds += seconds


@dataclass
class ModelStats:
    """One model in one worker, or the sum over workers."""

    success: Duration = field(default_factory=Duration)
    fail: Duration = field(default_factory=Duration)
    queue: Duration = field(default_factory=Duration)
    rows: int = 0
    """Rows of requests that were answered."""
    calls: dict[int, Duration] = field(default_factory=lambda: defaultdict(Duration))
    """Rows in one call of the runtime -> the calls."""
    codes: dict[int, int] = field(default_factory=lambda: defaultdict(int))
    """HTTP status -> requests."""
    buckets: list[int] = field(default_factory=lambda: [0] * (len(BOUNDS) + 1))
    last: float = 0.0
    """When the last request was answered, in seconds since the epoch."""
    call_seconds: float = 0.0
    """What a call costs besides its rows, and what a row costs: measured at warm-up. Endless where another process runs
    it, which may hang."""
    row_seconds: float = 0.0

    def expected_seconds(self, rows: int) -> float:
        """How long a call of this many rows will take."""
        return self.call_seconds + rows * self.row_seconds

    def count_call(self, rows: int, seconds: float) -> None:
        self.calls[rows].add(seconds)

    def count_answer(self, rows: int, queued: float, seconds: float) -> None:
        """A request was answered, `seconds` after it came."""
        self.success.add(seconds)
        self.queue.add(queued)
        self.rows += rows
        self.codes[200] += 1
        self.buckets[_bucket(seconds)] += 1
        self.last = time.time()

    def count_failure(self, code: int, seconds: float) -> None:
        self.fail.add(seconds)
        self.codes[code] += 1
        self.buckets[_bucket(seconds)] += 1

    def add(self, other: Mapping[str, Any]) -> None:
        """Add what another worker wrote."""
        for name in ("success", "fail", "queue"):
            mine, its = getattr(self, name), other[name]
            mine.count += its["count"]
            mine.seconds += its["seconds"]
        self.rows += other["rows"]
        for rows, call in other["calls"].items():
            self.calls[int(rows)].count += call["count"]
            self.calls[int(rows)].seconds += call["seconds"]
        for code, count in other["codes"].items():
            self.codes[int(code)] += count
        self.buckets = [mine + its for mine, its in zip(self.buckets, other["buckets"], strict=True)]
        self.last = max(self.last, other["last"])


def _bucket(seconds: float) -> int:
    return next((index for index, bound in enumerate(BOUNDS) if seconds <= bound), len(BOUNDS))


class Stats:
    """Every model of this worker, and the way to the other workers' numbers."""

    def __init__(self, names: Iterable[str], folder: Path | None = None) -> None:
        self.models = {name: ModelStats() for name in names}
        self._folder = folder
        self._written = 0.0

    def __getitem__(self, name: str) -> ModelStats:
        return self.models[name]

    def write(self) -> None:
        """Let the other workers see this one's numbers."""
        if self._folder is not None:
            write_json(
                self._folder / f"{os.getpid()}.json", {name: asdict(stats) for name, stats in self.models.items()}
            )

    def total(self) -> dict[str, ModelStats]:
        """The sum over this worker and all others that serve or have served."""
        self.write()
        files = [] if self._folder is None else sorted(self._folder.glob("*.json"))
        sums = {name: ModelStats() for name in self.models}
        for path in files:
            for name, stats in json.loads(path.read_bytes()).items():
                sums.setdefault(name, ModelStats()).add(stats)
        return sums if files else self.models
