"""Old and new by turns: what did not change raises no alarm, and what did is found and named."""

import json
import random
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from compare import browser, turns
from compare.__main__ import main
from compare.baseline import Change
from compare.report import REPORT, ReportError, read_report, write_report
from compare.turns import CLOSE, FAR, Round, Side, Timed, Turn, alone, compare_by_turns, root_of
from compare.upgrade import Baseline
from contract.code import ROOT
from contract.manifest import MANIFEST, read_manifest, sha256_of, sha256_of_files, write_manifest
from tests.reports import report_of, row

RECORDED: dict[str, dict[str, list[list[float]]]] = json.loads((ROOT / "tests" / "recorded_turns.json").read_text())
"""Row and kind -> figure -> rounds of an unchanged pair, as [old, new], on a machine with other load."""

SEEDS = range(10)
KINDS = {name: name.rsplit(" ", 1) for name in RECORDED}


def rows(seed: int, slower: str = "", factor: float = 1.0) -> list[Timed]:
    """Rows whose rounds are drawn from the recorded ones; the calls of `slower` take this many times as long."""
    order = random.Random(seed)

    def measure(name: str) -> Callable[[], Round]:
        def one() -> Round:
            count = len(next(iter(RECORDED[name].values())))
            place, is_turned = order.randrange(count), order.random() < 0.5
            pairs = {figure: rounds[place][:: -1 if is_turned else 1] for figure, rounds in RECORDED[name].items()}
            by = {figure: factor if name == slower and "p50" in figure else 1.0 for figure in pairs}
            return {figure: Turn(old, new * by[figure]) for figure, (old, new) in pairs.items()}

        return one

    return [Timed(f"{row}@server", kind, measure(name)) for name, (row, kind) in KINDS.items()]


def failing(changes: list[Change]) -> list[str]:
    return [change.what for change in changes if change.fails]


def test_the_recorded_rounds_are_enough_to_draw_from() -> None:
    assert all(len(rounds) >= 3 for figures in RECORDED.values() for rounds in figures.values())
    assert {kind for _, kind in KINDS.values()} == {"time", "http"}


@pytest.mark.parametrize("seed", SEEDS)
def test_an_unchanged_pair_raises_no_alarm(seed: int) -> None:
    assert failing(compare_by_turns(rows(seed), None, seed)) == []


@pytest.mark.parametrize("name", [name for name, (row, kind) in KINDS.items() if kind == "time" and row != "tfjs"])
def test_a_runtime_that_is_15_percent_slower_is_found_in_nine_of_ten_and_named(name: str) -> None:
    found = [failing(compare_by_turns(rows(seed, name, 1.15), None, seed)) for seed in SEEDS]
    expected = f"{KINDS[name][0]}@server"
    assert sum(expected in each for each in found) >= 9
    assert {what for each in found for what in each} == {expected}, "and nothing else"


def test_a_change_says_both_values_and_by_how_much() -> None:
    steady = Timed("m-onnx@server", "time", lambda: {"p50@1": Turn(1e-3, 1.3e-3), "memory": Turn(5e6, 5e6)})
    (change,) = compare_by_turns([steady], None, 0)
    assert str(change) == "WORSE  m-onnx@server: median of 1 picture 1.00 ms -> 1.30 ms (+30%, by turns)"
    (better,) = compare_by_turns([replace(steady, measure=lambda: {"p50@1": Turn(2e-3, 1e-3)})], None, 0)
    assert (better.fails, better.text) == (False, "median of 1 picture 2.00 ms -> 1.00 ms (-50%, by turns)")


@pytest.mark.parametrize(
    ("kind", "figure", "factor", "margin", "fails"),
    [
        ("time", "p50@1", 1 + CLOSE / 2, None, False),
        ("time", "p50@1", 1 + 1.2 * CLOSE, None, True),
        ("http", "cold_start", 1 + FAR / 1.2, None, False),
        ("http", "cold_start", 1 + 1.2 * FAR, None, True),
        ("browser", "p50@1", 1 + FAR / 1.2, None, False),
        ("time", "p50@1", 1.3, 0.5, False),
        ("time", "memory", 1.3, None, True),
    ],
)
def test_each_figure_has_its_margin(kind: str, figure: str, factor: float, margin: float | None, fails: bool) -> None:
    timed = Timed("m-onnx@server", kind, lambda: {figure: Turn(1.0, factor)})
    assert bool(compare_by_turns([timed], margin, 0)) == fails


def test_only_rows_that_look_worse_are_measured_in_further_rounds() -> None:
    calls: list[str] = []

    def counted(name: str, factor: float) -> Callable[[], Round]:
        def measure() -> Round:
            calls.append(name)
            return {"p50@1": Turn(1.0, factor)}

        return measure

    timed = [Timed("a@server", "time", counted("a", 1.0)), Timed("b@server", "time", counted("b", 1.5))]
    compare_by_turns(timed, None, 0)
    assert (calls.count("a"), calls.count("b")) == (turns.FIRST, turns.FIRST + turns.FURTHER[0])


def test_a_pair_that_cannot_be_measured_is_named_and_the_others_go_on() -> None:
    def fail() -> Round:
        raise RuntimeError("no node")

    timed = [
        Timed("a@server", "time", fail),
        Timed("b@server", "time", lambda: {"p50@1": Turn(1.0, 2.0)}),
    ]
    assert [(change.what, change.fails) for change in compare_by_turns(timed, None, 0)] == [
        ("a@server", False),
        ("b@server", True),
    ]


