"""A variant of reduced precision beside its float32 artifact: what it does not bring, although its name promises it.

It may be slower or larger, or the precision is stored and never computed in. Nothing is marked within the noise.
"""

import dataclasses
from collections.abc import Iterator

from compare.figures import Figure, Measured, Missing
from compare.report import Report
from contract.formats import family_of, is_reduced

TIME, SIZE = "p50@1", "disk"
SLOWER, LARGER, STORED_ONLY = "slower", "larger", "stored only"
RATIOS = {"time_beside_float32": TIME, "size_beside_float32": SIZE}
"""Figure of a variant's row -> the figure of both rows whose ratio it is."""


def float32_row(report: Report, name: str) -> str | None:
    """The row of the float32 artifact of the same model and family, on the same runtime; None for a float32 row."""
    row = report.rows[name]
    artifact = report.artifacts[row.artifact]
    if not is_reduced(artifact.format):
        return None
    other = f"{artifact.model}-{family_of(artifact.format)}@{name.partition('@')[2]}"
    return other if other in report.rows else None


def ratios(report: Report, name: str) -> dict[str, Measured]:
    """Time and size as multiples of the float32 row's; empty for a float32 row."""
    other = float32_row(report, name)
    if other is None:
        return {}
    return {ratio: _ratio(report.figure(name, of), report.figure(other, of)) for ratio, of in RATIOS.items()}


def _ratio(mine: Measured, theirs: Measured) -> Measured:
    """Between the ratios of opposite ends."""
    if isinstance(mine, Missing) or isinstance(theirs, Missing):
        return mine if isinstance(mine, Missing) else theirs
    low, high = mine.low / theirs.high, mine.high / theirs.low
    return Figure(mine.value / theirs.value, "", low, high, mine.samples, "ratios of opposite ends of both spreads")


def marked(report: Report) -> Report:
    """The report with the ratios and the marks of every row of a variant."""
    with_ratios = {
        name: dataclasses.replace(row, figures={**row.figures, **ratios(report, name)})
        for name, row in report.rows.items()
    }
    report = dataclasses.replace(report, rows=with_ratios)
    rows = {name: dataclasses.replace(row, marks=tuple(marks(report, name))) for name, row in report.rows.items()}
    return dataclasses.replace(report, rows=rows)


def marks(report: Report, name: str) -> Iterator[str]:
    """The marks of a row that has its ratios; none for a float32 row."""
    for mark, ratio in ((SLOWER, "time_beside_float32"), (LARGER, "size_beside_float32")):
        figure = report.rows[name].figures.get(ratio)
        if isinstance(figure, Figure) and figure.low > 1:
            yield mark
    ledger = report.artifacts[report.rows[name].artifact].ledger
    if ledger and ledger.is_stored_only:
        yield STORED_ONLY
