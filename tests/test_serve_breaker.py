"""A model whose process hangs costs its own requests alone, and these only at first."""

import asyncio
import json
import os
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from contract.errors import DeadlineExceeded, ModelUnavailable
from contract.tensors import Tensors
from serve.breaker import Breaker
from serve.catalog import Catalog, load_catalog
from serve.dataplane import DataPlane
from serve.protocol import InferRequest
from serve.settings import PAGE, Settings
from tests.serving import Service, halt, started, wait_until


def test_a_breaker_opens_at_the_second_limit_and_closes_with_an_answer() -> None:
    breaker = Breaker()
    now = time.perf_counter()
    assert [breaker.timed_out(now, 3), breaker.trouble] == [False, ""]
    assert breaker.timed_out(now, 3)
    assert "no answer within 3 s, 2 times" in breaker.trouble
    assert not breaker.timed_out(now, 3)  # it is open already
    breaker.answered()
    assert breaker.trouble == ""
    assert not any(breaker.timed_out(now, 3) for _ in range(5))  # it answered since that request came


class Hanging:
    """The runtime of another process that may hang."""

    title, platform, in_process = "hanging", "none", False

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        self.answers = threading.Event()
        self.answers.set()

    def predict(self, inputs: Tensors) -> Tensors:
        self.answers.wait(60)
        outputs: Tensors = self._inner.predict(inputs)
        return outputs

    def close(self) -> None:
        self.answers.set()


@pytest.fixture
def plane(artifacts: Path) -> Iterator[DataPlane]:
    settings = Settings(artifacts=artifacts, formats=("onnx",), timeout=1)
    first, second = load_catalog(artifacts, settings).values()
    plane = DataPlane(Catalog([replace(first, loaded=Hanging(first.loaded)), second]), settings)
    yield plane
    plane.close()


def test_a_model_that_hangs_is_refused_after_two_limits_and_served_once_it_answers(plane: DataPlane) -> None:
    hung, well = plane.catalog.values()
    request = InferRequest({"pixels": np.zeros((1, 28, 28, 1), np.float32)}, (("probabilities", False),))
    runtime: Any = hung.loaded

    async def one_by_one() -> None:
        runtime.answers.clear()
        for _ in range(2):
            assert hung.ready
            with pytest.raises(DeadlineExceeded):
                await plane.infer(hung, request, plane.clock())
            await plane.infer(well, request, plane.clock())
        assert not hung.ready
        with pytest.raises(ModelUnavailable, match="no answer within 1 s"):
            hung.check_runnable()
        assert not plane.ready  # all of its models should run
        runtime.answers.set()
        while not hung.ready:
            await asyncio.sleep(0.02)
        await plane.infer(hung, request, plane.clock())

    asyncio.run(asyncio.wait_for(one_by_one(), 30))


def test_a_short_limit_of_a_request_says_nothing_about_the_model(plane: DataPlane) -> None:
    hung = next(iter(plane.catalog.values()))
    request = InferRequest({"pixels": np.zeros((1, 28, 28, 1), np.float32)}, (("probabilities", False),), None, 0.01)
    runtime: Any = hung.loaded
    runtime.answers.clear()
    for _ in range(3):
        with pytest.raises(DeadlineExceeded):
            plane.infer_now(hung, request, plane.clock())
    assert hung.ready


@pytest.fixture
def service(artifacts: Path, tmp_path: Path) -> Iterator[Service]:
    for format in ("onnx", "tfjs"):
        shutil.copytree(artifacts / "keras_cnn" / format, tmp_path / "artifacts" / "keras_cnn" / format)
    with started(tmp_path / "artifacts", tmp_path / "output", SERVE_TIMEOUT="3") as running:
        yield running


PROMPTLY = 2
"""Seconds in which whoever asks for something else has an answer, on a machine that is busy, too."""


def prompt(png: bytes) -> list[tuple[str, str, bytes | None, int]]:
    """Requests that do not need the model that hangs, and their statuses. The page may not be built here."""
    page = 200 if (PAGE / "index.html").is_file() else 503
    paths = {"/": page, "/metrics": 200, "/v2": 200, "/v2/health/live": 200, "/v2/models/keras_cnn-tfjs/ready": 200}
    gets: list[tuple[str, str, bytes | None, int]] = [("GET", path, None, code) for path, code in paths.items()]
    return [*gets, ("POST", "/predict/keras_cnn-onnx", png, 200)]


def readiness_of_kserve(service: Service) -> tuple[int, bool]:
    code, _, body = service.ask("GET", "/v1/models/keras_cnn-tfjs")
    state = json.loads(body)
    assert state["name"] == "keras_cnn-tfjs"
    return code, state["ready"]


def test_ten_comparisons_that_wait_for_a_hung_process_hold_up_nobody_else(service: Service, artifacts: Path) -> None:
    png = (artifacts / "samples" / "0000.png").read_bytes()
    (child,) = (process for process, name in service.descendants().items() if "node" in name.lower())
    halt(child)
    try:
        with ThreadPoolExecutor(20) as pool:
            waiting = [pool.submit(service.ask, "POST", "/compare", png) for _ in range(10)]
            waiting += [pool.submit(service.ask, "POST", "/predict/keras_cnn-tfjs", png) for _ in range(10)]
            time.sleep(0.3)
            for _ in range(5):
                for method, path, sent, code in prompt(png):
                    start = time.monotonic()
                    assert service.ask(method, path, sent)[0] == code
                    assert time.monotonic() - start < PROMPTLY, path
            assert not any(call.done() for call in waiting)  # all of this was answered while they waited
            codes = [call.result()[0] for call in waiting]
        assert set(codes[:10]) == {200}
        assert set(codes[10:]) <= {503, 504}
        assert service.ask("GET", "/v2/models/keras_cnn-tfjs/ready")[0] == 503
        assert readiness_of_kserve(service) == (503, False)
        assert service.ask("POST", "/predict/keras_cnn-tfjs", png)[0] == 503
        rows = service.ask_json("POST", "/compare", png)["results"]
        assert [("error" in row) for row in rows] == [False, True]
        assert service.ask("GET", "/v2/health/ready")[0] == 503
    finally:
        os.kill(child, signal.SIGCONT)
    wait_until(lambda: service.ask("GET", "/v2/models/keras_cnn-tfjs/ready")[0] == 200)
    assert readiness_of_kserve(service) == (200, True)
    assert service.ask("POST", "/predict/keras_cnn-tfjs", png)[0] == 200
