"""A small zoo: written, brought and measured; failures are in its table, and nothing is measured twice."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from bench.edges import COMPARED_HERE
from bench.zoo.__main__ import measure_all, results, table
from bench.zoo.models import ZOO
from bench.zoo.variants import read_variant, variants_table
from contract.code import ROOT
from tests.formats_here import run_from

PICTURES = 40
TIMED = ("onnx", "tflite")
"""The formats whose runtimes start fast."""
NAMES = ["tiny_torch"]
"""tests/test_bring.py brings a Keras file."""
MADE = run_from("torch")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the small zoo, after it was measured."""
    made = tmp_path_factory.mktemp("zoo")
    measure_all(NAMES, made, PICTURES, TIMED)
    return made


def test_every_format_passes_on_pictures(folder: Path) -> None:
    records = results(folder)
    assert {name: record["source"] for name, record in records.items()} == {"tiny_torch": "torch"}
    for record in records.values():
        assert set(record["edges"]) == {record["source"], *MADE}
        for format in MADE:
            edge = record["edges"][format]
            assert edge["passed"] and 0 <= edge["off"] < 1e-4 and edge["bytes"] > 1000, edge
            assert ("p50" in edge) == (format in TIMED) and 0 < edge.get("p50", 0.1) < 1
        assert record["seconds"] > 1 and 1e8 < record["peak"] < 6 * 2**30


def test_the_answers_to_pictures_are_sure_and_of_many_classes(folder: Path) -> None:
    """A network that gives the same answer to everything would pass any parity."""
    script = [
        "import sys, numpy as np; from pathlib import Path; from verify import questions;",
        "from contract.manifest import read_manifest; from serve.runtimes import load_runtime;",
        "folder = Path(sys.argv[1]); rows = questions.load(folder.parent, '', None);",
        "manifest = read_manifest(folder); runtime = load_runtime(folder, manifest);",
        "inputs = rows.rows(0, 40, dict.fromkeys(rows.inputs, np.dtype('float32')));",
        "answers = next(iter(runtime.predict(inputs).values()));",
        "print(np.sort(answers, axis=1)[:, -1].mean(), len(set(answers.argmax(axis=1).tolist())))",
    ]
    for name in NAMES:
        command = [sys.executable, "-c", " ".join(script), str(folder / "artifacts" / name / "onnx")]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == 0, done.stderr
        sure, classes = map(float, done.stdout.split())
        assert sure > 0.4 and classes >= 5, name


