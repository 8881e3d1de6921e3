"""The comparison with an older report: which changes pass, and which fail."""

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

from compare.__main__ import main
from compare.answers import pack_classes, unpack_classes
from compare.baseline import WORK, Change, changed_answers, changes, failures_first, reversals
from compare.figures import Measured, Missing, exact, share
from compare.metrics import COMPUTE, START, SYSTEM
from compare.pace import measuring
from compare.report import REPORT, SCHEMA, Report, ReportError, read_report, write_report
from contract.code import ROOT
from contract.errors import RuntimeFailure
from tests.reports import MACHINE, report_of, row, timed


def report(
    ms: float = 1.0, mb: float = 10.0, spread: float = 0.02, figures: Mapping[str, Measured] | None = None
) -> Report:
    return report_of(row("m-onnx", ms=ms, mb=mb, spread=spread, figures=figures))


def texts(old: Report, new: Report, margin: float = 0.2) -> list[str]:
    return [f"{change.what}: {change.text}" for change in changes(old, new, margin)]


def failing(old: Report, new: Report, margin: float = 0.2) -> list[str]:
    return [f"{change.what}: {change.text}" for change in changes(old, new, margin) if change.fails]


def with_classes(of: Report, classes: list[int]) -> Report:
    answers = {64: np.eye(10)[classes]}
    artifact = replace(of.artifacts["m-onnx"], classes=pack_classes(answers))
    return replace(of, artifacts={"m-onnx": artifact})


def test_the_same_report_has_no_changes() -> None:
    assert changes(report(), report()) == []


def test_noise_is_no_change() -> None:
    assert changes(report(ms=1.0, spread=0.1), report(ms=1.15, spread=0.1), 0.0) == []


@pytest.mark.parametrize(
    ("ms", "margin", "fails"), [(1.3, 0.2, True), (1.3, 0.5, False), (0.5, 0.2, False), (1.15, 0.2, False)]
)
def test_a_time_fails_when_it_is_worse_than_noise_and_margin(ms: float, margin: float, fails: bool) -> None:
    assert any("median of 1 picture" in text for text in texts(report(), report(ms=ms), margin))
    assert bool(failing(report(), report(ms=ms), margin)) == fails


def at_pace(of: Report, **paces: float) -> Report:
    """The report, measured while the machine's fixed work took this many times as long."""
    return replace(of, paces={kind: timed(1e-4 * paces.get(kind, 1.0)) for kind in (COMPUTE, SYSTEM, START)})


def test_a_slower_machine_is_mentioned_and_fails_nothing_else() -> None:
    slow = at_pace(report(ms=1.6), compute=1.6, system=1.6)
    assert texts(at_pace(report()), slow) == [
        "machine: fixed computation takes 1.60 times as long; what depends on it is compared after division by that",
        "machine: an exchange over loopback takes 1.60 times as long; what depends on it is compared after division "
        "by that",
    ]


def test_a_runtime_that_got_slower_on_the_same_machine_fails() -> None:
    assert failing(at_pace(report()), at_pace(report(ms=1.6)))


def test_a_runtime_that_did_not_get_faster_when_the_machine_did_fails() -> None:
    assert failing(at_pace(report(), compute=1.6, system=1.6), at_pace(report()))


def test_each_kind_of_time_is_divided_by_its_own_pace() -> None:
    """A machine with other load answers HTTP more slowly, while a runtime alone takes as long as before."""
    http = {"http_p50@1": timed(1.6e-3)}
    assert failing(at_pace(report()), at_pace(report(figures=http), system=1.6)) == []
    both = failing(at_pace(report()), at_pace(report(ms=1.6, figures=http), system=1.6))
    assert both == ["m-onnx@server: median of 1 picture 1.00 ms -> 1.60 ms (+60%)"]


@pytest.mark.parametrize("pace", [0.6, 1.0, 1.7])
def test_memory_does_not_follow_the_machines_pace(pace: float) -> None:
    def of(megabytes: float, ms: float) -> Report:
        memory = replace(timed(megabytes * 1e6, 0.01), unit="B")
        return report(ms=ms, figures={"memory": memory, "service_memory": memory})

    old = at_pace(of(44.3, 1.0))
    assert failing(old, at_pace(of(44.3, pace), compute=pace, system=pace)) == []
    grown = failing(old, at_pace(of(44.3 * 1.3, pace), compute=pace, system=pace))
    assert [text.partition(" 44")[0] for text in grown] == [
        "m-onnx@server: memory",
        "m-onnx@server: memory of the service",
    ]


