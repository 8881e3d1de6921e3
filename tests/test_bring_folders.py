"""Frozen graphs of TensorFlow 1, and folders of MLflow and of Hugging Face."""

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import torch
from onnx import TensorProto, helper, save

from bring.__main__ import named
from bring.description import Description, parse_preprocess
from bring.source import write_source
from bring.verdict import examine, insist
from contract.errors import BroughtError
from contract.manifest import Manifest, read_manifest
from serve.runtimes import load_runtime

RANDOM = np.random.default_rng(8)


def written(path: Path, folder: Path, description: Description = Description()) -> tuple[Manifest, Any]:  # noqa: B008
    """The manifest of the source artifact, and its runtime."""
    manifest = write_source(path, folder / "net", "net", description).manifest
    artifact = folder / "net" / manifest.format
    return manifest, load_runtime(artifact, read_manifest(artifact))


# Frozen graphs


def write_frozen(path: Path, operator: str = "Relu") -> Path:
    graph = tf.Graph()
    with graph.as_default():
        x = tf.compat.v1.placeholder(tf.float32, (None, 4), name="scope/x")
        kernel = tf.constant(np.arange(12, dtype=np.float32).reshape(4, 3) / 10)
        hidden = tf.raw_ops.ReadFile(filename="/etc/hostname") if operator == "ReadFile" else None
        with graph.control_dependencies([hidden] if hidden is not None else []):
            tf.nn.relu(x @ kernel, name="scope/y")
    path.write_bytes(graph.as_graph_def().SerializeToString())
    return path


def test_a_frozen_graph_is_read(tmp_path: Path) -> None:
    assert examine(write_frozen(tmp_path / "net.pb")).kind == "frozen"
    manifest, runtime = written(tmp_path / "net.pb", tmp_path)
    assert (manifest.format, manifest.inputs[0].name, manifest.outputs[0].name) == ("savedmodel", "scope_x", "scope_y")
    rows = RANDOM.normal(size=(6, 4)).astype(np.float32)
    kernel = np.arange(12).reshape(4, 3) / 10
    np.testing.assert_allclose(runtime.predict({"scope_x": rows})["scope_y"], np.maximum(rows @ kernel, 0), atol=1e-5)


def test_a_graph_whose_weights_lie_elsewhere_is_named(tmp_path: Path) -> None:
    graph = tf.compat.v1.GraphDef.FromString(write_frozen(tmp_path / "net.pb").read_bytes())
    for constant in (node for node in graph.node if node.op == "Const"):
        constant.attr["value"].tensor.ClearField("tensor_content")
    (tmp_path / "tensorflowjs_model.pb").write_bytes(graph.SerializeToString())
    with pytest.raises(BroughtError, match=r"without its weights: none of its 1 constants.*TF\.js before version 1\.0"):
        written(tmp_path / "tensorflowjs_model.pb", tmp_path)


def test_a_frozen_graph_that_uses_files_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BroughtError, match=r"(?s)a frozen graph of TensorFlow 1.*ReadFile.*do more than compute"):
        written(write_frozen(tmp_path / "net.pb", "ReadFile"), tmp_path)
    with pytest.raises(BroughtError, match=r"truncated or damaged|not a model of a supported kind"):
        (tmp_path / "half.pb").write_bytes(write_frozen(tmp_path / "net.pb").read_bytes()[:-9])
        examine(tmp_path / "half.pb")


# MLflow


def write_mlflow(folder: Path) -> Path:
    (folder / "data").mkdir(parents=True)
    (folder / "MLmodel").write_text("flavors:\n  python_function:\n    loader_module: mlflow.onnx\n")
    return folder


def test_an_mlflow_folder_is_the_model_in_it(tmp_path: Path) -> None:
    folder = write_mlflow(tmp_path / "logged")
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 3]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Tanh", ["x"], ["y"])], "net", [x], [y])
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), folder / "model.onnx")
    assert named([folder], {}) == {"logged": folder}
    manifest, runtime = written(folder, tmp_path)
    assert manifest.format == "onnx"
    rows = RANDOM.normal(size=(2, 3)).astype(np.float32)
    np.testing.assert_allclose(runtime.predict({"x": rows})["y"], np.tanh(rows), atol=1e-6)


