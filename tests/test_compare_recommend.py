"""The rule of the recommendation: which rows are candidates, which one is chosen, and why the others are not."""

import random
import re
from dataclasses import replace
from typing import Any

import pytest

from compare.figures import Figure, Missing, exact
from compare.recommend import (
    TARGETS,
    Candidate,
    Decision,
    Reason,
    Rejection,
    check,
    choose,
    front_of,
    recommend,
    rounded_to_fit,
)
from compare.report import Constraints, ReportError
from tests.reports import KERAS, NO_LIMITS, ONNX, PICTURES, TFJS, TFLITE, WRONG, report_of, row, timed


def decide(*rows: Any, target: str = "server", constraints: Constraints = NO_LIMITS) -> Decision:
    return recommend(report_of(*rows), target, constraints)


# The choice


def test_the_smallest_product_of_time_and_size_is_chosen() -> None:
    decision = decide(KERAS, ONNX, TFLITE, TFJS)
    assert decision.choice == "m-tfjs@server", "5 x 20 is less than 0.8 x 130"
    assert decision.ties == ("m-tflite@server",), "within the noise of 2 % each way, 104 and 100 overlap"
    assert decision.rejected == {
        "m-keras@server": Rejection(Reason.DOMINATED, "m-tfjs@server"),
        "m-onnx@server": Rejection(Reason.DOMINATED, "m-tflite@server"),
        "m-tflite@server": Rejection(Reason.TIE, "m-tfjs@server"),
    }


def test_accuracy_comes_first_beyond_the_noise() -> None:
    decision = decide(KERAS, ONNX, row("m-tflite", ms=0.1, mb=1, right=8_000))
    assert decision.choice == "m-onnx@server"
    assert decision.rejected["m-tflite@server"] == Rejection(Reason.LESS_ACCURATE, "m-onnx@server")


def test_accuracy_within_the_noise_does_not_decide() -> None:
    decision = decide(row("m-onnx", ms=2, right=9_010), row("m-tflite", ms=1, right=9_000))
    assert decision.choice == "m-tflite@server"
    assert decision.rejected["m-onnx@server"] == Rejection(Reason.COSTLIER, "m-tflite@server")


def test_a_row_that_equals_the_choice_but_not_the_most_accurate_row_is_less_accurate_than_that() -> None:
    best, choice, cheap = (
        row("m-onnx", ms=4, right=9_100), row("m-tflite", ms=2, right=9_000), row("m-tfjs", ms=1, right=8_930)
    )  # fmt: skip
    decision = decide(best, choice, cheap)
    assert decision.choice == "m-tflite@server"
    assert decision.rejected["m-tfjs@server"] == Rejection(Reason.LESS_ACCURATE, "m-onnx@server")


def test_the_order_of_rows_changes_nothing() -> None:
    rows = [KERAS, ONNX, TFLITE, TFJS]
    assert decide(*reversed(rows)) == decide(*rows)


@pytest.mark.parametrize("target", TARGETS)
def test_each_target_has_its_own_rows_and_figures(target: str) -> None:
    """The server's rows are the faster ones, the browser's the smaller, and a phone takes fewer formats."""
    browser = row("m-tfjs", ms=9, mb=1, where="browser", runtime="tfjs-wasm")
    decision = decide(ONNX, TFLITE, row("m-torch", ms=0.1, mb=0.1), browser, target=target)
    expected = {"server": "m-torch@server", "browser": "m-tfjs@tfjs-wasm", "android": "m-tflite@server"}
    expected["ios"] = expected["android"]
    assert decision.choice == expected[target]


def test_the_table_of_targets_comes_from_the_report() -> None:
    only_tfjs = replace(TARGETS["server"], families=("tfjs",))
    report = report_of(ONNX, TFLITE, TFJS, targets={"server": only_tfjs})
    assert recommend(report, "server").choice == "m-tfjs@server"
    assert recommend(report, "server").rejected == {}


# Answers that differ from the source's


def test_a_row_with_other_answers_than_its_source_is_never_chosen() -> None:
    decision = decide(KERAS, WRONG)
    assert decision.choice == "m-keras@server"
    assert decision.rejected["m-tflite@server"] == Rejection(Reason.OTHER_ANSWERS)


def test_a_minimum_agreement_replaces_parity() -> None:
    assert decide(KERAS, WRONG, constraints=Constraints(min_agreement=0.95)).choice == "m-tflite@server"
    strict = decide(KERAS, WRONG, constraints=Constraints(min_agreement=0.96))
    assert strict.choice == "m-keras@server"
    assert strict.rejected["m-tflite@server"] == Rejection(Reason.OUTSIDE_LIMITS, limits=("min_agreement",))


def test_if_all_rows_have_other_answers_nothing_is_chosen() -> None:
    decision = decide(WRONG, constraints=Constraints(max_mb=100))
    assert (decision.choice, decision.relax) == (None, ())


# Constraints


def test_a_constraint_leaves_only_rows_that_fit() -> None:
    decision = decide(ONNX, TFLITE, TFJS, constraints=Constraints(max_ms=0.9))
    assert decision.choice == "m-tflite@server"
    outside = Rejection(Reason.OUTSIDE_LIMITS, limits=("max_ms",))
    assert decision.rejected == {"m-onnx@server": outside, "m-tfjs@server": outside}


def test_a_value_that_equals_its_limit_fits() -> None:
    assert decide(TFLITE, constraints=Constraints(max_ms=0.8, max_mb=130, min_agreement=1)).choice == "m-tflite@server"


def test_every_limit_that_is_missed_is_named() -> None:
    decision = decide(TFLITE, KERAS, constraints=Constraints(max_mb=200, max_ms=2))
    assert decision.rejected["m-keras@server"].limits == ("max_mb", "max_ms")


