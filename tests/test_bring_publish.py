"""What is read is what is hashed: "nothing changed" is said only where nothing did."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import PIL.Image
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from bring.description import describe
from bring.publish import given_by, hash_of_code, hashes_of_read, is_published
from contract.code import ROOT
from contract.manifest import BROUGHT, write_json

Change = Callable[[Path], Any]


def write_weights_apart(folder: Path, factor: float = 1.0) -> Path:
    """An ONNX model whose weights lie in `net.bin` beside it; the factor changes the weights alone."""
    weights = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32) * np.float32(factor)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "weights"], ["y"])],
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 3])],
        [numpy_helper.from_array(weights, "weights")],
    )
    (folder / "net.bin").unlink(missing_ok=True)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.save(model, folder / "net.onnx", save_as_external_data=True, location="net.bin", size_threshold=0)
    return folder / "net.onnx"


NETS = """
import json
from pathlib import Path
import torch
from layers.hidden import Hidden

def build():
    width = json.loads(Path(__file__).with_name("sizes.json").read_text())["width"]
    return torch.nn.Sequential(Hidden(width), torch.nn.Linear(width, 3))
"""
HIDDEN = """
import torch

class Hidden(torch.nn.Linear):
    def __init__(self, width):
        super().__init__(4, width)

    def forward(self, x):
        return torch.{activation}(super().forward(x))
