"""A call that failed holds neither its tensors nor its model: what it had is free before anybody looks for cycles.

An error that is kept with its traceback, in a future or in a batch, holds what the call had, and the call's frames hold
the error.
"""

import asyncio
import gc
import io
import json
import weakref
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Any

import pytest
from werkzeug.test import EnvironBuilder, run_wsgi_app

from contract.errors import RuntimeFailure
from contract.tensors import Tensors
from serve.app import app_over
from serve.batching import Batcher
from serve.catalog import Catalog, ServedModel
from serve.dataplane import DataPlane
from serve.pipeline import Pipeline, read_infer
from serve.protocol import Reply, oip
from serve.rpc.connection import Call, Failed
from serve.rpc.messages import INFERENCE, ModelInferRequest
from serve.rpc.server import Handler
from serve.settings import Settings
from tests.serving import wait_until
from tests.test_serve_batching import BAD, QUICK, SLOW, Doubling, Remote, batcher, pool, rows, served

assert batcher and pool  # fixtures

MODEL = "double-onnx"


class Failing(Doubling):
    """A runtime that notes what it was given, and fails on a bad row: by itself, or with an error of ours."""

    def __init__(self, is_ours: bool = False, in_process: bool = True) -> None:
        super().__init__()
        self.in_process = in_process
        self.is_ours = is_ours
        self.given: list[weakref.ref[Any]] = []

    def predict(self, inputs: Tensors) -> Tensors:
        array = inputs["x"]
        if (array == BAD).any():
            self.given.append(weakref.ref(array))
        try:
            return super().predict(inputs)
        except ZeroDivisionError:
            if self.is_ours:
                raise RuntimeFailure("It failed.") from None
            raise


@pytest.fixture
def no_search_for_cycles() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


Way = Callable[[DataPlane, ServedModel], Awaitable[Any]]


def binary(values: Mapping[str, Any]) -> tuple[bytes, dict[str, str]]:
    """A body of raw tensors, which lie in it when they are read, and its headers."""
    inputs = [
        {"name": name, "datatype": "FP32", "shape": value.shape, "parameters": {"binary_data_size": value.nbytes}}
        for name, value in values.items()
    ]
    header = json.dumps({"inputs": inputs}).encode()
    body = header + b"".join(value.tobytes() for value in values.values())
    return body, {oip.HEADER_LENGTH.lower(): str(len(header))}


async def submitted(plane: DataPlane, model: ServedModel) -> int:
    """As `serve/connection.py` runs a small request."""
    done = asyncio.get_running_loop().create_future()
    Pipeline(plane, model, read_infer).submit(*binary(rows(BAD)), plane.clock(), done.set_result)
    reply: Reply = await done
    return reply.code


async def awaited(plane: DataPlane, model: ServedModel) -> int:
    return (await Pipeline(plane, model, read_infer).run(*binary(rows(BAD)), plane.clock())).code


async def in_thread(plane: DataPlane, model: ServedModel) -> int:
    """As Flask runs it."""
    pipeline = Pipeline(plane, model, read_infer)
    return (await asyncio.to_thread(pipeline.run_now, *binary(rows(BAD)), plane.clock())).code


async def over_grpc(plane: DataPlane, model: ServedModel) -> int:
    answering = Handler(plane).unary(f"/{INFERENCE}/ModelInfer")
    assert answering is not None
    message = ModelInferRequest(model_name=model.name)
    message.inputs.add(name="x", datatype="FP32", shape=[1, 1]).contents.fp32_contents.append(BAD)
    try:
        await answering(Call(1, "127.0.0.1", 0.0), message.SerializeToString())
    except Failed as error:
        assert error.code == 14
        return 503
    return 200


async def together(plane: DataPlane, model: ServedModel) -> int:
    """Three requests in one call, and then each alone."""
    codes = await asyncio.gather(*[submitted(plane, model) for _ in range(3)])
    return 503 if codes == [503] * 3 else 200


@pytest.mark.parametrize("cost", [QUICK, SLOW], ids=["in the event loop", "in the pool"])
@pytest.mark.parametrize("is_ours", [False, True], ids=["the runtime's error", "our error"])
@pytest.mark.parametrize("way", [submitted, awaited, in_thread, over_grpc, together])
@pytest.mark.usefixtures("no_search_for_cycles")
def test_a_failed_call_holds_neither_its_tensors_nor_its_model(way: Way, is_ours: bool, cost: float) -> None:
    runtime = Failing(is_ours)
    plane = DataPlane(Catalog([served(runtime)]), Settings())
    plane.stats[MODEL].call_seconds, plane.stats[MODEL].row_seconds = cost, 0.0
    given = runtime.given

    async def fail() -> None:
        assert await way(plane, plane.catalog[MODEL]) == 503

    asyncio.run(fail())
    assert given
    wait_until(lambda: all(array() is None for array in given), 10)  # a thread of the pool may look back at its work
    model, runtimes = weakref.ref(plane.catalog[MODEL]), weakref.ref(runtime)
    del runtime
    plane._replace([served(Doubling())])
    wait_until(lambda: model() is None and runtimes() is None, 10)
    plane.close()


@pytest.mark.usefixtures("no_search_for_cycles")
def test_a_remotes_failed_calls_hold_no_tensors(batcher: Callable[..., Batcher]) -> None:
    """Neither one whose answers cannot be split, nor one that cannot be sent."""

    class Broken(Remote):
        def start(self, *_: Any) -> None:
            raise RuntimeFailure("at once")

    async def fail(remote: Remote) -> list[weakref.ref[Any]]:
        queue = batcher(remote, SLOW)
        inputs = [rows(1), rows(2)]
        sent = [queue.submit(each, queue._loop.time() + 1e6) for each in inputs]
        await asyncio.sleep(0.01)
        await remote.answer(missing=1)
        errors = await asyncio.gather(*sent, return_exceptions=True)
        assert [type(error) for error in errors] == [RuntimeFailure] * 2
        return [weakref.ref(each["x"]) for each in inputs]

    for remote in (Remote(), Broken()):
        assert [array() for array in asyncio.run(fail(remote))] == [None, None]


@pytest.mark.usefixtures("no_search_for_cycles")
@pytest.mark.parametrize(("path", "code"), [("/nothing", 404), ("/v2/health/live", 405), ("/predict/none", 404)])
def test_a_refused_body_is_free_at_once(path: str, code: int) -> None:
    plane = DataPlane(Catalog([]), Settings())
    body = io.BytesIO(b"x" * 1000)
    environ = EnvironBuilder(path, method="POST", input_stream=body).get_environ()
    _, status, _ = run_wsgi_app(app_over(plane), environ)
    assert status.startswith(str(code))
    held = weakref.ref(body)
    del body, environ
    assert held() is None
    plane.close()
