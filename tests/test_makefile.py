"""The Makefile walks the exporters' graph and rebuilds what changed, no more; bootstrap says what is missing."""

import functools
import hashlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from contract.code import ROOT
from contract.formats import is_installed
from contract.manifest import read_manifest, sha256_of_files, write_manifest
from contract.parity_result import read_status
from export import EXPORTERS, exported_from

Run = Callable[..., subprocess.CompletedProcess[str]]
Rebuilt = Callable[..., set[str]]


BROUGHT_ONLY = {"export.savedmodel_to_onnx", "export.tflite_to_onnx", "export.onnx_by_tensorflow_to_openvino"}
"""Exporters that our own two models do not need."""


# The walk


def test_the_makefiles_edges_are_the_exporters(make: Run, tmp_path: Path) -> None:
    planned = make("-n", f"ARTIFACTS={tmp_path}/new", "artifacts").stdout
    edges = {(Path(parent).name, format) for parent, format in re.findall(r"-m export (\S+) (\S+)", planned)}
    here = {edge for edge in EXPORTERS if is_installed(edge[1])}
    assert edges == here - {("savedmodel", "onnx"), ("tflite", "onnx")}, "only brought models start there"


def test_the_walk_trains_both_models_and_compares_both(make: Run, tmp_path: Path) -> None:
    planned = make("-n", f"ARTIFACTS={tmp_path}/new", "verify").stdout
    assert sorted(re.findall(r"-m train\.(\w+) \S+ --dataset fashion_mnist --epochs 1", planned)) == [
        "keras_cnn",
        "torch_cnn",
    ]
    assert sorted(re.findall(r"-m verify \S+/(\w+) ", planned)) == ["keras_cnn", "torch_cnn"]
    assert planned.count("-m export ") == len(exported_from("keras")) + len(exported_from("torch"))


def test_the_main_job_works_side_by_side_unless_the_user_chooses(make: Run, tmp_path: Path) -> None:
    new = f"ARTIFACTS={tmp_path}/new"
    assert " -j3 verify web " in make("-n", "run", new).stdout
    for jobs in ("-j1", "-j2", "-j"):
        chosen = make("-n", jobs, "run", new)
        assert " verify web " in chosen.stdout
        assert "-j3" not in chosen.stdout + chosen.stderr, jobs


@pytest.mark.parametrize("target", ["bring", "field", "zoo"])
def test_all_modules_are_compiled_before_a_process_runs_that_may_not_write_there(
    target: str, environment: Mapping[str, str]
) -> None:
    planned = planned_anew(environment, target, "MODEL=net.onnx")
    assert planned.index("-m compileall") < planned.index(f"-m {'bench.' if target != 'bring' else ''}{target}")


