"""How long one call takes, on the runtime alone: each artifact in a process of its own, warm.

python -m compare.latency artifacts/keras_cnn/onnx      prints its figures as JSON
"""

import json
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

import numpy as np

from contract.manifest import read_manifest, verify_files
from serve.runtimes import Runtime, load_runtime, warm_up_inputs

BATCHES = (1, 64)
SECONDS = 1.0
"""How long each batch size is measured, after as many warm-up calls as fit into a fifth of it."""
THREADS = 1


@dataclass(frozen=True)
class Latency:
    """Microseconds a call at one batch size."""

    batch: int
    p50: float
    p95: float
    calls: int


@dataclass(frozen=True)
class Timing:
    """What one artifact costs in time."""

    runtime: str
    load_seconds: float
    """Import of the framework, load of the artifact, and its first answer."""
    latencies: tuple[Latency, ...]

    @classmethod
    def measured(cls, folder: Path) -> Self:
        """Measure in a fresh process, so that no other framework shares caches, threads or memory with this one."""
        command = [sys.executable, "-m", "compare.latency", str(folder)]
        answer = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        data = json.loads(answer.stdout.splitlines()[-1])
        return cls(data["runtime"], data["load_seconds"], tuple(Latency(**latency) for latency in data["latencies"]))


def measure(folder: Path) -> Timing:
    """Measure the artifact in `folder` in this process, computing with `THREADS` threads."""
    manifest = read_manifest(folder)
    verify_files(folder, manifest)
    start = time.perf_counter()
    runtime = load_runtime(folder, manifest, THREADS)
    loaded = time.perf_counter() - start
    latencies = tuple(_latency(runtime, _inputs(folder, batch), batch) for batch in BATCHES)
    runtime.close()
    return Timing(runtime.title, round(loaded, 2), latencies)


def _inputs(folder: Path, batch: int) -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    zeros = warm_up_inputs(read_manifest(folder), batch)
    return {name: random.integers(0, 256, value.shape).astype(value.dtype) for name, value in zeros.items()}


def _latency(runtime: Runtime, inputs: dict[str, np.ndarray], batch: int) -> Latency:
    _times(runtime, inputs, SECONDS / 5)
    times = np.array(_times(runtime, inputs, SECONDS)) / 1000
    p50, p95 = np.percentile(times, [50, 95])
    return Latency(batch, round(float(p50), 1), round(float(p95), 1), len(times))


def _times(runtime: Runtime, inputs: dict[str, np.ndarray], seconds: float) -> list[int]:
    """Nanoseconds of each call, for at least this long."""
    times = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.perf_counter_ns()
        runtime.predict(inputs)
        times.append(time.perf_counter_ns() - start)
    return times


if __name__ == "__main__":
    print(json.dumps(asdict(measure(Path(sys.argv[1])))))
