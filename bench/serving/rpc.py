"""gRPC beside binary tensors over HTTP: the same picture, the same service, the same load generator."""

import re
import statistics
import struct
import subprocess
import tempfile
from collections.abc import Mapping

import grpc
import numpy as np
from tritonclient.grpc import service_pb2

from bench.serving.calls import TOLERANCE, Call, Model
from bench.serving.environments import h2load
from bench.serving.result import Row
from bench.serving.setting import Setting
from bench.serving.throughput import CONNECTIONS, WORKERS
from compare import servers

TARGET = 0.6
PATH = "/inference.GRPCInferenceService/ModelInfer"
HEADERS = {"content-type": "application/grpc", "te": "trailers"}
DONE = re.compile(r"finished in ([\d.]+)(m?s),.*?requests: .*? (\d+) succeeded, (\d+) failed", re.DOTALL)


def grpc_against_http(setting: Setting) -> list[Row]:
    measure, call = f"1 picture a request, gRPC and HTTP, {CONNECTIONS} connections", setting.model.binary(1)
    port, message = servers.free_port(), _message(setting.model)
    framed = b"\0" + struct.pack(">I", len(message)) + message
    rounds: dict[str, list[float]] = {"HTTP": [], "gRPC": []}
    processor: dict[str, list[float]] = {"HTTP": [], "gRPC": []}
    with servers.ours(setting.artifacts, WORKERS, GRPC_PORT=str(port)) as ours:
        call.check(ours)
        _check(port, message, call)
        turns = {
            "HTTP": (f"http://{servers.HOST}:{ours.port}{call.path}", call.body, call.headers, ["--h1"]),
            "gRPC": (f"http://{servers.HOST}:{port}{PATH}", framed, HEADERS, ["-m1"]),
        }
        for number in range(setting.rounds + 1):
            for name, turn in turns.items():
                before = ours.cpu_seconds()
                requests, seconds = _load(*turn, setting.seconds if number else 1)
                if number:  # the first round is the warm-up
                    rounds[name].append(requests / seconds)
                    processor[name].append(1e6 * (ours.cpu_seconds() - before) / requests)
    ratio = statistics.median(mine / other for mine, other in zip(rounds["gRPC"], rounds["HTTP"], strict=True))
    figures = {
        name: {"requests/s": statistics.median(rounds[name]), "us of CPU": statistics.median(processor[name])}
        for name in rounds
    }
    return [
        Row(measure, "gRPC", figures["gRPC"]),
        Row(measure, "HTTP, binary", figures["HTTP"], ratio, f">= {TARGET:g}x", ratio >= TARGET),
    ]


def _message(model: Model) -> bytes:
    ((name, pixels),) = model.tensors(1).items()
    request = service_pb2.ModelInferRequest(model_name=model.manifest.name, raw_input_contents=[pixels.tobytes()])
    request.inputs.add(name=name, datatype="FP32", shape=pixels.shape)
    body: bytes = request.SerializeToString()
    return body


def _check(port: int, message: bytes, call: Call) -> None:
    """Raises RuntimeError unless gRPC answers as the model does."""
    with grpc.insecure_channel(f"{servers.HOST}:{port}") as channel:
        body = channel.unary_unary(PATH)(message, timeout=30, wait_for_ready=True)
    answer = service_pb2.ModelInferResponse.FromString(body)
    got = np.frombuffer(answer.raw_output_contents[0], np.float32).reshape(call.expected.shape)
    if np.abs(got - call.expected).max() > TOLERANCE:
        raise RuntimeError(f"gRPC gives a wrong answer: got {got}, expected {call.expected}.")


def _load(url: str, body: bytes, headers: Mapping[str, str], options: list[str], seconds: float) -> tuple[int, float]:
    """Requests that were answered, and the seconds that they took."""
    with tempfile.NamedTemporaryFile() as file:
        file.write(body)
        file.flush()
        command = [h2load(), "-t1", f"-c{CONNECTIONS}", f"-D{max(1, round(seconds))}", "-d", file.name, *options]
        command += [part for name, value in headers.items() for part in ("-H", f"{name}: {value}")]
        done = subprocess.run([*command, url], check=True, capture_output=True, text=True)
    match = DONE.search(done.stdout)
    if match is None or int(match[4]):
        raise RuntimeError(f"h2load could not load {url}: {done.stdout[-500:]}")
    return int(match[3]), float(match[1]) * (0.001 if match[2] == "ms" else 1)
