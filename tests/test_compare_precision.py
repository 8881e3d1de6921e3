"""Variants of reduced precision in a report: their marks, their table, and what the advice says of them."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from compare.advice import add_recommendations, advise
from compare.figures import Figure
from compare.marks import marked
from compare.page import PAGE, write_page
from compare.recommend import recommend
from compare.report import Artifact, Report, ReportError, Row, read_report, write_report
from compare.tables import loss_table, precision_table
from contract.ledger import ClassLoss, LayerLoss, Ledger
from tests.reports import NO_LIMITS, report_of, row, timed

FLOAT = row("m-tflite", ms=1.0, mb=100)


def ledger(computing: Mapping[str, int], dtype: str = "int8") -> Ledger:
    ends = {"pixels": "float32"}
    weights = {dtype: 9000, "int32": 600, "float32": 10}
    return Ledger("0" * 64, dtype, ends, ends, weights, {dtype: 9}, computing, 4, 0, "CPU")


def variant(
    format: str, ms: float, mb: float, computing: Mapping[str, int] | None = None, lost: float = 0, **more: Any
) -> tuple[Artifact, Row]:
    """A row with a time of one picture, a size, what it computes in, and the points of accuracy that it loses."""
    artifact, its_row = row(f"m-{format}", ms=ms, mb=mb, verdict="passed at 99 %", **more)
    known = {"points_lost": Figure(lost, "", lost - 0.1, lost + 0.1, 10_000, "an interval")}
    own = ledger({"int8": 3} if computing is None else computing)
    return dataclasses.replace(artifact, ledger=own, figures={**artifact.figures, **known}), its_row


def marks_of(*rows: tuple[Artifact, Row]) -> dict[str, tuple[str, ...]]:
    report = marked(report_of(*rows))
    return {name.removesuffix("@server"): row.marks for name, row in report.rows.items()}


@pytest.mark.parametrize(
    ("row_of_variant", "expected"),
    [
        (variant("tflite-int8", ms=0.6, mb=40), ()),
        (variant("tflite-int8", ms=1.5, mb=40), ("slower",)),
        (variant("tflite-int8", ms=1.01, mb=40), ()),
        (variant("tflite-int8", ms=0.6, mb=120), ("larger",)),
        (variant("tflite-int8", ms=0.9, mb=40, computing={"float32": 3}), ("stored only",)),
        (variant("tflite-int8", ms=3, mb=120, computing={}), ("slower", "larger", "stored only")),
    ],
)
def test_a_variant_is_marked_beyond_the_noise(row_of_variant: tuple[Artifact, Row], expected: tuple[str, ...]) -> None:
    assert marks_of(FLOAT, row_of_variant) == {"m-tflite": (), row_of_variant[0].name: expected}


def test_a_variant_is_compared_with_its_own_family_and_runtime() -> None:
    onnx = row("m-onnx", ms=0.1, mb=10)
    browser = row("m-tflite", ms=9, mb=100, where="browser", runtime="litert-wasm")
    report = marked(report_of(onnx, FLOAT, browser, variant("tflite-int8", ms=0.5, mb=40)))
    figures = report.rows["m-tflite-int8@server"].figures
    times = figures["time_beside_float32"]
    assert isinstance(times, Figure)
    assert (times.value, times.low, times.high) == pytest.approx((0.5, 0.5 * 0.98 / 1.02, 0.5 * 1.02 / 0.98))
    assert "time_beside_float32" not in report.rows["m-tflite@server"].figures


def sentences(*rows: tuple[Artifact, Row], target: str = "android") -> list[str]:
    return [sentence.text for sentence in advise(marked(report_of(*rows)), target, NO_LIMITS).reasons]


def test_the_advice_chooses_among_variants_and_says_what_the_choice_gives_up() -> None:
    rows = FLOAT, variant("tflite-int8", ms=0.6, mb=40, lost=0.02), variant("tflite-fp16", ms=0.9, mb=60)
    text = sentences(*rows)
    assert text[0] == "For an Android phone, ship m-tflite-int8 on Runtime 1.2."
    assert "Its lower precision gives up 0.02 points of accuracy, which is within the noise." in text


def test_accuracy_that_is_lost_beyond_the_noise_is_not_called_noise() -> None:
    text = sentences(FLOAT, variant("tflite-int8", ms=0.6, mb=40, lost=0.3))
    assert "Its lower precision gives up 0.3 points of accuracy." in text


def test_the_advice_says_where_the_rule_of_thumb_would_be_slower() -> None:
    rows = FLOAT, row("m-onnx", ms=1, mb=100), variant("onnx-int8dyn", ms=6.8, mb=50)
    assert "Not every int8 is faster: m-onnx-int8dyn takes 6.8 times as long as m-onnx here." in sentences(*rows)


def test_what_the_rule_of_thumb_would_cost_within_the_noise_is_said_to_be_noise() -> None:
    slower = variant("onnx-int8", ms=1.36, mb=50, spread=0.3)
    said = sentences(FLOAT, row("m-onnx", ms=1, mb=100, spread=0.3), slower)
    assert "Not every int8 is faster: m-onnx-int8 takes 1.4 times as long as m-onnx here, within the noise." in said
    assert not [text for text in sentences(FLOAT, variant("tflite-int8", ms=1.04, mb=50)) if "Not" in text]


def test_a_variant_that_misses_its_class_is_not_chosen() -> None:
    artifact, its_row = variant("tflite-int8", ms=0.1, mb=1)
    failed = dataclasses.replace(artifact, verdict="it keeps 80 % of its source's accuracy")
    decision = recommend(marked(report_of(FLOAT, (failed, its_row))), "android", NO_LIMITS)
    assert decision.choice == "m-tflite@server"


def test_the_table_has_each_float32_row_above_its_variants() -> None:
    rows = FLOAT, row("m-tfjs", ms=1, mb=1), variant("tflite-int8", ms=0.5, mb=40), variant("tflite-fp16", ms=2, mb=60)
    lines = [line for line in precision_table(marked(report_of(*rows))) if line.startswith("| `")]
    assert [line.split("`")[1] for line in lines] == ["m-tflite", "m-tflite-int8", "m-tflite-fp16"]
    assert "| 99 % |" in lines[1]
    assert "int8 9.00 kB, int32 600 B" in lines[1]
    assert "0.50x time, 0.40x bytes |" in lines[1]
    assert "2.00x time, 0.60x bytes, **slower** |" in lines[2]


def test_the_table_says_on_which_processors_a_precision_is_fast() -> None:
    artifact, its_row = variant("tflite-fp16", ms=2, mb=60)
    fast = dataclasses.replace(ledger({"float16": 3}), fast_on=("amx_fp16", "avx512_fp16"))
    report = report_of(FLOAT, (dataclasses.replace(artifact, ledger=fast), its_row))
    assert any("| float16 (fast with amx_fp16 or avx512_fp16) |" in line for line in precision_table(marked(report)))


CLASSES = ClassLoss("Shirt", 1000, -0.03, -0.05, -0.01), ClassLoss("Coat", 1000, -0.004, -0.02, 0.012)
LAYERS = (LayerLoss("conv/Relu", "CONV_2D", 0.012, 0.013),)


def with_losses() -> Report:
    artifact, its_row = variant("tflite-int8", ms=0.6, mb=40)
    lossy = dataclasses.replace(ledger({"int8": 3}), classes=CLASSES, layers=LAYERS)
    return report_of(FLOAT, (dataclasses.replace(artifact, ledger=lossy), its_row))


def test_the_table_of_losses_names_classes_and_layers() -> None:
    classes = "**Shirt -3.00 points (-5.0 to -1.0)**, Coat -0.40 points (-2.0 to +1.2)"
    assert list(loss_table(with_losses()))[2:] == [f"| `m-tflite-int8` | {classes} | conv/Relu 1.2 % |"]


def test_the_page_names_the_classes_and_layers_that_lose_most(tmp_path: Path) -> None:
    write_page(with_losses(), tmp_path)
    page = (tmp_path / PAGE).read_text()
    assert '<span class="failed">Shirt -3.00 points (-5.0 to -1.0)</span>, <span>Coat' in page
    assert "conv/Relu 1.2 %" in page


def test_a_report_with_variants_comes_back_equal(tmp_path: Path) -> None:
    report = add_recommendations(marked(with_losses()), None, NO_LIMITS)
    write_report(tmp_path, report)
    assert read_report(tmp_path / "report.json") == report


def test_a_report_that_is_older_than_precisions_can_be_read(tmp_path: Path) -> None:
    report = add_recommendations(report_of(FLOAT), None, NO_LIMITS)
    write_report(tmp_path, report)
    path = tmp_path / "report.json"
    data = json.loads(path.read_text())
    for each in data["artifacts"].values():
        del each["ledger"]
    for each in data["rows"].values():
        del each["marks"]
    for each in data["recommendations"]:
        del each["more_ties"], each["constraints"]["allow_precision"]
    path.write_text(json.dumps(data))
    assert read_report(path) == report
    path.write_text('{"artifacts": []}')
    with pytest.raises(ReportError, match="cannot be read as a report"):
        read_report(path)


def test_times_without_a_spread_are_marked_only_where_they_differ() -> None:
    artifact, its_row = variant("tflite-int8", ms=1.0, mb=40)
    slower = dataclasses.replace(its_row, figures={**its_row.figures, "p50@1": timed(1.05e-3, 0.0)})
    plain = row("m-tflite", ms=1.0, mb=100, spread=0.0)
    assert marks_of(plain, (artifact, slower))["m-tflite-int8"] == ("slower",)
