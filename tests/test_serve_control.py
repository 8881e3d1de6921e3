"""Load and unload: from the folder alone, in every worker, without a request that fails, and only where allowed."""

import asyncio
import contextlib
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
import onnx
import pytest
from onnx import numpy_helper
from tritonclient import grpc as triton_grpc
from tritonclient import http as triton
from tritonclient.utils import InferenceServerException

from contract.errors import DeadlineExceeded, RuntimeFailure
from contract.manifest import read_manifest, sha256_of_files, write_manifest
from contract.tensors import Tensors
from serve import dataplane
from serve.app import create_app
from serve.catalog import Catalog, ServedModel, load_catalog
from serve.dataplane import TRIAL_SECONDS, DataPlane
from serve.protocol import InferRequest
from serve.settings import Settings
from tests.serving import Service, ask_on, free_port, halt, listens, started, wait_until
from tests.test_docs import write_model

MODEL, OTHER, APART = "keras_cnn-onnx", "other_cnn-onnx", "keras_cnn-tfjs"
PIXELS = np.random.default_rng(3).uniform(0, 255, (1, 28, 28, 1)).astype(np.float32)
BODY = json.dumps(
    {"inputs": [{"name": "pixels", "datatype": "FP32", "shape": [1, 28, 28, 1], "data": PIXELS.ravel().tolist()}]}
).encode()


def turn(folder: Path) -> None:
    """Let the artifact have the opposite weights, as after another training."""
    model = onnx.load(folder / "model.onnx")
    (weights,) = model.graph.initializer
    weights.CopyFrom(numpy_helper.from_array(-numpy_helper.to_array(weights), "weights"))
    onnx.save(model, folder / "model.onnx")
    manifest = read_manifest(folder)
    files = sha256_of_files(folder, [folder / "model.onnx"])
    write_manifest(folder, type(manifest)(**{**vars(manifest), "files": files}))


def answer(service: Service, model: str = MODEL) -> Any:
    """The probabilities, or the status."""
    code, _, body = service.ask("POST", f"/v2/models/{model}/infer", BODY)
    return np.array(json.loads(body)["outputs"][0]["data"]) if code == 200 else code


def change(service: Service, verb: str, model: str = MODEL, body: Any = None) -> tuple[int, str]:
    sent = None if body is None else json.dumps(body).encode()
    code, _, got = service.ask("POST", f"/v2/repository/models/{model}/{verb}", sent)
    return code, json.loads(got).get("error", "")


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """Artifacts that load in an instant."""
    write_model(tmp_path / "artifacts" / "keras_cnn" / "onnx")
    return tmp_path / "artifacts"


@pytest.fixture(params=["1", "2"])
def service(small: Path, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Service]:
    """One worker, and two."""
    with started(small, tmp_path / "output", SERVE_CONTROL="1", SERVE_WORKERS=request.param) as running:
        wait_until(lambda: len(running.workers()) == int(request.param))
        yield running


def everywhere(service: Service, expected: Any) -> bool:
    """Whether all of some connections, and so all workers, give this answer."""
    answers = [answer(service) for _ in range(12)]
    return all(np.shape(got) == np.shape(expected) and np.allclose(got, expected) for got in answers)


def test_a_new_artifact_takes_the_old_ones_place_and_no_request_fails(service: Service, small: Path) -> None:
    old = answer(service)
    turn(small / "keras_cnn" / "onnx")
    codes: list[int] = []
    stop = threading.Event()

    def ask() -> None:
        while not stop.is_set():
            codes.append(service.ask("POST", f"/v2/models/{MODEL}/infer", BODY)[0])

    callers = [threading.Thread(target=ask) for _ in range(4)]
    for caller in callers:
        caller.start()
    try:
        assert change(service, "load") == (200, "")
        wait_until(lambda: not any(np.allclose(answer(service), old) for _ in range(12)))
    finally:
        stop.set()
        for caller in callers:
            caller.join()
    new = answer(service)
    logits = np.log(old)  # the opposite weights make opposite logits
    np.testing.assert_allclose(new, np.exp(-logits) / np.exp(-logits).sum(), atol=1e-5)
    assert set(codes) == {200} and len(codes) > 20


