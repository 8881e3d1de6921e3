"""The sentences of a recommendation, and that every number in them stands in the report."""

import dataclasses
import json
import re
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import pytest

from compare.advice import add_recommendations, advise
from compare.figures import Missing, shown
from compare.report import Artifact, Constraints, Recommendation, Report, Row, Sentence
from contract.arm_proof import ArmProof
from contract.placement import Placement
from tests.reports import KERAS, NO_LIMITS, ONNX, PROOF, TFJS, TFLITE, WRONG, report_of, row


def advice(*rows: Any, target: str = "server", constraints: Constraints = NO_LIMITS) -> Recommendation:
    return advise(report_of(*rows), target, constraints)


def reasons(*rows: Any, target: str = "server", constraints: Constraints = NO_LIMITS) -> list[str]:
    return [sentence.text for sentence in advice(*rows, target=target, constraints=constraints).reasons]


def rejected(*rows: Any, constraints: Constraints = NO_LIMITS) -> dict[str, str]:
    return {
        name.removesuffix("@server"): sentence.text
        for name, sentence in advice(*rows, constraints=constraints).rejected.items()
    }


# The choice


def test_the_choice_is_explained_with_its_figures_and_its_source() -> None:
    assert reasons(KERAS, TFLITE) == [
        "For a server, ship m-tflite on Runtime 1.2.",
        "It classifies 90.00 % of the 10,000 test pictures correctly. The median time of a request with one picture "
        "is 800 µs. The size of the artifact and its runtime's packages is 130 MB.",
        "Compared with its source, m-keras, it takes 800 µs instead of 10.0 ms and 130 MB instead of 1.50 GB. "
        "It is not worse in time, size or accuracy. 100.00 % of the pictures keep their class.",
    ]


def test_what_the_choice_does_worse_than_its_source_is_named() -> None:
    cheaper_but_larger = row("m-onnx", ms=1, mb=20, right=8_990)
    assert "It is worse in size and accuracy." in reasons(row("m-keras", ms=10, mb=19), cheaper_but_larger)[2]


def test_the_source_itself_can_be_the_choice() -> None:
    assert reasons(row("m-keras", ms=0.1, mb=1), ONNX)[2:] == [
        "It is the source artifact, so no conversion changes its answers."
    ]


@pytest.mark.parametrize("target", ["browser", "android", "ios"])
def test_a_source_that_does_not_run_there_is_not_compared(target: str) -> None:
    browser = row("m-tfjs", ms=5, mb=20, where="browser", runtime="tfjs-wasm")
    assert reasons(KERAS, TFLITE, browser, target=target)[2] == (
        "Its source, m-keras, is not a candidate here. 100.00 % of the pictures keep their class."
    )


def test_a_source_that_runs_on_a_phone_is_compared_there() -> None:
    """As after bringing an ONNX file."""
    source, tflite = row("m-onnx", ms=1, mb=2, source="m-onnx"), row("m-tflite", ms=1, mb=1, source="m-onnx")
    assert reasons(source, tflite, target="android")[2].startswith(
        "Compared with its source, m-onnx, it takes 1.00 ms instead of 1.00 ms and 1.00 MB instead of 2.00 MB."
    )


def test_a_target_that_was_not_measured_itself_says_so() -> None:
    assert reasons(TFLITE, target="android")[-1] == (
        "No phone was measured. The times come from this machine, so use them only to rank the formats."
    )


@pytest.mark.parametrize(("target", "accelerator"), [("android", "NNAPI"), ("ios", "Core ML")])
def test_the_choice_for_a_phone_says_which_of_its_operators_run_on_what_the_phone_has(
    target: str, accelerator: str
) -> None:
    found = placed(TFLITE, Placement("XNNPACK", 8, 9, 2, True))
    assert "In its file, 8 of 9 operators run on XNNPACK, in 2 pieces." in reasons(found, target=target)
    checked = placed(ONNX, *(Placement(part, 5, 7, 1, False, True) for part in ("NNAPI", "Core ML")))
    about = [text for text in reasons(checked, target=target) if "operators" in text]
    assert about == [f"In its file, 5 of 7 operators could run on {accelerator}, in 1 piece, once its sizes are fixed."]
    assert not [text for text in reasons(found, checked, target="server") if "operators" in text]


