"""The report's plots as PNG files, each for light and for dark pages."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")  # draws into files; must be set before pyplot looks for a screen

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Drawing
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from compare.figures import Figure, shown
from compare.latency import BATCHES
from compare.report import Report
from contract.formats import FORMATS, family_of


@dataclass(frozen=True)
class Theme:
    """The colours of a page."""

    name: str
    ink: str
    faint: str
    line: str
    formats: Mapping[str, str]


def _palette(*colours: str) -> dict[str, str]:
    return dict(zip(FORMATS, colours, strict=True))


# People with any colour vision can tell these colours apart; markers and line styles tell the models apart.
LIGHT = Theme(
    "light", "#1d232c", "#646b76", "#d9d6cd",
    _palette(
        "#b3261e", "#b3261e", "#0b62c1", "#8a5a00", "#0c7a63", "#7b3fa0", "#d0368a", "#5b6270", "#4a6a12",
        "#7a3b12",
    ),
)  # fmt: skip
DARK = Theme(
    "dark", "#e9e7e1", "#9aa2ae", "#3a414c",
    _palette(
        "#ff9a8f", "#ff9a8f", "#7db8ff", "#f5b94a", "#62d2b5", "#d3a4f5", "#ff8fc7", "#b4bcc8", "#b9d65c",
        "#e6a27c",
    ),
)  # fmt: skip
MARKERS = "osD^vP"
LINES = ("-", "--", "-.", ":")
PALER = 0.22
"""By how much each further precision of a format is paler."""


def draw_all(report: Report, folder: Path) -> list[str]:
    """Write every plot in both themes; returns the names of the plots."""
    for theme in (LIGHT, DARK):
        with plt.rc_context(_style(theme)):
            for name, draw in PLOTS.items():
                drawing = draw(report, theme)
                drawing.savefig(
                    folder / f"{name}-{theme.name}.png", dpi=144, transparent=True, metadata={"Software": None}
                )
                plt.close(drawing)
    return list(PLOTS)


def _style(theme: Theme) -> Any:
    colours = dict.fromkeys(
        ("text.color", "axes.labelcolor", "axes.titlecolor", "xtick.labelcolor", "ytick.labelcolor"), theme.ink
    )
    lines = dict.fromkeys(("axes.edgecolor", "grid.color", "xtick.color", "ytick.color"), theme.line)
    return colours | lines | {
        "font.family": "DejaVu Sans",
        "font.size": 9,
        "axes.titlesize": 10,
        "axes.titleweight": "bold",
        "axes.titlelocation": "left",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.linewidth": 0.6,
        "legend.frameon": False,
        "figure.constrained_layout.use": True,
    }  # fmt: skip


def _colour(report: Report, artifact: str, theme: Theme) -> str:
    return theme.formats.get(family_of(report.artifacts[artifact].format), theme.faint)


def _shaded(report: Report, format: str, theme: Theme) -> tuple[str, float]:
    """The colour of a format's family, paler for each of its reduced precisions in turn."""
    family = family_of(format)
    formats = {artifact.format for artifact in report.artifacts.values() if family_of(artifact.format) == family}
    place = sorted(formats | {family}).index(format)
    return theme.formats.get(family, theme.faint), max(1 - place * PALER, PALER)


def _model_number(report: Report, artifact: str) -> int:
    models = sorted({artifact.model for artifact in report.artifacts.values()})
    return models.index(report.artifacts[artifact].model)


def _rows(report: Report, where: str, *figures: str) -> list[str]:
    """Rows that run there and have any of the figures, the last row first, since axes count upwards."""
    names = [name for name, row in report.rows.items() if row.where == where]
    return [name for name in reversed(names) if any(isinstance(report.figure(name, each), Figure) for each in figures)]


def _dots(axes: Axes, report: Report, rows: Sequence[str], name: str, theme: Theme, hollow: bool = False) -> None:
    """A dot for each row, with its spread."""
    for height, row in enumerate(rows):
        figure = report.figure(row, name)
        if not isinstance(figure, Figure):
            continue
        artifact = report.rows[row].artifact
        axes.errorbar(
            [figure.value],
            [height],
            xerr=[[figure.value - figure.low], [figure.high - figure.value]],
            fmt=MARKERS[_model_number(report, artifact) % len(MARKERS)],
            color=_colour(report, artifact, theme),
            markerfacecolor="none" if hollow else None,
            markersize=6,
            capsize=2.5,
            elinewidth=1.2,
        )


