"""The recommendation: what is chosen, what is said, and that every number in it stands in the report."""

import json
import re
from collections.abc import Iterator
from dataclasses import asdict, replace
from typing import Any

import pytest

from compare.__main__ import advised
from compare.figures import Figure, Missing, exact, shown
from compare.recommend import TARGETS, Candidate, check, choose, front_of, recommend, rounded_to_fit
from compare.report import Constraints, Recommendation, Report, ReportError, Sentence
from tests.reports import PICTURES, report_of, row, timed

NONE = Constraints()


def advice(*rows: Any, target: str = "server", constraints: Constraints = NONE) -> Recommendation:
    return recommend(report_of(*rows), target, constraints)


def text(sentences: Any) -> str:
    return " ".join(sentence.text for sentence in sentences)


KERAS = row("m-keras", ms=10, mb=1500)
ONNX = row("m-onnx", ms=1.0, mb=140)
TFLITE = row("m-tflite", ms=0.8, mb=130)
TFJS = row("m-tfjs", ms=5, mb=20)


# The choice


def test_the_smallest_product_of_time_and_size_is_chosen() -> None:
    given = advice(KERAS, ONNX, TFLITE, TFJS)
    assert given.choice == "m-tfjs@server", "5 x 20 is less than 0.8 x 130"
    assert given.ties == ("m-tflite@server",), "within the noise of 2 % each way, 104 and 100 meet"


def test_accuracy_comes_first_where_it_can_be_told() -> None:
    fast_and_wrong = row("m-tflite", ms=0.1, mb=1, right=8_000)
    given = advice(KERAS, ONNX, fast_and_wrong)
    assert given.choice == "m-onnx@server"
    assert given.lost["m-tflite@server"].text == "It is less accurate than m-onnx@server: 80.00 % against 90.00 %."


def test_accuracy_within_the_noise_does_not_decide() -> None:
    given = advice(row("m-onnx", ms=2, right=9_010), row("m-tflite", ms=1, right=9_000))
    assert given.choice == "m-tflite@server"


def test_what_meets_within_the_noise_is_said_to_be_equal() -> None:
    given = advice(row("m-onnx", ms=1.00, spread=0.1), row("m-tflite", ms=1.05, spread=0.1), row("m-tfjs", ms=2))
    assert given.choice == "m-onnx@server"
    assert given.ties == ("m-tflite@server",)
    assert "m-tflite@server cannot be told apart from it within the noise: 1.05 ms and 10.0 MB." in text(given.reasons)
    assert given.lost["m-tflite@server"].text.startswith(
        "Within the noise it equals m-onnx@server: 1.05 ms and 1.00 ms"
    )
    assert "m-tfjs@server" in given.lost


def test_the_order_of_rows_changes_nothing() -> None:
    rows = [KERAS, ONNX, TFLITE, TFJS]
    first = advice(*rows)
    assert advice(*reversed(rows)) == replace(first, lost=first.lost)


@pytest.mark.parametrize("target", TARGETS)
def test_each_target_has_its_own_rows_and_figures(target: str) -> None:
    """The server's rows are the faster ones, the browser's the smaller, and only two formats are for a phone."""
    browser = row("m-tfjs", ms=9, mb=1, where="browser", runtime="tfjs-wasm")
    report = report_of(ONNX, TFLITE, row("m-torch", ms=0.1, mb=0.1), browser)
    given = recommend(report, target)
    expected = {"server": "m-torch@server", "browser": "m-tfjs@tfjs-wasm", "mobile": "m-tflite@server"}
    assert given.choice == expected[target]
    if target == "mobile":
        assert "No phone was measured" in text(given.reasons)


def test_the_source_is_compared_with() -> None:
    said = text(advice(KERAS, TFLITE).reasons)
    assert "ship m-tflite, on Runtime 1.2" in said
    assert "Against its source, m-keras: 800 µs instead of 10.0 ms, 130 MB instead of 1.50 GB" in said
    assert "gives up nothing of time, size or accuracy" in said


def test_what_is_given_up_is_named() -> None:
    cheaper_but_larger = row("m-onnx", ms=1, mb=20, right=8_990)
    said = text(advice(row("m-keras", ms=10, mb=19), cheaper_but_larger).reasons)
    assert "it gives up size and accuracy" in said


def test_the_source_itself_can_be_the_choice() -> None:
    given = advice(row("m-keras", ms=0.1, mb=1), ONNX)
    assert given.choice == "m-keras@server"
    assert "It is a source itself" in text(given.reasons)


# Answers that are not the source's


WRONG = row("m-tflite", ms=0.1, mb=1, same=9_500, verdict="500 pictures change class at batch 1")


def test_other_answers_than_the_sources_are_never_recommended() -> None:
    given = advice(KERAS, WRONG)
    assert given.choice == "m-keras@server"
    assert given.lost["m-tflite@server"].text == (
        "Its answers are not its source's: 500 pictures change class at batch 1."
    )


