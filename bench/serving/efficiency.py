"""32 pictures a request: the model's share of the service's CPU time.

Both run on one thread, in turns: the bare runtime in a loop, the service with one worker and one connection.
"""

import statistics
import time

from bench.serving import load
from bench.serving.calls import Model
from bench.serving.result import Row
from bench.serving.setting import Setting
from compare import servers

ROWS = 32
TARGET = 0.80


def cpu_time_an_image(setting: Setting) -> list[Row]:
    measure, call = f"{ROWS} pictures a request, binary: microseconds of CPU time a picture", setting.model.binary(ROWS)
    bare, served = [], []
    with servers.ours(setting.artifacts, 1) as ours:
        call.check(ours)
        load.run(ours, call, 2, 1)
        for _ in range(setting.rounds):
            bare.append(_bare(setting.model, setting.seconds))
            before = ours.cpu_seconds()
            done = load.run(ours, call, 2, setting.seconds)
            served.append((ours.cpu_seconds() - before) / (done.requests * ROWS))
    share = statistics.median(own / whole for own, whole in zip(bare, served, strict=True))
    rows = [Row(measure, "the bare runtime", {"us a picture": 1e6 * statistics.median(bare)})]
    figures = {"us a picture": 1e6 * statistics.median(served), "the model's share": share}
    return [*rows, Row(measure, "ours", figures, target=f"share >= {TARGET}", reached=share >= TARGET)]


def _bare(model: Model, seconds: float) -> float:
    """CPU seconds a picture of the runtime alone, in batches of the same size."""
    inputs, pictures = model.tensors(ROWS), 0
    end, start = time.perf_counter() + seconds, time.process_time()
    while time.perf_counter() < end:
        model.runtime.predict(inputs)
        pictures += ROWS
    return (time.process_time() - start) / pictures
