"""Sequential models of Keras 2.3 and older, which begin without an input layer."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import tf_keras

from bring.description import Description, parse_preprocess
from bring.readers.keras_entries import NOTE, add_entries
from bring.source import write_source
from contract.manifest import read_manifest
from serve.runtimes import load_runtime

layers = tf_keras.layers

pytestmark = pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file:UserWarning")


def nested() -> list[Any]:
    inner = tf_keras.Sequential([layers.Dense(4, input_shape=(6,), activation="tanh")], name="inner")
    return [layers.Dense(6, input_shape=(5,)), inner, layers.Dense(2)]


STACKS: dict[str, tuple[Callable[[], list[Any]], tuple[int, ...]]] = {
    "dense": (lambda: [layers.Dense(4, input_shape=(20,), activation="relu"), layers.Dense(2)], (20,)),
    "reshape": (lambda: [layers.Reshape((6, 8, 1), input_shape=(6, 8)), layers.Conv2D(2, 3), layers.Flatten()], (6, 8)),
    "dropout": (lambda: [layers.Dropout(0.5, input_shape=(9,)), layers.Dense(2)], (9,)),
    "flatten": (lambda: [layers.Flatten(input_shape=(4, 5)), layers.Dense(2)], (4, 5)),
    "pictures": (
        lambda: [layers.Conv2D(3, 3, input_shape=(8, 8, 3)), layers.Flatten(), layers.Dense(2, "softmax")],
        (8, 8, 3),
    ),
    "nested": (nested, (5,)),
}


def without_entries(config: Any) -> None:
    """As Keras 2.3 wrote it: the first layer has the shape already."""
    for layer in config["config"]["layers"]:
        if layer["class_name"] == "Sequential":
            without_entries(layer)
    config["config"]["layers"] = [layer for layer in config["config"]["layers"] if layer["class_name"] != "InputLayer"]


def write_old(model: Any, file: Path) -> None:
    model.save(file)
    with h5py.File(file, "r+") as stored:
        config = json.loads(stored.attrs["model_config"])
        without_entries(config)
        stored.attrs["model_config"], stored.attrs["keras_version"] = json.dumps(config), "2.3.1"


@pytest.mark.parametrize("name", STACKS)
def test_a_model_that_begins_without_an_input_layer_keeps_its_inputs_shape(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)  # where a reader writes its copies
    stack, shape = STACKS[name]
    tf_keras.utils.set_random_seed(3)
    model = tf_keras.Sequential(stack())
    write_old(model, tmp_path / "net.h5")
    description = Description(preprocess=parse_preprocess("none")) if len(shape) == 3 else Description()
    written = write_source(tmp_path / "net.h5", tmp_path / "net", "net", description).manifest
    assert written.format == "keras"
    assert list(written.inputs[0].shape) == [None, *shape]
    assert NOTE in written.made_with["notes"]
    rows = np.random.default_rng(1).normal(size=(5, *shape)).astype(np.float32)
    runtime = load_runtime(tmp_path / "net" / "keras", read_manifest(tmp_path / "net" / "keras"))
    answers = runtime.predict({written.inputs[0].name: rows})[written.outputs[0].name]
    np.testing.assert_allclose(answers, model(rows, training=False), atol=1e-5)


def test_a_model_whose_layers_are_a_list_gets_one_too() -> None:
    """Keras before 2.2.3 wrote no name for the model."""
    first = {"class_name": "Dense", "config": {"name": "a", "units": 3, "batch_input_shape": [None, 4]}}
    config = {"class_name": "Sequential", "config": [first]}
    assert add_entries(config)
    entry = {"batch_input_shape": [None, 4], "dtype": "float32", "sparse": False, "name": "a_input"}
    assert config["config"][0] == {"class_name": "InputLayer", "config": entry}
    assert "batch_input_shape" not in first["config"]
    assert not add_entries(config)
