"""Rows of `make compare` that visitors' devices measured."""

from pathlib import Path

import pytest

from compare.advice import add_recommendations
from compare.devices import device_rows
from compare.figures import Figure, Missing
from compare.page import write_page
from compare.report import Constraints, read_report, write_report
from contract.device_check import FOLDER, keep_check
from contract.manifest import Manifest
from tests import reports
from tests.test_contract_device_check import FILES, ROW, written


def manifest(format: str) -> Manifest:
    return Manifest("m", format, None, inputs=(), outputs=(), image=None, labels=(), files=FILES[f"m-{format}"])


def test_what_a_reduced_precision_loses_on_the_server_too_lowers_agreement_and_is_not_wrong(tmp_path: Path) -> None:
    keep_check(tmp_path / FOLDER, written(rows={"m-onnx@onnx-webgpu": ROW | {"wrong": [], "lost": [3, 8, 9]}}))
    (row,) = device_rows(tmp_path, [manifest("onnx"), manifest("keras")])
    agreement = row.figures["agreement"]
    assert row.wrong == 0 and isinstance(agreement, Figure) and agreement.value == 0.985


def test_a_check_becomes_rows_and_is_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    failed = ROW | {
        "questions": 0,
        "wrong": [],
        "lost": [],
        "difference": None,
        "ms": None,
        "error": "It did not start.",
    }
    keep_check(tmp_path / FOLDER, written(rows={"m-onnx@onnx-webgpu": ROW, "m-onnx@onnx-wasm": failed}))
    keep_check(tmp_path / FOLDER, written(artifacts={"m-onnx": {"model.onnx": "0" * 64}}))
    wrong, broken = device_rows(tmp_path, [manifest("onnx"), manifest("keras")])
    assert "is left out. The check is of other artifacts: m-onnx has other files" in capsys.readouterr().out
    assert (wrong.row, wrong.device, wrong.wrong) == ("m-onnx@onnx-webgpu", "Pixel", 2)
    agreement, time = wrong.figures["agreement"], wrong.figures["time"]
    assert isinstance(agreement, Figure) and agreement.value == 0.99 and agreement.samples == 200
    assert isinstance(time, Figure) and (time.value, time.unit) == (0.00025, "s")
    assert broken.figures["agreement"] == Missing("It did not start.")

    report = reports.report_of(reports.row("m-keras", ms=9), reports.row("m-onnx"), devices=(wrong, broken))
    report = add_recommendations(report, None, Constraints())
    write_report(tmp_path, report)
    assert read_report(tmp_path / "report.json") == report
    write_page(report, tmp_path)
    shown = (tmp_path / "report.html").read_text()
    assert "2 of 200" in shown and "Pixel" in shown and "It did not start." in shown
