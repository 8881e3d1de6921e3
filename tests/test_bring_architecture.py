"""Weights whose network is built by a module from elsewhere: ARCH, and ARCH_PATH, where Python finds it."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bring.__main__ import main
from bring.description import Description, Input, describe
from bring.readers import absent
from bring.readers.torch import read_weights
from contract.errors import BroughtError
from contract.manifest import read_manifest

CODE = """
import torch
import {needed}

class Net(torch.nn.Linear):
    def __init__(self, size=3):
        super().__init__(size, 2)

    @classmethod
    def of(cls, sizes, **more):
        return cls(**sizes, **more)

class Pair(Net):
    def forward(self, inputs):
        left, right = inputs
        return super().forward(left) + right

class Two(Net):
    def forward(self, left, right):
        return super().forward(left) + right

class Reader(Net):
    def forward(self, x):
        return {needed}.read(super().forward(x))

def build():
    return Net({needed}.floor(3.5))

number = 3
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


def described(site: Path, called: str = "Net", *others: Input) -> Description:
    inputs = (Input("x", shape=(None, 3)), *others)
    return Description(architecture=f"nets_of_elsewhere.small:{called}", architecture_path=str(site), inputs=inputs)


@pytest.mark.parametrize(
    "content",
    [
        lambda state: state,
        lambda state: {"step": 7, "model_state": state, "optimizer_state": {"lr": 0.1}},
        lambda state: {f"module.{name}": value for name, value in state.items()},
        lambda state: {"weights": {f"model.net.{name}": value for name, value in state.items()}},
        lambda state: {"loss.weight": torch.ones(2), **{f"net.{name}": value for name, value in state.items()}},
    ],
    ids=["weights", "checkpoint", "DataParallel", "prefix", "part of what trained it"],
)
def test_a_network_of_an_installed_package_is_built(tmp_path: Path, content: Any) -> None:
    file, site, net = write(tmp_path, content=content)
    rows = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
    (answers,) = read_weights(file, described(site)).predict({"x": rows})
    np.testing.assert_allclose(answers, net(torch.from_numpy(rows)).detach().numpy(), atol=1e-6)


@pytest.mark.parametrize("called", ["Net(3)", "Net(size=3)", "Net.of({'size': 3})", "build"])
def test_a_callable_has_constant_arguments(tmp_path: Path, called: str) -> None:
    file, site, _ = write(tmp_path)
    assert read_weights(file, described(site, called)).outputs[0].shape == (None, 2)


