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


class Totals(nn.Module):
    """It remembers what it saw, as streaming models do; at first what it is given here."""

    def __init__(self, first: float) -> None:
        super().__init__()
        self.total = torch.full((3,), first)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.total = self.total / 2 + x.sum(0)
        return x + self.total


class Spreads(nn.Module):
    """Its state is of one row at first, and of each row then: what it is at first could be told for one row alone."""

    def __init__(self) -> None:
        super().__init__()
        self.last = torch.ones(1, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.last = self.last / 2 + x
        return self.last * 2


class Cell(nn.Module):
    """A row's own state of the batch's size, made at its first call, and anew at another batch or rate, as Silero's."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.cell, self.last = nn.GRUCell(3, 4), nn.Linear(4, 2)
        self._state = torch.empty(0)
        self._batch, self._rate = 0, 0

    def forward(self, x: torch.Tensor, rate: int) -> torch.Tensor:
        if self._batch != x.shape[0] or self._rate != rate:
            self._state = torch.zeros(x.shape[0], 4)
        self._batch, self._rate = x.shape[0], rate
        self._state = self.cell(x * (2 if rate == 8000 else 1), self._state)
        answer: torch.Tensor = self.last(self._state)
        return answer


class Remembers(nn.Module):
    memory: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("memory", torch.zeros(1, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.memory.mul_(0.5).add_(x.mean(0, keepdim=True))
        return x + self.memory


class Inside(nn.Module):
    """Its state belongs to a part of it, is a buffer, and is changed in place."""

    def __init__(self) -> None:
        super().__init__()
        self.part = Remembers()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        answer: torch.Tensor = self.part(x)
        return answer


X = Input("x", shape=(None, 3))
RATE = Input("rate", values=(8000,))


@pytest.mark.parametrize(
    ("net", "inputs", "states", "first"),
    [
        (Totals(0), (X,), {"total": "total_out"}, 0),
        (Totals(0.25), (X,), {"total": "total_out"}, 0.25),
        (Spreads(), (X,), {"last": "last_out"}, 1),
        (Cell(), (X, RATE), {"state": "state_out"}, 0),
        (Inside(), (X,), {"part_memory": "part_memory_out"}, 0),
    ],
    ids=["own", "begins with others", "one row", "cell", "buffer of a part"],
)
def test_a_state_is_put_among_the_inputs_and_outputs(
    tmp_path: Path, net: Any, inputs: Any, states: Any, first: float
) -> None:
    path = save(tmp_path / "net.pt", torch.jit.script, net)
    manifest = write_source(path, tmp_path / "net", "net", Description(inputs=inputs)).manifest
    assert manifest.made_with["states"] == states
    assert manifest.made_with.get("first_states", {}) == ({} if first == 0 else dict.fromkeys(states, first))
    assert any("keeps a state between its calls" in note for note in manifest.made_with["notes"])
    ((entry, exit),) = states.items()
    assert [spec.name for spec in manifest.inputs] == ["x", entry]
    program = torch.export.load(tmp_path / "net" / "torch" / "model.pt2")
    assert not any(value.requires_grad for value in program.state_dict.values()), "converters could not copy it"
    given = torch.full(manifest.inputs[1].sizes_at(1), float(first))
    program.module()(torch.ones(1, 3), given)
    assert bool((given == first).all()), "a caller keeps what it gave"
    runtime = load_runtime(tmp_path / "net" / "torch", manifest)
    assert manifest.batch == (1 if entry == "last" else None)
    for batch in (1,) if manifest.batch else (1, 4):
        file: Any = torch.jit.load(path)  # type: ignore[no-untyped-call]
        state = np.full(manifest.inputs[1].sizes_at(batch), first, np.float32)
        for number in range(5):
            rows = np.random.default_rng((batch, number)).normal(size=(batch, 3)).astype(np.float32)
            answers = runtime.predict({"x": rows, entry: state})
            expected = file(torch.from_numpy(rows), *([8000] if RATE in inputs else []))
            np.testing.assert_allclose(answers["output_0"], expected.detach().numpy(), atol=1e-5)
            state = answers[exit]


class Reference(nn.Module):
    """It keeps its first call's rows for ever: they are its caller's, and no constant of the file."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.total = torch.zeros(0), torch.zeros(3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.first.shape[0] == 0:
            self.first = x.mean(0)
        self.total = self.total / 2 + x.sum(0)
        return x - self.first + self.total


def test_rows_of_the_first_call_do_not_become_constants(tmp_path: Path) -> None:
    path = save(tmp_path / "net.pt", torch.jit.script, Reference())
    with pytest.raises(BroughtError, match=r"keeps a state between its calls.*: with it among .* answered otherwise"):
        write_source(path, tmp_path / "net", "net", Description(inputs=(X,)))


class Stream(nn.Module):
    """Its state is of one row, so that it answers no batch."""

    def __init__(self) -> None:
        super().__init__()
        self.cell, self.state = nn.GRUCell(3, 4), torch.zeros(1, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.state = self.cell(x, self.state)
        return self.state * 2


def test_a_stream_of_one_row_is_taken_at_that_batch(tmp_path: Path) -> None:
    path = save(tmp_path / "net.pt", torch.jit.script, Stream())
    manifest = write_source(path, tmp_path / "net", "net", Description(inputs=(X,))).manifest
    assert manifest.batch == 1 and manifest.made_with["states"] == {"state": "state_out"}
    runtime = load_runtime(tmp_path / "net" / "torch", manifest)
    file: Any = torch.jit.load(path)  # type: ignore[no-untyped-call]
    state = np.zeros((1, 4))
    for number in range(5):
        row = np.random.default_rng(number).normal(size=(1, 3)).astype(np.float32)
        answers = runtime.predict({"x": row, "state": state.astype(np.float32)})
        np.testing.assert_allclose(answers["output_0"], file(torch.from_numpy(row)).detach().numpy(), atol=1e-5)
        state = answers["state_out"]


class Grows(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.seen = torch.zeros(0, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen = torch.cat([self.seen, x])
        return x + self.seen.sum(0)


class Numbers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return x * self.calls


class Lists(nn.Module):
    rows: list[torch.Tensor]

    def __init__(self) -> None:
        super().__init__()
        self.rows = [torch.zeros(3)]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.rows = [self.rows[0] + x.sum(0)]
        return x + self.rows[0]


class Varied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.total = torch.arange(100.0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.total = self.total / 2 + x.sum()
        return x + self.total.sum()


class Decides(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.total = torch.zeros(3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.total = self.total + x.sum(0)
        return x + self.total if bool(x.sum() > 1e6) else x - self.total


@pytest.mark.parametrize(
    ("net", "reason"),
    [
        (Decides(), "what it computes depends on the values of its tensors"),
        (Grows(), r"seen has another shape after each call: \[1, 3\], then \[2, 3\]"),
        (Numbers(), "calls is a number that changes with each call: 1, then 2"),
        (Lists(), "rows is no tensor, but a list"),
        (Varied(), "total begins with 100 different values, which are too many to be told"),
    ],
    ids=["decides", "grows", "number", "list", "values"],
)
def test_a_state_that_no_tensor_can_hold_is_named(tmp_path: Path, net: Any, reason: str) -> None:
    path = save(tmp_path / "net.pt", torch.jit.script, net)
    with pytest.raises(BroughtError, match=f"keeps a state between its calls, which cannot be put.*: {reason}"):
        write_source(path, tmp_path / "net", "net", Description(inputs=(X,)))


class Window(nn.Module):
    """What it remembers is made once, and is no state."""

    def __init__(self) -> None:
        super().__init__()
        self.window = torch.zeros(0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.window.shape[0] == 0:
            self.window = torch.ones(3) * 0.5
        return x * self.window


def test_what_is_made_once_is_no_state(tmp_path: Path) -> None:
    path = save(tmp_path / "net.pt", torch.jit.script, Window())
    manifest = write_source(path, tmp_path / "net", "net", Description(inputs=(X,))).manifest
    assert [spec.name for spec in manifest.inputs] == ["x"]
    assert "states" not in manifest.made_with


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
