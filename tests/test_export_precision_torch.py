"""PyTorch in int8 and in bfloat16: what the files hold, what really computes, and what is refused."""

import importlib.util
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from contract.calibration import Calibration
from contract.dataset import load
from contract.errors import ExportError
from contract.ledger import LEDGER, read_ledger
from contract.manifest import MANIFEST, TensorSpec, read_manifest, verify_files, write_manifest
from contract.parity_result import read_status
from contract.precisions import PRECISIONS, chosen
from export.precision import make_variant, make_variants
from serve.runtimes import load_runtime
from serve.runtimes.torch_precision import as_executed, load_program
from tests.conftest import MadeOnce
from tests.test_export_precision_executorch import Pointwise, Quantised, rows, source
from verify.parity import verify_model
from verify.precision.ledger import examine
from verify.questions import of_split

INT8, BF16 = "torch-int8", "torch-bf16"
FORMATS = [
    pytest.param(INT8, marks=pytest.mark.skipif(not importlib.util.find_spec("torchao"), reason="torchao is missing")),
    BF16,
]
WIDTH = 12
PICTURES = 2000

pytestmark = pytest.mark.filterwarnings("ignore")  # torchao's and PyTorch's own, of each other


@pytest.fixture(scope="module")
def trained(made_once: MadeOnce, artifacts: Path) -> Path:
    """The variants of a real network, made and compared. Do not change them."""

    def make(folder: Path) -> None:
        shutil.copytree(artifacts / "torch_cnn" / "torch", folder / "torch_cnn" / "torch")
        pixels = np.asarray(load("fashion_mnist", "train").images[:100], np.float32)
        calibration = Calibration({"pixels": pixels}, "pictures", tuple(map(str, range(len(pixels)))))
        made = [*make_variants(folder / "torch_cnn", chosen("int8,bf16"), lambda manifest: calibration)]
        assert all(hasattr(each, "made_with") for each in made), made
        questions = of_split(load("fashion_mnist", "test", PICTURES))
        verify_model(folder / "torch_cnn", questions, formats=[each.format for each in made])

    return made_once("torch_precisions", make) / "torch_cnn"


def dense(folder: Path, network: torch.nn.Module | None = None) -> Path:
    torch.manual_seed(0)
    network = network or torch.nn.Sequential(torch.nn.Linear(WIDTH, 32), torch.nn.ReLU(), torch.nn.Linear(32, 4))
    entry, end = (TensorSpec(name, "float32", (None, size), "NC") for name, size in (("x", WIDTH), ("y", 4)))
    return source(folder, network, entry, end, torch.zeros(2, WIDTH))


class Block(torch.nn.Module):
    """Pictures (N, 3, 9, 7) -> (N, 4), by every kind of layer that a kernel computes with what follows it."""

    def __init__(self) -> None:
        super().__init__()
        nn = torch.nn
        self.first = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU6())
        self.second = nn.Conv2d(8, 8, 3, stride=2, groups=8, bias=False)
        self.third = nn.Sequential(nn.Conv2d(8, 8, 1), nn.ReLU(), nn.Conv2d(8, 8, 1), nn.ReLU())
        self.out = nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = self.second(self.first(x))
        answers: torch.Tensor = self.out((hidden + self.third(hidden)).mean((2, 3)))
        return answers


class Around(torch.nn.Module):
    """A program that was brought, in what is put around it. It has no `eval` of its own."""

    def __init__(self, program: torch.nn.Module) -> None:
        super().__init__()
        self.program = program

    def eval(self) -> "Around":
        return self

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        answers: torch.Tensor = self.program(x * 1.5)
        return answers


def block(folder: Path, is_exported_twice: bool) -> tuple[Path, NDArray[np.float32]]:
    torch.manual_seed(0)
    entry, end = TensorSpec("x", "float32", (None, 3, 9, 7), "NCHW"), TensorSpec("y", "float32", (None, 4), "NC")
    pixels = np.random.default_rng(1).normal(size=(64, 3, 9, 7)).astype(np.float32)
    example, free = (torch.zeros(2, 3, 9, 7),), ({0: torch.export.Dim("batch", min=1, max=64)},)
    network: torch.nn.Module = Block().eval()
    if is_exported_twice:
        torch.export.save(torch.export.export(network, example, dynamic_shapes=free), folder / "first.pt2")
        network = Around(torch.export.load(folder / "first.pt2").module(check_guards=False))
    return source(folder, network, entry, end, *example), pixels


