"""Models of Keras 2, and layers models of TF.js, which are such as JSON: rebuilt by tf_keras, and on as SavedModels."""

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from bring.description import Description, parse_preprocess
from bring.source import write_source
from bring.verdict import examine, insist
from contract.errors import BroughtError, UntrustedModel
from contract.manifest import read_manifest
from serve.runtimes import load_runtime

RANDOM = np.random.default_rng(6)
layers = tf_keras.layers

pytestmark = pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file:UserWarning")


def pictures() -> Any:
    """Two layers whose arguments Keras 3 does not know."""
    tf_keras.utils.set_random_seed(1)
    stack = [layers.DepthwiseConv2D(3), layers.Conv2DTranspose(4, 3), layers.GlobalAveragePooling2D()]
    return tf_keras.Sequential([layers.Input((12, 10, 3)), *stack, layers.Dense(3, activation="softmax")])


def sequences() -> Any:
    inner = tf_keras.Sequential([layers.Input((7, 4)), layers.LSTM(5, return_sequences=True)], name="inner")
    return tf_keras.Sequential([layers.Input((7, 4)), inner, layers.Bidirectional(layers.GRU(3)), layers.Dense(2)])


def operators() -> Any:
    """Layers that are functions of TensorFlow."""
    entry = tf_keras.Input((6,), name="entry")
    return tf_keras.Model(entry, tf.nn.relu(layers.Dense(3)(entry)) * 2.0 + tf.reduce_mean(entry, 1, keepdims=True))


MODELS = {"pictures": pictures, "sequences": sequences, "operators": operators}


def write_layers(model: Any, folder: Path, quantised: bool = False) -> Path:
    """As TF.js writes a layers model."""
    folder.mkdir()
    entries, data = [], b""
    for variable in model.weights:
        values = variable.numpy()
        entry: dict[str, Any] = {
            "name": variable.name.removesuffix(":0"),
            "shape": list(values.shape),
            "dtype": "float32",
        }
        if quantised:
            low, scale = float(values.min()), max(float(np.ptp(values)) / 255, 1e-6)
            entry["quantization"] = {"dtype": "uint8", "min": low, "scale": scale, "original_dtype": "float32"}
            values = np.rint((values - low) / scale).astype(np.uint8)
        entries.append(entry)
        data += values.tobytes()
    (folder / "weights.bin").write_bytes(data)
    topology = {"keras_version": "2.15.0", "backend": "tensorflow", "model_config": json.loads(model.to_json())}
    manifest = [{"paths": ["weights.bin"], "weights": entries}]
    content = {"format": "layers-model", "modelTopology": topology, "weightsManifest": manifest}
    (folder / "model.json").write_text(json.dumps(content))
    return folder / "model.json"


def answers_of(path: Path, folder: Path, inputs: Any, text: str = "none") -> Any:
    description = Description(preprocess=parse_preprocess(text)) if inputs.ndim == 4 else Description()
    manifest = write_source(path, folder / "net", "net", description).manifest
    assert manifest.format == "savedmodel"
    (note,) = manifest.made_with["notes"]
    assert "tf_keras" in note
    runtime = load_runtime(folder / "net" / "savedmodel", read_manifest(folder / "net" / "savedmodel"))
    return runtime.predict({manifest.inputs[0].name: inputs})[manifest.outputs[0].name]


def inputs_of(model: Any) -> Any:
    return RANDOM.normal(size=(5, *model.input_shape[1:])).astype(np.float32)


@pytest.mark.parametrize(
    ("name", "suffix"), [("pictures", ".h5"), ("sequences", ".h5"), ("operators", ".h5"), ("operators", ".keras")]
)
def test_what_keras_3_does_not_read_is_read_by_keras_2(tmp_path: Path, name: str, suffix: str) -> None:
    model = MODELS[name]()
    model.save(tmp_path / f"net{suffix}")
    inputs = inputs_of(model)
    np.testing.assert_allclose(
        answers_of(tmp_path / f"net{suffix}", tmp_path, inputs), model(inputs, training=False), atol=1e-5
    )


@pytest.mark.parametrize("name", ["pictures", "sequences"])
def test_a_layers_model_is_rebuilt(tmp_path: Path, name: str) -> None:
    model = MODELS[name]()
    inputs = inputs_of(model)
    got = answers_of(write_layers(model, tmp_path / "web"), tmp_path, inputs, "scale=2")
    np.testing.assert_allclose(got, model(inputs * (2 if inputs.ndim == 4 else 1), training=False), atol=1e-5)


def test_quantised_weights_are_restored(tmp_path: Path) -> None:
    model = pictures()
    inputs = inputs_of(model)
    got = answers_of(write_layers(model, tmp_path / "web", quantised=True), tmp_path, inputs)
    np.testing.assert_allclose(got, model(inputs, training=False), atol=0.05)


def test_weights_of_another_model_are_refused(tmp_path: Path) -> None:
    path = write_layers(pictures(), tmp_path / "web")
    content = json.loads(path.read_bytes())
    first = content["weightsManifest"][0]["weights"][0]
    first["shape"] = first["shape"][::-1]
    path.write_text(json.dumps(content))
    with pytest.raises(BroughtError, match="has other weights than its layers: depthwise"):
        write_source(path, tmp_path / "net", "net", Description(preprocess=parse_preprocess("unit")))


def test_a_lambda_in_a_layers_model_is_refused_and_not_run(tmp_path: Path) -> None:
    bitten = tmp_path / "bitten"
    function = eval(f"lambda x: __import__('os').mkdir({str(bitten)!r}) or x")
    entry = tf_keras.Input((3,))
    hidden = tf_keras.Model(entry, layers.Lambda(lambda x: x)(entry))
    hidden.layers[-1].function = function
    path = write_layers(hidden, tmp_path / "web")
    with pytest.raises(UntrustedModel, match="is a Lambda: reading it runs Python code"):
        write_source(path, tmp_path / "net", "net", Description())
    assert not bitten.exists()


@pytest.mark.parametrize("function", ["io.write_file", "io.gfile.rmtree", "py_function", "raw_ops.WriteFile", "eval"])
def test_a_layer_that_calls_other_functions_is_refused(tmp_path: Path, function: str) -> None:
    operators().save(tmp_path / "net.h5")
    insist(examine(tmp_path / "net.h5"), trusted=False)
    with h5py.File(tmp_path / "net.h5", "r+") as file:
        config = file.attrs["model_config"]
        assert '"nn.relu"' in config
        file.attrs["model_config"] = config.replace('"nn.relu"', json.dumps(function))
    for trusted in (False, True):
        with pytest.raises(BroughtError, match=f"calls TensorFlow's '{function}'.*not known to compute"):
            insist(examine(tmp_path / "net.h5"), trusted)