def test_a_model_that_was_measured_is_not_measured_again(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = results(folder)
    measure_all(NAMES, folder, PICTURES, TIMED)
    assert results(folder) == before and capsys.readouterr().out == ""


def test_the_table_has_each_edge_or_the_reason_why_it_failed(folder: Path) -> None:
    records = {name: {**record, "edges": dict(record["edges"])} for name, record in results(folder).items()}
    torch_edges = records["tiny_torch"]["edges"]
    of_keras = {"keras": torch_edges["torch"], **{format: torch_edges[format] for format in MADE}}
    records = {"tiny_keras": {**records["tiny_torch"], "source": "keras", "edges": of_keras}, **records}
    records["tiny_torch"]["edges"]["tfjs"] = {"reason": "TF.js has no operator Erf. Ship ONNX."}
    parted = {**records["tiny_keras"]["edges"]["tflite"], "passed": False, "off": 0.02, "reason": "it is 0.02 off"}
    records["tiny_keras"]["edges"]["tflite"] = {**parted, "route": "a batch of 1"}
    lines = list(table(records))
    header, keras, torch = (dict(enumerate(line.strip("| ").split(" | "))) for line in (lines[0], *lines[2:4]))
    column = {name: number for number, name in header.items()}
    assert keras[column["onnx"]].startswith("passed ") and keras[column["tflite"]].startswith("FAILED 2e-02 / ")
    assert torch[column["source"]].startswith("torch: ") and torch[column["tfjs"]] == "FAILED"
    assert torch[column["run"]] == records["tiny_torch"]["run"] != ""
    assert "- `tiny_torch-tfjs`: TF.js has no operator Erf. Ship ONNX." in lines
    assert "- `tiny_keras-tflite`: it is 0.02 off" in lines and "- `tiny_keras-tflite`: a batch of 1" in lines
    passed, edges = 2 * len(MADE) - 2, 2 * len(MADE)
    assert f"Of the convolutional networks' edges {passed} of {edges} pass ({passed / edges:.1%})." in lines
    assert any(line.startswith("Not run: mobilenet_v2_keras, ") for line in lines)


def variant(word: str, kept: list[object] | None, **more: object) -> dict[str, object]:
    known = {"word": word, "reason": "", "kept": kept, "time": 0.5, "p50": 0.002, "size": 0.3, "in_float": ["a", "b"]}
    return {**known, "computing": {"int8": 50, "float32": 3}, "stored_only": False, **more}


def test_the_table_of_variants_has_a_row_for_each_that_was_made_and_the_reason_for_the_others() -> None:
    held = variant("verified at 99 %", ["agreement", 0.998, 0.993, 1.001])
    lost = variant("unverified", ["agreement", 0.5, 0.4, 0.6], time=1.2, stored_only=True, computing={"float32": 53})
    few = variant("unverified", ["variation", 1.0, 0.97, 1.03], time=1.09)
    made = {"tflite-int8": few, "onnx-fp16": lost, "onnx-int8": held, "torch-bf16": {"reason": "it has no product"}}
    record = {"precisions": made, "machine": "a machine", "run": "2026-12-01 16:39"}
    lines = list(variants_table({"tiny_torch": record, "tiny_keras": {"error": "gone", **record, "precisions": {}}}))
    assert lines[2:5] == [
        "| Tiny ConvNeXt (PyTorch) | `onnx-fp16` | **missed** | 50.00 % of agreement (40.00 to 60.00) | 1.20x (2 ms) | "
        "0.30x | 53 of 53 | 2 | **slower**, **stored only** |",
        "| Tiny ConvNeXt (PyTorch) | `onnx-int8` | 99 % | 99.80 % of agreement (99.30 to 100.10) | 0.50x (2 ms) | "
        "0.30x | 3 of 53 | 2 |  |",
        "| Tiny ConvNeXt (PyTorch) | `tflite-int8` | too few rows | 100.00 % of variation (97.00 to 103.00) | "
        "1.09x (2 ms) | 0.30x | 3 of 53 | 2 |  |",
    ]
    assert "- `tiny_torch-torch-bf16`: it has no product" in lines
    assert "- `tiny_keras`: gone" in lines
    assert lines[-1] == "Measured on a machine, 2026-12-01 16:39 (UTC)."


def test_a_variant_is_measured_beside_its_float32_artifact(tmp_path: Path, folder: Path) -> None:
    """Of a real artifact, with a name of a precision; that of a format that is not there is nothing."""
    shutil.copytree(folder / "artifacts" / "tiny_torch", tmp_path / "tiny_torch")
    shutil.copytree(tmp_path / "tiny_torch" / "onnx", tmp_path / "tiny_torch" / "onnx-fp16")
    seconds = {"onnx-fp16": 0.003, "onnx": 0.002}
    read = read_variant(tmp_path, "tiny_torch", "onnx-fp16", lambda place: seconds[place.name])
    assert read is not None
    assert (read["time"], read["p50"], read["size"]) == (1.5, 0.003, 1.0)
    assert read_variant(tmp_path, "tiny_torch", "openvino-int8", lambda place: 1.0) is None


def test_a_model_that_cannot_be_written_is_a_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("no such\nlayer")

    monkeypatch.setattr("bench.zoo.__main__.measure", broken)
    measure_all(["resnet18_torch"], tmp_path, 1)
    lines = list(table(results(tmp_path)))
    assert (
        "| ResNet-18 (PyTorch) | 224 px | FAILED |" in lines[2]
        and "- `resnet18_torch`: RuntimeError: no such layer" in lines
    )
    assert f"Of the convolutional networks' edges 0 of {len(COMPARED_HERE)} pass (0.0%)." in lines


def test_an_unknown_model_is_named_with_the_known_ones() -> None:
    command = [sys.executable, "-m", "bench.zoo", "vit_tiny", "lstm_keras"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 1 and "vit_tiny: no such model. Known: " in done.stderr
    assert all(name in done.stderr for name in ZOO) and "Traceback" not in done.stderr