@pytest.mark.parametrize(
    ("proof", "words"),
    [
        (None, "Its answers are not proven on ARM. `make verify-arm` proves those of TF Lite and ONNX."),
        (PROOF, "Its answers are proven on ARM (cortex-a76, emulated) with 1000 questions."),
    ],
)
def test_the_choice_for_a_phone_says_whether_it_is_proven_on_arm(proof: ArmProof | None, words: str) -> None:
    artifact, its_row = TFLITE
    choice = dataclasses.replace(artifact, arm=proof), its_row
    assert words in reasons(choice, target="android")
    assert not [text for text in reasons(choice, target="server") if "ARM" in text]
    report = add_recommendations(report_of(choice), "ios", NO_LIMITS)
    data = json.loads(json.dumps(asdict(report)))
    about = next(sentence for sentence in sentences_of(report) if sentence.text == words)
    assert {as_written(data, pointer) for pointer in about.numbers} == set(about.numbers.values())


def test_what_gives_other_answers_on_arm_is_not_chosen_for_a_phone() -> None:
    artifact, its_row = TFLITE
    wrong = dataclasses.replace(PROOF, passed=False, reasons=("3 answers change class at batch 1", "and more"))
    rows = (dataclasses.replace(artifact, arm=wrong), its_row), ONNX
    text = "On ARM (cortex-a76, emulated) its answers differ: 3 answers change class at batch 1."
    given = advice(*rows, target="ios")
    assert (given.choice, given.rejected["m-tflite@server"].text) == ("m-onnx@server", text)
    assert advice(*rows).choice == "m-tflite@server", "a server has another processor"
    alone = advice(rows[0], target="android")
    assert alone.choice is None
    assert alone.reasons[0].text == "No artifact keeps its source's answers."


def placed(row: tuple[Artifact, Row], *placements: Placement) -> tuple[Artifact, Row]:
    return dataclasses.replace(row[0], placements=placements), row[1]


def test_a_choice_that_its_makers_are_leaving_says_so() -> None:
    artifact, its_row = TFJS
    left = dataclasses.replace(artifact, outlook="The last release is of 2024 (as of 2026-11).")
    assert left.outlook in reasons((left, its_row))
    assert left.outlook not in reasons(row("m-tflite", ms=0.1), (left, its_row))


def proven(name: str, **known: Any) -> tuple[Artifact, Row]:
    """A row without a time, of an artifact that was proven on a stand-in for the device."""
    artifact, its_row = row(name, mb=0.04, figures={"p50@1": Missing("It is not timed."), "http_p50@1": Missing("")})
    about = {"proven_on": "a stand-in", "outlook": "It is in beta (as of 2026-12)."} | known
    return dataclasses.replace(artifact, **about), its_row


def test_what_is_proven_without_a_time_is_named_for_an_iphone_and_not_ranked() -> None:
    given = advice(TFLITE, proven("m-coreai"), target="ios")
    text = (
        "m-coreai may run there, too: 100.00 % of the pictures keep their class on a stand-in, and its files have "
        "40.0 kB. It has no time to rank it by."
    )
    words = [sentence.text for sentence in given.reasons]
    assert words[-3:-1] == [text, "It is in beta (as of 2026-12)."]
    assert (given.choice, given.rejected["m-coreai@server"].text) == (
        "m-tflite@server",
        "It was not measured: It is not timed.",
    )
    assert text not in reasons(TFLITE, proven("m-coreai", verdict="other answers"), target="ios")
    for target in ("server", "android"):
        assert not [sentence for sentence in reasons(TFLITE, proven("m-coreai"), target=target) if "coreai" in sentence]
    data = json.loads(
        json.dumps(asdict(report := add_recommendations(report_of(TFLITE, proven("m-coreai")), "ios", NO_LIMITS)))
    )
    numbers = next(sentence for sentence in sentences_of(report) if sentence.text == text).numbers
    assert {as_written(data, pointer) for pointer in numbers} == {*numbers.values()} and len(numbers) == 3


