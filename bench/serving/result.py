"""The results of a measure: rows of a table, each with its target if it has one."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Row:
    """A server, or a setting of it, in a measure."""

    measure: str
    server: str
    figures: Mapping[str, float] = field(default_factory=dict)
    """Name with its unit -> value: "requests/s", "p50 ms"."""
    ratio: float | None = None
    """Ours divided by this server's: more than 1 is better for us."""
    target: str = ""
    reached: bool | None = None
    note: str = ""


def table(rows: Iterable[Row]) -> str:
    """Lines of text: a table for each measure, with its own columns."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(row.measure, []).append(row)
    return "\n".join(line for measure, group in groups.items() for line in _table(measure, group))


COLUMNS = ("requests/s", "p50 ms", "p99 ms", "RSS MB")
"""The columns of the Markdown table, for servers under load."""


def markdown(rows: Iterable[Row]) -> list[str]:
    """The servers under load, as lines of a Markdown table."""
    loaded = [row for row in rows if COLUMNS[0] in row.figures]
    lines = [["measure", "server", *COLUMNS, "ours is"]]
    lines += [[r.measure, r.server, *(_figure(r.figures.get(c)) for c in COLUMNS), _verdict(r)[0]] for r in loaded]
    lines.insert(1, ["---"] * len(lines[0]))
    return [f"| {' | '.join(cells)} |" for cells in lines]


def _table(measure: str, rows: Sequence[Row]) -> list[str]:
    columns = list(dict.fromkeys(name for row in rows for name in row.figures))
    lines = [["server", *columns, "ours is", "target", "reached"]]
    lines += [[row.server, *(_figure(row.figures.get(name)) for name in columns), *_verdict(row)] for row in rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    texts = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    notes = [f"  ({row.server}: {row.note})" for row in rows if row.note]
    return ["", measure, *(f"  {text}" for text in texts), *notes]


def _figure(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 100 or value == int(value) else f"{value:.3g}"


def _verdict(row: Row) -> tuple[str, str, str]:
    ratio = "" if row.ratio is None else f"{row.ratio:.2f}x"
    return ratio, row.target, {None: "", True: "yes", False: "NO"}[row.reached]


def write(path: Path, rows: Sequence[Row], settings: Mapping[str, object]) -> None:
    """Write the rows as JSON, with the settings of the run."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"settings": settings, "rows": [asdict(row) for row in rows]}, indent=2) + "\n")
