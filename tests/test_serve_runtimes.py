"""Every runtime answers like the model's source, from several threads, and one that breaks says so and recovers."""

import array
import contextlib
import fcntl
import json
import os
import shutil
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from contract.cell.frames import Frames
from contract.code import ROOT
from contract.dataset import Split
from contract.errors import InputError, ModelUnavailable, RuntimeFailure
from contract.formats import is_installed
from contract.manifest import Manifest, TensorSpec, read_manifest, sha256_of_files, verify_files
from serve.catalog import Catalog
from serve.runtimes import RUNTIMES, Runtime, load_runtime, tfjs, warm_up_inputs
from tests.brought_artifacts import tfjs_that_answers_a_weight, write_pair
from tests.formats_here import run_from
from tests.serving import halt

SOURCES = {"keras_cnn": "keras", "torch_cnn": "torch"}
HERE = [format for format in RUNTIMES if is_installed(format)]
ARTIFACTS = [
    (model, format) for format in HERE for model, source in SOURCES.items() if format in (source, *run_from(source))
]
"""(model, format) of every artifact: each runtime is there, or the table has grown and this list has not."""

Images = NDArray[np.float32]
Loaded = dict[tuple[str, str], Runtime]
every_artifact = pytest.mark.parametrize(("model", "format"), ARTIFACTS)


@pytest.fixture(scope="module")
def images(test_split: Split) -> Images:
    return test_split.images.astype(np.float32)


@pytest.fixture(scope="module")
def loaded(catalog: Catalog) -> Loaded:
    """Every artifact's runtime."""
    return {(model, format): catalog[f"{model}-{format}"].runtime for model, format in ARTIFACTS}


def ask(runtime: Runtime, pixels: Images) -> Images:
    """The answers to pictures (N, H, W, C): (N, classes)."""
    answers: Images = runtime.predict({"pixels": pixels})["probabilities"]
    return answers


def test_every_runtime_is_tested() -> None:
    assert {format for _, format in ARTIFACTS} == set(HERE)
    assert len(ARTIFACTS) == 2 + sum(len(run_from(source)) for source in SOURCES.values())


# Answers


@every_artifact
def test_the_answers_are_the_sources_at_every_batch(loaded: Loaded, images: Images, model: str, format: str) -> None:
    source = loaded[model, SOURCES[model]]
    for batch in (1, 2, 7, 64, 1):  # 1 again: some runtimes resize their tensors
        answers = ask(loaded[model, format], images[:batch])
        assert answers.shape == (batch, 10)
        assert answers.dtype == np.float32
        np.testing.assert_allclose(answers, ask(source, images[:batch]), rtol=0, atol=1e-5)
        np.testing.assert_allclose(answers.sum(axis=1), 1, atol=1e-5)


@every_artifact
def test_a_repeated_call_gives_equal_answers(loaded: Loaded, images: Images, model: str, format: str) -> None:
    runtime = loaded[model, format]
    first = ask(runtime, images[:7])
    for _ in range(5):
        np.testing.assert_array_equal(ask(runtime, images[:7]), first)


@every_artifact
def test_a_call_leaves_its_inputs_and_earlier_answers_alone(
    loaded: Loaded, images: Images, model: str, format: str
) -> None:
    runtime = loaded[model, format]
    for batch in (1, 7):
        inputs = images[:batch].copy()
        first = ask(runtime, inputs)
        as_it_was = first.copy()
        second = ask(runtime, images[100 : 100 + batch])
        assert not np.array_equal(first, second)
        np.testing.assert_array_equal(first, as_it_was)
        np.testing.assert_array_equal(inputs, images[:batch])


@every_artifact
def test_inputs_that_are_read_only_or_a_view_are_taken(loaded: Loaded, images: Images, model: str, format: str) -> None:
    runtime = loaded[model, format]
    expected = ask(runtime, images[:14:2].copy())
    frozen = images[:14:2].copy()
    frozen.flags.writeable = False
    for pixels in (frozen, images[:14:2]):
        np.testing.assert_array_equal(ask(runtime, pixels), expected)


