"""Versions of a model: in numbered folders, each by its number, and the newest where no number is given."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from compare.requests import HEADER_LENGTH
from contract.manifest import read_manifest, sha256_of_files, write_manifest
from serve.artifacts import find_versions
from serve.rpc.messages import INFERENCE, message
from tests.serving import Service, free_port, started
from tests.test_docs import write_model

MODEL = "keras_cnn-onnx"
INPUT = {"name": "pixels", "datatype": "FP32", "shape": [1, 28, 28, 1], "data": [255.0] * 784}
BODY = json.dumps({"inputs": [INPUT]}).encode()


def write_version(folder: Path, factor: float) -> None:
    """An artifact with the weights of the first version times a factor."""
    write_model(folder)
    model = onnx.load(folder / "model.onnx")
    (weights,) = model.graph.initializer
    weights.CopyFrom(numpy_helper.from_array(np.float32(factor) * numpy_helper.to_array(weights), "weights"))
    onnx.save(model, folder / "model.onnx")
    manifest = read_manifest(folder)
    files = sha256_of_files(folder, [folder / "model.onnx"])
    write_manifest(folder, type(manifest)(**{**vars(manifest), "files": files}))


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Versions 1, 2 and 10, with weights of their own."""
    folder = tmp_path_factory.mktemp("versions") / "artifacts"
    write_version(folder / "keras_cnn" / "onnx", 1)
    write_version(folder / "keras_cnn" / "2" / "onnx", 2)
    write_version(folder / "keras_cnn" / "10" / "onnx", 10)
    write_version(folder / "keras_cnn" / "1" / "onnx", 5)  # version 1 is what lies in the model's own folder
    for name in (".3", "03", "three", "0"):
        shutil.copytree(folder / "keras_cnn" / "onnx", folder / "keras_cnn" / name / "onnx")
    return folder


@pytest.fixture(scope="module")
def service(artifacts: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Service, int]]:
    """One that serves two versions and may be told to load others, and its gRPC port."""
    folder, port = tmp_path_factory.mktemp("service"), free_port()
    shutil.copytree(artifacts, folder / "artifacts")
    more = {"SERVE_VERSIONS": "2", "SERVE_CONTROL": "1", "GRPC_PORT": str(port)}
    with started(folder / "artifacts", folder / "output", **more) as running:
        yield running, port


def expected(factor: float) -> Any:
    weights = np.random.default_rng(1).normal(size=(784, 10)).astype(np.float32) / 1000
    powers = np.exp(np.full((1, 784), 255.0) @ (factor * weights))
    return (powers / powers.sum())[0]


def answered(service: Service, path: str, sent: Any = None) -> Any:
    code, _, body = service.ask("POST" if sent else "GET", path, json.dumps(sent).encode() if sent else None)
    assert code == 200, body
    return json.loads(body)


def infer(service: Service, version: str) -> tuple[str, Any]:
    """The version that the answer names, and the probabilities."""
    answer = answered(service, f"/v2/models/{MODEL}{version}/infer", {"inputs": [INPUT]})
    return answer["model_version"], answer["outputs"][0]["data"]


def test_folders_with_numbers_are_versions_and_others_are_not(artifacts: Path) -> None:
    folders = {"1": "onnx", "2": "2/onnx", "10": "10/onnx"}
    every = {version: artifacts / "keras_cnn" / folder for version, folder in folders.items()}
    assert find_versions(artifacts) == {MODEL: every}
    assert list(find_versions(artifacts, count=2)[MODEL]) == ["2", "10"]
    assert list(find_versions(artifacts, count=1)[MODEL]) == ["10"]
    assert find_versions(artifacts, ["keras"]) == {}


def test_each_version_answers_by_its_number_and_the_newest_without(service: tuple[Service, int]) -> None:
    for version, (named, factor) in {"": ("10", 10), "/versions/10": ("10", 10), "/versions/2": ("2", 2)}.items():
        got, values = infer(service[0], version)
        assert got == named
        np.testing.assert_allclose(values, expected(factor), atol=1e-5)
        rows = answered(service[0], f"/v1/models/{MODEL}{version}:predict", {"instances": [[[[255]] * 28] * 28]})
        np.testing.assert_allclose(rows["predictions"][0], expected(factor), atol=1e-5)
    labelled = answered(service[0], f"/v1/models/{MODEL}/labels/stable:predict", {"instances": [[[[255]] * 28] * 28]})
    np.testing.assert_allclose(labelled["predictions"][0], expected(10), atol=1e-5)
    for path in ("v2", "v1"):
        code, _, body = service[0].ask("GET", f"/{path}/models/{MODEL}/versions/1")
        assert code == 404 and "no version '1' here. Served of it: 2, 10." in json.loads(body)["error"]
    assert service[0].ask("POST", f"/v2/models/{MODEL}/versions/1/infer", BODY)[0] == 404


