"""How long calls take: percentiles and pictures per second, on the runtime alone, each artifact in a fresh process.

python -m compare.latency artifacts/keras_cnn/onnx      prints one round's figures as JSON
python -m compare.latency artifacts/keras_cnn/onnx --turns      measures when it is its turn: see compare/turns.py

Measured separately: the import of the framework, the load of the artifact, its first call, and its warm calls. The same
functions measure the calls of compare/http_calls.py. An artifact that somebody brought is measured in a cell, by the
same code: in a cell, calls take as long as elsewhere.
"""

import argparse
import contextlib
import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from compare.servers import rss
from contract.cell import command
from contract.cell.command import is_own
from contract.errors import BroughtError, RosettaError
from contract.manifest import Manifest, read_manifest, verify_files
from contract.records import decode, parse
from serve.runtimes import Runtime, import_runtime, open_runtime, warm_up_inputs

BATCHES = (1, 4, 16, 64, 128)
THREADS = 1
SECONDS = 1.0
"""How long to measure calls with one row; each larger batch takes a fifth of it."""
WARM_UP = 0.2
"""The length of the warm-up before a measurement, as a share of the measurement's time."""
CELL_SECONDS, TURNS_SECONDS = 280.0, 3600.0
"""The most that a process in a cell takes to measure an artifact; the first is less than its caller waits."""
STEPS = ("import", "load", "first_call", "memory")
MOST_OF_A_TITLE = 200
CALLS = 3
"""The smallest number of calls in one measurement."""

Call = Callable[[], object]


@dataclass(frozen=True)
class Latency:
    """Warm calls with one batch size, in seconds."""

    batch: int
    p50: float
    p95: float
    p99: float
    rows_per_second: float
    calls: int


def latencies(call_with: Callable[[int], Call], batches: Sequence[int], seconds: float) -> list[dict[str, Any]]:
    """Measure the call that `call_with(batch)` returns, for each batch size."""
    return [asdict(latency(call_with(batch), batch, seconds * (1.0 if batch == 1 else 0.2))) for batch in batches]


def latency(call: Call, batch: int, seconds: float) -> Latency:
    """Repeat one call for about this many seconds, after a warm-up."""
    _nanoseconds(call, seconds * WARM_UP)
    times = np.array(_nanoseconds(call, seconds)) / 1e9
    p50, p95, p99 = (float(value) for value in np.percentile(times, [50, 95, 99]))
    return Latency(batch, p50, p95, p99, batch * len(times) / float(times.sum()), len(times))


def _nanoseconds(call: Call, seconds: float) -> list[int]:
    times: list[int] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times) < CALLS:
        start = time.perf_counter_ns()
        call()
        times.append(time.perf_counter_ns() - start)
    return times


@dataclass(frozen=True)
class Opened:
    """An artifact on its runtime, in a process that was fresh before."""

    runtime: Runtime
    manifest: Manifest
    steps: dict[str, Any]
    """The runtime's title, the seconds of the import, the load and the first call, and the bytes of memory."""

    def call_with(self, batch: int) -> Call:
        """A call with this many rows, the same at each call."""
        random = np.random.default_rng(0)
        # Integers may be indices into a table: they stay 0, which every table has. Floats are random pixels.
        inputs = {
            name: random.integers(0, 256, zero.shape).astype(zero.dtype) if zero.dtype.kind == "f" else zero
            for name, zero in warm_up_inputs(self.manifest, batch).items()
        }
        return lambda: self.runtime.predict(inputs)


@contextlib.contextmanager
def opened(folder: Path, threads: int = THREADS) -> Iterator[Opened]:
    """The artifact in `folder`, loaded until the end of the block. This process must be fresh.

    Raises ArtifactCorrupt, ModelUnavailable or RuntimeFailure.
    """
    manifest = read_manifest(folder)
    verify_files(folder, manifest)
    moments = [time.perf_counter()]
    import_runtime(manifest)
    moments.append(time.perf_counter())
    runtime = open_runtime(folder, manifest, threads)
    moments.append(time.perf_counter())
    try:
        runtime.predict(warm_up_inputs(manifest))
        moments.append(time.perf_counter())
        steps = dict(zip(("import", "load", "first_call"), np.diff(moments).tolist(), strict=True))
        yield Opened(runtime, manifest, {"runtime": runtime.title, "memory": resident_bytes(runtime), **steps})
    finally:
        runtime.close()