def test_unless_the_caller_says_how_many_may_change() -> None:
    assert advice(KERAS, WRONG, constraints=Constraints(min_agreement=0.95)).choice == "m-tflite@server"
    strict = advice(KERAS, WRONG, constraints=Constraints(min_agreement=0.96))
    assert strict.choice == "m-keras@server"
    assert strict.lost["m-tflite@server"].text == "It has 95.00 %, outside MIN_AGREEMENT=0.96."


def test_where_all_answer_otherwise_nothing_is_chosen() -> None:
    given = advice(WRONG)
    assert given.choice is None
    assert text(given.reasons) == "No artifact keeps its source's answers."


# Constraints


def test_a_constraint_leaves_only_what_fits() -> None:
    given = advice(ONNX, TFLITE, TFJS, constraints=Constraints(max_ms=0.9))
    assert given.choice == "m-tflite@server"
    assert given.lost["m-tfjs@server"].text == "It has 5.00 ms, outside MAX_MS=0.9."
    assert given.lost["m-onnx@server"].text == "It has 1.00 ms, outside MAX_MS=0.9."


def test_a_limit_that_is_just_reached_is_met() -> None:
    assert advice(TFLITE, constraints=Constraints(max_ms=0.8, max_mb=130, min_agreement=1)).choice == "m-tflite@server"


def test_everything_that_is_missed_is_said() -> None:
    given = advice(TFLITE, KERAS, constraints=Constraints(max_mb=200, max_ms=2))
    assert given.lost["m-keras@server"].text == (
        "It has 1.50 GB, outside MAX_MB=200, and it has 10.0 ms, outside MAX_MS=2."
    )


def test_where_nothing_fits_the_nearest_limit_is_named() -> None:
    given = advice(ONNX, TFLITE, TFJS, constraints=Constraints(max_mb=15))
    assert given.choice is None
    assert [(one.constraint, one.asked, one.needed, one.row) for one in given.relax] == [
        ("max_mb", 15, 20, "m-tfjs@server")
    ]
    assert text(given.reasons) == "Nothing fits MAX_MB=15. Raise MAX_MB from 15 to 20, and m-tfjs@server fits."


def test_each_limit_that_would_be_enough_alone_is_named() -> None:
    given = advice(TFLITE, TFJS, constraints=Constraints(max_mb=25, max_ms=1))
    assert text(given.reasons) == (
        "Nothing fits MAX_MB=25, MAX_MS=1. Raise MAX_MB from 25 to 130, and m-tflite@server fits. "
        "Raise MAX_MS from 1 to 5, and m-tfjs@server fits."
    )


def test_limits_that_must_give_way_together_are_named_together() -> None:
    given = advice(TFLITE, TFJS, constraints=Constraints(max_mb=10, max_ms=0.5))
    assert [one.row for one in given.relax] == ["m-tflite@server"] * 2 or [one.row for one in given.relax] == [
        "m-tfjs@server"
    ] * 2
    assert {one.constraint for one in given.relax} == {"max_mb", "max_ms"}
    assert "no single constraint is enough" in text(given.reasons)


def test_agreement_is_lowered_not_raised() -> None:
    given = advice(row("m-onnx", same=9_987), constraints=Constraints(min_agreement=0.9999))
    assert text(given.reasons) == (
        "Nothing fits MIN_AGREEMENT=0.9999. Lower MIN_AGREEMENT from 0.9999 to 0.9987, and m-onnx@server fits."
    )


@pytest.mark.parametrize(
    "constraints",
    [Constraints(max_mb=1), Constraints(max_ms=0.01), Constraints(max_mb=1, max_ms=0.01), Constraints(max_mb=19.999)],
)
def test_what_was_relaxed_as_told_fits(constraints: Constraints) -> None:
    rows = (row("m-onnx", ms=1.23456, mb=141.4159), row("m-tflite", ms=0.87654, mb=130.0001), TFJS)
    given = advice(*rows, constraints=constraints)
    assert given.choice is None
    together = len({one.row for one in given.relax}) < len(given.relax)
    for relaxed in [given.relax] if together else [(one,) for one in given.relax]:
        loose = replace(constraints, **{one.constraint: one.needed for one in relaxed})
        assert advice(*rows, constraints=loose).choice == relaxed[0].row


@pytest.mark.parametrize(("value", "rounded"), [(20.0, 20.0), (130.0001, 131.0), (0.0123456, 0.0124), (1.2e-5, 1.2e-5)])
def test_limits_are_rounded_up(value: float, rounded: float) -> None:
    assert rounded_to_fit("max_mb", value) == pytest.approx(rounded, rel=1e-12)


@pytest.mark.parametrize(
    ("target", "constraints", "problem"),
    [
        ("fridge", NONE, "TARGET=fridge is not known: expected one of server, browser, mobile."),
        ("server", Constraints(max_mb=0), "MAX_MB=0 cannot be met"),
        ("server", Constraints(max_ms=-1), "MAX_MS=-1 cannot be met"),
        ("server", Constraints(max_ms=float("nan")), "MAX_MS=nan cannot be met"),
        ("server", Constraints(max_mb=float("inf")), "MAX_MB=inf cannot be met"),
        ("server", Constraints(min_agreement=99.9), "such as 0.999 for 99.9 %"),
        (None, Constraints(max_mb=1), "The constraints need a TARGET"),
    ],
)
def test_what_nothing_can_meet_is_refused_before_anything_is_measured(
    target: str | None, constraints: Constraints, problem: str
) -> None:
    with pytest.raises(ReportError, match=re.escape(problem)):
        check(target, constraints)


