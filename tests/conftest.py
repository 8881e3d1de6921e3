"""Real artifacts for the tests: one small walk by the Makefile, and models whose height, width and channels differ."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock

from contract import dataset
from contract.code import ROOT
from contract.dataset import Bytes, Split
from contract.manifest import ImageSpec, Manifest, TensorSpec, sha256_of_files, write_manifest
from export import exported_from
from serve.catalog import Catalog, load_catalog
from tests.serving import Service, free_port, listens, started, wait_until

Run = Callable[..., subprocess.CompletedProcess[str]]

ODD = ImageSpec(height=20, width=28, channels=3)
LABELS = tuple("abcdefghij")


@pytest.fixture(scope="session")
def environment() -> Mapping[str, str]:
    """This process's environment, without the settings that a `make` that started the tests passes on."""
    of_make = ("MAKEFLAGS", "MAKELEVEL", "MFLAGS", "MAKEOVERRIDES")
    settings = (*of_make, "DATASET", "ARTIFACTS", "TRAIN", "VERIFY", "PRECISION", "MAX_LOSS")
    return {name: value for name, value in os.environ.items() if name not in settings}


@pytest.fixture(scope="session")
def make(environment: Mapping[str, str]) -> Run:
    """Run `make` in the project with small settings, in the environment that runs the tests."""
    ready = ["-o", ".venv/ready", "-o", ".venv/compiled", "-o", "web/node_modules/.package-lock.json"]
    small = ["TRAIN=--epochs 1 --limit 3000", "VERIFY=--limit 256", "PRECISION=none"]

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = ["make", *ready, *small, *arguments]
        return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)

    return run


MadeOnce = Callable[[str, Callable[[Path], None]], Path]


@pytest.fixture(scope="session")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> MadeOnce:
    """`made_once(name, write)`: the folder that `write(folder)` makes, once for all processes that run the tests."""
    own = tmp_path_factory.getbasetemp()
    shared = own.parent if "PYTEST_XDIST_WORKER" in os.environ else own

    def made(name: str, write: Callable[[Path], None]) -> Path:
        folder, partial = shared / name, shared / f"{name}.partial"
        with FileLock(shared / f"{name}.lock"):
            if not folder.exists():
                shutil.rmtree(partial, ignore_errors=True)
                partial.mkdir()
                write(partial)
                partial.rename(folder)
        return folder

    return made


@pytest.fixture(scope="session")
def artifacts(made_once: MadeOnce, make: Run) -> Path:
    """The whole walk on few pictures: every artifact, their parity results, and the samples. Do not change it."""

    def walk(folder: Path) -> None:
        made = make("-j2", f"ARTIFACTS={folder}", "verify", f"{folder}/samples/index.json")
        if made.returncode:
            pytest.fail(f"The walk failed, exit status {made.returncode}:\n{made.stdout}\n{made.stderr}", pytrace=False)

    return made_once("artifacts", walk)


@pytest.fixture
def artifacts_copy(artifacts: Path, tmp_path: Path) -> Path:
    """A copy of the walk's artifacts, to damage."""
    return shutil.copytree(artifacts, tmp_path / "artifacts")


@pytest.fixture(scope="session")
def test_split() -> Split:
    """The first 256 real test pictures."""
    return dataset.load("fashion_mnist", "test", 256)


@pytest.fixture(scope="session")
def odd_images() -> Bytes:
    """64 pictures (64, 20, 28, 3) that every permutation, reflection or transposition changes."""
    image, row, column = np.ogrid[:64, : ODD.height, : ODD.width]
    planes = (row * 12 + image, column * 9 - image, row * 3 + column * 5 + image * 31)
    images = np.stack([plane % 256 for plane in np.broadcast_arrays(*planes)], axis=-1).astype(np.uint8)
    images[:, :5, :3] = (255, 0, 128)
    return images


@pytest.fixture(scope="session")
def odd_models(made_once: MadeOnce) -> Path:
    """Both networks, untrained, for pictures of 20x28x3, in every format. Do not change it."""

    def convert(folder: Path) -> None:
        write_source(folder / "keras_cnn" / "keras", write_keras)
        write_source(folder / "torch_cnn" / "torch", write_torch)
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(export_all, [folder / "keras_cnn", folder / "torch_cnn"]))

    return made_once("odd_models", convert)