def test_the_main_job_compiles_only_what_it_imports(environment: Mapping[str, str]) -> None:
    assert "-m compileall" not in planned_anew(environment, "train")
    assert "--no-compile" in (ROOT / "bootstrap").read_text()
    shown = ["make", "--no-print-directory", "-f", "Makefile", "-f", "-", "shown"]
    recipe = "shown:\n\t@echo $${PYTHONDONTWRITEBYTECODE-unset}\n"
    done = subprocess.run(
        shown,
        input=recipe,
        cwd=ROOT,
        env={**environment, "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
    )
    assert done.stdout.strip() == "unset", "each process would compile TensorFlow again"


def planned_anew(environment: Mapping[str, str], *arguments: str) -> str:
    """What `make` would run if the environment were new."""
    command = ["make", "-n", "-W", ".venv/ready", "-o", "web/node_modules/.package-lock.json", *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize(
    ("setting", "argument"),
    [("", '--precision ""'), ("int8,fp16", '--precision "int8,fp16"'), ("none", '--precision "none"')],
)
def test_variants_are_made_of_both_models_before_they_are_compared(
    make: Run, tmp_path: Path, setting: str, argument: str
) -> None:
    planned = make("-n", f"ARTIFACTS={tmp_path}/new", f"PRECISION={setting}", "verify").stdout
    for model in ("keras_cnn", "torch_cnn"):
        made = planned.index(f"-m export.precision {tmp_path}/new/{model} --dataset fashion_mnist {argument}")
        assert planned.index(f"-m export {tmp_path}/new/{model}/savedmodel tflite") < made
        assert made < planned.index(f"-m verify {tmp_path}/new/{model} ")
        if model == "torch_cnn" and is_installed("executorch"):
            assert planned.index(f"-m export {tmp_path}/new/{model}/torch executorch") < made


def test_another_choice_of_variants_or_another_limit_is_compared_anew(make: Run, artifacts: Path) -> None:
    assert "-m verify" not in make("-n", f"ARTIFACTS={artifacts}", "verify").stdout
    planned = make("-n", f"ARTIFACTS={artifacts}", "PRECISION=int8", "verify").stdout
    assert len(re.findall(r"-m (export\.precision|verify) ", planned)) == 4
    planned = make("-n", f"ARTIFACTS={artifacts}", "MAX_LOSS=0.5%", "verify").stdout
    assert planned.count('--max-loss "0.5%"') == 2


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


KERAS = {"keras_cnn/keras", *(f"keras_cnn/{format}" for format in (*exported_from("keras"), "parity"))}
TORCH = {"torch_cnn/torch", *(f"torch_cnn/{format}" for format in (*exported_from("torch"), "parity"))}
BOTH = ("keras_cnn", "torch_cnn")
OF_ONNX = {"keras_cnn/openvino"} & KERAS
"""What is made from Keras's ONNX."""
OF_PROGRAM = {"torch_cnn/executorch", "torch_cnn/coreai", "torch_cnn/coreml"}
"""What is made from PyTorch's program without ONNX."""


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ("train/torch_cnn.py", TORCH),
        ("train/keras_cnn.py", KERAS),
        ("train/recipe.py", KERAS | TORCH),
        ("contract/dataset.py", KERAS | TORCH),
        ("requirements.lock", KERAS | TORCH),
        ("export/__init__.py", (KERAS | TORCH) - {"keras_cnn/keras", "torch_cnn/torch"}),
        ("export/keras_to_onnx.py", {"keras_cnn/onnx", "keras_cnn/parity", *OF_ONNX}),
        ("export/keras_to_savedmodel.py", KERAS - {"keras_cnn/keras", "keras_cnn/onnx"} - OF_ONNX),
        ("export/torch_to_onnx.py", TORCH - {"torch_cnn/torch"} - OF_PROGRAM),
        (
            "export/onnx_to_savedmodel.py",
            TORCH - {"torch_cnn/torch", "torch_cnn/onnx", "torch_cnn/openvino"} - OF_PROGRAM,
        ),
        (
            "export/onnx_graph.py",
            {"keras_cnn/onnx", "keras_cnn/parity"} | OF_ONNX | TORCH - {"torch_cnn/torch"} - OF_PROGRAM,
        ),
        (
            "export/onnx_padding.py",
            {"keras_cnn/onnx", "keras_cnn/parity"} | OF_ONNX | TORCH - {"torch_cnn/torch"} - OF_PROGRAM,
        ),
        (
            "export/signatures.py",
            (KERAS | TORCH)
            - {"keras_cnn/keras", "torch_cnn/torch", "torch_cnn/onnx", "torch_cnn/openvino"}
            - OF_PROGRAM,
        ),
        (
            "export/known_operators.py",
            (KERAS | TORCH)
            - {"keras_cnn/keras", "torch_cnn/torch", "torch_cnn/onnx", "torch_cnn/openvino"}
            - OF_PROGRAM,
        ),
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
    sorted(
        {
            route.exporter.partition(":")[0]
            for (_, format), routes in EXPORTERS.items()
            for route in routes
            if is_installed(format)
        }
        - BROUGHT_ONLY
    ),
)
def test_every_exporters_file_is_watched(rebuilt: Rebuilt, module: str) -> None:
    assert rebuilt(module.replace(".", "/") + ".py")


def test_help_lists_every_target_and_every_variable(make: Run) -> None:
    targets, _, variables = make("help").stdout.partition("\n\n")
    listed = targets.splitlines()
    phony = re.search(r"^\.PHONY: (.*)$", make("-pq", "help").stdout, re.MULTILINE)
    assert phony
    aliases = {"brought"}
    assert {line.split()[0] for line in listed} == set(phony[1].split()) - aliases
    assert all(len(line.split()) > 2 for line in listed), "each has a description"
    assert all(len(line.split()) > 2 for line in variables.splitlines()), "each has a description"
    assert {"MODEL=", "PORT=", "MEMORY_GIB=", "VERBOSE="} <= {line.split()[0] for line in variables.splitlines()}
    assert make().stdout.partition("\n\n")[0] == targets, "plain `make` gives help"


def test_a_folder_that_a_target_is_named_after_does_not_hide_the_target(make: Run) -> None:
    folders = {path.name for path in ROOT.iterdir() if path.is_dir()}
    phony = re.search(r"^\.PHONY: (.*)$", make("-pq", "help").stdout, re.MULTILINE)
    assert phony
    assert {"train", "export", "serve", "verify", "bring", "compare", "bench", "web"} <= folders & set(phony[1].split())


def test_each_variable_that_the_makefile_reads_is_one_that_it_knows(make: Run) -> None:
    """A variable with a default value is documented and may be set; what `:=` defines is the Makefile's own."""
    text = (ROOT / "Makefile").read_text()
    makes_own = {"MAKE", "MAKECMDGOALS", "MAKEFLAGS", "CURDIR", "PATH"}
    defined = set(re.findall(r"^([A-Z_]+) *[?:]?=", text, re.MULTILINE)) | makes_own
    options = {
        name.upper().replace("-", "_")
        for names in re.findall(r"foreach name,([a-z -]+),", text)
        for name in names.split()
    }
    assert (set(re.findall(r"\$\(([A-Z_]+)\)", text)) | options) <= defined


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("MODLE=x.h5", "MODLE is not a variable of this Makefile. Did you mean MODEL?"),
        ("EPOCHS=two words", "EPOCHS is not a variable of this Makefile."),
        ("PREPROCES=unit", "PREPROCES is not a variable of this Makefile. Did you mean PREPROCESS?"),
    ],
)
def test_a_variable_that_does_not_exist_is_named(make: Run, setting: str, message: str) -> None:
    done = make("-n", "run", setting)
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stdout == ""


