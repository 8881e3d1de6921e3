"""The report as one page: `report.html` needs no network, no script and no other file."""

import base64
from collections.abc import Iterator
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from compare.figures import Measured, Missing, shown
from compare.latency import BATCHES
from compare.metrics import title
from compare.plots import draw_all
from compare.report import Report
from compare.requests import FORMS
from contract.code import ROOT

PAGE = "report.html"
TEMPLATE = "report.html.j2"

GAPS_SHOWN = 8
"""How many figures the page names for each reason."""


def write_page(report: Report, folder: Path) -> None:
    """Write the plots and `report.html` into `folder`."""
    names = draw_all(report, folder)
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    environment.filters |= {"spread": spread, "details": details, "shown": shown}
    html = environment.get_template(TEMPLATE).render(
        report=report,
        plots={
            name: {theme: _data_uri(folder / f"{name}-{theme}.png") for theme in ("light", "dark")} for name in names
        },
        batches=BATCHES,
        forms=FORMS,
        gaps=list(gaps(report)),
        server=[row for row in report.rows.values() if row.where == "server"],
        browser=[row for row in report.rows.values() if row.where == "browser"],
        scripts={
            training.model: (ROOT / training.script).read_text(encoding="utf-8")
            for training in report.training.values()
        },
    )
    partial = folder / f".{PAGE}.partial"
    partial.write_text(html, encoding="utf-8")
    partial.replace(folder / PAGE)


def _data_uri(file: Path) -> str:
    return f"data:image/png;base64,{base64.b64encode(file.read_bytes()).decode()}"


def spread(figure: Measured) -> str:
    """A figure's spread, as a range; empty for a count."""
    if isinstance(figure, Missing) or figure.low == figure.high:
        return ""
    return f"{shown(figure.low, figure.unit)} – {shown(figure.high, figure.unit)}"


def details(figure: Measured) -> str:
    """A figure's tooltip: its spread and its samples, or why it is missing."""
    if isinstance(figure, Missing):
        return figure.missing
    return f"{figure.spread}; samples: {figure.samples:,}"


def gaps(report: Report) -> Iterator[tuple[str, str]]:
    """The figures that were not measured, grouped by their reason: (names, reason)."""
    reasons: dict[str, dict[str, None]] = {}
    for name, figure, measured in report.measured():
        if isinstance(measured, Missing):
            reasons.setdefault(measured.missing, {})[f"{name}: {title(figure)}"] = None
    for reason, named in reasons.items():
        names = list(named)
        more = f", and {len(names) - GAPS_SHOWN} more" if len(names) > GAPS_SHOWN else ""
        yield ", ".join(names[:GAPS_SHOWN]) + more, reason