def test_an_unloaded_model_answers_503_until_it_is_loaded(service: Service) -> None:
    before = answer(service)
    assert change(service, "unload") == (200, "")
    wait_until(lambda: all(answer(service) is not None and np.ndim(answer(service)) == 0 for _ in range(12)))
    code, _, body = service.ask("POST", f"/v2/models/{MODEL}/infer", BODY)
    assert code == 503 and "it was unloaded. Load it with POST" in json.loads(body)["error"]
    wait_until(lambda: readiness(service) == {(503, MODEL, False)})
    (entry,) = json.loads(service.ask("POST", "/v2/repository/index")[2])
    assert (entry["name"], entry["state"]) == (MODEL, "UNAVAILABLE") and "unloaded" in entry["reason"]
    assert change(service, "load") == (200, "")
    wait_until(lambda: everywhere(service, before))
    wait_until(lambda: readiness(service) == {(200, MODEL, True)})


def readiness(service: Service) -> set[tuple[int, str, bool]]:
    """What KServe's first protocol says of the model, in all workers: the status, and its two fields."""
    answers = [service.ask("GET", f"/v1/models/{MODEL}") for _ in range(12)]
    states = [(code, json.loads(body)) for code, _, body in answers]
    return {(code, state["name"], state["ready"]) for code, state in states}


def test_an_artifact_that_came_later_is_loaded_and_a_damaged_one_changes_nothing(service: Service, small: Path) -> None:
    before = answer(service)
    assert change(service, "load", OTHER)[0] == 404
    write_model(small / "other_cnn" / "onnx")
    manifest = read_manifest(small / "other_cnn" / "onnx")
    write_manifest(small / "other_cnn" / "onnx", type(manifest)(**{**vars(manifest), "model": "other_cnn"}))
    assert change(service, "load", OTHER) == (200, "")
    wait_until(lambda: all(np.ndim(answer(service, OTHER)) == 1 for _ in range(12)))
    assert [entry["name"] for entry in json.loads(service.ask("POST", "/v2/repository/index")[2])] == [MODEL, OTHER]
    (small / "keras_cnn" / "onnx" / "model.onnx").write_bytes(b"damaged")
    code, error = change(service, "load")
    assert code == 503 and "nothing has changed" in error and "model.onnx" in error
    assert everywhere(service, before)


def test_nothing_comes_with_a_request_or_from_another_folder(service: Service, tmp_path: Path) -> None:
    write_model(tmp_path / "elsewhere" / "onnx")
    for name in ("..-elsewhere", "elsewhere-onnx", "keras_cnn", "..%2f..%2felsewhere-onnx"):
        assert change(service, "load", name)[0] == 404
    wrong: list[Any] = [{"config": "{}"}, {"file:1/model.onnx": "AAAA"}, [1], "x"]
    for parameters in wrong:
        assert change(service, "load", body={"parameters": parameters})[0] == 400
    assert change(service, "unload", body={"parameters": {"unload_dependents": True}})[0] == 200


def test_tritons_client_loads_and_unloads(service: Service) -> None:
    with triton.InferenceServerClient(f"127.0.0.1:{service.port}") as client:
        assert "model_repository" in client.get_server_metadata()["extensions"]
        client.unload_model(MODEL)
        wait_until(lambda: not any(client.is_model_ready(MODEL) for _ in range(6)))
        client.load_model(MODEL)
        wait_until(lambda: all(client.is_model_ready(MODEL) for _ in range(6)))
        with pytest.raises(InferenceServerException, match="There is no artifact 'none'"):
            client.load_model("none")


@contextlib.contextmanager
def over_grpc(
    artifacts: Path, output: Path, **more: str
) -> Iterator[tuple[Service, triton_grpc.InferenceServerClient]]:
    """A service with a gRPC port, and Triton's client of it."""
    port = free_port()
    with started(artifacts, output, GRPC_PORT=str(port), **more) as running:
        wait_until(lambda: listens(port))
        with triton_grpc.InferenceServerClient(f"127.0.0.1:{port}") as client:
            yield running, client


def probabilities(client: triton_grpc.InferenceServerClient, model: str = MODEL) -> Any:
    sent = triton_grpc.InferInput("pixels", list(PIXELS.shape), "FP32")
    sent.set_data_from_numpy(PIXELS)
    return client.infer(model, [sent]).as_numpy("probabilities")[0]


