"""Models whose tensors are not all rows: what is the batch, how short a length may be, and how they are served."""

import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import tensorflow as tf
import torch
from flask.testing import FlaskClient
from onnx import NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

from bring.axes import HEARD, find
from bring.description import Description, Input
from bring.readers.onnx import OnnxSource
from bring.source import write_source
from bring.wrapping import plan
from contract.code import ROOT
from contract.errors import BroughtError
from contract.manifest import TensorSpec, read_manifest
from contract.parity_result import read_status
from serve.app import create_app
from serve.catalog import load_catalog
from serve.runtimes import load_runtime
from serve.settings import Settings
from verify.parity import verify_model
from verify.questions import Questions, invented, read, write

RANDOM = np.random.default_rng(7)
WINDOW = (RANDOM.normal(size=(4, 1, 25)) / 5).astype(np.float32)
VOICE = (RANDOM.normal(size=(8, 1, 40)) / 5).astype(np.float32)
FLOAT = TensorProto.FLOAT


def save(
    path: Path,
    nodes: Sequence[NodeProto],
    inputs: Sequence[ValueInfoProto],
    outputs: Sequence[ValueInfoProto],
    **constants: Any,
) -> Path:
    tensors = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "net", inputs, outputs, tensors)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def write_audio(path: Path) -> Path:
    """(n,) samples -> (frames, 4): windows of 25, each 5 further."""
    nodes = [
        helper.make_node("Unsqueeze", ["wave", "first"], ["rows"]),
        helper.make_node("Conv", ["rows", "window"], ["bands"], kernel_shape=[25], strides=[5]),
        helper.make_node("Squeeze", ["bands", "zero"], ["flat"]),
        helper.make_node("Transpose", ["flat"], ["frames"]),
    ]
    wave = helper.make_tensor_value_info("wave", FLOAT, ["samples"])
    frames = helper.make_tensor_value_info("frames", FLOAT, ["count", 4])
    return save(path, nodes, [wave], [frames], window=WINDOW, first=np.array([0, 1]), zero=np.array([0]))


def write_speech(path: Path) -> Path:
    """Audio (batch, n), a state (2, batch, 8), and a sample rate, which is one value; a probability and a new state."""
    nodes = [
        helper.make_node("Cast", ["rate"], ["real"], to=FLOAT),
        helper.make_node("Div", ["real", "usual"], ["share"]),
        helper.make_node("Mul", ["audio", "share"], ["scaled"]),
        helper.make_node("Unsqueeze", ["scaled", "one"], ["rows"]),
        helper.make_node("Conv", ["rows", "voice"], ["bands"], kernel_shape=[40], strides=[4]),
        helper.make_node("ReduceMean", ["bands"], ["mean"], axes=[2], keepdims=0),
        helper.make_node("Unsqueeze", ["mean", "zero"], ["means"]),
        helper.make_node("Add", ["state", "means"], ["sum"]),
        helper.make_node("Tanh", ["sum"], ["new_state"]),
        helper.make_node("ReduceSum", ["new_state", "zero"], ["total"], keepdims=0),
        helper.make_node("Sigmoid", ["total"], ["speech"]),
    ]
    inputs = [
        helper.make_tensor_value_info("audio", FLOAT, ["batch", "n"]),
        helper.make_tensor_value_info("state", FLOAT, [2, "batch", 8]),
        helper.make_tensor_value_info("rate", TensorProto.INT64, []),
    ]
    outputs = [
        helper.make_tensor_value_info("speech", FLOAT, ["batch", 8]),
        helper.make_tensor_value_info("new_state", FLOAT, [2, "batch", 8]),
    ]
    constants = {"usual": np.float32(16000), "one": np.array([1]), "zero": np.array([0]), "voice": VOICE}
    return save(path, nodes, inputs, outputs, **constants)


def speech_of(audio: Any, state: Any, rate: int) -> tuple[Any, Any]:
    """The same by arithmetic."""
    windows = np.lib.stride_tricks.sliding_window_view(audio * rate / 16000, 40, axis=1)[:, ::4]
    new = np.tanh(state + np.einsum("bfk,ck->bfc", windows, VOICE[:, 0]).mean(axis=1))
    return 1 / (1 + np.exp(-new.sum(axis=0))), new