def test_a_load_that_comes_and_goes_changes_nothing() -> None:
    order = random.Random(0)

    def takes(factor: float) -> Callable[[float], float]:
        return lambda _: factor * order.choice((1.0, 1.01, 1.4, 2.0, 5.0))

    assert turns._by_turns(takes(1.0), takes(1.0)).ratio == pytest.approx(1, abs=0.03)
    assert turns._by_turns(takes(1.0), takes(1.15)).ratio == pytest.approx(1.15, abs=0.03)


# Real processes


@pytest.fixture(scope="module")
def slow_checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another checkout of the project, whose ONNX Runtime takes twice as long."""
    root = tmp_path_factory.mktemp("checkout")
    for name in ("bring", "compare", "contract", "export", "serve", "train", "verify"):
        shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
    file = root / "serve" / "runtimes" / "onnx.py"
    source = file.read_text()
    call = "        outputs = self._session.run(self._outputs, dict(_with_texts(inputs, _as_text)))\n"
    assert source.count(call) == 1
    file.write_text(source.replace(call, call * 2))
    return root


def test_a_slower_runtime_of_another_checkout_is_measured_beside_this_one(artifacts: Path, slow_checkout: Path) -> None:
    folder = artifacts / "keras_cnn" / "onnx"
    measured = alone((Side(folder), Side(folder, slow_checkout)), 1)
    assert measured["p50@1"].ratio > 1.4
    assert measured["memory"].ratio == pytest.approx(1, abs=0.1)


def test_the_checkout_of_artifacts_is_the_one_that_they_lie_in(slow_checkout: Path, tmp_path: Path) -> None:
    assert root_of(slow_checkout / "artifacts") == slow_checkout
    assert root_of(ROOT / "artifacts") == ROOT
    assert root_of(tmp_path) == ROOT


def test_a_side_that_cannot_run_gives_its_reason(tmp_path: Path, artifacts: Path) -> None:
    with pytest.raises(Exception, match=f"There is no artifact in {tmp_path}"):
        alone((Side(artifacts / "keras_cnn" / "onnx"), Side(tmp_path)), 1)


# What BASELINE may name


def test_a_report_beside_its_artifacts_is_measured_by_turns(tmp_path: Path, artifacts: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    for folder in (old, new):
        shutil.copytree(artifacts / "keras_cnn" / "onnx", folder / "keras_cnn" / "onnx")
    (old / "report").mkdir()
    known, its_row = row("keras_cnn-onnx")
    known = replace(known, sha256=sha256_of(old / "keras_cnn" / "onnx" / MANIFEST))
    write_report(old / "report", report_of((known, its_row)))
    file = old / "report" / REPORT
    assert Baseline.at(file, new) == Baseline(old, read_report(file))
    assert Baseline.at(old, new) == Baseline(old, read_report(file))
    assert Baseline.at(old / "report", new) == Baseline(old, read_report(file))
    write_report(old / "report", report_of((replace(known, sha256="0" * 64), its_row)))
    assert Baseline.at(file, new).folder is None, "the artifacts are no longer those of the report"
    assert Baseline.at(file, old).folder is None, "they are the new ones"


def test_the_artifacts_themselves_are_no_baseline(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ReportError, match="Name a copy of an older one, or a report"):
        Baseline.at(tmp_path, tmp_path)
    with pytest.raises(SystemExit, match=r"error: There is no report .*nowhere"):
        main([str(tmp_path), "--baseline", str(tmp_path / "nowhere")])


def test_make_compare_measures_old_and_new_by_turns_and_finds_other_answers(
    tmp_path: Path, artifacts: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The whole command, on one model whose TF Lite file is another network's in the new folder."""
    for name, value in {"FIRST": 1, "FURTHER": (), "SLICES": 1}.items():
        monkeypatch.setattr(turns, name, value)
    for family in list(browser.RUNTIMES):
        monkeypatch.setitem(browser.RUNTIMES, family, {})
    monkeypatch.setattr("compare.__main__.write_page", lambda report, folder: None)
    folders = old, new = tmp_path / "old", tmp_path / "new"
    for folder in folders:
        for format in ("onnx", "tflite"):
            target = folder / "keras_cnn" / format
            shutil.copytree(artifacts / "keras_cnn" / format, target)
            write_manifest(target, replace(read_manifest(target), parent=None if format == "onnx" else "onnx"))
    file = new / "keras_cnn" / "tflite" / "model.tflite"
    shutil.copy(artifacts / "torch_cnn" / "tflite" / "model.tflite", file)
    write_manifest(file.parent, replace(read_manifest(file.parent), files=sha256_of_files(file.parent, [file])))
    with pytest.raises(SystemExit, match=r"error: \d+ changes for the worse"):
        main([str(new), "--rounds", "1", "--seconds", "0.02", "--limit", "64", "--baseline", str(old)])
    printed = capsys.readouterr().out
    assert "WORSE  keras_cnn-tflite: " in printed
    assert "of 64 pictures changed their class" in printed
    assert "cannot be measured by turns" not in printed
