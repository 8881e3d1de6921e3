"""`make compare` on real artifacts: measured, resumed, damaged, without a browser; and the report that comes of it."""

import json
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from compare import browser, measure, page
from compare.__main__ import main
from compare.answers import LARGEST, png, read_answers
from compare.figures import Figure, Missing
from compare.latency import BATCHES, latency
from compare.measure import Bench, Measurements, Task
from compare.page import PAGE
from compare.plots import PLOTS, edge_of
from compare.report import REPORT, Report, Settings, read_report, write_report
from compare.store import Store
from contract.code import ROOT
from contract.errors import RuntimeFailure
from contract.manifest import read_manifest, sha256_of_files, write_manifest
from verify.parity import FLOAT32

QUICK = ["--rounds", "2", "--seconds", "0.02", "--limit", "128"]
ONCE = [*QUICK, "--rounds", "1"]
"""The first of these rounds, for what does not depend on how many there are."""
WASM = {
    "tfjs": {"tfjs-wasm": "TensorFlow.js"},
    "onnx": {"onnx-wasm": "ONNX Runtime Web"},
    "tflite": {"litert-wasm": "LiteRT.js"},
}
FORMATS = ("onnx", "tflite", "tfjs")


@pytest.fixture(scope="module")
def small(artifacts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One model whose source is its ONNX artifact: no framework has to be loaded. Do not change it."""
    folder = tmp_path_factory.mktemp("small")
    for format in FORMATS:
        shutil.copytree(artifacts / "keras_cnn" / format, folder / "keras_cnn" / format)
        target = folder / "keras_cnn" / format
        write_manifest(target, replace(read_manifest(target), parent=None if format == "onnx" else "onnx"))
    return folder


@pytest.fixture
def few_runtimes(monkeypatch: pytest.MonkeyPatch) -> None:
    """WebGPU without a graphics processor takes seconds a call."""
    for family, runtimes in WASM.items():
        monkeypatch.setitem(browser.RUNTIMES, family, runtimes)


@pytest.fixture(scope="module")
def measured(small: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A copy of the small artifacts, all measured. Do not change it."""
    folder = shutil.copytree(small, tmp_path_factory.mktemp("measured") / "artifacts")
    with pytest.MonkeyPatch.context() as patch:
        for family, runtimes in WASM.items():
            patch.setitem(browser.RUNTIMES, family, runtimes)
        main([str(folder), *QUICK])
    yield folder


@pytest.fixture
def again(measured: Path, tmp_path: Path, few_runtimes: None, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of what was measured, to run again; its plots stay as they are, since drawing takes seconds."""
    monkeypatch.setattr(page, "draw_all", lambda report, folder: list(PLOTS))
    return shutil.copytree(measured, tmp_path / "artifacts")


def report_of(folder: Path) -> Report:
    return read_report(folder / "report" / REPORT)


def stamps(folder: Path) -> Mapping[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in (folder / "report" / "measured").iterdir()}


# What was measured


def test_every_artifact_and_row_has_all_its_figures(measured: Path) -> None:
    report = report_of(measured)
    assert set(report.artifacts) == {f"keras_cnn-{format}" for format in FORMATS}
    expected = {f"keras_cnn-{format}@server" for format in FORMATS}
    expected |= {f"keras_cnn-{family}@{runtime}" for family, runtimes in WASM.items() for runtime in runtimes}
    assert set(report.rows) == expected
    missing = {
        (name, figure): found.missing
        for name, figure, found in report.measured()
        if isinstance(found, Missing) and figure not in ("image", "made", "verified")
    }
    assert missing == {}


def test_figures_are_plausible_and_carry_their_spread(measured: Path) -> None:
    report = report_of(measured)
    for name, figure, found in report.measured():
        if isinstance(found, Figure):
            assert found.low <= found.value <= found.high, (name, figure)
            assert found.samples >= 1
            assert found.spread
    onnx = report.rows["keras_cnn-onnx@server"].figures
    alone, http = onnx["p50@1"], onnx["http_p50@1"]
    assert isinstance(alone, Figure)
    assert isinstance(http, Figure)
    assert 5e-6 < alone.value < http.value < 1
    assert alone.spread == "holds 9 of 10 further runs, by 2 rounds"
    assert {f"{prefix}throughput@{batch}" for prefix in ("", "http_") for batch in BATCHES} <= set(onnx)
    assert report.rows["keras_cnn-onnx@server"].runtime.startswith("ONNX Runtime 1.")


def test_answers_are_those_of_the_artifacts(measured: Path, small: Path) -> None:
    report = report_of(measured)
    source, tflite = report.artifacts["keras_cnn-onnx"], report.artifacts["keras_cnn-tflite"]
    assert (source.verdict, source.source) == ("source", None)
    assert (tflite.verdict, tflite.source) == ("passed", "keras_cnn-onnx")
    difference, agreement = tflite.figures["max_abs_diff@1"], tflite.figures["agreement"]
    assert isinstance(difference, Figure)
    assert isinstance(agreement, Figure)
    assert 0 < difference.value < FLOAT32.max_abs_diff
    assert (agreement.value, agreement.samples) == (1.0, 128)
    assert agreement.low < 0.98, "128 pictures do not prove more"
    assert set(source.per_class) == set(report.labels)


def test_the_browsers_rows_say_what_they_ran_on(measured: Path) -> None:
    rows = report_of(measured).rows
    assert rows["keras_cnn-onnx@onnx-wasm"].backend.startswith("wasm, threads: ")
    assert rows["keras_cnn-tfjs@tfjs-wasm"].backend.startswith("wasm, SIMD, threads: ")
    for name in ("keras_cnn-onnx@onnx-wasm", "keras_cnn-tfjs@tfjs-wasm", "keras_cnn-tflite@litert-wasm"):
        figures = rows[name].figures
        runtime, model = figures["runtime_download"], figures["model_download"]
        assert isinstance(runtime, Figure)
        assert isinstance(model, Figure)
        assert runtime.value > 100_000
        assert 20_000 < model.value < 60_000, "compressed, and with its headers"
        page, took = figures["page_download"], figures["page"]
        assert isinstance(page, Figure)
        assert isinstance(took, Figure)
        assert 10_000 < page.value < 200_000
        asked, right = figures["browser_agreement"], figures["browser_accuracy"]
        assert isinstance(asked, Figure) and isinstance(right, Figure)
        assert (asked.value, asked.samples) == (1.0, 128), "all pictures that there are, in their turn"
        server = report_of(measured).artifacts[rows[name].artifact].figures["accuracy"]
        assert right == server
        assert 0.01 < took.value < 60
        difference = figures["difference"]
        assert isinstance(difference, Figure)
        assert difference.value < FLOAT32.max_abs_diff


def test_the_page_needs_nothing_else(measured: Path) -> None:
    html = (measured / "report" / PAGE).read_text()
    assert "<script" not in html
    assert not re.search(r"""(?:src|href|srcset|url)\s*[=(]\s*["']?+(?!data:|#)""", html), "everything is inside"
    assert not re.search(r"https?://", html)
    report = report_of(measured)
    for name in (*report.artifacts, *(sentence.text for each in report.recommendations for sentence in each.reasons)):
        assert name.replace("'", "&#39;") in html
    assert {f"{plot}-{theme}.png" for plot in ("front", "latency", "browser") for theme in ("light", "dark")} <= {
        path.name for path in (measured / "report").iterdir()
    }


def test_something_is_recommended_for_every_target(measured: Path) -> None:
    recommendations = report_of(measured).recommendations
    assert [each.target for each in recommendations] == ["server", "browser", "android", "ios"]
    assert all(each.choice in each.front for each in recommendations)


# Resumed


def test_other_constraints_measure_nothing_again(again: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before, figures = stamps(again), report_of(again)
    main([str(again), *QUICK, "--target", "server", "--max-mb", "0.001"])
    assert stamps(again) == before
    after = report_of(again)
    assert after.recommendations[0].choice is None
    assert (after.artifacts, after.rows) == (figures.artifacts, figures.rows)
    assert "Nothing fits MAX_MB=0.001. Raise MAX_MB from 0.001 to " in capsys.readouterr().out.replace("\n", " ")


def test_what_an_interrupted_run_left_out_is_all_that_is_measured(again: Path) -> None:
    folder, before = again / "report" / "measured", stamps(again)
    lost = ["time-keras_cnn-tflite-1.json", "answers-keras_cnn-onnx.json", "http-keras_cnn-onnx-0.json"]
    for name in lost[:2]:
        (folder / name).unlink()
    (folder / lost[2]).write_text('{"about": ')  # stopped halfway
    main([str(again), *QUICK])
    changed = {name for name, stamp in stamps(again).items() if before.get(name) != stamp}
    assert changed == {*lost, "answers-keras_cnn-onnx.npz"}


def test_an_interruption_says_that_the_run_goes_on(again: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the second of three missing measurements is made."""
    folder, calls, child = again / "report" / "measured", [], measure.run_child
    lost = [f"time-keras_cnn-{format}-0.json" for format in FORMATS]
    for name in lost:
        (folder / name).unlink()

    def interrupted(*arguments: str) -> str:
        calls.append(arguments[0])
        if calls.count("compare.latency") == 2:
            raise KeyboardInterrupt
        return child(*arguments)

    monkeypatch.setattr(measure, "run_child", interrupted)
    with pytest.raises(SystemExit, match="Run the same command again to continue"):
        main([str(again), *QUICK])
    assert sum((folder / name).exists() for name in lost) == 1
    main([str(again), *QUICK])
    # One before the interruption, the interrupted one, and the two that were missing.
    assert calls.count("compare.latency") == 4


def test_answers_that_were_damaged_are_asked_again(again: Path) -> None:
    file = again / "report" / "measured" / "answers-keras_cnn-tflite.npz"
    file.write_bytes(file.read_bytes()[:1000])
    main([str(again), *QUICK])
    assert set(read_answers(file)) == {1, 64, LARGEST}


def test_another_artifact_is_measured_anew_and_the_others_are_not(again: Path) -> None:
    target, before = again / "keras_cnn" / "tflite", stamps(again)
    write_manifest(target, replace(read_manifest(target), made_with={"seconds": 1.0}))
    main([str(again), *ONCE])
    changed = {name for name, stamp in stamps(again).items() if before[name] != stamp}
    assert changed == {name for name in first_round(before) if "tflite" in name}


def test_two_runs_agree_on_all_answers_to_the_last_bit(measured: Path, again: Path) -> None:
    before, first = stamps(again), report_of(measured)
    main([str(again), *ONCE, "--again"])
    second, after = report_of(again), stamps(again)
    assert after.keys() == first_round(before)
    assert all(stamp != before[name] for name, stamp in after.items()), "all was measured anew"
    assert first.artifacts == second.artifacts
    assert first.rows["keras_cnn-onnx@server"].figures["p50@1"] != second.rows["keras_cnn-onnx@server"].figures["p50@1"]


def first_round(names: Iterable[str]) -> set[str]:
    """The measurements that are made once, or in the first of two rounds."""
    return {name for name in names if not name.endswith("-1.json")}


# Bad input


def test_a_damaged_artifact_is_named_and_the_others_are_measured(again: Path) -> None:
    with (again / "keras_cnn" / "tflite" / "model.tflite").open("ab") as file:
        file.write(b"x")
    main([str(again), *QUICK])
    report = report_of(again)
    assert "it is not the file that was exported" in report.artifacts["keras_cnn-tflite"].verdict
    damaged = report.rows["keras_cnn-tflite@server"].figures["p50@1"]
    assert isinstance(damaged, Missing)
    assert "it is not the file that was exported" in damaged.missing
    assert isinstance(report.rows["keras_cnn-onnx@server"].figures["p50@1"], Figure)
    assert "It was not measured: " in report.recommendations[0].rejected["keras_cnn-tflite@server"].text


def test_without_a_browser_everything_else_is_measured(
    again: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(browser, "CHROMIUM", ("no-such-chromium",))
    monkeypatch.delenv("CHROMIUM", raising=False)
    for file in (again / "report" / "measured").glob("browser-*"):
        file.unlink()
    main([str(again), *QUICK])
    report = report_of(again)
    figure = report.rows["keras_cnn-onnx@onnx-wasm"].figures["p50@1"]
    assert isinstance(figure, Missing)
    assert "Chromium is missing: run `./bootstrap browser`" in figure.missing
    assert [each.target for each in report.recommendations] == ["server", "android", "ios"]
    assert "Chromium is missing" in (again / "report" / PAGE).read_text()
    with pytest.raises(SystemExit, match=r"Nothing was measured for TARGET=browser: .*Chromium is missing"):
        main([str(again), *QUICK, "--target", "browser"])


def test_without_node_tfjs_is_missing_on_the_server_alone(again: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for file in (again / "report" / "measured").glob("*tfjs*"):
        file.unlink()
    bare = again.parent / "bin"
    bare.mkdir()
    for folder in map(Path, ("/usr/bin", "/usr/local/bin")):
        for program in folder.iterdir():
            if program.name != "node" and not (bare / program.name).exists():
                (bare / program.name).symlink_to(program)
    monkeypatch.setenv("PATH", str(bare))
    main([str(again), *ONCE])
    report = report_of(again)
    missing = report.rows["keras_cnn-tfjs@server"].figures["p50@1"]
    assert isinstance(missing, Missing)
    assert "no `node` is on the PATH" in missing.missing
    assert isinstance(report.rows["keras_cnn-onnx@server"].figures["p50@1"], Figure)


def test_no_artifact_at_all_says_how_to_make_them(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"error: There is no artifact in .* Run `make artifacts`"):
        main([str(tmp_path)])


@pytest.mark.parametrize("arguments", [["--rounds", "0"], ["--seconds", "0"], ["--seconds", "nan"]])
def test_settings_that_measure_nothing_are_refused(small: Path, arguments: list[str]) -> None:
    with pytest.raises(SystemExit, match=r"error: .*measure nothing"):
        main([str(small), *arguments])


def test_a_constraint_without_a_target_is_refused_before_anything_is_measured(small: Path) -> None:
    with pytest.raises(SystemExit, match="error: The constraints need a TARGET"):
        main([str(small), *QUICK, "--max-mb", "3"])
    assert not (small / "report").exists()


# A planted fault


def test_other_answers_are_found_shown_and_not_recommended(again: Path, artifacts: Path) -> None:
    """The other network's TF Lite file, with a manifest that matches, against a baseline from before."""
    target, baseline = again / "keras_cnn" / "tflite", again / "before.json"
    shutil.copy(again / "report" / REPORT, baseline)
    shutil.copy(artifacts / "torch_cnn" / "tflite" / "model.tflite", target / "model.tflite")
    write_manifest(target, replace(read_manifest(target), files=sha256_of_files(target, [target / "model.tflite"])))
    with pytest.raises(SystemExit, match=r"error: \d+ changes for the worse"):
        main([str(again), *ONCE, "--baseline", str(baseline)])
    report = report_of(again)
    fault = report.artifacts["keras_cnn-tflite"]
    assert "the largest difference at batch 1 is" in fault.verdict
    assert fault.flip_count >= len(fault.flips) > 0
    first = fault.flips[0]
    answers = read_answers(again / "report" / "measured" / "answers-keras_cnn-tflite.npz")[first.batch][first.image]
    assert report.labels[int(answers.argmax())] == first.artifact != first.source
    assert first.artifact_margin == pytest.approx(float(np.sort(answers)[-1] - np.sort(answers)[-2]))
    assert first.png in (again / "report" / PAGE).read_text()
    assert all(each.choice != "keras_cnn-tflite@server" for each in report.recommendations)
    row = report.rows["keras_cnn-tflite@litert-wasm"].figures["p50@1"]
    assert isinstance(row, Figure), "it answers in the browser as it does on the server"


def test_an_unchanged_baseline_passes(again: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copy(again / "report" / REPORT, again / "before.json")
    main([str(again), *QUICK, "--baseline", str(again / "before.json")])
    assert "nothing changed beyond the noise" in capsys.readouterr().out


def test_a_row_that_looks_worse_is_measured_in_more_rounds_before_it_fails(
    again: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = report_of(again)
    row = report.rows["keras_cnn-onnx@server"]
    median = row.figures["p50@1"]
    assert isinstance(median, Figure)
    faster = replace(median, value=median.value / 1e3, low=median.low / 1e3, high=median.high / 1e3)
    rows = {**report.rows, row.name: replace(row, figures={**row.figures, "p50@1": faster})}
    (again / "faster").mkdir()
    write_report(again / "faster", replace(report, rows=rows))
    with pytest.raises(SystemExit, match=r"error: 1 changes for the worse"):
        main([str(again), *QUICK, "--baseline", str(again / "faster" / REPORT)])
    output = capsys.readouterr().out
    assert "Worse than the baseline: keras_cnn-onnx@server. Measuring these rows in 3 more rounds." in output
    assert "WORSE  keras_cnn-onnx@server: median of 1 picture" in output
    spreads = {name: row.figures["p50@1"] for name, row in report_of(again).rows.items()}
    assert "by 5 rounds" in spreads.pop("keras_cnn-onnx@server").spread  # type: ignore[union-attr]
    assert all("by 2 rounds" in figure.spread for figure in spreads.values())  # type: ignore[union-attr]


# Parts


def test_artifacts_take_turns_in_an_order_that_changes(small: Path) -> None:
    def order(seed: int) -> list[list[str]]:
        settings = Settings(3, 0.02, 1, BATCHES, (1, 64), seed)
        bench = measure.Bench(small, "fashion_mnist", 128, settings)
        return [[task.name for task in stage] for stage in bench._stages()]

    first = order(1)
    for stage in first[1:-1]:
        assert len({task.rsplit("-", 1)[0] for task in stage}) == len(stage), "each once in a round"
    rounds = [[task.rsplit("-", 1)[0] for task in stage] for stage in first if stage and stage[0].startswith("time")]
    assert len(rounds) == 3
    assert all(sorted(each) == sorted(rounds[0]) for each in rounds)
    assert order(1) == first
    assert any(order(seed) != first for seed in (2, 3, 4))


def test_what_swiftshader_runs_is_measured_in_one_round_unless_it_looks_worse(small: Path, tmp_path: Path) -> None:
    settings = Settings(2, 0.02, 1, BATCHES, (1, 64), 1)
    bench = measure.Bench(small, "fashion_mnist", 128, settings, measured=tmp_path)

    def task(backend: str, round: int) -> measure.Task:
        return measure.Task(f"browser-{backend}@onnx-webgpu-{round}", "browser", {}, lambda: {"backend": backend})

    a_further_round = 2
    rounds = (0, 1, a_further_round)
    done = measure.Measurements()
    bench._run_stages([[task("amd", round), task("Google SwiftShader", round)] for round in rounds], done)
    assert [name for name in done.results if "amd" in name] == [task("amd", round).name for round in rounds]
    once = [name for name in done.results if "amd" not in name]
    assert once == [task("Google SwiftShader", round).name for round in (0, a_further_round)]


def test_what_is_for_proof_alone_is_asked_and_not_timed(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "proven_on", lambda format: "a stand-in" if format == "tflite" else "")
    bench = measure.Bench(small, "fashion_mnist", 128, Settings(1, 0.02, 1, BATCHES, (1, 64), 1))
    kinds = {name: {task.kind for stage in bench._stages() for task in stage if name in task.name} for name in FORMATS}
    assert {"time", "http"} <= kinds["onnx"] & kinds["tfjs"]
    assert kinds["tflite"] == {"answers", "browser"}


def test_a_store_returns_only_a_measurement_made_under_the_same_conditions(tmp_path: Path) -> None:
    store = Store(tmp_path / "measured")
    store.put("time-a-0", {"artifact": "1"}, {"p50": 1.0})
    assert store.get("time-a-0", {"artifact": "1"}) == {"p50": 1.0}
    assert store.get("time-a-0", {"artifact": "2"}) is None
    assert store.get("time-b-0", {"artifact": "1"}) is None


def test_latency_counts_calls_and_percentiles() -> None:
    calls = []

    def call() -> None:
        calls.append(1)
        time.sleep(0.001)

    measured = latency(call, 4, 0.02)
    assert measured.calls >= 3
    assert len(calls) > measured.calls, "the warm-up is not counted"
    assert 0.001 <= measured.p50 <= measured.p95 <= measured.p99
    assert 0 < measured.rows_per_second <= 4 / 0.001


def test_slow_calls_are_made_often_enough() -> None:
    calls = []
    assert latency(lambda: calls.append(1), 1, 0.0).calls == 3


@pytest.mark.parametrize("own", [True, False])
def test_our_own_artifacts_answer_two_at_a_time(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own: bool
) -> None:
    bench = Bench(small, "fashion_mnist", 16, Settings(1, 0.02, 1, (1,), (1,), 0), measured=tmp_path)
    monkeypatch.setattr(measure, "is_own", lambda _: own)
    both = threading.Barrier(2)

    def answer() -> dict[str, Any]:
        try:
            both.wait(5 if own else 0.1)
        except threading.BrokenBarrierError:
            raise RuntimeFailure("it was alone") from None
        return {}

    done = Measurements()
    bench._run_stages([[Task(f"answers-{name}", "answers", {}, answer) for name in "ab"]], done)
    assert (len(done.results), len(done.failures)) == ((2, 0) if own else (0, 2))


def browser_round(download: int) -> dict[str, Any]:
    return {"runtime_download": download - 1_000, "model_download": 1_000}


def test_rounds_with_another_download_than_the_others_are_repeated() -> None:
    rounds = {"browser-a@x-0": 100_000, "browser-a@x-1": 1_000, "browser-a@x-2": 100_197, "browser-b@x-0": 7_000}
    results = {name: browser_round(download) for name, download in rounds.items()} | {"time-a-0": {}}
    assert measure.disagreeing(results) == ["browser-a@x-1"]
    two = {f"browser-a@x-{n}": browser_round(download) for n, download in enumerate((100_000, 300_000))}
    assert measure.disagreeing(two) == ["browser-a@x-1"], "a part that was counted twice, or a request that was lost"


def test_a_download_on_which_the_rounds_do_not_agree_is_not_known(again: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, made = again / "report" / "measured", []
    for file in folder.glob("browser-keras_cnn-tfjs@tfjs-wasm-*.json"):
        (folder / file.name).unlink()

    def measured(self: object, folder: Path, runtime: str, *_: object, **__: object) -> dict[str, Any]:
        made.append(runtime)
        return browser_round(100_000 * len(made)) | {
            **dict.fromkeys(("p50", "p95", "p99", "page", "first_answer", "resolution", "difference"), 0.1),
            **dict.fromkeys(("page_download", "calls", "calls_per_sample"), 1),
            "backend": "wasm",
        }

    monkeypatch.setattr(browser.Session, "measure", measured)
    main([str(again), *QUICK])
    figures = report_of(again).rows["keras_cnn-tfjs@tfjs-wasm"].figures
    assert len(made) == 2 + measure.REPEATS
    assert isinstance(figures["p50@1"], Figure)
    assert isinstance(figures["download"], Missing)
    assert "Its rounds brought from 100 kB to 400 kB" in figures["download"].missing


def test_a_child_that_fails_gives_its_reason(tmp_path: Path) -> None:
    with pytest.raises(Exception, match=f"There is no artifact in {tmp_path}"):
        measure.run_child("compare.latency", str(tmp_path))


def test_the_line_of_the_front_only_falls() -> None:
    """What is on the front for its accuracy alone, and larger than a faster one, would make it a zigzag."""
    assert edge_of([(1.0, 50.0), (2.0, 90.0), (3.0, 20.0), (4.0, 20.0), (5.0, 10.0)]) == [
        (1.0, 50.0),
        (3.0, 20.0),
        (5.0, 10.0),
    ]
    assert edge_of([]) == []


def test_pictures_are_png_files() -> None:
    import base64

    assert base64.b64decode(png(np.zeros((28, 28, 1), np.uint8))).startswith(b"\x89PNG")


def test_latency_prints_json(small: Path) -> None:
    output = measure.run_child("compare.latency", str(small / "keras_cnn" / "onnx"), "--seconds", "0.01")
    assert [each["batch"] for each in json.loads(output.splitlines()[-1])["latencies"]] == list(BATCHES)


def test_help_names_every_option() -> None:
    done = subprocess.run(["make", "help"], capture_output=True, text=True, check=True, cwd=ROOT)
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("compare ")]
    assert all(name in line for name in ("TARGET=", "MAX_MB=", "MAX_MS=", "MIN_AGREEMENT=", "BASELINE="))