def tensor(name: str, values: Any, datatype: str = "FP32") -> dict[str, Any]:
    values = np.asarray(values)
    return {"name": name, "datatype": datatype, "shape": list(values.shape), "data": values.ravel().tolist()}


def client_of(artifacts: Path) -> FlaskClient:
    """A client of a service of these artifacts."""
    return create_app(load_catalog(artifacts), Settings(artifacts=artifacts)).test_client()


def convert(artifact: Path, format: str) -> None:
    run("export", str(artifact), format)


def run(module: str, *arguments: str) -> None:
    command = [sys.executable, "-m", module, *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr


def ask(client: FlaskClient, name: str, *tensors: dict[str, Any]) -> Any:
    return client.post(f"/v2/models/{name}/infer", json={"inputs": list(tensors)})


def test_the_batch_of_each_tensor_is_found(tmp_path: Path) -> None:
    manifest = write_source(write_speech(tmp_path / "net.onnx"), tmp_path / "a" / "net", "net", Description()).manifest
    layouts = {spec.name: spec.layout for spec in (*manifest.inputs, *manifest.outputs)}
    assert layouts == {"audio": "ND", "state": "DND", "rate": "", "speech": "ND", "new_state": "DND"}
    assert [spec.shape for spec in manifest.inputs] == [(None, None), (2, None, 8), ()]
    assert [spec.least for spec in manifest.inputs] == [(1, 40), None, None]
    assert not manifest.has_rows
    assert manifest.rows_of({"audio": np.zeros((3, 400))}) == 1
    assert read_manifest(tmp_path / "a" / "net" / "onnx") == manifest


def write_speech_savedmodel(folder: Path) -> Path:
    """The same as TensorFlow writes it."""
    voice = tf.constant(VOICE.transpose(2, 1, 0))

    def call(audio: Any, state: Any, rate: Any) -> dict[str, Any]:
        scaled = audio * tf.cast(rate, tf.float32) / 16000.0
        windows = tf.nn.conv1d(tf.expand_dims(scaled, 2), voice, 4, "VALID")
        # Of a signal of 33 to 39 samples there is no window. TensorFlow adds up nothing, and refuses nothing.
        count = tf.cast(tf.maximum(1, tf.shape(windows)[1]), tf.float32)
        new = tf.tanh(state + tf.reduce_sum(windows, 1) / count)
        return {"speech": tf.sigmoid(tf.reduce_sum(new, 0)), "new_state": new}

    module = tf.Module()
    module.f = tf.function(
        call,
        input_signature=[
            tf.TensorSpec((None, None), tf.float32, "audio"),
            tf.TensorSpec((2, None, 8), tf.float32, "state"),
            tf.TensorSpec((), tf.int64, "rate"),
        ],
    )
    tf.saved_model.save(module, str(folder), signatures=module.f)
    return folder


def test_whole_calls_are_converted_compared_and_served(tmp_path: Path) -> None:
    model = tmp_path / "a" / "net"
    run("bring.source", str(write_speech_savedmodel(tmp_path / "net")), str(model), "--name", "net")
    rows = invented(read_manifest(model / "savedmodel").inputs, 6, 1000, are_calls=True)
    assert {name: value.shape[1:] for name, value in rows.items()} == {"audio": (1, 40), "rate": (), "state": (2, 1, 8)}
    for format in ("onnx", "tflite"):
        convert(model / "savedmodel", format)
    verify_model(model, Questions(rows, None, "calls", are_calls=True))
    audio, state = RANDOM.normal(size=(3, 100)), RANDOM.normal(size=(2, 3, 8))
    expected = dict(zip(("speech", "new_state"), speech_of(audio, state, 8000), strict=True))
    client = client_of(tmp_path / "a")
    for format in ("savedmodel", "onnx", "tflite"):
        status = read_status(model / format)
        assert status.word == ("source" if format == "savedmodel" else "verified"), status.reason
        assert status.parity is None or [batch.batch for batch in status.parity.batches] == [1]
        sent = tensor("audio", audio), tensor("state", state), tensor("rate", 8000, "INT64")
        for output in ask(client, f"net-{format}", *sent).json["outputs"]:
            values = expected[output["name"]]
            assert output["shape"] == list(values.shape)
            np.testing.assert_allclose(output["data"], values.ravel(), atol=1e-5)


def test_a_whole_call_is_refused_where_its_sizes_are_wrong(tmp_path: Path) -> None:
    write_source(write_speech(tmp_path / "net.onnx"), tmp_path / "a" / "net", "net", Description())
    client = client_of(tmp_path / "a")
    rate = tensor("rate", 16000, "INT64")
    state = tensor("state", np.ones((2, 1, 8)))
    answers = [
        (
            ask(client, "net-onnx", tensor("audio", np.ones((1, 39))), state, rate),
            "least",
        ),
        (
            ask(client, "net-onnx", tensor("audio", np.ones((2, 50))), state, rate),
            "batch",
        ),
        (client.post("/v1/models/net-onnx:predict", json={"instances": [1]}), "no rows"),
    ]
    for answer, words in answers:
        assert answer.status_code == 400
        assert words in answer.json["error"]
    columns = {"audio": np.ones((1, 50)).tolist(), "state": np.ones((2, 1, 8)).tolist(), "rate": 16000}
    served: Any = client.post("/v1/models/net-onnx:predict", json={"inputs": columns})
    np.testing.assert_allclose(
        served.json["outputs"]["speech"], speech_of(np.ones((1, 50)), np.ones((2, 1, 8)), 16000)[0], atol=1e-5
    )
    config: Any = client.get("/v2/models/net-onnx/config").json
    assert config["max_batch_size"] == 0
    assert [each["dims"] for each in config["input"]] == [[-1, -1], [2, -1, 8], []]
    assert client.get("/v2/models/net-onnx").json["parameters"]["least"] == {"audio": [1, 40]}  # type: ignore[index]


def test_samples_of_one_signal_are_no_rows(tmp_path: Path) -> None:
    manifest = write_source(write_audio(tmp_path / "net.onnx"), tmp_path / "a" / "net", "net", Description()).manifest
    (wave,), (frames,) = manifest.inputs, manifest.outputs
    assert (wave.shape, wave.layout, wave.least) == ((None,), "D", (25,))
    assert (frames.shape, frames.layout) == ((None, 4), "DD")
    client = client_of(tmp_path / "a")
    samples = RANDOM.normal(size=60)
    windows = np.lib.stride_tricks.sliding_window_view(samples, 25)[::5]
    (output,) = ask(client, "net-onnx", tensor("wave", samples)).json["outputs"]
    assert output["shape"] == [8, 4]
    np.testing.assert_allclose(output["data"], (windows @ WINDOW[:, 0].T).ravel(), atol=1e-5)
    assert ask(client, "net-onnx", tensor("wave", samples[:24])).status_code == 400


def test_single_values_in_rows_stay_rows(tmp_path: Path) -> None:
    x, y = (helper.make_tensor_value_info(name, FLOAT, ["batch"]) for name in "xy")
    save(tmp_path / "net.onnx", [helper.make_node("Tanh", ["x"], ["y"])], [x], [y])
    assert plan(OnnxSource(tmp_path / "net.onnx", Description()), Description(), "net").has_rows


def test_a_filter_answers_a_signal_and_not_rows(tmp_path: Path) -> None:
    """As many samples come out as go in, and each depends on its neighbours."""
    nodes = [
        helper.make_node("Unsqueeze", ["x", "first"], ["rows"]),
        helper.make_node("Conv", ["rows", "kernel"], ["out"], kernel_shape=[5], pads=[2, 2]),
        helper.make_node("Squeeze", ["out", "first"], ["y"]),
    ]
    x, y = (helper.make_tensor_value_info(name, FLOAT, ["n"]) for name in "xy")
    kernel = RANDOM.normal(size=(1, 1, 5)).astype(np.float32)
    save(tmp_path / "net.onnx", nodes, [x], [y], kernel=kernel, first=np.array([0, 1]))
    wrapping = plan(OnnxSource(tmp_path / "net.onnx", Description()), Description(), "net")
    assert [(spec.layout, spec.shape) for spec in (*wrapping.inputs, *wrapping.outputs)] == [("D", (None,))] * 2


@pytest.mark.parametrize("rows", [1, 3])
def test_a_fixed_batch_is_called_piece_by_piece(tmp_path: Path, rows: int) -> None:
    """One row alone where more are declared, or as many as are declared."""
    x, y = (helper.make_tensor_value_info(name, FLOAT, ["any" if rows == 1 else rows, 4]) for name in "xy")
    nodes = [helper.make_node("Reshape", ["x", "sizes"], ["flat"]), helper.make_node("Tanh", ["flat"], ["y"])]
    save(tmp_path / "net.onnx", nodes, [x], [y], sizes=np.array([rows, 4]))
    manifest = write_source(tmp_path / "net.onnx", tmp_path / "a" / "net", "net", Description()).manifest
    assert (manifest.batch, manifest.inputs[0].shape, manifest.has_rows) == (rows, (None, 4), True)
    values = RANDOM.normal(size=(7, 4)).astype(np.float32)
    answers = load_runtime(tmp_path / "a" / "net" / "onnx", manifest).predict({"x": values})
    np.testing.assert_allclose(answers["y"], np.tanh(values), atol=1e-6)


def test_a_model_that_the_user_describes_is_taken_at_its_word(tmp_path: Path) -> None:
    description = Description(
        inputs=(Input("audio", batch=0, shape=(None, 64)), Input("state", batch=1), Input("rate", batch=-1))
    )
    wrapping = plan(OnnxSource(write_speech(tmp_path / "net.onnx"), description), description, "net.onnx")
    assert [spec.layout for spec in wrapping.inputs] == ["ND", "DND", ""]
    assert [spec.shape for spec in wrapping.inputs] == [(None, 64), (2, None, 8), ()]
    wrong = Description(inputs=(Input("rate", batch=0),))
    with pytest.raises(BroughtError, match="batch as its axis 0"):
        plan(OnnxSource(tmp_path / "net.onnx", wrong), wrong, "net.onnx")


def test_a_program_whose_output_is_one_value_is_called_as_a_whole(tmp_path: Path) -> None:
    class Net(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return x * 2, x.mean()

    batch = torch.export.Dim("batch", min=1, max=64)
    torch.export.save(
        torch.export.export(Net(), (torch.ones(2, 5),), dynamic_shapes={"x": {0: batch}}), tmp_path / "net.pt2"
    )
    manifest = write_source(tmp_path / "net.pt2", tmp_path / "a" / "net", "net", Description()).manifest
    assert [(spec.shape, spec.layout) for spec in manifest.outputs] == [((None, 5), "ND"), ((), "")]
    convert(tmp_path / "a" / "net" / "torch", "onnx")
    client = client_of(tmp_path / "a")
    values = RANDOM.normal(size=(3, 5))
    entries: Any = client.post("/v2/repository/index").json
    index = {entry["name"]: entry for entry in entries}
    assert (index["net-torch"]["state"], index["net-torch"]["reason"]) == ("READY", "")
    assert index["net-onnx"]["reason"].startswith("unverified: it was never compared with its source")
    for format in ("torch", "onnx"):
        doubled, mean = ask(client, f"net-{format}", tensor("x", values)).json["outputs"]
        np.testing.assert_allclose(doubled["data"], 2 * values.ravel(), atol=1e-5)
        assert (mean["shape"], pytest.approx(mean["data"][0], abs=1e-5)) == ([], values.mean())


def test_questions_of_whole_calls_are_kept(tmp_path: Path) -> None:
    questions = Questions(
        {"rate": np.array([8000, 16000]), "x": np.ones((2, 3, 1), np.float32)}, None, "two", are_calls=True
    )
    write(tmp_path / "net.npz", questions)
    again = read(tmp_path / "net.npz")
    second = again.rows(1, 2, {"rate": np.dtype(np.int64), "x": np.dtype(np.float32)})
    assert (second["rate"].shape, int(second["rate"]), second["x"].shape) == ((), 16000, (3, 1))


def test_the_least_sizes_of_a_picture_are_found(tmp_path: Path) -> None:
    """Two poolings of 4: below 16 by 16 nothing is left."""
    net = torch.nn.Sequential(torch.nn.Conv2d(5, 3, 1), torch.nn.AvgPool2d((4, 2)), torch.nn.AvgPool2d(4)).eval()
    free = torch.export.Dim.AUTO
    shapes = ({0: torch.export.Dim("batch", min=1, max=64), 2: free, 3: free},)
    torch.export.save(
        torch.export.export(net, (torch.ones(2, 5, 64, 64),), dynamic_shapes=shapes), tmp_path / "net.pt2"
    )
    manifest = write_source(tmp_path / "net.pt2", tmp_path / "a" / "net", "net", Description()).manifest
    assert manifest.inputs[0].least == (1, 1, 16, 8)
    client = client_of(tmp_path / "a")
    assert ask(client, "net-torch", tensor("input", np.ones((1, 5, 16, 7)))).status_code == 400
    assert ask(client, "net-torch", tensor("input", np.ones((2, 5, 16, 8)))).status_code == 200


class Summing:
    """Windows of `width`, each `stride` further, of a signal (1, n), and their sum, which is 0 where there is none.

    As TensorFlow does, it counts the windows by a division that rounds towards 0.
    """

    def __init__(self, width: int, stride: int, ending: Callable[[Any, Any], Any]) -> None:
        self.inputs: tuple[TensorSpec, ...] = (
            TensorSpec("x", "float32", (1, None), ""),
            TensorSpec("rate", "int64", (), ""),
        )
        self.outputs = [TensorSpec("y", "float32", (None, 1), "")]
        self.longest = 0
        self._width, self._stride, self._ending = width, stride, ending

    def predict(self, inputs: Mapping[str, Any]) -> list[Any]:
        x, rate = inputs["x"], inputs["rate"]
        self.longest = max(self.longest, x.shape[1])
        count = int((x.shape[1] - self._width + self._stride) / self._stride)
        if count < 0:
            raise ValueError("the size would be negative")
        with np.errstate(all="ignore"):
            sums = [x[:, self._stride * each :][:, : self._width].sum(axis=1) for each in range(count)]
            return [self._ending(sum(sums, np.zeros(len(x)))[:, None], rate)]


@pytest.mark.parametrize(
    ("width", "stride", "ending", "expected"),
    [
        (40, 4, lambda y, rate: y, 40),
        (1, 1, lambda y, rate: y, None),
        (40, 4, lambda y, rate: np.tanh(y * rate), 40),  # the rate that is invented may be 0
        (8, 2, lambda y, rate: np.tanh(1e6 * (y + 1000)), 8),  # saturated whatever is heard
        (3, 1, lambda y, rate: np.argmax(np.concatenate([y, -y], 1), axis=1)[:, None], 2),  # a class shows too little
        (600, 600, lambda y, rate: np.maximum(y, 0), 600),  # at 16 it answers already, with nothing
    ],
)
def test_a_size_counts_only_where_the_signal_is_heard(
    width: int, stride: int, ending: Callable[[Any, Any], Any], expected: int | None
) -> None:
    source = Summing(width, stride, ending)
    found = find(source, source.outputs, Description(), "net")
    assert found.inputs[0].least == (expected and (1, expected))


class Contexts:
    """Rows of letters, one of four at each place: each answer looks at 5,000 before and after it."""

    inputs: tuple[TensorSpec, ...] = (TensorSpec("x", "float32", (None, None, 4), "NDD"),)
    outputs = (TensorSpec("y", "float32", (None, None), "ND"),)

    def __init__(self) -> None:
        self.most = 0
        """Values of a question."""

    def predict(self, inputs: Mapping[str, Any]) -> list[Any]:
        x = inputs["x"]
        self.most = max(self.most, x.size)
        if x.shape[1] <= 10_000:
            raise ValueError("the context is larger than the row")
        sums = np.cumsum(x.astype(np.float64).sum(2), 1)
        return [(sums[:, 10_000:] - sums[:, :-10_000]).astype(np.float32)]


def test_a_long_row_is_found_and_not_asked_as_so_many_rows() -> None:
    source = Contexts()
    signature = find(source, source.outputs, Description(), "net")
    assert signature.has_rows and signature.inputs[0].least == (1, 10_001, 1)
    assert source.most <= 3 * 16_384 * 4


def test_a_large_square_is_still_found() -> None:
    """Who knows whom among at least 100 people."""

    class Square:
        inputs: tuple[TensorSpec, ...] = (TensorSpec("x", "float32", (None, None), ""),)

        def predict(self, inputs: Mapping[str, Any]) -> list[Any]:
            x = inputs["x"]
            if len(x) < 100 or len(x) != x.shape[1]:
                raise ValueError("no square of at least 100")
            return [x @ x]

    signature = find(Square(), [TensorSpec("y", "float32", (None, None), "")], Description(), "net")
    assert not signature.has_rows and signature.outputs[0].shape == (None, None)


def test_what_is_one_at_a_length_of_one_is_no_fault() -> None:
    """The weights of an attention over one value are 1, whatever the value is."""

    class Attention:
        inputs: tuple[TensorSpec, ...] = (TensorSpec("x", "float32", (None, None), "ND"),)

        def predict(self, inputs: Mapping[str, Any]) -> list[Any]:
            x = inputs["x"]
            with np.errstate(all="ignore"):
                powers = np.exp(np.clip(np.nan_to_num(x), -50, 50))
            weights = powers / powers.sum(axis=1, keepdims=True)
            return [(weights * x).sum(axis=1, keepdims=True), weights]

    outputs = [TensorSpec("y", "float32", (None, 1), "ND"), TensorSpec("weights", "float32", (None, None), "ND")]
    found = find(Attention(), outputs, Description(), "net")
    assert found.inputs[0].least is None


def test_a_model_that_hears_nothing_is_not_asked_for_ever() -> None:
    source = Summing(99, 99, lambda y, rate: 0 * np.nan_to_num(y, posinf=0, neginf=0))
    assert find(source, source.outputs, Description(), "net").inputs[0].shape == (1, None)
    assert source.longest <= HEARD


def write_recurrent(path: Path, is_batch_first: bool) -> Path:
    """An LSTM over (time, batch, 4), as PyTorch has it by default, or over (batch, time, 4)."""
    first, last = (helper.make_node("Transpose", *pair, perm=[1, 0, 2]) for pair in ((["x"], ["t"]), (["u"], ["y"])))
    core = helper.make_node("LSTM", ["t" if is_batch_first else "x", "W", "R"], ["steps"], hidden_size=5)
    flat = helper.make_node("Squeeze", ["steps", "first"], ["u" if is_batch_first else "y"])
    nodes = [first, core, flat, last] if is_batch_first else [core, flat]
    tensors = [helper.make_tensor_value_info(name, FLOAT, ["a", "b", size]) for name, size in (("x", 4), ("y", 5))]
    weights = {"W": RANDOM.normal(size=(1, 20, 4)), "R": RANDOM.normal(size=(1, 20, 5))}
    constants = {name: value.astype(np.float32) for name, value in weights.items()}
    return save(path, nodes, tensors[:1], tensors[1:], **constants, first=np.array([1], np.int64))


@pytest.mark.parametrize(("is_batch_first", "axis"), [(True, 0), (False, 1)])
def test_the_batch_of_a_recurrent_layer_is_where_rows_are_apart(
    tmp_path: Path, is_batch_first: bool, axis: int
) -> None:
    source = OnnxSource(write_recurrent(tmp_path / "net.onnx", is_batch_first), Description())
    wrapping = plan(source, Description(), "net.onnx")
    assert [spec.batch_axis for spec in (*wrapping.inputs, *wrapping.outputs)] == [axis, axis]
    described = Description(inputs=(Input("x", batch=0),))
    assert plan(OnnxSource(tmp_path / "net.onnx", described), described, "net.onnx").inputs[0].batch_axis == 0


def test_an_order_of_a_lone_call_depends_on_its_values(tmp_path: Path) -> None:
    """Boxes that are left, best first: scores that hardly differ would be in one order for ever."""
    nodes = [helper.make_node("NonMaxSuppression", ["boxes", "scores", "most", "overlap"], ["left"])]
    inputs = [
        helper.make_tensor_value_info(name, FLOAT, ["n", *sizes])
        for name, sizes in (("boxes", (10, 4)), ("scores", (2, 10)))
    ]
    outputs = [helper.make_tensor_value_info("left", TensorProto.INT64, ["k", 3])]
    constants = {"most": np.array([3], np.int64), "overlap": np.array([0.5], np.float32)}
    source = OnnxSource(save(tmp_path / "net.onnx", nodes, inputs, outputs, **constants), Description())
    assert not plan(source, Description(), "net.onnx").has_rows
