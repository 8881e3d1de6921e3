"""Load and unload: from the folder alone, in every worker, without a request that fails, and only where allowed."""

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from tritonclient import http as triton
from tritonclient.utils import InferenceServerException

from contract.manifest import read_manifest, sha256_of_files, write_manifest
from serve import dataplane
from serve.app import create_app
from serve.catalog import Catalog, load_catalog
from serve.dataplane import DataPlane
from serve.settings import Settings
from tests.serving import Service, started, wait_until
from tests.test_docs import write_model

MODEL, OTHER = "keras_cnn-onnx", "other_cnn-onnx"
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
def artifacts(tmp_path: Path) -> Path:
    write_model(tmp_path / "artifacts" / "keras_cnn" / "onnx")
    return tmp_path / "artifacts"


@pytest.fixture(params=["1", "2"])
def service(artifacts: Path, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Service]:
    """One worker, and two."""
    with started(artifacts, tmp_path / "output", SERVE_CONTROL="1", SERVE_WORKERS=request.param) as running:
        wait_until(lambda: len(running.workers()) == int(request.param))
        yield running


def everywhere(service: Service, expected: Any) -> bool:
    """Whether all of some connections, and so all workers, give this answer."""
    return all(np.shape(got) == np.shape(expected) and np.allclose(got, expected) for got in (answer(service),) * 12)


def test_a_new_artifact_takes_the_old_ones_place_and_no_request_fails(service: Service, artifacts: Path) -> None:
    old = answer(service)
    turn(artifacts / "keras_cnn" / "onnx")
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
    (entry,) = json.loads(service.ask("POST", "/v2/repository/index")[2])
    assert (entry["name"], entry["state"]) == (MODEL, "UNAVAILABLE") and "unloaded" in entry["reason"]
    assert change(service, "load") == (200, "")
    wait_until(lambda: everywhere(service, before))


def test_an_artifact_that_came_later_is_loaded_and_a_damaged_one_changes_nothing(
    service: Service, artifacts: Path
) -> None:
    before = answer(service)
    assert change(service, "load", OTHER)[0] == 404
    write_model(artifacts / "other_cnn" / "onnx")
    manifest = read_manifest(artifacts / "other_cnn" / "onnx")
    write_manifest(artifacts / "other_cnn" / "onnx", type(manifest)(**{**vars(manifest), "model": "other_cnn"}))
    assert change(service, "load", OTHER) == (200, "")
    wait_until(lambda: all(np.ndim(answer(service, OTHER)) == 1 for _ in range(12)))
    assert [entry["name"] for entry in json.loads(service.ask("POST", "/v2/repository/index")[2])] == [MODEL, OTHER]
    (artifacts / "keras_cnn" / "onnx" / "model.onnx").write_bytes(b"damaged")
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


def test_it_is_off_unless_the_settings_allow_it(artifacts: Path) -> None:
    client = create_app(Catalog([]), Settings(artifacts=artifacts)).test_client()
    for verb in ("load", "unload"):
        refused = client.post(f"/v2/repository/models/{MODEL}/{verb}")
        assert refused.status_code == 403 and "SERVE_CONTROL=1" in refused.get_json()["error"]
    assert "model_repository" not in client.get("/v2").get_json()["extensions"]


def test_what_another_worker_loads_while_this_one_starts_is_loaded_here_again(
    artifacts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = tmp_path / "state"
    state.mkdir()
    settings = Settings(artifacts=artifacts, state=state, control=True, formats=("onnx",))
    other = DataPlane(load_catalog(artifacts, settings), settings)

    def load_and_be_overtaken(*arguments: Any) -> Catalog:
        catalog = load_catalog(*arguments)
        turn(artifacts / "keras_cnn" / "onnx")
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
