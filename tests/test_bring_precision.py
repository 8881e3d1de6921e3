"""Reduced precisions of a brought model: rows set aside to calibrate on, variants made, compared and published."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from bring.data_folder import set_aside
from bring.words import not_made, not_made_line
from contract.code import ROOT
from contract.failed_edge import read_failed_edges
from contract.ledger import read_ledger
from contract.manifest import MANIFEST, read_manifest
from contract.parity_result import read_status
from tests.conftest import MadeOnce
from tests.test_export_precision import WIDTH, network
from verify.questions import Questions, read


def questions(count: int) -> Questions:
    rows = np.arange(count * WIDTH, dtype=np.float32).reshape(count, WIDTH)
    return Questions({"x": rows}, np.arange(count), f"{count} rows")


@pytest.mark.parametrize(("count", "asked"), [(100, 80), (500, 400), (1000, 800), (2000, 1800)])
def test_the_last_rows_are_set_aside_and_accuracy_is_judged_on_the_others(count: int, asked: int) -> None:
    left, rows = set_aside(questions(count))
    assert rows is not None
    assert left.labels is not None
    assert (left.count, len(left.labels), len(rows.which)) == (asked, asked, count - asked)
    together = np.concatenate([left.inputs["x"], rows.inputs["x"]])
    np.testing.assert_array_equal(together, questions(count).inputs["x"])


def test_of_few_rows_none_is_set_aside() -> None:
    left, rows = set_aside(questions(99))
    assert (left.count, rows) == (99, None)


def test_a_line_of_a_variant_that_was_not_made_is_read_again() -> None:
    lines = ["net-onnx-fp16: made from onnx in 0.1 s", not_made_line("net-onnx-int8", "It needs\n rows.")]
    assert not_made("\n".join(lines), "net") == {"onnx-int8": "It needs rows."}


@pytest.fixture(scope="module")
def brought(made_once: MadeOnce) -> Path:
    """A small ONNX model, brought with rows of its own."""

    def bring(folder: Path) -> None:
        file = network(folder / "given") / "model.onnx"
        model = file.rename(folder / "given" / "net.onnx")
        rows = np.random.default_rng(2).normal(size=(1000, WIDTH)).astype(np.float32)
        np.savez(folder / "given" / "rows.npz", x=rows)
        (folder / "given" / "model.toml").write_text('rows = "rows.npz"\n')
        command = [sys.executable, "-m", "bring", str(model), "--artifacts", str(folder / "artifacts")]
        done = subprocess.run(
            [*command, "--precision", "int8,int8dyn"], cwd=ROOT, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        (folder / "output").write_text(done.stdout)

    return made_once("brought_precision", bring)


def test_variants_of_a_brought_model_are_published_with_their_class_and_ledger(brought: Path) -> None:
    folder = brought / "artifacts" / "net" / "onnx-int8"
    status = read_status(folder)
    assert status.word in ("verified at 99.9 %", "verified at 99 %"), status.reason
    assert status.parity is not None
    assert status.parity.kept is not None
    assert (status.parity.kept.measure, status.parity.kept.rows) == ("variation", 800)
    ledger = read_ledger(folder)
    assert ledger is not None
    assert ledger.weights["int8"] > 0
    assert "net-onnx-int8: keeps " in (brought / "output").read_text()


def test_calibration_rows_are_none_of_the_questions(brought: Path) -> None:
    asked = read(brought / "artifacts" / "questions" / "net.npz")
    about = read_manifest(brought / "artifacts" / "net" / "onnx-int8").made_with["calibration"]
    assert (asked.count, about["rows"]) == (800, 200)
    assert "rows.npz" in about["from"]


def test_every_family_that_could_be_made_has_its_variants(brought: Path) -> None:
    made = {path.parent.name for path in (brought / "artifacts" / "net").glob(f"*/{MANIFEST}")}
    failed = {edge.format for edge in read_failed_edges(brought / "artifacts")}
    assert {"onnx", "onnx-int8", "onnx-int8dyn", "tflite", "tflite-int8", "tflite-int8dyn"} <= made | failed
    assert {"onnx", "onnx-int8", "onnx-int8dyn", "tflite"} <= made
