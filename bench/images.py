"""What a container image costs: bytes to pull, seconds until ready, memory when warm; and what the gateway's hop adds.

python -m bench.images                               prints the tables
python -m bench.images --write docs/containers.md    writes them between the markers of that page
"""

import argparse
import contextlib
import http.client
import json
import os
import statistics
import subprocess
import sys
import time
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bench.serving import load
from bench.serving.calls import Call
from compare.machine import this_machine
from compare.requests import HEADER_LENGTH
from compare.servers import HOST, free_port
from compare.tables import write_tables
from contract.errors import ArtifactMissing, RosettaError

IMAGES = ("serve-tflite", "serve-onnx", "serve-tfjs", "serve-torch", "serve-keras", "gateway")
ONNX, GATEWAY = "serve-onnx", "gateway"
MODEL = "keras_cnn-onnx"
NETWORK = "rosetta-serve-bench"

HARDENED = ("--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges", "--cpus", "1")
"""The options of docker/compose.yaml."""

WARM_UP_CALLS = 200
READY_SECONDS = 120.0


@dataclass(frozen=True)
class Container:
    """A running container, and its port on this machine."""

    identity: str
    port: int
    ready_seconds: float
    """From starting it to its first answer that it is ready."""


@dataclass(frozen=True)
class Cost:
    """What one image costs."""

    image: str
    compressed: int
    """Bytes of the image as `docker save` writes it, compressed with gzip: about what a registry sends."""
    ready_seconds: float
    memory: float
    """Megabytes in use after WARM_UP_CALLS of each model, without the kernel's cache of files."""


class Engine:
    """Runs the engine's client, on the images of one tag."""

    def __init__(self, client: str, tag: str) -> None:
        self._client = client
        self._tag = tag

    def __call__(self, *arguments: str) -> str:
        """What the client prints. Raises ArtifactMissing with its last line if it fails."""
        done = subprocess.run([self._client, *arguments], capture_output=True, text=True, check=False)
        if done.returncode:
            message = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise ArtifactMissing(
                f"`{self._client} {arguments[0]}` failed: {message}. Are the images built (`make all`)?"
            )
        return done.stdout.strip()

    def name(self, image: str) -> str:
        return f"rosetta-serve/{image}:{self._tag}"

    def compressed(self, image: str) -> int:
        """Bytes of the image, compressed with gzip."""
        total, deflate = 0, zlib.compressobj(6, wbits=16 + zlib.MAX_WBITS)
        with subprocess.Popen([self._client, "save", self.name(image)], stdout=subprocess.PIPE) as saving:
            assert saving.stdout is not None
            while chunk := saving.stdout.read(1 << 20):
                total += len(deflate.compress(chunk))
        if saving.returncode:
            raise ArtifactMissing(f"{self.name(image)} cannot be saved. Is it built (`make all`)?")
        return total + len(deflate.flush())

    @contextlib.contextmanager
    def running(self, image: str, *options: str) -> Iterator[Container]:
        """A container that is ready, until the end of the block."""
        port, start = free_port(), time.monotonic()
        identity = self("run", "--detach", *HARDENED, "-p", f"{HOST}:{port}:8000", *options, self.name(image))
        try:
            while ask(port, "GET", "/v2/health/ready")[0] != 200:
                if time.monotonic() - start > READY_SECONDS:
                    raise ArtifactMissing(f"{image} is not ready after {READY_SECONDS:g} s. See its log.")
                time.sleep(0.02)
            yield Container(identity, port, time.monotonic() - start)
        finally:
            self("rm", "--force", identity)

    def memory(self, container: Container) -> float:
        """Megabytes, as `docker stats` counts them."""
        used = self("stats", "--no-stream", "--format", "{{.MemUsage}}", container.identity).split("/")[0].strip()
        for unit, size in (("GiB", 1024.0**3), ("MiB", 1024.0**2), ("KiB", 1024.0), ("GB", 1e9), ("MB", 1e6)):
            if used.endswith(unit):
                return float(used.removesuffix(unit)) * size / 1e6
        raise ArtifactMissing(f"The engine gives {used!r} as a container's memory, expected a number of MiB.")


def ask(port: int, method: str, path: str, call: Call | None = None) -> tuple[int, bytes]:
    """Status and body of one request; status 0 if nothing answers."""
    connection = http.client.HTTPConnection(HOST, port, timeout=10)
    with contextlib.closing(connection):
        try:
            connection.request(method, path, call.body if call else None, dict(call.headers) if call else {})
            answer = connection.getresponse()
            return answer.status, answer.read()
        except (OSError, http.client.HTTPException):
            return 0, b""


