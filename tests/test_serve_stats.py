"""Counts are right, add up over worker processes, never fall, and are reported as Prometheus and Triton do."""

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from contract.code import ROOT
from contract.parity_result import Status
from serve import gauges
from serve.catalog import Catalog, ServedModel
from serve.gauges import Gauges
from serve.metrics import exposition
from serve.protocol import MAX_BATCH
from serve.stats import BOUNDS, EXACT_ROWS, FILES, ModelStats, Stats

NAMES = ["a-onnx", 'odd"\\\nname']


def worked(stats: ModelStats) -> None:
    """Three calls of the runtime, four answers, two failures."""
    stats.count_call(1, 0.5)
    stats.count_call(16, 1.0)
    stats.count_call(1, 0.25)
    for seconds in (0.0004, 0.0005, 0.3, 99):
        stats.count_answer(4, 0.125, 0.25, seconds)
    stats.count_failure(400, 0.002)
    stats.count_failure(503, 0.002)


def test_counts_are_those_of_what_happened() -> None:
    stats = ModelStats()
    worked(stats)
    assert (stats.success.count, stats.fail.count, stats.rows) == (4, 2, 16)
    assert (stats.queue.count, stats.queue.seconds) == (4, 0.5)
    assert {rows: (call.count, call.seconds) for rows, call in stats.calls.items()} == {1: (2, 0.75), 16: (1, 1.0)}
    assert stats.codes == {200: 4, 400: 1, 503: 1}
    assert sum(stats.buckets) == 6
    assert (stats.buckets[0], stats.buckets[-1]) == (2, 1)
    assert stats.buckets[BOUNDS.index(0.0025)] == 2
    assert stats.buckets[BOUNDS.index(0.5)] == 1


def test_threads_lose_no_count() -> None:
    stats = Stats(["a-onnx"])

    def count(_: int) -> None:
        for number in range(2000):
            stats["a-onnx"].count_answer(1, 0, 0, 0)
            stats["a-onnx"].count_call(1 + number % 50, 0)
            if number % 100 == 0:
                stats.total()  # reading at the same time does no harm

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(count, range(8)))
    total = stats.total()["a-onnx"]
    assert (total.rows, total.success.count, sum(call.count for call in total.calls.values())) == (16_000,) * 3


def test_the_total_is_a_copy() -> None:
    stats = Stats(["a-onnx"])
    worked(stats.total()["a-onnx"])
    assert stats.total()["a-onnx"].rows == 0


@pytest.mark.parametrize("folder", [None, "shared"])
def test_several_workers_add_up_in_each_workers_answer(tmp_path: Path, folder: str | None) -> None:
    workers = [Stats(NAMES, None if folder is None else tmp_path) for _ in range(3)]
    for number, worker in enumerate(workers):
        for _ in range(number + 1):
            worked(worker["a-onnx"])
        worker.write()
    expected = [4, 8, 12] if folder is None else [24, 24, 24]
    assert [worker.total()["a-onnx"].success.count for worker in workers] == expected
    assert all(not worker.total()[NAMES[1]].codes for worker in workers)
    assert len(list(tmp_path.glob(FILES))) == (0 if folder is None else 3)


