"""ExecuTorch: the memory of a program is planned for a largest batch, and for a largest size of each other axis."""

import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from contract.code import ROOT
from contract.errors import InputError
from contract.formats import is_installed
from contract.manifest import Manifest, TensorSpec, read_manifest, sha256_of_files, write_manifest
from serve.runtimes import Runtime, load_runtime

pytestmark = pytest.mark.skipif(not is_installed("executorch"), reason="ExecuTorch is not installed")


class Tagger(torch.nn.Module):
    """Ids (N, L) -> (N, L, 4), and the ids. XNNPACK has no embedding, and no logarithm of a softmax."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.out = torch.nn.Embedding(50, 8), torch.nn.Linear(8, 4)

    def forward(self, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        scores: torch.Tensor = self.out(self.table(ids))
        return scores.log_softmax(-1).exp(), ids


class Recurrent(torch.nn.Module):
    """(N, 5, 4) -> (N, 5, 3)."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = torch.nn.GRU(4, 3, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        states: torch.Tensor = self.gru(x)[0]
        return states


class Dense(torch.nn.Module):
    """(N, 5, 4) -> (N, 5, 3): a PReLU of no picture, and a maximum whose axis goes."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.gate, self.last = torch.nn.Linear(4, 5), torch.nn.PReLU(5), torch.nn.Linear(5, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows = self.gate(self.first(x))
        highest: torch.Tensor = rows.unsqueeze(1).max(2)[0] + torch.amax(rows, (1,)).unsqueeze(1)
        return self.last(rows + highest)  # type: ignore[no-any-return]


IDS, X = TensorSpec("ids", "int64", (None, None), "NL"), TensorSpec("x", "float32", (None, 5, 4), "NLC")
OUTPUTS = {
    "wide": (TensorSpec("tags", "float32", (None, None, 4), "NLC"), TensorSpec("same", "int64", (None, None), "NL")),
    "states": (TensorSpec("states", "float32", (None, 5, 3), "NLC"),),
}
CONVERT = """
import sys
from pathlib import Path
from export import export_artifact, torch_to_executorch
for place in map(Path, sys.argv[1:]):
    torch_to_executorch.PLANNED = 1_000_000 if place.name == "narrow" else 64 << 20
    export_artifact(place / "torch", "executorch")
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The networks in PyTorch and in ExecuTorch; `narrow` is the tagger again, and may plan for a megabyte alone."""
    made = tmp_path_factory.mktemp("executorch")
    torch.manual_seed(0)
    batch, length = torch.export.Dim("batch", min=1, max=4096), torch.export.Dim.AUTO
    ids, x = torch.zeros(2, 16, dtype=torch.long), torch.zeros(2, 5, 4)
    tagger = torch.export.export(Tagger().eval(), (ids,), dynamic_shapes=({0: batch, 1: length},))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch's own recurrent layers set attributes while they are exported
        recurrent = torch.export.export(Recurrent().eval(), (x,), dynamic_shapes=({0: batch},))
    dense = torch.export.export(Dense().eval(), (x,), dynamic_shapes=({0: batch},))
    for name, program in {"wide": tagger, "narrow": tagger, "states": recurrent, "dense": dense}.items():
        place = made / name / "torch"
        place.mkdir(parents=True)
        torch.export.save(program, place / "model.pt2")
        inputs, outputs = (IDS if program is tagger else X,), OUTPUTS["wide" if program is tagger else "states"]
        files = sha256_of_files(place, [place / "model.pt2"])
        write_manifest(place, Manifest(name, "torch", None, inputs, outputs, None, (), files))
    command = [sys.executable, "-c", CONVERT, *(str(made / name) for name in ("wide", "narrow", "states", "dense"))]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return made


def loaded(folder: Path) -> Runtime:
    return load_runtime(folder, read_manifest(folder))


@pytest.mark.parametrize("shape", [(1, 1), (1, 512), (3, 17), (64, 5), (65, 16), (200, 3)])
@pytest.mark.parametrize("name", ["wide", "narrow"])
def test_any_batch_and_any_length_up_to_the_largest_has_the_sources_answers(
    folder: Path, name: str, shape: tuple[int, int]
) -> None:
    ids = np.random.default_rng(0).integers(0, 50, shape)
    ids.flags.writeable = False
    expected, got = (loaded(folder / name / format).predict({"ids": ids}) for format in ("torch", "executorch"))
    assert got["tags"].shape == (*shape, 4)
    np.testing.assert_allclose(got["tags"], expected["tags"], rtol=0, atol=1e-6)
    np.testing.assert_array_equal(got["same"], ids)


@pytest.mark.parametrize("rows", [1, 2, 15, 16, 64, 130])
@pytest.mark.parametrize("name", ["states", "dense"])
def test_a_recurrent_network_and_a_dense_one_take_any_batch(folder: Path, name: str, rows: int) -> None:
    x = np.random.default_rng(rows).normal(size=(rows, 5, 4)).astype(np.float32)
    expected, got = (loaded(folder / name / format).predict({"x": x}) for format in ("torch", "executorch"))
    np.testing.assert_allclose(got["states"], expected["states"], rtol=0, atol=1e-6)


def test_the_manifest_has_the_largest_sizes_and_what_computes(folder: Path) -> None:
    made = {name: read_manifest(folder / name / "executorch").made_with for name in ("wide", "narrow")}
    assert made["wide"]["largest"] == {"ids": [64, 512]}
    rows, length = made["narrow"]["largest"]["ids"]
    assert 1 <= rows < 64 and length == 512, "a batch of 64 has more than a megabyte of values"
    delegated = made["wide"]["delegated"]
    assert delegated["xnnpack"] >= delegated["parts"] >= 1
    assert delegated["others"] == 1, "the embedding: probabilities that go by way of their logarithms are a softmax"


def test_a_longer_call_is_refused_with_the_largest_sizes(folder: Path) -> None:
    with pytest.raises(InputError, match=r"'ids' in sizes up to \['any', 512\], and it has the shape \[2, 513\]"):
        loaded(folder / "wide" / "executorch").predict({"ids": np.zeros((2, 513), np.int64)})