def measure(
    folder: Path, seconds: float = SECONDS, threads: int = THREADS, batches: Sequence[int] = BATCHES
) -> dict[str, Any]:
    """One round of the artifact in `folder`, in seconds and bytes. Raises what `opened` raises."""
    with opened(folder, threads) as subject:
        sizes = batches if subject.manifest.has_rows else batches[:1]
        return {**subject.steps, "latencies": latencies(subject.call_with, sizes, seconds)}


def take_turns(folder: Path, threads: int = THREADS) -> None:
    """Print the steps of loading; then for each line `batch seconds` of standard input measure calls for so long.

    The answer is what `undisturbed` measured, on a line of its own. Raises what `opened` raises.
    """
    with opened(folder, threads) as subject:
        calls: dict[int, Call] = {}
        print(json.dumps(subject.steps), flush=True)
        for line in sys.stdin:
            batch, seconds = int(line.split()[0]), float(line.split()[1])
            print(undisturbed(calls.setdefault(batch, subject.call_with(batch)), seconds), flush=True)


def undisturbed(call: Call, seconds: float) -> float:
    """The seconds of a call, of those that fit into this many seconds: their lowest tenth.

    What else the machine does only adds to a time, and on a loaded one it adds to most of them.
    """
    return float(np.percentile(_nanoseconds(call, seconds), 10)) / 1e9


def measure_in_cell(folder: Path, seconds: float, threads: int, batches: Sequence[int]) -> dict[str, Any]:
    """What `measure` gives, of an artifact that somebody brought. Raises ArtifactMissing, ChildFailed, BroughtError."""
    read_manifest(folder)  # fails here, before a cell is made, if there is no artifact
    about = ["--seconds", seconds, "--threads", threads, "--batches", *batches]
    with command.cell_of(folder.parent, CELL_SECONDS) as cell:
        output = command.run(cell, "compare.latency", cell.file / folder.name, *about).output
    return checked((output.splitlines() or [""])[-1], has_latencies=True)


def take_turns_in_cell(folder: Path, threads: int) -> None:
    """`take_turns` for an artifact that somebody brought: what a process in a cell answers is checked, and printed."""
    read_manifest(folder)
    with (
        command.cell_of(folder.parent, TURNS_SECONDS) as cell,
        command.talking(cell, "compare.latency", cell.file / folder.name, "--threads", threads, "--turns") as talk,
    ):
        print(json.dumps(checked(talk.ask(), has_latencies=False)), flush=True)
        for line in sys.stdin:
            print(_number(parse(talk.ask(line))), flush=True)


def checked(line: str, has_latencies: bool) -> dict[str, Any]:
    """What this command printed in a cell. Raises BroughtError for anything else."""
    try:
        data = parse(line)
        record: dict[str, Any] = {name: _number(data[name]) for name in STEPS}
        record["runtime"] = "".join(sign for sign in str(data["runtime"])[:MOST_OF_A_TITLE] if sign.isprintable())
        if has_latencies:
            record["latencies"] = [asdict(decode(Latency, each)) for each in data["latencies"]]
    except (KeyError, TypeError, ValueError) as error:
        raise BroughtError(f"The process that measured in a cell answered something else: {error}") from error
    return record


def _number(value: object) -> float:
    """A time or a size. Raises ValueError for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
        raise ValueError(f"got {str(value)[:40]}, expected a number of at least 0")
    return value


def resident_bytes(runtime: Runtime | None = None) -> int:
    """Memory of this process, and of the runtime's own process if it has one."""
    processes = [os.getpid(), *filter(None, [getattr(runtime, "process_id", None)])]
    return round(sum(map(rss, processes)) * 2**20)


def leave() -> NoReturn:
    """End this process, which has closed all that it opened, at once: TensorFlow takes a second to tidy up."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def main() -> None:
    """The command line: the artifact's folder."""
    parser = argparse.ArgumentParser(prog="python -m compare.latency")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seconds", type=float, default=SECONDS)
    parser.add_argument("--threads", type=int, default=THREADS)
    parser.add_argument("--batches", type=int, nargs="+", default=BATCHES)
    parser.add_argument("--turns", action="store_true", help="measure when a line on standard input says so")
    parser.add_argument("--in-cell", action="store_true", help="this process is in a cell")
    options = parser.parse_args()
    is_here = options.in_cell or is_own(options.folder.parent)
    try:
        if options.turns:
            (take_turns if is_here else take_turns_in_cell)(options.folder, options.threads)
            return
        timed = measure if is_here else measure_in_cell
        print(json.dumps(timed(options.folder, options.seconds, options.threads, options.batches)))
    except RosettaError as error:
        sys.exit(f"error: {error}")
    leave()


if __name__ == "__main__":
    main()
