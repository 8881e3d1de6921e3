"""wrk, the load generator: one thread, which sends a connection's next request when the last one was answered."""

import json
import statistics
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from bench.serving.calls import Call
from bench.serving.environments import wrk
from compare.servers import HOST, Server

SCRIPT = Path(__file__).with_name("wrk.lua")
TIMEOUT = "30s"


@dataclass(frozen=True)
class Load:
    """What wrk measured in one run."""

    requests: int
    seconds: float
    p50: float
    """Milliseconds."""
    p99: float
    refused: int
    """Answers other than 2xx and 3xx."""
    broken: int
    """Connections that failed, and requests without an answer."""

    @property
    def per_second(self) -> float:
        return (self.requests - self.refused) / self.seconds

    @property
    def errors(self) -> int:
        return self.refused + self.broken


class Listening(Protocol):
    """Whatever listens on a port of this machine."""

    @property
    def port(self) -> int: ...


def run(server: Listening, call: Call, connections: int, seconds: float) -> Load:
    """Send the call over and over, on this many connections, for this many seconds."""
    command = [wrk(), "-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s", "--timeout", TIMEOUT]
    headers = [part for header in call.headers.items() for part in header]
    with tempfile.NamedTemporaryFile() as body:
        body.write(call.body)
        body.flush()
        command += ["-s", str(SCRIPT), f"http://{HOST}:{server.port}{call.path}", "--", body.name]
        content_type, *more = headers[1:]
        done = subprocess.run([*command, content_type, *more], check=True, capture_output=True, text=True)
    return Load(**json.loads(done.stdout.splitlines()[-1]))


def in_turns(
    servers: Mapping[str, Server], call: Call, connections: int, seconds: float, rounds: int
) -> dict[str, list[Load]]:
    """Check and warm up the servers, then load them in turns: by a server's name, its loads, one for each round."""
    for server in servers.values():
        call.check(server)
        run(server, call, connections, 2)
    loads: dict[str, list[Load]] = {name: [] for name in servers}
    for _ in range(rounds):
        for name, server in servers.items():
            loads[name].append(run(server, call, connections, seconds))
    return loads


def ratio(own: Sequence[Load], its: Sequence[Load]) -> float:
    """The median of the rounds' ratios of requests a second."""
    return statistics.median(mine.per_second / other.per_second for mine, other in zip(own, its, strict=True))


def figures(loads: Sequence[Load], server: Server) -> Mapping[str, float]:
    """Medians over several rounds, the sum of the errors, and the server's memory now."""
    return {
        "requests/s": statistics.median(load.per_second for load in loads),
        "p50 ms": statistics.median(load.p50 for load in loads),
        "p99 ms": statistics.median(load.p99 for load in loads),
        "errors": sum(load.errors for load in loads),
        "RSS MB": server.rss(),
        "PSS MB": server.pss(),
    }
