"""What requests hold together is bounded, and what takes long is not read in the event loop."""

import asyncio
import contextlib
import gzip
import io
import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest

import serve.pipeline
from contract.errors import DeadlineExceeded, ImageTooLarge, Overloaded
from serve.asgi import Body
from serve.catalog import load_catalog
from serve.dataplane import PIXELS_A_BYTE, READERS, SMALL_PIXELS, DataPlane
from serve.held import Held
from serve.pipeline import LARGE, MANY_LISTS, Pipeline, read_infer, read_predict
from serve.protocol import Reply, encoding
from serve.settings import Settings


def test_bytes_are_held_up_to_the_limit_and_given_back() -> None:
    held = Held(100)
    held.take(60)
    held.take(40)
    with pytest.raises(Overloaded, match="hold 100 bytes, at most 100"):
        held.take(1)
    held.give(40)
    held.take(1)
    assert held.bytes == 61


def test_one_request_may_be_larger_than_the_limit_while_no_other_holds_anything() -> None:
    held = Held(100)
    held.take(150)
    held.take(50, mine=150)
    with pytest.raises(Overloaded):
        held.take(1)


def test_a_thread_waits_until_the_bytes_fit() -> None:
    held = Held(100)
    held.take(80)
    with pytest.raises(Overloaded), held.wait(30, 0.01):
        pass
    entered = threading.Event()

    def wait() -> int:
        with held.wait(30, 30):
            entered.set()
            return held.bytes

    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(wait)
        assert not entered.wait(0.05)
        held.give(80)
        assert waiting.result(10) == 30
    assert held.bytes == 0


def receiving(parts: list[bytes]) -> Any:
    messages = iter(parts)
    left = len(parts)

    async def receive() -> Any:
        nonlocal left
        left -= 1
        return {"type": "http.request", "body": next(messages), "more_body": left > 0}

    return receive


def test_a_body_that_would_pass_what_is_held_is_read_to_its_end_and_refused() -> None:
    held = Held(100)
    held.take(50)
    body = Body(receiving([b"x" * 30] * 5), 1000, held)
    with pytest.raises(Overloaded):
        asyncio.run(body.read())
    assert (body.size, body.held, held.bytes) == (150, 30, 80)


def test_a_body_over_its_limit_is_not_kept() -> None:
    held = Held(1000)
    body = Body(receiving([b"x" * 30] * 5), 100, held)
    assert asyncio.run(body.read()) == b""
    assert (body.size, held.bytes) == (150, 90)


@pytest.fixture
def plane(artifacts: Path) -> Iterator[DataPlane]:
    settings = Settings(artifacts=artifacts, formats=("onnx",))
    plane = DataPlane(load_catalog(artifacts, settings), settings)
    yield plane
    plane.close()


ROWS = {"instances": np.zeros((8, 28, 28, 1)).tolist()}
assert json.dumps(ROWS).count("[") > MANY_LISTS
FLAT = {"inputs": [{"name": "pixels", "datatype": "FP32", "shape": [1, 28, 28, 1], "data": [0] * 784}]}


