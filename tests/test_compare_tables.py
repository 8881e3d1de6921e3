"""Tables in Markdown pages: each is written between its marks, wherever these stand."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest

from compare.advice import add_recommendations
from compare.figures import Missing, exact
from compare.report import Constraints, Report, ReportError, write_report
from compare.tables import TABLES, answer_table, arm_table, main, placement_table, write_tables
from contract.placement import Placement
from tests.reports import KERAS, NO_LIMITS, ONNX, PROOF, TFJS, TFLITE, report_of, row


def marks(name: str, inside: str = "old\n") -> str:
    return f"<!-- figures: {name} -->\n{inside}<!-- /figures -->\n"


def write(page: Path, text: str) -> Path:
    page.parent.mkdir(exist_ok=True)
    page.write_text(text, encoding="utf-8")
    return page


def test_a_table_replaces_what_stood_between_its_marks(tmp_path: Path) -> None:
    page = write(tmp_path / "page.md", f"Before.\n\n{marks('sizes')}\nAfter.\n\n{marks('times')}")
    write_tables(page, {"sizes": ["| a |", "| --- |"]})
    new = marks("sizes", "| a |\n| --- |\n")
    expected = f"Before.\n\n{new}\nAfter.\n\n{marks('times')}"
    assert page.read_text() == expected
    write_tables(page, {"sizes": ["| a |", "| --- |"]})
    assert page.read_text() == expected, "writing again changes nothing"


def test_each_table_is_written_in_every_page_that_has_its_marks(tmp_path: Path) -> None:
    first = write(tmp_path / "README.md", marks("sizes") + marks("sizes"))
    second = write(tmp_path / "docs" / "other.md", marks("times") + marks("sizes"))
    write_tables([first, second], {"sizes": ["small"], "times": ["fast"]})
    assert first.read_text() == marks("sizes", "small\n") * 2
    assert second.read_text() == marks("times", "fast\n") + marks("sizes", "small\n")


def test_marks_that_stand_in_no_page_are_named_and_nothing_is_written(tmp_path: Path) -> None:
    page = write(tmp_path / "page.md", marks("sizes"))
    with pytest.raises(ReportError, match=r"No page has a place for the table 'times': expected .*figures: times"):
        write_tables([page], {"sizes": ["small"], "times": ["fast"]})
    assert page.read_text() == marks("sizes")


@pytest.mark.parametrize("text", ["<!-- figures: sizes -->\n", "<!-- figures: sizes -->\n" + marks("times")])
def test_a_mark_without_its_end_is_an_error(tmp_path: Path, text: str) -> None:
    page = write(tmp_path / "page.md", text)
    with pytest.raises(ReportError, match=r"page\.md: the table 'sizes' has no end"):
        write_tables(page, {"sizes": ["small"]})
    assert page.read_text() == text


def test_a_page_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ReportError, match=r"The page .*page.md cannot be read \(No such file"):
        write_tables(tmp_path / "page.md", {})


def test_the_command_line_takes_several_pages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "report").mkdir()
    write_report(tmp_path / "report", add_recommendations(report_of(KERAS, TFLITE), None, NO_LIMITS))
    *most, last = TABLES
    pages = [
        write(tmp_path / "README.md", "".join(map(marks, most))),
        write(tmp_path / "docs" / "page.md", marks(last)),
    ]
    monkeypatch.setattr(sys, "argv", ["tables", str(tmp_path), "--write", *map(str, pages)])
    main()
    assert "| `m-tflite` | Runtime 1.2 | 0.9000 |" in pages[0].read_text()
    assert "ship m-tflite on Runtime 1.2" in pages[0].read_text()
    assert "| stage | took |" in pages[1].read_text()
    pages[1].write_text("")
    with pytest.raises(SystemExit, match=f"error: No page has a place for the table '{last}'"):
        main()


# The short answer


def test_the_table_of_placements_has_the_artifacts_whose_runtime_shows_them() -> None:
    artifact, its_row = TFLITE
    placed = replace(artifact, placements=(Placement("XNNPACK", 8, 9, 2, True), Placement("NNAPI", 5, 9, 1, False)))
    report = report_of(row("m-keras", ms=10, mb=3), (placed, its_row))
    words = "8 of 9 operators run on XNNPACK, in 2 pieces; 5 of 9 operators could run on NNAPI, in 1 piece"
    assert list(placement_table(report))[2:] == [f"| `m-tflite` | {words} |"]


def test_the_table_of_arm_has_the_artifacts_that_were_run_there() -> None:
    artifact, its_row = TFLITE
    proven = replace(artifact, arm=replace(PROOF, here_max_abs_diff=1 / 256, here_changed=2))
    other = replace(ONNX[0], arm=replace(PROOF, artifact="m-onnx", passed=False, reasons=("it is off", "by much")))
    report = report_of(row("m-keras", ms=10, mb=3), (proven, its_row), (other, ONNX[1]))
    assert list(arm_table(report))[2:] == [
        "| `m-tflite` | proven | 1,000 | 3.9e-03 | 2 |",
        "| `m-onnx` | it is off; by much | 1,000 | 0.0e+00 | 0 |",
    ]


def test_the_short_answer_has_a_line_for_each_artifact_and_one_for_each_target() -> None:
    installed = {"installed": exact(2e9, "B")}
    browser = row("m-tfjs", ms=5, where="browser", runtime="tfjs-wasm")
    artifact, its_row = TFLITE
    differences = {"max_abs_diff@1": exact(1e-6, ""), "max_abs_diff@64": exact(3e-6, "")}
    tflite = replace(artifact, figures={**artifact.figures, **differences}), its_row
    report = report_of(row("m-keras", ms=10, mb=3, figures=installed), tflite, browser)
    assert list(answer_table(add_recommendations(report, None, NO_LIMITS))) == [
        "| artifact | largest difference, same class | 1 picture over HTTP | artifact + runtime |",
        "| --- | --- | --- | --- |",
        "| `m-keras` | source | 10.0 ms | 3.00 MB + 2.00 GB |",
        "| `m-tflite` | 3.0e-06, 100.00 % | 800 µs | 130 MB + not measured |",
        "",
        "- For a server, ship `m-keras`.",
        "- For a browser, ship `m-tfjs`.",
        "- For an Android phone, ship `m-tflite`.",
        "- For an iPhone, ship `m-tflite`.",
        "",
        "Measured on Processor, 2 cores, 8 GiB, System 1, Python 3.11.7, threads of each runtime: 1, 3 rounds, "
        "2026-01-02.",
    ]


def test_the_short_answer_says_where_an_artifact_could_run_that_is_not_run_here() -> None:
    artifact, its_row = row("m-coreml", ms=1)
    unknown = Missing("It is converted, and not run here: Core ML needs macOS.")
    figures = {**artifact.figures, "agreement": unknown, "max_abs_diff@1": unknown}
    lines = list(answer_table(report_of(KERAS, (replace(artifact, needs="macOS", figures=figures), its_row))))
    assert lines[3].startswith("| `m-coreml` | not run: needs macOS | ")
    proven = list(answer_table(report_of(KERAS, (replace(artifact, needs="macOS"), its_row))))
    assert proven[3].startswith("| `m-coreml` | not measured, 100.00 % |")


def choices(report: Report) -> list[str]:
    return [line for line in answer_table(report) if line.startswith("- ")]


def test_the_short_answer_names_artifacts_that_are_as_good_once() -> None:
    near = [row("m-tflite", ms=0.99, mb=140), *(row("m-tfjs", ms=1.0, mb=140, runtime=name) for name in ("a", "b"))]
    report = add_recommendations(report_of(ONNX, *near), None, NO_LIMITS)
    assert choices(report)[0] == "- For a server, ship `m-tflite`. As good within the noise: `m-onnx` and `m-tfjs`."


def test_the_short_answer_says_where_nothing_fits() -> None:
    report = add_recommendations(report_of(KERAS, TFJS), "server", Constraints(max_mb=1))
    assert choices(report)[0] == "- For a server, nothing fits."