def _bars(axes: Axes, report: Report, rows: Sequence[str], name: str, theme: Theme) -> None:
    """A bar for each row, with its value beside it."""
    for height, row in enumerate(rows):
        figure = report.figure(row, name)
        text = str(figure)
        if isinstance(figure, Figure):
            axes.barh(height, figure.value, height=0.62, color=_colour(report, report.rows[row].artifact, theme))
        value = figure.value if isinstance(figure, Figure) else 0
        axes.annotate(
            text, (value, height), (4, 0), textcoords="offset points", va="center", fontsize=8, color=theme.faint
        )
    axes.margins(x=0.28)


def _name_rows(axes: Axes, rows: Sequence[str]) -> None:
    axes.set_yticks(range(len(rows)), [row.removesuffix("@server").replace("@", "\n") for row in rows])
    axes.set_ylim(-0.6, len(rows) - 0.4)
    axes.grid(axis="y", visible=False)


def _units(unit: str) -> FuncFormatter:
    return FuncFormatter(lambda value, _: shown(value, unit) if value > 0 else "0")


def _logarithmic(axes: Axes, unit: str, which: str = "x") -> None:
    getattr(axes, f"set_{which}scale")("log")
    axis = getattr(axes, f"{which}axis")
    low, high = getattr(axes, f"get_{which}lim")()
    # A scale of few powers of ten would have hardly any labels, so it gets more.
    narrow = MaxNLocator(4) if high < 10 * low else LogLocator(subs=(1.0, 2.0, 5.0))
    axis.set_major_locator(narrow if high < 300 * low else LogLocator())
    axis.set_major_formatter(_units(unit))
    axis.set_minor_formatter(NullFormatter())


# --- The plots


def _accuracy(report: Report, theme: Theme) -> Drawing:
    rows = _rows(report, "server", "accuracy")
    drawing, axes = plt.subplots(figsize=(8, 0.6 + 0.32 * len(rows)))
    _dots(axes, report, rows, "accuracy", theme)
    _name_rows(axes, rows)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.1f} %"))
    axes.set_xlabel(f"accuracy on {report.pictures:,} test pictures, with its 95 % interval")
    return drawing


def _latency(report: Report, theme: Theme) -> Drawing:
    rows = _rows(report, "server", "p50@1", "http_p50@1")
    drawing, axes = plt.subplots(figsize=(8, 0.9 + 0.34 * len(rows)))
    _dots(axes, report, rows, "p50@1", theme)
    _dots(axes, report, rows, "http_p50@1", theme, hollow=True)
    _name_rows(axes, rows)
    _logarithmic(axes, "s")
    rounds = report.settings.rounds
    axes.set_xlabel(
        f"one picture, median; filled: the runtime alone, hollow: over HTTP; the lines span {rounds} rounds"
    )
    return drawing


def _throughput(report: Report, theme: Theme) -> Drawing:
    drawing, panels = plt.subplots(1, 2, figsize=(8, 3.6), sharey=True)
    for axes, prefix, words in zip(panels, ("", "http_"), ("the runtime alone", "over HTTP"), strict=True):
        for row in reversed(_rows(report, "server", f"{prefix}throughput@1")):
            figures = [(batch, report.figure(row, f"{prefix}throughput@{batch}")) for batch in BATCHES]
            known = [(batch, figure) for batch, figure in figures if isinstance(figure, Figure)]
            artifact = report.rows[row].artifact
            colour, number = _colour(report, artifact, theme), _model_number(report, artifact)
            batches = [batch for batch, _ in known]
            axes.plot(
                batches,
                [figure.value for _, figure in known],
                LINES[number % len(LINES)],
                marker=MARKERS[number % len(MARKERS)],
                markersize=3.5,
                linewidth=1.4,
                color=colour,
                label=artifact,
            )
            spread = [figure.low for _, figure in known], [figure.high for _, figure in known]
            axes.fill_between(batches, *spread, color=colour, alpha=0.13, linewidth=0)
        axes.set_xscale("log", base=2)
        axes.set_xticks(BATCHES, [str(batch) for batch in BATCHES])
        axes.set_xlabel("pictures per call")
        axes.set_title(words)
        _logarithmic(axes, "1/s", "y")
    panels[0].set_ylabel("pictures per second")
    drawing.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=8)
    return drawing


def _footprint(report: Report, theme: Theme) -> Drawing:
    rows = _rows(report, "server", "installed", "memory", "cold_start")
    panels = (("installed", "B", "runtime's packages"), ("memory", "B", "memory"), ("cold_start", "s", "cold start"))
    return _panels(report, theme, rows, panels)


