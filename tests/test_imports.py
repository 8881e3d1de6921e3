"""The stages know only what comes before them, and whatever depends on code asks its imports which files it is.

contract < train < export < serve.runtimes < verify < bring < {compare, serve} < bench
"""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.zoo.__main__ import CODE as ZOO_CODE
from bring.publish import CODE as BRING_CODE
from compare.measure import CODE as MEASURE_CODE
from contract.code import ROOT, files_of, imports, module_of

ORDER = ("contract", "train", "export", "serve.runtimes", "verify", "bring", "compare", "bench")

BEFORE: dict[str, set[str]] = {stage: set(ORDER[:place]) for place, stage in enumerate(ORDER)}
"""What each folder may import besides itself; a module belongs to the longest name here that it starts with."""
# The verdict looks at bytes, whatever reads or converts them; whatever loads an artifact asks it before.
BEFORE["bring.verdict"] = {"contract"}
for stage in ("verify", "bring", "compare", "bench"):
    BEFORE[stage] |= {"bring.verdict"}
# The service needs runtimes and the verdict, and nothing of what compares artifacts or brings models.
BEFORE["serve"] = {"contract", "export", "serve.protocol", "serve.remote", "serve.runtimes", "bring.verdict"}
# Bytes and requests, whatever runs the models and whatever counts the requests.
BEFORE["serve.protocol"] = {"contract"}
# A remote runtime uses the protocol; nothing that compares artifacts loads it.
BEFORE["serve.remote"] = {"contract", "serve.protocol"}

ELSEWHERE = {"tests", "web", "docker"}
"""Folders that no stage imports from."""

CONTRACT_MAY_USE = sys.stdlib_module_names | {
    "numpy",
    "PIL",
    "ml_dtypes",  # NumPy has no bfloat16 of its own; it is imported where a manifest names that dtype, and only there
}


def violations(root: Path) -> list[str]:
    """Every import under `root` that goes against the order, as `file:line: what imports what`."""
    found = []
    for path in modules(root):
        module = module_of(path, root)
        for line, target in imports(path, module):
            if problem := judged(module, target):
                found.append(f"{path.relative_to(root)}:{line}: {problem}")
    return found


def modules(root: Path) -> list[Path]:
    folders = {name.partition(".")[0] for name in BEFORE}
    return [path for name in sorted(folders) for path in sorted((root / name).rglob("*.py"))]


def judged(module: str, target: str) -> str | None:
    """What is wrong with `module` importing `target`, if anything."""
    importer, imported = stage_of(module), stage_of(target)
    top = target.partition(".")[0]
    if imported in BEFORE:
        allowed = imported == importer or imported in BEFORE[importer]
    else:
        allowed = top not in ELSEWHERE and (importer != "contract" or top in CONTRACT_MAY_USE)
    return None if allowed else f"{importer} imports {target}"


def stage_of(name: str) -> str:
    """`serve.runtimes.keras` -> `serve.runtimes`; a name that is in no stage stays as it is."""
    return max((stage for stage in BEFORE if f"{name}.".startswith(f"{stage}.")), key=len, default=name)


def test_every_import_follows_the_order() -> None:
    assert violations(ROOT) == []


def test_no_folder_holds_more_than_a_quarter_of_the_code() -> None:
    lines = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in modules(ROOT)}
    total = sum(lines.values())
    folders = {path.relative_to(ROOT).parts[0] for path in lines}
    shares = {name: sum(lines[path] for path in lines if path.is_relative_to(ROOT / name)) / total for name in folders}
    assert {name: share for name, share in shares.items() if share > 0.25} == {}


# What depends on code


def stages() -> dict[str, tuple[str, list[str]]]:
    """Each stage of the Dockerfile: what it is made from, and its instructions, one a line."""
    text = re.sub(r"\\\n\s*", " ", (ROOT / "docker" / "Dockerfile").read_text())
    parts = re.split(r"^FROM (\S+) AS (\S+)$", text, flags=re.MULTILINE)[1:]
    return {name: (base, body.splitlines()) for base, name, body in zip(*[iter(parts)] * 3, strict=True)}


def lineage(name: str) -> Iterator[str]:
    """The instructions of a stage and of those that it is made from."""
    while name in stages():
        name, lines = stages()[name]
        yield from lines