def test_a_binary_answer_names_its_version(service: tuple[Service, int]) -> None:
    outputs = {"parameters": {"binary_data_output": True}}
    sent = json.dumps({"inputs": [INPUT], **outputs}).encode()
    _, headers, body = service[0].ask("POST", f"/v2/models/{MODEL}/versions/2/infer", sent)
    assert json.loads(body[: int(headers[HEADER_LENGTH])])["model_version"] == "2"


def test_every_description_has_the_versions(service: tuple[Service, int]) -> None:
    server, path = service[0], f"/v2/models/{MODEL}"
    assert answered(server, path)["versions"] == answered(server, f"{path}/versions/2")["versions"] == ["2", "10"]
    files = [answered(server, f"{path}{version}")["parameters"]["files"] for version in ("", "/versions/2")]
    assert files[0] != files[1]
    index = json.loads(server.ask("POST", "/v2/repository/index")[2])
    assert [(entry["name"], entry["version"], entry["state"]) for entry in index] == [
        (MODEL, "2", "READY"),
        (MODEL, "10", "READY"),
    ]
    states = answered(server, f"/v1/models/{MODEL}")["model_version_status"]
    assert [(state["version"], state["state"]) for state in states] == [("10", "AVAILABLE"), ("2", "AVAILABLE")]
    (state,) = answered(server, f"/v1/models/{MODEL}/versions/2")["model_version_status"]
    assert state["version"] == "2"
    assert answered(server, f"/v1/models/{MODEL}/versions/2/metadata")["model_spec"]["version"] == "2"


def test_each_version_has_counts_of_its_own(service: tuple[Service, int]) -> None:
    server = service[0]

    def count(version: str) -> int:
        (stats,) = answered(server, f"/v2/models/{MODEL}/versions/{version}/stats")["model_stats"]
        assert stats["version"] == version
        done: int = stats["inference_stats"]["success"]["count"]
        return done

    old, new = count("2"), count("10")
    infer(server, "/versions/2")
    assert (count("2"), count("10")) == (old + 1, new)
    infer(server, "")
    assert (count("2"), count("10")) == (old + 1, new + 1)
    metrics = server.ask("GET", "/metrics")[2].decode()
    assert f'rosetta_requests_total{{code="200",model="{MODEL}:2"}} {old + 1}.0' in metrics
    both = answered(server, "/v2/models/stats")["model_stats"]
    assert [stats["version"] for stats in both] == ["2", "10"]


def test_grpc_has_the_versions(service: tuple[Service, int]) -> None:
    request = message("inference.ModelInferRequest")(model_name=MODEL, raw_input_contents=[b"\0" * 3136])
    request.inputs.add(name="pixels", datatype="FP32", shape=[1, 28, 28, 1])
    with grpc.insecure_channel(f"127.0.0.1:{service[1]}") as channel:
        call = channel.unary_unary(f"/{INFERENCE}/ModelInfer")
        for version, named in {"": "10", "2": "2"}.items():
            request.model_version = version
            got = message("inference.ModelInferResponse").FromString(call(request.SerializeToString(), timeout=20))
            assert got.model_version == named
        request.model_version = "1"
        with pytest.raises(grpc.RpcError, match="no version '1'"):
            call(request.SerializeToString(), timeout=20)


def test_a_new_version_is_loaded_and_the_oldest_one_ends(service: tuple[Service, int]) -> None:
    server = service[0]
    folder = server.folder.parent / "artifacts" / "keras_cnn" / "11" / "onnx"
    write_version(folder, -1)
    (folder / "model.onnx").rename(folder / "away")
    code, _, body = server.ask("POST", f"/v2/repository/models/{MODEL}/load")
    assert code == 503 and "nothing has changed" in json.loads(body)["error"]
    assert infer(server, "")[0] == "10"
    (folder / "away").rename(folder / "model.onnx")
    assert server.ask("POST", f"/v2/repository/models/{MODEL}/load")[0] == 200
    version, values = infer(server, "")
    assert version == "11"
    np.testing.assert_allclose(values, expected(-1), atol=1e-5)
    assert infer(server, "/versions/10")[0] == "10"
    assert server.ask("POST", f"/v2/models/{MODEL}/versions/2/infer", BODY)[0] == 404
    shutil.rmtree(folder.parent)  # back to the last one
    assert server.ask("POST", f"/v2/repository/models/{MODEL}/load")[0] == 200
    assert infer(server, "")[0] == "10" and infer(server, "/versions/2")[0] == "2"
    assert server.ask("POST", f"/v2/repository/models/{MODEL}/unload")[0] == 200
    assert [server.ask("POST", f"/v2/models/{MODEL}{at}/infer", BODY)[0] for at in ("", "/versions/2")] == [503, 503]