def test_if_nothing_fits_the_nearest_row_says_what_to_relax() -> None:
    decision = decide(ONNX, TFLITE, TFJS, constraints=Constraints(max_mb=15))
    assert decision.choice is None
    assert [(each.constraint, each.limit, each.needed, each.row) for each in decision.relax] == [
        ("max_mb", 15, 20, "m-tfjs@server")
    ]
    assert not decision.relax_together


def test_limits_that_must_give_way_together_belong_to_one_row() -> None:
    decision = decide(TFLITE, TFJS, constraints=Constraints(max_mb=10, max_ms=0.5))
    assert [(each.constraint, each.needed, each.row) for each in decision.relax] == [
        ("max_mb", 20, "m-tfjs@server"),
        ("max_ms", 5, "m-tfjs@server"),
    ]
    assert decision.relax_together


@pytest.mark.parametrize(
    "constraints",
    [Constraints(max_mb=1), Constraints(max_ms=0.01), Constraints(max_mb=1, max_ms=0.01), Constraints(max_mb=19.999)],
)
def test_the_row_fits_after_the_constraints_are_relaxed(constraints: Constraints) -> None:
    rows = (row("m-onnx", ms=1.23456, mb=141.4159), row("m-tflite", ms=0.87654, mb=130.0001), TFJS)
    decision = decide(*rows, constraints=constraints)
    assert decision.choice is None
    for relaxed in [decision.relax] if decision.relax_together else [(each,) for each in decision.relax]:
        loose = replace(constraints, **{each.constraint: each.needed for each in relaxed})  # type: ignore[arg-type]
        assert decide(*rows, constraints=loose).choice == relaxed[0].row


@pytest.mark.parametrize(("value", "rounded"), [(20.0, 20.0), (130.0001, 131.0), (0.0123456, 0.0124), (1.2e-5, 1.2e-5)])
def test_limits_are_rounded_up(value: float, rounded: float) -> None:
    assert rounded_to_fit("max_mb", value) == pytest.approx(rounded, rel=1e-12)


@pytest.mark.parametrize(
    ("target", "constraints", "problem"),
    [
        ("fridge", NO_LIMITS, "TARGET=fridge is not a target; use server, browser, android or ios."),
        ("server", Constraints(max_mb=0), "MAX_MB=0 is not a limit; use a number above 0."),
        ("server", Constraints(max_ms=-1), "MAX_MS=-1 is not a limit"),
        ("server", Constraints(max_ms=float("nan")), "MAX_MS=nan is not a limit"),
        ("server", Constraints(max_mb=float("inf")), "MAX_MB=inf is not a limit"),
        ("server", Constraints(min_agreement=99.9), "use 0 to 1, such as 0.999 for 99.9 %."),
        (
            "server",
            Constraints(allow_precision=("int9",)),
            "ALLOW_PRECISION has 'int9', which is not a precision; use some",
        ),
        (None, Constraints(allow_precision=("int8",)), "The constraints need a TARGET"),
        (None, Constraints(max_mb=1), "The constraints need a TARGET; use server, browser, android or ios."),
    ],
)
def test_a_target_or_limit_that_nothing_can_meet_is_refused(
    target: str | None, constraints: Constraints, problem: str
) -> None:
    with pytest.raises(ReportError, match=re.escape(problem)):
        check(target, constraints)


# Rows that were not measured


def test_a_row_without_its_figures_is_not_a_candidate() -> None:
    gone = row("m-onnx", ms=0.1, mb=1, figures={"http_p50@1": Missing("The service did not start.")})
    decision = decide(gone, TFLITE)
    assert decision.choice == "m-tflite@server"
    assert decision.rejected["m-onnx@server"] == Rejection(Reason.NOT_MEASURED, missing="http_p50@1")


def test_a_target_without_any_row_is_refused_with_the_reason() -> None:
    with pytest.raises(ReportError, match="Nothing was measured for TARGET=browser: no artifact runs there"):
        decide(TFLITE, target="browser")
    gone = row("m-onnx", where="browser", figures={"p50@1": Missing("Chromium is missing.")})
    with pytest.raises(ReportError, match="Nothing was measured for TARGET=browser: Chromium is missing"):
        decide(gone, target="browser")


# The front


def candidate(name: str, accuracy: float, time: float, size: float) -> Candidate:
    right = Figure(accuracy, "share", accuracy - 0.01, accuracy + 0.01, PICTURES, "")
    return Candidate(name, right, timed(time), exact(size, "B"), exact(1.0, "share"))


def test_the_front_holds_what_nothing_else_dominates_the_fastest_first() -> None:
    small, fast, right = candidate("small", 0.9, 9, 1), candidate("fast", 0.9, 1, 9), candidate("right", 0.99, 9, 9)
    worse = candidate("worse", 0.9, 9, 9)
    assert front_of([worse, right, small, fast]) == [fast, right, small]


def test_noise_dominates_nothing() -> None:
    first, second = candidate("first", 0.9, 1.00, 5), candidate("second", 0.9, 1.01, 5)
    assert front_of([first, second]) == [first, second]
    assert front_of([first, candidate("second", 0.9, 1.1, 5)]) == [first]


def test_the_choice_is_always_on_the_front() -> None:
    source = random.Random(3)
    for _ in range(300):
        candidates = [
            replace(
                candidate(
                    f"c{n}", source.choice([0.9, 0.905, 0.95]), source.uniform(1, 3), source.choice([1, 1.04, 3])
                ),
                caveats=(source.choice([0, 1]), source.choice([0, 1])),
                steps=source.choice([0, 1, 2]),
            )
            for n in range(6)
        ]
        choice, *_ = choose(candidates)
        assert choice in front_of(candidates)