def copied(stage: str) -> set[Path]:
    """The project's Python files that a stage has."""
    sources = [
        ROOT / source
        for line in lineage(stage)
        if line.startswith("COPY ") and "--from=" not in line
        for source in line.split()[1:-1]
    ]
    return {file for source in sources for file in ([source] if source.is_file() else source.rglob("*"))}


RUNS = [
    (stage, module)
    for stage, (_, lines) in stages().items()
    for module in re.findall(
        r"python -m (?!pip\b)([a-z_.]+)", "\n".join(line for line in lines if line.startswith("RUN "))
    )
]
"""(stage, module) for each of the project's modules that building an image runs."""

TABLES = {
    "verify": ["serve.runtimes.*", "verify.precision.*"],
    "export.precision": ["export.precision.*"],
    "bring": ["bring.*", "export.*", "verify.*", "serve.runtimes.*"],
    "export": ["export.*"],
}
"""What a module loads by the names in a table, which no import statement shows."""


@pytest.mark.parametrize(("stage", "module"), RUNS)
def test_an_image_has_what_its_steps_import(stage: str, module: str) -> None:
    name = f"{module}.__main__" if (ROOT / module / "__main__.py").is_file() else module
    assert set(files_of(name, *TABLES.get(module, []))) <= copied(stage)


def test_an_image_that_serves_has_what_the_service_and_its_runtimes_import() -> None:
    assert set(files_of("serve.__main__", "serve.*")) <= copied("source")


def test_the_steps_are_found() -> None:
    assert {module for _, module in RUNS} >= {"train.keras_cnn", "export", "verify", "bring", "contract.dataset"}