# What is made


@pytest.mark.parametrize("format", FORMATS)
def test_it_passes_at_a_class_and_its_ledger_says_what_it_computes_in(trained: Path, format: str) -> None:
    assert " at 99" in read_status(trained / format).word, read_status(trained / format).reason
    ledger, dtype = read_ledger(trained / format), PRECISIONS[format].dtype
    assert ledger is not None
    assert ledger.computing == {dtype: 3}
    assert not ledger.is_stored_only
    assert set(ledger.inputs.values()) == set(ledger.outputs.values()) == {"float32"}
    assert ("int8" in ledger.weights) is (format == INT8)
    assert ledger.fast_on == PRECISIONS[format].fast_on


def test_bfloat16_is_the_same_program_and_the_runtimes_option(trained: Path) -> None:
    folder, parent = trained / BF16, trained / "torch"
    assert read_manifest(folder).files == read_manifest(parent).files
    assert read_manifest(folder).made_with["autocast"] == "bfloat16"
    pixels = np.asarray(load("fashion_mnist", "test", 64).images, np.float32)
    before, after = (
        load_runtime(each, read_manifest(each)).predict({"pixels": pixels})["probabilities"]
        for each in (parent, folder)
    )
    assert after.dtype == np.float32
    assert 1e-5 < np.abs(after - before).max() < 0.1
    assert np.abs(after.sum(axis=1) - 1).max() < 1e-4, "the softmax is computed in float32"


@pytest.mark.parametrize("format", FORMATS)
def test_any_batch_has_the_answers_of_its_rows_alone(trained: Path, format: str) -> None:
    runtime = load_runtime(trained / format, read_manifest(trained / format))
    pixels = np.asarray(load("fashion_mnist", "test", 65).images, np.float32)
    alone = np.concatenate([runtime.predict({"pixels": pixels[row : row + 1]})["probabilities"] for row in range(65)])
    for count in (3, 65):
        together = runtime.predict({"pixels": pixels[:count]})["probabilities"]
        np.testing.assert_allclose(together, alone[:count], atol=0.02)


@pytest.mark.skipif(not importlib.util.find_spec("torchao"), reason="torchao is missing")
@pytest.mark.parametrize("is_exported_twice", [False, True])
def test_kernels_of_int8_answer_as_the_programs_own_operators(tmp_path: Path, is_exported_twice: bool) -> None:
    """Brought programs are exported again, with what is put around them."""
    parent, pixels = block(tmp_path, is_exported_twice)
    make_variant(parent, PRECISIONS[INT8], Calibration({"x": pixels}, "pixels", tuple(map(str, range(64)))))
    folder = parent.with_name(INT8)
    operators = load_program(folder / "model.pt2").module()
    kernels = as_executed(load_program(folder / "model.pt2").module(), INT8)
    names = [str(node.target) for node in kernels.graph.nodes]
    assert sum(name.startswith("onednn.q") for name in names) == 5
    assert not any(name.startswith(("aten.conv2d", "aten.linear", "aten.relu", "aten.hardtanh")) for name in names)
    with torch.inference_mode():
        expected, got = (module(torch.from_numpy(pixels)).numpy() for module in (operators, kernels))
        exact = torch.export.load(parent / "model.pt2").module()(torch.from_numpy(pixels)).numpy()
    # Where a sum lies between two steps, another order of adding may round it to the other one.
    assert np.abs(got - expected).max() < 0.02 * np.ptp(expected)
    assert 0 < np.abs(got - exact).max() < 0.1 * np.ptp(exact)
    examined = examine(folder, read_manifest(folder))
    assert examined is not None
    ledger, faults = examined
    assert faults == [], "weights with their normalisation are the parent's, too"
    assert ledger.computing == {"int8": 5}


