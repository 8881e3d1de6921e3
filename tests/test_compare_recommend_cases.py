"""The rule of compare/recommend.py on the cases that hold web/src/recommend.ts as well."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from compare.figures import Figure, Measured, Missing
from compare.recommend import TARGETS, recommend
from compare.report import Artifact, Constraints, Report, ReportError, Row
from tests.reports import PROOF, report_of

TABLE = json.loads(Path(__file__).with_name("recommend_cases.json").read_bytes())
TIMES, SIZES = ("p50@1", "http_p50@1"), ("ship", "download")


def test_the_cases_carry_the_table_of_targets_as_a_report_does() -> None:
    assert TABLE["targets"] == json.loads(json.dumps({name: asdict(target) for name, target in TARGETS.items()}))


@pytest.mark.parametrize("case", TABLE["cases"], ids=lambda case: case["why"])
def test_the_rule_decides_each_case_as_expected(case: Mapping[str, Any]) -> None:
    expected = case["expected"]
    assert outcome(case) == (None if expected is None else {"unranked": [], **expected})


def outcome(case: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The decision for a case; None if nothing was measured."""
    try:
        decision = recommend(report_for(case), case["target"], constraints_of(case))
    except ReportError:
        return None
    relax = [{"constraint": each.constraint, "needed": each.needed, "row": each.row} for each in decision.relax]
    names = {name: list(getattr(decision, name)) for name in ("ties", "front", "unranked")}
    return {"choice": decision.choice, "relax": relax, **names}


def constraints_of(case: Mapping[str, Any]) -> Constraints:
    return Constraints(**{**case["constraints"], "allow_precision": (*case["constraints"].get("allow_precision", ()),)})


def report_for(case: Mapping[str, Any]) -> Report:
    return report_of(*(artifact_and_row(**row) for row in case["rows"]))


def artifact_and_row(
    name: str,
    ms: tuple[float, float, float] | None,
    mb: float,
    accuracy: tuple[float, float, float],
    agreement: float = 1,
    verdict: str = "passed",
    where: str = "server",
    right: str = "",
    marks: Sequence[str] = (),
    arm: bool | None = None,
    proven_on: str = "",
    needs: str = "",
) -> tuple[Artifact, Row]:
    """A row of a case. A figure is (value, low, high); a time that is null was not measured."""
    artifact, (model, _, format) = name.partition("@")[0], name.partition("@")[0].partition("-")
    size = figure((mb, mb, mb), "B", 1e6)
    time: Measured = figure(ms, "s", 1e-3) if ms else Missing("It was not measured.")
    of_artifact = {
        "accuracy": figure(accuracy, "share"),
        "agreement": Missing("Nothing is known.") if needs else figure((agreement, agreement, agreement), "share"),
        "disk": size,
    }
    proof = None if arm is None else replace(PROOF, passed=arm, reasons=() if arm else ("other answers",))
    source = None if verdict == "source" else f"{model}-keras"
    known: dict[str, Any] = {"right": right, "arm": proof, "proven_on": proven_on, "needs": needs}
    of_row: dict[str, Measured] = dict.fromkeys(TIMES, time) | dict.fromkeys(SIZES, size)
    return (
        Artifact(artifact, model, format, source, "0" * 64, verdict, of_artifact, **known),
        Row(name, artifact, where, "Runtime 1", "CPU", of_row, tuple(marks)),
    )


def figure(values: tuple[float, float, float], unit: str, scale: float = 1) -> Figure:
    value, low, high = (value * scale for value in values)
    return Figure(value, unit, low, high, 1, "exact")
