"""Large bodies for half a minute: what is read has to be let go."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

from bench.serving import load
from bench.serving.result import Row
from bench.serving.setting import Setting
from compare import servers
from compare.servers import Server

BODIES = {"100 kB": 32, "1 MB": 320}
"""Rows of 28x28 numbers that make such a body."""
SECONDS = 30
CONNECTIONS = 8
GROWTH = 1.05
"""Of the last third over the second: the first is for the arenas to fill."""


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
                seen = watching.result()
            third = len(seen) // 3
            middle, end = max(seen[third : 2 * third]), max(seen[2 * third :])
            figures = {"requests/s": done.per_second, "errors": done.errors}
            figures |= {"start MB": start, "10 to 20 s MB": middle, "20 to 30 s MB": end}
            flat = end <= GROWTH * middle and not done.errors
            rows.append(Row(f"Bodies of {size} for {SECONDS} s", "ours", figures, target="flat memory", reached=flat))
    return rows


def _watch(server: Server, stop: threading.Event) -> list[float]:
    seen = []
    while not stop.is_set():
        seen.append(server.rss())
        time.sleep(0.2)
    return seen
