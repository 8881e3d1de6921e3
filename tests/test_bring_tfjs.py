"""TF.js graph models: asked by Node when they are brought, and wrapped in their own graph."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bring.description import Description, parse_preprocess
from bring.source import write_source
from contract.errors import BroughtError
from contract.manifest import Manifest
from serve.runtimes import load_runtime

RANDOM = np.random.default_rng(12)
HEIGHT, WIDTH = 5, 4
SETTINGS = "scale=1/255 mean=0.1,0.2,0.3 std=0.5,0.6,0.7"


def write_graph(folder: Path, dtype: str, shape: list[int], kernel: Any, key: str = "x") -> Path:
    """Rows, as fractions, times a kernel: as the converter writes it."""
    folder.mkdir(parents=True)
    dims = {"dim": [{"size": str(size)} for size in (-1, *shape)]}
    real, whole = {"type": "DT_FLOAT"}, {"type": "DT_INT32"}
    sizes = np.array([-1, len(kernel)], np.int32)
    nodes = [
        {"name": "sizes", "op": "Const", "attr": {"dtype": whole}},
        {"name": "kernel", "op": "Const", "attr": {"dtype": real}},
        {"name": "x", "op": "Placeholder", "attr": {"dtype": {"type": dtype}, "shape": {"shape": dims}}},
        {"name": "cast", "op": "Cast", "input": ["x"], "attr": {"SrcT": {"type": dtype}, "DstT": real}},
        {"name": "flat", "op": "Reshape", "input": ["cast", "sizes"], "attr": {"T": real, "Tshape": whole}},
        {"name": "y", "op": "MatMul", "input": ["flat", "kernel"], "attr": {"T": real}},
    ]
    weights = [
        {"name": "sizes", "shape": [2], "dtype": "int32"},
        {"name": "kernel", "shape": list(kernel.shape), "dtype": "float32"},
    ]
    (folder / "weights.bin").write_bytes(sizes.tobytes() + kernel.tobytes())
    out = {"dim": [{"size": "-1"}, {"size": str(kernel.shape[1])}]}
    signature = {
        "inputs": {key: {"name": "x:0", "dtype": dtype, "tensorShape": dims}},
        "outputs": {"y": {"name": "y:0", "dtype": "DT_FLOAT", "tensorShape": out}},
    }
    content = {
        "format": "graph-model",
        "signature": signature,
        "modelTopology": {"node": nodes, "library": {}, "versions": {}},
        "weightsManifest": [{"paths": ["weights.bin"], "weights": weights}],
    }
    (folder / "model.json").write_text(json.dumps(content))
    return folder


def answers_of(path: Path, folder: Path, description: Description, inputs: Any) -> tuple[Manifest, Any]:
    manifest = write_source(path, folder / "net", "net", description).manifest
    runtime = load_runtime(folder / "net" / "tfjs", manifest)
    try:
        return manifest, runtime.predict({manifest.inputs[0].name: inputs})[manifest.outputs[0].name]
    finally:
        runtime.close()


@pytest.mark.parametrize("order", ["RGB", "BGR"])
@pytest.mark.parametrize("layout", ["NHWC", "NCHW"])
def test_preprocessing_becomes_part_of_the_graph(tmp_path: Path, layout: str, order: str) -> None:
    kernel = RANDOM.normal(size=(HEIGHT * WIDTH * 3, 3)).astype(np.float32) / 3
    shape = [HEIGHT, WIDTH, 3] if layout == "NHWC" else [3, HEIGHT, WIDTH]
    path = write_graph(tmp_path / "web", "DT_FLOAT", shape, kernel)
    pixels = RANDOM.integers(0, 256, (4, HEIGHT, WIDTH, 3)).astype(np.float32)
    description = Description(preprocess=parse_preprocess(f"{SETTINGS} layout={layout} order={order}"))
    manifest, got = answers_of(path, tmp_path, description, pixels)
    assert manifest.image is not None and manifest.classifies
    assert (manifest.inputs[0].name, manifest.outputs[0].name) == ("pixels", "probabilities")
    ordered = pixels[..., ::-1] if order == "BGR" else pixels
    values = (ordered / 255 - [0.1, 0.2, 0.3]) / [0.5, 0.6, 0.7]
    values = values.transpose(0, 3, 1, 2) if layout == "NCHW" else values
    powers = np.exp(values.reshape(4, -1) @ kernel)
    np.testing.assert_allclose(got, powers / powers.sum(axis=1, keepdims=True), atol=1e-5)


def test_one_value_is_two_classes_there_too(tmp_path: Path) -> None:
    kernel = RANDOM.normal(size=(HEIGHT * WIDTH * 3, 1)).astype(np.float32) / 300
    path = write_graph(tmp_path / "web", "DT_FLOAT", [HEIGHT, WIDTH, 3], kernel)
    pixels = RANDOM.integers(0, 256, (4, HEIGHT, WIDTH, 3)).astype(np.float32)
    description = Description(preprocess=parse_preprocess("none"), classes=("a", "b"), answers="logits")
    manifest, got = answers_of(path, tmp_path, description, pixels)
    assert manifest.labels == ("a", "b")
    p = 1 / (1 + np.exp(-(pixels.reshape(4, -1) @ kernel)))
    np.testing.assert_allclose(got, np.concatenate([1 - p, p], 1), atol=1e-5)


@pytest.mark.parametrize("dtype", ["DT_UINT8", "DT_INT64", "DT_INT32"])
def test_whole_numbers_of_every_kind_are_taken(tmp_path: Path, dtype: str) -> None:
    """TF.js holds them in 32 bits; the request has the model's own dtype. Names lose what follows a colon."""
    kernel = RANDOM.normal(size=(6, 2)).astype(np.float32)
    path = write_graph(tmp_path / "web", dtype, [6], kernel, key="x:0")
    rows = RANDOM.integers(0, 100, (3, 6)).astype(dtype.removeprefix("DT_").lower())
    manifest, got = answers_of(path, tmp_path, Description(), rows)
    assert (manifest.inputs[0].name, manifest.inputs[0].dtype) == ("x", rows.dtype.name)
    np.testing.assert_allclose(got, rows @ kernel, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("has", ["nothing", "outputs"])
def test_what_a_signature_leaves_out_is_as_tfjs_takes_it(tmp_path: Path, has: str) -> None:
    """Placeholders go in, and what no node reads comes out."""
    kernel = RANDOM.normal(size=(6, 3)).astype(np.float32)
    path = write_graph(tmp_path / "web", "DT_FLOAT", [6], kernel) / "model.json"
    content = json.loads(path.read_bytes())
    del content["signature"]
    if has == "outputs":
        content["userDefinedMetadata"] = {"signature": {"outputs": {"scores": {"name": "y"}}}}
    path.write_text(json.dumps(content))
    rows = RANDOM.normal(size=(4, 6)).astype(np.float32)
    manifest, got = answers_of(path, tmp_path, Description(answers="values"), rows)
    assert [(spec.name, spec.shape) for spec in manifest.inputs] == [("x", (None, 6))]
    assert [(spec.name, spec.shape) for spec in manifest.outputs] == [
        ("scores" if has == "outputs" else "y", (None, 3))
    ]
    np.testing.assert_allclose(got, rows @ kernel, atol=1e-5)


@pytest.mark.parametrize("other", ["none", "another"])
def test_a_signature_in_the_metadata_is_the_one_that_counts(tmp_path: Path, other: str) -> None:
    """Older converters wrote it there, with names such as `y:0`; TF.js prefers it."""
    kernel = RANDOM.normal(size=(6, 3)).astype(np.float32)
    path = write_graph(tmp_path / "web", "DT_FLOAT", [6], kernel, key="x:0") / "model.json"
    content = json.loads(path.read_bytes())
    signature = content.pop("signature")
    if other == "another":
        content["signature"] = {**signature, "outputs": {"flat": {**signature["outputs"]["y"], "name": "flat:0"}}}
    content["userDefinedMetadata"] = {"signature": {**signature, "outputs": {"y:0": signature["outputs"]["y"]}}}
    path.write_text(json.dumps(content))
    rows = RANDOM.normal(size=(4, 6)).astype(np.float32)
    manifest, got = answers_of(path, tmp_path, Description(answers="values"), rows)
    assert [spec.name for spec in (*manifest.inputs, *manifest.outputs)] == ["x", "y"]
    np.testing.assert_allclose(got, rows @ kernel, atol=1e-5)


def test_texts_are_refused_with_what_to_bring(tmp_path: Path) -> None:
    path = write_graph(tmp_path / "web", "DT_STRING", [6], np.zeros((6, 3), np.float32))
    with pytest.raises(BroughtError, match=r"'x' holds texts.* Bring the SavedModel"):
        write_source(path, tmp_path / "net", "net", Description())


def test_a_signature_that_names_no_tensor_is_refused_with_what_to_do(tmp_path: Path) -> None:
    path = write_graph(tmp_path / "web", "DT_FLOAT", [6], np.zeros((6, 3), np.float32)) / "model.json"
    content = json.loads(path.read_bytes())
    del content["signature"]["outputs"]["y"]["name"]
    path.write_text(json.dumps(content))
    with pytest.raises(BroughtError, match=r"names no tensor of its graph for 'y'.* remove the signature"):
        write_source(path, tmp_path / "net", "net", Description())