@pytest.mark.parametrize(
    ("body", "headers", "thread"),
    [
        (json.dumps(FLAT).encode(), {}, "MainThread"),
        (json.dumps(FLAT).encode() + b" " * LARGE, {}, "reading"),
        (json.dumps(ROWS).encode(), {}, "reading"),
        (gzip.compress(json.dumps(ROWS).encode()), {"content-encoding": "gzip"}, "reading"),
    ],
    ids=["small", "large", "many lists", "compressed"],
)
def test_what_may_take_long_is_read_outside_the_event_loop(
    plane: DataPlane, monkeypatch: pytest.MonkeyPatch, body: bytes, headers: dict[str, str], thread: str
) -> None:
    threads: list[str] = []

    def noting(inner: Callable[..., Any]) -> Callable[..., Any]:
        def noted(*arguments: Any) -> Any:
            threads.append(threading.current_thread().name)
            return inner(*arguments)

        return noted

    monkeypatch.setattr(encoding, "decompress", noting(encoding.decompress))
    read = noting(read_predict if thread == "reading" and not body.startswith(b'{"inputs"') else read_infer)
    pipeline = Pipeline(plane, plane.catalog["keras_cnn-onnx"], read)

    async def both_ways() -> list[Reply]:
        awaited = await pipeline.run(body, headers, plane.clock())
        if headers:
            assert len(threads) == 2, "it was not decompressed and read"
            return [awaited]
        called: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        pipeline.submit(body, headers, plane.clock(), called.set_result)
        return [awaited, await called]

    for reply in asyncio.run(both_ways()):
        assert reply.code == 200, reply.body
    assert all(name.startswith(thread) for name in threads), threads


LONG = json.dumps(FLAT).encode() + b" " * 20_000
SHORT = gzip.compress(LONG)
assert len(SHORT) < 200
GZIP = {"content-encoding": "gzip"}


class Halted:
    """A pipeline whose requests are read and do not run until they may."""

    def __init__(self, plane: DataPlane, monkeypatch: pytest.MonkeyPatch) -> None:
        self.plane, self.may_run, self.waiting = plane, asyncio.Event(), 0
        self.pipeline = Pipeline(plane, plane.catalog["keras_cnn-onnx"], read_infer)
        infer = plane.infer

        async def wait(*arguments: Any) -> Any:
            self.waiting += 1
            await self.may_run.wait()
            return await infer(*arguments)

        monkeypatch.setattr(plane, "infer", wait)

    async def begin(self, caller: str | None) -> asyncio.Task[Reply]:
        before = self.waiting
        task = asyncio.create_task(self.send(caller))
        while self.waiting == before:
            await asyncio.sleep(0.001)
        return task

    async def send(self, caller: str | None, body: bytes = SHORT) -> Reply:
        with self.plane.held.having(len(body)):  # as a front counts what came
            return await asyncio.wait_for(self.pipeline.run(body, GZIP, self.plane.clock(), caller), 20)


@pytest.mark.parametrize(
    ("limits", "code"),
    [({"max_held": 30_000}, 503), ({"caller_bytes": 30_000}, 429)],
    ids=["of all together", "of a caller"],
)
def test_what_a_body_inflates_to_counts_until_its_answer(
    artifacts: Path, monkeypatch: pytest.MonkeyPatch, limits: dict[str, int], code: int
) -> None:
    settings = Settings(artifacts=artifacts, formats=("onnx",), **limits)  # type: ignore[arg-type]
    plane = DataPlane(load_catalog(artifacts, settings), settings)

    async def both() -> None:
        halted = Halted(plane, monkeypatch)
        first = await halted.begin("a")
        assert plane.held.bytes == len(SHORT) + len(LONG)
        refused = await halted.send("a")
        assert (refused.code, refused.headers["Retry-After"]) == (code, "1"), refused.body
        assert (await halted.send("a", gzip.compress(b"{}"))).code == 400, "what is small is not over the limit"
        others = asyncio.create_task(halted.send("b"))
        await asyncio.wait([others], timeout=1 if code == 503 else 0.1)
        halted.may_run.set()
        assert ((await first).code, (await others).code) == (200, 503 if code == 503 else 200)
        assert (await halted.send("a")).code == 200

    with contextlib.closing(plane):
        asyncio.run(both())
        assert plane.held.bytes == 0 and not plane.callers._held