def rules() -> dict[str, set[str]]:
    """Target -> prerequisites, as make itself reads the Makefile."""
    command = ["make", "--print-data-base", "--question", "--no-print-directory", "help"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    lines = re.findall(r"^(artifacts/\S+): (.*)$", done.stdout, re.MULTILINE)
    return {target: set(names.split(" | ")[0].split()) for target, names in lines}


MADE_BY = {
    "artifacts/keras_cnn/keras/manifest.json": ("train.keras_cnn",),
    "artifacts/torch_cnn/torch/manifest.json": ("train.torch_cnn",),
    "artifacts/keras_cnn/onnx/manifest.json": ("export.__main__", "export.keras_to_onnx"),
    "artifacts/keras_cnn/savedmodel/manifest.json": ("export.__main__", "export.keras_to_savedmodel"),
    "artifacts/torch_cnn/onnx/manifest.json": ("export.__main__", "export.torch_to_onnx"),
    "artifacts/torch_cnn/savedmodel/manifest.json": ("export.__main__", "export.onnx_to_savedmodel"),
    "artifacts/torch_cnn/tflite/manifest.json": ("export.__main__", "export.savedmodel_to_tflite"),
    "artifacts/torch_cnn/tfjs/manifest.json": ("export.__main__", "export.savedmodel_to_tfjs"),
    "artifacts/keras_cnn/.verified": ("verify.__main__", "serve.runtimes.*"),
    "artifacts/samples/index.json": ("verify.samples",),
}


def test_make_makes_an_artifact_anew_when_any_code_behind_it_changes() -> None:
    known = rules()
    for target, names in MADE_BY.items():
        assert {file.relative_to(ROOT).as_posix() for file in files_of(*names)} <= known[target], target


@pytest.mark.parametrize("names", [*MEASURE_CODE.values(), BRING_CODE, ZOO_CODE])
def test_the_code_behind_a_result_is_named_by_modules_that_exist(names: tuple[str, ...]) -> None:
    files = files_of(*names)
    assert all(any(f"{module_of(file)}.".startswith(name.removesuffix("*")) for file in files) for name in names)


def test_a_module_is_made_of_what_it_imports_and_of_what_these_import(tmp_path: Path) -> None:
    for name, text in {
        "a/__init__.py": "",
        "a/main.py": "from b import one\n",
        "a/main.js": "",
        "a/other.py": "",
        "b/__init__.py": "",
        "b/one.py": "def run():\n    from . import two\n",
        "b/two.py": "import json, numpy\n",
        "b/three.py": "",
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    made_of = {path.relative_to(tmp_path).as_posix() for path in files_of("a.main", root=tmp_path)}
    assert made_of == {"a/__init__.py", "a/main.py", "a/main.js", "b/__init__.py", "b/one.py", "b/two.py"}
    assert tmp_path / "b" / "three.py" in files_of("b.*", root=tmp_path)
    with pytest.raises(ModuleNotFoundError, match=r"a\.four is not a module"):
        files_of("a.four", root=tmp_path)


# The rule about imports can fail


def test_the_modules_are_found() -> None:
    names = {str(path.relative_to(ROOT)) for path in modules(ROOT)}
    assert {"contract/dataset.py", "contract/image.py", "contract/manifest.py", "bring/verdict/keras.py"} <= names


@pytest.mark.parametrize(
    ("path", "line", "problem"),
    [
        ("contract/image.py", "import train.keras_cnn", "contract imports train.keras_cnn"),
        ("contract/image.py", "from serve.app import create_app", "contract imports serve.app.create_app"),
        ("contract/image.py", "import flask", "contract imports flask"),
        ("contract/code.py", "import torch", "contract imports torch"),
        ("train/keras_cnn.py", "from export import EXPORTERS", "train imports export.EXPORTERS"),
        ("export/keras_to_onnx.py", "def run():\n    import serve.runtimes.onnx", "export imports serve.runtimes.onnx"),
        ("serve/runtimes/onnx.py", "from serve import catalog", "serve.runtimes imports serve.catalog"),
        ("serve/runtimes/onnx.py", "from .. import catalog", "serve.runtimes imports serve.catalog"),
        ("serve/runtimes/__init__.py", "from ..catalog import load", "serve.runtimes imports serve.catalog.load"),
        ("serve/runtimes/onnx.py", "import compare", "serve.runtimes imports compare"),
        ("serve/protocol/oip.py", "from serve.stats import Stats", "serve.protocol imports serve.stats.Stats"),
        ("serve/protocol/oip.py", "import serve.runtimes", "serve.protocol imports serve.runtimes"),
        ("serve/remote/http.py", "from serve.dataplane import x", "serve.remote imports serve.dataplane.x"),
        ("serve/app.py", "from compare import parity", "serve imports compare.parity"),
        ("verify/parity.py", "import serve", "verify imports serve"),
        ("verify/parity.py", "from serve.dataplane import infer", "verify imports serve.dataplane.infer"),
        ("verify/parity.py", "import importlib\nimportlib.import_module('serve.app')", "verify imports serve.app"),
        ("verify/parity.py", "from bring import walk", "verify imports bring.walk"),
        ("compare/report.py", "import bench.zoo", "compare imports bench.zoo"),
        ("serve/app.py", "from bring import walk", "serve imports bring.walk"),
        ("serve/app.py", "from tests.conftest import client", "serve imports tests.conftest.client"),
    ],
)
def test_a_violation_is_found(tmp_path: Path, path: str, line: str, problem: str) -> None:
    (tmp_path / path).parent.mkdir(parents=True)
    (tmp_path / path).write_text(line, encoding="utf-8")
    (found,) = violations(tmp_path)
    assert found.startswith(f"{path}:")
    assert found.endswith(f": {problem}")


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("contract/image.py", "import io\nimport numpy as np\nfrom PIL import Image\nfrom contract import errors"),
        ("contract/image.py", "from . import errors\nfrom .manifest import ImageSpec"),
        ("train/keras_cnn.py", "import tensorflow\nfrom contract import dataset"),
        (
            "serve/app.py",
            "import flask\nfrom serve import runtimes\nfrom serve.runtimes import onnx\nimport serve.catalog",
        ),
        ("verify/parity.py", "from serve import runtimes\nfrom serve.runtimes.onnx import Onnx\nimport export"),
        ("verify/parity.py", "import server\nimport contracts"),
    ],
)
def test_what_the_order_allows_is_allowed(tmp_path: Path, path: str, line: str) -> None:
    (tmp_path / path).parent.mkdir(parents=True)
    (tmp_path / path).write_text(line, encoding="utf-8")
    assert violations(tmp_path) == []
