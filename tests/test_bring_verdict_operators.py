"""The lists of operators hold all that the installed frameworks have, sorted; what an upgrade adds has to be, too."""

import functools
import re
import subprocess
import sys
from pathlib import Path

import onnx
import pytest

from bring.verdict import examine, insist, keras, operators, tflite, torch
from bring.verdict import onnx as onnx_bytes
from contract.code import ROOT
from contract.formats import FORMATS, is_installed

BY_HAND = {
    "savedmodel": "",
    "onnx": "",
    "tflite": rf"{tflite.CUSTOM}\w+",
    "tfjs": "",
    "torch": r"(_operator|math|torch|prim)\..+",
    "torchscript": r"\w+",
    "openvino": "Const|If|Loop|PReLU|Parameter|ReLU|SoftMax|TensorIterator",
    "executorch": "",
    "coreai": "",
    "keras": r"__\w+__|Functional|StochasticDepth|LayerScale|CustomScaleLayer",
}
"""Kind -> the names in its list that no registry has: functions of Python, and marks in files."""


@functools.cache
def registry(kind: str) -> dict[str, list[str]]:
    """Operator -> what else the registry says of it, in a process of its own."""
    command = [sys.executable, "-m", "tests.registries", kind]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert not done.returncode, done.stderr[-3000:]
    return {name: more for name, *more in map(str.split, done.stdout.splitlines())}


@pytest.mark.parametrize("kind", BY_HAND)
def test_every_operator_of_a_framework_is_sorted(kind: str) -> None:
    listed = operators.purposes(kind)
    names = {name for name, purpose in listed.items() if purpose != torch.SIZES}
    if kind in FORMATS and not is_installed(kind):
        pytest.skip(f"{FORMATS[kind].runtime} is not installed")
    known = registry(kind).keys()
    assert len(known) > 150, "the registry is not found"
    unsorted = known - names
    assert not unsorted, f"bring/verdict/{kind}.txt: sort {sorted(unsorted)}: does each of them only compute?"
    gone = {name for name in names - known if not re.fullmatch(BY_HAND[kind], name)}
    assert not gone, f"bring/verdict/{kind}.txt: no framework has {sorted(gone)} any more"


@pytest.mark.parametrize("kind", BY_HAND)
def test_a_name_is_in_its_list_once_and_in_order(kind: str) -> None:
    text = Path(ROOT, "bring", "verdict", f"{kind}.txt").read_text()
    sections = [
        [line for line in section.splitlines()[1:] if line] for section in re.split(r"^\[", text, flags=re.M)[1:]
    ]
    assert all(section == sorted(section) for section in sections)
    names = [name for section in sections for name in section]
    assert len(names) == len(set(names)) == len(operators.purposes(kind))
    assert sections[0] and text.count("[computes]") == 1


@pytest.mark.skipif(not is_installed("openvino"), reason="OpenVINO is not installed")
def test_openvino_calls_some_operators_otherwise_in_its_files(tmp_path: Path) -> None:
    script = """
import sys
import numpy as np
import openvino
from openvino import opset16 as ops
x = ops.parameter([1, 4])
y = ops.softmax(ops.prelu(ops.relu(x), np.float32([0.5])), 1)
openvino.save_model(openvino.Model([y], [x]), sys.argv[1], compress_to_fp16=False)
"""
    file = tmp_path / "model.xml"
    subprocess.run([sys.executable, "-c", script, file], check=True, timeout=60)
    written = set(re.findall(r'type="(\w+)" version', file.read_text()))
    assert written == {"Parameter", "ReLU", "Const", "PReLU", "SoftMax", "Result"}
    insist(examine(file), trusted=False)


def test_the_headings_that_the_code_names_are_there() -> None:
    from bring.verdict.savedmodel import PYTHON
    from bring.verdict.savedmodel_files import HANDLE, PASSING, RESTORING, SAVING, VOCABULARY

    listed = operators.purposes("savedmodel")
    assert {PYTHON, SAVING, VOCABULARY} < set(listed.values())
    assert {listed[name] for name in {HANDLE, *PASSING}} == {"computes"}
    assert {listed[name] for name in RESTORING} == {SAVING}
    of_keras = {name for name, purpose in operators.purposes("keras").items() if purpose == keras.CODE}
    assert of_keras == keras.RUNS_CODE.keys()
    assert onnx.defs.onnx_opset_version() == onnx_bytes.NEWEST_OPSET


NAMES_A_PLACE = re.compile(
    r"file|path|(^|_)dir(_|$)|url|address|(^|_)host|prefix|descriptor|server|module", re.IGNORECASE
)
HARMLESS = {"top_paths", "host_reserved"}


def test_no_operator_that_computes_takes_the_name_of_a_file() -> None:
    """A check of the sorting: TensorFlow's operators name what they take."""
    taking = registry("savedmodel")
    assert "filename" in taking["ReadFile"] and "descriptor_source" in taking["DecodeProtoV2"]
    listed = operators.purposes("savedmodel")
    computing = [name for name in taking if listed.get(name) == operators.COMPUTES]
    places = {each for name in computing for each in taking[name] if NAMES_A_PLACE.search(each)}
    assert places <= HARMLESS
