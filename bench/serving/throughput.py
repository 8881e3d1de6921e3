"""One picture a request over 8 connections: this service against other servers.

Both servers of a comparison run all the time and are loaded in turns, so that whatever else the machine does affects
both. The ratio is the median of the rounds' ratios. Each round connects again: how 8 connections are shared by two
workers is chance (4 and 4, or 8 and 0) for every server alike, and changes a round's figures by up to half.
"""

import contextlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from bench.serving import load
from bench.serving.calls import Call
from bench.serving.environments import OPPONENTS, python_of
from bench.serving.load import Load
from bench.serving.result import Row
from bench.serving.setting import Setting
from compare import servers
from compare.servers import Server
from contract.code import ROOT

CONNECTIONS = 8
WORKERS = 2

JSON_TARGET, BINARY_TARGET, LARGE_TARGET, SERVERS_TARGET, KEYS_TARGET = 1.3, 1.45, 2.0, 7.0, 0.95

LARGE_BYTES = 1_000_000


@dataclass(frozen=True)
class Opponent:
    """How another server is started; `{python}` stands for the interpreter of its environment."""

    name: str
    command: tuple[str, ...]
    ready: str
    environment: Mapping[str, str]


FASTAPI = Opponent("fastapi", ("{python}", "fastapi_app.py"), "/ready", {})
FRAMEWORKS = (
    # With no worker processes the model runs in the HTTP process: for a model as small as this it is MLServer's
    # fastest setting, though its documentation recommends the second for models that compute.
    Opponent("mlserver", ("{python}", "mlserver_app.py"), "/v2/models/{name}/ready", {"PARALLEL_WORKERS": "0"}),
    Opponent(
        "mlserver", ("{python}", "mlserver_app.py"), "/v2/models/{name}/ready", {"PARALLEL_WORKERS": str(WORKERS)}
    ),
    Opponent("litserve", ("{python}", "litserve_app.py"), "/health", {}),
    Opponent(
        "bentoml",
        ("{python}", "-m", "bentoml", "serve", "bentoml_app:Onnx", "--host", servers.HOST, "--port", "{port}"),
        "/readyz",
        {"BENTOML_DO_NOT_TRACK": "True"},
    ),
    Opponent("ray", ("{python}", "ray_app.py"), "/-/healthz", {"RAY_USAGE_STATS_ENABLED": "0"}),
)


def json_against_fastapi(setting: Setting) -> list[Row]:
    call = setting.model.json(1)
    return _duel("1 picture a request, JSON, 8 connections", setting, call, call, JSON_TARGET)


def binary_against_fastapi(setting: Setting) -> list[Row]:
    """The binary tensor extension, against a service that takes only the numbers."""
    calls = setting.model.binary(1), setting.model.raw(1)
    return _duel("1 picture a request, binary, 8 connections", setting, *calls, BINARY_TARGET)


def large_bodies_against_fastapi(setting: Setting) -> list[Row]:
    """As many pictures as a megabyte of JSON holds."""
    row_bytes = len(setting.model.json(100).body) / 100
    call = setting.model.json(round(LARGE_BYTES / row_bytes))
    return _duel("Bodies of 1 MB, JSON, 8 connections", setting, call, call, LARGE_TARGET)


