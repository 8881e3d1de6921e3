"""A slower model under 64 connections, with and without batching, in turns."""

from bench.serving import load, slow_model
from bench.serving.environments import CACHE
from bench.serving.result import Row
from bench.serving.setting import Setting
from compare import servers

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
        both = {"batched": batched, "single": single}
        loads = load.in_turns(both, call, CONNECTIONS, max(5, setting.seconds), setting.rounds)
        figures = {name: load.figures(loads[name], server) for name, server in both.items()}
    ratio = load.ratio(*loads.values())
    p99, alone = figures["batched"]["p99 ms"], figures["single"]["p99 ms"]
    reached = ratio > 1 and p99 <= alone and not figures["batched"]["errors"]
    text = "> 1x, p99 no worse, no error"
    return [
        Row(measure, "batching", figures["batched"]),
        Row(measure, "no batching", figures["single"], ratio, text, reached),
    ]
