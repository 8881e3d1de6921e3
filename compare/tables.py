"""A report's tables in Markdown: the short answer, artifacts, browser, advice, training, and what each stage takes.

python -m compare.tables artifacts                                      prints the tables
python -m compare.tables artifacts --write README.md docs/compare.md    writes each table into the page with its marks

A table stands between two lines, the marks `<!-- figures: NAME -->` and `<!-- /figures -->`.
"""

import argparse
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from compare.figures import Figure, Measured, Missing
from compare.report import REPORT, Recommendation, Report, ReportError, read_report
from contract.errors import RosettaError

START, END = "<!-- figures: {} -->", "<!-- /figures -->"


def answer_table(report: Report) -> Iterator[str]:
    """The short answer: one line for each artifact, then what to ship to each target."""
    rows = [row for row in report.rows.values() if row.where == "server"]
    cells = (
        [
            f"`{row.artifact}`",
            ", ".join(filter(None, _answers(report, row.artifact)[1:])),
            str(report.figure(row.name, "http_p50@1")),
            " + ".join(str(report.figure(row.name, name)) for name in ("disk", "installed")),
        ]
        for row in rows
    )
    yield from _table("artifact|largest difference, same class|1 picture over HTTP|artifact + runtime", cells)
    yield ""
    yield from (_choice(report, recommendation) for recommendation in report.recommendations)


def _choice(report: Report, recommendation: Recommendation) -> str:
    """What to ship, and the artifacts that are as good within the noise, each once."""
    target = report.targets[recommendation.target].title
    if recommendation.choice is None:
        return f"- For {target}, nothing fits."
    rows = (recommendation.choice, *recommendation.ties)
    choice, *ties = dict.fromkeys(f"`{report.rows[row].artifact}`" for row in rows)
    others = f" As good within the noise: {', '.join(ties)}." if ties else ""
    return f"- For {target}, ship {choice}.{others}"


def artifact_table(report: Report) -> Iterator[str]:
    """Answers, size and time: one line for each artifact."""
    header = (
        "artifact|runtime|accuracy|largest difference|same class|files|runtime's packages|cold start|"
        "1 picture|1 picture over HTTP|64 pictures"
    )
    rows = [row for row in report.rows.values() if row.where == "server"]
    names = ("disk", "installed", "cold_start", "p50@1", "http_p50@1", "p50@64")
    yield from _table(
        header,
        (
            [
                f"`{row.artifact}`",
                row.runtime,
                *_answers(report, row.artifact),
                *(str(report.figure(row.name, name)) for name in names),
            ]
            for row in rows
        ),
    )
    yield ""
    yield _measured_on(report)


def _answers(report: Report, name: str) -> list[str]:
    artifact = report.artifacts[name]
    accuracy = _share(artifact.figures["accuracy"])
    if artifact.source is None:
        return [accuracy, artifact.verdict, ""]
    return [accuracy, _largest(report, name), str(artifact.figures["agreement"])]


def _largest(report: Report, name: str) -> str:
    differences = [
        report.artifacts[name].figures.get(f"max_abs_diff@{batch}") for batch in report.settings.parity_batches
    ]
    known = [figure.value for figure in differences if isinstance(figure, Figure)]
    return f"{max(known):.1e}" if known else "not measured"


def _share(figure: Measured) -> str:
    return f"{figure.value:.4f}" if isinstance(figure, Figure) else str(figure)


def browser_table(report: Report) -> Iterator[str]:
    """Time and download in Chromium: one line for each artifact on each runtime."""
    names = ("p50@1", "first_answer", "runtime_download", "model_download")
    rows = [row for row in report.rows.values() if row.where == "browser"]
    cells = (
        [f"`{row.name}`", row.runtime, row.backend, *(str(report.figure(row.name, name)) for name in names)]
        for row in rows
    )
    yield from _table("row|runtime|ran on|1 picture|first answer|runtime's download|artifact's download", cells)
    for row in rows[:1]:
        took, download = (report.figure(row.name, name) for name in ("page", "page_download"))
        yield from ("", f"The page itself, before any runtime, takes {took} and {download} with an empty cache.")


def advice_list(report: Report) -> Iterator[str]:
    """The recommendation for each target."""
    for recommendation in report.recommendations:
        yield "- " + " ".join(sentence.text for sentence in recommendation.reasons)