@every_artifact
def test_eight_threads_at_once_get_their_own_answers(loaded: Loaded, images: Images, model: str, format: str) -> None:
    runtime = loaded[model, format]
    slices = [images[start : start + batch] for start in range(0, 240, 8) for batch in (1, 3)]
    expected = [ask(runtime, pixels) for pixels in slices]
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda pixels: ask(runtime, pixels), slices))
    for got, right in zip(answers, expected, strict=True):
        np.testing.assert_allclose(got, right, rtol=0, atol=1e-6)


@every_artifact
def test_a_runtime_has_its_name_and_version(loaded: Loaded, model: str, format: str) -> None:
    runtime = loaded[model, format]
    assert runtime.title.split()[-1][0].isdigit()
    assert runtime.platform


def test_free_sizes_are_one_in_the_warm_up() -> None:
    manifest = Manifest("m", "onnx", None, (TensorSpec("x", "uint8", (None, 2, None), "NCW"),), (), None, ())
    (value,) = warm_up_inputs(manifest).values()
    assert value.shape == (1, 2, 1)
    assert value.dtype == np.uint8


@pytest.mark.parametrize("format", HERE)
def test_files_that_are_overwritten_after_loading_change_nothing(
    artifacts: Path, tmp_path: Path, images: Images, format: str
) -> None:
    folder = copied(artifacts, tmp_path, format)
    manifest = read_manifest(folder)
    runtime = load_runtime(folder, manifest)
    expected = {batch: ask(runtime, images[:batch]) for batch in (1, 2, 64)}
    for file in manifest.files:
        (folder / file).write_bytes(b"")
    for batch, answers in expected.items():
        np.testing.assert_array_equal(ask(runtime, images[:batch]), answers)
    runtime.close()


# What a process pays for

FRAMEWORKS = {"tensorflow", "keras", "torch", "onnxruntime", "ai_edge_litert", "flask", "openvino", "executorch"}
FRAMEWORKS |= {"coreai"}
OPTIONAL = {"openvino": {"openvino"}, "executorch": {"executorch", "torch"}, "coreai": {"coreai"}}
PAID = {"onnx": {"onnxruntime"}, "tflite": {"ai_edge_litert"}, "tfjs": set[str](), "torch": {"torch"}}
PAID |= {name: paid for name, paid in OPTIONAL.items() if is_installed(name)}


