"""Tables in Markdown pages: each is written between its marks, wherever these stand."""

import sys
from pathlib import Path

import pytest

from compare.advice import add_recommendations
from compare.report import ReportError, write_report
from compare.tables import TABLES, main, write_tables
from tests.reports import KERAS, NO_LIMITS, TFLITE, report_of


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