def _browser(report: Report, theme: Theme) -> Drawing:
    rows = _rows(report, "browser", "p50@1")
    drawing, (left, right) = plt.subplots(1, 2, figsize=(8, 0.9 + 0.42 * max(1, len(rows))), sharey=True)
    _dots(left, report, rows, "p50@1", theme)
    _name_rows(left, rows)
    _logarithmic(left, "s")
    left.set_title("one picture, median")
    _bars(right, report, rows, "download", theme)
    right.grid(axis="y", visible=False)
    right.xaxis.set_major_formatter(_units("B"))
    right.set_title("download, compressed")
    return drawing


def _panels(report: Report, theme: Theme, rows: Sequence[str], wanted: Sequence[tuple[str, str, str]]) -> Drawing:
    """A panel of bars for each (figure, unit, title)."""
    drawing, panels = plt.subplots(1, len(wanted), figsize=(8, 0.7 + 0.32 * max(1, len(rows))), sharey=True)
    for axes, (name, unit, words) in zip(panels, wanted, strict=True):
        _bars(axes, report, rows, name, theme)
        axes.xaxis.set_major_formatter(_units(unit))
        axes.xaxis.set_major_locator(MaxNLocator(3))
        axes.set_title(words)
    _name_rows(panels[0], rows)
    for axes in panels[1:]:
        axes.grid(axis="y", visible=False)
    return drawing


def _front(report: Report, theme: Theme) -> Drawing:
    """Time against size for each target, with the front and the choice."""
    recommendations = report.recommendations
    drawing, panels = plt.subplots(1, max(1, len(recommendations)), figsize=(8, 3.3), squeeze=False)
    for axes, advice in zip(panels[0], recommendations, strict=False):
        target = report.targets[advice.target]
        for row in (*advice.rejected, *filter(None, [advice.choice])):
            time, size = report.figure(row, target.time), report.figure(row, target.size)
            if not (isinstance(time, Figure) and isinstance(size, Figure)):
                continue
            artifact, on_front = report.rows[row].artifact, row in advice.front
            marker = MARKERS[_model_number(report, artifact) % len(MARKERS)]
            colour = _shaded(report, report.artifacts[artifact].format, theme)
            axes.plot(
                [time.value],
                [size.value],
                marker,
                color=colour,
                markersize=6,
                markerfacecolor=colour if on_front else "none",
            )
            if row == advice.choice:
                axes.plot([time.value], [size.value], "o", markersize=15, color=theme.ink, markerfacecolor="none")
        ends = [(report.figure(row, target.time), report.figure(row, target.size)) for row in advice.front]
        edge = edge_of([(x.value, y.value) for x, y in ends if isinstance(x, Figure) and isinstance(y, Figure)])
        if edge:
            axes.plot(
                *zip(*edge, strict=True), "--", drawstyle="steps-post", color=theme.faint, linewidth=0.8, zorder=0
            )
        axes.margins(0.22)
        _logarithmic(axes, "s")
        _logarithmic(axes, "B", "y")
        axes.tick_params(axis="x", labelrotation=45)
        chosen = advice.choice or "nothing fits"
        axes.set_title(f"{target.title}\n{chosen.removesuffix('@server')}", fontsize=8)
        axes.set_xlabel("time of one picture")
    panels[0][0].set_ylabel("size")
    drawing.legend(handles=list(_legend(report, theme)), loc="outside lower center", ncols=5, fontsize=8)
    return drawing


def edge_of(front: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Of the front's times and sizes, the fastest first, those that are smaller than all before: the line through them.

    The others are on the front for their accuracy, which has no axis here.
    """
    sizes = [size for _, size in front]
    return [point for number, point in enumerate(front) if point[1] < min(sizes[:number], default=math.inf)]


def _legend(report: Report, theme: Theme) -> Iterator[Any]:
    for format in dict.fromkeys(artifact.format for artifact in report.artifacts.values()):
        colour = _shaded(report, format, theme)
        yield Line2D([], [], marker="s", linestyle="none", color=colour, label=format)
    for number, model in enumerate(sorted({artifact.model for artifact in report.artifacts.values()})):
        yield Line2D(
            [],
            [],
            marker=MARKERS[number % len(MARKERS)],
            linestyle="none",
            color=theme.faint,
            markerfacecolor="none",
            label=model,
        )


PLOTS: dict[str, Callable[[Report, Theme], Drawing]] = {
    "front": _front,
    "accuracy": _accuracy,
    "latency": _latency,
    "throughput": _throughput,
    "footprint": _footprint,
    "browser": _browser,
}
