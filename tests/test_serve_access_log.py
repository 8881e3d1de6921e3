"""A reader of the access log that stalls, or a full disk, costs lines, and no request."""

import gzip
import json
import os
import select
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from serve.access_log import MAX_WAITING, AccessLog
from serve.keys import add_key
from tests.serving import started, wait_until
from tests.test_docs import write_model


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    yield ends
    os.close(ends[0])


def test_lines_come_out_in_order(pipe: tuple[int, int]) -> None:
    log = AccessLog(pipe[1])
    for number in range(100):
        log.write({"line": number})
    log.close(10)
    lines = os.read(pipe[0], 100_000).splitlines()
    assert [json.loads(line)["line"] for line in lines] == list(range(100))


def test_a_reader_that_stalls_costs_lines_and_the_next_one_says_how_many(
    pipe: tuple[int, int], caplog: pytest.LogCaptureFixture
) -> None:
    log = AccessLog(pipe[1])
    for _ in range(MAX_WAITING + 5000):
        log.write({"x": "x" * 100})
    assert log.dropped > 0
    assert caplog.text.count("Lines of the access log are dropped") == 1
    start = time.monotonic()
    log.close(0.1)
    assert time.monotonic() - start < 5  # the end of the service does not wait for the reader
    received, told = b"", 0
    while told < log.dropped:  # by one line, or by more where some were dropped before the pipe was full
        assert select.select([pipe[0]], [], [], 10)[0], f"{told} of {log.dropped} dropped lines are told"
        received += os.read(pipe[0], 65536)
        told = sum(json.loads(line).get("dropped_lines", 0) for line in received.split(b"\n")[:-1])
    assert told == log.dropped


def test_a_line_says_who_called_which_model_with_how_many_rows_and_how_long_they_waited(tmp_path: Path) -> None:
    write_model(tmp_path / "artifacts" / "keras_cnn" / "onnx")
    key = add_key(tmp_path / "keys", "app", "*")
    pixels = {"name": "pixels", "datatype": "FP32", "shape": [2, 28, 28, 1], "data": [0] * 1568}
    body, infer = json.dumps({"inputs": [pixels]}).encode(), "/v2/models/keras_cnn-onnx/infer"
    headers = {"Authorization": f"Bearer {key}", "X-Request-ID": "r"}
    settings = {"SERVE_ACCESS_LOG": "1", "SERVE_KEYS_FILE": str(tmp_path / "keys")}
    with started(tmp_path / "artifacts", tmp_path / "output", **settings) as service:
        assert service.ask("POST", infer, body, headers)[0] == 200
        assert service.ask("POST", infer, gzip.compress(body), {**headers, "Content-Encoding": "gzip"})[0] == 200
        assert service.ask("GET", "/v2", None, headers)[0] == 200
        assert service.ask("POST", infer, body)[0] == 401
        assert service.ask("GET", "/nothing", None, headers)[0] == 404
        text = service.ask("GET", "/metrics", None, headers)[2].decode()
    lines = [json.loads(line) for line in service.printed.splitlines() if line.startswith("{")]
    shown = [[line[name] for name in ("key", "path", "model", "rows", "status", "request_id")] for line in lines]
    assert sorted(map(str, shown[:5])) == sorted(
        map(
            str,
            [
                ["app", infer, "keras_cnn-onnx", 2, 200, "r"],
                ["app", infer, "keras_cnn-onnx", 2, 200, "r"],
                ["app", "/v2", None, None, 200, "r"],
                [None, infer, "keras_cnn-onnx", None, 401, None],
                ["app", "/nothing", None, None, 404, "r"],
            ],
        )
    )  # a line is written once its answer is sent, and the next request may be refused before
    waits = [line for line in lines if line["queue_ms"] is not None]
    assert len(waits) == 2
    assert all(0 <= line["queue_ms"] <= 1000 * line["seconds"] for line in waits)
    got = {
        (s.name, *map(s.labels.get, sorted(s.labels))): s.value
        for f in text_string_to_metric_families(text)
        for s in f.samples
    }
    assert got["rosetta_requests_total", "401", ""] == got["rosetta_requests_total", "404", ""] == 1
    assert got[("rosetta_connections",)] == got[("rosetta_requests_in_flight",)] == 1
    assert got["rosetta_queue_rows", "keras_cnn-onnx"] == got[("rosetta_held_bytes",)] == 0
    assert got[("rosetta_memory_bytes",)] > 20_000_000


def test_a_full_disk_costs_lines_and_no_traceback(
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    full = os.open("/dev/full", os.O_WRONLY)
    log = AccessLog(full)
    for number in range(50):
        log.write({"line": number})
    wait_until(lambda: log.dropped == 50, 10)
    assert "No space left on device" in caplog.text
    assert capfd.readouterr().err == ""
    os.close(full)
