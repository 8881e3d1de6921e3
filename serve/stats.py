"""The statistics of each model: plain counts that are right with several worker processes.

Each worker writes its numbers to a file of its own in the state folder, a few times a second while they change. The
worker that is queried adds them up. A worker that died leaves its file, so that no count ever falls.
"""

import bisect
import json
import logging
import os
import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from contract.errors import one_line
from contract.manifest import write_json
from serve.protocol import VERSION

BOUNDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Upper bounds, in seconds, of the buckets that request times are counted in; one more bucket has no bound."""

WRITE_SECONDS = 0.2

EXACT_ROWS = 32
"""Calls of more rows are counted at the next power of two: callers choose the sizes, and each has numbers of its own.
"""

NO_MODEL = ""
"""What requests are counted under that reach no model: those that are refused before, and those for unknown paths."""

FILES = "stats-*.json"
"""The workers' files in the state folder."""

log = logging.getLogger(__name__)

_lock = threading.Lock()
"""Held while numbers change or are copied: the event loop and the threads behind it count in the same places."""


@dataclass
class Duration:
    """How often something happened, and how long it took in all."""

    count: int = 0
    seconds: float = 0.0

    def add(self, seconds: float) -> None:
        self.count += 1
        self.seconds += seconds

    def to_json(self) -> dict[str, int]:
        """As the statistics extension gives it."""
        return {"count": self.count, "ns": round(self.seconds * 1e9)}


@dataclass
class ModelStats:
    """One model in one worker, or the sum over workers."""

    success: Duration = field(default_factory=Duration)
    fail: Duration = field(default_factory=Duration)
    queue: Duration = field(default_factory=Duration)
    rows: int = 0
    """Rows of requests that were answered."""
    compute: Duration = field(default_factory=Duration)
    """Requests that were answered, and the seconds of the calls that each was part of."""
    calls: dict[int, Duration] = field(default_factory=dict)
    """Rows in one call of the runtime, as `EXACT_ROWS` says -> the calls."""
    call_rows: int = 0
    """Rows of all calls."""
    codes: dict[int, int] = field(default_factory=dict)
    """HTTP status -> requests."""
    buckets: list[int] = field(default_factory=lambda: [0] * (len(BOUNDS) + 1))
    last: float = 0.0
    """When the last request was answered, in seconds since the epoch."""
    call_seconds: float = 0.0
    """What a call costs besides its rows, and what a row costs: measured at warm-up."""
    row_seconds: float = 0.0

    def expected_seconds(self, rows: int) -> float:
        """How long a call of this many rows will take."""
        return self.call_seconds + rows * self.row_seconds

    def count_call(self, rows: int, seconds: float) -> None:
        with _lock:
            self._count_call(rows, seconds)

    def _count_call(self, rows: int, seconds: float) -> None:
        size = rows if rows <= EXACT_ROWS else 1 << (rows - 1).bit_length()
        self.calls.setdefault(size, Duration()).add(seconds)
        self.call_rows += rows

    def count_answer(self, rows: int, queued: float, computed: float, seconds: float) -> None:
        """A request was answered, `seconds` after it came, by a call that took `computed`."""
        with _lock:
            self._count_answer(rows, queued, computed, seconds)

    def _count_answer(self, rows: int, queued: float, computed: float, seconds: float) -> None:
        self.success.add(seconds)
        self.queue.add(queued)
        self.compute.add(computed)
        self.rows += rows
        self._count_code(200, seconds)
        self.last = time.time()

    def count_relayed(self, rows: int, seconds: float) -> None:
        """A request was answered, by one call of a remote that was its own."""
        with _lock:
            self._count_call(rows, seconds)
            self._count_answer(rows, 0.0, seconds, seconds)

    def count_failure(self, code: int, seconds: float) -> None:
        with _lock:
            self.fail.add(seconds)
            self._count_code(code, seconds)

    def _count_code(self, code: int, seconds: float) -> None:
        self.codes[code] = self.codes.get(code, 0) + 1
        self.buckets[_bucket(seconds)] += 1

    def add(self, other: Mapping[str, Any]) -> None:
        """Add what another worker wrote."""
        for name in ("success", "fail", "queue", "compute"):
            mine, its = getattr(self, name), other[name]
            mine.count += its["count"]
            mine.seconds += its["seconds"]
        self.rows += other["rows"]
        self.call_rows += other["call_rows"]
        for rows, call in other["calls"].items():
            mine = self.calls.setdefault(int(rows), Duration())
            mine.count += call["count"]
            mine.seconds += call["seconds"]
        for code, count in other["codes"].items():
            self.codes[int(code)] = self.codes.get(int(code), 0) + count
        self.buckets = [mine + its for mine, its in zip(self.buckets, other["buckets"], strict=True)]
        self.last = max(self.last, other["last"])

    def to_json(self, name: str, version: str = VERSION) -> dict[str, Any]:
        """A model's statistics, as Triton's extension of the Open Inference Protocol gives them: totals since start."""
        calls = sum(call.count for call in self.calls.values())
        nothing = Duration().to_json()
        return {
            "name": name,
            "version": version,
            "last_inference": round(self.last * 1000),
            "inference_count": self.rows,
            "execution_count": calls,
            "inference_stats": {
                "success": self.success.to_json(),
                "fail": self.fail.to_json(),
                "queue": self.queue.to_json(),
                "compute_input": _no_time(self.compute),
                "compute_infer": self.compute.to_json(),
                "compute_output": _no_time(self.compute),
                "cache_hit": nothing,
                "cache_miss": nothing,
            },
            "batch_stats": [
                {
                    "batch_size": rows,
                    "compute_input": _no_time(call),
                    "compute_infer": call.to_json(),
                    "compute_output": _no_time(call),
                }
                for rows, call in sorted(self.calls.items())
            ],
        }