def test_a_new_artifact_is_loaded_and_unloaded_over_grpc(small: Path, tmp_path: Path) -> None:
    with over_grpc(small, tmp_path / "output", SERVE_CONTROL="1") as (running, client):
        old = probabilities(client)
        with pytest.raises(InferenceServerException, match=f"There is no artifact '{OTHER}'") as caught:
            client.load_model(OTHER)
        assert caught.value.status() == "StatusCode.NOT_FOUND"
        shutil.copytree(small / "keras_cnn", small / "other_cnn")
        manifest = read_manifest(small / "other_cnn" / "onnx")
        write_manifest(small / "other_cnn" / "onnx", type(manifest)(**{**vars(manifest), "model": "other_cnn"}))
        turn(small / "other_cnn" / "onnx")
        client.load_model(OTHER)
        new = probabilities(client, OTHER)
        logits = np.log(old)  # the opposite weights make opposite logits
        np.testing.assert_allclose(new, np.exp(-logits) / np.exp(-logits).sum(), atol=1e-5)
        assert [model.name for model in client.get_model_repository_index().models] == [MODEL, OTHER]
        client.unload_model(OTHER)
        assert not client.is_model_ready(OTHER)
        with pytest.raises(InferenceServerException, match="it was unloaded") as caught:
            probabilities(client, OTHER)
        assert caught.value.status() == "StatusCode.UNAVAILABLE"
        np.testing.assert_allclose(probabilities(client), old, atol=1e-6)
        assert answer(running, OTHER) == 503  # it is the same for those who ask over HTTP


def test_no_model_comes_with_a_call_of_grpc(small: Path, tmp_path: Path) -> None:
    with over_grpc(small, tmp_path / "output", SERVE_CONTROL="1") as (_, client):
        before = probabilities(client)
        for brought in ({"config": "{}"}, {"config": "{}", "files": {"file:1/model.onnx": b"AAAA"}}):
            with pytest.raises(InferenceServerException, match="send no 'config' and no files") as caught:
                client.load_model(MODEL, **brought)
            assert caught.value.status() == "StatusCode.INVALID_ARGUMENT"
        client.unload_model(MODEL, unload_dependents=True)
        client.load_model(MODEL)
        np.testing.assert_allclose(probabilities(client), before, atol=1e-6)


def test_it_is_off_over_grpc_unless_the_settings_allow_it(small: Path, tmp_path: Path) -> None:
    with over_grpc(small, tmp_path / "output") as (_, client):
        for change_model in (client.load_model, client.unload_model):
            with pytest.raises(InferenceServerException, match="SERVE_CONTROL=1") as caught:
                change_model(MODEL)
            assert caught.value.status() == "StatusCode.PERMISSION_DENIED"
        assert client.is_model_ready(MODEL)
        assert "model_repository" not in client.get_server_metadata().extensions


def test_it_is_off_unless_the_settings_allow_it(small: Path) -> None:
    client = create_app(Catalog([]), Settings(artifacts=small)).test_client()
    for verb in ("load", "unload"):
        refused = client.post(f"/v2/repository/models/{MODEL}/{verb}")
        assert refused.status_code == 403 and "SERVE_CONTROL=1" in refused.get_json()["error"]
    assert "model_repository" not in client.get("/v2").get_json()["extensions"]


