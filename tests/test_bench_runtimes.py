"""The service's way to drive each runtime beside the others: the same answers, and a table that says who is faster."""

from pathlib import Path

import numpy as np
import pytest

from bench.runtimes import ways
from bench.runtimes.__main__ import BATCHES, SERVED, Times, measure, slower, table
from bench.runtimes.ways import WAYS
from contract.errors import ArtifactMissing, RuntimeFailure
from contract.formats import FORMATS
from contract.manifest import Manifest
from contract.tensors import Tensors
from serve.runtimes import RUNTIMES


def test_every_runtime_has_other_ways() -> None:
    assert set(WAYS) == {format for format in RUNTIMES if not FORMATS[format].proven_on}


def test_the_ways_to_node_answer_alike(artifacts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`measure` compares the answers; each way has a process of its own."""
    monkeypatch.setattr("bench.runtimes.__main__.SLICE", 0.0)
    monkeypatch.setattr("bench.runtimes.__main__.ROUNDS", 2)
    times = measure(artifacts / "keras_cnn" / "tfjs")
    assert set(times) == {SERVED, *WAYS["tfjs"]}
    assert all(0 < seconds < 5 for by_batch in times.values() for seconds in by_batch.values())


@pytest.fixture
def onnx(artifacts: Path) -> Path:
    return artifacts / "keras_cnn" / "onnx"


def test_each_way_is_measured_at_each_batch(onnx: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.runtimes.__main__.SLICE", 0.0)
    times = measure(onnx)
    assert set(times) == {SERVED, *WAYS["onnx"]}
    for by_batch in times.values():
        assert list(by_batch) == [str(batch) for batch in BATCHES]
        assert all(0 < seconds < 1 for seconds in by_batch.values())


def test_a_way_with_other_answers_is_not_compared(onnx: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(folder: Path, manifest: Manifest) -> ways.Call:
        right = ways.onnx_default(folder, manifest)
        return lambda inputs: right(inputs) + 0.01

    monkeypatch.setitem(WAYS["onnx"], "wrong", wrong)
    with pytest.raises(RuntimeFailure, match="answers otherwise by wrong with 1 rows"):
        measure(onnx)


def test_a_way_that_does_not_take_a_batch_is_shown_as_such(onnx: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def one_row(folder: Path, manifest: Manifest) -> ways.Call:
        call = ways.onnx_default(folder, manifest)

        def refuse(inputs: Tensors) -> object:
            (value,) = inputs.values()
            if len(value) > 1:
                raise ValueError("one row")
            return call(inputs)

        return refuse

    monkeypatch.setattr("bench.runtimes.__main__.SLICE", 0.0)
    monkeypatch.setitem(WAYS["onnx"], "one row", one_row)
    times = measure(onnx)
    assert np.isfinite(times["one row"]["1"]) and not np.isfinite(times["one row"]["64"])
    (row,) = [line for line in table({"net-onnx": times}) if "| one row |" in line]
    assert row.endswith("| not this batch |")
    assert [way for way in slower(times) if way == "one row with 64 rows"] == []


def test_a_faster_way_is_named_and_a_slightly_faster_one_is_not() -> None:
    times: Times = {SERVED: {"1": 1.0e-4, "64": 1.0e-3}, "other": {"1": 0.95e-4, "64": 0.8e-3}}
    assert slower(times) == ["other with 64 rows"]
    assert any("`net-x`: other with 64 rows takes less" in line for line in table({"net-x": times}))


def test_a_folder_without_artifacts_is_named(tmp_path: Path) -> None:
    from bench.runtimes.__main__ import measure_all

    with pytest.raises(ArtifactMissing, match=str(tmp_path)):
        list(measure_all(tmp_path))
