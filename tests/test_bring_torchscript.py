"""TorchScript: what its code calls is judged from the bytes; the program that it computes is served and converted."""

import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from bring.description import Description, Input, parse_preprocess
from bring.source import write_source
from bring.verdict import examine, insist
from contract.errors import BroughtError, UntrustedModel
from contract.manifest import read_manifest
from serve.runtimes import load_runtime

pytestmark = pytest.mark.filterwarnings("ignore:.*TorchScript.*|.*torch.jit.*:DeprecationWarning")


class Net(nn.Module):
    """Pictures -> two probabilities; brighter ones go another way, which only a script keeps."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.convolution, self.last = nn.Conv2d(3, 4, 3), nn.Linear(4, 2)

    def forward(self, picture: torch.Tensor) -> torch.Tensor:
        features = torch.relu(self.convolution(picture)).mean((2, 3))
        if bool(features.sum() > 10):
            features = features * 2
        probabilities: torch.Tensor = self.last(features).softmax(1)
        return probabilities


def save(path: Path, how: Callable[..., Any], net: nn.Module, *arguments: Any) -> Path:
    torch.jit.save(how(net.eval(), *arguments), path)
    return path


PICTURES = np.random.default_rng(4).integers(0, 256, (3, 9, 8, 3)).astype(np.float32)
UNIT = Description(preprocess=parse_preprocess("unit size=9x8"))


@pytest.mark.parametrize("factor", [1.0, 200.0], ids=["dark", "bright"])
def test_a_script_keeps_its_decisions(tmp_path: Path, factor: float) -> None:
    path = save(tmp_path / "net.jit", torch.jit.script, Net())
    manifest = write_source(path, tmp_path / "net", "net", UNIT).manifest
    assert (manifest.format, manifest.batch) == ("torch", None)
    runtime = load_runtime(tmp_path / "net" / "torch", read_manifest(tmp_path / "net" / "torch"))
    got = runtime.predict({"pixels": PICTURES * factor})["probabilities"]
    with torch.inference_mode():
        expected = Net()(torch.from_numpy(PICTURES).permute(0, 3, 1, 2) * factor / 255)
    np.testing.assert_allclose(got, expected.numpy(), atol=1e-5)


def test_a_trace_is_read_with_its_own_sizes(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3)).eval()
    path = save(tmp_path / "net.pt", torch.jit.trace, net, torch.zeros(1, 5))
    description = Description(inputs=(Input("input", shape=(None, 5)),))
    manifest = write_source(path, tmp_path / "net", "net", description).manifest
    assert (manifest.inputs[0].name, manifest.inputs[0].shape) == ("input", (None, 5))
    rows = np.random.default_rng(0).normal(size=(7, 5)).astype(np.float32)
    got = load_runtime(tmp_path / "net" / "torch", manifest).predict({"input": rows})["output_0"]
    np.testing.assert_allclose(got, net(torch.from_numpy(rows)).detach().numpy(), atol=1e-5)


def test_what_the_file_does_not_say_is_asked_by_its_names(tmp_path: Path) -> None:
    path = save(tmp_path / "net.pt", torch.jit.script, Net())
    with pytest.raises(BroughtError, match=r'(?s)does not say what sizes.*PREPROCESS="size=224.*name = "picture"'):
        write_source(path, tmp_path / "net", "net", Description())
    with pytest.raises(BroughtError, match=r"net\.pt takes picture, and model\.toml describes photo"):
        write_source(path, tmp_path / "net", "net", Description(inputs=(Input("photo", shape=(None, 3, 9, 8)),)))


class Rated(nn.Module):
    def forward(self, x: torch.Tensor, rate: int) -> torch.Tensor:
        return x * 2 if rate == 16000 else x * 3


@pytest.mark.parametrize(("rate", "factor"), [(16000, 2), (8000, 3)])
def test_a_number_becomes_a_constant(tmp_path: Path, rate: int, factor: int) -> None:
    path = save(tmp_path / "net.pt", torch.jit.script, Rated())
    inputs = (Input("x", shape=(None, 3)), Input("rate", values=(rate,)))
    manifest = write_source(path, tmp_path / "net", "net", Description(inputs=inputs)).manifest
    assert [spec.name for spec in manifest.inputs] == ["x"]
    rows = np.ones((4, 3), np.float32)
    (answers,) = load_runtime(tmp_path / "net" / "torch", manifest).predict({"x": rows}).values()
    np.testing.assert_array_equal(answers, rows * factor)


@pytest.mark.parametrize("values", [(), (8000, 16000), (0.5,)])
def test_a_number_has_one_value(tmp_path: Path, values: Any) -> None:
    path = save(tmp_path / "net.pt", torch.jit.script, Rated())
    inputs = (Input("x", shape=(None, 3)), Input("rate", values=values))
    with pytest.raises(BroughtError, match=r"(?s)takes rate as a number \(int\).*model\.toml.*values = \[16000\]"):
        write_source(path, tmp_path / "net", "net", Description(inputs=inputs))


class Picky(nn.Module):
    def forward(self, x: torch.Tensor, rate: int) -> torch.Tensor:
        assert x.shape[1] == rate, "another rate"
        return x


def test_what_a_script_does_not_answer_is_named_with_its_numbers(tmp_path: Path) -> None:
    path = save(tmp_path / "net.pt", torch.jit.script, Picky())
    inputs = (Input("x", shape=(None, 3)), Input("rate", values=(8,)))
    with pytest.raises(BroughtError, match=r"net\.pt does not answer \[2, 3\] with rate = 8: .*another rate"):
        write_source(path, tmp_path / "net", "net", Description(inputs=inputs))


class Counts(nn.Module):
    """It remembers what it saw, as streaming models do."""

    def __init__(self) -> None:
        super().__init__()
        self.total = torch.zeros(1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.total = self.total + x.sum()
        return x + self.total


def test_a_state_inside_is_named(tmp_path: Path) -> None:
    path = save(tmp_path / "net.pt", torch.jit.script, Counts())
    with pytest.raises(BroughtError, match=r"keeps a state between its calls, in 'total'.*among its inputs"):
        write_source(path, tmp_path / "net", "net", Description(inputs=(Input("x", shape=(None, 3)),)))


class Writes(nn.Module):
    def __init__(self, path: str) -> None:
        super().__init__()
        self.path = path

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        torch.save(x, self.path)
        return x * 2


class Maps(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + torch.from_file("/etc/hostname", False, 1)


@pytest.mark.parametrize(("net", "words"), [(Writes, "aten.save.*they are for files"), (Maps, "aten.from_file")])
def test_code_that_uses_files_is_refused_and_not_run(tmp_path: Path, net: Any, words: str) -> None:
    private = tmp_path / "written"
    path = save(tmp_path / "net.pt", torch.jit.script, net(str(private)) if net is Writes else net())
    with pytest.raises(UntrustedModel, match=words):
        write_source(path, tmp_path / "net", "net", Description(inputs=(Input("x", shape=(None, 3)),)))
    assert not private.exists()
    assert not (tmp_path / "net").exists()


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("torch.mul(x, 2)", "ops.evil.mul(x, 2)", "evil.mul.*not TorchScript's own"),
        ("torch.mul(x, 2)", "eval(x)", "'eval'"),
        ("torch.mul(x, 2)", "__torch__.torch.classes.evil.Shell(x)", "torch.classes.evil"),
        ("def forward", "import os\n  def forward", "'import'"),
    ],
)
def test_what_no_list_has_is_refused(tmp_path: Path, old: str, new: str, words: str) -> None:
    class Doubled(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * 2

    path = save(tmp_path / "net.pt", torch.jit.script, Doubled())
    insist(examine(path), trusted=False)
    changed = tmp_path / "changed.pt"
    with zipfile.ZipFile(path) as file, zipfile.ZipFile(changed, "w") as target:
        for member in file.infolist():
            content = file.read(member)
            if member.filename.endswith(".py"):
                assert old.encode() in content
                content = content.replace(old.encode(), new.encode())
            target.writestr(member, content)
    with pytest.raises(BroughtError, match=words):
        insist(examine(changed), trusted=False)
