"""The same calls over HTTP: one artifact, a service of its own, one connection, one request at a time.

Tensors travel in the binary form of the Open Inference Protocol, both ways. The difference from the runtime's own time
is the service's overhead.
"""

import contextlib
import json
import socket
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compare import servers
from compare.latency import BATCHES, Call, latencies
from contract.errors import RuntimeFailure
from contract.manifest import Manifest, read_manifest
from verify.parity import FLOAT32, Answers

TIMEOUT = 60
HEADER_LENGTH = "Inference-Header-Content-Length"
"""The binary tensor extension's header: how many bytes of the body are JSON."""


@contextlib.contextmanager
def folder_of(artifacts: Sequence[Path]) -> Iterator[Path]:
    """A folder with these artifacts and no others, until the end of the block."""
    with tempfile.TemporaryDirectory() as temporary:
        for artifact in artifacts:
            link = Path(temporary, artifact.parent.name, artifact.name)
            link.parent.mkdir(exist_ok=True)
            link.symlink_to(artifact.resolve(), target_is_directory=True)
        yield Path(temporary)


def measure(folder: Path, pictures: NDArray[Any], answers: Answers, seconds: float, threads: int) -> dict[str, Any]:
    """One round: the time from the start of the service to its first answer, its memory, and its warm calls.

    Seconds and bytes. `answers` are the runtime's own answers to `pictures`. Raises RuntimeFailure if the service gives
    other answers.
    """
    manifest = read_manifest(folder)
    if {spec.dtype for spec in (*manifest.inputs, *manifest.outputs)} != {"float32"}:
        raise RuntimeFailure(f"{manifest.name} has other tensors than float32, so it is not measured over HTTP.")
    with (
        folder_of([folder]) as artifacts,
        servers.ours(artifacts, 1, SERVE_THREADS=str(threads)) as service,
        connected(service.port) as connection,
    ):
        start = time.perf_counter()
        request = _request(manifest, pictures, 1)
        _check(connection.ask(request), answers[:1], manifest)
        cold = service.ready_seconds + time.perf_counter() - start
        memory = round(service.rss() * 2**20)

        def call_with(batch: int) -> Call:
            request = _request(manifest, pictures, batch)
            _check(connection.ask(request), np.resize(answers, (batch, *answers.shape[1:])), manifest)
            return lambda: connection.ask(request)

        return {"cold_start": cold, "memory": memory, "latencies": latencies(call_with, BATCHES, seconds)}


class Connection:
    """Sends requests that are ready as bytes, since http.client takes more time than a small model."""

    def __init__(self, opened: socket.socket) -> None:
        self._socket = opened
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def ask(self, request: bytes) -> bytes:
        """Send a request and return the body of the response. Raises RuntimeFailure unless the status is 200."""
        self._socket.sendall(request)
        head, end, body = self._receive().partition(b"\r\n\r\n")
        while not end:
            head, end, body = (head + body + self._receive()).partition(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0])
        parts, left = [body], length - len(body)
        while left > 0:
            parts.append(self._receive())
            left -= len(parts[-1])
        if not head.startswith(b"HTTP/1.1 200"):
            raise RuntimeFailure(f"The service refused a request: {head[:80]!r} {body[:300]!r}")
        return b"".join(parts)

    def _receive(self) -> bytes:
        if data := self._socket.recv(1 << 18):
            return data
        raise RuntimeFailure("The service closed the connection.")


@contextlib.contextmanager
def connected(port: int) -> Iterator[Connection]:
    with socket.create_connection((servers.HOST, port), TIMEOUT) as opened:
        yield Connection(opened)


def _request(manifest: Manifest, pictures: NDArray[Any], batch: int) -> bytes:
    """The whole request for `batch` rows; the pictures repeat if there are fewer."""
    spec, output = manifest.inputs[0], manifest.outputs[0]
    rows = np.resize(pictures, (batch, *pictures.shape[1:])).astype(spec.dtype)
    tensor = {"name": spec.name, "shape": rows.shape, "datatype": "FP32"}
    header = json.dumps(
        {
            "inputs": [tensor | {"parameters": {"binary_data_size": rows.nbytes}}],
            "outputs": [{"name": output.name, "parameters": {"binary_data": True}}],
        }
    ).encode()
    head = (
        f"POST /v2/models/{manifest.name}/infer HTTP/1.1\r\nHost: {servers.HOST}\r\n"
        f"Content-Type: application/octet-stream\r\n{HEADER_LENGTH}: {len(header)}\r\n"
        f"Content-Length: {len(header) + rows.nbytes}\r\n\r\n"
    )
    return head.encode() + header + rows.tobytes()


def _check(body: bytes, expected: Answers, manifest: Manifest) -> None:
    size = expected.size * 4
    got = np.frombuffer(body[-size:], np.float32).reshape(expected.shape) if len(body) > size else None
    if got is None or not np.allclose(got, expected, rtol=0, atol=FLOAT32.max_abs_diff):
        raise RuntimeFailure(f"The service gives other answers for {manifest.name} than its runtime.")
