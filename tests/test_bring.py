"""From users' files to artifacts: each model whole or not at all, and a failure of one does not stop the others."""

import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import keras
import numpy as np
import PIL.Image
import pytest
import tensorflow as tf
from onnx import TensorProto, helper, numpy_helper, save

from bring.__main__ import _of_file, named
from bring.causes import explain
from bring.data_folder import questions_for
from bring.description import Description
from contract.code import ROOT
from contract.dataset import Split
from contract.errors import BroughtError, DataError
from contract.failed_edge import read_failed_edges
from contract.formats import needs
from contract.manifest import ImageSpec, Manifest, TensorSpec, read_manifest, verify_files
from contract.parity_result import read_status
from export import EXPORTERS
from serve.catalog import load_catalog
from verify import questions
from verify.questions import Questions, invented

Bring = subprocess.CompletedProcess[str]


def bring(*arguments: object) -> Bring:
    command = [sys.executable, "-m", "bring", "--precision", "none", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


# The whole way, for several models at once


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory, test_split: Split) -> Path:
    """Real pictures, one subfolder for each class, and a file that is not a picture."""
    folder = tmp_path_factory.mktemp("data") / "clothes"
    for index, (picture, label) in enumerate(zip(test_split.images[:60], test_split.labels, strict=False)):
        file = folder / f"kind {label}" / f"{index}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        PIL.Image.fromarray(picture.squeeze()).save(file)
    (folder / "kind 0" / "notes.txt").write_text("not a picture")
    return folder


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Keras net whose first layer keeps tensors beside its weights; others; one with code; two damaged files."""
    folder = tmp_path_factory.mktemp("models")
    keras.utils.set_random_seed(2)
    layers = keras.layers
    net = [
        keras.Input((28, 28, 1)),
        layers.Normalization(mean=[70.0], variance=[8000.0]),
        layers.Conv2D(6, 3, strides=2, activation="relu"),
        layers.Conv2D(12, 3, groups=6),  # groups, for which Keras asks XLA, which no converter knows
        layers.Conv2D(6, 3, groups=2),
        layers.ZeroPadding2D(),  # zeros that are larger than their neighbours, before a maximum
        layers.MaxPooling2D(2),
        layers.BatchNormalization(),
        layers.Flatten(),
        layers.Dense(16, activation="gelu"),  # in TensorFlow an Erfc, which neither ONNX nor TF.js has
        layers.Dense(10, activation="softmax"),
    ]
    (folder / "pictures").mkdir()
    keras.Sequential(net).save(folder / "pictures" / "Clothes-Net.h5", include_optimizer=False)
    write_two_inputs(folder / "two.onnx")
    write_unknown_to_tflite(folder / "asinh")
    (folder / "notes.onnx").write_text("not a model")
    doubled = layers.Lambda(lambda x: x * 2)  # code of its own, which reading it would run
    keras.Sequential([keras.Input((3,)), doubled]).save(folder / "code.keras")
    (folder / "half.keras").write_bytes((folder / "pictures" / "Clothes-Net.h5").read_bytes()[:3000])
    return folder


def write_unknown_to_tflite(folder: Path) -> None:
    """A SavedModel with an operator that only TensorFlow has."""

    class Net(tf.Module):  # type: ignore[misc]
        @tf.function(input_signature=[tf.TensorSpec((None, 3), tf.float32, name="x")])  # type: ignore[untyped-decorator]
        def __call__(self, x: Any) -> Any:
            return {"y": tf.math.asinh(x)}

    net = Net()
    tf.saved_model.save(net, str(folder), signatures=net.__call__.get_concrete_function())


def write_two_inputs(path: Path) -> None:
    """Inputs of integers and of floats; outputs of two ranks."""
    table = np.random.default_rng(1).normal(size=(20, 5)).astype(np.float32)
    nodes = [
        helper.make_node("Gather", ["table", "tokens"], ["rows"]),
        helper.make_node("ReduceSum", ["rows", "axis"], ["sum"], keepdims=0),
        helper.make_node("Mul", ["sum", "weights"], ["scaled"]),
        helper.make_node("Tanh", ["scaled"], ["both"]),
        helper.make_node("ReduceMean", ["scaled"], ["mean"], axes=[1], keepdims=0),
    ]
    graph = helper.make_graph(
        nodes,
        "two",
        [
            helper.make_tensor_value_info("tokens", TensorProto.INT32, ["batch", 7]),
            helper.make_tensor_value_info("weights", TensorProto.FLOAT, ["batch", 5]),
        ],
        [
            helper.make_tensor_value_info("both", TensorProto.FLOAT, ["batch", 5]),
            helper.make_tensor_value_info("mean", TensorProto.FLOAT, ["batch"]),
        ],
        [numpy_helper.from_array(table, "table"), numpy_helper.from_array(np.array([1]), "axis")],
    )
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10), path)


@pytest.fixture(scope="module")
def artifacts_and_run(tmp_path_factory: pytest.TempPathFactory, models: Path, pictures: Path) -> tuple[Path, Bring]:
    artifacts = tmp_path_factory.mktemp("bring") / "artifacts"
    with ThreadPoolExecutor(2) as pool:
        alone = pool.submit(bring, models / "pictures" / "Clothes-Net.h5", "--artifacts", artifacts, "--data", pictures)
        others = pool.submit(bring, models, "--artifacts", artifacts)
    assert alone.result().returncode == 0, alone.result().stdout + alone.result().stderr
    return artifacts, others.result()


FORMATS = ("onnx", "savedmodel", "tflite", "tfjs")


@pytest.mark.parametrize("format", FORMATS)
def test_a_file_takes_the_place_of_training(artifacts_and_run: tuple[Path, Bring], format: str) -> None:
    artifacts, _ = artifacts_and_run
    folder = artifacts / "clothes_net" / format
    manifest = read_manifest(folder)
    verify_files(folder, manifest)
    assert manifest.image is not None and manifest.image.shape == (28, 28, 1)
    status = read_status(folder)
    assert status.word == "verified", status.reason
    assert status.parity is not None


def test_the_graph_that_one_route_cannot_convert_goes_by_the_next(artifacts_and_run: tuple[Path, Bring]) -> None:
    made = read_manifest(artifacts_and_run[0] / "clothes_net" / "onnx").made_with
    assert made["route"] == "the frozen graph of a call"


@pytest.mark.parametrize(
    ("error", "line"),
    [
        ("net.onnx is text.", "net.onnx is text."),
        ("/models/net.onnx is text.", "net.onnx is text."),
        ("net.onnx: line 3", "net.onnx: line 3"),
        ("net.onnx_data is missing.", "net.onnx: net.onnx_data is missing."),
        ("MODEL is set twice.", "net.onnx: MODEL is set twice."),
    ],
)
def test_an_error_begins_with_the_files_name_once(error: str, line: str) -> None:
    assert _of_file(Path("/models/net.onnx"), error) == line


@pytest.mark.parametrize("format", FORMATS[1:])
def test_any_tensors_are_converted_and_compared(artifacts_and_run: tuple[Path, Bring], format: str) -> None:
    folder = artifacts_and_run[0] / "two" / format
    manifest = read_manifest(folder)
    assert [spec.dtype for spec in manifest.inputs] == ["int32", "float32"]
    assert [spec.shape for spec in manifest.outputs] == [(None, 5), (None,)]
    assert manifest.image is None
    assert read_status(folder).word == "verified", read_status(folder).reason


def test_a_file_that_is_not_a_model_is_named_and_does_not_stop_the_others(
    artifacts_and_run: tuple[Path, Bring],
) -> None:
    artifacts, second = artifacts_and_run
    assert second.returncode == 0, "two of five were brought"
    for file in ("notes.onnx", "half.keras"):
        assert f"error: {file}" in second.stderr, second.stderr
    assert "Traceback" not in second.stderr
    assert re.search(r"error: code\.keras is .*Lambda.*TRUST=1", second.stderr, re.DOTALL), second.stderr
    assert "code, half, notes could not be brought; the other 2 are there." in second.stdout
    left = {path.name for path in artifacts.iterdir()}
    assert left == {"clothes_net", "asinh", "two", "questions", "samples"}, "nothing half-written"


def test_a_model_that_did_not_change_is_not_made_again(artifacts_and_run: tuple[Path, Bring], models: Path) -> None:
    artifacts, _ = artifacts_and_run
    before = (artifacts / "two" / "onnx" / "manifest.json").stat().st_mtime_ns
    again = bring(models / "two.onnx", "--artifacts", artifacts)
    assert "two: nothing changed since it was brought" in again.stdout
    assert (artifacts / "two" / "onnx" / "manifest.json").stat().st_mtime_ns == before


def test_without_labelled_pictures_parity_is_known_and_accuracy_is_not(artifacts_and_run: tuple[Path, Bring]) -> None:
    parity = read_status(artifacts_and_run[0] / "two" / "savedmodel").parity
    assert parity is not None and parity.passed and parity.accuracy is None


def test_every_artifact_that_was_brought_is_served(artifacts_and_run: tuple[Path, Bring]) -> None:
    with_catalog = load_catalog(artifacts_and_run[0])
    try:
        errors = {name: model.error for name, model in with_catalog.items() if model.error}
        assert {name: error for name, error in errors.items() if not needs(name.partition("-")[2])} == {}
        assert set(with_catalog) >= {"clothes_net-keras", "clothes_net-tflite", "two-onnx", "two-tfjs"}
    finally:
        with_catalog.close()


def test_a_conversion_that_fails_leaves_its_reason_and_log(artifacts_and_run: tuple[Path, Bring]) -> None:
    (edge,) = read_failed_edges(artifacts_and_run[0])
    assert edge.name == "asinh-tflite"
    assert edge.reason == "LiteRT has no built-in operator for tf.Asinh."
    assert edge.advice
    assert [route.route for route in edge.routes] == [route.name for route in EXPORTERS["savedmodel", "tflite"]]
    log = (artifacts_and_run[0] / "asinh" / "failed" / "tflite.log").read_text()
    assert "Asinh" in log


def test_the_runtimes_error_is_the_reason_when_the_last_route_converts_nothing(tmp_path: Path) -> None:
    """A grouped convolution is converted for TF.js, which cannot run it; the last route is only for loops."""

    class Net(tf.Module):  # type: ignore[misc]
        kernel, head = (np.random.default_rng(2).normal(size=size).astype("f4") for size in ((3, 3, 2, 6), (6, 3)))

        @tf.function(input_signature=[tf.TensorSpec((None, 8, 8, 4), tf.float32, name="x")])  # type: ignore[untyped-decorator]
        def __call__(self, x: Any) -> Any:
            return {"y": tf.nn.softmax(tf.reduce_mean(tf.nn.conv2d(x, self.kernel, 1, "SAME"), [1, 2]) @ self.head)}

    net = Net()
    tf.saved_model.save(net, str(tmp_path / "grouped"), signatures=net.__call__.get_concrete_function())
    artifacts = tmp_path / "artifacts"
    bring(tmp_path / "grouped", "--artifacts", artifacts)
    (edge,) = read_failed_edges(artifacts)
    assert (edge.name, edge.reason[:35]) == ("grouped-tfjs", "TF.js has no grouped convolution, a")
    errors = {route.route: route.error for route in edge.routes}
    for name in ("graph model", "graph model, nothing fused"):
        assert errors.pop(name).startswith("its runtime cannot run it: "), "with the reason"
    assert errors == {"graph model, loops as functions": "There is no loop in the graph."}


# Names


def test_two_models_of_one_name_are_an_error(tmp_path: Path) -> None:
    for name in ("net.onnx", "Net.h5"):
        (tmp_path / name).write_bytes(b"x")
    with pytest.raises(BroughtError, match=r"would both be called net: rename one"):
        named([tmp_path], {})


@pytest.mark.parametrize("name", ["...", "-", "模型"])
def test_a_name_without_a_letter_is_an_error(tmp_path: Path, name: str) -> None:
    (tmp_path / "net.onnx").write_bytes(b"x")
    with pytest.raises(BroughtError, match="is not a model name"):
        named([tmp_path / "net.onnx"], {"name": name})


@pytest.mark.parametrize("name", ["../../etc/net", "/net", "..\\\\net"])
@pytest.mark.parametrize("where", ["NAME", "model.toml"])
def test_a_name_that_is_a_path_is_an_error(tmp_path: Path, where: str, name: str) -> None:
    (tmp_path / "net.onnx").write_bytes(b"x")
    if where == "model.toml":
        (tmp_path / "model.toml").write_text(f"name = '{name}'")
    with pytest.raises(BroughtError, match="is a path, not a model name: use letters, digits and _"):
        named([tmp_path / "net.onnx"], {"name": name} if where == "NAME" else {})


def test_a_files_own_name_may_have_any_letters(tmp_path: Path) -> None:
    (tmp_path / "My net-2.onnx").write_bytes(b"x")
    assert list(named([tmp_path / "My net-2.onnx"], {})) == ["my_net_2"]


@pytest.mark.parametrize("name", ["nothing.h5", "."])
def test_a_path_without_a_model_says_what_is_expected(tmp_path: Path, name: str) -> None:
    with pytest.raises(BroughtError, match=r"There is no|has no model in it"):
        named([tmp_path / name], {})


def test_a_folder_with_a_checkpoint_says_what_to_save_instead(tmp_path: Path) -> None:
    for name in ("net.meta", "net.index", "net.data-00000-of-00001"):
        (tmp_path / name).touch()
    with pytest.raises(BroughtError, match=r"holds a TensorFlow checkpoint.*simple_save"):
        named([tmp_path], {})


# Questions


def manifest_of(image: ImageSpec | None, labels: tuple[str, ...], inputs: tuple[TensorSpec, ...]) -> Manifest:
    return Manifest("net", "onnx", None, inputs, (TensorSpec("y", "float32", (None, 2), "ND"),), image, labels)


PIXELS = (TensorSpec("pixels", "float32", (None, 8, 9, 1), "NHWC"),)


def test_subfolders_are_classes_by_their_names(tmp_path: Path) -> None:
    for name in ("dog", "cat"):
        (tmp_path / name).mkdir()
        PIL.Image.fromarray(np.full((8, 9), 10 if name == "cat" else 90, np.uint8)).save(tmp_path / name / "1.png")
    rows = questions_for(manifest_of(ImageSpec(8, 9, 1), ("dog", "cat"), PIXELS), Description(data=tmp_path), 2, "net")
    assert rows.labels is not None and rows.pictures is not None
    pairs = zip(rows.pictures, rows.labels, strict=True)
    assert {int(picture.max()): int(label) for picture, label in pairs} == {10: 1, 90: 0}
    with pytest.raises(BroughtError, match=r"2 of them are not labels of the model \(cat, dog\)"):
        questions_for(manifest_of(ImageSpec(8, 9, 1), ("a", "b"), PIXELS), Description(data=tmp_path), 2, "net")


@pytest.mark.parametrize("names", [[], ["a/text.png"]])
def test_a_folder_without_pictures_is_an_error(tmp_path: Path, names: list[str]) -> None:
    for name in names:
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text("not a picture")
    with pytest.raises(BroughtError, match=r"has no subfolder|has no picture that can be read"):
        questions_for(manifest_of(ImageSpec(8, 9, 1), ("a",), PIXELS), Description(data=tmp_path), 2, "net")


def test_questions_come_back_as_they_were_written(tmp_path: Path) -> None:
    specs = (
        TensorSpec("words", "bytes", (None, 2), "ND"),
        TensorSpec("tokens", "int64", (None, None), "ND"),
        TensorSpec("x", "float16", (None, 3), "ND"),
    )
    written = Questions(invented(specs, 6, 50), np.arange(6), "some", 1e-3, are_invented=True)
    questions.write(tmp_path / "net.npz", written)
    read = questions.read(tmp_path / "net.npz", 4)
    assert (read.count, read.title, read.tolerance, read.pictures) == (4, "some", 1e-3, None)
    assert read.are_invented
    for name, rows in written.inputs.items():
        assert read.inputs[name].dtype == rows.dtype
        np.testing.assert_array_equal(read.inputs[name], rows[:4])
    assert written.inputs["tokens"].min() >= 0 and written.inputs["tokens"].max() < 50
    (tmp_path / "net.npz").write_bytes((tmp_path / "net.npz").read_bytes()[:100])
    with pytest.raises(DataError, match=r"net\.npz cannot be read"):
        questions.read(tmp_path / "net.npz")


# What a converter's message means


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        ("ModuleNotFoundError: No module named 'onnx2tf.ops.Det'", "onnx2tf does not know the ONNX operator Det."),
        ("error: 'tf.Erf' op is neither a custom op nor a flex op", "LiteRT has no built-in operator for tf.Erf."),
        ("ValueError: Unsupported Ops in the model before optimization Foo, Bar", "TF.js has no operator Foo, Bar."),
        ("It took more than 6 GiB of memory and was ended.", "The converter took more than 6 GiB of memory."),
        ("its parent, savedmodel, could not be made", "It is made from savedmodel, which could not be made."),
        (
            "ValueError: Cannot view a tensor with shape torch.Size([64*s95, 49, 3, 32]) and strides (4704, 32) as",
            "PyTorch's ONNX exporter cannot reshape a tensor of shape [64*s95, 49, 3, 32] as the network does.",
        ),
        (
            "Error in conv2d: depth of input (40) must match input depth for filter 1.",
            "TF.js has no grouped convolution, and this graph has one of 40 channels in groups of 1.",
        ),
        (
            "Some ops are not supported by the native TFLite runtime. TF Select ops: BiasAdd, Conv2D\nDetails:\n"
            "\ttf.BiasAdd(tensor<?x7x6x5xf64>, tensor<5xf64>) -> (tensor<?x7x6x5xf64>) : {data_format = 'NHWC'}",
            "LiteRT has no operator for BiasAdd, Conv2D in float64.",
        ),
        (
            "NotImplemented: Could not find an implementation for Conv(11) node with name 'conv'",
            "ONNX Runtime knows the operator Conv, and not in the dtype that the graph has.",
        ),
        (
            "There is no translation of the ONNX operator Det, com.microsoft.BiasGelu.",
            "No converter here knows the ONNX operator Det, com.microsoft.BiasGelu.",
        ),
        (
            "RuntimeError: XNNPack delegate failed to prepare.Node number 1 (IF) failed to prepare.",
            "LiteRT cannot prepare a branch of this graph's If for the sizes of the call.",
        ),
        (
            "'tf.TensorListReserve' op requires element_dtype to be 1-bit/8-bit/16-bit/32-bit/64-bit integer or",
            "LiteRT has no lists of texts, and this graph loops over some.",
        ),
        (
            "Argument 'x' passed to 'gather' must be numeric tensor, but got string tensor.",
            "TF.js's operator gather takes no texts, and this graph gives it some.",
        ),
        (
            "Model wasn't fully converted. Summary: -- No conversion rule found for operations: ai.onnx.ml.Scaler, F.",
            "OpenVINO has no operator ai.onnx.ml.Scaler, F.",
        ),
        (
            "Model wasn't fully converted. Failed operations detailed log: -- Conv-16 with a message: While validating",
            "OpenVINO cannot convert the operator Conv-16 with these inputs and settings.",
        ),
        ("nobody has seen this", "a -> b: nobody has seen this."),
    ],
)
def test_known_causes_are_named(message: str, reason: str) -> None:
    assert explain("a -> b", message, "").reason == reason


@pytest.mark.parametrize(
    ("error", "is_axis"),
    [("ValueError: Dimensions must be equal, but are 3 and 8", True), ("TypeError: 'NoneType' is not iterable", False)],
)
def test_a_lost_axis_is_the_cause_only_where_the_message_shows_it(error: str, is_axis: bool) -> None:
    cause = explain("a -> b", f"onnx2tf failed at Add_3 of net-onnx: {error}", "")
    assert cause.reason == f"onnx2tf could not convert the operator Add_3: {error}."
    assert ("loses track of an axis" in cause.cause) == is_axis
