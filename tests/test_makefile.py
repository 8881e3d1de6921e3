"""The Makefile walks the exporters' graph and rebuilds what changed, no more; bootstrap says what is missing."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from contract.code import ROOT
from contract.manifest import read_manifest, sha256_of_files, write_manifest
from contract.parity_result import read_status
from export import EXPORTERS

Run = Callable[..., subprocess.CompletedProcess[str]]
Rebuilt = Callable[..., set[str]]


BROUGHT_ONLY = {"export.savedmodel_to_onnx"}
"""Exporters that our own two models do not need."""


# The walk


def test_the_makefiles_edges_are_the_exporters(make: Run, tmp_path: Path) -> None:
    planned = make("-n", f"ARTIFACTS={tmp_path}/new", "artifacts").stdout
    edges = {(Path(parent).name, format) for parent, format in re.findall(r"-m export (\S+) (\S+)", planned)}
    assert edges == set(EXPORTERS) - {("savedmodel", "onnx")}, "a model that starts as a SavedModel leads there"


def test_the_walk_trains_both_models_and_compares_both(make: Run, tmp_path: Path) -> None:
    planned = make("-n", f"ARTIFACTS={tmp_path}/new", "verify").stdout
    assert sorted(re.findall(r"-m train\.(\w+) \S+ --dataset fashion_mnist --epochs 1", planned)) == [
        "keras_cnn",
        "torch_cnn",
    ]
    assert sorted(re.findall(r"-m verify \S+/(\w+) ", planned)) == ["keras_cnn", "torch_cnn"]
    assert planned.count("-m export ") == 8


def test_another_data_set_gets_a_folder_of_its_own(make: Run) -> None:
    planned = make("-n", "DATASET=cifar10", "artifacts").stdout
    assert "-m train.keras_cnn artifacts-cifar10/keras_cnn/keras --dataset cifar10" in planned


@pytest.mark.parametrize("target", ["verify", "artifacts", "samples/index.json"])
def test_a_second_run_rebuilds_nothing(make: Run, artifacts: Path, target: str) -> None:
    goal = f"{artifacts}/{target}" if "/" in target else target
    done = make("-q", f"ARTIFACTS={artifacts}", goal)
    assert done.returncode == 0, make("-n", f"ARTIFACTS={artifacts}", goal).stdout


@pytest.fixture
def rebuilt(make: Run, artifacts: Path) -> Rebuilt:
    """What `make verify` would make anew if these files were changed: `model/format` and `model/parity`."""

    def names(*changed: str) -> set[str]:
        pretended = [word for file in changed for word in ("-W", file)]
        planned = make("-n", *pretended, f"ARTIFACTS={artifacts}", "verify").stdout
        trained = re.findall(rf"-m train\.\w+ {artifacts}/(\S+)", planned)
        exported = re.findall(rf"-m export {artifacts}/(\w+)/\w+ (\w+)", planned)
        compared = re.findall(rf"-m verify {artifacts}/(\w+)", planned)
        return {*trained, *(f"{model}/{format}" for model, format in exported), *(f"{m}/parity" for m in compared)}

    return names


def test_a_failed_parity_stops_make_each_time_and_its_result_stays(make: Run, artifacts_copy: Path) -> None:
    """The other network's TF Lite file is put into an artifact, with a manifest that matches."""
    model, file = artifacts_copy / "torch_cnn", "model.tflite"
    shutil.copy(artifacts_copy / "keras_cnn" / "tflite" / file, model / "tflite" / file)
    files = sha256_of_files(model / "tflite", [model / "tflite" / file])
    write_manifest(model / "tflite", replace(read_manifest(model / "tflite"), files=files))
    made = make(f"ARTIFACTS={artifacts_copy}", "verify")
    assert made.returncode == 2
    assert "error: parity failed for torch_cnn-tflite" in made.stderr
    assert "its answers are not its source's" in read_status(model / "tflite").reason
    assert [read_status(model / format).word for format in ("onnx", "savedmodel", "tfjs")] == ["verified"] * 3
    assert make("-q", f"ARTIFACTS={artifacts_copy}", "verify").returncode == 1


