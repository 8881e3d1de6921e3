"""A report's tables in Markdown: the short answer, artifacts, browser, advice, training, and what each stage takes.

python -m compare.tables artifacts                                      prints the tables
python -m compare.tables artifacts --write README.md docs/compare.md    writes each table into the page with its marks

A table stands between two lines, the marks `<!-- figures: NAME -->` and `<!-- /figures -->`.
"""

import argparse
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

from compare.advice import NAMED
from compare.figures import Figure, Measured, Missing, shown
from compare.marks import RATIOS, float32_row
from compare.report import REPORT, Artifact, Recommendation, Report, ReportError, Row, read_report
from contract.errors import RosettaError
from contract.ledger import ClassLoss, LayerLoss, Ledger

START, END = "<!-- figures: {} -->", "<!-- /figures -->"


def answer_table(report: Report) -> Iterator[str]:
    """The short answer: one line for each artifact, then what to ship to each target."""
    rows = [row for row in report.rows.values() if row.where == "server"]
    cells = (
        [
            ", ".join([f"`{row.artifact}`", *(f"**{mark}**" for mark in row.marks)]),
            ", ".join(filter(None, _answers(report, row.artifact)[1:])),
            str(report.figure(row.name, "http_p50@1")),
            " + ".join(str(report.figure(row.name, name)) for name in ("disk", "installed")),
        ]
        for row in rows
    )
    yield from markdown("artifact|largest difference, same class|1 picture over HTTP|artifact + runtime", cells)
    yield ""
    yield from (_choice(report, recommendation) for recommendation in report.recommendations)
    yield from ("", _measured_on(report))


def _choice(report: Report, recommendation: Recommendation) -> str:
    """What to ship, and the artifacts that are as good within the noise, each once."""
    target = report.targets[recommendation.target].title
    if recommendation.choice is None:
        return f"- For {target}, nothing fits."
    rows = (recommendation.choice, *recommendation.ties)
    choice, *ties = dict.fromkeys(f"`{report.rows[row].artifact}`" for row in rows)
    more = len(ties) - NAMED
    named = [*ties[:NAMED], *([f"{more} other{'s' if more > 1 else ''}"] if more > 0 else [])]
    *first, last = named or [""]
    listed = f"{', '.join(first)} and {last}" if first else last
    others = f" As good within the noise: {listed}." if ties else ""
    return f"- For {target}, ship {choice}.{others}"