def test_what_another_system_alone_runs_is_named_for_an_iphone_with_what_is_unknown_of_it() -> None:
    artifact, its_row = proven("m-coreml", proven_on="", outlook="", needs="macOS", verdict="not compared: why")
    figures = {**artifact.figures, "agreement": Missing("Nothing is known.")}
    coreml = dataclasses.replace(artifact, figures=figures), its_row
    given = advice(TFLITE, coreml, target="ios")
    assert given.choice == "m-tflite@server"
    assert (
        "m-coreml may run there, too: it is converted, and not run here, since it needs macOS. Nothing is known of its "
        "answers and its time. Its files have 40.0 kB."
    ) in [sentence.text for sentence in given.reasons]
    for target in ("server", "android"):
        assert not [sentence for sentence in reasons(TFLITE, coreml, target=target) if "coreml" in sentence]


def test_ties_are_named() -> None:
    rows = row("m-onnx", ms=1.00, spread=0.1), row("m-tflite", ms=1.05, spread=0.1)
    assert reasons(*rows)[-1] == "Within the noise, m-tflite@server is as good: 1.05 ms and 10.0 MB."
    assert rejected(*rows)["m-tflite"] == (
        "Within the noise, it is as good as m-onnx@server: 1.05 ms against 1.00 ms, 10.0 MB against 10.0 MB."
    )


NEAR = tuple(
    zip(["onnx", "tflite", "savedmodel", "torch", "tfjs", "keras"], (1.0, 1.01, 1.02, 1.03, 1.04, 1.05), strict=True)
)


def test_at_most_three_ties_are_named_and_the_rest_is_a_count() -> None:
    rows = [row(f"n-{format}", ms=ms, spread=0.1) for format, ms in NEAR]
    *_, third, rest = reasons(*rows)
    assert third == "Within the noise, n-torch@server is as good: 1.03 ms and 10.0 MB."
    assert rest == "2 more rows are as good within the noise."
    assert reasons(*rows[:5])[-1] == "1 more row is as good within the noise."
    assert reasons(*rows[:4])[-1] == third


def test_a_tie_that_measured_better_says_why_it_is_not_preferred() -> None:
    stored = dataclasses.replace(row("m-tflite-fp16", ms=0.98, verdict="passed at 99.9 %", spread=0.1)[1], marks=("x",))
    rows = row("m-tflite", spread=0.1), (row("m-tflite-fp16", verdict="passed at 99.9 %")[0], stored)
    assert reasons(*rows)[0] == "For a server, ship m-tflite on Runtime 1.2."
    why = "980 µs and 10.0 MB, but its verdict is 'passed at 99.9 %'."
    assert reasons(*rows)[-1] == f"Within the noise, m-tflite-fp16@server is as good: {why}"
    assert rejected(*rows)["m-tflite-fp16"].endswith("10.0 MB against 10.0 MB, but its verdict is 'passed at 99.9 %'.")


def test_the_most_accurate_row_is_named_where_the_choice_is_another_one() -> None:
    rows = row("m-onnx", ms=2, right=9_010), row("m-tflite", ms=1)
    said = "The most accurate one, m-onnx, reaches 90.10 %: on these pictures that is within the noise."
    assert said in reasons(*rows)
    assert not [text for text in reasons(ONNX, TFLITE) if "most accurate" in text]


def test_a_precision_that_is_not_allowed_says_so() -> None:
    limits = Constraints(allow_precision=("int8", "fp16"))
    rows = ONNX, row("m-tflite-int8", ms=3, verdict="passed at 99 %")
    assert reasons(*rows, constraints=limits)[0] == "For a server, ship m-tflite-int8 on Runtime 1.2."
    assert rejected(*rows, constraints=limits)["m-onnx"] == (
        "Its format, onnx, is not within ALLOW_PRECISION=int8,fp16."
    )
    assert reasons(ONNX, constraints=limits) == [
        "No artifact here is within ALLOW_PRECISION=int8,fp16. PRECISION says which variants are made."
    ]