def picture_call(model: str) -> Call:
    """A request with one picture, whose tensors are raw bytes in both directions."""
    pixels = np.random.default_rng(1).integers(0, 256, (1, 28, 28, 1)).astype(np.float32)
    tensor = {"name": "pixels", "datatype": "FP32", "shape": pixels.shape}
    sized = tensor | {"parameters": {"binary_data_size": pixels.nbytes}}
    header = json.dumps({"inputs": [sized], "parameters": {"binary_data_output": True}}).encode()
    headers = {"Content-Type": "application/octet-stream", HEADER_LENGTH: str(len(header))}
    return Call(f"/v2/models/{model}/infer", header + pixels.tobytes(), headers, np.empty((0, 0), np.float32))


def measure(engine: Engine, image: str, options: Sequence[str] = ()) -> Cost:
    """Measure an image. Every model that is ready in it answers WARM_UP_CALLS before its memory is measured."""
    with engine.running(image, *options) as container:
        _, index = ask(container.port, "POST", "/v2/repository/index")
        names = [model["name"] for model in json.loads(index) if model["state"] == "READY"]
        for name in names:
            for _ in range(WARM_UP_CALLS):
                status, body = ask(container.port, "POST", f"/v2/models/{name}/infer", picture_call(name))
                if status != 200:
                    raise ArtifactMissing(f"{name} in {image} answered {status}: {body[:200]!r}")
        memory = engine.memory(container)
    return Cost(image, engine.compressed(image), container.ready_seconds, memory)


def hop(engine: Engine, seconds: float, rounds: int) -> list[list[str]]:
    """Rows of the table of the gateway's hop: the same picture goes to a runtime and through the gateway, in turns."""
    remote = ("-e", "SERVE_FORMATS=onnx", "-e", f"SERVE_REMOTES=onnx=http://{ONNX}:8000")
    with (
        engine.running(ONNX, "--network", NETWORK, "--network-alias", ONNX) as direct,
        engine.running(GATEWAY, "--network", NETWORK, *remote) as gateway,
    ):
        rows = []
        for connections in (1, 8):
            p50s: list[tuple[float, float]] = []
            for _ in range(rounds):
                straight, hopped = (load.run(c, picture_call(MODEL), connections, seconds) for c in (direct, gateway))
                if straight.errors or hopped.errors:
                    raise ArtifactMissing(f"{straight.errors + hopped.errors} requests failed under load.")
                p50s.append((straight.p50, hopped.p50))
            p50_direct, p50_through = (statistics.median(p50) for p50 in zip(*p50s, strict=True))
            ratio = p50_through / p50_direct
            rows.append([str(connections), f"{p50_direct:.2f}", f"{p50_through:.2f}", f"{ratio:.2f}"])
    return rows


def _table(header: str, rows: Sequence[Sequence[str]]) -> list[str]:
    names = header.split("|")
    return [f"| {' | '.join(cells)} |" for cells in (names, ["---"] * len(names), *rows)]


def main() -> None:
    """Measure every image, then print or write the tables."""
    parser = argparse.ArgumentParser(prog="python -m bench.images")
    parser.add_argument("--write", type=Path, metavar="PAGE", help="write the tables into this Markdown page instead")
    parser.add_argument("--seconds", type=float, default=2, help="of load in each round (%(default)s)")
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    engine = Engine(os.environ.get("ENGINE") or "docker", os.environ.get("TAG") or "latest")
    try:
        engine("network", "create", NETWORK)
        try:
            with engine.running(ONNX, "--network", NETWORK, "--network-alias", ONNX):
                others = {GATEWAY: ("--network", NETWORK)}
                costs = [measure(engine, image, others.get(image, ())) for image in IMAGES]
            hops = hop(engine, options.seconds, options.rounds)
        finally:
            engine("network", "rm", NETWORK)
        cells = [
            [f"`{c.image}`", f"{c.compressed / 1e6:.0f}", f"{c.ready_seconds:.1f}", f"{c.memory:.0f}"] for c in costs
        ]
        tables = {
            "images": [
                *_table("image|MB compressed|s to ready|MB when warm", cells),
                "",
                *_table("connections|p50 direct, ms|p50 through the gateway, ms|ratio", hops),
                "",
                f"Measured on {this_machine()}.",
            ]
        }
        if options.write:
            write_tables(options.write, tables)
        else:
            print("\n".join(tables["images"]))
    except RosettaError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
