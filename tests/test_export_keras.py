"""A Keras model is built once and traced no more often than its formats need."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import keras
import numpy as np
import onnxruntime
import pytest

from contract.manifest import Manifest, TensorSpec, sha256_of
from export import keras_model, keras_to_onnx, keras_to_savedmodel
from export.savedmodel_to_tfjs import UNUSED, load_converter

pytestmark = pytest.mark.filterwarnings("ignore:In the future `np.object`:FutureWarning")  # of Keras

ROWS = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)


@pytest.fixture(autouse=True)
def nothing_kept() -> Iterator[None]:
    keras_model._loaded_once.cache_clear()
    yield
    keras_model._loaded_once.cache_clear()


def written(folder: Path, seed: int = 0) -> Manifest:
    """The manifest of a small model that is saved in the folder."""
    keras.utils.set_random_seed(seed)
    model = keras.Sequential([keras.Input((3,), name="values"), keras.layers.Dense(2)])
    model.save(folder / "model.keras")
    return Manifest(
        "small",
        "keras",
        None,
        (TensorSpec("values", "float32", (None, 3), "ND"),),
        (TensorSpec("answers", "float32", (None, 2), "ND"),),
        None,
        (),
        files={"model.keras": sha256_of(folder / "model.keras")},
    )


def test_what_goes_into_onnx_is_traced_once(tmp_path: Path) -> None:
    manifest, call, calls = written(tmp_path), keras.layers.Dense.call, []

    def counted(layer: Any, *arguments: Any, **settings: Any) -> Any:
        calls.append(arguments[0])
        return call(layer, *arguments, **settings)

    with mock.patch.object(keras.layers.Dense, "call", counted):
        model = keras_model.load_to_export(tmp_path, manifest)
        calls.clear()
        (file,) = keras_to_onnx.by_keras(tmp_path, manifest, tmp_path)
    assert len(calls) == 2, "a row of zeros, and the trace"
    (got,) = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"]).run(None, {"values": ROWS})
    np.testing.assert_allclose(got, np.asarray(model(ROWS)), atol=1e-6)


def test_two_exports_of_a_file_load_it_once_and_another_file_is_loaded_anew(tmp_path: Path) -> None:
    manifest, load, loaded = written(tmp_path), keras.models.load_model, []

    def counted(file: Path, **settings: Any) -> Any:
        loaded.append(file)
        return load(file, **settings)

    with mock.patch.object(keras.models, "load_model", counted):
        for number, export in enumerate((keras_to_onnx.by_keras, keras_to_savedmodel.export)):
            (tmp_path / str(number)).mkdir()
            export(tmp_path, manifest, tmp_path / str(number))
        assert len(loaded) == 1
        before = keras_model.load_to_export(tmp_path, manifest)
        after = keras_model.load_to_export(tmp_path, written(tmp_path, seed=1))
    assert len(loaded) == 2
    assert not np.array_equal(before.get_weights()[0], after.get_weights()[0])


def test_a_large_model_does_not_stay_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = written(tmp_path)
    monkeypatch.setattr(keras_model, "MOST_KEPT", (tmp_path / "model.keras").stat().st_size - 1)
    models = [keras_model.load_to_export(tmp_path, manifest) for _ in range(2)]
    assert models[0] is not models[1]
    assert keras_model._loaded_once.cache_info().currsize == 0


def test_what_converts_after_tfjs_finds_no_empty_modules() -> None:
    load_converter()
    empty = [name for name in UNUSED if name in sys.modules and not hasattr(sys.modules[name], "__file__")]
    assert empty == []