def _no_time(duration: Duration) -> dict[str, int]:
    """As often, in no time: what goes in and out is not measured, and perf_analyzer wants equal counts."""
    return {"count": duration.count, "ns": 0}


def _bucket(seconds: float) -> int:
    return bisect.bisect_left(BOUNDS, seconds)


class Stats:
    """Every model of this worker, and the way to the other workers' numbers."""

    def __init__(self, names: Iterable[str], folder: Path | None = None) -> None:
        self.models = {name: ModelStats() for name in (*names, NO_MODEL)}
        # A process id alone would be used again one day, and the dead worker's counts be lost.
        self._file = folder and folder / FILES.replace("*", f"{os.getpid()}-{time.time_ns()}")
        self._written: dict[str, Any] = {}
        self._writing = threading.Lock()
        self._others: dict[Path, dict[str, ModelStats]] = {}
        """What the other workers' files held when they could last be read."""

    def __getitem__(self, name: str) -> ModelStats:
        return self.models[name]

    def of(self, name: str) -> ModelStats:
        """A model's numbers; of a new model they begin here."""
        with _lock:
            return self.models.setdefault(name, ModelStats())

    def write(self) -> None:
        """Let the other workers see this one's numbers, if they changed."""
        if self._file is None:
            return
        with self._writing:  # threads would share the file that is renamed when it is complete
            if (numbers := self._numbers()) == self._written:
                return
            try:
                write_json(self._file, numbers)
                self._written = numbers
            except OSError as error:
                log.warning(
                    "The counts cannot be shared in %s: %s. Give SERVE_STATE another folder.", self._file, error
                )

    def total(self) -> dict[str, ModelStats]:
        """The sum over this worker and all others that serve or have served."""
        self.write()  # the other workers must not report less later, even if this one dies now
        documents = [_models(self._numbers())]
        if self._file is not None:
            documents += [self._read(path) for path in sorted(set(self._file.parent.glob(FILES)) - {self._file})]
        sums = {name: ModelStats() for name in self.models}
        for document in documents:
            for name, stats in document.items():
                sums.setdefault(name, ModelStats()).add(asdict(stats))
        return sums

    def _read(self, path: Path) -> dict[str, ModelStats]:
        """Another worker's numbers; those of the last time if its file is damaged."""
        try:
            self._others[path] = _models(json.loads(path.read_bytes()))
        except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
            log.warning("%s is not read: %s. Counts of a worker may be too low.", path, one_line(error))
        return self._others.get(path, {})

    def _numbers(self) -> dict[str, Any]:
        with _lock:
            return {name: asdict(stats) for name, stats in self.models.items()}


def _models(document: Mapping[str, Any]) -> dict[str, ModelStats]:
    """What a worker wrote. Raises ValueError, LookupError, TypeError or AttributeError for anything else."""
    models: dict[str, ModelStats] = {}
    for name, numbers in document.items():
        models[name] = ModelStats()
        models[name].add(numbers)
    return models