def artifact_table(report: Report) -> Iterator[str]:
    """Answers, size and time: one line for each artifact."""
    header = (
        "artifact|runtime|accuracy|largest difference|same class|files|runtime's packages|cold start|"
        "1 picture|1 picture over HTTP|64 pictures"
    )
    rows = [row for row in report.rows.values() if row.where == "server"]
    names = ("disk", "installed", "cold_start", "p50@1", "http_p50@1", "p50@64")
    yield from markdown(
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
        return [accuracy, artifact.word, ""]
    if artifact.needs and isinstance(artifact.figures["agreement"], Missing):
        return [accuracy, f"not run: needs {artifact.needs}", ""]
    if artifact.ledger:
        return [accuracy, artifact.word, str(artifact.figures["agreement"])]
    return [accuracy, _largest(report, name), str(artifact.figures["agreement"])]


def _largest(report: Report, name: str) -> str:
    differences = [
        report.artifacts[name].figures.get(f"max_abs_diff@{batch}") for batch in report.settings.parity_batches
    ]
    known = [figure.value for figure in differences if isinstance(figure, Figure)]
    return f"{max(known):.1e}" if known else "not measured"


def _share(figure: Measured) -> str:
    return f"{figure.value:.4f}" if isinstance(figure, Figure) else str(figure)


def precision_table(report: Report) -> Iterator[str]:
    """Each variant of reduced precision below its float32 artifact: what it keeps, holds, computes in, and costs."""
    header = (
        "artifact|class|accuracy, change|files, compressed|weights|multiplies in|casts|"
        "1 picture|64 pictures|beside float32"
    )
    yield from markdown(header, map(partial(_precision_cells, report), _by_family(report)))
    yield ""
    yield f"{_measured_on(report)} {_instructions(report)}".rstrip()


def _by_family(report: Report) -> Iterator[Row]:
    """The rows on the server of every family that has a variant: float32 first, then its variants."""
    rows = [row for row in report.rows.values() if row.where == "server"]
    with_variants = {other for row in rows if (other := float32_row(report, row.name))}
    for row in rows:
        if row.name in with_variants:
            yield row
            yield from (each for each in rows if float32_row(report, each.name) == row.name)


def _precision_cells(report: Report, row: Row) -> list[str]:
    artifact = report.artifacts[row.artifact]
    ledger = artifact.ledger
    return [
        f"`{row.artifact}`",
        artifact.word.split(" at ")[-1] if artifact.keeps_answers else "**failed**",
        ", ".join(filter(None, (_share(artifact.figures["accuracy"]), _change(artifact)))),
        ", ".join(str(artifact.figures.get(name, Missing(""))) for name in ("disk", "brotli")),
        _amounts(ledger.weights, "B") if ledger else "float32",
        _computing(ledger) if ledger else "float32",
        f"{ledger.casts} in the file, {ledger.casts + ledger.inserted} loaded" if ledger else "",
        *(str(report.figure(row.name, name)) for name in ("p50@1", "p50@64")),
        _beside(row),
    ]


def _computing(ledger: Ledger) -> str:
    """The dtypes of products, and on which processors that is fast where it depends on them."""
    dtypes = ", ".join(ledger.computing) or "nothing"
    return f"{dtypes} (fast with {' or '.join(ledger.fast_on)})" if ledger.fast_on else dtypes


def _change(artifact: Artifact) -> str:
    """The accuracy that is lost or won, in points, with its interval."""
    change = artifact.figures.get("accuracy_change")
    if artifact.ledger is None or not isinstance(change, Figure):
        return ""
    value, low, high = (f"{100 * each:+.2f}" for each in (change.value, change.low, change.high))
    return f"{value} ({low} to {high})"


def _amounts(weights: Mapping[str, int], unit: str) -> str:
    """The dtypes that hold most, the largest first; what holds less than a twentieth is left out."""
    total = sum(weights.values())
    large = sorted((item for item in weights.items() if 20 * item[1] >= total), key=lambda item: -item[1])
    return ", ".join(f"{dtype} {shown(size, unit)}" for dtype, size in large)


def _beside(row: Row) -> str:
    """Time and size as multiples of the float32 artifact's, and what is marked."""
    known = [(row.figures.get(name), what) for name, what in zip(RATIOS, ("time", "bytes"), strict=True)]
    words = [f"{figure.value:.2f}x {what}" for figure, what in known if isinstance(figure, Figure)]
    return ", ".join([*words, *(f"**{mark}**" for mark in row.marks)])


def _instructions(report: Report) -> str:
    """The processor's vector instructions, by which runtimes choose their kernels."""
    known = {artifact.ledger.processor for artifact in report.artifacts.values() if artifact.ledger}
    return f"The processor: {', '.join(sorted(known))}." if known else ""


def browser_table(report: Report) -> Iterator[str]:
    """Time and download in Chromium: one line for each artifact on each runtime."""
    names = ("p50@1", "first_answer", "runtime_download", "model_download")
    rows = [row for row in report.rows.values() if row.where == "browser"]
    cells = (
        [f"`{row.name}`", row.runtime, row.backend, *(str(report.figure(row.name, name)) for name in names)]
        for row in rows
    )
    yield from markdown("row|runtime|ran on|1 picture|first answer|runtime's download|artifact's download", cells)
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
    yield from markdown(
        header, ([f"`{each.model}`", each.framework, *(str(each.figures[name]) for name in names)] for each in trained)
    )
    yield from ("", _measured_on(report))


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
    return iter(markdown("stage|took", stages))


def _measured_on(report: Report) -> str:
    return (
        f"Measured on {report.machine}, Python {report.machine.python}, threads of each runtime: "
        f"{report.settings.threads}, {report.settings.rounds} rounds, {report.made}."
    )


def loss_table(report: Report) -> Iterator[str]:
    """Which classes and which layers of each variant lose most: the first three of each."""
    cells = (
        [f"`{artifact.name}`", _listed(ledger.classes), _listed(ledger.layers)]
        for artifact in report.artifacts.values()
        if (ledger := artifact.ledger)
    )
    yield from markdown("artifact|classes that lose most, in points|layers that lose most", cells)


def placement_table(report: Report) -> Iterator[str]:
    """Where the operators of each artifact run, as far as its runtime shows it."""
    placed = [artifact for artifact in report.artifacts.values() if artifact.placements]
    cells = ([f"`{artifact.name}`", "; ".join(map(str, artifact.placements))] for artifact in placed)
    yield from markdown("artifact|where its operators run", cells)


def arm_table(report: Report) -> Iterator[str]:
    """How far the answers of each artifact that was run on an emulated ARM processor are from those here."""
    proofs = [artifact.arm for artifact in report.artifacts.values() if artifact.arm]
    cells = (
        [
            f"`{proof.artifact}`",
            "proven" if proof.passed else "; ".join(proof.reasons),
            f"{proof.rows:,}",
            f"{proof.here_max_abs_diff:.1e}",
            str(proof.here_changed),
        ]
        for proof in proofs
    )
    yield from markdown(
        "artifact|answers on ARM|questions|largest difference from its answers here|other classes", cells
    )


def _listed(losses: Sequence[ClassLoss | LayerLoss]) -> str:
    """A class in bold where it loses beyond the noise."""
    return ", ".join(
        f"**{loss}**" if isinstance(loss, ClassLoss) and loss.is_beyond_noise else str(loss) for loss in losses
    )


def markdown(header: str, rows: Iterable[Sequence[str]]) -> list[str]:
    """The lines of a table; `header` has its columns with `|` between them."""
    names = header.split("|")
    return [f"| {' | '.join(cells)} |" for cells in (names, ["---"] * len(names), *rows)]


TABLES: dict[str, Callable[[Report], Iterator[str]]] = {
    "answer": answer_table,
    "artifacts": artifact_table,
    "precisions": precision_table,
    "losses": loss_table,
    "placements": placement_table,
    "arm": arm_table,
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