@pytest.mark.parametrize("format", PAID)
def test_only_the_formats_that_are_loaded_are_paid_for(artifacts: Path, format: str) -> None:
    folder = artifacts / "torch_cnn" / format
    script = f"""
import sys
from pathlib import Path
from contract.manifest import read_manifest
from serve.runtimes import load_runtime
folder = Path({str(folder)!r})
load_runtime(folder, read_manifest(folder)).close()
print(*({FRAMEWORKS!r} & sys.modules.keys()))
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) == PAID[format]


# Files that are what the manifest says, and yet no model

MODEL_FILES = [
    ("keras", "model.h5"),
    ("torch", "model.pt2"),
    ("onnx", "model.onnx"),
    ("savedmodel", "saved_model.pb"),
    ("savedmodel", "variables/variables.index"),
    ("savedmodel", "variables/variables.data-00000-of-00001"),
    ("tflite", "model.tflite"),
    ("tfjs", "model.json"),
    ("tfjs", "group1-shard1of1.bin"),
    *([("openvino", "model.xml"), ("openvino", "model.bin")] if "openvino" in HERE else []),
    *([("executorch", "model.pte")] if "executorch" in HERE else []),
    *([("coreai", f"model.aimodel/{name}") for name in ("main.mlirb", "main.hash")] if "coreai" in HERE else []),
]

DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda data: b"",
    "cut in half": lambda data: data[: len(data) // 2],
    "noise": lambda data: np.random.default_rng(1).bytes(len(data) + 99),
    "text": lambda data: b"<html>404 Not Found</html>",
}


def any_model(artifacts: Path, format: str) -> Path:
    model = next(model for model, known in ARTIFACTS if known == format)
    return artifacts / model / format


def copied(artifacts: Path, tmp_path: Path, format: str) -> Path:
    source = any_model(artifacts, format)
    return shutil.copytree(source, tmp_path / source.parent.name / format)


def rehashed(folder: Path) -> Manifest:
    """The manifest for the files as they are now."""
    manifest = read_manifest(folder)
    manifest = replace(manifest, files=sha256_of_files(folder, [folder / name for name in manifest.files]))
    verify_files(folder, manifest)
    return manifest


DAMAGED = [
    (format, file, damage)
    for format, file in MODEL_FILES
    for damage in DAMAGES
    # Weights of any value are weights: parity is what finds these.
    if (file, damage) not in [("group1-shard1of1.bin", "noise"), ("model.bin", "noise")]
]


@pytest.mark.parametrize(("format", "file", "damage"), DAMAGED)
def test_garbage_with_the_right_hash_is_unavailable(
    artifacts: Path, tmp_path: Path, format: str, file: str, damage: str
) -> None:
    folder = copied(artifacts, tmp_path, format)
    (folder / file).write_bytes(DAMAGES[damage]((folder / file).read_bytes()))
    manifest = rehashed(folder)
    with pytest.raises(ModelUnavailable, match=rf"{manifest.name} .*|.* {manifest.name}[ :]") as caught:
        load_runtime(folder, manifest)
    assert f"Remove {folder} and export it again" in str(caught.value)


@pytest.mark.parametrize(
    ("format", "file"), [(format, file) for format, file in MODEL_FILES if "variables" not in file]
)
def test_a_file_that_is_not_there_is_unavailable(artifacts: Path, tmp_path: Path, format: str, file: str) -> None:
    folder = copied(artifacts, tmp_path, format)
    (folder / file).unlink()
    with pytest.raises(ModelUnavailable, match="could not"):
        load_runtime(folder, read_manifest(folder))


@pytest.mark.parametrize("format", HERE)
def test_a_model_that_contradicts_its_manifest_is_unavailable(artifacts: Path, format: str) -> None:
    folder = any_model(artifacts, format)
    manifest = read_manifest(folder)
    wrong = replace(manifest, inputs=(replace(manifest.inputs[0], shape=(None, 5, 3, 1)),))
    with pytest.raises(ModelUnavailable, match=f"{manifest.name} could not be loaded"):
        load_runtime(folder, wrong)


def test_a_format_without_a_runtime_is_unavailable(artifacts: Path) -> None:
    manifest = replace(read_manifest(artifacts / "keras_cnn" / "onnx"), format="ncnn")
    with pytest.raises(ModelUnavailable, match=r"'ncnn' is not one of keras, .*, tfjs, "):
        load_runtime(artifacts / "keras_cnn" / "onnx", manifest)


def test_a_precision_is_run_by_its_formats_runtime(artifacts: Path, images: Images) -> None:
    folder = artifacts / "keras_cnn" / "onnx"
    runtime = load_runtime(folder, replace(read_manifest(folder), format="onnx-fp16"))
    assert ask(runtime, images[:1]).shape == (1, 10)


@pytest.mark.skipif("openvino" not in HERE, reason="OpenVINO is not installed")
def test_openvino_takes_a_single_value_beside_rows(tmp_path: Path) -> None:
    """Such as the sample rate of a signal."""
    import openvino
    from openvino import opset13 as ops

    sound, factor = ops.parameter([-1, 3], np.float32, "sound"), ops.parameter([], np.float32, "factor")
    product = ops.multiply(sound, factor)
    for port, name in ((sound.output(0), "sound"), (factor.output(0), "factor"), (product.output(0), "y")):
        port.get_tensor().set_names({name})
    openvino.save_model(openvino.Model([product], [sound, factor]), tmp_path / "model.xml", compress_to_fp16=False)
    specs = (TensorSpec("sound", "float32", (None, 3), "ND"), TensorSpec("factor", "float32", (), ""))
    answer = TensorSpec("y", "float32", (None, 3), "ND")
    files = sha256_of_files(tmp_path, [tmp_path / "model.xml", tmp_path / "model.bin"])
    manifest = Manifest("net", "openvino", "onnx", specs, (answer,), None, (), files=files)
    runtime = load_runtime(tmp_path, manifest)
    for rows in (np.ones((1, 3), np.float32), np.ones((2, 3), np.float32)):
        np.testing.assert_array_equal(runtime.predict({"sound": rows, "factor": np.array(2, np.float32)})["y"], 2)


@pytest.mark.skipif("openvino" not in HERE, reason="OpenVINO is not installed")
def test_texts_into_and_out_of_openvino_are_bytes(tmp_path: Path) -> None:
    """Also where all of them are empty, of which OpenVINO's own arrays have other memory."""
    import openvino
    from openvino import opset13 as ops

    texts, place = ops.parameter([3], openvino.Type.string, "texts"), ops.parameter([-1], np.int64, "place")
    chosen = ops.gather(texts, place, ops.constant(np.int64(0)))
    for port, name in ((texts.output(0), "texts"), (place.output(0), "place"), (chosen.output(0), "y")):
        port.get_tensor().set_names({name})
    openvino.save_model(openvino.Model([chosen], [texts, place]), tmp_path / "model.xml")
    specs = (TensorSpec("texts", "bytes", (3,), ""), TensorSpec("place", "int64", (None,), "N"))
    files = sha256_of_files(tmp_path, [tmp_path / "model.xml", tmp_path / "model.bin"])
    answer = TensorSpec("y", "bytes", (None,), "N")
    runtime = load_runtime(tmp_path, Manifest("net", "openvino", "onnx", specs, (answer,), None, (), files=files))
    words = np.array(["ré".encode(), b"", b"a\xff"], object)
    for places in ([0, 2, 1], [1, 1], [2]):
        answers = runtime.predict({"texts": words, "place": np.array(places)})["y"]
        assert answers.dtype == object and answers.tolist() == words[places].tolist()


