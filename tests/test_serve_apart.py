"""A brought model runs in a process apart, which answers as the service would itself; when it fails, it is replaced."""

import asyncio
import contextlib
import functools
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import onnx
import pytest

from contract.cell import groups, host, tensors
from contract.cell.enter import RULES
from contract.cell.frames import Frames
from contract.cell.host import Parts
from contract.cell.tensors import HALF, LAYOUTS, Room, new_memory
from contract.code import ROOT
from contract.errors import InputError, ModelUnavailable, RuntimeFailure
from contract.manifest import BROUGHT, Manifest, TensorSpec, read_manifest, sha256_of_files, write_manifest
from serve import catalog
from serve.apart import runtime as apart
from serve.apart.child import answer_all
from serve.apart.runtime import ApartRuntime
from serve.catalog import load_model
from serve.runtimes import load_runtime, open_runtime
from serve.settings import Settings
from tests.brought_artifacts import write_photo, write_sequence
from tests.conftest import write_every_type
from tests.hostile_models import MAGIC
from tests.serving import is_stopped, started, wait_until

Described = list[Any]

needs_namespaces = pytest.mark.skipif(not host.find_parts().is_apart, reason="this system gives no namespaces")


@pytest.fixture(scope="module")
def brought(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two brought models, each with one artifact."""
    folder = tmp_path_factory.mktemp("brought")
    write_photo(folder / "photo" / "onnx", "probabilities")
    write_sequence(folder / "sequence" / "onnx")
    for model in ("photo", "sequence"):
        (folder / model / BROUGHT).write_text("{}")
    return folder


@pytest.fixture
def photo(brought: Path) -> Iterator[ApartRuntime]:
    folder = brought / "photo" / "onnx"
    runtime = ApartRuntime(folder, read_manifest(folder), 1)
    yield runtime
    runtime.close()


def pixels(rows: int = 1) -> dict[str, Any]:
    return {"pixels": np.random.default_rng(rows).uniform(0, 255, (rows, 20, 28, 3)).astype(np.float32)}


# Answers


@needs_namespaces
def test_it_answers_as_the_service_would_itself(photo: ApartRuntime, brought: Path) -> None:
    folder = brought / "photo" / "onnx"
    near = load_runtime(folder, read_manifest(folder))
    assert (photo.title, photo.platform) == (near.title, near.platform)
    most = HALF // pixels()["pixels"].nbytes
    for rows in (1, 3, 1, 3, 1, most + 1, 1, most):  # what does not fit into the memory is sent
        np.testing.assert_array_equal(
            photo.predict(pixels(rows))["probabilities"], near.predict(pixels(rows))["probabilities"]
        )


@needs_namespaces
def test_an_answer_stays_as_it_is_after_the_next_call(photo: ApartRuntime) -> None:
    first = photo.predict(pixels())["probabilities"]
    before = first.copy()
    photo.predict({"pixels": np.zeros((1, 20, 28, 3), np.float32)})
    np.testing.assert_array_equal(first, before)


@needs_namespaces
def test_more_layouts_than_have_numbers_are_answered(brought: Path) -> None:
    folder = brought / "sequence" / "onnx"
    runtime = ApartRuntime(folder, read_manifest(folder), 1)
    try:
        for length in (*range(1, LAYOUTS + 5), LAYOUTS + 4, 1):
            answer = runtime.predict({"tokens": np.full((1, length), 3, np.int64)})
            assert answer["mean"].tolist() == [[6.0, 7.0]]
    finally:
        runtime.close()


@needs_namespaces
def test_every_type_comes_and_goes_as_it_is(tmp_path: Path) -> None:
    types = ("bool", "uint8", "uint64", "int8", "int64", "float32", "float64")
    write_every_type(tmp_path / "types" / "onnx", types)
    folder = tmp_path / "types" / "onnx"
    manifest = read_manifest(folder)
    runtime, near = ApartRuntime(folder, manifest, 1), open_runtime(folder, manifest)
    try:
        for shape in ((2, 3), (2, 3), (1, 1), (3, 0)):
            inputs = {spec.name: np.ones(shape, spec.dtype) for spec in manifest.inputs}
            for name, expected in near.predict(inputs).items():
                np.testing.assert_array_equal(got := runtime.predict(inputs)[name], expected)
                assert (got.dtype, got.shape) == (expected.dtype, expected.shape)
    finally:
        runtime.close()


def test_texts_and_numbers_that_no_buffer_knows_are_carried() -> None:
    memory = new_memory()
    here, there = Room(memory, True), Room(memory, False)
    os.close(memory)
    import ml_dtypes

    values = {
        "texts": np.array([[b"a", b""], [b"\xff" * 300, b"d"]], object),
        "halves": np.array([1.5, -2.0], ml_dtypes.bfloat16),
        "large": np.arange(HALF // 4 + 1, dtype=np.int32),
        "one": np.array(2.5),
        "turned": np.arange(6.0).reshape(2, 3).T,
    }
    described, payloads = here.put(values, 1)
    found = there.take(json.loads(json.dumps(described)), memoryview(b"".join(payloads)), 1)
    assert all(
        np.array_equal(found[name], value) and found[name].dtype == value.dtype for name, value in values.items()
    )


@pytest.mark.parametrize(("others", "looks"), [("sleep", 3), ("one of them waits awake", 0)])
def test_one_thread_of_a_process_waits_awake_for_the_next_call(others: str, looks: int) -> None:
    calls = [({"call": number, "layout": 0, "tensors": []}, memoryview(b"")) for number in range(3)]
    frames = Mock(receive=Mock(side_effect=[*calls, EOFError]))
    looking = threading.Lock()
    if others != "sleep":
        looking.acquire()
    answer_all(Mock(), looking, frames, Mock(put=Mock(return_value=([], []))))
    assert frames.send.call_count == 3
    assert frames.look.call_count == looks
    assert looking.locked() == (others != "sleep")


# Failures


@needs_namespaces
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_process_that_dies_or_hangs_fails_one_call_and_is_replaced(
    photo: ApartRuntime, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    monkeypatch.setattr(apart, "CALL_SECONDS", 0.5)
    expected, before = photo.predict(pixels())["probabilities"], photo.process_id
    assert before is not None
    send(number, (before, *descendants(before)))
    wait_until(lambda: number == signal.SIGKILL or is_stopped(descendants(before)[-1]))
    with pytest.raises(RuntimeFailure, match=r"The process of photo-onnx failed \(.*\)\. It is replaced\."):
        photo.predict(pixels())
    wait_until(lambda: photo.process_id is not None)
    monkeypatch.undo()
    np.testing.assert_array_equal(photo.predict(pixels())["probabilities"], expected)
    assert photo.process_id != before


def send(number: int, processes: Iterable[int]) -> None:
    for process in processes:
        with contextlib.suppress(ProcessLookupError):  # it ended with another one
            os.kill(process, number)


def descendants(process: int | None) -> list[int]:
    children = [int(name) for name in Path(f"/proc/{process}/task/{process}/children").read_text().split()]
    return [*children, *(inner for child in children for inner in descendants(child))]


@needs_namespaces
def test_calls_that_are_under_way_at_once_get_their_own_answers_and_fail_together(brought: Path) -> None:
    folder = brought / "photo" / "onnx"
    near = load_runtime(folder, read_manifest(folder))
    runtime = ApartRuntime(folder, read_manifest(folder), 1, calls=3)
    try:
        with ThreadPoolExecutor(6) as pool:
            rows = [1, 2, 3, 4, 5] * 8
            for count, answer in zip(rows, pool.map(lambda rows: runtime.predict(pixels(rows)), rows), strict=True):
                expected = near.predict(pixels(count))["probabilities"]
                np.testing.assert_array_equal(answer["probabilities"], expected)
            before = runtime.process_id
            send(signal.SIGSTOP, descendants(before))
            wait_until(lambda: is_stopped(descendants(before)[-1]))
            calls = [pool.submit(runtime.predict, pixels()) for _ in range(5)]
            wait_until(lambda: sum(call.running() for call in calls) == 5)
            send(signal.SIGKILL, descendants(before))
            assert [type(call.exception(20)) for call in calls] == [RuntimeFailure] * 5
        wait_until(lambda: runtime.process_id not in (None, before))
        assert len(runtime.predict(pixels(3))["probabilities"]) == 3
    finally:
        runtime.close()


@needs_namespaces
def test_the_event_loop_waits_for_a_hanging_process_no_longer_than_it_may(photo: ApartRuntime) -> None:
    async def ask() -> float:
        start = time.monotonic()
        with pytest.raises(RuntimeFailure, match="no answer within its time limit"):
            photo.predict(pixels())
        return time.monotonic() - start

    send(signal.SIGSTOP, descendants(photo.process_id))
    wait_until(lambda: is_stopped(descendants(photo.process_id)[-1]))
    assert asyncio.run(ask()) < apart.LOOP_SECONDS + 5


@needs_namespaces
def test_a_replacement_that_cannot_be_had_is_tried_again(
    photo: ApartRuntime,
    brought: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    request: pytest.FixtureRequest,
) -> None:
    monkeypatch.setattr(apart, "RETRY_SECONDS", 0.1)
    file = brought / "photo" / "onnx" / "model.onnx"
    content = file.read_bytes()
    request.addfinalizer(functools.partial(file.write_bytes, content))
    file.write_bytes(b"another")
    send(signal.SIGKILL, descendants(photo.process_id))
    with pytest.raises(RuntimeFailure, match="It is replaced"):
        photo.predict(pixels())
    wait_until(lambda: "cannot be replaced" in caplog.text)
    with pytest.raises(RuntimeFailure, match="is being replaced"):
        photo.predict(pixels())
    file.write_bytes(content)
    wait_until(lambda: photo.process_id is not None)
    assert photo.predict(pixels())["probabilities"].shape == (1, 30)


@needs_namespaces
def test_what_the_runtime_there_refuses_is_said(photo: ApartRuntime, brought: Path, tmp_path: Path) -> None:
    before = photo.process_id
    with pytest.raises(RuntimeFailure, match="photo-onnx failed inside its runtime: "):
        photo.predict({"pixels": np.zeros((1, 2, 2, 3), np.float32)})
    assert photo.process_id == before, "it goes on"
    broken = tmp_path / "photo" / "onnx"
    broken.mkdir(parents=True)
    for name in ("manifest.json", "model.onnx"):
        (broken / name).write_bytes((brought / "photo" / "onnx" / name).read_bytes())
    model = onnx.load(broken / "model.onnx")
    model.graph.node[0].input[0] = "nowhere"  # only the runtime looks at this
    onnx.save(model, broken / "model.onnx")
    with pytest.raises(ModelUnavailable, match="photo-onnx could not be loaded"):
        ApartRuntime(broken, read_manifest(broken), 1)


@needs_namespaces
def test_an_input_error_stays_one(photo: ApartRuntime, monkeypatch: pytest.MonkeyPatch) -> None:
    photo.predict(pixels())
    number = next(photo._numbers) + 1
    answer = ({"call": number, "refused": "beyond \x1b]0;mine\x07 32 bits", "bytes": 0}, memoryview(b""))
    monkeypatch.setattr(Frames, "receive", lambda *call: answer)
    with pytest.raises(InputError, match=r"^beyond ]0;mine 32 bits$"):
        photo.predict(pixels())


@needs_namespaces
def test_what_a_process_says_instead_of_starting_steers_no_terminal(
    brought: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(Frames, "receive", lambda *call: ({"error": "\x1b[2Jclean" + "x" * 2**20}, memoryview(b"")))
    assert load_model(brought / "photo" / "onnx").error.startswith("[2Jcleanxxx")
    assert "\x1b" not in caplog.text and len(caplog.text) < 2**13


@needs_namespaces
def test_closing_ends_the_process(photo: ApartRuntime) -> None:
    processes = [*descendants(photo.process_id)]
    photo.close()
    wait_until(lambda: not any(Path(f"/proc/{process}").exists() for process in processes), 20)
    with pytest.raises(RuntimeFailure):
        photo.predict(pixels())


# A hostile process


@pytest.mark.parametrize(
    "described",
    [
        None,
        {},
        [[]],
        [["y", "float32", [1], 0]],
        [["y", "object", [1], 0, 8]],
        [["y", "float32", [1], 2**40, 4]],
        [["y", "float32", [1], 0, 2**40]],
        [["y", "float32", [1], -2, 4]],
        [["y", "float32", [1], 1, 4]],
        [["y", "float32", [-1], 0, 4]],
        [["y", "float32", [2**62, 4], 0, 4]],
        [["y", "float32", [1.0], 0, 4]],
        [["y", "float32", [True], 0, 4]],
        [["y", "float32", [1] * 40, 0, 4]],
        [["y", "float32", [2**40, 0], 0, 0]],
        [["y", "float32", [2, 2**40, 0], -1, 0]],
        [["y", "uint8", [2**22] + [1] * 31, 0, 2**22]],
        [["y", "float32", [5], -1, 20]],
        [["y", "bytes", [1], -1, 3]],
        [["y", "bytes", [3], 0, 64]],
        [[["y"], "float32", [1], 0, 4]],
        [["y", ["float32"], [1], 0, 4]],
    ],
)
def test_tensors_that_are_described_wrongly_are_refused(described: Described) -> None:
    memory = new_memory()
    room = Room(memory, True)
    os.close(memory)
    with pytest.raises((ValueError, TypeError)):
        room.take(described, memoryview(b"abcd"), 1)
    with pytest.raises(ValueError, match="layout 1 is not known"):
        room.take_same(1)


@pytest.mark.parametrize(
    ("dtype", "shape"),
    [("float32", [0, 2**40]), ("float32", [4096, 0, 4]), ("uint8", [1, 1024, 1024, 1]), ("float32", [2**22, 1])],
)
def test_tensors_of_many_rows_and_of_none_are_taken(dtype: str, shape: list[int]) -> None:
    memory = new_memory()
    here, there = Room(memory, True), Room(memory, False)
    os.close(memory)
    described, _ = here.put({"y": np.zeros(shape, dtype)}, 1)
    assert there.take(json.loads(json.dumps(described)), memoryview(b""), 1)["y"].shape == tuple(shape)


def test_nobody_can_cut_the_memory_that_the_service_reads() -> None:
    memory = new_memory()
    for size in (0, 4 * HALF):
        with pytest.raises(PermissionError):
            os.ftruncate(memory, size)
    os.close(memory)


@needs_namespaces
@pytest.mark.skipif(os.geteuid() != 0, reason="only root looks into the view of another user")
def test_the_process_sees_its_artifact_and_no_other(photo: ApartRuntime, brought: Path) -> None:
    root = f"/proc/{descendants(photo.process_id)[-1]}/root"
    assert Path(f"{root}{brought}/photo/onnx/model.onnx").exists()
    assert not Path(f"{root}{brought}/sequence").exists()
    assert not Path(f"{root}/etc/shadow").exists()


@needs_namespaces
def test_a_trusted_model_that_acts_on_one_input_reaches_no_file_when_it_is_served(tmp_path: Path) -> None:
    """It bites where nothing holds it: tests/test_bring_verdict_corpus.py runs it so."""
    (tmp_path / "private").write_text("secret")
    (tmp_path / "private").chmod(0o644)
    tmp_path.chmod(0o777)
    command = [sys.executable, "-m", "tests.hostile_models", "write_savedmodel", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    folder = tmp_path / "mine" / "savedmodel"
    shutil.copytree(tmp_path / "acts", folder)
    (folder.parent / BROUGHT).touch()
    x = TensorSpec("x", "float32", (4,), "C")
    files = sha256_of_files(folder, [file for file in folder.rglob("*") if file.is_file()])
    outputs = (replace(x, name="output_0"),)
    write_manifest(folder, Manifest("mine", "savedmodel", None, (x,), outputs, None, (), files, {"trusted": True}))
    assert load_model(folder).is_refused, "nobody trusted it here"
    model = load_model(folder, Settings(trust=True))
    try:
        assert isinstance(model.runtime, ApartRuntime)
        assert model.runtime.predict({"x": np.array([1, 2, 3, 4], np.float32)})["output_0"].tolist() == [2, 4, 6, 8]
        with pytest.raises(RuntimeFailure):
            model.runtime.predict({"x": np.array([MAGIC, 0, 0, 0], np.float32)})
        assert not (tmp_path / "copy").exists()
    finally:
        model.runtime.close()


@needs_namespaces
def test_a_brought_artifact_is_judged_in_its_cell(
    brought: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The readers that judge it are libraries, which a file may be made to break."""
    monkeypatch.setattr(catalog, "insist_on_artifact", lambda *artifact: pytest.fail("it was judged in the service"))
    folder = tmp_path / "photo" / "onnx"
    shutil.copytree(brought / "photo", folder.parent)
    model = onnx.load(folder / "model.onnx")
    model.graph.node.append(onnx.helper.make_node("EPContext", [], ["z"], domain="com.microsoft"))
    onnx.save(model, folder / "model.onnx")
    write_manifest(folder, replace(read_manifest(folder), files=sha256_of_files(folder, [folder / "model.onnx"])))
    refused = load_model(folder)
    assert refused.is_refused
    assert "EPContext" in refused.error and "does more than compute" in refused.error


# Which models


@needs_namespaces
def test_brought_models_run_apart_and_others_do_not(brought: Path, tmp_path: Path) -> None:
    write_photo(tmp_path / "own" / "onnx", "probabilities")
    models = [load_model(brought / "photo" / "onnx"), load_model(tmp_path / "own" / "onnx")]
    models.append(load_model(brought / "photo" / "onnx", Settings(isolation="0")))
    shutil.copytree(tmp_path / "own" / "onnx", tmp_path / "further" / "own" / "2" / "onnx")
    (tmp_path / "further" / "own" / BROUGHT).touch()
    models.append(load_model(tmp_path / "further" / "own" / "2" / "onnx", name="own-onnx", version="2"))
    models.append(load_model(tmp_path / "own" / "onnx", Settings(isolation="all")))
    try:
        assert [isinstance(model.runtime, ApartRuntime) for model in models] == [True, False, False, True, True]
    finally:
        for model in models:
            model.runtime.close()


def test_a_service_that_runs_all_apart_serves_nothing_without_namespaces(
    brought: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host, "find_parts", lambda: Parts(RULES, None))
    catalog._has_namespaces.cache_clear()
    model = load_model(brought / "photo" / "onnx", Settings(isolation="all"))
    catalog._has_namespaces.cache_clear()
    assert model.error == catalog.NO_NAMESPACES


def test_without_namespaces_they_run_in_the_service_and_one_line_says_so(
    brought: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(host, "find_parts", lambda: Parts(RULES, None))
    catalog._has_namespaces.cache_clear()
    with caplog.at_level(logging.WARNING):
        models = [load_model(brought / model / "onnx") for model in ("photo", "sequence")]
    catalog._has_namespaces.cache_clear()
    assert not any(isinstance(model.runtime, ApartRuntime) for model in models)
    assert caplog.text.count("No model runs in a process apart: the system gives no namespaces") == 1


@needs_namespaces
@pytest.mark.skipif(groups.find_place() is None, reason="no control group can be made here")
def test_a_process_that_takes_more_memory_than_it_may_is_ended_and_the_reason_is_told(brought: Path) -> None:
    roomy, tight = (load_model(brought / "photo" / "onnx", Settings(isolation_bytes=most)) for most in (2**31, 2**23))
    roomy.runtime.close()
    assert not roomy.error
    assert apart.TOO_MUCH_MEMORY in tight.error


@needs_namespaces
def test_a_limit_of_memory_that_the_system_cannot_keep_is_no_silent_one(
    brought: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(groups, "find_place", lambda: None)
    catalog._has_groups.cache_clear()
    model = load_model(brought / "photo" / "onnx", Settings(isolation_bytes=2**31))
    catalog._has_groups.cache_clear()
    assert model.error == catalog.NO_LIMIT


@needs_namespaces
def test_a_request_to_a_process_that_was_killed_gets_503_and_the_next_ones_an_answer(
    brought: Path, tmp_path: Path
) -> None:
    body = json.dumps({"inputs": [{"name": "tokens", "shape": [1, 2], "datatype": "INT64", "data": [1, 2]}]}).encode()
    with started(brought, tmp_path / "service") as service:
        name = "/v2/models/sequence-onnx/infer"
        assert service.ask("POST", name, body)[0] == 200
        apart_ones = [process for process in service.descendants() if runs(process, "serve.apart.child", "sequence")]
        send(signal.SIGKILL, apart_ones)
        statuses = [service.ask("POST", name, body)[0]]
        while statuses[-1] != 200 and len(statuses) < 1000:
            time.sleep(0.02)
            statuses.append(service.ask("POST", name, body)[0])
        assert statuses[0] == 503 and set(statuses) == {503, 200}


def runs(process: int, *words: str) -> bool:
    command = Path(f"/proc/{process}/cmdline").read_text(errors="replace")
    return all(word in command for word in words)


def test_the_module_of_tensors_knows_every_type_of_a_manifest() -> None:
    assert {"bool", "bytes", "bfloat16", "float16", "int64", "uint8"} <= tensors.NAMES
