"""tflite -> onnx, for a TF Lite file that somebody brought."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from bring.description import Description, parse_preprocess
from bring.source import write_source
from contract.code import ROOT
from contract.manifest import Manifest, read_manifest
from export.tflite_file import packed, unpacked
from serve.runtimes import load_runtime

RANDOM = np.random.default_rng(11)
KERNEL = RANDOM.normal(size=(3, 3, 2, 4)).astype(np.float32) / 4
HEAD = RANDOM.normal(size=(5, 3)).astype(np.float32) / 2


def net(rows: Any, table: Any) -> dict[str, Any]:
    """Two inputs and two outputs; their names are in another order than their places."""
    features = tf.reduce_mean(tf.nn.relu(tf.nn.conv2d(rows, KERNEL, 1, "VALID")), [1, 2])
    return {"z_features": features, "a_scores": tf.nn.softmax(table @ HEAD)}


def write_tflite(path: Path, quantised: bool, signature: bool = True) -> Path:
    module = tf.Module()
    module.f = tf.function(
        net, input_signature=[tf.TensorSpec((1, 6, 7, 2), name="rows"), tf.TensorSpec((1, 5), name="table")]
    )
    concrete = module.f.get_concrete_function()
    converter = tf.lite.TFLiteConverter.from_concrete_functions([concrete], module if signature else None)
    if signature:
        saved = path.with_suffix("")
        tf.saved_model.save(module, str(saved), signatures=concrete)
        converter = tf.lite.TFLiteConverter.from_saved_model(str(saved))
    if quantised:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        shapes = {"rows": (1, 6, 7, 2), "table": (1, 5)}
        examples = [
            {name: RANDOM.normal(size=shape).astype(np.float32) for name, shape in shapes.items()} for _ in range(20)
        ]
        converter.representative_dataset = lambda: iter(examples)
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    path.write_bytes(converter.convert())
    return path


def brought(path: Path, folder: Path) -> tuple[Manifest, Any, Any]:
    """The source's manifest, and the answers of both formats to the same rows."""
    source = write_source(path, folder / "net", "net", Description(kind="tensors")).manifest
    command = [sys.executable, "-m", "export", str(folder / "net" / "tflite"), "onnx"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    names = [next(spec.name for spec in source.inputs if len(spec.shape) == rank) for rank in (4, 2)]
    inputs = dict(zip(names, (RANDOM.normal(size=(3, 6, 7, 2)), RANDOM.normal(size=(3, 5))), strict=True))
    rows = {name: value.astype(np.float32) for name, value in inputs.items()}
    artifacts = [folder / "net" / format for format in ("tflite", "onnx")]
    here, there = (load_runtime(artifact, read_manifest(artifact)).predict(rows) for artifact in artifacts)
    for name, value in here.items():
        expected = net(*rows.values())["a_scores" if value.shape == (3, 3) else "z_features"]
        np.testing.assert_allclose(value, expected, atol=0.1)
        np.testing.assert_allclose(there[name], value, atol=0.05 if source.made_with["notes"] else 1e-5)
    return source, here, there


@pytest.mark.parametrize("signature", [True, False], ids=["signature", "tensors"])
def test_a_file_becomes_onnx_with_its_own_names(tmp_path: Path, signature: bool) -> None:
    source, here, there = brought(write_tflite(tmp_path / "net.tflite", False, signature), tmp_path)
    assert [spec.name.isidentifier() for spec in (*source.inputs, *source.outputs)] == [True] * 4
    assert here.keys() == there.keys()
    assert source.made_with["notes"] == []


@pytest.mark.filterwarnings(r"ignore:[\s\S]*tf.lite.Interpreter is deprecated:UserWarning")
def test_a_quantised_file_is_said_to_be_so(tmp_path: Path) -> None:
    source, _, _ = brought(write_tflite(tmp_path / "net.tflite", True), tmp_path)
    assert source.made_with["notes"][0].startswith("It is quantised")


def test_pictures_as_bytes_stay_bytes(tmp_path: Path) -> None:
    doubled = tf.function(
        lambda pixels: {"mean": tf.reduce_mean(tf.cast(pixels, tf.float32), [1, 2])},
        input_signature=[tf.TensorSpec((1, 6, 7, 3), tf.uint8, name="pixels")],
    )
    converter = tf.lite.TFLiteConverter.from_concrete_functions([doubled.get_concrete_function()], None)
    (tmp_path / "net.tflite").write_bytes(converter.convert())
    manifest = write_source(
        tmp_path / "net.tflite", tmp_path / "net", "net", Description(preprocess=parse_preprocess("none"))
    ).manifest
    assert manifest.inputs[0].dtype == "uint8"
    pixels = RANDOM.integers(0, 256, (4, 6, 7, 3), np.uint8)
    answers = load_runtime(tmp_path / "net" / "tflite", manifest).predict({manifest.inputs[0].name: pixels})
    np.testing.assert_allclose(answers[manifest.outputs[0].name], pixels.mean(axis=(1, 2)), rtol=1e-5)


def branching(rows: Any) -> dict[str, Any]:
    """Its condition is a scalar, whose shape is a constant without values."""
    score = tf.sigmoid(rows @ HEAD[:, :1])
    is_high = tf.reshape(score >= 0.5, [])
    return {"scores": tf.cond(is_high, lambda: tf.sigmoid(rows @ HEAD[:, 1:2]), lambda: score)}


def without_empty_buffers(content: bytes) -> bytes:
    """As older converters wrote it."""
    model = unpacked(content)
    for buffer in model.buffers:
        if buffer.data is not None and not len(buffer.data):
            buffer.data = None
    return packed(model)


@pytest.mark.filterwarnings(r"ignore:[\s\S]*tf.lite.Interpreter is deprecated:UserWarning")
def test_a_branch_stays_a_branch(tmp_path: Path) -> None:
    function = tf.function(branching, input_signature=[tf.TensorSpec((1, 5), name="rows")])
    converter = tf.lite.TFLiteConverter.from_concrete_functions([function.get_concrete_function()], None)
    (tmp_path / "net.tflite").write_bytes(without_empty_buffers(converter.convert()))
    source = write_source(tmp_path / "net.tflite", tmp_path / "net", "net", Description(kind="tensors")).manifest
    command = [sys.executable, "-m", "export", str(tmp_path / "net" / "tflite"), "onnx"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    there = load_runtime(tmp_path / "net" / "onnx", read_manifest(tmp_path / "net" / "onnx"))
    rows = RANDOM.normal(size=(8, 5)).astype(np.float32)
    expected = [branching(row[None])["scores"][0] for row in rows]
    assert len(set(rows @ HEAD[:, 0] >= 0)) == 2, "both branches run"
    got = [there.predict({source.inputs[0].name: row[None]})[source.outputs[0].name][0] for row in rows]
    np.testing.assert_allclose(got, expected, atol=1e-5)