# Why not another one


def test_each_rejected_row_has_its_reason() -> None:
    fast_and_wrong = row("m-tflite", ms=0.1, mb=1, right=8_000)
    assert rejected(KERAS, ONNX, fast_and_wrong) == {
        "m-keras": (
            "m-onnx@server is at least as good in everything: 90.00 % correct against 90.00 %, "
            "1.00 ms against 10.0 ms, 140 MB against 1.50 GB."
        ),
        "m-tflite": "It is less accurate than m-onnx@server: 80.00 % against 90.00 %.",
    }


def test_a_row_that_costs_more_says_what_it_is_better_in() -> None:
    choice = row("m-onnx", ms=1, mb=10)
    small, fast = row("m-tflite", ms=9, mb=5), row("m-tfjs", ms=0.9, mb=50)
    accurate = row("m-savedmodel", ms=2, mb=10, right=9_010)
    assert rejected(choice, small, fast, accurate) == {
        "m-tflite": "It is smaller than m-onnx@server (5.00 MB against 10.0 MB), but slower (9.00 ms against 1.00 ms).",
        "m-tfjs": "It is faster than m-onnx@server (900 µs against 1.00 ms), but larger (50.0 MB against 10.0 MB).",
        "m-savedmodel": (
            "It is not more accurate than m-onnx@server beyond the noise (90.10 % against 90.00 %), "
            "and it costs more: 2.00 ms against 1.00 ms, 10.0 MB against 10.0 MB."
        ),
    }


def test_other_answers_are_said_with_the_verdict() -> None:
    assert rejected(KERAS, WRONG)["m-tflite"] == (
        "Its answers differ from its source's: 500 answers change class at batch 1."
    )


def test_if_all_rows_have_other_answers_that_is_said() -> None:
    assert reasons(WRONG) == ["No artifact keeps its source's answers."]


def test_every_limit_that_is_missed_is_said() -> None:
    limits = Constraints(max_mb=200, max_ms=2)
    assert rejected(TFLITE, KERAS, constraints=limits)["m-keras"] == (
        "Its size, 1.50 GB, exceeds MAX_MB=200. Its time, 10.0 ms, exceeds MAX_MS=2."
    )
    strict = Constraints(min_agreement=0.96)
    assert rejected(KERAS, WRONG, constraints=strict)["m-tflite"] == (
        "Its agreement, 95.00 %, is below MIN_AGREEMENT=0.96."
    )


def test_a_row_that_was_not_measured_says_why() -> None:
    gone = row("m-onnx", figures={"http_p50@1": Missing("The service did not start.")})
    assert rejected(gone, TFLITE)["m-onnx"] == "It was not measured: The service did not start."


# Nothing fits


def test_the_nearest_limit_is_named() -> None:
    assert reasons(ONNX, TFLITE, TFJS, constraints=Constraints(max_mb=15)) == [
        "Nothing fits MAX_MB=15.",
        "Raise MAX_MB from 15 to 20, and m-tfjs@server fits.",
    ]


def test_each_limit_that_is_enough_alone_is_named() -> None:
    assert reasons(TFLITE, TFJS, constraints=Constraints(max_mb=25, max_ms=1)) == [
        "Nothing fits MAX_MB=25, MAX_MS=1.",
        "Raise MAX_MB from 25 to 130, and m-tflite@server fits.",
        "Raise MAX_MS from 1 to 5, and m-tfjs@server fits.",
    ]


def test_limits_that_must_give_way_together_are_named_together() -> None:
    assert reasons(TFLITE, TFJS, constraints=Constraints(max_mb=10, max_ms=0.5)) == [
        "Nothing fits MAX_MB=10, MAX_MS=0.5.",
        "No single constraint is enough. With MAX_MB=20 and MAX_MS=5, m-tfjs@server fits.",
    ]