FORMATS = ("onnx", "savedmodel", "tflite", "tfjs", "parity")
KERAS = {"keras_cnn/keras", *(f"keras_cnn/{format}" for format in FORMATS)}
TORCH = {"torch_cnn/torch", *(f"torch_cnn/{format}" for format in FORMATS)}
BOTH = ("keras_cnn", "torch_cnn")


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ("train/torch_cnn.py", TORCH),
        ("train/keras_cnn.py", KERAS),
        ("train/recipe.py", KERAS | TORCH),
        ("contract/dataset.py", KERAS | TORCH),
        ("requirements.lock", KERAS | TORCH),
        ("export/__init__.py", (KERAS | TORCH) - {"keras_cnn/keras", "torch_cnn/torch"}),
        ("export/keras_to_onnx.py", {"keras_cnn/onnx", "keras_cnn/parity"}),
        ("export/keras_to_savedmodel.py", KERAS - {"keras_cnn/keras", "keras_cnn/onnx"}),
        ("export/torch_to_onnx.py", TORCH - {"torch_cnn/torch"}),
        ("export/onnx_to_savedmodel.py", TORCH - {"torch_cnn/torch", "torch_cnn/onnx"}),
        ("export/onnx_graph.py", {"keras_cnn/onnx", "keras_cnn/parity"} | TORCH - {"torch_cnn/torch"}),
        ("export/onnx_padding.py", {"keras_cnn/onnx", "keras_cnn/parity"} | TORCH - {"torch_cnn/torch"}),
        ("export/signatures.py", (KERAS | TORCH) - {"keras_cnn/keras", "torch_cnn/torch", "torch_cnn/onnx"}),
        ("export/known_operators.py", (KERAS | TORCH) - {"keras_cnn/keras", "torch_cnn/torch", "torch_cnn/onnx"}),
        ("export/savedmodel_to_tflite.py", {f"{m}/{f}" for m in BOTH for f in ("tflite", "parity")}),
        ("export/savedmodel_to_tfjs.py", {f"{m}/{f}" for m in BOTH for f in ("tfjs", "parity")}),
        ("verify/parity.py", {f"{m}/parity" for m in BOTH}),
        ("serve/runtimes/tfjs.mjs", {f"{m}/parity" for m in BOTH}),
        ("README.md", set[str]()),
    ],
)
def test_a_changed_file_rebuilds_its_edge_and_what_is_below(rebuilt: Rebuilt, changed: str, expected: set[str]) -> None:
    assert rebuilt(changed) == expected


def test_a_change_of_what_edges_share_makes_the_artifacts_out_of_date(make: Run, artifacts: Path) -> None:
    assert make("-q", f"ARTIFACTS={artifacts}", "artifacts").returncode == 0
    changed = ("-W", "export/known_operators.py")
    assert make("-q", *changed, f"ARTIFACTS={artifacts}", "artifacts").returncode == 1


@pytest.mark.parametrize(
    "module",
    sorted({route.exporter.partition(":")[0] for routes in EXPORTERS.values() for route in routes} - BROUGHT_ONLY),
)
def test_every_exporters_file_is_watched(rebuilt: Rebuilt, module: str) -> None:
    assert rebuilt(module.replace(".", "/") + ".py")


def test_help_lists_every_target_for_people(make: Run) -> None:
    listed = make("help").stdout.splitlines()
    phony = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert phony
    assert {line.split()[0] for line in listed} == set(phony[1].split())
    assert all(len(line.split()) > 2 for line in listed), "each says what it does"
    assert make().stdout.splitlines() == listed, "plain `make` gives help"


# bootstrap: what is missing is said in one line