def test_a_runtime_that_is_not_installed_is_unavailable(artifacts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "serve.runtimes.onnx", raising=False)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    folder = artifacts / "keras_cnn" / "onnx"
    with pytest.raises(ModelUnavailable, match=r"keras_cnn-onnx cannot be run here.*Install ONNX Runtime"):
        load_runtime(folder, read_manifest(folder))


# The Node process of TF.js


@pytest.fixture
def node(artifacts: Path) -> Iterator[tfjs.TFJSRuntime]:
    """A TF.js runtime of its own, to break."""
    folder = artifacts / "keras_cnn" / "tfjs"
    runtime = tfjs.TFJSRuntime(folder, read_manifest(folder), 1)
    yield runtime
    runtime.close()


def wait_until(condition: Callable[[], bool], seconds: float = 20) -> None:
    """Poll, and fail when it does not come true in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)


def has_ended(process: int) -> bool:
    """It is gone, or a zombie without threads that waits for its parent."""
    folder = Path(f"/proc/{process}")
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        state = (folder / "stat").read_text().rpartition(")")[2].split()[0]
        return state == "Z" and len(list((folder / "task").iterdir())) == 1
    return True


def has_unread_input(process: int) -> bool:
    pipe = os.open(f"/proc/{process}/fd/0", os.O_RDONLY | os.O_NONBLOCK)
    try:
        waiting = array.array("i", [0])
        fcntl.ioctl(pipe, termios.FIONREAD, waiting)
        return waiting[0] > 0
    finally:
        os.close(pipe)


def test_a_node_process_killed_while_idle_is_replaced(node: tfjs.TFJSRuntime, loaded: Loaded, images: Images) -> None:
    killed = node.process_id
    os.kill(killed, signal.SIGKILL)
    wait_until(lambda: has_ended(killed))
    np.testing.assert_array_equal(ask(node, images[:2]), ask(loaded["keras_cnn", "tfjs"], images[:2]))
    assert node.process_id != killed


@pytest.mark.parametrize("batch", [1, 256])
def test_a_node_process_killed_during_a_call_fails_that_call_only(
    node: tfjs.TFJSRuntime, loaded: Loaded, images: Images, batch: int
) -> None:
    killed = node.process_id
    halt(killed)  # so that the call is under way when it is killed
    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(ask, node, images[:batch])
        wait_until(lambda: has_unread_input(killed))
        os.kill(killed, signal.SIGKILL)
        with pytest.raises(RuntimeFailure, match=r"The Node process of keras_cnn-tfjs failed .*restarted"):
            call.result(timeout=20)
    np.testing.assert_array_equal(ask(node, images[:2]), ask(loaded["keras_cnn", "tfjs"], images[:2]))


@pytest.mark.parametrize("batch", [1, 256])
def test_a_node_process_that_hangs_is_replaced(
    node: tfjs.TFJSRuntime, images: Images, monkeypatch: pytest.MonkeyPatch, batch: int
) -> None:
    """A small batch fits into the pipe, so the answer is waited for; a large one does not, so the pipe is."""
    hanging = node.process_id
    halt(hanging)
    with monkeypatch.context() as patch:
        patch.setattr(tfjs, "CALL_SECONDS", 0.3)
        with ThreadPoolExecutor(1) as pool, pytest.raises(RuntimeFailure, match="within its time limit"):
            pool.submit(ask, node, images[:batch]).result(timeout=20)
    assert has_ended(hanging)
    assert ask(node, images[:batch]).shape == (batch, 10)


def test_calls_of_a_runtime_that_is_closed_are_unavailable_and_start_no_process(
    node: tfjs.TFJSRuntime, images: Images
) -> None:
    """The one under way, the one that waits for it, and a later one."""
    process = node.process_id
    halt(process)
    with ThreadPoolExecutor(2) as pool:
        calls = [pool.submit(ask, node, images[:2]) for _ in range(2)]
        wait_until(node._lock.locked)
        node.close()
        for call in (*calls, pool.submit(ask, node, images[:2])):
            with pytest.raises(ModelUnavailable, match="The Node process of keras_cnn-tfjs has ended"):
                call.result(20)
    assert node.process_id == process and node._child.poll() is not None


def test_a_call_that_fails_halfway_ends_the_node_process(
    node: tfjs.TFJSRuntime, loaded: Loaded, images: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The header of a frame is written, the rest is not: the next call must not get the answer to what is left."""
    write, broken = Frames._write, node.process_id

    def fail_halfway(frames: Frames, parts: list[memoryview], deadline: float | None) -> None:
        write(frames, parts[:1], deadline)
        raise OSError("broken")

    with monkeypatch.context() as patch:
        patch.setattr(Frames, "_write", fail_halfway)
        with pytest.raises(RuntimeFailure, match=r"The Node process of keras_cnn-tfjs failed"):
            ask(node, images[:2])
    assert has_ended(broken)
    np.testing.assert_array_equal(ask(node, images[2:4]), ask(loaded["keras_cnn", "tfjs"], images[2:4]))


