"""A request with a size of 0 is refused by every format and protocol alike, and disturbs nobody who asks next."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import onnx
import pytest
from flask.testing import FlaskClient
from onnx import TensorProto, helper, numpy_helper

from contract.code import ROOT
from contract.manifest import Manifest, TensorSpec, sha256_of_files, write_manifest
from export import exported_from
from serve.app import create_app
from serve.catalog import load_catalog
from serve.protocol.oip import HEADER_LENGTH
from serve.settings import Settings

FORMATS = ("onnx", *exported_from("onnx"))
EMPTY = [1, 0, 8]


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FlaskClient]:
    """`x` (N, L, 8) -> `x` + 1, with a free length, in every format that ONNX leads to."""
    artifacts = tmp_path_factory.mktemp("sizes") / "artifacts"
    folder = artifacts / "longer" / "onnx"
    folder.mkdir(parents=True)
    x, y = (TensorSpec(name, "float32", (None, None, 8), "NLC") for name in "xy")
    infos = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", "L", 8]) for name in "xy"]
    one = [numpy_helper.from_array(np.array(1, np.float32), "one")]
    graph = helper.make_graph([helper.make_node("Add", ["x", "one"], ["y"])], "net", infos[:1], infos[1:], one)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(model, folder / "model.onnx")
    files = sha256_of_files(folder, [folder / "model.onnx"])
    write_manifest(folder, Manifest("longer", "onnx", None, (x,), (y,), None, (), files=files))
    command = [sys.executable, "-m", "export", str(folder), "all"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    catalog = load_catalog(artifacts)
    yield create_app(catalog, Settings(artifacts=artifacts)).test_client()
    catalog.close()


def as_json(client: FlaskClient, name: str) -> Any:
    tensor = {"name": "x", "datatype": "FP32", "shape": EMPTY, "data": []}
    return client.post(f"/v2/models/{name}/infer", json={"inputs": [tensor]})


def as_bytes(client: FlaskClient, name: str) -> Any:
    tensor = {"name": "x", "datatype": "FP32", "shape": EMPTY, "parameters": {"binary_data_size": 0}}
    header = json.dumps({"inputs": [tensor]}).encode()
    return client.post(f"/v2/models/{name}/infer", data=header, headers={HEADER_LENGTH: str(len(header))})


def as_rows(client: FlaskClient, name: str) -> Any:
    return client.post(f"/v1/models/{name}:predict", json={"instances": [[]]})


def as_columns(client: FlaskClient, name: str) -> Any:
    return client.post(f"/v1/models/{name}:predict", json={"inputs": {"x": [[]]}})


@pytest.mark.parametrize("send", [as_json, as_bytes, as_rows, as_columns])
@pytest.mark.parametrize("format", FORMATS)
def test_a_size_of_0_is_refused_and_the_next_answers_are_their_own(
    client: FlaskClient, format: str, send: Callable[[FlaskClient, str], Any]
) -> None:
    name = f"longer-{format}"
    for length in (1, 3, 2):
        refused = send(client, name)
        assert refused.status_code == 400, refused.data
        assert "'x' has shape [1, 0" in refused.json["error"]
        x = np.random.default_rng(length).normal(size=(1, length, 8)).astype(np.float32)
        tensor = {"name": "x", "datatype": "FP32", "shape": list(x.shape), "data": x.ravel().tolist()}
        answer = client.post(f"/v2/models/{name}/infer", json={"inputs": [tensor]})
        assert answer.status_code == 200, answer.data
        body: Any = answer.json
        (got,) = body["outputs"]
        assert got["shape"] == list(x.shape)
        np.testing.assert_allclose(got["data"], x.ravel() + 1, rtol=0, atol=1e-6)
