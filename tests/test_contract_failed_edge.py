"""The record of a failed conversion is read as it was written; a broken record is left out."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from contract.failed_edge import MAX_BYTES, log_file, read_failed_edges, write_failed_edge
from tests.brought_artifacts import FAILED


def test_a_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    other = replace(FAILED, format="tflite-int8", cause="", advice="", routes=())
    for edge in (other, FAILED):
        write_failed_edge(tmp_path, edge, "Zeile für Zeile\n")
    assert read_failed_edges(tmp_path) == [FAILED, other]
    assert log_file(tmp_path, FAILED).read_text(encoding="utf-8") == "Zeile für Zeile\n"
    record = json.loads((tmp_path / "pair" / "failed" / "onnx-int8.json").read_bytes())
    assert record["try"] == FAILED.advice
    assert record["routes"][0] == {"route": "static", "error": "ValueError: GridSample"}


@pytest.mark.parametrize(
    "change",
    [
        {"schema": 2},
        {"model": "other"},
        {"format": "tflite"},
        {"format": "../onnx"},
        {"parent": "../.."},
        {"reason": None},
        {"cause": 5},
        {"routes": "none"},
        {"routes": [{"route": "a"}]},
        {"reason": "x" * MAX_BYTES},
    ],
    ids=lambda change: str(change)[:30],
)
def test_a_wrong_record_is_left_out_and_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, change: dict[str, object]
) -> None:
    write_failed_edge(tmp_path, replace(FAILED, format="tfjs"), "")
    write_failed_edge(tmp_path, FAILED, "")
    path = log_file(tmp_path, FAILED).with_suffix(".json")
    path.write_text(json.dumps(json.loads(path.read_bytes()) | change))
    assert [edge.format for edge in read_failed_edges(tmp_path)] == ["tfjs"]
    assert f"{path} is not a failed conversion's record" in caplog.text


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"schema": 1}', "[" * 100_000, "\xff"])
def test_broken_json_is_left_out(tmp_path: Path, text: str) -> None:
    write_failed_edge(tmp_path, FAILED, "")
    (tmp_path / "pair" / "failed" / "tfjs.json").write_text(text, encoding="latin-1")
    (tmp_path / "pair" / "failed" / "tflite.json").mkdir()
    assert read_failed_edges(tmp_path) == [FAILED]