def write_source(folder: Path, write: Callable[[Path], None]) -> None:
    folder.mkdir(parents=True)
    write(folder)
    manifest = Manifest(
        model=folder.parent.name,
        format=folder.name,
        parent=None,
        inputs=(TensorSpec("pixels", "float32", (None, *ODD.shape), "NHWC"),),
        outputs=(TensorSpec("probabilities", "float32", (None, len(LABELS)), "NC"),),
        image=ODD,
        labels=LABELS,
        files=sha256_of_files(folder, list(folder.iterdir())),
    )
    write_manifest(folder, manifest)


def write_keras(folder: Path) -> None:
    import keras

    from train.keras_cnn import build

    keras.utils.set_random_seed(1)
    build(ODD.shape, len(LABELS)).save(folder / "model.h5", include_optimizer=False)


def write_torch(folder: Path) -> None:
    import torch

    from train.torch_cnn import ClassicCNN, Shipped, export

    torch.manual_seed(1)
    torch.export.save(export(Shipped(ClassicCNN(ODD.shape, len(LABELS))).eval(), ODD.shape), folder / "model.pt2")


def export_all(model: Path) -> None:
    """Convert the only artifact of a model to every format that can be reached from it."""
    (source,) = model.iterdir()
    command = [sys.executable, "-m", "export", str(source), "all"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == len(exported_from(source.name)), done.stdout


@pytest.fixture(scope="session")
def catalog(artifacts: Path) -> Iterator[Catalog]:
    """All artifacts, loaded: this takes seconds. Do not break or close them."""
    loaded = load_catalog(artifacts)
    yield loaded
    loaded.close()


NUMBERS = ("bool", "uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64", "float32", "float64")


def write_every_type(folder: Path, types: Sequence[str]) -> None:
    """An ONNX artifact with an input of each dtype, and an output with the same values; both axes are free."""
    import onnx
    from onnx import helper

    kinds = {"float32": "FLOAT", "float64": "DOUBLE", "bytes": "STRING"}
    codes = [getattr(onnx.TensorProto, kinds.get(dtype, dtype.upper())) for dtype in types]
    size = ["rows", "columns"]
    ends = [
        [helper.make_tensor_value_info(f"{dtype}_{end}", code, size) for dtype, code in zip(types, codes, strict=True)]
        for end in ("in", "out")
    ]
    nodes = [helper.make_node("Identity", [f"{dtype}_in"], [f"{dtype}_out"]) for dtype in types]
    graph = helper.make_graph(nodes, "every_type", *ends)
    folder.mkdir(parents=True)
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), folder / "model.onnx"
    )
    inputs, outputs = (
        tuple(TensorSpec(f"{dtype}_{end}", dtype, (None, None), "NC") for dtype in types) for end in ("in", "out")
    )
    files = sha256_of_files(folder, [folder / "model.onnx"])
    manifest = Manifest(
        folder.parent.name, folder.name, None, inputs=inputs, outputs=outputs, image=None, labels=(), files=files
    )
    write_manifest(folder, manifest)


@pytest.fixture(scope="session")
def grpc_port() -> int:
    """The gRPC port of `running_service`."""
    return free_port()


@pytest.fixture(scope="session")
def running_service(artifacts: Path, grpc_port: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """`python -m serve` over the walk's artifacts and over models of every datatype. Send it requests only."""
    folder = tmp_path_factory.mktemp("running")
    shutil.copytree(artifacts, folder / "artifacts")
    write_every_type(folder / "artifacts" / "every_type" / "onnx", [*NUMBERS, "bytes"])
    write_every_type(folder / "artifacts" / "half" / "onnx", ["float16"])
    settings = {"SERVE_MAX_BYTES": "2000000", "SERVE_CONTROL": "1", "GRPC_PORT": str(grpc_port)}
    with started(folder / "artifacts", folder / "output", **settings) as service:
        yield service


@pytest.fixture(scope="session")
def service_url(running_service: Service) -> str:
    return f"http://127.0.0.1:{running_service.port}"


@pytest.fixture(scope="session")
def service_grpc_url(running_service: Service, grpc_port: int) -> str:
    wait_until(lambda: listens(grpc_port))
    return f"grpc://127.0.0.1:{grpc_port}"
