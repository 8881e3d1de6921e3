"""Memory of a worker, and the time from the start of the process to its first answer."""

import statistics

from bench.serving import load
from bench.serving.result import Row
from bench.serving.setting import Setting
from compare import servers
from compare.servers import rss

WORKER_MB, READY_SECONDS = 110, 1.0
STARTS = 5


def one_model(setting: Setting) -> list[Row]:
    """One ONNX model in one worker; memory is measured after some load."""
    measure, call, seconds, memory = "One ONNX model, one worker", setting.model.json(1), [], []
    for _ in range(STARTS):
        with servers.ours(setting.artifacts, 1) as ours:
            call.check(ours)
            load.run(ours, call, 8, 1)
            seconds.append(ours.ready_seconds)
            memory.append(max(map(rss, ours.workers())))
    ready, megabytes = statistics.median(seconds), max(memory)
    figures = {"ready s": ready, "RSS MB a worker": megabytes}
    target = f"<= {READY_SECONDS:g} s, <= {WORKER_MB} MB"
    reached = ready <= READY_SECONDS and megabytes <= WORKER_MB
    return [Row(measure, "ours", figures, target=target, reached=reached)]


def every_artifact(setting: Setting) -> list[Row]:
    """All artifacts, with all their frameworks, in one worker."""
    count = len(list(setting.all_artifacts.glob("*/*/manifest.json")))
    with servers.ours(setting.all_artifacts, 1) as ours:
        setting.model.json(1).check(ours)
        figures = {"ready s": ours.ready_seconds, "RSS MB": ours.rss(), "PSS MB": ours.pss()}
    return [Row(f"All {count} artifacts, one worker", "ours", figures, note="reported, no target")]