def test_what_another_worker_loads_while_this_one_starts_is_loaded_here_again(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = tmp_path / "state"
    state.mkdir()
    settings = Settings(artifacts=small, state=state, control=True, formats=("onnx",))
    other = DataPlane(load_catalog(small, settings), settings)

    def load_and_be_overtaken(*arguments: Any) -> Catalog:
        catalog = load_catalog(*arguments)
        turn(small / "keras_cnn" / "onnx")
        other.control.load(MODEL)
        return catalog

    monkeypatch.setattr(dataplane, "load_catalog", load_and_be_overtaken)
    monkeypatch.setattr(Settings, "from_environment", lambda: settings)
    starting = DataPlane.from_environment()
    first = starting.catalog[MODEL]
    starting.control.follow()
    assert starting.catalog[MODEL] is not first
    starting.close()
    other.close()


# When the old model ends

LIMIT, PROMPTLY = 60, 20
"""Seconds: the time limit of a request, and a time that is far below it on a machine that is busy, too."""


class Slow:
    """A runtime that answers when it may, and that cannot answer any more once it is closed."""

    title, platform = "slow", "none"

    def __init__(self, inner: Any, in_process: bool) -> None:
        self._inner, self.in_process = inner, in_process
        self.may_answer, self.is_closed = threading.Event(), threading.Event()
        self.calls = 0

    def predict(self, inputs: Tensors) -> Tensors:
        self.calls += 1
        self.may_answer.wait(LIMIT)
        if self.is_closed.is_set():
            raise RuntimeFailure("It is closed.")
        outputs: Tensors = self._inner.predict(inputs)
        return outputs

    def close(self) -> None:
        self.is_closed.set()


@pytest.fixture(params=[True, False], ids=["in this process", "in another one"])
def plane(small: Path, request: pytest.FixtureRequest) -> Iterator[tuple[DataPlane, Slow]]:
    """A model that is slow, and how it runs."""
    settings = Settings(artifacts=small, formats=("onnx",), control=True, timeout=LIMIT)
    (model,) = load_catalog(small, settings).values()
    slow = Slow(model.loaded, request.param)
    slow.may_answer.set()  # it is measured
    plane = DataPlane(Catalog([replace(model, loaded=slow)]), settings)
    plane.stats[MODEL].call_seconds = 1.0  # so that its calls run in a thread
    slow.may_answer.clear()
    del model  # the caller of `load` would hold it
    yield plane, slow
    slow.may_answer.set()
    plane.close()


@pytest.mark.parametrize("calls", ["the event loop", "a thread"])
def test_a_request_under_way_is_answered_by_the_old_model_which_then_ends(
    plane: tuple[DataPlane, Slow], calls: str
) -> None:
    """Two of them come before, and both are answered."""
    served, slow = plane
    request = InferRequest({"pixels": PIXELS}, (("probabilities", False),))

    def in_thread(model: ServedModel) -> Any:
        return served.infer_now(model, request, served.clock())[0]

    async def ask_and_load() -> None:
        waiting = [
            asyncio.ensure_future(
                asyncio.to_thread(in_thread, served.catalog[MODEL])
                if calls == "a thread"
                else served.infer(served.catalog[MODEL], request, served.clock())
            )
            for _ in range(2)
        ]
        await asyncio.sleep(0.2)
        await asyncio.to_thread(served.control.load, MODEL)
        await asyncio.sleep(0.5)
        assert not slow.is_closed.is_set() and not any(each.done() for each in waiting)
        slow.may_answer.set()
        assert len(await asyncio.gather(*waiting)) == 2

    asyncio.run(asyncio.wait_for(ask_and_load(), 60))
    assert slow.is_closed.wait(PROMPTLY)


def test_a_request_that_was_still_being_read_is_answered_by_the_old_model_and_leaves_no_queue(
    plane: tuple[DataPlane, Slow],
) -> None:
    served, slow = plane
    request = InferRequest({"pixels": PIXELS}, (("probabilities", False),))

    async def load_and_ask() -> None:
        old = served.catalog[MODEL]
        await asyncio.to_thread(served.control.load, MODEL)
        queue = served.batcher(served.catalog[MODEL])
        slow.may_answer.set()
        await served.infer(old, request, served.clock())
        assert served.batcher(served.catalog[MODEL]) is queue

    asyncio.run(asyncio.wait_for(load_and_ask(), 60))
    assert slow.is_closed.wait(PROMPTLY)


@pytest.mark.parametrize("verb", ["load", "unload"])
def test_a_model_that_nobody_uses_ends_at_once(plane: tuple[DataPlane, Slow], verb: str) -> None:
    """Even with a queue, which an earlier request has left."""
    served, slow = plane
    slow.may_answer.set()

    async def ask() -> None:
        request = InferRequest({"pixels": PIXELS}, (("probabilities", False),))
        await served.infer(served.catalog[MODEL], request, served.clock())

    asyncio.run(ask())
    getattr(served.control, verb)(MODEL)
    assert slow.is_closed.wait(PROMPTLY)


@pytest.fixture
def hung(small: Path) -> Iterator[tuple[DataPlane, ServedModel, Slow]]:
    """One that does not answer, whose time limit is a second. The test holds it, as a request would."""
    settings = Settings(artifacts=small, formats=("onnx",), control=True, timeout=1)
    (model,) = load_catalog(small, settings).values()
    slow = Slow(model.loaded, in_process=False)
    held = replace(model, loaded=slow)
    plane = DataPlane(Catalog([held]), settings)
    yield plane, held, slow
    slow.may_answer.set()
    plane.close()


def test_the_time_limit_ends_a_model_that_has_not_answered(hung: tuple[DataPlane, ServedModel, Slow]) -> None:
    plane, held, slow = hung
    plane.control.load(MODEL)
    assert slow.is_closed.wait(PROMPTLY)
    assert held.loaded is slow  # it was held all the time


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_model_that_hung_is_tried_no_more_once_another_has_its_place(
    hung: tuple[DataPlane, ServedModel, Slow], when: str
) -> None:
    """It is counted as hanging before, or not at all."""
    plane, held, slow = hung
    request = InferRequest({"pixels": PIXELS}, (("probabilities", False),))

    if when == "after":
        plane.control.load(MODEL)
    for _ in range(2):
        with pytest.raises(DeadlineExceeded):
            plane.infer_now(held, request, plane.clock())
    assert bool(held.breaker.trouble) == (when == "before")
    if when == "before":
        plane.control.load(MODEL)
    assert slow.is_closed.wait(PROMPTLY)
    slow.may_answer.set()
    time.sleep(2 * TRIAL_SECONDS)
    calls = slow.calls
    time.sleep(4 * TRIAL_SECONDS)
    assert slow.calls == calls


# A model in a process of its own


@contextlib.contextmanager
def in_node(artifacts: Path, folder: Path, limit: int) -> Iterator[tuple[Service, int]]:
    """A service with a model that Node runs, which may be halted, and the id of Node's process."""
    shutil.copytree(artifacts / "keras_cnn" / "tfjs", folder / "artifacts" / "keras_cnn" / "tfjs")
    with started(folder / "artifacts", folder / "output", SERVE_CONTROL="1", SERVE_TIMEOUT=str(limit)) as service:
        (process,) = node_processes(service)
        try:
            yield service, process
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGCONT)