def test_agreement_is_lowered_not_raised() -> None:
    assert reasons(row("m-onnx", same=9_987), constraints=Constraints(min_agreement=0.9999)) == [
        "Nothing fits MIN_AGREEMENT=0.9999.",
        "Lower MIN_AGREEMENT from 0.9999 to 0.9987, and m-onnx@server fits.",
    ]


# All targets


def test_other_targets_get_a_recommendation_if_they_were_measured() -> None:
    report = add_recommendations(report_of(ONNX, TFLITE), "android", Constraints(max_ms=1))
    assert [each.target for each in report.recommendations] == ["android", "server", "ios"]
    assert report.recommendations[1].constraints == NO_LIMITS


# Every number stands in the report


def sentences_of(report: Report) -> Iterator[Sentence]:
    for recommendation in report.recommendations:
        yield from recommendation.reasons
        yield from recommendation.rejected.values()


def at(data: Any, pointer: str) -> Any:
    for part in pointer.strip("/").split("/"):
        data = data[int(part)] if isinstance(data, list) else data[part]
    return data


def as_written(data: Any, pointer: str) -> str:
    """How a sentence writes the value at a place of the report."""
    value, (*above, last) = at(data, pointer), pointer.strip("/").split("/")
    if isinstance(value, str):
        return value
    if last == "value":
        return shown(value, at(data, "/".join(above))["unit"])
    if isinstance(value, list):
        return f"{last.upper()}={','.join(value)}"
    if "constraints" in above:
        return f"{last.upper()}={value:g}"
    return f"{value:,}" if last == "pictures" else f"{value:g}"


CASES = {
    "a choice": (NO_LIMITS, [KERAS, ONNX, TFLITE, TFJS]),
    "ties": (NO_LIMITS, [row("m-onnx", ms=1, spread=0.1), row("m-tflite", ms=1.05, spread=0.1)]),
    "wrong answers": (NO_LIMITS, [KERAS, WRONG]),
    "limits": (Constraints(max_mb=200, max_ms=0.9, min_agreement=0.5), [KERAS, ONNX, TFLITE, TFJS]),
    "nothing fits": (Constraints(max_mb=10.5, max_ms=0.55), [KERAS, ONNX, TFLITE, TFJS]),
    "many ties": (NO_LIMITS, [row(f"n-{format}", ms=ms, spread=0.1) for format, ms in NEAR]),
    "a precision": (
        Constraints(max_mb=2.5, allow_precision=("int8",)),
        [ONNX, row("m-onnx-int8", verdict="passed at 9 %")],
    ),
    "a tie with a caveat": (
        NO_LIMITS,
        [row("m-onnx", ms=1, spread=0.1), row("m-onnx-fp16", ms=0.98, spread=0.1, verdict="passed at 99.9 %")],
    ),
    "where operators run": (NO_LIMITS, [placed(TFLITE, Placement("XNNPACK", 8, 9, 2, True))]),
    "what is being left": (
        NO_LIMITS,
        [(dataclasses.replace(TFJS[0], outlook="It is of 2024 (as of 2026-11)."), TFJS[1])],
    ),
    "one limit too low": (Constraints(max_mb=12.5), [ONNX, TFJS]),
    "not measured": (NO_LIMITS, [TFLITE, row("m-onnx", figures={"http_p50@1": Missing("It took longer than 300 s.")})]),
}


@pytest.mark.parametrize("case", CASES)
def test_every_number_in_a_sentence_stands_in_the_report(case: str) -> None:
    constraints, rows = CASES[case]
    report = add_recommendations(report_of(*rows), "server", constraints)
    data = json.loads(json.dumps(asdict(report)))
    sentences = list(sentences_of(report))
    assert sentences
    for sentence in sentences:
        left = re.sub(r"\bm-\w+-\w+", "", sentence.text)  # a name of a variant
        for pointer, words in sentence.numbers.items():
            assert as_written(data, pointer) == words, sentence
            assert words in sentence.text
            left = left.replace(words, "")
        assert not re.search(r"\d", left), f"{left!r} in {sentence.text!r} has no place in the report"