def training_table(report: Report) -> Iterator[str]:
    """The frameworks side by side: the same network, data and settings."""
    names = ("parameters", "epochs", "epoch", "images_per_second", "accuracy", "model_lines", "training_lines")
    header = "model|trained with|parameters|epochs|an epoch|pictures|accuracy|lines: model|lines: training"
    trained = report.training.values()
    yield from _table(
        header, ([f"`{each.model}`", each.framework, *(str(each.figures[name]) for name in names)] for each in trained)
    )


def stage_table(report: Report) -> Iterator[str]:
    """The seconds that each stage took to make its result, without the start of its process."""
    stages: list[list[str]] = []
    for artifact in report.artifacts.values():
        edge = f"train `{artifact.name}`" if artifact.source is None else f"export `{artifact.name}`"
        for stage, name in ((edge, "made"), (f"verify `{artifact.name}`", "verified")):
            figure = artifact.figures.get(name, Missing(""))
            if isinstance(figure, Figure):
                stages.append([stage, str(figure)])
    stages.sort(key=lambda stage: ("train", "expor", "verif").index(stage[0][:5]))
    return iter(_table("stage|took", stages))


def _measured_on(report: Report) -> str:
    return (
        f"Measured on {report.machine}, Python {report.machine.python}, threads of each runtime: "
        f"{report.settings.threads}, {report.settings.rounds} rounds, {report.made}."
    )


def _table(header: str, rows: Iterable[Sequence[str]]) -> list[str]:
    names = header.split("|")
    return [f"| {' | '.join(cells)} |" for cells in (names, ["---"] * len(names), *rows)]


TABLES: dict[str, Callable[[Report], Iterator[str]]] = {
    "answer": answer_table,
    "artifacts": artifact_table,
    "browser": browser_table,
    "advice": advice_list,
    "training": training_table,
    "stages": stage_table,
}


def write_tables(pages: Path | Sequence[Path], tables: Mapping[str, Sequence[str]]) -> None:
    """Write the lines of each table between its marks, in every page that has them.

    Raises ReportError, and writes nothing, if a page cannot be read, if a table's marks stand in none of the pages, or
    if a closing mark is missing.
    """
    pages = [pages] if isinstance(pages, Path) else pages
    texts = {page: _read(page) for page in pages}
    for name, lines in tables.items():
        marked = [page for page, text in texts.items() if START.format(name) in text]
        if not marked:
            raise ReportError(
                f"No page has a place for the table {name!r}: expected the lines {START.format(name)} and {END} "
                f"in {' or '.join(map(str, pages))}."
            )
        for page in marked:
            texts[page] = _filled(page, texts[page], name, lines)
    for page, text in texts.items():
        page.write_text(text, encoding="utf-8")


def _read(page: Path) -> str:
    try:
        return page.read_text(encoding="utf-8")
    except OSError as error:
        raise ReportError(f"The page {page} cannot be read ({error.strerror}).") from None


def _filled(page: Path, text: str, name: str, lines: Sequence[str]) -> str:
    """The page's text with the table's lines; whatever stood between the marks is gone."""
    start = START.format(name)
    before, *parts = text.split(start)
    filled = [before]
    for part in parts:
        old, end, after = part.partition(END)
        if not end or START.partition("{}")[0] in old:
            raise ReportError(f"{page}: the table {name!r} has no end: expected {END} after {start}.")
        filled.append("\n".join(["", *lines, END]) + after)
    return start.join(filled)


def main() -> None:
    """The command line: print the tables, or write them into pages."""
    parser = argparse.ArgumentParser(prog="python -m compare.tables", description="The tables of artifacts/report.")
    parser.add_argument("artifacts", type=Path)
    parser.add_argument(
        "--write",
        type=Path,
        nargs="+",
        metavar="PAGE",
        help="write each table into the Markdown page that has its marks, instead of printing",
    )
    options = parser.parse_args()
    try:
        report = read_report(options.artifacts / "report" / REPORT)
        tables = {name: list(table(report)) for name, table in TABLES.items()}
        if options.write:
            write_tables(options.write, tables)
        else:
            print("\n\n".join("\n".join(lines) for lines in tables.values()))
    except RosettaError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
