"""The README's tables, from a report: the artifacts, the browser, both frameworks, and where the walk's time goes.

python -m compare.tables artifacts                      prints them
python -m compare.tables artifacts --write README.md    fills them in between the README's markers
"""

import argparse
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from compare.figures import Figure, Measured, Missing
from compare.report import REPORT, Report, ReportError, read_report
from contract.errors import RosettaError

START, END = "<!-- figures: {} -->", "<!-- /figures -->"


def artifact_table(report: Report) -> Iterator[str]:
    """Answers, size and time, one line an artifact."""
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
    """What the same artifacts cost in Chromium, one line a runtime."""
    names = ("p50@1", "first_answer", "runtime_download", "model_download")
    rows = [row for row in report.rows.values() if row.where == "browser"]
    cells = (
        [f"`{row.name}`", row.runtime, row.backend, *(str(report.figure(row.name, name)) for name in names)]
        for row in rows
    )
    yield from _table("row|runtime|ran on|1 picture|first answer|runtime's download|artifact's download", cells)
    for row in rows[:1]:
        took, download = (report.figure(row.name, name) for name in ("page", "page_download"))
        yield from ("", f"Before any runtime the page itself takes {took} and {download}, with an empty cache.")


def advice_list(report: Report) -> Iterator[str]:
    """What is recommended where nothing is asked for."""
    for advice in report.recommendations:
        yield "- " + " ".join(sentence.text for sentence in advice.reasons)


def training_table(report: Report) -> Iterator[str]:
    """The two frameworks side by side, on the same network, data and settings."""
    names = ("parameters", "epochs", "epoch", "images_per_second", "accuracy", "model_lines", "training_lines")
    header = "model|trained with|parameters|epochs|an epoch|pictures|accuracy|lines: model|lines: training"
    trained = report.training.values()
    yield from _table(
        header, ([f"`{one.model}`", one.framework, *(str(one.figures[name]) for name in names)] for one in trained)
    )


def stage_table(report: Report) -> Iterator[str]:
    """The seconds that each stage of the walk took when its result was made, without the start of its process."""
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
        f"Measured on {report.machine}, Python {report.machine.python}, {report.settings.threads} thread a runtime, "
        f"{report.settings.rounds} rounds, {report.made}."
    )


def _table(header: str, rows: Iterable[Sequence[str]]) -> list[str]:
    names = header.split("|")
    return [f"| {' | '.join(cells)} |" for cells in (names, ["---"] * len(names), *rows)]


TABLES: dict[str, Callable[[Report], Iterator[str]]] = {
    "artifacts": artifact_table,
    "browser": browser_table,
    "advice": advice_list,
    "training": training_table,
    "stages": stage_table,
}


def write_tables(page: Path, tables: dict[str, list[str]]) -> None:
    """Put each table between its markers. Raises ReportError when the page has no place for one."""
    text = page.read_text(encoding="utf-8")
    for name, lines in tables.items():
        start = START.format(name)
        before, found, rest = text.partition(start)
        _, closed, after = rest.partition(END)
        if not (found and closed):
            raise ReportError(f"{page} has no place for the table {name!r}: {start} ... {END} is expected.")
        text = f"{before}{start}\n" + "\n".join(lines) + f"\n{END}{after}"
    page.write_text(text, encoding="utf-8")


def main() -> None:
    """Print the tables, or write them into a page."""
    parser = argparse.ArgumentParser(prog="python -m compare.tables")
    parser.add_argument("artifacts", type=Path)
    parser.add_argument("--write", type=Path, metavar="PAGE", help="fill the tables of this Markdown page instead")
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