def with_keys(setting: Setting) -> list[Row]:
    """The same service, where callers need keys and where they need none."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        keys = Path(folder) / "keys"
        key = {"Authorization": f"Bearer {_key(keys)}"}
        with (
            servers.ours(setting.artifacts, WORKERS, SERVE_KEYS_FILE=str(keys)) as locked,
            servers.ours(setting.artifacts, WORKERS) as free,
        ):
            for name, call in (("JSON", setting.model.json(1)), ("binary", setting.model.binary(1))):
                sent = replace(call, headers={**call.headers, **key})
                sent.check(locked)
                loads = _in_turns(locked, sent, free, call, setting)
                figures = [load.figures(rounds, server) for rounds, server in zip(loads, (locked, free), strict=True)]
                ratio, measure = load.ratio(*loads), f"1 picture a request, {name}, 8 connections, keys"
                reached = ratio >= KEYS_TARGET and not figures[0]["errors"]
                rows.append(Row(measure, "ours with keys", figures[0]))
                rows.append(Row(measure, "ours without", figures[1], ratio, f">= {KEYS_TARGET:g}x", reached))
    return rows


def _key(file: Path) -> str:
    """A key for everything, made as a user makes one."""
    command = [sys.executable, "-m", "serve.keys", "bench"]
    environment = {**os.environ, "SERVE_KEYS_FILE": str(file)}
    made = subprocess.run(command, env=environment, cwd=ROOT, check=True, capture_output=True, text=True)
    return made.stdout.strip()


def against_frameworks(setting: Setting) -> list[Row]:
    call, measure = setting.model.json(1), "1 picture a request, JSON, 8 connections, other servers"
    with servers.ours(setting.artifacts, WORKERS) as ours:
        call.check(ours)
        rows, mine = [], []
        for opponent in FRAMEWORKS:
            with _running(opponent, setting) as theirs:
                call.check(theirs)
                own, its = _in_turns(ours, call, theirs, call, setting)
                mine += own
                row = Row(measure, theirs.name, load.figures(its, theirs), ratio=load.ratio(own, its))
                rows.append(row)
        first = Row(measure, "ours", load.figures(mine, ours))
    return [first, *_with_target(rows)]


def _with_target(rows: list[Row]) -> list[Row]:
    """The target holds for the best of them."""
    best = min(row.ratio or 0 for row in rows)
    target = f">= {SERVERS_TARGET:g}x the best"
    return [
        Row(row.measure, row.server, row.figures, row.ratio, target, best >= SERVERS_TARGET)
        if row.ratio == best
        else row
        for row in rows
    ]


def _duel(measure: str, setting: Setting, own: Call, its: Call, target: float) -> list[Row]:
    with servers.ours(setting.artifacts, WORKERS) as ours, _running(FASTAPI, setting) as theirs:
        own.check(ours)
        its.check(theirs)
        loads = _in_turns(ours, own, theirs, its, setting)
        figures = [load.figures(rounds, server) for rounds, server in zip(loads, (ours, theirs), strict=True)]
    ratio = load.ratio(*loads)
    reached = ratio >= target and figures[0]["p99 ms"] <= figures[1]["p99 ms"] and not figures[0]["errors"]
    text = f">= {target:g}x, p99 no worse"
    return [Row(measure, "ours", figures[0]), Row(measure, "FastAPI by hand", figures[1], ratio, text, reached)]


def _in_turns(ours: Server, own: Call, theirs: Server, its: Call, setting: Setting) -> tuple[list[Load], list[Load]]:
    """Warm both up, then load them in turns."""
    pairs: tuple[list[Load], list[Load]] = [], []
    load.run(ours, own, CONNECTIONS, 1)
    load.run(theirs, its, CONNECTIONS, 1)
    turns: list[tuple[list[Load], Callable[[], Load]]] = [
        (pairs[0], lambda: load.run(ours, own, CONNECTIONS, setting.seconds)),
        (pairs[1], lambda: load.run(theirs, its, CONNECTIONS, setting.seconds)),
    ]
    for number in range(setting.rounds):
        for loads, turn in turns if number % 2 == 0 else reversed(turns):
            loads.append(turn())
    return pairs


@contextlib.contextmanager
def _running(opponent: Opponent, setting: Setting) -> Iterator[Server]:
    python = python_of(opponent.name)
    command = [part.replace("{python}", str(python)) for part in opponent.command]
    environment = {
        "MODEL": str(setting.model.folder.resolve() / "model.onnx"),
        "NAME": setting.model.manifest.name,
        "WORKERS": str(WORKERS),
        "ORT_DISABLE_TELEMETRY": "1",
        "PATH": f"{python.parent}:/usr/bin:/bin",
    }
    extra = "".join(f", {value} worker processes" for key, value in opponent.environment.items() if "PARALLEL" in key)
    name, ready = opponent.name + extra, opponent.ready.replace("{name}", setting.model.manifest.name)
    with servers.started(name, command, ready, OPPONENTS, **environment, **opponent.environment) as server:
        yield server
