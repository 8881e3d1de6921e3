"""The stages know only what comes before them: contract < train < export < serve.runtimes < {compare, serve}."""

import ast
import importlib.util
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import contract

ROOT = Path(contract.__file__).resolve().parent.parent

BEFORE = {
    "contract": set[str](),
    "train": {"contract"},
    "export": {"contract", "train"},
    "serve.runtimes": {"contract", "train", "export"},
    # It speaks the protocol, so it stands above that; nothing that compares artifacts loads it.
    "serve.runtimes.remote": {"contract", "train", "export", "serve.runtimes", "serve"},
    "compare": {"contract", "train", "export", "serve.runtimes"},
    "serve": {"contract", "train", "export", "serve.runtimes", "serve.runtimes.remote"},
}
"""What each folder may import besides itself; a module belongs to the longest name here that it starts with."""

ELSEWHERE = {"tests", "web", "docker"}
"""Folders that no stage imports from."""

CONTRACT_MAY_USE = sys.stdlib_module_names | {"numpy", "PIL"}


def violations(root: Path) -> list[str]:
    """Every import under `root` that goes against the order, as `file:line: what imports what`."""
    found = []
    for path in modules(root):
        module = ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__")
        for line, target in imports(path, module):
            if problem := judged(module, target):
                found.append(f"{path.relative_to(root)}:{line}: {problem}")
    return found


def modules(root: Path) -> list[Path]:
    return [path for name in BEFORE if "." not in name for path in sorted((root / name).rglob("*.py"))]


def imports(path: Path, module: str) -> Iterator[tuple[int, str]]:
    """Line and full name of everything that a module imports, at its top or inside a function."""
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            source = node.module or ""
            if node.level:
                source = importlib.util.resolve_name("." * node.level + source, package)
            yield from ((node.lineno, f"{source}.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "__import__")):
            yield from ((node.lineno, str(name.value)) for name in node.args[:1] if isinstance(name, ast.Constant))


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


def test_the_image_that_exports_has_what_is_imported_there() -> None:
    """docker/Dockerfile copies single files of train/ into it, so that a change of the others exports nothing anew."""
    paths = [path for path in modules(ROOT) if path.is_relative_to(ROOT / "export")]
    used = {
        target for path in paths for _, target in imports(path, f"export.{path.stem}") if target.startswith("train.")
    }
    copied = re.findall(r"train/(\w+)\.py", (ROOT / "docker" / "Dockerfile").read_text())
    assert {target.split(".")[1] for target in used} == set(copied) - {"__init__"}


def test_the_modules_are_found() -> None:
    names = {str(path.relative_to(ROOT)) for path in modules(ROOT)}
    assert {"contract/dataset.py", "contract/image.py", "contract/manifest.py", "contract/golden/make.py"} <= names


@pytest.mark.parametrize(
    ("path", "line", "problem"),
    [
        ("contract/image.py", "import train.keras_cnn", "contract imports train.keras_cnn"),
        ("contract/image.py", "from serve.app import create_app", "contract imports serve.app.create_app"),
        ("contract/image.py", "import flask", "contract imports flask"),
        ("contract/golden/make.py", "import torch", "contract imports torch"),
        ("train/keras_cnn.py", "from export import EXPORTERS", "train imports export.EXPORTERS"),
        ("export/keras_to_onnx.py", "def run():\n    import serve.runtimes.onnx", "export imports serve.runtimes.onnx"),
        ("serve/runtimes/onnx.py", "from serve import catalog", "serve.runtimes imports serve.catalog"),
        ("serve/runtimes/onnx.py", "from .. import catalog", "serve.runtimes imports serve.catalog"),
        ("serve/runtimes/__init__.py", "from ..catalog import load", "serve.runtimes imports serve.catalog.load"),
        ("serve/runtimes/onnx.py", "import compare", "serve.runtimes imports compare"),
        ("serve/app.py", "from compare import parity", "serve imports compare.parity"),
        ("compare/parity.py", "import serve", "compare imports serve"),
        ("compare/parity.py", "from serve.dataplane import infer", "compare imports serve.dataplane.infer"),
        ("compare/parity.py", "import importlib\nimportlib.import_module('serve.app')", "compare imports serve.app"),
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
        ("compare/parity.py", "from serve import runtimes\nfrom serve.runtimes.onnx import Onnx\nimport export"),
        ("compare/parity.py", "import server\nimport contracts"),
    ],
)
def test_what_the_order_allows_is_allowed(tmp_path: Path, path: str, line: str) -> None:
    (tmp_path / path).parent.mkdir(parents=True)
    (tmp_path / path).write_text(line, encoding="utf-8")
    assert violations(tmp_path) == []
