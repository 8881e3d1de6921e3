"""Large bodies for half a minute: the memory of a request has to be freed after it."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

from bench.serving import load
from bench.serving.result import Row
from bench.serving.setting import Setting
from compare import servers
from compare.servers import Server

BODIES = {"100 kB": 32, "1 MB": 320}
"""Size of a body -> its rows of 28x28 numbers."""
SECONDS = 30
CONNECTIONS = 8
GROWTH = 1.05
"""Limit of the last third's memory over the second third's. In the first third the allocator's arenas fill."""


def flat_memory(setting: Setting) -> list[Row]:
    rows = []
    for size, pictures in BODIES.items():
        call = setting.model.binary(pictures)
        with servers.ours(setting.artifacts, 1) as ours:
            call.check(ours)
            start = ours.rss()
            with ThreadPoolExecutor(1) as pool:
                stop = threading.Event()
                watching = pool.submit(_watch, ours, stop)
                done = load.run(ours, call, CONNECTIONS, SECONDS)
                stop.set()
                samples = watching.result()
            third = len(samples) // 3
            middle, end = max(samples[third : 2 * third]), max(samples[2 * third :])
            figures = {"requests/s": done.per_second, "errors": done.errors}
            figures |= {"start MB": start, "10 to 20 s MB": middle, "20 to 30 s MB": end}
            flat = end <= GROWTH * middle and not done.errors
            rows.append(Row(f"Bodies of {size} for {SECONDS} s", "ours", figures, target="flat memory", reached=flat))
    return rows


def _watch(server: Server, stop: threading.Event) -> list[float]:
    """Megabytes, five times a second until `stop` is set."""
    samples = []
    while not stop.is_set():
        samples.append(server.rss())
        time.sleep(0.2)
    return samples
