"""The frameworks' own layers, operators and test models only compute: none of them is refused."""

import subprocess
import sys
from pathlib import Path

import onnx.backend.test
import pytest

from bring.verdict import examine
from contract.code import ROOT

AT_LEAST = {"keras": 300, "tensorflow": 4, "torch": 40}
"""How many layers, functions or models a framework writes: none of these may get lost unnoticed."""


@pytest.mark.parametrize("framework", AT_LEAST)
def test_what_a_framework_itself_computes_is_no_finding(tmp_path: Path, framework: str) -> None:
    command = [sys.executable, "-m", "tests.harmless_models", framework, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert not done.returncode, done.stderr[-3000:]
    assert int(done.stdout.split()[-1]) >= AT_LEAST[framework]
    models = [path for path in tmp_path.iterdir() if path.suffix != ".txt"]
    found = {path.name: examine(path).findings for path in models}
    assert found and {name: findings for name, findings in found.items() if findings} == {}


def test_no_model_of_onnx_own_tests_is_refused() -> None:
    folder = Path(onnx.backend.test.__file__).with_name("data")
    models = sorted(folder.rglob("model.onnx"))
    assert len(models) > 1000
    assert [str(model) for model in models if examine(model).findings] == []