def test_autocast_that_changes_nothing_of_what_computes_is_a_fault(tmp_path: Path) -> None:
    """A program whose name says bfloat16 computes in it, as the runtime calls it: one without products does not."""
    parent = dense(tmp_path, Pointwise())
    folder = parent.with_name(BF16)
    shutil.copytree(parent, folder)
    write_manifest(folder, replace(read_manifest(folder), format=BF16, parent="torch"))
    examined = examine(folder, read_manifest(folder))
    assert examined is not None
    assert examined[1] == ["its name says bfloat16, and it multiplies in nothing"]


def test_the_processors_on_which_it_is_fast_come_back_from_the_ledger(trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained / BF16, tmp_path / BF16)
    ledger = read_ledger(tmp_path / BF16)
    assert ledger is not None
    assert "avx512_bf16" in ledger.fast_on
    file = tmp_path / BF16 / LEDGER
    older = {name: value for name, value in json.loads(file.read_bytes()).items() if name != "fast_on"}
    file.write_text(json.dumps(older))
    assert read_ledger(tmp_path / BF16) == replace(ledger, fast_on=()), "a ledger that is older has none"


# What is refused


def assert_refused(parent: Path, format: str, calibration: Calibration | None, message: str) -> None:
    with pytest.raises(ExportError, match=message):
        make_variant(parent, PRECISIONS[format], calibration)
    verify_files(parent, read_manifest(parent))
    assert not parent.with_name(format).exists()


@pytest.mark.skipif(not importlib.util.find_spec("torchao"), reason="torchao is missing")
def test_what_cannot_become_int8_is_said(tmp_path: Path) -> None:
    values = rows().inputs["x"].copy()
    parent = dense(tmp_path)
    assert_refused(parent, INT8, None, "It needs rows to calibrate on")
    assert_refused(parent, INT8, rows(np.zeros_like(values)), "All 64 calibration rows .* are equal")
    layer = torch.nn.Linear(WIDTH, 4)
    layer.weight.data[0] = torch.nan
    assert_refused(dense(tmp_path / "nan", layer), INT8, rows(), "answers NaN or infinity to calibration rows")
    message = r"net-torch is quantised already: it has quantized_decomposed\.dequantize_per_tensor, "
    assert_refused(dense(tmp_path / "quantised", Quantised()), INT8, rows(), message)
    message = r"Nothing of net-torch could be quantised: .* \(aten\.elu, aten\.selu, aten\.slice\)"
    assert_refused(dense(tmp_path / "pointwise", Pointwise()), INT8, rows(), message)


@pytest.mark.skipif(not importlib.util.find_spec("torchao"), reason="torchao is missing")
def test_a_constant_layer_becomes_int8(tmp_path: Path) -> None:
    layer = torch.nn.Linear(WIDTH, 4)
    torch.nn.init.zeros_(layer.weight)
    parent = dense(tmp_path, layer)
    make_variant(parent, PRECISIONS[INT8], rows())
    folder = parent.with_name(INT8)
    got = load_runtime(folder, read_manifest(folder)).predict(rows().inputs)["y"]
    np.testing.assert_allclose(got, np.broadcast_to(layer.bias.detach().numpy(), got.shape), atol=1e-6)


def test_a_network_without_products_does_not_become_bfloat16(tmp_path: Path) -> None:
    assert_refused(dense(tmp_path, Pointwise()), BF16, None, "Autocast changes nothing of net-torch")


def test_without_torchao_int8_is_left_as_it_is_and_bfloat16_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parent = dense(tmp_path)
    shutil.copytree(parent, parent.with_name(INT8))
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "torchao" else find(name))
    (made,) = make_variants(parent.parent, chosen("int8,bf16"), lambda manifest: rows())
    assert made.format == BF16
    assert (parent.with_name(INT8) / MANIFEST).exists(), "another machine may have made it"
    with pytest.raises(ExportError, match=r"torchao is not installed\. It comes with ExecuTorch: make runtimes"):
        make_variant(parent, PRECISIONS[INT8], rows())
