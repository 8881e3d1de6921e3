"""Weights whose network is built by a module from elsewhere: ARCH, and ARCH_PATH, where Python finds it."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bring.__main__ import main
from bring.description import Description, Input, describe
from bring.readers.torch import read_weights
from contract.errors import BroughtError
from contract.manifest import read_manifest

CODE = """
import torch
import {needed}

class Net(torch.nn.Linear):
    def __init__(self, size=3):
        super().__init__(size, 2)
"""


@pytest.fixture(autouse=True)
def clean_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    for name in ("nets_of_elsewhere", "nets_of_elsewhere.small"):
        monkeypatch.delitem(sys.modules, name, raising=False)


def write(folder: Path, needed: str = "math", content: Any = None) -> tuple[Path, Path, torch.nn.Module]:
    """Weights, and the folder of an installed package that builds their network."""
    package = folder / "site" / "nets_of_elsewhere"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "small.py").write_text(CODE.format(needed=needed))
    net = torch.nn.Linear(3, 2)
    (folder / "model").mkdir()
    file = folder / "model" / "net.pt"
    torch.save((content or (lambda state: state))(net.state_dict()), file)
    return file, folder / "site", net


def described(site: Path) -> Description:
    inputs = (Input("x", shape=(None, 3)),)
    return Description(architecture="nets_of_elsewhere.small:Net", architecture_path=str(site), inputs=inputs)


@pytest.mark.parametrize(
    "content",
    [
        lambda state: state,
        lambda state: {"step": 7, "model_state": state, "optimizer_state": {"lr": 0.1}},
        lambda state: {f"module.{name}": value for name, value in state.items()},
    ],
    ids=["weights", "checkpoint", "DataParallel"],
)
def test_a_network_of_an_installed_package_is_built(tmp_path: Path, content: Any) -> None:
    file, site, net = write(tmp_path, content=content)
    rows = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
    (answers,) = read_weights(file, described(site)).predict({"x": rows})
    np.testing.assert_allclose(answers, net(torch.from_numpy(rows)).detach().numpy(), atol=1e-6)


def test_what_is_missing_is_named_with_the_line_to_type(tmp_path: Path) -> None:
    file, site, _ = write(tmp_path, needed="a_package_of_nobody")
    with pytest.raises(BroughtError, match=r"imports nets_of_elsewhere.*set ARCH_PATH=folder"):
        read_weights(file, Description(architecture="nets_of_elsewhere.small:Net"))
    with pytest.raises(BroughtError, match=r"imports a_package_of_nobody, which is not there.*pip install a_pack"):
        read_weights(file, described(site))
    with pytest.raises(BroughtError, match=r"ARCH_PATH=.*nowhere is not a folder"):
        describe(file, {"arch-path": str(tmp_path / "nowhere")})


def test_the_cell_shows_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, site, _ = write(tmp_path)
    toml = 'architecture = "nets_of_elsewhere.small:Net"\n[[input]]\nname = "x"\nshape = [-1, 3]\n'
    (file.parent / "model.toml").write_text(toml)
    options = ("--artifacts", tmp_path / "a", "--arch-path", site)
    monkeypatch.setattr(sys, "argv", ["bring", str(file), *map(str, options)])
    main()
    assert read_manifest(tmp_path / "a" / "net" / "torch").inputs[0].shape == (None, 3)
