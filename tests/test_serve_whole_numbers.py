"""A whole number reaches a runtime as it was sent, or is refused with status 400: it never becomes another one."""

import subprocess
import sys
from collections.abc import Iterator
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
from serve.settings import Settings

OF_32_BITS = {"tfjs": "TF.js", "openvino": "OpenVINO"}
"""Format -> its runtime, of those that compute whole numbers of 64 bits in 32."""
ENDS = np.iinfo(np.int32)


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FlaskClient]:
    """`x` of int64 -> `x` itself, twice over, and the least of each row, in every format that ONNX leads to."""
    artifacts = tmp_path_factory.mktemp("whole") / "artifacts"
    folder = artifacts / "counts" / "onnx"
    folder.mkdir(parents=True)
    specs = [TensorSpec(name, "int64", (None, size), "NC") for name, size in (("x", 2), ("both", 4), ("least", 1))]
    infos = [helper.make_tensor_value_info(s.name, TensorProto.INT64, ["N", s.shape[1]]) for s in specs]
    nodes = [
        helper.make_node("Concat", ["x", "x"], ["both"], axis=1),
        helper.make_node("ReduceMin", ["x", "last"], ["least"]),
    ]
    last = [numpy_helper.from_array(np.array([1]), "last")]
    graph = helper.make_graph(nodes, "net", infos[:1], infos[1:], last)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(model, folder / "model.onnx")
    files = sha256_of_files(folder, [folder / "model.onnx"])
    write_manifest(folder, Manifest("counts", "onnx", None, (specs[0],), tuple(specs[1:]), None, (), files=files))
    command = [sys.executable, "-m", "export", str(folder), "all"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    catalog = load_catalog(artifacts)
    yield create_app(catalog, Settings(artifacts=artifacts)).test_client()
    catalog.close()


def formats(client: FlaskClient) -> list[str]:
    index: Any = client.post("/v2/repository/index").json
    return [entry["name"].partition("-")[2] for entry in index]


def ask(client: FlaskClient, format: str, row: list[int]) -> tuple[int, Any]:
    body = {"inputs": [{"name": "x", "datatype": "INT64", "shape": [1, 2], "data": row}]}
    response = client.post(f"/v2/models/counts-{format}/infer", json=body)
    return response.status_code, response.json


@pytest.mark.parametrize("row", [[ENDS.min, ENDS.max], [-7, 3], [0, 16_777_217]])
def test_what_fits_is_answered_by_every_format(client: FlaskClient, row: list[int]) -> None:
    assert {*formats(client)} == {"onnx", *exported_from("onnx")}
    for format in formats(client):
        status, answer = ask(client, format, row)
        assert status == 200, answer
        got = {output["name"]: output["data"] for output in answer["outputs"]}
        assert got == {"both": [*row, *row], "least": [min(row)]}, format


@pytest.mark.parametrize("row", [[1, ENDS.max + 1], [ENDS.min - 1, 1], [2**40, 2], [-(2**63), 2**63 - 1]])
def test_what_does_not_fit_is_refused_or_answered_exactly(client: FlaskClient, row: list[int]) -> None:
    for format in formats(client):
        status, answer = ask(client, format, row)
        if runtime := OF_32_BITS.get(format):
            assert status == 400, (format, answer)
            assert f"The input 'x' has values from {min(row)} to {max(row)}; {runtime} holds whole" in answer["error"]
        else:
            assert status == 200, answer
            got = {output["name"]: output["data"] for output in answer["outputs"]}
            assert got == {"both": [*row, *row], "least": [min(row)]}, format
