"""Small reports for the tests of the recommendation, of the baseline, and of the pages that show a report."""

import dataclasses
from collections.abc import Mapping

from compare.figures import Figure, Measured, exact, share
from compare.recommend import TARGETS
from compare.report import SCHEMA, Artifact, Constraints, Machine, Report, Row, Settings
from contract.arm_proof import ArmProof

PROOF = ArmProof(
    artifact="m-tflite", source="m-keras", artifact_sha256="0" * 64, source_sha256="1" * 64, passed=True, reasons=(),
    rows=1000, expected="m-keras", tolerance=1e-4, max_abs_diff=1e-6, changed=0, here_max_abs_diff=0.0, here_changed=0,
    edges=9, differs=(), runtime="LiteRT 1.2", processor="cortex-a76",
)  # fmt: skip
MACHINE = Machine("Processor", 2, 8 << 30, "System 1", "3.11.7", {"onnx": "1.19.1"})
PICTURES = 10_000
NO_LIMITS = Constraints()


def timed(seconds: float, spread: float = 0.02) -> Figure:
    """The median of three rounds; the other two differ from it by `spread`, as a share."""
    return Figure(seconds, "s", seconds * (1 - spread), seconds * (1 + spread), 300, "three rounds")


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
        targets=TARGETS,
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
    """An artifact and its row: the time of one picture, the size to ship, how many answers are right or kept."""
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


KERAS = row("m-keras", ms=10, mb=1500)
ONNX = row("m-onnx", ms=1.0, mb=140)
TFLITE = row("m-tflite", ms=0.8, mb=130)
TFJS = row("m-tfjs", ms=5, mb=20)
WRONG = row("m-tflite", ms=0.1, mb=1, same=9_500, verdict="500 answers change class at batch 1")