class Bites:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.mkdir, (self.path,)


@pytest.mark.parametrize("name", ["python_model.pkl", "data/model.pth"])
def test_a_pickle_in_an_mlflow_folder_is_refused_and_not_run(tmp_path: Path, name: str) -> None:
    folder = write_mlflow(tmp_path / "logged")
    (folder / name).write_bytes(pickle.dumps(Bites(tmp_path / "bitten")))
    with pytest.raises(BroughtError, match=rf"whose model is a pickle \('{name}'\).*mlflow\.onnx\.log_model"):
        written(folder, tmp_path)
    assert not (tmp_path / "bitten").exists()


# Hugging Face


def write_huggingface(folder: Path, kind: str) -> Any:
    import transformers

    torch.manual_seed(2)
    if kind == "text":
        config = transformers.DistilBertConfig(
            vocab_size=50, dim=16, n_heads=2, n_layers=1, hidden_dim=32, max_position_embeddings=40, num_labels=3
        )
        net = transformers.DistilBertForSequenceClassification(config)
    else:
        config = transformers.ViTConfig(
            hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, image_size=8, patch_size=4
        )
        net = transformers.ViTForImageClassification(config)
    net.eval().save_pretrained(folder, safe_serialization=True)
    return net


def test_a_folder_of_tokens_is_built_by_transformers(tmp_path: Path) -> None:
    net = write_huggingface(tmp_path / "folder", "text")
    manifest, runtime = written(tmp_path / "folder", tmp_path)
    assert manifest.format == "torch"
    assert [(spec.name, spec.shape, spec.bounds) for spec in manifest.inputs] == [
        ("input_ids", (None, None), (0, 49)),
        ("attention_mask", (None, None), (0, 1)),
    ]
    ids, mask = RANDOM.integers(0, 50, (3, 7)), np.array([[1] * 7, [1] * 5 + [0] * 2, [1] * 3 + [0] * 4])
    with torch.inference_mode():
        expected = net(torch.from_numpy(ids), torch.from_numpy(mask)).logits.numpy()
    got = runtime.predict({"input_ids": ids, "attention_mask": mask})[manifest.outputs[0].name]
    np.testing.assert_allclose(got, expected, atol=1e-5)


def test_a_folder_of_pictures_is_built_by_transformers(tmp_path: Path) -> None:
    net = write_huggingface(tmp_path / "folder", "pictures")
    with pytest.raises(BroughtError, match="Set PREPROCESS=unit"):
        written(tmp_path / "folder", tmp_path)
    _, runtime = written(tmp_path / "folder", tmp_path, Description(preprocess=parse_preprocess("unit")))
    pixels = RANDOM.integers(0, 256, (3, 8, 8, 3)).astype(np.float32)
    with torch.inference_mode():
        expected = net(torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255).logits.softmax(1).numpy()
    np.testing.assert_allclose(runtime.predict({"pixels": pixels})["probabilities"], expected, atol=1e-5)


def test_a_folder_that_asks_for_remote_code_is_refused_and_nothing_runs(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    write_huggingface(folder, "text")
    config = json.loads((folder / "config.json").read_bytes())
    (folder / "modeling_own.py").write_text(f"import os\nos.mkdir({str(tmp_path / 'bitten')!r})\nclass Own: pass\n")
    asks = config | {"auto_map": {"AutoModel": "modeling_own.Own"}, "architectures": ["Own"]}
    (folder / "config.json").write_text(json.dumps(asks))
    for trusted in (False, True):
        with pytest.raises(BroughtError, match=r"asks for code beside it.*which is never run"):
            insist(examine(folder), trusted)
    (folder / "config.json").write_text(json.dumps(config | {"architectures": ["pipeline"]}))
    with pytest.raises(BroughtError, match="is not the name of a class"):
        insist(examine(folder), True)
    (folder / "config.json").write_text(json.dumps(config | {"architectures": ["GenerationMixin"]}))
    with pytest.raises(BroughtError, match="needs the class GenerationMixin"):
        written(folder, tmp_path)
    assert not (tmp_path / "bitten").exists()