def test_a_pace_within_the_noise_is_none() -> None:
    assert texts(at_pace(report()), at_pace(report(), compute=1.03)) == []


def test_the_fixed_work_is_measured() -> None:
    with measuring() as measure:
        for kinds in [*((kind,) for kind in WORK), tuple(WORK)]:
            seconds = measure(*kinds)
            assert set(seconds) == set(kinds) and all(1e-7 < value < 5 for value in seconds.values())


def test_a_pace_that_cannot_be_measured_is_one_message() -> None:
    with measuring() as measure:
        for _ in range(2):  # the first ends the process
            with pytest.raises(RuntimeFailure, match="measures the machine's pace ended, exit status 1"):
                measure("no such work")


def test_a_change_is_shown_with_both_values() -> None:
    assert "m-onnx@server: median of 1 picture 1.00 ms -> 1.50 ms (+50%)" in failing(report(), report(ms=1.5))


def test_a_lower_throughput_is_worse() -> None:
    fast, slow = ({"throughput@8": replace(timed(value), unit="1/s")} for value in (100.0, 50.0))
    assert failing(report(figures=fast), report(figures=slow)) == [
        "m-onnx@server: throughput of 8 pictures 100 /s -> 50 /s (-50%)"
    ]
    assert failing(report(figures=slow), report(figures=fast)) == []


def test_a_count_that_grows_beyond_the_margin_fails() -> None:
    assert failing(report(mb=10), report(mb=11)) == []
    assert any("on disk 10.0 MB -> 13.0 MB (+30%)" in text for text in failing(report(mb=10), report(mb=13)))


def test_agreement_has_no_margin() -> None:
    new = report()
    lost = replace(
        new.artifacts["m-onnx"], figures={**new.artifacts["m-onnx"].figures, "agreement": share(9_950, 10_000)}
    )
    assert any(
        "same class as the source" in text for text in failing(report(), replace(new, artifacts={"m-onnx": lost}))
    )


def test_a_picture_that_changes_its_class_fails() -> None:
    old, new = with_classes(report(), [1, 2, 3, 4]), with_classes(report(), [1, 2, 9, 4])
    assert failing(old, new) == ["m-onnx: 1 of 4 pictures changed their class"]
    assert failing(old, with_classes(report(), [1, 2, 3, 4])) == []
    assert failing(old, report()) == ["m-onnx: it gives no answers any more"]


def test_classes_are_packed_without_loss() -> None:
    classes = np.random.default_rng(0).integers(0, 1000, 500)
    assert unpack_classes(pack_classes({64: np.eye(1000)[classes]})).tolist() == classes.tolist()


def test_a_verdict_that_turns_fails() -> None:
    new = report()
    failed = replace(new.artifacts["m-onnx"], verdict="the largest difference is 0.5")
    assert failing(report(), replace(new, artifacts={"m-onnx": failed})) == [
        "m-onnx: its answers are no longer its source's: the largest difference is 0.5"
    ]


def test_what_is_gone_fails_and_what_is_new_does_not() -> None:
    both = report_of(row("m-onnx"), row("m-tflite"))
    assert failing(both, report()) == ["m-tflite: it is gone"]
    assert texts(report(), both) == ["m-tflite: it is new"]


def test_a_figure_that_is_missing_now_fails_with_its_reason() -> None:
    gone = report(figures={"http_p50@1": Missing("The service did not start.")})
    assert failing(report(), gone) == [
        "m-onnx@server: median over HTTP of 1 picture was 1.00 ms, and is not measured now: The service did not start."
    ]
    assert changes(gone, report()) == [], "a figure that was missing before is not a loss"


def test_times_of_another_machine_are_not_compared_but_sizes_are() -> None:
    other = replace(report(ms=9, mb=20), machine=replace(MACHINE, processor="Faster"))
    lines = texts(report(), other)
    assert any("times are not compared" in line for line in lines)
    assert not any("median" in line for line in lines)
    assert any("on disk" in text for text in failing(report(), other))


def test_versions_that_changed_are_named() -> None:
    upgraded = replace(report(), machine=replace(MACHINE, versions={"onnx": "1.20.0", "keras": "4.0"}))
    assert texts(report(), upgraded) == ["version: keras 4.0 instead of none", "version: onnx 1.20.0 instead of 1.19.1"]
    assert failing(report(), upgraded) == []


def test_other_pictures_cannot_be_compared() -> None:
    assert failing(report(), replace(report(), pictures=64)) == [
        "pictures: 64 pictures of fashion_mnist instead of 10,000 of fashion_mnist"
    ]


