"""Small reports to try the recommendation and the comparison with a baseline on."""

import dataclasses
from collections.abc import Mapping

from compare.figures import Figure, Measured, exact, over_rounds, share
from compare.report import SCHEMA, Artifact, Machine, Report, Row, Settings

MACHINE = Machine("Processor", 2, 8 << 30, "System 1", "3.11.7", {"onnx": "1.19.1"})
PICTURES = 10_000


def timed(seconds: float, spread: float = 0.02) -> Figure:
    """A median of three rounds, this far from each other."""
    return over_rounds([seconds * (1 - spread), seconds, seconds * (1 + spread)], "s", 300)


def report_of(*rows: tuple[Artifact, Row], **more: object) -> Report:
    report = Report(
        schema=SCHEMA,
        made="2026-01-02",
        seconds=1.5,
        dataset="fashion_mnist",
        title="Fashion-MNIST",
        labels=("a", "b"),
        pictures=PICTURES,
        machine=MACHINE,
        settings=Settings(3, 0.5, 1, (1, 64), (1, 64), 7),
        artifacts={artifact.name: artifact for artifact, _ in rows},
        rows={row.name: row for _, row in rows},
        training={},
    )
    return dataclasses.replace(report, **more)  # type: ignore[arg-type]


def row(
    name: str,
    ms: float = 1.0,
    mb: float = 10.0,
    right: int = 9_000,
    same: int = PICTURES,
    *,
    spread: float = 0.02,
    where: str = "server",
    runtime: str = "server",
    source: str | None = "m-keras",
    verdict: str = "passed",
    figures: Mapping[str, Measured] | None = None,
) -> tuple[Artifact, Row]:
    """An artifact and its row: how long one picture takes, what is shipped, how many answers are right."""
    model, _, format = name.partition("-")
    time, size = timed(ms / 1e3, spread), exact(mb * 1e6, "B")
    of_artifact: dict[str, Measured] = {
        "accuracy": share(right, PICTURES),
        "agreement": share(same, PICTURES),
        "disk": size,
    }
    artifact = Artifact(
        name,
        model,
        format,
        None if name == source else source,
        "0" * 64,
        "source" if name == source else verdict,
        of_artifact,
    )
    of_row: dict[str, Measured] = {"p50@1": time, "http_p50@1": time, "ship": size, "download": size}
    return artifact, Row(f"{name}@{runtime}", name, where, "Runtime 1.2", "CPU", of_row | dict(figures or {}))
