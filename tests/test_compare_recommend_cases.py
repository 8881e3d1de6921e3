"""The rule of compare/recommend.py on the table that web/src/recommend.ts is held to as well."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from compare.figures import Figure, Measured, Missing
from compare.recommend import recommend
from compare.report import Artifact, Constraints, Report, ReportError, Row
from tests.reports import report_of

CASES = json.loads(Path(__file__).with_name("recommend_cases.json").read_bytes())
TIMES, SIZES = ("p50@1", "http_p50@1"), ("ship", "download")


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["why"])
def test_the_rule_gives_what_the_table_says(case: Mapping[str, Any]) -> None:
    assert outcome(case) == case["expected"]


def outcome(case: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """What is recommended for a case of the table; None where nothing was measured."""
    try:
        given = recommend(report_for(case), case["target"], Constraints(**case["constraints"]))
    except ReportError:
        return None
    relax = [{"constraint": one.constraint, "needed": one.needed, "row": one.row} for one in given.relax]
    return {"choice": given.choice, "ties": list(given.ties), "front": list(given.front), "relax": relax}


def report_for(case: Mapping[str, Any]) -> Report:
    return report_of(*(built(**row) for row in case["rows"]))


def built(
    name: str,
    ms: tuple[float, float, float] | None,
    mb: float,
    accuracy: tuple[float, float, float],
    agreement: float = 1,
    verdict: str = "passed",
    where: str = "server",
) -> tuple[Artifact, Row]:
    """A row of a case: figures are value, low, high; a time that is null was not measured."""
    artifact, (model, _, format) = name.partition("@")[0], name.partition("@")[0].partition("-")
    size = figure((mb, mb, mb), "B", 1e6)
    time: Measured = figure(ms, "s", 1e-3) if ms else Missing("It was not measured.")
    of_artifact = {
        "accuracy": figure(accuracy, "share"),
        "agreement": figure((agreement, agreement, agreement), "share"),
        "disk": size,
    }
    source = None if verdict == "source" else f"{model}-keras"
    of_row: dict[str, Measured] = dict.fromkeys(TIMES, time) | dict.fromkeys(SIZES, size)
    return (
        Artifact(artifact, model, format, source, "0" * 64, verdict, of_artifact),
        Row(name, artifact, where, "Runtime 1", "CPU", of_row),
    )


def figure(values: tuple[float, float, float], unit: str, scale: float = 1) -> Figure:
    value, low, high = (value * scale for value in values)
    return Figure(value, unit, low, high, 1, "exact")