def test_layouts_that_come_again_and_those_without_a_number_are_answered_alike(
    node: tfjs.TFJSRuntime, loaded: Loaded, images: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Short frames from the second call of a layout on; the third and the fourth layout have no number."""
    monkeypatch.setattr(tfjs, "LAYOUTS", 2)
    for batch in (1, 3, 5, 64, 1, 3, 5, 64, 1, 1):
        np.testing.assert_array_equal(ask(node, images[:batch]), ask(loaded["keras_cnn", "tfjs"], images[:batch]))
    assert sorted(node._answers) == [1, 2]
    os.kill(node.process_id, signal.SIGKILL)
    node._child.wait()
    np.testing.assert_array_equal(ask(node, images[:3]), ask(loaded["keras_cnn", "tfjs"], images[:3]))
    assert sorted(node._answers) == [1], "a new process knows no layouts"


def test_an_answer_to_another_call_is_never_given(node: tfjs.TFJSRuntime, loaded: Loaded, images: Images) -> None:
    node._send(0, {"pixels": images[:2]}, None, time.monotonic() + 5)  # its answer waits in the pipe
    with pytest.raises(RuntimeFailure, match=r"it answered call 0, not \d+"):
        ask(node, images[2:4])
    np.testing.assert_array_equal(ask(node, images[2:4]), ask(loaded["keras_cnn", "tfjs"], images[2:4]))


def test_a_frame_whose_length_is_wrong_ends_the_node_process(node: tfjs.TFJSRuntime, images: Images) -> None:
    header = json.dumps({"call": 1, "inputs": [], "nodes": None, "bytes": 8}).encode()
    node._frames._write([memoryview(struct.pack("<I", len(header)) + header)], time.monotonic() + 5)
    wait_until(lambda: has_ended(node.process_id))
    assert ask(node, images[:2]).shape == (2, 10)


@pytest.mark.parametrize("value", [2**31, -(2**31) - 1, 2**40])
def test_a_whole_number_beyond_32_bits_is_refused(node: tfjs.TFJSRuntime, value: int) -> None:
    with pytest.raises(InputError, match=rf"'pixels' has values from 0 to {value}|from {value} to 0"):
        node.predict({"pixels": np.array([0, value])})


def test_threads_that_wait_for_a_killed_node_process_get_a_new_one(node: tfjs.TFJSRuntime, images: Images) -> None:
    expected = ask(node, images[:1])
    killed = node.process_id
    halt(killed)

    def call(_: int) -> Images | None:
        try:
            return ask(node, images[:1])
        except RuntimeFailure:
            return None

    with ThreadPoolExecutor(8) as pool:
        calls = pool.map(call, range(8))
        wait_until(lambda: has_unread_input(killed))
        os.kill(killed, signal.SIGKILL)
        answers = list(calls)
    right = [answer for answer in answers if answer is not None]
    assert len(right) == 7
    assert all(np.array_equal(answer, expected) for answer in right)


def test_what_tfjs_refuses_fails_and_leaves_the_process_alive(node: tfjs.TFJSRuntime, images: Images) -> None:
    process = node.process_id
    with pytest.raises(RuntimeFailure, match=r"TF\.js could not run keras_cnn-tfjs"):
        ask(node, np.zeros((1, 3, 3, 1), np.float32))
    assert ask(node, images[:1]).shape == (1, 10)
    assert node.process_id == process


def test_outputs_go_by_their_names_in_whatever_order_the_file_has_them(tmp_path: Path) -> None:
    write_pair(tmp_path / "pair")
    folder = tmp_path / "pair" / "tfjs"
    model = json.loads((folder / "model.json").read_bytes())
    inputs = {"left": np.zeros((2, 4), np.float32), "ids": np.array([[1, 2, 3], [4, 5, 6]], np.int32)}
    for order in (sorted, reversed):
        outputs = model["signature"]["outputs"]
        model["signature"]["outputs"] = {name: outputs[name] for name in order(sorted(outputs))}
        (folder / "model.json").write_text(json.dumps(model))
        with contextlib.closing(tfjs.TFJSRuntime(folder, read_manifest(folder), 1)) as runtime:
            answer = runtime.predict(inputs)
        assert answer["doubled"].tolist() == [[2, 4, 6], [8, 10, 12]]
        assert answer["scores"].tolist() == [[0.5, 0.5], [0.5, 0.5]]


def test_a_weight_that_is_an_output_is_answered_again_and_again(tmp_path: Path) -> None:
    for name, data in tfjs_that_answers_a_weight().items():
        (tmp_path / name).write_bytes(data)
    x, negative = (TensorSpec(name, "float32", (None, 4), "NC") for name in ("x", "negative"))
    constant = TensorSpec("constant", "float32", (3,), "C")
    manifest = Manifest("net", "tfjs", "savedmodel", (x,), (negative, constant), None, ())
    with contextlib.closing(tfjs.TFJSRuntime(tmp_path, manifest, 1)) as runtime:
        for _ in range(3):
            answer = runtime.predict({"x": np.ones((2, 4), np.float32)})
            assert answer["negative"].tolist() == [[-1] * 4] * 2
            assert answer["constant"].tolist() == [1, 2, 3]


def test_a_node_process_is_not_restarted_with_other_files(artifacts: Path, tmp_path: Path, images: Images) -> None:
    folder = copied(artifacts, tmp_path, "tfjs")
    runtime = tfjs.TFJSRuntime(folder, read_manifest(folder), 1)
    expected = ask(runtime, images[:1])
    weights = (folder / "group1-shard1of1.bin").read_bytes()
    (folder / "group1-shard1of1.bin").write_bytes(weights[::-1])
    os.kill(runtime.process_id, signal.SIGKILL)
    wait_until(lambda: has_ended(runtime.process_id))
    for _ in range(2):
        with pytest.raises(ModelUnavailable, match=r"cannot be restarted: .*group1-shard1of1\.bin has sha256"):
            ask(runtime, images[:1])
    (folder / "group1-shard1of1.bin").write_bytes(weights)
    np.testing.assert_array_equal(ask(runtime, images[:1]), expected)
    runtime.close()


def test_closing_ends_the_node_process(node: tfjs.TFJSRuntime) -> None:
    node.close()
    assert has_ended(node.process_id)


def test_the_node_process_ends_when_its_parent_is_killed(artifacts: Path) -> None:
    script = f"""
import sys
from pathlib import Path
from contract.manifest import read_manifest
from serve.runtimes.tfjs import TFJSRuntime
folder = Path({str(artifacts / "keras_cnn" / "tfjs")!r})
print(TFJSRuntime(folder, read_manifest(folder), 1).process_id, flush=True)
sys.stdin.read()
"""
    with subprocess.Popen(
        [sys.executable, "-c", script], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        assert not has_ended(child)
        parent.kill()
    wait_until(lambda: has_ended(child))


def load_tfjs(artifacts: Path) -> Runtime:
    folder = artifacts / "keras_cnn" / "tfjs"
    return load_runtime(folder, read_manifest(folder))


def test_without_node_the_message_tells_to_install_it(
    artifacts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ModelUnavailable, match=r"keras_cnn-tfjs needs Node 20 .* Install nodejs"):
        load_tfjs(artifacts)


def test_without_packages_the_message_names_the_command_that_makes_them(
    artifacts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tfjs, "PACKAGES", tmp_path / "node_modules")
    with pytest.raises(ModelUnavailable, match=r"web/node_modules, which is missing. Run `make web`"):
        load_tfjs(artifacts)


def test_a_script_that_cannot_start_is_unavailable(
    artifacts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Packages that lack TF.js: Node's own message goes to the log."""
    script = tmp_path / "serve" / "runtimes" / "tfjs.mjs"
    script.parent.mkdir(parents=True)
    shutil.copy(tfjs.SCRIPT, script)
    monkeypatch.setattr(tfjs, "SCRIPT", script)
    with pytest.raises(ModelUnavailable, match=r"keras_cnn-tfjs did not start \(it ended, with exit status 1\)"):
        load_tfjs(artifacts)
    assert "Cannot find module '@tensorflow/tfjs-core'" in capfd.readouterr().err


def test_a_script_that_does_not_start_in_time_is_unavailable_and_ended(
    artifacts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / "hangs.mjs"
    written = tmp_path / "process"
    script.write_text(
        f"(await import('node:fs')).writeFileSync('{written}', `${{process.pid}}`); setInterval(() => 0);"
    )
    monkeypatch.setattr(tfjs, "SCRIPT", script)
    monkeypatch.setattr(tfjs, "START_SECONDS", 1.5)
    with pytest.raises(ModelUnavailable, match=r"did not start .*within its time limit"):
        load_tfjs(artifacts)
    if written.exists():  # on a slow machine it may have been ended before
        assert has_ended(int(written.read_text()))