def test_the_counts_of_a_worker_that_died_stay(tmp_path: Path) -> None:
    script = f"""
import os, pathlib
from serve.stats import Stats
stats = Stats(["a-onnx"], pathlib.Path({str(tmp_path)!r}))
for _ in range(5):
    stats["a-onnx"].count_answer(1, 0.0, 0.0, 0.0)
print(stats.total()["a-onnx"].success.count, flush=True)
os.kill(os.getpid(), 9)
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (-9, "5\n"), done.stderr
    survivor = Stats(["a-onnx"], tmp_path)
    survivor["a-onnx"].count_answer(1, 0.0, 0.0, 0.0)
    assert survivor.total()["a-onnx"].success.count == 6


def test_counts_are_written_only_when_they_changed(tmp_path: Path) -> None:
    stats = Stats(["a-onnx"], tmp_path)
    stats.write()
    (file,) = tmp_path.glob(FILES)
    before = file.stat().st_mtime_ns, file.stat().st_ino
    stats.write()
    assert (file.stat().st_mtime_ns, file.stat().st_ino) == before
    worked(stats["a-onnx"])
    stats.write()
    assert json.loads(file.read_text())["a-onnx"]["rows"] == 16
    assert [path.name for path in tmp_path.iterdir()] == [file.name]


def test_as_many_sizes_as_callers_can_choose_take_few_numbers(tmp_path: Path) -> None:
    stats = Stats(["a-onnx"], tmp_path)
    for rows in range(1, MAX_BATCH + 1):
        stats["a-onnx"].count_call(rows, 0.001)
    assert sorted(stats["a-onnx"].calls) == [*range(1, EXACT_ROWS + 1), 64, 128, 256, 512, 1024, 2048, 4096]
    total = stats.total()["a-onnx"]
    assert total.call_rows == sum(range(1, MAX_BATCH + 1))
    assert sum(call.count for call in total.calls.values()) == MAX_BATCH
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) < 4000


@pytest.mark.parametrize("torn", ["", "{", "[]", '{"a-onnx": {}}', '{"a-onnx": {"success": 1}}', "\0" * 100])
def test_a_damaged_file_costs_no_answer_and_no_count_that_was_known(
    tmp_path: Path, torn: str, caplog: pytest.LogCaptureFixture
) -> None:
    mine, other = Stats(["a-onnx"], tmp_path), Stats(["a-onnx"], tmp_path)
    worked(other["a-onnx"])
    other.write()
    (file,) = tmp_path.glob(FILES)
    assert mine.total()["a-onnx"].success.count == 4
    file.write_text(torn)
    fresh = tmp_path / FILES.replace("*", "0-0")
    fresh.write_text(torn)
    assert mine.total()["a-onnx"].success.count == 4
    assert fresh.name in caplog.text


def test_threads_that_ask_at_once_never_share_a_file_that_is_being_written(tmp_path: Path) -> None:
    stats = [Stats(["a-onnx"], tmp_path) for _ in range(2)]

    def ask(number: int) -> int:
        mine = stats[number % 2]
        mine["a-onnx"].count_answer(1, 0.0, 0.0, 0.0)
        return mine.total()["a-onnx"].success.count

    with ThreadPoolExecutor(8) as pool:
        assert min(pool.map(ask, range(400))) > 0
    assert stats[0].total()["a-onnx"].success.count == 400
    assert len(list(tmp_path.iterdir())) == 2


def test_a_folder_that_is_gone_is_a_warning_and_no_failure(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    stats = Stats(["a-onnx"], tmp_path / "gone")
    worked(stats["a-onnx"])
    assert stats.total()["a-onnx"].rows == 16
    assert "The counts cannot be shared in" in caplog.text
    assert "SERVE_STATE" in caplog.text


def catalog() -> Catalog:
    return Catalog([ServedModel(name, Path(), None, Status("failed", ""), None) for name in NAMES])


def samples(text: str) -> dict[tuple[str, ...], float]:
    """(name, sorted label values...) -> value."""
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_the_metrics_are_what_prometheus_reads() -> None:
    stats = Stats(NAMES)
    for name in NAMES:
        worked(stats[name])
    got = samples(exposition(catalog(), stats.total(), {}).decode())
    for name in NAMES:
        assert got["rosetta_model_ready", name] == 0
        assert got["rosetta_requests_total", "200", name] == 4
        assert got["rosetta_requests_total", "503", name] == 1
        assert got["rosetta_rows_total", name] == 16
        assert got["rosetta_queue_seconds_total", name] == 0.5
        assert got["rosetta_compute_seconds_total", name] == 1.75
        assert got["rosetta_request_seconds_count", name] == 6
        assert got["rosetta_request_seconds_sum", name] == pytest.approx(99.3049)
        assert got["rosetta_batch_rows_count", name] == 3
        assert got["rosetta_batch_rows_sum", name] == 18


def test_the_buckets_of_a_histogram_only_rise_and_end_at_its_count() -> None:
    stats = Stats(["a-onnx"])
    worked(stats["a-onnx"])
    families = {
        family.name: family
        for family in text_string_to_metric_families(exposition(catalog(), stats.total(), {}).decode())
    }
    for name, count in (("rosetta_request_seconds", 6), ("rosetta_batch_rows", 3)):
        of_model = [sample for sample in families[name].samples if sample.labels["model"] == "a-onnx"]
        buckets = [sample for sample in of_model if sample.name.endswith("_bucket")]
        bounds = [float(sample.labels["le"]) for sample in buckets]
        values = [sample.value for sample in buckets]
        assert bounds == sorted(bounds)
        assert values == sorted(values)
        assert (bounds[-1], values[-1]) == (float("inf"), count)


def test_the_statistics_extension_has_the_same_counts() -> None:
    stats = ModelStats()
    worked(stats)
    answer = stats.to_json("a-onnx")
    assert (answer["name"], answer["version"]) == ("a-onnx", "1")
    assert (answer["inference_count"], answer["execution_count"]) == (16, 3)
    assert answer["inference_stats"]["success"]["count"] == 4
    assert answer["inference_stats"]["fail"] == {"count": 2, "ns": 4_000_000}
    assert answer["inference_stats"]["queue"] == {"count": 4, "ns": 500_000_000}
    assert answer["inference_stats"]["compute_infer"] == {"count": 4, "ns": 1_000_000_000}
    for counts in (answer["inference_stats"], *answer["batch_stats"]):  # perf_analyzer insists on it
        parts = ("compute_input", "compute_infer", "compute_output")
        assert len({counts[part]["count"] for part in parts}) == 1
    assert [(batch["batch_size"], batch["compute_infer"]["count"]) for batch in answer["batch_stats"]] == [
        (1, 2),
        (16, 1),
    ]
    assert answer["last_inference"] > 1.7e12


# What there is now


def test_gauges_add_up_over_the_workers_that_live(tmp_path: Path) -> None:
    mine = Gauges(tmp_path, lambda: {"connections": 3, "queue_rows": {"a-onnx": 1}})
    mine.write()
    (file,) = tmp_path.glob(gauges.FILES)
    assert mine.total() == {"connections": 3, "queue_rows": {"a-onnx": 1}}
    lives = file.with_name(gauges.FILES.replace("*", str(os.getppid())))
    lives.write_text(json.dumps({"connections": 4, "queue_rows": {"a-onnx": 5, "b-onnx": 6}}))
    file.with_name(gauges.FILES.replace("*", "4194305")).write_text('{"connections": 100}')  # beyond the last process
    waiting = {"a-onnx": 6, "b-onnx": 6}
    expected = {"connections": 7, "queue_rows": waiting}
    assert mine.total() == expected
    for torn in ("", "{", "[]"):
        lives.write_text(torn)
        assert mine.total()["connections"] == 3
    got = samples(exposition(catalog(), {}, expected).decode())
    assert got[("rosetta_connections",)] == 7
    assert [got["rosetta_queue_rows", name] for name in NAMES] == [waiting.get(name, 0) for name in NAMES]


def test_the_memory_is_this_processs() -> None:
    """Asked in a process that gives nothing back meanwhile."""
    code = (
        "from serve.gauges import memory_bytes; before = memory_bytes(); held = b'x' * 50_000_000; "
        "print(memory_bytes() - before)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert 40_000_000 < int(done.stdout) < 80_000_000
