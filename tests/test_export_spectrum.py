"""A spectrum inside a TF Lite file leads to ONNX, whatever of its complex numbers is used."""

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from ai_edge_litert.interpreter import Interpreter

from contract.manifest import Manifest, TensorSpec
from export.spectrum import matrices
from export.tflite_to_onnx import export
from tests.commands import run_script

WRITE = """
import sys, tensorflow as tf
PARTS = {"magnitude": tf.abs, "real": lambda x: tf.cast(x, tf.float32), "powers": lambda x: tf.square(tf.abs(x))}
for name, part in PARTS.items():
    net = tf.Module()
    @tf.function(input_signature=[tf.TensorSpec([None, 200], tf.float32, name="sound")])
    def call(sound):
        return {"bands": part(tf.signal.stft(sound, 64, 32, 64))}
    net.call = call
    tf.saved_model.save(net, f"{sys.argv[1]}/{name}", signatures=call)
    converter = tf.lite.TFLiteConverter.from_saved_model(f"{sys.argv[1]}/{name}")
    open(f"{sys.argv[1]}/{name}/model.tflite", "wb").write(converter.convert())
"""


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_script(WRITE, tmp_path_factory.mktemp("spectra"))


@pytest.mark.parametrize("part", ["magnitude", "real", "powers"])
def test_a_spectrum_is_computed_as_litert_does(written: Path, tmp_path: Path, part: str) -> None:
    sound = TensorSpec("sound", "float32", (None, 200), "ND")
    bands = TensorSpec("bands", "float32", (None, 5, 33), "NDD")
    manifest = Manifest("net", "tflite", None, (sound,), (bands,), None, ())
    export(written / part, manifest, tmp_path)
    rows = np.random.default_rng(5).normal(size=(3, 200)).astype(np.float32)
    expected = Interpreter(str(written / part / "model.tflite")).get_signature_runner()(sound=rows)["bands"]
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    (answer,) = session.run(["bands"], {"sound": rows})
    np.testing.assert_allclose(answer, expected, atol=1e-4)
    assert np.abs(expected).max() > 1


@pytest.mark.parametrize("length", [8, 13, 2048])
def test_the_matrices_are_the_transform(length: int) -> None:
    signal = np.random.default_rng(length).normal(size=length)
    real, imaginary = (signal @ matrix for matrix in matrices(length))
    np.testing.assert_allclose(real + 1j * imaginary, np.fft.rfft(signal), atol=1e-4)
