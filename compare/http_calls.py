"""The same calls over HTTP: one artifact, a service of its own, one connection, one request at a time.

At each batch size tensors travel in the binary form of the Open Inference Protocol, both ways: the difference from the
runtime's own time is the service's overhead. One picture is sent in every form of compare/requests.py.
"""

import contextlib
import socket
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compare import servers
from compare.answers import LARGEST, MANY, AnswersByBatch
from compare.latency import BATCHES, Call, latencies, latency
from compare.requests import FORMS, file_of, forms_of
from contract.cell.command import is_own
from contract.code import ROOT
from contract.errors import RuntimeFailure
from contract.image import image_to_batch
from contract.manifest import BROUGHT, Manifest, read_manifest
from verify.parity import Answers, same_artifact

TIMEOUT = 60
FORM_SECONDS = 0.25
"""How long each further form of a request is measured, as a share of the time of calls with one picture."""


@contextlib.contextmanager
def folder_of(artifacts: Sequence[Path]) -> Iterator[Path]:
    """A folder with these artifacts and no others, until the end of the block."""
    with tempfile.TemporaryDirectory() as temporary:
        for artifact in artifacts:
            link = Path(temporary, artifact.parent.name, artifact.name)
            link.parent.mkdir(exist_ok=True)
            link.symlink_to(artifact.resolve(), target_is_directory=True)
            if not is_own(artifact.parent):
                (link.parent / BROUGHT).touch()  # the service sees no more of the model, and runs it apart
        yield Path(temporary)


def measure(
    folder: Path, pictures: NDArray[Any], answers: AnswersByBatch, seconds: float, threads: int
) -> dict[str, Any]:
    """One round: the time from the start of the service to its first answer, its memory, and its warm calls.

    Seconds and bytes. `answers` are the runtime's own, of which the first are those to `pictures`. Raises
    RuntimeFailure if the service gives other answers.
    """
    manifest = read_manifest(folder)
    if not manifest.has_rows:
        raise RuntimeFailure(f"{manifest.name} is called as a whole, without rows, so it is not measured over HTTP.")
    with served(folder, threads) as service, connected(service.port) as connection:
        start = time.perf_counter()
        calls = CheckedCalls(connection, manifest, pictures[:MANY], first_answers(answers))
        calls.call("binary", 1)
        cold = service.ready_seconds + time.perf_counter() - start
        memory = round(service.rss() * 2**20)
        return {
            "cold_start": cold,
            "memory": memory,
            "latencies": latencies(lambda batch: calls.call("binary", batch), BATCHES, seconds),
            "forms": {
                form: asdict(latency(calls.call(form, 1), 1, FORM_SECONDS * seconds))
                for form in forms_of(manifest)
                if form != "binary"
            },
        }


def first_answers(answers: AnswersByBatch) -> AnswersByBatch:
    """Those that a request may get: to the first pictures, and to the large call of them."""
    return {MANY: answers[MANY][:MANY], LARGEST: answers[LARGEST]}


@contextlib.contextmanager
def served(folder: Path, threads: int, root: Path = ROOT) -> Iterator[servers.Server]:
    """A service for this artifact alone, until the end of the block; `root` is the checkout whose code serves it.

    Raises RuntimeFailure for a model of other tensors than these requests have.
    """
    manifest = read_manifest(folder)
    if {spec.dtype for spec in (*manifest.inputs, *manifest.outputs)} != {"float32"}:
        raise RuntimeFailure(f"{manifest.name} has other tensors than float32, so it is not measured over HTTP.")
    with folder_of([folder]) as artifacts, servers.ours(artifacts, 1, root, SERVE_THREADS=str(threads)) as service:
        try:
            yield service
        finally:
            service.kill()


@dataclass(frozen=True)
class CheckedCalls:
    """Pictures that are sent to one model, and the answers that are expected."""

    connection: "Connection"
    manifest: Manifest
    pictures: NDArray[Any]
    answers: AnswersByBatch
    """The runtime's own: to the pictures, and to those of a large call."""

    def call(self, form: str, batch: int) -> Call:
        """A request of this many rows, the pictures repeated if there are fewer, after its answer was checked."""
        rows = np.resize(self.pictures, (batch, *self.pictures.shape[1:]))
        request = FORMS[form].write(self.manifest, rows)
        answer = FORMS[form].read(self.connection.ask(request), self.manifest)
        _check(answer, self._expected(form, rows), self.manifest, form)
        return lambda: self.connection.ask(request)

    def _expected(self, form: str, rows: NDArray[Any]) -> Answers:
        """The runtime's answers; those to a file, which is a little otherwise, the service gives to its pixels."""
        if self.manifest.image is None or not FORMS[form].takes_files:
            known = self.answers[LARGEST if len(rows) == LARGEST else MANY]
            return np.resize(known, (len(rows), *known.shape[1:]))
        pixels = image_to_batch(file_of(rows[0], form.upper()), self.manifest.image)
        sent = FORMS["binary"].write(self.manifest, pixels)
        return FORMS["binary"].read(self.connection.ask(sent), self.manifest)


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


def _check(answer: Answers, expected: Answers, manifest: Manifest, form: str) -> None:
    """Raises RuntimeFailure unless the answer is the one that is expected."""
    most = same_artifact(manifest.format).max_abs_diff
    if answer.shape != expected.shape or not np.allclose(answer, expected, rtol=0, atol=most):
        raise RuntimeFailure(f"The service gives other answers for {manifest.name} than its runtime ({form} request).")
