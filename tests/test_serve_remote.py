"""A gateway: the same service, whose models run in other processes. What happens to one remote happens to it alone."""

import asyncio
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import uvloop

from contract.dataset import Split
from contract.errors import DeadlineExceeded, InputError, ModelUnavailable, RuntimeFailure
from contract.manifest import Manifest, TensorSpec
from docker.pack import pack
from serve.remote.http import Answer, Connections
from serve.remote.runtime import ANSWER_SECONDS, RemoteRuntime
from serve.settings import SettingError, Settings
from tests.conftest import NUMBERS, write_every_type
from tests.serving import Service, free_port, halt, settings, started, wait_until

ONNX, TFLITE = "keras_cnn-onnx", "keras_cnn-tflite"


@dataclass
class Stack:
    """A gateway, and the two services that it asks."""

    gateway: Service
    onnx: Service
    tflite: Service

    def ready(self, model: str) -> bool:
        return self.gateway.ask("GET", f"/v2/models/{model}/ready")[0] == 200

    def wait(self) -> None:
        wait_until(lambda: self.ready(ONNX) and self.ready(TFLITE))


@pytest.fixture(scope="module")
def packed(artifacts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What each image holds: in one folder for each."""
    folder = tmp_path_factory.mktemp("packed")
    write_every_type(folder / "onnx" / "every_type" / "onnx", [*NUMBERS, "bytes"])
    for name, wanted in {"onnx": ["onnx"], "tflite": ["tflite"], "gateway": ["tflite", "tfjs", "samples"]}.items():
        pack(artifacts, folder / name, wanted)
    pack(folder / "onnx", folder / "gateway", [])
    return folder


@pytest.fixture(scope="module")
def stack(packed: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    output = tmp_path_factory.mktemp("output")
    with ExitStack() as services:
        onnx, tflite = (
            services.enter_context(started(packed / name, output / name, SERVE_FORMATS=name))
            for name in ("onnx", "tflite")
        )
        more = {
            "SERVE_FORMATS": "onnx,tflite",
            "SERVE_REMOTES": f"onnx=http://127.0.0.1:{onnx.port}, tflite=http://127.0.0.1:{tflite.port}/",
            "SERVE_MAX_BYTES": "50000000",
            "SERVE_READY": "any",
        }
        gateway = services.enter_context(started(packed / "gateway", output / "gateway", **more))
        running = Stack(gateway, onnx, tflite)
        running.wait()
        yield running


@pytest.fixture(scope="module")
def pixels(test_split: Split) -> Any:
    return test_split.images[:64].astype(np.float32)


def infer(service: Service, model: str, array: Any) -> tuple[int, Any]:
    """Status, and probabilities or the error."""
    tensor = {"name": "pixels", "datatype": "FP32", "shape": array.shape}
    header = json.dumps({"inputs": [tensor | {"parameters": {"binary_data_size": array.nbytes}}]}).encode()
    headers = {"Inference-Header-Content-Length": str(len(header))}
    status, _, body = service.ask("POST", f"/v2/models/{model}/infer", header + array.tobytes(), headers)
    answer = json.loads(body)
    return status, answer["error"] if status != 200 else np.array(answer["outputs"][0]["data"]).reshape(-1, 10)


def body_of(array: Any, binary: bool) -> tuple[bytes, dict[str, str]]:
    """A request for raw answers to raw values, or for JSON to JSON; and its headers."""
    tensor: dict[str, Any] = {"name": "pixels", "datatype": "FP32", "shape": array.shape}
    if not binary:
        return json.dumps({"inputs": [tensor | {"data": array.ravel().tolist()}]}).encode(), {}
    inputs = [tensor | {"parameters": {"binary_data_size": array.nbytes}}]
    header = json.dumps({"inputs": inputs, "parameters": {"binary_data_output": True}}).encode()
    return header + array.tobytes(), {"Inference-Header-Content-Length": str(len(header))}


# Answers


@pytest.mark.parametrize("model", [ONNX, "torch_cnn-tflite"])
def test_answers_are_those_of_the_remote(stack: Stack, pixels: Any, model: str) -> None:
    remote = stack.onnx if model.endswith("onnx") else stack.tflite
    for rows in (1, 7, 64):
        (status, through), (_, direct) = infer(stack.gateway, model, pixels[:rows]), infer(remote, model, pixels[:rows])
        assert status == 200
        assert np.abs(through - direct).max() < 1e-6
        assert through.shape == (rows, 10)


@pytest.mark.parametrize("binary", [False, True])
def test_a_request_of_a_known_form_is_relayed(stack: Stack, pixels: Any, binary: bool) -> None:
    """What is wrong with its values is then found by the remote, as is seen by who says so."""
    path = f"/v2/models/{ONNX}/infer"
    rows = 3 if binary else 2
    first, second = (body_of(pixels[start : start + rows], binary) for start in (0, 30))
    for body, headers in (first, second):
        through, direct = (service.ask("POST", path, body, headers) for service in (stack.gateway, stack.onnx))
        assert (through[0], through[2]) == (200, direct[2])
        same = ("content-type", "content-length", "inference-header-content-length", "x-content-type-options")
        assert [through[1].get(name) for name in same] == [direct[1].get(name) for name in same]
    if not binary:
        status, _, answer = stack.gateway.ask("POST", path, first[0].replace(b"]}]", b",1]}]"), first[1])
        assert status == 400
        assert json.loads(answer)["error"].startswith(f"{ONNX} at http://127.0.0.1:{stack.onnx.port} answered")


def test_what_is_passed_on_is_counted(stack: Stack, pixels: Any) -> None:
    path = f"/v2/models/{TFLITE}/stats"

    def counted() -> tuple[int, int, int]:
        (stats,) = json.loads(stack.gateway.ask("GET", path)[2])["model_stats"]
        return stats["inference_count"], stats["execution_count"], stats["inference_stats"]["success"]["count"]

    infer(stack.gateway, TFLITE, pixels[:5])
    rows, calls, answers = counted()
    for _ in range(4):
        assert infer(stack.gateway, TFLITE, pixels[:5])[0] == 200
    assert counted() == (rows + 20, calls + 4, answers + 4)


def test_requests_at_once_get_their_own_answers(stack: Stack, pixels: Any) -> None:
    _, expected = infer(stack.onnx, ONNX, pixels)
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda row: infer(stack.gateway, ONNX, pixels[row : row + 1]), range(64)))
    assert {status for status, _ in answers} == {200}
    assert np.abs(np.concatenate([answer for _, answer in answers]) - expected).max() < 1e-5


def test_a_large_batch_comes_back_whole(stack: Stack, pixels: Any) -> None:
    many = np.resize(pixels, (3000, *pixels.shape[1:]))
    (_, through), (_, direct) = infer(stack.gateway, ONNX, many), infer(stack.onnx, ONNX, many[:64])
    assert np.abs(through[:64] - direct).max() < 1e-5
    assert through.shape == (3000, 10)


def test_every_datatype_goes_through(stack: Stack) -> None:
    inputs = [
        {"name": f"{dtype}_in", "datatype": datatype, "shape": [1, 2], "data": data}
        for dtype, datatype, data in (
            *((name, _datatype(name), [0, 1]) for name in NUMBERS if name not in ("bool", "float32", "float64")),
            ("bool", "BOOL", [True, False]),
            ("float32", "FP32", [0.5, -1.5]),
            ("float64", "FP64", [0.1, -1e300]),
            ("bytes", "BYTES", ["", "Stiefel \u00e4"]),
        )
    ]
    body = json.dumps({"inputs": inputs}).encode()
    answers = [s.ask("POST", "/v2/models/every_type-onnx/infer", body) for s in (stack.gateway, stack.onnx)]
    through, direct = (json.loads(answer[2])["outputs"] for answer in answers)
    assert through == direct
    assert len(through) == len(NUMBERS) + 1


def _datatype(dtype: str) -> str:
    return dtype.upper().replace("FLOAT", "FP")


def test_what_the_remote_refuses_is_the_callers_to_know(stack: Stack) -> None:
    """Bytes that are not text: only ONNX Runtime, behind the remote's protocol, does not take them."""
    types = [*NUMBERS, "bytes"]
    sizes = [np.dtype("uint8" if name == "bool" else name).itemsize for name in NUMBERS]
    values = [*(bytes(size) for size in sizes), b"\x01\0\0\0\xff"]
    inputs = [
        {"name": f"{name}_in", "datatype": "BYTES" if name == "bytes" else _datatype(name), "shape": [1, 1]}
        | {"parameters": {"binary_data_size": len(value)}}
        for name, value in zip(types, values, strict=True)
    ]
    header = json.dumps({"inputs": inputs}).encode()
    headers = {"Inference-Header-Content-Length": str(len(header))}
    path = "/v2/models/every_type-onnx/infer"
    status, _, body = stack.gateway.ask("POST", path, header + b"".join(values), headers)
    assert status == 400
    assert "takes byte strings that are UTF-8 text" in json.loads(body)["error"]


def test_the_page_learns_what_runs_where(stack: Stack) -> None:
    _, _, body = stack.gateway.ask("GET", f"/v2/models/{ONNX}")
    described = json.loads(body)
    assert described["platform"] == "onnxruntime_onnx"
    assert described["parameters"]["runtime"].startswith("ONNX Runtime 1.")
    assert described["parameters"]["files"]["model.onnx"]["bytes"] > 10_000, "the gateway itself has no such file"
    _, _, picture = stack.gateway.ask("GET", "/samples/0000.png")
    _, _, body = stack.gateway.ask("POST", "/compare", picture)
    rows = json.loads(body)["results"]
    assert [row["model"] for row in rows] == [ONNX, TFLITE, "torch_cnn-onnx", "torch_cnn-tflite"]
    assert {row["label"] for row in rows if row["model"].startswith("keras")} == {rows[0]["label"]}


# A remote that goes


def test_a_killed_remote_fails_alone_and_recovers(packed: Path, stack: Stack, pixels: Any, tmp_path: Path) -> None:
    port = str(free_port())
    environment = {"SERVE_FORMATS": "tflite", "SERVE_REMOTES": f"tflite=http://127.0.0.1:{port}"}
    with started(packed / "gateway", tmp_path / "gateway", **environment) as gateway:
        assert gateway.ask("GET", "/v2/health/ready")[0] == 503
        with started(packed / "tflite", tmp_path / "first", SERVE_FORMATS="tflite", PORT=port) as remote:
            wait_until(lambda: infer(gateway, TFLITE, pixels[:1])[0] == 200)
            wait_until(lambda: gateway.ask("GET", "/v2/health/ready")[0] == 200)  # the remote's other models come, too
            for process in [remote.process.pid, *remote.workers()]:
                os.kill(process, signal.SIGKILL)
            status, error = infer(gateway, TFLITE, pixels[:1])
        assert status == 503
        assert f"http://127.0.0.1:{port} d" in error
        wait_until(lambda: "is not served" in infer(gateway, TFLITE, pixels[:1])[1])
        assert "(Connection refused). Start it, or wait for it." in infer(gateway, TFLITE, pixels[:1])[1]
        assert "Connection refused" in json.loads(gateway.ask("POST", "/v2/repository/index")[2])[0]["reason"]
        with started(packed / "tflite", tmp_path / "second", SERVE_FORMATS="tflite", PORT=port):
            wait_until(lambda: infer(gateway, TFLITE, pixels[:1])[0] == 200, 10)


def test_a_hung_remote_holds_up_nothing_else(stack: Stack, pixels: Any) -> None:
    hung = [stack.tflite.process.pid, *stack.tflite.workers()]
    for process in hung:
        halt(process)
    try:
        with ThreadPoolExecutor(30) as pool:
            waiting = [pool.submit(infer, stack.gateway, TFLITE, pixels[:1]) for _ in range(20)]
            time.sleep(0.2)
            start = time.monotonic()
            assert stack.gateway.ask("GET", "/v2/health/ready")[0] == 200
            assert infer(stack.gateway, ONNX, pixels[:1])[0] == 200
            assert not all(future.done() for future in waiting), "others wait for the remote that hangs"
            assert {future.result()[0] for future in waiting} == {503}
            assert time.monotonic() - start < 15, "it takes a few seconds to see that it hangs"
        start = time.monotonic()
        status, error = infer(stack.gateway, TFLITE, pixels[:1])
        assert (status, "does not answer" in error) == (503, True)
        assert time.monotonic() - start < ANSWER_SECONDS
    finally:
        for process in hung:
            os.kill(process, signal.SIGCONT)
    wait_until(lambda: infer(stack.gateway, TFLITE, pixels[:1])[0] == 200, 10)


def test_a_remote_with_other_bytes_is_not_called(packed: Path, stack: Stack, pixels: Any, tmp_path: Path) -> None:
    """As while a new release is rolled out: parity was never shown for these bytes."""
    shutil.copytree(packed / "gateway", tmp_path / "artifacts")
    manifest = tmp_path / "artifacts" / "keras_cnn" / "onnx" / "manifest.json"
    content = json.loads(manifest.read_text())
    content["files"]["model.onnx"] = "0" * 64
    manifest.write_text(json.dumps(content))
    more = {"SERVE_FORMATS": "onnx", "SERVE_REMOTES": f"onnx=http://127.0.0.1:{stack.onnx.port}"}
    with started(tmp_path / "artifacts", tmp_path / "gateway", **more) as gateway:
        wait_until(lambda: infer(gateway, "torch_cnn-onnx", pixels[:1])[0] == 200)
        status, error = infer(gateway, ONNX, pixels[:1])
    assert status == 503
    assert "has other files than this one's manifest names. Deploy images of the same build." in error


# The connection, against a server that sends what it likes


Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
REQUEST = b"GET / HTTP/1.1\r\n\r\n"


@asynccontextmanager
async def connected(serve: Serve) -> AsyncIterator[Connections]:
    served: list[asyncio.Task[Any]] = []

    async def serve_and_close(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        served.append(cast(asyncio.Task[Any], asyncio.current_task()))
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            await serve(reader, writer)
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()

    server = await asyncio.start_server(serve_and_close, "127.0.0.1", 0)
    connections = Connections("127.0.0.1", server.sockets[0].getsockname()[1])
    try:
        yield connections
    finally:
        connections.close(ConnectionAbortedError("the test ends"))
        server.close()
        await asyncio.gather(*served)


async def read_request(reader: asyncio.StreamReader) -> None:
    await reader.readuntil(b"\r\n\r\n")


def test_an_answer_in_pieces_is_put_together() -> None:
    body = bytes(range(256)) * 2000

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        answer = (
            b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\nInference-Header-Content-Length: 5\r\n\r\n" % len(body) + body
        )
        for start, end in itertools.pairwise([0, 3, 40, 70, 90, 1000, len(answer)]):
            writer.write(answer[start:end])
            await asyncio.sleep(0.01)

    async def main() -> Answer:
        async with connected(serve) as connections:
            return await connections.request(REQUEST, 10)

    assert asyncio.run(main()) == Answer(200, bytearray(body), 5)


@pytest.mark.parametrize("last", [b"", b"Connection: close\r\n"])
def test_connections_are_kept_unless_the_server_ends_them(last: bytes) -> None:
    opened = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal opened
        opened += 1
        while not reader.at_eof():
            await read_request(reader)
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n%s\r\nok" % last)

    async def main() -> list[Answer]:
        async with connected(serve) as connections:
            return [await connections.request(REQUEST, 10) for _ in range(3)]

    assert [answer.body for answer in asyncio.run(main())] == [b"ok"] * 3
    assert opened == (3 if last else 1)


def test_a_kept_connection_that_was_closed_meanwhile_is_replaced() -> None:
    opened = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal opened
        opened += 1
        await read_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        await read_request(reader)
        writer.close()  # as gunicorn does when its keep-alive runs out: the second request is lost

    async def main() -> list[Answer]:
        async with connected(serve) as connections:
            return [await connections.request(REQUEST, 10) for _ in range(2)]

    assert [answer.status for answer in asyncio.run(main())] == [200, 200]
    assert opened == 2


def test_a_connection_that_ends_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serve.remote.http.RECYCLE_SECONDS", 0.2)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while not reader.at_eof():
            await read_request(reader)
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    async def main() -> None:
        async with connected(serve) as connections:
            await asyncio.gather(*(connections.request(REQUEST, 10) for _ in range(5)))
            assert len(connections.open) == 5
            await asyncio.sleep(0.3)
            await connections.request(REQUEST, 10)
            await asyncio.sleep(0.1)
            assert len(connections.open) == 1, "those that are too old were closed"
            connections.close(ConnectionAbortedError("the end"))
            await asyncio.sleep(0.1)
            assert not connections.open

    asyncio.run(main())


def test_a_connection_that_is_closed_as_soon_as_it_is_there_is_told() -> None:
    async def main() -> None:
        async with connected(lambda *_: asyncio.sleep(0)) as connections:
            for _ in range(20):
                with pytest.raises(ConnectionResetError, match="the connection was closed"):
                    await connections.request(REQUEST, 10)
            assert not connections.open

    asyncio.run(main())


@pytest.mark.parametrize(
    ("sent", "error"),
    [
        (b"", "the connection was closed"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf", "the connection was closed"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "with a Content-Length"),
        (b"SSH-2.0-OpenSSH\r\n\r\n", "not HTTP/1.1 with a Content-Length"),
    ],
)
def test_bytes_that_are_not_an_answer_are_an_error(sent: bytes, error: str) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(sent)
        writer.close()

    async def main() -> None:
        async with connected(serve) as connections:
            await connections.request(REQUEST, 10)

    with pytest.raises(ConnectionError, match=error):
        asyncio.run(main())


def test_an_answer_that_does_not_come_is_not_waited_for() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async def main() -> None:
        async with connected(serve) as connections:
            await connections.request(REQUEST, 0.1)

    with pytest.raises(TimeoutError, match=r"no answer within 0\.1 s"):
        asyncio.run(main())


@pytest.mark.parametrize("loop_factory", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def test_each_request_on_a_kept_connection_has_its_own_time(loop_factory: Any) -> None:
    opened = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal opened
        opened += 1
        for pause in (0, 0.3, 0, 9):
            await read_request(reader)
            await asyncio.sleep(pause)
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    async def main() -> float:
        async with connected(serve) as connections:
            await connections.request(REQUEST, 0.2)
            await connections.request(REQUEST, 10)  # longer than the one before had
            await connections.request(REQUEST, 10)
            start = time.monotonic()
            with pytest.raises(TimeoutError, match=r"no answer within 0\.1 s"):
                await connections.request(REQUEST, 0.1)  # shorter
            return time.monotonic() - start

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        assert runner.run(main()) < 2
    assert opened == 1


def test_a_late_answer_is_not_the_next_requests() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for number in range(3):
            await read_request(reader)
            await asyncio.sleep(0.1)
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n%d" % number)

    async def main() -> Answer:
        async with connected(serve) as connections:
            await connections.request(REQUEST, 10)
            with suppress(TimeoutError):
                await asyncio.wait_for(connections.request(REQUEST, 10), 0.05)
            await asyncio.sleep(0.2)
            return await connections.request(REQUEST, 10)

    assert asyncio.run(main()).body == b"2"


# What a remote may say


@pytest.fixture
def runtime() -> Iterator[RemoteRuntime]:
    """A remote that is not there; its parts that need no connection are tested."""
    inputs = (TensorSpec("x", "float32", (None, 2), "NC"),)
    outputs = (TensorSpec("y", "float32", (None, 2), "NC"),)
    remote = RemoteRuntime(f"http://127.0.0.1:{free_port()}", Manifest("m", "onnx", None, inputs, outputs, None, ()), 1)
    yield remote
    remote.close()


OUTPUT = {"name": "y", "datatype": "FP32", "shape": [1, 2], "parameters": {"binary_data_size": 8}}


@pytest.mark.parametrize(
    ("outputs", "payload"),
    [
        ([OUTPUT | {"shape": [2, 2]}], 8),
        ([OUTPUT | {"datatype": "FP64"}], 8),
        ([OUTPUT | {"name": "z"}], 8),
        ([OUTPUT | {"parameters": {}}], 8),
        ([OUTPUT], 4),
        ([], 0),
        ("y", 8),
    ],
)
def test_an_answer_without_the_outputs_is_the_remotes_failure(
    runtime: RemoteRuntime, outputs: Any, payload: int
) -> None:
    header = json.dumps({"outputs": outputs}).encode()
    with pytest.raises(RuntimeFailure, match="answered for m-onnx without the model's outputs"):
        runtime._outputs(Answer(200, bytearray(header + bytes(payload)), len(header)))


@pytest.mark.parametrize(
    ("status", "error"),
    [(400, InputError), (500, RuntimeFailure), (503, ModelUnavailable), (504, DeadlineExceeded)],
)
def test_a_refusal_keeps_its_kind_and_its_words(runtime: RemoteRuntime, status: int, error: type[Exception]) -> None:
    refusal = runtime._refusal(Answer(status, bytearray(b'{"error": "too much"}'), 0))
    assert type(refusal) is error
    assert str(refusal).endswith(f"answered with status {status}: too much")


# Settings


def test_formats_and_remotes_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERVE_FORMATS", "onnx, tflite")
    monkeypatch.setenv("SERVE_REMOTES", "onnx=http://serve-onnx:8000/,tflite=http://[::1]:81")
    read = Settings.from_environment()
    assert read.formats == ("onnx", "tflite")
    assert read.remotes == {"onnx": "http://serve-onnx:8000", "tflite": "http://[::1]:81"}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SERVE_FORMATS", "onnx,ncnn"),
        ("SERVE_REMOTES", "onnx"),
        ("SERVE_REMOTES", "ncnn=http://host:1"),
        ("SERVE_REMOTES", "onnx=https://host:1"),
        ("SERVE_REMOTES", "onnx=http://host:1/path"),
        ("SERVE_REMOTES", "onnx=http://host:99999"),
        ("SERVE_REMOTES", "onnx=http://user:secret@host:1"),
        ("SERVE_REMOTES", "onnx=http://"),
        ("SERVE_REMOTES", "onnx=http://h\u00f6st:1"),
        ("SERVE_REMOTES", "onnx=http://ho st:1"),
    ],
)
def test_a_setting_that_cannot_be_used_is_one_line(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingError, match=f"^{name}=.* cannot be used: "):
        Settings.from_environment()


def test_formats_without_artifacts_stop_the_start(packed: Path) -> None:

    environment: Mapping[str, str] = settings(packed / "gateway", SERVE_FORMATS="torch", ARTIFACTS=str(packed / "none"))
    done = subprocess.run([sys.executable, "-m", "serve"], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("error: There is no artifact of torch in ")


def test_a_service_of_formats_that_no_model_has_starts_and_serves_nothing(tmp_path: Path) -> None:
    """As a runtime's image does when a user's own model has none of its formats."""
    write_every_type(tmp_path / "artifacts" / "own" / "onnx", ["float32"])
    with started(tmp_path / "artifacts", tmp_path / "log", SERVE_FORMATS="torch") as service:
        assert service.ask("GET", "/v2/health/ready")[0] == 200
        assert service.ask("POST", "/v2/repository/index", b"{}")[0] == 200
