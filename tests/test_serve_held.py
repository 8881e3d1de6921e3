"""What requests hold together is bounded, and what takes long is not read in the event loop."""

import asyncio
import gzip
import io
import json
import threading
from collections.abc import Iterator
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
from serve.protocol import Reply
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
        (gzip.compress(json.dumps(FLAT).encode()), {"content-encoding": "gzip"}, "reading"),
    ],
    ids=["small", "large", "many lists", "compressed"],
)
def test_what_may_take_long_is_read_outside_the_event_loop(
    plane: DataPlane, body: bytes, headers: dict[str, str], thread: str
) -> None:
    threads: list[str] = []
    inner = read_predict if b"instances" in body else read_infer

    def read(*arguments: Any) -> Any:
        threads.append(threading.current_thread().name)
        return inner(*arguments)

    pipeline = Pipeline(plane, plane.catalog["keras_cnn-onnx"], read)

    async def both_ways() -> list[Reply]:
        awaited = await pipeline.run(body, headers, plane.clock())
        if headers:
            return [awaited]
        called: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        pipeline.submit(body, headers, plane.clock(), called.set_result)
        return [awaited, await called]

    for reply in asyncio.run(both_ways()):
        assert reply.code == 200, reply.body
    assert all(name.startswith(thread) for name in threads), threads


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
