"""What a brought model is said to be holds: for each output, at the edges of its inputs, and from call to call."""

import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

from contract.code import ROOT
from contract.manifest import read_manifest
from contract.parity_result import ORDINARY, VERIFIED, read_status
from serve.runtimes import load_runtime

FORMATS = ("onnx", "savedmodel", "tflite", "tfjs")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, "subprocess.CompletedProcess[str]"]:
    """The artifacts of three small models, and the run that brought them."""
    folder = tmp_path_factory.mktemp("models")
    keras.utils.set_random_seed(3)
    layers, ops = keras.layers, keras.ops
    left, right = keras.Input((6,), name="left"), keras.Input((6,), name="right")
    head = layers.Dense(3, name="head")
    keras.Model([left, right], [head(left), head(right)]).save(folder / "twins.keras")
    values = keras.Input((8,), name="values")
    curves = [
        ops.softplus(values),
        ops.log_sigmoid(values),
        layers.ELU(0.7)(values),
        layers.UnitNormalization()(values),
    ]
    keras.Model(values, curves).save(folder / "curves.keras")
    counts = keras.Input((6,), dtype="int32", name="counts")
    keras.Model(counts, [ops.floor_divide(counts, 3), ops.mod(counts, 3)]).save(folder / "counts.keras")
    steps = keras.Input(batch_shape=(4, 5, 3))
    keras.Model(steps, layers.GRU(6, stateful=True)(steps)).save(folder / "stateful.keras")
    artifacts = tmp_path_factory.mktemp("truth") / "artifacts"
    command = [sys.executable, "-m", "bring", str(folder), "--artifacts", str(artifacts)]
    return artifacts, subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_two_outputs_of_one_layer_have_two_names_and_two_answers(
    run: tuple[Path, "subprocess.CompletedProcess[str]"],
) -> None:
    folder = run[0] / "twins"
    inputs = {"left": np.ones((2, 6), np.float32), "right": -np.ones((2, 6), np.float32)}
    for format in ("keras", *FORMATS):
        manifest = read_manifest(folder / format)
        assert [spec.name for spec in manifest.outputs] == ["head", "head_1"]
        runtime = load_runtime(folder / format, manifest)
        try:
            outputs = runtime.predict(inputs)
        finally:
            runtime.close()
        np.testing.assert_allclose(outputs["head"], -outputs["head_1"], atol=1e-6)  # its bias is zero
        assert np.abs(outputs["head"]).max() > 0.1


DIFFERENT = {
    ("curves", "tflite"): {"unit_normalization"},  # a row of zeros, divided by its length
    ("counts", "tfjs"): {"floor_divide"},  # the ends of 32 bits, which its float32 division rounds
}
"""What a format cannot do otherwise, and has to be said of it."""


@pytest.mark.parametrize("model", ["curves", "counts"])
@pytest.mark.parametrize("format", FORMATS)
def test_answers_are_the_sources_at_the_edges_too(
    run: tuple[Path, "subprocess.CompletedProcess[str]"], model: str, format: str
) -> None:
    status = read_status(run[0] / model / format)
    assert status.parity is not None
    outputs = DIFFERENT.get((model, format), set())
    assert {difference.output for difference in status.parity.differs} == outputs, status.reason
    assert status.word == (ORDINARY if outputs else VERIFIED)
    assert all(f"{output} is" in status.reason for output in outputs)


def test_a_model_with_a_state_is_refused_with_a_way_out(
    run: tuple[Path, "subprocess.CompletedProcess[str]"],
) -> None:
    artifacts, done = run
    assert "stateful.keras: the model does not give the same answer to the same question" in done.stderr
    assert "reset its state at each call" in done.stderr
    assert not (artifacts / "stateful").exists()
