"""The words of a status: defined in one place, used alike in the documents, the metadata, the page and the report."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient

from compare.advice import add_recommendations
from compare.figures import exact
from compare.page import PAGE, write_page
from compare.report import read_report, write_report
from contract.code import ROOT
from contract.manifest import MANIFEST, sha256_of
from contract.parity_result import (
    ORDINARY,
    PARITY,
    VERIFIED,
    WORDS,
    EdgeDifference,
    ParityResult,
    read_status,
    verified_at,
    write_parity,
)
from contract.records import decode, parse
from serve.app import create_app
from serve.catalog import load_catalog
from serve.settings import Settings
from tests.reports import KERAS, NO_LIMITS, report_of, row
from verify.parity import line
from verify.processor import processor

DIFFERENCE = EdgeDifference("100 everywhere", "probabilities", "100", "inf")
FIGURES = ("max_abs_diff", "mean_abs_diff", "cosine_distance", "max_kl", "agreement")
"""Those of an artifact's answers, at each batch."""
SAID = "with 100 everywhere, probabilities is inf instead of 100"


def test_the_documents_define_each_word() -> None:
    rows = re.findall(r"^\| (`.*`) \|", (ROOT / "docs" / "trust.md").read_text().split("### The words")[1], re.M)
    assert set(re.findall("`(.*?)`", " ".join(rows[: len(WORDS) + 1]))) == {*WORDS, *map(verified_at, (0.999, 0.99))}


@pytest.mark.parametrize("file", ["text.en.ts", "text.ko.ts"])
def test_the_page_knows_each_word_in_each_language(file: str) -> None:
    source = ROOT / "web" / "src"
    known = re.search(r"^export type PlainStatus = (.*);$", (source / "status.ts").read_text(), re.M)
    assert known and set(re.findall("'(.*?)'", known[1])) == set(WORDS)
    text = (source / file).read_text()
    for table in ("status", "statusHelp"):
        words = re.search(rf"^  {table}: {{(.*?)}},$", text, re.M | re.S)
        assert words and {a or b for a, b in re.findall(r"(?:'([^']+)'|(\b\w+)): '", words[1])} == set(WORDS), table


@pytest.fixture(scope="module")
def folder(artifacts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Artifacts of which ONNX answers otherwise at an edge, and of which TF Lite was never compared."""
    folder = tmp_path_factory.mktemp("words") / "artifacts"
    for format in ("keras", "onnx", "savedmodel", "tflite"):
        shutil.copytree(artifacts / "keras_cnn" / format, folder / "keras_cnn" / format)
    onnx = folder / "keras_cnn" / "onnx"
    result = decode(ParityResult, parse((onnx / PARITY).read_bytes()))
    write_parity(onnx, replace(result, differs=(DIFFERENCE,)))
    (folder / "keras_cnn" / "tflite" / PARITY).unlink()
    return folder


@pytest.fixture(scope="module")
def client(folder: Path) -> Any:
    catalog = load_catalog(folder)
    yield create_app(catalog, Settings(artifacts=folder)).test_client()
    catalog.close()


def test_metadata_index_and_comparison_say_the_same_words(client: FlaskClient, folder: Path) -> None:
    index: Any = client.post("/v2/repository/index").json
    reasons = {entry["name"]: entry["reason"] for entry in index}
    picture = (ROOT / "tests" / "golden" / "already_28x28.png").read_bytes()
    compared: Any = client.post("/compare", data=picture).json
    words = {result["model"]: result["status"] for result in compared["results"]}
    assert list(words.values()) == ["source", ORDINARY, VERIFIED, "unverified"]
    for name, word in words.items():
        described: Any = client.get(f"/v2/models/{name}").json
        metadata = described["parameters"]
        assert metadata["status"] == word == read_status(folder / "keras_cnn" / name.rpartition("-")[2]).word
        assert (SAID in metadata["status_reason"]) == (SAID in reasons[name]) == (word == ORDINARY)
        assert reasons[name] == ("" if word in ("source", VERIFIED) else f"{word}: {metadata['status_reason']}")
        parity = metadata["parity"] or {"differs": [], "processor": processor()}
        assert parity["differs"] == ([SAID] if word == ORDINARY else [])
        assert parity["processor"] == processor(), "where it was proven"


def test_the_gate_says_ordinary_inputs(folder: Path) -> None:
    result = read_status(folder / "keras_cnn" / "onnx").parity
    assert result is not None
    assert line(result, has_classes=True).endswith(f": verified on ordinary inputs; {SAID}")


def test_another_manifest_takes_the_word_away(folder: Path, tmp_path: Path) -> None:
    """A word holds for the bytes that were compared, also the one of ordinary inputs."""
    model = shutil.copytree(folder / "keras_cnn", tmp_path / "keras_cnn")
    (model / "onnx" / MANIFEST).write_text((model / "onnx" / MANIFEST).read_text() + " ")
    assert sha256_of(model / "onnx" / MANIFEST) != sha256_of(folder / "keras_cnn" / "onnx" / MANIFEST)
    assert read_status(model / "onnx").word == "unverified"


def test_the_report_says_the_word_and_where_answers_differ(tmp_path: Path) -> None:
    artifact, its_row = row("m-onnx", ms=0.5, mb=5)
    figures = {f"{name}@1": exact(0.0, "", 10) for name in FIGURES}
    ordinary = replace(artifact, status=ORDINARY, differs=(SAID,), figures={**artifact.figures, **figures}), its_row
    wrong, wrong_row = row("m-tfjs", same=9_500, verdict="500 answers change class at batch 1")
    failed = replace(wrong, status="unverified"), wrong_row
    report = add_recommendations(report_of(KERAS, ordinary, failed), "server", NO_LIMITS)
    reasons = [sentence.text for sentence in report.recommendations[0].reasons]
    assert f"It is {ORDINARY}; {SAID}." in reasons
    assert [artifact.word for artifact in report.artifacts.values()] == ["source", ORDINARY, wrong.verdict]
    write_report(tmp_path, report)
    write_page(report, tmp_path)
    shown = (tmp_path / PAGE).read_text()
    assert shown.count(f">{ORDINARY}") == 2, "in the overview, and beside its answers"
    assert f"<small>{SAID}</small>" in shown
    assert read_report(tmp_path / "report.json") == report
    older = json.loads((tmp_path / "report.json").read_text())
    for each in older["artifacts"].values():
        del each["status"], each["differs"]
    (tmp_path / "report.json").write_text(json.dumps(older))
    assert read_report(tmp_path / "report.json").artifacts["m-onnx"].word == "passed"