def test_what_fails_comes_first() -> None:
    all_changes = changes(report(), replace(report(ms=2), machine=replace(MACHINE, versions={})))
    assert [change.fails for change in all_changes] == sorted((change.fails for change in all_changes), reverse=True)
    assert str(Change("a", "b", True)).startswith("WORSE")


# The order of rows


def test_rows_that_change_places_beyond_the_noise_are_named() -> None:
    old = report_of(row("m-onnx", ms=1, mb=1), row("m-tflite", ms=2, mb=2))
    new = report_of(row("m-onnx", ms=2, mb=1), row("m-tflite", ms=1, mb=2))
    pairs, reversed_pairs = reversals(old, new)
    assert pairs == 3, "the time alone, the time over HTTP, and the download, which did not change"
    assert reversed_pairs == [
        f"m-onnx@server and m-tflite@server: median{words} of 1 picture" for words in ("", " over HTTP")
    ]


def test_rows_that_change_places_within_the_noise_are_not() -> None:
    old = report_of(row("m-onnx", ms=1, mb=1), row("m-tflite", ms=2, mb=1))
    new = report_of(row("m-onnx", ms=2, mb=1, spread=0.6), row("m-tflite", ms=1, mb=1, spread=0.6))
    assert reversals(old, new) == (0, [])
    assert reversals(old, old) == (2, [])


# Reports on disk


def test_a_report_comes_back_as_it_was_written(tmp_path: Path) -> None:
    written = report(figures={"image": Missing("none")})
    write_report(tmp_path, written)
    assert read_report(tmp_path / REPORT) == written


def test_the_page_reads_the_schema_that_is_written() -> None:
    written = re.search(
        r"^export const SCHEMA = (\d+);", (ROOT / "web" / "src" / "report.ts").read_text(), re.MULTILINE
    )
    assert written and int(written[1]) == SCHEMA


def test_a_report_of_another_schema_says_what_to_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "old.json"
    path.write_text(json.dumps({**asdict(report()), "schema": 0}))
    with pytest.raises(ReportError, match=r"old.json has schema 0, expected 2: .* Run `make compare` again"):
        read_report(path)
    with pytest.raises(SystemExit) as stopped:
        main([str(tmp_path), "--baseline", str(path)])
    assert str(stopped.value).startswith("error: ")
    assert not (tmp_path / "report").exists(), "nothing was measured"


@pytest.mark.parametrize(
    "content", ["", "{}", "[]", '{"schema": 2}', "null", '{"schema": 2, "made": 3}', "[" * 100_000]
)
def test_a_file_that_is_not_a_report_is_an_error_for_people(tmp_path: Path, content: str) -> None:
    (tmp_path / REPORT).write_text(content)
    with pytest.raises(ReportError, match="cannot be read as a report"):
        read_report(tmp_path / REPORT)


def test_a_figure_of_the_wrong_type_is_an_error(tmp_path: Path) -> None:
    data = asdict(report())
    data["rows"]["m-onnx@server"]["figures"]["p50@1"]["value"] = "fast"
    (tmp_path / REPORT).write_text(json.dumps(data))
    with pytest.raises(ReportError, match=r'\["p50@1"\]\.value: got "fast", expected a number'):
        read_report(tmp_path / REPORT)


def test_a_report_that_is_not_there_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(ReportError, match="Run `make compare` to write one"):
        read_report(tmp_path / REPORT)


def test_exact_counts_that_fall_are_not_a_loss() -> None:
    assert failing(report(figures={"installed": exact(9e6, "B")}), report(figures={"installed": exact(1e6, "B")})) == []


def test_besides_values_of_figures_answers_and_lost_figures_are_changes() -> None:
    old = with_classes(report(), [1, 2, 3, 4])
    assert changed_answers(old, with_classes(report(ms=9), [1, 2, 3, 4])) == []
    gone = report(figures={"http_p50@1": Missing("The service did not start.")})
    found = [str(change) for change in changed_answers(old, with_classes(gone, [1, 2, 9, 4]))]
    assert found == [
        "WORSE  m-onnx: 1 of 4 pictures changed their class",
        "WORSE  m-onnx@server: median over HTTP of 1 picture was 1.00 ms, and is not measured now: The service did not "
        "start.",
    ]


def test_each_change_is_told_once_and_failures_come_first() -> None:
    same, worse = Change("a", "new", False), Change("b", "slower", True)
    assert failures_first([same, worse, same]) == [worse, same]
