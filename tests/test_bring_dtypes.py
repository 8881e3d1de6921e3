"""Metadata, manifest and answer name the same dtype for an output, in every format: half precision, unsigned words."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import onnx
import pytest
import torch
from flask.testing import FlaskClient
from onnx import TensorProto, helper
from torch import Tensor, nn

from bring.description import Description
from bring.readers.onnx import OnnxSource
from contract.errors import BroughtError
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
MODELS = {"mixed": "FP16", "brain": "BF16", "half": "FP16", "double": "FP64", "short": "UINT32", "word": "UINT32"}
"""Model -> the datatype of its answers, by its framework's rules."""
IN_FLOAT32 = "Save the model in float32"

FORMATS = {
    "mixed": {"keras", "onnx", "savedmodel", "tflite", "tfjs"},
    "brain": {"keras", "savedmodel"},
    "half": {"torch", "onnx", "savedmodel", "tflite", "tfjs"},
    "double": {"torch", "onnx", "savedmodel", "tflite", "tfjs"},
    "short": {"onnx", "savedmodel", "tflite"},
    "word": {"torch", "onnx", "savedmodel", "tflite"},
}


class Word(nn.Module):
    """Words of 32 bits in and out."""

    def __init__(self) -> None:
        super().__init__()
        self.kernel = nn.Parameter(torch.from_numpy(KERNEL))

    def forward(self, x: Tensor) -> Tensor:
        return (x.float() @ self.kernel).abs().to(torch.uint32)


def write_short(path: Path) -> None:
    """An ONNX model: words of 16 bits in, words of 32 bits out."""
    nodes = [
        helper.make_node("Cast", ["x"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("MatMul", ["float", "kernel"], ["product"]),
        helper.make_node("Abs", ["product"], ["size"]),
        helper.make_node("Cast", ["size"], ["y"], to=TensorProto.UINT32),
    ]
    ends = [
        [helper.make_tensor_value_info(name, dtype, ["batch", width])]
        for name, dtype, width in (("x", TensorProto.UINT16, 8), ("y", TensorProto.UINT32, 3))
    ]
    graph = helper.make_graph(nodes, "short", *ends, [onnx.numpy_helper.from_array(KERNEL, "kernel")])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)


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
    batch = torch.export.Dim("batch", min=1, max=64)
    words = torch.zeros(2, 8, dtype=torch.uint32)
    torch.export.save(torch.export.export(Word().eval(), (words,), dynamic_shapes=({0: batch},)), folder / "word.pt2")
    write_short(folder / "short.onnx")


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
    more -= {"executorch"} if model == "word" else set()
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
        right = right.astype(np.int64) if MODELS[model].startswith("UINT") else right
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
    ("name", "reason", "advice"),
    [
        ("brain-tflite", "LiteRT has no operator for MatMul in bfloat16.", IN_FLOAT32),
        ("brain-tfjs", "TF.js has no numbers of bfloat16, as the weights are.", IN_FLOAT32),
        (
            "short-tfjs",
            "TF.js has no tensors of one of this model's dtypes: it has float32, int32, bool and strings.",
            "Save the model with int32 or float32 in place of it, or ship ONNX for the browser.",
        ),
        (
            "word-executorch",
            "A kernel of ExecuTorch refuses what this program gives it (InvalidArgument).",
            "Save the model with float32 or int32 where it has another dtype, or ship ONNX.",
        ),
        (
            "word-coreml",
            "This converter does not know tensors of uint32.",
            "Save the model with int32 in place of it, or ship ONNX.",
        ),
    ],
)
def test_a_format_without_the_dtype_says_so(artifacts: Path, name: str, reason: str, advice: str) -> None:
    if not is_installed(name.partition("-")[2]):
        pytest.skip("A runtime is missing: run `make runtimes`.")
    failed = {edge.name: edge for edge in read_failed_edges(artifacts)}[name]
    assert failed.reason == reason and advice in failed.advice


@pytest.mark.parametrize("dtype", ["uint16", "uint32", "uint64"])
def test_an_onnx_model_of_unsigned_words_is_read_and_answers(tmp_path: Path, dtype: str) -> None:
    kind = getattr(TensorProto, dtype.upper())
    ends = [[helper.make_tensor_value_info(name, kind, ["batch", 8])] for name in "xy"]
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "words", *ends)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "w.onnx")
    source = OnnxSource(tmp_path / "w.onnx", Description())
    assert [spec.dtype for spec in (*source.inputs, *source.outputs)] == [dtype, dtype]
    largest = np.full((2, 8), np.iinfo(dtype).max, dtype)
    (answer,) = source.predict({"x": largest})
    assert answer.dtype == dtype and (answer == largest).all()


def test_bfloat16_at_the_ends_of_an_onnx_model_is_refused_with_what_to_export_instead(tmp_path: Path) -> None:
    ends = [[helper.make_tensor_value_info(name, TensorProto.BFLOAT16, ["batch", 8])] for name in "xy"]
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "brain", *ends)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "b.onnx")
    with pytest.raises(
        BroughtError, match=r"x is bfloat16, which ONNX Runtime neither takes .* Export the model with float"
    ):
        OnnxSource(tmp_path / "b.onnx", Description())
