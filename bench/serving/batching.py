"""A slower model under 64 connections, with and without batching, in turns."""

import statistics

from bench.serving import load, slow_model
from bench.serving.environments import CACHE
from bench.serving.load import Load
from bench.serving.result import Row
from bench.serving.setting import Setting
from compare import servers
from compare.servers import Server

CONNECTIONS = 64


def slow_model_batched(setting: Setting) -> list[Row]:
    artifacts = CACHE / "slow"
    model = slow_model.write(artifacts)
    call = model.json(1) if model.inputs[0].size < 1000 else model.binary(1)
    measure = f"A model of {1000 * slow_model.seconds(model):.0f} ms, {CONNECTIONS} connections"
    with (
        servers.ours(artifacts, 2, SERVE_BATCHING="1") as batched,
        servers.ours(artifacts, 2, SERVE_BATCHING="0") as single,
    ):
        loads: dict[str, list[Load]] = {"batched": [], "single": []}
        both: dict[str, Server] = {"batched": batched, "single": single}
        for server in both.values():
            call.check(server)
            load.run(server, call, CONNECTIONS, 2)
        for _ in range(setting.rounds):
            for name, server in both.items():
                loads[name].append(load.run(server, call, CONNECTIONS, max(5, setting.seconds)))
        figures = {name: load.figures(loads[name], server) for name, server in both.items()}
    ratio = statistics.median(
        batched_load.per_second / single_load.per_second
        for batched_load, single_load in zip(loads["batched"], loads["single"], strict=True)
    )
    p99, alone = figures["batched"]["p99 ms"], figures["single"]["p99 ms"]
    reached = ratio > 1 and p99 <= alone and not figures["batched"]["errors"]
    text = "> 1x, p99 no worse, no error"
    return [
        Row(measure, "batching", figures["batched"]),
        Row(measure, "no batching", figures["single"], ratio, text, reached),
    ]