# What was not measured


def test_a_row_without_its_figures_is_left_out_and_says_why() -> None:
    gone = row("m-onnx", ms=0.1, mb=1, figures={"http_p50@1": Missing("The service did not start.")})
    given = advice(gone, TFLITE)
    assert given.choice == "m-tflite@server"
    assert given.lost["m-onnx@server"].text == "It was not measured: The service did not start."


def test_a_target_without_any_row_is_refused_with_the_reason() -> None:
    with pytest.raises(ReportError, match="Nothing was measured for TARGET=browser: there is no artifact for it"):
        advice(TFLITE, target="browser")
    gone = row("m-onnx", where="browser", figures={"p50@1": Missing("Chromium is missing.")})
    with pytest.raises(ReportError, match="TARGET=browser: It was not measured: Chromium is missing"):
        advice(gone, target="browser")


def test_other_targets_are_advised_as_well_where_they_can_be() -> None:
    report = advised(report_of(ONNX, TFLITE), "mobile", Constraints(max_ms=1))
    assert [one.target for one in report.recommendations] == ["mobile", "server"]
    assert report.recommendations[1].constraints == NONE


# The front


def candidate(name: str, accuracy: float, time: float, size: float) -> Candidate:
    right = Figure(accuracy, "share", accuracy - 0.01, accuracy + 0.01, PICTURES, "")
    return Candidate(name, right, timed(time), exact(size, "B"), exact(1.0, "share"))


def test_the_front_holds_what_nothing_else_dominates_the_fastest_first() -> None:
    small, fast, right = candidate("small", 0.9, 9, 1), candidate("fast", 0.9, 1, 9), candidate("right", 0.99, 9, 9)
    worse = candidate("worse", 0.9, 9, 9)
    assert front_of([worse, right, small, fast]) == [fast, right, small]


def test_noise_dominates_nothing() -> None:
    one, other = candidate("one", 0.9, 1.00, 5), candidate("other", 0.9, 1.01, 5)
    assert front_of([one, other]) == [one, other]
    assert front_of([one, candidate("other", 0.9, 1.1, 5)]) == [one]


def test_the_choice_is_always_on_the_front() -> None:
    import random

    source = random.Random(3)
    for _ in range(300):
        some = [
            candidate(f"c{n}", source.choice([0.9, 0.905, 0.95]), source.uniform(1, 3), source.choice([1, 2, 3]))
            for n in range(6)
        ]
        choice, _ = choose(some)
        assert choice in front_of(some)


# Every number stands in the report


def everything(report: Report) -> Iterator[Sentence]:
    for one in report.recommendations:
        yield from one.reasons
        yield from one.lost.values()


def at(data: Any, pointer: str) -> Any:
    for part in pointer.strip("/").split("/"):
        data = data[int(part)] if isinstance(data, list) else data[part]
    return data


def as_said(data: Any, pointer: str) -> str:
    """How a place of the report is written in a sentence."""
    found, (*above, last) = at(data, pointer), pointer.strip("/").split("/")
    if isinstance(found, str):
        return found
    if last == "value":
        return shown(found, at(data, "/".join(above))["unit"])
    if "constraints" in above:
        return f"{last.upper()}={found:g}"
    return f"{found:,}" if last == "pictures" else f"{found:g}"


CASES = {
    "a choice": (NONE, [KERAS, ONNX, TFLITE, TFJS]),
    "ties": (NONE, [row("m-onnx", ms=1, spread=0.1), row("m-tflite", ms=1.05, spread=0.1)]),
    "wrong answers": (NONE, [KERAS, WRONG]),
    "limits": (Constraints(max_mb=200, max_ms=0.9, min_agreement=0.5), [KERAS, ONNX, TFLITE, TFJS]),
    "nothing fits": (Constraints(max_mb=10.5, max_ms=0.55), [KERAS, ONNX, TFLITE, TFJS]),
    "one too much": (Constraints(max_mb=12.5), [ONNX, TFJS]),
    "not measured": (NONE, [TFLITE, row("m-onnx", figures={"http_p50@1": Missing("It took longer than 300 s.")})]),
}


@pytest.mark.parametrize("case", CASES)
def test_every_number_in_a_sentence_stands_in_the_report(case: str) -> None:
    constraints, rows = CASES[case]
    report = advised(report_of(*rows), "server", constraints)
    data = json.loads(json.dumps(asdict(report)))
    sentences = list(everything(report))
    assert sentences
    for sentence in sentences:
        left = sentence.text
        for pointer, words in sentence.numbers.items():
            assert as_said(data, pointer) == words, sentence
            assert words in sentence.text
            left = left.replace(words, "")
        assert not re.search(r"\d", left), f"{left!r} in {sentence.text!r} comes from nowhere"
