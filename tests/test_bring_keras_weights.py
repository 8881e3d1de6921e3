"""Weights of Keras alone: ARCH builds the model, in Keras 3 or in tf_keras, and the weights are loaded into it."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
import pytest
import tf_keras

from bring.__main__ import main
from bring.description import Description, Input, parse_preprocess
from bring.source import write_source
from contract.cell.host import find_parts
from contract.errors import BroughtError
from contract.manifest import read_manifest
from serve.runtimes import load_runtime

CODE = """
import {library} as keras
import tensorflow as tf
import a_package_of_nobody

def build(units=3):
    layers = keras.layers
    return keras.Sequential([keras.Input((4,)), layers.Dense(5, activation="relu"), layers.Dense(units)])

class Edges(keras.Model):
    def __init__(self):
        super().__init__()
        self.filters = keras.layers.Conv2D(2, 3, padding="same")

    def call(self, pixels):
        size = tf.shape(pixels)[1:3] * 2
        return tf.image.resize(self.filters(pixels), size)

class Needy(Edges):
    def call(self, pixels):
        return a_package_of_nobody.edges(pixels)

def number():
    return 3
"""
ROWS = np.random.default_rng(8).normal(size=(6, 4)).astype(np.float32)


@pytest.fixture(autouse=True)
def beside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The module that builds the models lies beside the file, and nobody knows it from before."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "keras_nets.py").write_text(CODE.format(library="keras"))
    (tmp_path / "keras_2_nets.py").write_text(CODE.format(library="tf_keras"))
    yield
    for name in ("keras_nets", "keras_2_nets"):
        sys.modules.pop(name, None)


def small(library: Any, units: int = 3) -> Any:
    layers = library.layers
    return library.Sequential([library.Input((4,)), layers.Dense(5, activation="relu"), layers.Dense(units)])


def write(folder: Path, model: Any, name: str = "net.weights.h5") -> Path:
    model.save_weights(folder / name)
    return folder / name


@pytest.mark.parametrize(
    ("library", "name", "called", "format"),
    [
        (keras, "net.weights.h5", "keras_nets:build(3)", "keras"),
        (tf_keras, "net.h5", "keras_nets:build", "keras"),
        (tf_keras, "net.h5", "keras_2_nets:build", "savedmodel"),
    ],
    ids=["Keras 3", "Keras 2 into Keras 3", "Keras 2"],
)
def test_weights_are_loaded_into_the_model_that_arch_builds(
    tmp_path: Path, library: Any, name: str, called: str, format: str
) -> None:
    model = small(library)
    written = write_source(write(tmp_path, model, name), tmp_path / "net", "net", Description(architecture=called))
    assert written.manifest.format == format
    assert any("built without a_package_of_nobody" in note for note in written.manifest.made_with["notes"])
    runtime = load_runtime(tmp_path / "net" / format, written.manifest)
    (answers,) = runtime.predict({written.manifest.inputs[0].name: ROWS}).values()
    np.testing.assert_allclose(answers, np.asarray(model(ROWS)), atol=1e-6)


def edges() -> Any:
    namespace: dict[str, Any] = {}
    exec(CODE.format(library="keras").replace("import a_package_of_nobody", ""), namespace)
    model = namespace["Edges"]()
    model(np.zeros((1, 8, 6, 3), np.float32))
    return model


def test_a_model_of_its_own_code_becomes_a_savedmodel(tmp_path: Path) -> None:
    model = edges()
    described = Description(
        architecture="keras_nets:Edges", preprocess=parse_preprocess("unit size=8x6"), answers="values"
    )
    written = write_source(write(tmp_path, model), tmp_path / "net", "net", described)
    assert written.manifest.format == "savedmodel" and written.manifest.inputs[0].shape == (None, 8, 6, 3)
    pixels = np.random.default_rng(1).integers(0, 256, (2, 8, 6, 3)).astype(np.float32)
    (answers,) = load_runtime(tmp_path / "net" / "savedmodel", written.manifest).predict({"pixels": pixels}).values()
    np.testing.assert_allclose(answers, np.asarray(model(pixels / 255)), atol=1e-5)


@pytest.mark.parametrize(
    ("description", "words"),
    [
        (Description(), r"has only weights, not their network\. Set ARCH=.*returns the keras\.Model"),
        (
            Description(architecture="keras_nets:build(4)"),
            r"not those of ARCH=keras_nets:build\(4\): .*dense_\d+/kernel has the shape \(5, 4\), .*\(5, 3\)",
        ),
        (Description(architecture="keras_nets:number"), r"returned a int, expected a keras\.Model"),
        (Description(architecture="keras_nets:nobody"), r"The module keras_nets has no nobody"),
        (Description(architecture="keras_nets:Edges"), r"has only weights, which do not say what the inputs are"),
        (
            Description(architecture="keras_nets:Edges", inputs=(Input("x", shape=(None, 4)),)),
            r"The model of ARCH=keras_nets:Edges cannot be called with x \[-1, 4\]",
        ),
        (
            Description(architecture="keras_nets:Needy", preprocess=parse_preprocess("unit size=8")),
            r"It needs a_package_of_nobody, which is not there",
        ),
        (Description(architecture="a_module_of_nobody:build"), r"imports a_module_of_nobody, which is not there"),
    ],
)
def test_what_does_not_fit_is_named(tmp_path: Path, description: Description, words: str) -> None:
    with pytest.raises(BroughtError, match=words):
        write_source(write(tmp_path, small(keras)), tmp_path / "net", "net", description)


def test_a_model_with_fewer_layers_is_refused_and_what_training_left_is_not(tmp_path: Path) -> None:
    file = write(tmp_path, small(keras))
    described = Description(architecture="keras_nets:build")
    with h5py.File(file, "a") as weights:
        weights["optimizer/vars/0"] = np.ones(2)
    write_source(file, tmp_path / "net", "net", described)
    with h5py.File(file, "a") as weights:
        weights["layers/more/vars/0"] = np.ones(2)
    with pytest.raises(BroughtError, match=r"net\.weights\.h5 are not those of .*the file has 5 arrays, .* has 4"):
        write_source(file, tmp_path / "net", "net", described)


def test_the_command_brings_them_in_the_cell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "keras_nets.py").write_text(CODE.format(library="keras"))
    file = write(folder, small(keras))
    options = ("--artifacts", str(tmp_path / "a"), "--name", "net", "--arch", "keras_nets:build()")
    monkeypatch.setattr(sys, "argv", ["bring", str(file), *options])
    if find_parts().user is not None:
        folder.chmod(0o700)
        with pytest.raises(SystemExit):
            main()
        assert "Others may not enter the folder" in capsys.readouterr().err
        folder.chmod(0o755)
    main()
    assert read_manifest(tmp_path / "a" / "net" / "keras").inputs[0].shape == (None, 4)
