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
from contract.code import ROOT

PAGE = "report.html"
TEMPLATE = "report.html.j2"

GAPS_SHOWN = 8
"""How many rows of one reason are named."""


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
    environment.filters |= {"spread": spread, "place": place, "shown": shown}
    html = environment.get_template(TEMPLATE).render(
        report=report,
        plots={
            name: {theme: _data_uri(folder / f"{name}-{theme}.png") for theme in ("light", "dark")} for name in names
        },
        batches=BATCHES,
        gaps=list(gaps(report)),
        server=[row for row in report.rows.values() if row.where == "server"],
        browser=[row for row in report.rows.values() if row.where == "browser"],
        scripts={one.model: (ROOT / one.script).read_text(encoding="utf-8") for one in report.training.values()},
    )
    partial = folder / f".{PAGE}.partial"
    partial.write_text(html, encoding="utf-8")
    partial.replace(folder / PAGE)


def _data_uri(file: Path) -> str:
    return f"data:image/png;base64,{base64.b64encode(file.read_bytes()).decode()}"


def spread(figure: Measured) -> str:
    """How far a figure can be trusted; nothing for a count."""
    if isinstance(figure, Missing) or figure.low == figure.high:
        return ""
    return f"{shown(figure.low, figure.unit)} – {shown(figure.high, figure.unit)}"


def place(figure: Measured) -> str:
    """Everything that is known of a figure, for who points at it."""
    if isinstance(figure, Missing):
        return figure.missing
    return f"{figure.spread}; samples: {figure.samples:,}"


def gaps(report: Report) -> Iterator[tuple[str, str]]:
    """What was not measured, with its reason: figures of the same reason together."""
    reasons: dict[str, dict[str, None]] = {}
    for name, figure, measured in report.measured():
        if isinstance(measured, Missing):
            reasons.setdefault(measured.missing, {})[f"{name}: {title(figure)}"] = None
    for reason, named in reasons.items():
        listed = list(named)
        more = f", and {len(listed) - GAPS_SHOWN} more" if len(listed) > GAPS_SHOWN else ""
        yield ", ".join(listed[:GAPS_SHOWN]) + more, reason
