"""Core AI: free sizes stay free, 64 bits become 32, and neither a damaged program nor its end ends a process badly."""

import hashlib
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from contract.code import ROOT
from contract.errors import InputError, ModelUnavailable
from contract.formats import is_installed, not_installed
from contract.manifest import Manifest, TensorSpec, read_manifest, sha256_of_files, write_manifest
from serve.runtimes import Runtime, load_runtime

pytestmark = pytest.mark.skipif(not is_installed("coreai"), reason=not_installed("coreai"))


class Tagger(torch.nn.Module):
    """Ids (N, L) -> (N, L, 4), and the ids themselves."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.out = torch.nn.Embedding(50, 8), torch.nn.Linear(8, 4)

    def forward(self, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        scores: torch.Tensor = self.out(self.table(ids))
        return scores.softmax(-1), ids


class Pooled(torch.nn.Module):
    """Pictures (N, 8, 8, 3) -> (N, 4): PyTorch lays the pooled values out as the pictures are."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.out = torch.nn.Conv2d(3, 6, 3), torch.nn.Linear(6, 4)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        planes = self.conv(pixels.permute(0, 3, 1, 2)).relu()
        scores: torch.Tensor = self.out(torch.nn.functional.adaptive_avg_pool2d(planes, 1).flatten(1))
        return scores


PIXELS, SCORES = (
    TensorSpec("pixels", "float32", (None, 8, 8, 3), "NHWC"),
    TensorSpec("scores", "float32", (None, 4), "NC"),
)
IDS = TensorSpec("ids", "int64", (None, None), "NL")
OUTPUTS = TensorSpec("tags", "float32", (None, None, 4), "NLC"), TensorSpec("same", "int64", (None, None), "NL")
RUN = """
import sys
from pathlib import Path
from contract.manifest import read_manifest
from serve.runtimes import load_runtime, warm_up_inputs
manifest = read_manifest(Path(sys.argv[1]))
runtime = load_runtime(Path(sys.argv[1]), manifest)
for batch in (1, 64):
    runtime.predict(warm_up_inputs(manifest, batch))
"""


def converted(
    source: Path,
    network: torch.nn.Module,
    example: torch.Tensor,
    sizes: object,
    specs: tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]],
) -> Path:
    """The network in PyTorch, and beside it in Core AI."""
    source.mkdir(parents=True)
    program = torch.export.export(network.eval(), (example,), dynamic_shapes=(sizes,))
    torch.export.save(program, source / "model.pt2")
    files = sha256_of_files(source, [source / "model.pt2"])
    write_manifest(source, Manifest("net", "torch", None, *specs, None, (), files))
    command = [sys.executable, "-m", "export", str(source), "coreai"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("\n") == 1, "a converter writes to standard error"
    return source.with_name("coreai")


BATCH = torch.export.Dim("batch", min=1, max=4096)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    source = tmp_path_factory.mktemp("coreai") / "net" / "torch"
    torch.manual_seed(0)
    sizes = {0: BATCH, 1: torch.export.Dim.AUTO}
    return converted(source, Tagger(), torch.zeros(2, 16, dtype=torch.long), sizes, ((IDS,), OUTPUTS))


@pytest.fixture
def runtime(folder: Path) -> Iterator[Runtime]:
    runtime = load_runtime(folder, read_manifest(folder))
    yield runtime
    runtime.close()


def test_free_sizes_stay_free_and_answers_have_the_sources_dtypes(folder: Path, runtime: Runtime) -> None:
    source = load_runtime(folder.with_name("torch"), read_manifest(folder.with_name("torch")))
    for rows, length in ((1, 1), (3, 700), (130, 5)):
        ids = np.random.default_rng(rows).integers(0, 50, (rows, length))
        expected, got = (each.predict({"ids": ids}) for each in (source, runtime))
        np.testing.assert_allclose(got["tags"], expected["tags"], atol=1e-6)
        np.testing.assert_array_equal(got["same"], ids)
        assert {name: value.dtype for name, value in got.items()} == {"tags": np.float32, "same": np.int64}


def test_pictures_that_are_pooled_to_a_single_place_are_converted(tmp_path: Path) -> None:
    torch.manual_seed(0)
    source = tmp_path / "net" / "torch"
    made = converted(source, Pooled(), torch.zeros(2, 8, 8, 3), {0: BATCH}, ((PIXELS,), (SCORES,)))
    pixels = np.random.default_rng(0).normal(size=(5, 8, 8, 3)).astype(np.float32)
    got, expected = (load_runtime(each, read_manifest(each)).predict({"pixels": pixels}) for each in (made, source))
    np.testing.assert_allclose(got["scores"], expected["scores"], rtol=0, atol=1e-6)


def test_a_whole_number_beyond_32_bits_is_refused(runtime: Runtime) -> None:
    with pytest.raises(InputError, match=r"Core AI holds whole numbers of 32 bits"):
        runtime.predict({"ids": np.array([[1, 2**31]])})


def test_a_process_that_ends_right_after_an_answer_ends_well_and_silently(folder: Path) -> None:
    """Core AI's threads may still hold the answer then: Python would unwind them, and Swift end the process."""
    for _ in range(4):
        command = [sys.executable, "-c", RUN, str(folder)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


DAMAGES: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "cut off": (lambda program: program[: len(program) // 2], "it is cut off"),
    "a weight": (lambda program: program[:-200] + b"\0" * 4 + program[-196:], "it was changed after it was written"),
    "nothing": (lambda program: b"", "it is cut off: 4 bytes were expected, and 0 are left"),
    "text": (lambda program: b"<html>404</html>", "it does not begin as a program of Core AI does"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_program_is_a_message_and_the_process_goes_on(folder: Path, tmp_path: Path, damage: str) -> None:
    """Core AI itself would end the process: it does not look at main.hash, and cannot raise what it finds."""
    change, words = DAMAGES[damage]
    manifest = read_manifest(folder)
    for name in manifest.files:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    program = tmp_path / "model.aimodel" / "main.mlirb"
    assert hashlib.sha256(program.read_bytes()).digest() == program.with_name("main.hash").read_bytes()
    program.write_bytes(change(program.read_bytes()))
    with pytest.raises(ModelUnavailable, match=f"net-coreai could not be loaded: .*{words}"):
        load_runtime(tmp_path, manifest)