def run_bootstrap(folder: Path, environment: Mapping[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [str(folder / "bootstrap"), *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60)


@pytest.fixture
def listening() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_a_busy_port_is_one_clear_line(environment: Mapping[str, str], listening: int) -> None:
    done = run_bootstrap(ROOT, {**environment, "HOST": "127.0.0.1", "PORT": str(listening)}, "port")
    assert done.returncode == 1
    assert done.stderr == (
        f"error: 127.0.0.1:{listening} cannot be listened on (Address already in use). "
        f"Try another: make run PORT={listening % 65535 + 1}\n"
    )


def test_a_free_port_says_nothing(environment: Mapping[str, str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    done = run_bootstrap(ROOT, {**environment, "PORT": str(port)}, "port")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("port", ["", "0", "65536", "http", "-1", "80.5"])
def test_what_is_no_port_is_refused(environment: Mapping[str, str], port: str) -> None:
    done = run_bootstrap(ROOT, {**environment, "PORT": port or " "}, "port")
    assert done.returncode == 1
    assert done.stderr == f"error: PORT={port or ' '} is no port: expected a number from 1 to 65535.\n"


def test_an_unknown_part_prints_the_usage(environment: Mapping[str, str]) -> None:
    done = run_bootstrap(ROOT, environment, "everything")
    assert done.returncode == 1
    assert done.stderr.startswith("error: usage: ./bootstrap python | node")


Checkout = Callable[..., tuple[Path, dict[str, str]]]


@pytest.fixture
def checkout(tmp_path: Path, environment: Mapping[str, str]) -> Checkout:
    """A copy of bootstrap beside an environment without PyTorch, whose pip knows one wheel, on a disk of some size."""

    def make_one(requires: list[str] | None, free_megabytes: int = 10_000) -> tuple[Path, dict[str, str]]:
        for file in ("bootstrap", "pyproject.toml"):
            shutil.copy(ROOT / file, tmp_path)
        report = {"install": [{"metadata": {"name": "torch", "requires_dist": requires}}]}
        (tmp_path / "report.json").write_text(json.dumps(report))
        binaries, on_path = tmp_path / ".venv" / "bin", tmp_path / "path"
        write_program(binaries / "python", f'case "$*" in *"import torch"*) exit 1;; esac\nexec {sys.executable} "$@"')
        found = 'case "$*" in *--report*) cat report.json; exit;; esac' if requires is not None else ""
        write_program(binaries / "pip", f'echo "$@" >>pip.log\n{found}\necho "pip: no such package" >&2; exit 1')
        write_program(on_path / "df", f'echo "Filesystem 1M-blocks Used Available"; echo "disk 1 1 {free_megabytes}"')
        path = f"{on_path}{os.pathsep}{environment['PATH']}"
        settings = {name: value for name, value in environment.items() if name not in ("TORCH_INDEX", "ALLOW_CUDA")}
        return tmp_path, {**settings, "PATH": path, "PYTHON": sys.executable}

    return make_one


def write_program(path: Path, script: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


CUDA = ["filelock", "nvidia-cublas-cu12==12.8.4.1; platform_system == 'Linux'", "triton==3.4.0"]


def test_a_cuda_build_of_pytorch_is_refused_before_it_is_downloaded(checkout: Checkout) -> None:
    folder, environment = checkout(CUDA)
    done = run_bootstrap(folder, environment, "python")
    assert done.returncode == 1
    assert re.search(r"^error: No CPU build of torch==\d+\.\d+\.\d+ was found, only one for CUDA", done.stderr)
    assert "TORCH_INDEX" in done.stderr
    assert "PIP_FIND_LINKS" in done.stderr
    assert "ALLOW_CUDA=1" in done.stderr
    asked = (folder / "pip.log").read_text().splitlines()
    assert len(asked) == 1, "only the report was asked for"
    assert "--dry-run" in asked[0]


def test_a_cpu_build_of_pytorch_is_taken(checkout: Checkout) -> None:
    folder, environment = checkout(["filelock", "sympy>=1.13.3"])
    done = run_bootstrap(folder, environment, "python")
    assert "CUDA" not in done.stderr
    assert "-r requirements.lock" in (folder / "pip.log").read_text(), "it went on to the next step"


def test_the_index_of_pytorch_that_was_named_is_asked(checkout: Checkout) -> None:
    folder, environment = checkout(CUDA)
    run_bootstrap(folder, {**environment, "TORCH_INDEX": "https://wheels.example/cpu"}, "python")
    assert "--index-url https://wheels.example/cpu" in (folder / "pip.log").read_text()


def test_pytorch_that_is_nowhere_is_said_with_what_to_set(checkout: Checkout) -> None:
    folder, environment = checkout(None)
    done = run_bootstrap(folder, environment, "python")
    assert done.returncode == 1
    assert re.search(r"error: torch==\S+ was not found\. Set TORCH_INDEX .* or PIP_FIND_LINKS", done.stderr)


def test_requirements_that_cannot_be_installed_are_said(checkout: Checkout) -> None:
    folder, environment = checkout([])
    done = run_bootstrap(folder, environment, "python")
    assert done.returncode == 1
    assert "pip: no such package" in done.stderr
    assert "error: The locked requirements could not be installed" in done.stderr


def test_too_little_disk_is_said_before_anything_is_taken(checkout: Checkout) -> None:
    folder, environment = checkout([], free_megabytes=1_000)
    done = run_bootstrap(folder, environment, "python")
    assert done.returncode == 1
    assert re.search(rf"^error: .* needs \d+ MB of disk, 1000 MB are free in {folder}\. Free some", done.stderr)
    assert not (folder / "pip.log").exists()


def test_another_version_of_python_is_refused(checkout: Checkout) -> None:
    folder, environment = checkout([])
    write_program(folder / "old-python", 'case "$1" in --version) echo Python 3.9.2;; *) exit 1;; esac')
    done = run_bootstrap(folder, {**environment, "PYTHON": str(folder / "old-python")}, "python")
    assert done.returncode == 1
    assert done.stderr.startswith("error: Python 3.11, 3.12 or 3.13 is needed, got: Python 3.9.2.")