@pytest.mark.parametrize(
    ("called", "words"),
    [
        ("Net(7)", r"net\.pt are not those of nets_of_elsewhere\.small:Net\(7\).*\[2, 3\].*\[2, 7\]"),
        ("Nett", r"The module nets_of_elsewhere\.small has no Nett; did you mean 'Net'\?"),
        ("Net.off", r"Net has no off; did you mean 'of'\?"),
        ("number", r"number is a int, expected a function or a class"),
        ("Net.of", r"could not be called: .*missing 1 required.*Arguments can be given, as in ARCH=.*Net\.of\('tiny'"),
        ("Net(nobody=1)", r"could not be called: .*unexpected keyword argument 'nobody'"),
        ("dict(a=1)", r"has no dict"),
    ],
)
def test_what_is_wrong_with_a_callable_is_named(tmp_path: Path, called: str, words: str) -> None:
    file, site, _ = write(tmp_path)
    with pytest.raises(BroughtError, match=words):
        read_weights(file, described(site, called))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("nets", "not module:callable"),
        ("nets/small:Net", "not module:callable"),
        ("nets:Net(", "no Python that calls something"),
        ("nets:Net(size())", "its arguments have to be constants"),
        ("nets:Net(*(1, 2))", "its arguments have to be constants"),
        ("nets:Net(**{'a': 1})", "its arguments have to be constants"),
        ("nets:Net(1)(2)", "does not name a callable"),
        ("nets:[Net][0]", "does not name a callable"),
    ],
)
def test_only_a_callable_with_constants_is_taken(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(BroughtError, match=words):
        describe(tmp_path / "net.pt", {"arch": text})


def test_a_network_that_takes_a_tuple_gets_one(tmp_path: Path) -> None:
    file, site, net = write(tmp_path)
    rows = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
    more = np.arange(8, dtype=np.float32).reshape(4, 2)
    source = read_weights(file, described(site, "Pair", Input("more", shape=(None, 2))))
    (answers,) = source.predict({"x": rows, "more": more})
    np.testing.assert_allclose(answers, net(torch.from_numpy(rows)).detach().numpy() + more, atol=1e-6)
    with pytest.raises(BroughtError, match=r"It takes one argument, so it was given the inputs x, more as a tuple"):
        read_weights(file, described(site, "Net", Input("more", shape=(None, 2))))
    with pytest.raises(BroughtError, match=r"takes left, right, and the inputs that are described are x\."):
        read_weights(file, described(site, "Two"))


def test_weights_of_no_part_are_noted_and_a_missing_layer_is_not(tmp_path: Path) -> None:
    file, site, _ = write(tmp_path, content=lambda state: {**state, "similarity": torch.ones(1)})
    assert "'similarity' belong to no part of the network" in read_weights(file, described(site)).note
    for change in ({"7.weight": torch.ones(1)}, {"weight.more": torch.ones(1)}):
        torch.save({**torch.nn.Linear(3, 2).state_dict(), **change}, file)
        with pytest.raises(BroughtError, match="are not those of"):
            read_weights(file, described(site))


def test_a_package_that_is_not_there_counts_where_the_network_needs_it(tmp_path: Path) -> None:
    file, site, _ = write(tmp_path, needed="a_package_of_nobody")
    with pytest.raises(BroughtError, match=r"imports nets_of_elsewhere.*set ARCH_PATH=folder"):
        read_weights(file, Description(architecture="nets_of_elsewhere.small:Net"))
    assert "built without a_package_of_nobody, which" in read_weights(file, described(site)).note
    with pytest.raises(BroughtError, match=r"imports a_package_of_nobody, which is not there.*pip install a_pack"):
        read_weights(file, described(site, "build"))
    with pytest.raises(BroughtError, match=r"cannot export .*It needs a_package_of_nobody, which is not there"):
        read_weights(file, described(site, "Reader"))
    with pytest.raises(BroughtError, match=r"ARCH_PATH=.*nowhere is not a folder"):
        describe(file, {"arch-path": str(tmp_path / "nowhere")})


NEEDY = """
import sounds_of_nobody.io as io
from sounds_of_nobody import *
from sounds_of_nobody.types import Wave
try:
    import faster_of_nobody
except ImportError:
    faster_of_nobody = None

def play(wave: Wave["left"] | None) -> io.Player: ...

class Track(Wave): ...
"""


def test_a_stand_in_can_be_named_and_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "needy_of_elsewhere"
    package.mkdir()
    (package / "__init__.py").write_text("from . import plain\nfrom .needy import play\n")
    (package / "plain.py").write_text("")
    (package / "needy.py").write_text(NEEDY)
    monkeypatch.syspath_prepend(tmp_path)
    with absent.stand_ins() as stand_ins:
        module: Any = absent.import_module("needy_of_elsewhere.needy", stand_ins)
    assert stand_ins.packages == ["sounds_of_nobody"] and module.faster_of_nobody is None
    assert sys.modules["needy_of_elsewhere"].plain is sys.modules["needy_of_elsewhere.plain"]
    assert "sounds_of_nobody" not in sys.modules and not isinstance(3, module.Wave)
    for use in (module.Track, module.io.Player, module.Wave):
        with pytest.raises(absent.PackageAbsent, match="the package sounds_of_nobody is not there"):
            use()


def test_the_cell_shows_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, site, _ = write(tmp_path)
    toml = 'architecture = "nets_of_elsewhere.small:Net"\n[[input]]\nname = "x"\nshape = [-1, 3]\n'
    (file.parent / "model.toml").write_text(toml)
    options = ("--artifacts", tmp_path / "a", "--arch-path", site)
    monkeypatch.setattr(sys, "argv", ["bring", str(file), *map(str, options)])
    main()
    assert read_manifest(tmp_path / "a" / "net" / "torch").inputs[0].shape == (None, 3)
