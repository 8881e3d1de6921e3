"""Time the service's way to drive each runtime beside the others, and fail where one of them is clearly faster.

    python -m bench.runtimes artifacts                            prints the table
    python -m bench.runtimes artifacts --write docs/compare.md    writes it into that page

All ways of an artifact run in one fresh process, in turns. The least time of all rounds counts: what else the machine
does only adds to it.
"""

import argparse
import contextlib
import json
import math
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from bench.runtimes.ways import WAYS
from bring.verdict.artifact import judge_again
from compare.figures import shown
from compare.machine import this_machine
from compare.measure import run_child
from compare.tables import markdown, write_tables
from contract.cell.command import insist_on_own
from contract.errors import ArtifactMissing, BroughtError, RosettaError, RuntimeFailure
from contract.manifest import MANIFEST, Manifest, read_manifest, verify_files
from contract.tensors import Tensors
from serve.runtimes import load_runtime, warm_up_inputs

BATCHES = (1, 64)
ROUNDS = 24
SLICE = 0.02
"""Seconds of calls of one way in a round."""
MOST = 1.10
"""The most times that the service's way may take of the best way's time."""
CLOSE = 1e-4
SERVED = "the service's"

Times = dict[str, dict[str, float]]
"""Way -> batch -> seconds."""


def main() -> int:
    """The command line. The exit status is 1 where another way is faster by more than MOST."""
    parser = argparse.ArgumentParser(prog="python -m bench.runtimes")
    parser.add_argument("artifacts", type=Path, help="the folder of artifacts, or with --child one artifact's")
    parser.add_argument("--child", action="store_true", help="measure one artifact, and print JSON")
    parser.add_argument("--write", type=Path, metavar="PAGE", help="write the table into this Markdown page as well")
    options = parser.parse_args()
    try:
        if options.child:
            print(json.dumps(measure(options.artifacts)))
            return 0
        measured = dict(measure_all(options.artifacts))
        lines = list(table(measured))
        if options.write:
            write_tables(options.write, {"runtimes": lines})
    except RosettaError as error:
        sys.exit(f"error: {error}")
    print("\n".join(lines))
    return 1 if any(slower(times) for times in measured.values()) else 0


def measure_all(artifacts: Path) -> Iterator[tuple[str, Times]]:
    """Each artifact that has other ways, and its times. One that others made is left out, with a line.

    Raises ArtifactMissing where there is none.
    """
    folders = [path.parent for path in sorted(artifacts.glob(f"*/*/{MANIFEST}")) if path.parent.name in WAYS]
    if not folders:
        raise ArtifactMissing(f"There is no artifact in {artifacts}. Run `make artifacts` to make them.")
    for folder in folders:
        try:
            insist_on_own(folder.parent)
            judge_again(folder, read_manifest(folder))
        except BroughtError as error:
            print(f"{folder.parent.name}-{folder.name} is not measured: {error}", file=sys.stderr, flush=True)
            continue
        output = run_child("bench.runtimes", str(folder), "--child")
        yield f"{folder.parent.name}-{folder.name}", json.loads(output.splitlines()[-1])


def measure(folder: Path) -> Times:
    """The times of an artifact's ways, in this process. Raises RuntimeFailure where a way gives other answers."""
    manifest = read_manifest(folder)
    verify_files(folder, manifest)
    with contextlib.ExitStack() as stack:
        runtime = stack.enter_context(contextlib.closing(load_runtime(folder, manifest)))
        ways: dict[str, Callable[[Tensors], Any]] = {SERVED: runtime.predict}
        for name, way in WAYS[manifest.format].items():
            ways[name] = call = way(folder, manifest)
            stack.callback(getattr(call, "close", lambda: None))
        return _by_turns(manifest, ways)


def _by_turns(manifest: Manifest, ways: Mapping[str, Callable[[Tensors], Any]]) -> Times:
    random, best = np.random.default_rng(0), {name: {str(batch): np.inf for batch in BATCHES} for name in ways}
    for batch in BATCHES:
        inputs = {
            name: random.integers(0, 256, zeros.shape).astype(zeros.dtype)
            for name, zeros in warm_up_inputs(manifest, batch).items()
        }
        expected = ways[SERVED](inputs)[manifest.outputs[0].name]
        answers = {name: _answer(call, inputs) for name, call in ways.items() if name != SERVED}
        for name, answer in answers.items():
            if answer is not None and not np.allclose(answer, expected, rtol=0, atol=CLOSE):
                raise RuntimeFailure(f"{manifest.name} answers otherwise by {name} with {batch} rows.")
        able = {name: call for name, call in ways.items() if answers.get(name, expected) is not None}
        for _ in range(ROUNDS):
            for name, call in able.items():
                best[name][str(batch)] = min(best[name][str(batch)], _seconds(call, inputs))
    return best


def _answer(call: Callable[[Tensors], Any], inputs: Tensors) -> Any:
    """What the way answers; None where it does not take this batch."""
    try:
        return call(inputs)
    except Exception:  # the runtimes have no error of their own for that
        return None


def _seconds(call: Callable[[Tensors], Any], inputs: Tensors) -> float:
    """The median time of the calls in one slice."""
    times: list[float] = []
    end = time.perf_counter() + SLICE
    while not times or time.perf_counter() < end:
        start = time.perf_counter()
        call(inputs)
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def slower(times: Times) -> list[str]:
    """The ways that are clearly faster than the service's, with their batch, for people."""
    return [
        f"{name} with {batch} rows"
        for name, by_batch in times.items()
        for batch, seconds in by_batch.items()
        if times[SERVED][batch] > MOST * seconds
    ]


def table(measured: Mapping[str, Times]) -> Iterator[str]:
    """A row for each way, and a line for each way that is clearly faster than the service's."""
    yield from markdown(
        "|".join(("artifact", "way", *(f"batch {batch}" for batch in BATCHES))),
        (
            (f"`{artifact}`", name, *(_cell(seconds, times[SERVED][batch]) for batch, seconds in by_batch.items()))
            for artifact, times in measured.items()
            for name, by_batch in times.items()
        ),
    )
    yield ""
    for artifact, times in measured.items():
        for way in slower(times):
            yield f"- `{artifact}`: {way} takes less than the service's way by more than {MOST - 1:.0%}."
    yield f"Measured on {this_machine()}, one thread, the least of {ROUNDS} rounds."


def _cell(seconds: float, served: float) -> str:
    if not math.isfinite(seconds):
        return "not this batch"
    time = shown(seconds, "s")
    return time if seconds == served else f"{time} ({seconds / served:.2f}x)"


if __name__ == "__main__":
    sys.exit(main())
