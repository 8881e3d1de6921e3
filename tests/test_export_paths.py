"""No artifact says where its maker's code lies, and none depends on it."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from bring.description import Description, Input
from contract.code import ROOT
from contract.coreml_program import INDEX, MODEL, PACKAGE
from contract.manifest import MANIFEST, read_manifest
from export import exported_from

NETS = """
import torch

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.last = torch.nn.Linear(5, 8), torch.nn.Linear(8, 3)

    def forward(self, x):
        return self.last(torch.relu(self.first(x)))
"""


def run(folder: Path, module: str, *arguments: object) -> None:
    command = [sys.executable, "-m", module, *map(str, arguments)]
    environment = {"PATH": "", "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1", "HOME": str(folder)}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def twice(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The same PyTorch module in two folders, and in each every artifact of it."""
    torch.manual_seed(0)
    layers = {"first": torch.nn.Linear(5, 8), "last": torch.nn.Linear(8, 3)}
    weights = {f"{name}.{key}": value for name, layer in layers.items() for key, value in layer.state_dict().items()}
    description = Description(architecture="nets:Net", inputs=(Input("x", "float32", (None, 5)),)).to_json()
    folders = [tmp_path_factory.mktemp(name) for name in ("a", "another_maker")]
    for folder in folders:
        (folder / "nets.py").write_text(NETS)
        torch.save(weights, folder / "weights.pt")
        model = folder / "artifacts" / "net"
        run(folder, "bring.source", folder / "weights.pt", model, "--name", "net", "--description", description)
        run(folder, "export", model / "torch", "all")
    return folders


def files_of(folder: Path) -> dict[str, bytes]:
    """The files of every artifact below the folder, and their manifests."""
    manifests = [path.parent for path in sorted(folder.rglob(MANIFEST))]
    files = [artifact / name for artifact in manifests for name in (*read_manifest(artifact).files, MANIFEST)]
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in files}


def paths_in(files: dict[str, bytes], folders: list[Path]) -> set[tuple[str, Path]]:
    return {(name, path) for name, content in files.items() for path in folders if str(path).encode() in content}


def test_no_artifact_of_a_pytorch_module_holds_a_path(twice: list[Path]) -> None:
    for folder in twice:
        files = files_of(folder)
        assert {name.split("/")[2] for name in files} == {"torch", *exported_from("torch")}
        assert paths_in(files, [folder, ROOT, Path(sys.prefix), Path(torch.__file__).parent, Path.home()]) == set()


RANDOM = {
    "fingerprint.pb",
    MANIFEST,
    *(f"model.aimodel/{name}" for name in ("main.mlirb", "main.hash", "metadata.json")),
    *(f"{PACKAGE}/{name}" for name in (INDEX, MODEL)),
}
"""TensorFlow gives each SavedModel a random number, and a manifest says how long its conversion took. Core AI names the
constants of a program at random, and writes the date. Core ML's package gives its parts random numbers, and has the
date, too."""


@pytest.mark.parametrize("format", ["torch", *exported_from("torch")])
def test_artifacts_made_in_two_folders_are_the_same_bytes(twice: list[Path], format: str) -> None:
    first, second = (files_of(folder / "artifacts" / "net" / format) for folder in twice)
    assert first.keys() == second.keys()
    assert {name for name, content in first.items() if content != second[name]} <= RANDOM


def test_no_artifact_of_our_own_models_holds_a_path(artifacts: Path) -> None:
    assert paths_in(files_of(artifacts), [artifacts, ROOT, Path(sys.prefix), Path(torch.__file__).parent]) == set()