def node_processes(service: Service) -> set[int]:
    return {process for process, name in service.descendants().items() if "node" in name.lower()}


def test_a_slow_process_gives_its_answer_and_then_ends(artifacts: Path, tmp_path: Path) -> None:
    """Though the connection that brought the request stays open. The new process answers meanwhile."""
    with (
        in_node(artifacts, tmp_path, LIMIT) as (service, old),
        contextlib.closing(service.connect()) as connection,
        ThreadPoolExecutor(1) as pool,
    ):
        halt(old)
        slow = pool.submit(ask_on, connection, "POST", f"/v2/models/{APART}/infer", BODY)
        wait_until(lambda: in_flight(service) == 2)  # and the one for the metrics
        assert change(service, "load", APART) == (200, "")
        assert np.ndim(answer(service, APART)) == 1
        assert not slow.done() and node_processes(service) > {old}
        os.kill(old, signal.SIGCONT)
        assert slow.result()[0] == 200
        wait_until(lambda: old not in node_processes(service), PROMPTLY)
        assert ask_on(connection, "GET", "/v2/health/live")[0] == 200
        assert np.ndim(answer(service, APART)) == 1


def in_flight(service: Service) -> float:
    text = service.ask("GET", "/metrics")[2].decode()
    (value,) = [line.split()[1] for line in text.splitlines() if line.startswith("rosetta_requests_in_flight ")]
    return float(value)


def test_a_process_that_hangs_ends_once_its_model_is_loaded_anew(artifacts: Path, tmp_path: Path) -> None:
    """After the time limit, and with a call that it never answers. The new process need not wait for that."""
    with in_node(artifacts, tmp_path, 2) as (service, old):
        halt(old)
        assert [answer(service, APART) for _ in range(2)] == [504, 504]
        assert answer(service, APART) == 503 and service.ask("GET", f"/v1/models/{APART}")[0] == 503
        assert change(service, "load", APART) == (200, "")
        assert np.ndim(answer(service, APART)) == 1
        assert service.ask("GET", f"/v1/models/{APART}")[0] == 200
        wait_until(lambda: old not in node_processes(service), PROMPTLY)
        assert np.ndim(answer(service, APART)) == 1
        assert len(node_processes(service)) == 1