def test_what_was_inflated_is_given_back_after_an_error_and_when_nobody_waits(
    plane: DataPlane, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def each() -> None:
        halted = Halted(plane, monkeypatch)
        assert (await halted.send("a", gzip.compress(b"x" * 20_000))).code == 400
        assert plane.held.bytes == 0
        task = await halted.begin("a")
        assert plane.held.bytes > len(LONG)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(each())
    assert plane.held.bytes == 0 and not plane.callers._held


def test_a_body_that_inflates_past_a_limit_runs_alone(artifacts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings(artifacts=artifacts, formats=("onnx",), max_held=1000, caller_bytes=1000)
    plane = DataPlane(load_catalog(artifacts, settings), settings)

    async def send() -> None:
        halted = Halted(plane, monkeypatch)
        halted.may_run.set()
        assert (await halted.send("a")).code == 200

    with contextlib.closing(plane):
        asyncio.run(send())


@pytest.mark.parametrize(("takes_binary", "thread"), [(True, "MainThread"), (False, "reading")])
def test_bytes_of_binary_tensors_are_no_lists_except_to_a_reader_of_json(
    plane: DataPlane, monkeypatch: pytest.MonkeyPatch, takes_binary: bool, thread: str
) -> None:
    values = b"[" * (4 * 8 * 784)
    tensor = {"name": "pixels", "datatype": "FP32", "shape": [8, 28, 28, 1]}
    head = json.dumps({"inputs": [tensor | {"parameters": {"binary_data_size": len(values)}}]}).encode()
    threads: list[str] = []

    def read(*arguments: Any) -> Any:
        threads.append(threading.current_thread().name)
        return read_infer(*arguments)

    if takes_binary:
        monkeypatch.setattr(serve.pipeline, "read_infer", read)
    pipeline = Pipeline(plane, plane.catalog["keras_cnn-onnx"], read)
    headers = {"inference-header-content-length": str(len(head))}
    asyncio.run(pipeline.run(head + values, headers, plane.clock()))
    assert [name.startswith(thread) for name in threads] == [True], threads


def test_a_request_that_waited_too_long_to_be_read_is_not_read(plane: DataPlane) -> None:
    late = plane.clock() - plane.settings.timeout - 1
    with pytest.raises(DeadlineExceeded):
        plane.check_time(plane.catalog["keras_cnn-onnx"], late)
    reply = asyncio.run(Pipeline(plane, plane.catalog["keras_cnn-onnx"], read_infer).run(b"{" * LARGE, {}, late))
    assert reply.code == 504


def test_few_large_bodies_are_read_at_once(plane: DataPlane) -> None:
    running, most = 0, 0
    lock = threading.Lock()

    def read(*arguments: Any) -> Any:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        try:
            return read_infer(*arguments)
        finally:
            with lock:
                running -= 1

    pipeline = Pipeline(plane, plane.catalog["keras_cnn-onnx"], read)
    body = json.dumps(FLAT).encode() + b" " * LARGE

    async def many() -> list[Reply]:
        return await asyncio.gather(*(pipeline.run(body, {}, plane.clock()) for _ in range(20)))

    assert {reply.code for reply in asyncio.run(many())} == {200}
    assert most <= READERS


def test_a_picture_of_few_bytes_has_not_many_pixels(plane: DataPlane) -> None:
    """What is sent decides what is decoded: 12 million pixels, or 12 for each byte where those are more."""
    model = plane.catalog["keras_cnn-onnx"]

    def picture(side: int, padding: int = 0) -> bytes:
        made = io.BytesIO()
        PIL.Image.new("1", (side, side)).save(made, "PNG")
        return made.getvalue() + b"\0" * padding

    assert plane.classify(model, picture(3464)).winner in range(10)
    with pytest.raises(ImageTooLarge, match=f"the limit is {SMALL_PIXELS}"):
        plane.classify(model, picture(3465))
    padding = 3600**2 // PIXELS_A_BYTE
    assert plane.classify(model, picture(3600, padding)).winner in range(10)
    strict = DataPlane(plane.catalog, Settings(max_pixels=10_000))
    with pytest.raises(ImageTooLarge, match="the limit is 10000"):
        strict.classify(model, picture(101, padding))