"""


def write_architecture(folder: Path) -> Path:
    """Weights, and the module of their network: it imports a module of a package beside it, and reads a file."""
    (folder / "nets.py").write_text(NETS)
    (folder / "layers").mkdir()
    (folder / "layers" / "hidden.py").write_text(HIDDEN.format(activation="relu"))
    (folder / "sizes.json").write_text('{"width": 8}')
    (folder / "unused.py").write_text("")
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Linear(8, 3))
    torch.save(net.state_dict(), folder / "weights.pt")
    (folder / "model.toml").write_text(
        'architecture = "nets:build"\n[[input]]\nname = "x"\ndtype = "float32"\nshape = [-1, 4]\n'
    )
    return folder / "weights.pt"


def read_in_a_process(path: Path, target: Path, folder: Path) -> list[str]:
    """What the process that reads a user's file says that it read."""
    about = ["--name", "net", "--description", describe(path, {}).to_json()]
    done = subprocess.run(
        [sys.executable, "-m", "bring.source", path, target, *about],
        cwd=folder,
        env={"PATH": "", "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    return list(json.loads(done.stdout.splitlines()[-1])["read"])


@pytest.mark.parametrize(
    ("write", "names"),
    [
        (write_weights_apart, {"net.onnx", "net.bin"}),
        (write_architecture, {"weights.pt", "nets.py", "layers/hidden.py", "sizes.json"}),
    ],
)
def test_the_process_that_reads_a_file_says_what_it_read(
    tmp_path: Path, write: Callable[[Path], Path], names: set[str]
) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "cell").mkdir()
    read = read_in_a_process(write(tmp_path / "models"), tmp_path / "made" / "net", tmp_path / "cell")
    assert set(read) == names


def record(path: Path, model: Path, options: dict[str, str], read: list[str]) -> None:
    """As when the model was brought."""
    model.mkdir(exist_ok=True)
    known = given_by(path, describe(path, options)) | {"code": hash_of_code()}
    write_json(model / BROUGHT, known | {"read": hashes_of_read(path, read)})


def is_fresh(path: Path, model: Path, options: dict[str, str]) -> bool:
    return is_published(model, path, given_by(path, describe(path, options)) | {"code": hash_of_code()})


def write_pictures(folder: Path) -> None:
    for number in range(6):
        file = folder / f"kind {number % 2}" / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        PIL.Image.fromarray(np.full((4, 4), 40 * number, np.uint8)).save(file)


def swap(first: Path, second: Path) -> None:
    first.rename(first.with_suffix(".old"))
    second.rename(first)
    first.with_suffix(".old").rename(second)


CHANGES: dict[str, Change] = {
    "the model": lambda folder: (folder / "net.onnx").write_bytes((folder / "net.onnx").read_bytes() + b" "),
    "its external data": lambda folder: write_weights_apart(folder, 2.0),
    "the module of its network": lambda folder: (folder / "nets.py").write_text("# changed"),
    "a module that is imported there": lambda folder: (folder / "hidden.py").write_text("# changed"),
    "a module that is gone": lambda folder: (folder / "hidden.py").unlink(),
    "a file that was not there": lambda folder: (folder / "optional.json").write_text("{}"),
    "the labels that model.toml names": lambda folder: (folder / "labels.txt").write_text("cat\ndog\nbat\n"),
    "model.toml": lambda folder: (folder / "model.toml").write_text('labels = "labels.txt"\n'),
    "a picture's class": lambda folder: swap(
        folder / "data" / "kind 0" / "0.png", folder / "data" / "kind 1" / "1.png"
    ),
    "a picture, moved to another class": lambda folder: (folder / "data" / "kind 0" / "0.png").rename(
        folder / "data" / "kind 1" / "0.png"
    ),
    "a picture's content": lambda folder: shutil.copy(
        folder / "data" / "kind 0" / "0.png", folder / "data" / "kind 0" / "2.png"
    ),
    "one more picture": lambda folder: shutil.copy(
        folder / "data" / "kind 0" / "0.png", folder / "data" / "kind 0" / "9.png"
    ),
    "one more class": lambda folder: (folder / "data" / "kind 2").mkdir(),
}


@pytest.fixture(scope="module")
def brought(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose `model.toml` names labels and pictures, as it was brought."""
    folder = tmp_path_factory.mktemp("brought") / "models"
    folder.mkdir()
    write_weights_apart(folder)
    for name in ("nets.py", "hidden.py", "unused.py"):
        (folder / name).write_text("")
    write_pictures(folder / "data")
    (folder / "labels.txt").write_text("cat\ndog\ncow\n")
    (folder / "model.toml").write_text('labels = "labels.txt"\ndata = "data"\n')
    return folder


READ = ["net.onnx", "net.bin", "nets.py", "hidden.py", "optional.json"]


@pytest.mark.parametrize("change", CHANGES)
def test_whatever_was_read_makes_the_artifacts_anew_when_it_changes(tmp_path: Path, brought: Path, change: str) -> None:
    folder = tmp_path / "models"
    shutil.copytree(brought, folder)
    path, model = folder / "net.onnx", tmp_path / "artifacts"
    record(path, model, {}, READ)
    assert is_fresh(path, model, {})
    CHANGES[change](folder)
    assert not is_fresh(path, model, {})


def test_what_was_not_read_does_not(tmp_path: Path, brought: Path) -> None:
    folder = tmp_path / "models"
    shutil.copytree(brought, folder)
    path, model = folder / "net.onnx", tmp_path / "artifacts"
    record(path, model, {}, READ)
    (folder / "unused.py").write_text("# changed")
    (folder / "data" / "notes.txt").write_text("not in a class")
    toml = folder / "model.toml"
    toml.write_text(f"# a comment\n{toml.read_text()}")
    for file in folder.rglob("*"):
        file.touch()
    assert is_fresh(path, model, {})


def test_options_are_part_of_it(tmp_path: Path, brought: Path) -> None:
    record(brought / "net.onnx", tmp_path, {}, READ)
    assert not is_fresh(brought / "net.onnx", tmp_path, {"answers": "values"})
    assert is_fresh(brought / "net.onnx", tmp_path, {})


def test_a_file_beside_a_savedmodel_folder_is_not_read_and_every_file_in_it_is(tmp_path: Path) -> None:
    folder = tmp_path / "models" / "net"
    (folder / "variables").mkdir(parents=True)
    (folder / "saved_model.pb").write_bytes(b"graph")
    (folder / "variables" / "variables.data-00000-of-00001").write_bytes(b"weights")
    record(folder, tmp_path, {}, ["net/saved_model.pb"])
    (folder.parent / "other.txt").write_text("beside it")
    assert is_fresh(folder, tmp_path, {})
    (folder / "variables" / "variables.data-00000-of-00001").write_bytes(b"changed")
    assert not is_fresh(folder, tmp_path, {})


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "inner/../../secret"])
def test_a_process_cannot_have_a_file_outside_of_the_models_folder_hashed(tmp_path: Path, name: str) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "secret").write_text("secret")
    assert hashes_of_read(tmp_path / "models" / "net.onnx", [name]) == {}


@pytest.mark.parametrize("content", ["", "[]", "null", '{"schema": 3}', '{"read": null}', '{"read": [1]}'])
def test_a_record_that_cannot_be_read_is_none(tmp_path: Path, brought: Path, content: str) -> None:
    (tmp_path / BROUGHT).write_text(content)
    assert not is_fresh(brought / "net.onnx", tmp_path, {})


def test_weights_that_changed_beside_the_file_are_brought_anew(tmp_path: Path) -> None:
    def bring(path: Path) -> str:
        command = [sys.executable, "-m", "bring", str(path), "--artifacts", str(tmp_path / "artifacts")]
        done = subprocess.run([*command, "--precision", "none"], cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    (tmp_path / "models").mkdir()
    path = write_weights_apart(tmp_path / "models")
    unchanged = "net: nothing changed since it was brought"
    assert unchanged not in bring(path)
    assert unchanged in bring(path)
    write_weights_apart(tmp_path / "models", 2.0)
    assert unchanged not in bring(path)
