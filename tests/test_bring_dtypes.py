"""Metadata, manifest and answer name the same dtype for an output, in every format of a model in half precision."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import torch
from flask.testing import FlaskClient
from torch import nn

from contract.failed_edge import read_failed_edges
from contract.formats import is_installed, needs
from contract.manifest import read_manifest
from contract.tensors import numpy_dtype
from serve.app import create_app
from serve.catalog import load_catalog
from serve.protocol.oip import HEADER_LENGTH
from serve.settings import Settings
from tests.commands import brought

KERNEL = np.arange(24, dtype=np.float32).reshape(8, 3) / 32 - 0.3
MODELS = {"mixed": "FP16", "brain": "BF16", "half": "FP16", "double": "FP64"}
"""Model -> the datatype of its answers, by its framework's rules."""

FORMATS = {
    "mixed": {"keras", "onnx", "savedmodel", "tfjs"},
    "brain": {"keras", "savedmodel"},
    "half": {"torch", "onnx", "savedmodel", "tflite", "tfjs"},
    "double": {"torch", "onnx", "savedmodel", "tfjs"},
}


def write_models(folder: Path) -> None:
    for name, policy in (("mixed", "mixed_float16"), ("brain", "mixed_bfloat16")):
        keras.config.set_dtype_policy(policy)
        try:
            x = keras.Input((8,), name="x", dtype="float32")
            dense = keras.layers.Dense(3, use_bias=False, name="y")
            keras.Model(x, dense(x)).save(folder / f"{name}.keras")
            dense.set_weights([KERNEL])
            keras.Model(x, dense(x)).save(folder / f"{name}.keras")
        finally:
            keras.config.set_dtype_policy("float32")
    for name, dtype in (("half", torch.float16), ("double", torch.float64)):
        net = nn.Linear(8, 3, bias=False).to(dtype).eval()
        net.weight.data = torch.from_numpy(KERNEL.T.copy()).to(dtype)
        batch = torch.export.Dim("batch", min=1, max=64)
        program = torch.export.export(net, (torch.zeros(2, 8, dtype=dtype),), dynamic_shapes=({0: batch},))
        torch.export.save(program, folder / f"{name}.pt2")


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dtypes")
    write_models(folder)
    return brought(folder, folder / "artifacts")


@pytest.fixture(scope="module")
def client(artifacts: Path) -> Iterator[FlaskClient]:
    catalog = load_catalog(artifacts)
    yield create_app(catalog, Settings(artifacts=artifacts)).test_client()
    catalog.close()


@pytest.mark.parametrize("model", MODELS)
def test_metadata_and_answers_name_the_sources_dtype(artifacts: Path, client: FlaskClient, model: str) -> None:
    formats = {path.parent.name for path in (artifacts / model).glob("*/manifest.json") if not needs(path.parent.name)}
    optional = {"openvino": "onnx", "executorch": "torch", "coreai": "torch"}
    more = {format for format, parent in optional.items() if is_installed(format) and parent in FORMATS[model]}
    assert formats == FORMATS[model] | more
    for format in sorted(formats):
        manifest = read_manifest(artifacts / model / format)
        metadata: Any = client.get(f"/v2/models/{model}-{format}").json
        (output,), (entry,) = metadata["outputs"], metadata["inputs"]
        assert output["datatype"] == MODELS[model], format
        tensor: dict[str, Any] = {"name": entry["name"], "datatype": entry["datatype"], "shape": [1, 8]}
        body: dict[str, Any] = {"inputs": [tensor | {"data": [1, 2, 3, 4, 5, 6, 7, 8]}]}
        answer: Any = client.post(f"/v2/models/{model}-{format}/infer", json=body).json
        assert answer["outputs"][0]["datatype"] == MODELS[model], format
        right = np.arange(1, 9) @ KERNEL
        np.testing.assert_allclose(answer["outputs"][0]["data"], right, rtol=0.02, atol=0.05, err_msg=format)
        body["outputs"] = [{"name": output["name"], "parameters": {"binary_data": True}}]
        raw = client.post(f"/v2/models/{model}-{format}/infer", json=body)
        values = np.frombuffer(raw.data[int(raw.headers[HEADER_LENGTH]) :], numpy_dtype(manifest.outputs[0].dtype))
        np.testing.assert_allclose(values.astype(np.float64), right, rtol=0.02, atol=0.05, err_msg=format)


@pytest.mark.parametrize(("model", "dtype"), [("mixed", "float16"), ("brain", "bfloat16")])
def test_a_mixed_policy_is_named_by_the_manifests_that_compute_so(artifacts: Path, model: str, dtype: str) -> None:
    for format in ("keras", "savedmodel"):
        assert read_manifest(artifacts / model / format).made_with["computed_in"] == {dtype: 1}, format
    (note,) = read_manifest(artifacts / model / "keras").made_with["notes"]
    assert note == f"Its layers with weights do not all compute in float32: 1 in {dtype}."


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("mixed-tflite", "LiteRT has no operator for MatMul in float16."),
        ("brain-tflite", "LiteRT has no operator for MatMul in bfloat16."),
        ("double-tflite", "LiteRT has no operator for MatMul in float64."),
        ("brain-tfjs", "TF.js has no numbers of bfloat16, as the weights are."),
    ],
)
def test_a_format_without_the_dtype_says_so(artifacts: Path, name: str, reason: str) -> None:
    failed = {edge.name: edge for edge in read_failed_edges(artifacts)}[name]
    assert failed.reason == reason and "Save the model in float32" in failed.advice
