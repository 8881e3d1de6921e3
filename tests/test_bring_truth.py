"""What a brought model is said to be holds: for each output, at the edges of its inputs, and from call to call."""

import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import torch
from torch import nn

from contract.code import ROOT
from contract.manifest import read_manifest
from contract.parity_result import VERIFIED, read_status
from serve.runtimes import load_runtime
from tests.test_bring_tfjs import write_graph
from verify.processor import INSTRUCTIONS

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
    write_torch_curves(folder / "torch_curves.pt2")
    steps = keras.Input(batch_shape=(4, 5, 3))
    keras.Model(steps, layers.GRU(6, stateful=True)(steps)).save(folder / "stateful.keras")
    artifacts = tmp_path_factory.mktemp("truth") / "artifacts"
    command = [sys.executable, "-m", "bring", "--precision", "none", str(folder), "--artifacts", str(artifacts)]
    return artifacts, subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


class Curves(nn.Module):
    """What parts from PyTorch in one format or another beyond the usual numbers."""

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        kept = torch.where(torch.isnan(x) | torch.isinf(x), torch.zeros_like(x), x)
        functions = nn.functional
        curves = (functions.logsigmoid(kept), functions.elu(kept, 0.7), functions.softplus(kept))
        return (*curves, functions.normalize(kept), torch.nan_to_num(x, 1.0, 2.0, -3.0))


def write_torch_curves(path: Path) -> None:
    batch = torch.export.Dim("batch", min=1, max=64)
    torch.export.save(torch.export.export(Curves(), (torch.zeros(2, 8),), dynamic_shapes=({0: batch},)), path)


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


@pytest.mark.parametrize("model", ["curves", "counts", "torch_curves"])
@pytest.mark.parametrize("format", FORMATS)
def test_answers_are_the_sources_at_the_edges_too(
    run: tuple[Path, "subprocess.CompletedProcess[str]"], model: str, format: str
) -> None:
    status = read_status(run[0] / model / format)
    assert status.parity is not None
    assert status.parity.differs == (), status.reason
    assert status.word == VERIFIED
    assert status.parity.edges > 3


def test_infinity_and_nan_are_asked_of_a_model_that_replaces_them(
    run: tuple[Path, "subprocess.CompletedProcess[str]"],
) -> None:
    """The source answers both with numbers alone, so that two questions of each are among the edges."""
    asked = {model: read_status(run[0] / model / "onnx").parity for model in ("curves", "torch_curves")}
    edges = {model: parity.edges for model, parity in asked.items() if parity}
    assert edges["torch_curves"] == edges["curves"] + 4


def test_the_processor_is_part_of_the_claim(run: tuple[Path, "subprocess.CompletedProcess[str]"]) -> None:
    cpuinfo = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    flags = {word for line in cpuinfo.splitlines() if line.startswith(("flags", "Features")) for word in line.split()}
    parity = read_status(run[0] / "twins" / "onnx").parity
    assert parity is not None
    name, _, instructions = parity.processor.removesuffix(")").rpartition(" (")
    assert name
    assert set(instructions.split()) == flags & set(INSTRUCTIONS)


def test_a_model_with_a_state_is_refused_with_a_way_out(
    run: tuple[Path, "subprocess.CompletedProcess[str]"],
) -> None:
    artifacts, done = run
    assert "stateful.keras: the model does not give the same answer to the same question" in done.stderr
    assert "reset its state at each call" in done.stderr
    assert not (artifacts / "stateful").exists()


def test_a_model_that_cannot_be_run_is_not_brought(tmp_path: Path) -> None:
    """A TF.js model where there is no Node: its file is read, and nothing of it is served."""
    commands = tmp_path / "bin"
    commands.mkdir()
    for folder in (Path(part) for part in os.environ["PATH"].split(os.pathsep)):
        for program in folder.glob("*") if folder.is_dir() else ():
            if program.name not in ("node", "nodejs") and not (commands / program.name).is_symlink():
                (commands / program.name).symlink_to(program)
    kernel = np.linspace(-1, 1, 12, dtype=np.float32).reshape(4, 3)
    path = write_graph(tmp_path / "web", "DT_FLOAT", [4], kernel)
    artifacts = tmp_path / "artifacts"
    command = [sys.executable, "-m", "bring", "--precision", "none", str(path), "--artifacts", str(artifacts)]
    environment = os.environ | {"PATH": str(commands)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "the file was read, and its model cannot be run: web-tfjs needs Node 20 or later" in done.stderr
    assert "brought in" not in done.stdout
    assert not (artifacts / "web").exists()