def test_a_setting_of_the_service_and_of_pip_passes_through_make(make: Run) -> None:
    assert make("-n", "serve", "SERVE_WORKERS=2", "PIP_NO_INDEX=1", "NAME=two words").returncode == 0


# bootstrap: what is missing is one clear line


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
        f"error: cannot listen on 127.0.0.1:{listening} (Address already in use). "
        f"Try another port: make run PORT={listening % 65535 + 1}\n"
    )


def test_a_free_port_says_nothing(environment: Mapping[str, str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    done = run_bootstrap(ROOT, {**environment, "PORT": str(port)}, "port")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("port", ["", "0", "65536", "http", "-1", "80.5"])
def test_a_port_that_is_not_a_port_number_is_refused(environment: Mapping[str, str], port: str) -> None:
    done = run_bootstrap(ROOT, {**environment, "PORT": port or " "}, "port")
    assert done.returncode == 1
    assert done.stderr == f"error: PORT={port or ' '} is not a port number; use 1 to 65535.\n"


def test_an_unknown_part_prints_the_usage(environment: Mapping[str, str]) -> None:
    done = run_bootstrap(ROOT, environment, "everything")
    assert done.returncode == 1
    assert done.stderr.startswith("error: usage: ./bootstrap python | runtime NAME | node")


Checkout = Callable[..., tuple[Path, dict[str, str]]]


@pytest.fixture
def checkout(tmp_path: Path, environment: Mapping[str, str]) -> Checkout:
    """A copy of bootstrap beside an environment whose pip can install nothing, on a disk of some size."""

    def make_one(free_megabytes: int = 10_000) -> tuple[Path, dict[str, str]]:
        copy_bootstrap(tmp_path)
        binaries = tmp_path / ".venv" / "bin"
        write_program(binaries / "python", f'case "$*" in *"import torch"*) exit 1;; esac\nexec {sys.executable} "$@"')
        report = json.dumps({"install": [{"metadata": {"name": "torch"}}]})
        (tmp_path / "report.json").write_text(report)
        knows_torch = 'case "$*" in *--report*) cat report.json; exit;; esac'
        write_program(binaries / "pip", f'echo "$@" >>pip.log\n{knows_torch}\necho "pip: no such package" >&2; exit 1')
        return tmp_path, on_a_disk(tmp_path, environment, free_megabytes)

    return make_one


def copy_bootstrap(folder: Path) -> None:
    (folder / "docker").mkdir()
    for file in ("bootstrap", "pyproject.toml", "docker/torch.sh"):
        shutil.copy(ROOT / file, folder / file)


def on_a_disk(folder: Path, environment: Mapping[str, str], free_megabytes: int) -> dict[str, str]:
    """The environment with so much free disk, and without settings of pip."""
    write_program(
        folder / "path" / "df", f'echo "Filesystem 1M-blocks Used Available"; echo "disk 1 1 {free_megabytes}"'
    )
    kept = {
        name: value
        for name, value in environment.items()
        if name not in ("TORCH_INDEX", "VERBOSE") and not name.startswith("PIP_")
    }
    return {**kept, "PATH": f"{folder / 'path'}{os.pathsep}{environment['PATH']}", "PYTHON": sys.executable}


def write_program(path: Path, script: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def test_requirements_that_cannot_be_installed_are_said(checkout: Checkout) -> None:
    folder, environment = checkout()
    done = run_bootstrap(folder, environment, "python")
    assert done.returncode == 1
    assert "pip: no such package" in done.stderr
    assert "error: pip could not install the locked requirements" in done.stderr


def test_too_little_disk_is_said_before_anything_is_taken(checkout: Checkout) -> None:
    folder, environment = checkout(free_megabytes=1_000)
    done = run_bootstrap(folder, environment, "python")
    assert done.returncode == 1
    assert re.search(rf"^error: .* needs \d+ MB of disk, 1000 MB are free in {folder}\. Free some", done.stderr)
    assert not (folder / "pip.log").exists()


def test_another_version_of_python_is_refused(checkout: Checkout) -> None:
    folder, environment = checkout()
    write_program(folder / "old-python", 'case "$1" in --version) echo Python 3.9.2;; *) exit 1;; esac')
    done = run_bootstrap(folder, {**environment, "PYTHON": str(folder / "old-python")}, "python")
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: You need Python 3.11, 3.12 or 3.13; {folder}/old-python is Python 3.9.2.")


# bootstrap: where PyTorch comes from


@pytest.fixture(scope="session")
def empty_environment(made_once: Callable[[str, Callable[[Path], None]], Path]) -> Path:
    """An environment with pip alone. Do not install into it: copy it."""

    def create(folder: Path) -> None:
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)

    return made_once("empty_environment", create)


class Indexes:
    """Package indexes on the loopback interface: each lists wheels of a few hundred bytes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        handler = functools.partial(Quiet, directory=str(folder))
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def add(self, index: str, name: str, requires: Sequence[str] = (), version: str = "1.0") -> None:
        """Put a wheel on the index, whose module says where it comes from."""
        wheel, metadata = write_wheel(
            self.folder / index / name.replace("_", "-"), name, version, requires, f"index = {index!r}\n"
        )
        digest = hashlib.sha256(metadata.encode()).hexdigest()
        wheel.with_name(f"{wheel.name}.metadata").write_text(metadata)
        link = f'<a href="{wheel.name}" data-core-metadata="sha256={digest}">{wheel.name}</a>'
        (wheel.parent / "index.html").write_text(link)

    def address(self, index: str) -> str:
        return f"http://127.0.0.1:{self.server.server_port}/{index}"


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """pip's output is what the tests look at."""


def write_wheel(folder: Path, name: str, version: str, requires: Sequence[str], code: str) -> tuple[Path, str]:
    """The wheel and its metadata."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = [
        "Metadata-Version: 2.1",
        f"Name: {name}",
        f"Version: {version}",
        *(f"Requires-Dist: {r}" for r in requires),
    ]
    metadata = "\n".join(lines) + "\n"
    path, about = folder / f"{name}-{version}-py3-none-any.whl", f"{name}-{version}.dist-info"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr(f"{name}.py", code)
        wheel.writestr(f"{about}/METADATA", metadata)
        wheel.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{about}/RECORD", "")
    return path, metadata


@pytest.fixture
def indexes(tmp_path: Path) -> Iterator[Indexes]:
    (tmp_path / "indexes").mkdir()
    made = Indexes(tmp_path / "indexes")
    yield made
    made.server.shutdown()
    made.server.server_close()


VERSION = "2.13.0"
CPU = ("filelock", "sympy>=1.13.3")
CUDA = ("nvidia_cublas; platform_system == 'Linux'",)

Install = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def install(tmp_path: Path, environment: Mapping[str, str], indexes: Indexes, empty_environment: Path) -> Install:
    """`bootstrap python` with nothing locked but PyTorch, and a pip that knows the index `general`."""

    def run(free_megabytes: int = 50_000, **settings: str) -> subprocess.CompletedProcess[str]:
        folder = tmp_path / "checkout"
        folder.mkdir()
        copy_bootstrap(folder)
        (folder / "requirements.lock").write_text("")
        shutil.copytree(empty_environment, folder / ".venv", symlinks=True)
        write_program(folder / ".venv" / "bin" / "pip", f'exec {folder}/.venv/bin/python -m pip "$@"')
        pip = {"PIP_CONFIG_FILE": os.devnull, "PIP_INDEX_URL": indexes.address("general"), "PIP_NO_CACHE_DIR": "1"}
        return run_bootstrap(folder, {**on_a_disk(tmp_path, environment, free_megabytes), **pip, **settings}, "python")

    return run


def installed_from(folder: Path) -> str:
    """The index that the installed PyTorch came from."""
    command = [str(folder / "checkout" / ".venv" / "bin" / "python"), "-c", "import torch; print(torch.index)"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def test_a_cpu_build_that_pip_finds_by_itself_comes_first(install: Install, indexes: Indexes, tmp_path: Path) -> None:
    indexes.add("general", "torch", CPU, VERSION)
    indexes.add("pytorch", "torch", CPU, VERSION)
    done = install(TORCH_INDEX=indexes.address("pytorch"))
    assert done.returncode == 0, done.stderr
    assert installed_from(tmp_path) == "general"
    assert "CUDA" not in done.stdout


def test_a_folder_of_wheels_counts_as_found_by_pip(install: Install, indexes: Indexes, tmp_path: Path) -> None:
    indexes.add("general", "torch", CUDA, VERSION)
    write_wheel(tmp_path / "links", "torch", f"{VERSION}+cpu", CPU, "index = 'links'\n")
    done = install(PIP_FIND_LINKS=str(tmp_path / "links"), TORCH_INDEX=indexes.address("nowhere"))
    assert done.returncode == 0, done.stderr
    assert installed_from(tmp_path) == "links"


def test_pytorchs_own_index_comes_before_a_cuda_build(install: Install, indexes: Indexes, tmp_path: Path) -> None:
    indexes.add("general", "torch", CUDA, VERSION)
    indexes.add("pytorch", "torch", CPU, VERSION)
    done = install(TORCH_INDEX=indexes.address("pytorch"))
    assert done.returncode == 0, done.stderr
    assert installed_from(tmp_path) == "pytorch"
    assert "CUDA" not in done.stdout


def test_the_cuda_build_is_the_last_and_its_size_comes_first(
    install: Install, indexes: Indexes, tmp_path: Path, listening: int
) -> None:
    """PyTorch's own index takes the connection and never answers."""
    indexes.add("general", "torch", CUDA, VERSION)
    indexes.add("general", "nvidia_cublas")
    start = time.monotonic()
    done = install(TORCH_INDEX=f"http://127.0.0.1:{listening}/cpu")
    assert done.returncode == 0, done.stderr
    assert time.monotonic() - start < 40, "an index that does not answer is given up"
    assert installed_from(tmp_path) == "general"
    announced = done.stdout.index(
        f"Found no CPU build of torch=={VERSION}, so the build for CUDA is taken: it downloads about"
    )
    assert announced < done.stdout.index("Installing the locked requirements") < done.stdout.index("Installing torch")
    packages = next((tmp_path / "checkout" / ".venv" / "lib").glob("python3*/site-packages"))
    assert (packages / "nvidia_cublas.py").exists(), "it needs NVIDIA's packages"


def test_too_little_disk_for_the_cuda_build_stops_before_the_download(
    install: Install, indexes: Indexes, tmp_path: Path
) -> None:
    indexes.add("general", "torch", CUDA, VERSION)
    done = install(free_megabytes=5_000, TORCH_INDEX=indexes.address("nowhere"))
    assert done.returncode == 1
    assert (
        f"error: The CUDA build of torch=={VERSION} needs 9000 MB of disk, 5000 MB are free. Free some" in done.stderr
    )
    assert "Installing" not in done.stdout


def test_without_any_build_of_pytorch_the_message_names_what_to_set(install: Install, indexes: Indexes) -> None:
    done = install(TORCH_INDEX=indexes.address("nowhere"))
    assert done.returncode == 1
    assert "No matching distribution found for torch" in done.stderr
    assert re.search(r"error: No build of torch==\S+ was found.*Set PIP_FIND_LINKS .* or TORCH_INDEX", done.stderr)


# bootstrap: warnings

NOISY = "echo result; echo a warning >&2; exit "


def test_the_warnings_of_a_step_that_works_are_kept_apart(checkout: Checkout) -> None:
    folder, environment = checkout()
    done = run_bootstrap(folder, environment, "quietly", "train/one", "sh", "-c", NOISY + "0")
    assert (done.returncode, done.stdout, done.stderr) == (0, "result\n", "")
    assert (folder / "build" / "logs" / "train.one.log").read_text() == "a warning\n"


def test_the_warnings_of_a_step_that_fails_are_shown(checkout: Checkout) -> None:
    folder, environment = checkout()
    done = run_bootstrap(folder, environment, "quietly", "step", "sh", "-c", NOISY + "3")
    assert (done.returncode, done.stdout, done.stderr) == (3, "result\n", "a warning\n")


def test_verbose_shows_all_warnings(checkout: Checkout) -> None:
    folder, environment = checkout()
    done = run_bootstrap(folder, {**environment, "VERBOSE": "1"}, "quietly", "step", "sh", "-c", NOISY + "0")
    assert (done.returncode, done.stdout, done.stderr) == (0, "result\n", "a warning\n")


def test_the_service_loses_no_message_but_the_frameworks_greetings(checkout: Checkout) -> None:
    folder, environment = checkout()
    greeting = "I0000 00:00:1.2 3 port.cc:153] oneDNN custom operations are on."
    write_program(folder / ".venv" / "bin" / "python", f'echo "{greeting}" >&2; echo "error: broken" >&2; exit 1')
    done = run_bootstrap(folder, environment, "serve")
    assert done.returncode == 1
    assert done.stderr == "error: broken\n"
