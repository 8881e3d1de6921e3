"""`make diagnose` names the place and the cause of planted faults, and reports none in a correct artifact."""

import json
import re
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import onnx
import pytest
import tensorflow as tf
import torch
from onnx import numpy_helper
from PIL import Image

from bench.faults.networks import by_the_batch
from contract import dataset
from contract.code import ROOT
from contract.dataset import Bytes, Split
from contract.errors import RuntimeFailure
from contract.manifest import MANIFEST, read_manifest, sha256_of_files, write_manifest
from export import EXPORTED_HERE, export_artifact, exported_from, signatures
from export.onnx_graph import finish_onnx
from serve.runtimes import load_runtime
from serve.runtimes.onnx import OnnxRuntime
from serve.runtimes.tfjs import TFJSRuntime
from tests.conftest import ODD, Run, write_source
from tests.conftest import write_keras as write_odd_keras
from train.keras_cnn import build
from verify.diagnose import __main__ as command
from verify.diagnose.answers import CHECKS as ANSWERS
from verify.diagnose.causes import CHECKS
from verify.diagnose.diagnosis import diagnose
from verify.diagnose.show import text
from verify.diagnose.tracers import TRACERS, Step, Trace
from verify.questions import of_split

CONVERTED = ("onnx", "savedmodel", "tflite")
"""Formats into which the project's own exporters carry the faults below. TF.js's exporter changes its process."""
LIMIT = 256

Report = dict[str, Any]


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each model is taken for one of ours: a cell would load the frameworks each time, and follow no link."""
    monkeypatch.setattr(command, "is_own", lambda model: True)


def diagnosed(model: Path, format: str, status: int, *options: str) -> Report:
    """Run the command, and read the report that it wrote."""
    arguments = [model.name, format, "--artifacts", str(model.parent), "--limit", str(LIMIT), *options]
    assert command.main(arguments) == status
    report: Report = json.loads((model.parent / "report" / f"diagnose-{model.name}-{format}.json").read_text())
    return report


def check(report: Report, cause: str) -> Report:
    (match,) = (each for each in report["checks"] if each["cause"].startswith(cause))
    assert isinstance(match, dict)
    return match


# Correct artifacts

TRACED = [format for format in EXPORTED_HERE if format in TRACERS]


@pytest.mark.parametrize("model", ["keras_cnn", "torch_cnn"])
@pytest.mark.parametrize("format", TRACED)
def test_a_correct_artifact_has_no_fault(
    artifacts_copy: Path, capsys: pytest.CaptureFixture[str], model: str, format: str
) -> None:
    report = diagnosed(artifacts_copy / model, format, status=0)
    assert report["healthy"]
    assert (report["place"], report["cause"], report["checks"], report["pictures"]) == (None, None, [], [])
    assert "Nothing is wrong" in (printed := capsys.readouterr().out)
    assert "Cause" not in printed
    assert len(report["layers"]) >= 8, "pictures, two convolutions, two poolings, flatten, dense, answers"
    assert max(layer["relative"] for layer in report["layers"]) < 1e-5


@pytest.mark.parametrize("format", TRACED)
def test_every_layer_of_the_source_is_found_in_the_artifact(artifacts_copy: Path, format: str) -> None:
    layers = diagnosed(artifacts_copy / "torch_cnn", format, status=0)["layers"]
    labels = [layer["source"]["label"] for layer in layers]
    assert labels[0] == "pixels"
    expected = ["net.conv1 (conv2d)", "max_pool2d", "net.conv2 (conv2d_1)", "max_pool2d_1"]
    expected += ["flatten", "net.fc1 (linear)", "exp"]
    if format == "tfjs":  # it computes a convolution and its activation in one go; TF Lite the last layers, too
        expected = [label for label in expected if "conv" not in label]
    named = [label for label in labels if "(" in label or "max_pool" in label or label in ("flatten", "exp")]
    assert named == expected or format == "tflite"
    arrangements = {layer["source"]["label"]: layer["arrangement"] for layer in layers}
    assert arrangements["max_pool2d"] == ("" if format in ("onnx", "openvino") else "NCHW as NHWC")
    assert arrangements["flatten"] == ""


def test_a_value_that_does_not_depend_on_the_pictures_is_not_a_layer() -> None:
    """Even if its shape looks like a layer's: four pictures, and weights of four rows."""
    rows = np.ones((4, 4), np.float32)
    steps = [
        Step("pixels", "pixels", "input", (), rows),
        Step("weights", "weights", "Const", (), rows),
        Step("doubled", "doubled", "Add", ("weights", "weights"), rows),
        Step("product", "product", "MatMul", ("pixels", "doubled"), rows),
        Step("answers", "answers", "Identity", ("product",), rows),
    ]
    trace = Trace.of(steps, "pixels", "answers", 4)
    assert [step.name for step in trace.valued] == ["pixels", "product"]
    assert trace.output == "product", "an operator that returns its input is not a layer either"


# Planting faults: each is a Keras model that a converter then converts faithfully


Fault = Callable[[Path], keras.Model]
Plant = Callable[[Fault, str, str], Path]


def pixels() -> keras.KerasTensor:
    return keras.Input((28, 28, 1), name="pixels")


def keras_source(model: Path) -> keras.Model:
    return keras.models.load_model(model / "keras" / "model.h5", compile=False)


def torch_twin(model: Path, columns: str) -> keras.Model:
    """PyTorch's weights in Keras's network, which flattens HWC; fc1's columns have the order `columns`."""
    weights = torch.load(model / "torch" / "state_dict.pt", weights_only=True)
    fc1 = weights["fc1.weight"].reshape(10, 16, 5, 5)
    fc1 = fc1.permute(0, 2, 3, 1) if columns == "HWC" else fc1
    kernels = [weights[f"{name}.weight"].permute(2, 3, 1, 0) for name in ("conv1", "conv2")] + [fc1.reshape(10, -1).T]
    twin = build((28, 28, 1), 10)
    biases = [weights[f"{name}.bias"] for name in ("conv1", "conv2", "fc1")]
    twin.set_weights([array.numpy() for pair in zip(kernels, biases, strict=True) for array in pair])
    return twin


def columns_in_chw_order(model: Path) -> keras.Model:
    return torch_twin(model, "CHW")


def twin(model: Path) -> keras.Model:
    """No fault: Keras flattens HWC, and the columns are permuted to it."""
    return torch_twin(model, "HWC")


def two_softmaxes(model: Path) -> keras.Model:
    return keras.Sequential([pixels(), *keras_source(model).layers, keras.layers.Softmax()])


def no_softmax(model: Path) -> keras.Model:
    return with_end(model, None)


def log_softmax(model: Path) -> keras.Model:
    return with_end(model, "log_softmax")


def with_end(model: Path, activation: str | None) -> keras.Model:
    """Another activation of the last layer."""
    source, last = keras_source(model), keras.layers.Dense(10, activation=activation)
    changed = keras.Sequential([pixels(), *source.layers[:-1], last])
    last.set_weights(source.layers[-1].get_weights())
    return changed


def without_scaling(model: Path) -> keras.Model:
    return scaled(model, 1)


def scaled_to_minus_one(model: Path) -> keras.Model:
    return scaled(model, 2 / 255, -1)


def with_mean_and_deviation(model: Path) -> keras.Model:
    """Normalised as in another training."""
    return scaled(model, 1 / 255 / 0.353, -0.286 / 0.353)


def scaled(model: Path, scale: float, offset: float = 0) -> keras.Model:
    """With this scale and offset of the pictures, instead of 1/255 and 0."""
    rescaling = keras.layers.Rescaling(scale, offset)
    return keras.Sequential([pixels(), rescaling, *keras_source(model).layers[1:]])


def unscaled_and_two_softmaxes(model: Path) -> keras.Model:
    return keras.Sequential([pixels(), *without_scaling(model).layers, keras.layers.Softmax()])


def transposed(model: Path) -> keras.Model:
    inputs = pixels()
    return keras.Model(inputs, keras_source(model)(keras.layers.Permute((2, 1, 3))(inputs)))


def another_activation(model: Path) -> keras.Model:
    """One that no experiment tries."""
    source = keras_source(model)
    layers = [*source.layers]
    layers[3] = keras.layers.Conv2D(16, 3, activation="mish", name="conv2d_1")
    changed = keras.Sequential([pixels(), *layers])
    layers[3].set_weights(source.layers[3].get_weights())
    return changed


def one_weight(model: Path) -> keras.Model:
    """One weight of the second convolution, of its filter 11."""
    changed = keras_source(model)
    kernel, bias = changed.layers[3].get_weights()
    kernel[1, 1, 5, 11] += 1
    changed.layers[3].set_weights([kernel, bias])
    return changed


@pytest.fixture(scope="module")
def plant(artifacts: Path, tmp_path_factory: pytest.TempPathFactory) -> Plant:
    """Put the faulty model's exports beside the correct model's source, once. Returns the model's folder."""
    made: dict[Fault, Path] = {}

    def planted(fault: Fault, model: str, source: str) -> Path:
        if fault not in made:
            folder = tmp_path_factory.mktemp("planted")
            write_keras(fault(artifacts / model), artifacts / model / source, folder / "made" / "keras")
            made[fault] = folder / model
            made[fault].mkdir()
            (made[fault] / source).symlink_to(artifacts / model / source)
            for format in ("onnx", "savedmodel"):
                exported(folder / "made" / "keras", format, made[fault] / format)
            exported(made[fault] / "savedmodel", "tflite")
        return made[fault]

    return planted


def write_keras(network: keras.Model, source: Path, folder: Path, **changes: Any) -> None:
    """Write a model as a Keras source with this source's inputs and outputs."""
    folder.mkdir(parents=True)
    network.save(folder / "model.h5", include_optimizer=False)
    files = sha256_of_files(folder, [folder / "model.h5"])
    manifest = replace(read_manifest(source), format="keras", parent=None, files=files)
    write_manifest(folder, replace(manifest, **changes))


def exported(parent: Path, format: str, folder: Path | None = None) -> None:
    """Convert in this process, without its converters' warnings."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        export_artifact(parent, format, folder)


def rehash(folder: Path, **changes: Any) -> None:
    """Make the manifest fit the files, as a faulty exporter would."""
    manifest = read_manifest(folder)
    files = sha256_of_files(folder, [folder / name for name in manifest.files])
    write_manifest(folder, replace(manifest, files=files, **changes))


# The cause of each fault


def test_planting_alone_is_not_a_fault(plant: Plant) -> None:
    """The faults below are found for their own sake: a permuted Flatten with permuted columns is correct."""
    model = plant(twin, "torch_cnn", "torch")
    for format in CONVERTED:
        report = diagnosed(model, format, status=0)
        assert report["cause"] is None
        (flat,) = (layer for layer in report["layers"] if layer["source"]["name"] == "flatten")
        assert flat["arrangement"] == "CHW as HWC"
        assert flat["relative"] < 1e-5


@pytest.mark.parametrize("format", CONVERTED)
def test_columns_in_another_order_than_flatten(plant: Plant, capsys: pytest.CaptureFixture[str], format: str) -> None:
    report = diagnosed(plant(columns_in_chw_order, "torch_cnn", "torch"), format, status=1)
    assert report["cause"] == "layout after Flatten"
    assert report["place"]["source"]["label"] == "net.fc1 (linear)"
    assert report["place"]["relative"] > 0.1
    before = report["layers"][: report["layers"].index(report["place"])]
    assert len(before) >= 6
    assert max(layer["relative"] for layer in before) < 1e-5
    assert check(report, "layout after Flatten")["left"] < 1e-5
    assert "16 x 5 x 5 values taken CHW as HWC" in report["evidence"]
    assert "Permute the weights of the dense layer" in report["advice"]
    printed = capsys.readouterr().out
    assert "They part at net.fc1 (linear) in the source" in printed
    assert "Cause: layout after Flatten" in printed


@pytest.mark.parametrize("format", CONVERTED)
def test_softmax_applied_twice(plant: Plant, format: str) -> None:
    report = diagnosed(plant(two_softmaxes, "keras_cnn", "keras"), format, status=1)
    assert report["cause"] == "softmax applied twice"
    assert report["place"] == report["layers"][-1]
    assert check(report, "softmax")["left"] < 1e-4
    assert max(layer["relative"] for layer in report["layers"][:-1]) < 1e-5


@pytest.mark.parametrize("format", CONVERTED)
@pytest.mark.parametrize(
    ("end", "cause"), [(no_softmax, "softmax missing"), (log_softmax, "softmax missing: log-softmax")]
)
def test_softmax_missing(plant: Plant, end: Fault, cause: str, format: str) -> None:
    report = diagnosed(plant(end, "keras_cnn", "keras"), format, status=1)
    assert report["cause"] == cause
    assert report["place"] == report["layers"][-1]


@pytest.mark.parametrize("format", CONVERTED)
@pytest.mark.parametrize(
    ("fault", "given"),
    [
        (without_scaling, "given 255 x pixel +0 (as if a division by 255 were missing)"),
        (scaled_to_minus_one, "given 2 x pixel -255 (as if it scaled to -1..1 instead of 0..1)"),
        (with_mean_and_deviation, "given 2.833 x pixel -206.6"),
    ],
)
def test_another_scale_and_offset(plant: Plant, fault: Fault, given: str, format: str) -> None:
    report = diagnosed(plant(fault, "keras_cnn", "keras"), format, status=1)
    assert report["cause"] == "normalisation"
    assert given in report["evidence"]
    assert "in its answers" in report["evidence"]
    assert "another fault" not in report["evidence"]
    first = "conv2d/Relu" if format == "tflite" else "rescaling/mul"  # TF Lite's scale is folded into the weights
    assert report["place"]["source"]["label"] == first


def test_height_and_width_swapped(plant: Plant) -> None:
    for format in CONVERTED:
        report = diagnosed(plant(transposed, "keras_cnn", "keras"), format, status=1)
        assert report["cause"] == "layout of the pictures"
        assert "height and width swapped" in report["evidence"]


@pytest.mark.parametrize("format", CONVERTED)
def test_a_weight_that_is_wrong_is_named_with_its_place(plant: Plant, format: str) -> None:
    report = diagnosed(plant(one_weight, "keras_cnn", "keras"), format, status=1)
    assert report["cause"] == "one weight"
    assert report["place"]["source"]["label"].startswith("conv2d_1/")
    assert "conv2d_1/kernel, which at [1, 1, 5, 11] is " in report["evidence"]


@pytest.mark.parametrize("format", CONVERTED)
def test_what_no_experiment_explains_is_unknown_at_the_right_layer(plant: Plant, format: str) -> None:
    report = diagnosed(plant(another_activation, "keras_cnn", "keras"), format, status=1)
    assert report["cause"] == "unknown"
    # Where a graph has no step that looks like the activation, the pool behind it is the place.
    assert report["place"]["source"]["label"].startswith(("conv2d_1/", "max_pooling2d_1/"))
    assert re.search(r"input is off by \d\.\de[-+]0[0789] .* output by \d\.\de-0[12]", report["evidence"])
    assert not any(check["holds"] for check in report["checks"])
    assert len(report["checks"]) == len(ANSWERS) + 1 + len(CHECKS) + 1, "each cause was tested"


@pytest.mark.parametrize("format", CONVERTED)
def test_of_two_faults_the_first_is_named_and_the_second_mentioned(plant: Plant, format: str) -> None:
    report = diagnosed(plant(unscaled_and_two_softmaxes, "keras_cnn", "keras"), format, status=1)
    assert report["cause"] == "normalisation"
    assert "another fault follows at probabilities/Softmax" in report["evidence"]
    assert report["advice"].endswith("Then run this again.")


def test_tfjs_is_traced_through_its_own_runtime(plant: Plant, tmp_path: Path) -> None:
    """Its converter changes the process that it runs in, so it runs in a separate one."""
    model = tmp_path / "torch_cnn"
    shutil.copytree(plant(columns_in_chw_order, "torch_cnn", "torch"), model, symlinks=True)
    subprocess.run([sys.executable, "-m", "export", str(model / "savedmodel"), "tfjs"], cwd=ROOT, check=True)
    report = diagnosed(model, "tfjs", status=1)
    assert report["cause"] == "layout after Flatten"
    assert report["place"]["source"]["label"] == "net.fc1 (linear)"


def test_an_unknown_node_of_tfjs_is_an_error(artifacts: Path, test_split: Split) -> None:
    folder = artifacts / "keras_cnn" / "tfjs"
    pictures = {"pixels": test_split.images[:1].astype(np.float32)}
    with closing(TFJSRuntime(folder, read_manifest(folder), 1)) as runtime:
        with pytest.raises(RuntimeFailure, match=r"TF\.js could not run keras_cnn-tfjs: .*nowhere"):
            runtime.fetch(pictures, ["nowhere"])
        assert runtime.predict(pictures)["probabilities"].shape == (1, 10), "and it goes on"


# Pictures with three channels, whose height and width differ


def with_channels_reversed() -> list[keras.Layer]:
    reverse = keras.layers.Conv2D(3, 1, use_bias=False)
    reverse.build((None, *ODD.shape))
    reverse.set_weights([np.eye(3)[::-1].reshape(1, 1, 3, 3)])
    return [reverse, keras.layers.Rescaling(1 / 255)]


def with_a_scale_for_each_channel() -> list[keras.Layer]:
    return [keras.layers.Normalization(mean=[120.0, 110.0, 100.0], variance=[3600.0, 2500.0, 4900.0])]


@pytest.mark.parametrize(
    ("start", "cause", "evidence"),
    [
        (with_channels_reversed, "layout of the pictures", "channels in reverse order"),
        (with_a_scale_for_each_channel, "normalisation", "4.25 x pixel -510, 5.1 x pixel -561, 3.643 x pixel -364.3"),
    ],
)
def test_each_channel_is_checked(
    tmp_path: Path,
    odd_images: Bytes,
    start: Callable[[], list[keras.Layer]],
    cause: str,
    evidence: str,
) -> None:
    folder = tmp_path / "odd"
    write_source(folder / "keras", write_odd_keras)
    source = keras.models.load_model(folder / "keras" / "model.h5", compile=False)
    inputs = keras.Input(ODD.shape, name="pixels")
    write_keras(
        keras.Sequential([inputs, *start(), *source.layers[1:]]), folder / "keras", tmp_path / "made", model="odd"
    )
    exported(tmp_path / "made", "savedmodel", folder / "savedmodel")
    split = Split(odd_images, np.zeros(len(odd_images), np.uint8))
    diagnosis = diagnose(folder, read_manifest(folder / "savedmodel"), read_manifest(folder / "keras"), of_split(split))
    assert diagnosis.checks[-1].cause == cause, text(diagnosis)
    assert evidence in diagnosis.checks[-1].evidence


# BatchNorm: small networks of their own


def trained_with_batch_norm() -> keras.Model:
    """Trained for a few steps on real pictures: its statistics are not those of any batch."""
    layers = keras.layers
    keras.utils.set_random_seed(1)
    network = [
        layers.Rescaling(1 / 255),
        layers.Conv2D(8, 3),
        layers.BatchNormalization(name="norm"),
        layers.ReLU(name="relu"),
    ]
    head = [layers.MaxPooling2D(4), layers.Flatten(), layers.Dense(10, activation="softmax", name="answers")]
    model = keras.Sequential([pixels(), *network, *head])
    model.compile("adam", "sparse_categorical_crossentropy")
    split = dataset.load("fashion_mnist", "train", 1024)
    model.fit(split.images.astype(np.float32), split.labels, batch_size=64, verbose=0)
    return model


@pytest.fixture(scope="module")
def keras_with_batch_norm(artifacts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Keras source; a SavedModel of it in training mode, and a TF Lite file."""
    folder = tmp_path_factory.mktemp("batch_norm") / "normed"
    model, known = trained_with_batch_norm(), artifacts / "keras_cnn" / "keras"
    write_keras(model, known, folder / "keras", model="normed")
    variables = [weight.value for weight in model.weights]
    for target, call in (
        (folder / "savedmodel", lambda values: [model(values, training=True)]),  # its statistics change with each call
        (folder.parent / "batches" / "savedmodel", by_the_batch(model)[0]),
    ):
        target.mkdir(parents=True)
        files = sha256_of_files(target, signatures.save(call, variables, read_manifest(known), target))
        manifest = replace(read_manifest(known), model="normed", format="savedmodel", parent="keras", files=files)
        write_manifest(target, manifest)
    exported(folder.parent / "batches" / "savedmodel", "tflite", folder / "tflite")
    return folder


@pytest.mark.parametrize("format", ["savedmodel", "tflite"])
def test_batch_norm_in_training_mode(keras_with_batch_norm: Path, format: str) -> None:
    report = diagnosed(keras_with_batch_norm, format, status=1)
    assert report["cause"] == "BatchNorm in training mode"
    assert report["place"]["source"]["label"].split("/")[0] in ("norm", "relu")
    assert check(report, "BatchNorm")["left"] < 1e-4
    assert re.search(r"alone and in a batch, .* the same picture \d\.\de-0[12] apart", report["evidence"])


class Normed(torch.nn.Module):
    """Pixels (N, H, W, C) -> probabilities, with a BatchNorm that was trained on 512 real pictures."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.conv = torch.nn.Conv2d(1, 8, 3)
        self.bn = torch.nn.BatchNorm2d(8)
        self.fc = torch.nn.Linear(8 * 6 * 6, 10)
        split = dataset.load("fashion_mnist", "train", 512)
        for batch in range(0, 512, 64):
            self(torch.tensor(split.images[batch : batch + 64]).float())

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.bn(self.conv(pixels.permute(0, 3, 1, 2) / 255)))
        return torch.softmax(self.fc(torch.max_pool2d(x, 4).flatten(1)), dim=1)


@pytest.fixture(scope="module")
def torch_with_batch_norm(artifacts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A PyTorch source, and an ONNX graph of it whose BatchNormalization is in training mode."""
    folder = tmp_path_factory.mktemp("batch_norm") / "normed"
    (folder / "torch").mkdir(parents=True)
    free = torch.export.Dim("batch", min=1, max=4096)
    program = torch.export.export(Normed().eval(), (torch.zeros(2, 28, 28, 1),), dynamic_shapes={"pixels": {0: free}})
    torch.export.save(program, folder / "torch" / "model.pt2")
    source = replace(read_manifest(artifacts / "torch_cnn" / "torch"), model="normed")
    files = sha256_of_files(folder / "torch", [folder / "torch" / "model.pt2"])
    write_manifest(folder / "torch", replace(source, files=files))
    (folder / "onnx").mkdir()
    path = folder / "onnx" / "model.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # Optimisation would merge BatchNorm into the convolution.
        made = torch.onnx.export(program, (), dynamo=True, input_names=["pixels"], verbose=False, optimize=False)
    assert made is not None
    made.save(path, external_data=False)
    finish_onnx(path, source)
    graph = onnx.load(path)
    (node,) = (node for node in graph.graph.node if node.op_type == "BatchNormalization")
    kept = [attribute for attribute in node.attribute if attribute.name != "training_mode"]
    del node.attribute[:], node.output[1:]
    node.attribute.extend([*kept, onnx.helper.make_attribute("training_mode", 1)])
    node.output.extend(["running_mean", "running_variance"])
    onnx.save(graph, path)
    write_manifest(
        folder / "onnx", replace(source, format="onnx", parent="torch", files=sha256_of_files(folder / "onnx", [path]))
    )
    return folder


def test_batch_norm_in_training_mode_in_onnx(torch_with_batch_norm: Path) -> None:
    report = diagnosed(torch_with_batch_norm, "onnx", status=1)
    assert report["cause"] == "BatchNorm in training mode"
    assert report["place"]["source"]["label"] == "bn (batch_norm)"
    assert report["place"]["artifact"]["op"] == "BatchNormalization"
    assert "model.eval()" in report["advice"]


def test_a_correct_batch_norm_is_not_blamed_for_another_fault(keras_with_batch_norm: Path) -> None:
    """The fault is in the dense layer: putting BatchNorm into training mode explains nothing."""
    folder = keras_with_batch_norm.parent / "other" / "normed"
    folder.mkdir(parents=True)
    (folder / "keras").symlink_to(keras_with_batch_norm / "keras")
    model = keras.models.load_model(folder / "keras" / "model.h5", compile=False)
    kernel, bias = model.layers[-1].get_weights()
    kernel[0, 0] += 5
    model.layers[-1].set_weights([kernel, bias])
    write_keras(model, folder / "keras", folder.parent / "made")
    exported(folder.parent / "made", "onnx", folder / "onnx")
    report = diagnosed(folder, "onnx", status=1)
    assert report["cause"] == "one weight"
    assert report["place"]["source"]["label"].startswith("answers/")
    assert check(report, "BatchNorm")["left"] > 1e-3


# Precision


def quantised(savedmodel: Path, precision: str) -> bytes:
    """A TF Lite file with weights of this precision, by TensorFlow's own converter."""
    converter = tf.lite.TFLiteConverter.from_saved_model(str(savedmodel), signature_keys=["batch1", "serving_default"])
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if precision == "float16":
        converter.target_spec.supported_types = [tf.float16]
    content: bytes = converter.convert()
    return content


@pytest.mark.parametrize(("precision", "place"), [("float16", "conv2d/Relu"), ("int8", "conv2d_1/Relu")])
def test_rounded_weights_are_a_matter_of_precision(artifacts_copy: Path, precision: str, place: str) -> None:
    """The place is the first layer with rounded weights; the converter does not round small arrays to int8."""
    model = artifacts_copy / "keras_cnn"
    (model / "tflite" / "model.tflite").write_bytes(quantised(model / "savedmodel", precision))
    rehash(model / "tflite")
    report = diagnosed(model, "tflite", status=1)
    assert report["cause"] == f"precision ({precision})"
    assert report["place"]["source"]["label"] == place
    assert f"weights are {precision} numbers" in report["evidence"]


def test_a_fault_is_not_mistaken_for_rounding(plant: Plant, tmp_path: Path) -> None:
    model = tmp_path / "torch_cnn"
    shutil.copytree(plant(columns_in_chw_order, "torch_cnn", "torch"), model, symlinks=True)
    (model / "tflite" / "model.tflite").write_bytes(quantised(model / "savedmodel", "float16"))
    rehash(model / "tflite")
    report = diagnosed(model, "tflite", status=1)
    assert report["cause"] == "layout after Flatten"
    assert "more than the 5e-03 that rounding explains" in check(report, "precision")["evidence"]


def test_float16_weights_that_are_stored_as_float32_are_recognised(artifacts_copy: Path) -> None:
    """An ONNX file whose weights were rounded to float16."""
    folder = artifacts_copy / "torch_cnn" / "onnx"
    graph = onnx.load(folder / "model.onnx")
    for weight in graph.graph.initializer:
        array = numpy_helper.to_array(weight)
        if array.dtype == np.float32:
            rounded = array.astype(np.float16).astype(np.float32)
            weight.CopyFrom(numpy_helper.from_array(rounded, weight.name))
    onnx.save(graph, folder / "model.onnx")
    rehash(folder)
    assert diagnosed(artifacts_copy / "torch_cnn", "onnx", status=1)["cause"] == "precision (float16)"


def test_answers_that_are_not_numbers(artifacts_copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = artifacts_copy / "torch_cnn" / "onnx"
    graph = onnx.load(folder / "model.onnx")
    (bias,) = (weight for weight in graph.graph.initializer if weight.name == "net.conv2.bias")
    bias.CopyFrom(numpy_helper.from_array(np.full(16, np.nan, np.float32), bias.name))
    onnx.save(graph, folder / "model.onnx")
    rehash(folder)
    report = diagnosed(artifacts_copy / "torch_cnn", "onnx", status=1)
    assert report["cause"] == "unknown"
    assert report["place"]["source"]["label"] == "net.conv2 (conv2d_1)"
    assert report["place"]["difference"] is None, "JSON has no infinity"
    assert "inf" in capsys.readouterr().out


# Faults outside the graph, or in one of its signatures


def test_a_runtime_that_does_not_compute_its_graph(artifacts_copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    predict = OnnxRuntime.predict
    monkeypatch.setattr(
        OnnxRuntime,
        "predict",
        lambda self, inputs: {name: 0.5 * value[:, ::-1] + 0.05 for name, value in predict(self, inputs).items()},
    )
    report = diagnosed(artifacts_copy / "keras_cnn", "onnx", status=1)
    assert (report["cause"], report["place"]) == ("runtime", None)
    assert re.search(
        r"off by \d\.\de-0[5-8] from its source, and by \d\.\de[-+]0[01] from the runtime", report["evidence"]
    )


def test_a_fault_at_batch_1_only_is_traced_at_batch_1(artifacts_copy: Path) -> None:
    """The two signatures of a TF Lite file are two graphs: this one's `batch1` scales twice."""
    model = artifacts_copy / "keras_cnn"
    source, module = keras_source(model), tf.Module()
    module.variables_read = [weight.value for weight in source.weights]

    def signature(scale: float, batch: int | None) -> Any:
        function = tf.function(lambda pixels: {"probabilities": source(pixels * scale, training=False)})
        return function.get_concrete_function(tf.TensorSpec((batch, 28, 28, 1), name="pixels"))

    folder = model / "savedmodel"
    tf.saved_model.save(module, str(folder), {"serving_default": signature(1, None), "batch1": signature(1 / 255, 1)})
    rehash(folder)
    exported(folder, "tflite")
    report = diagnosed(model, "tflite", status=1)
    assert report["batch"] == 1
    assert report["cause"] == "normalisation"
    assert "as if it divided by 255 twice" in report["evidence"]
    assert diagnosed(model, "savedmodel", status=0)["cause"] is None, "its signature for any batch is right"


# The report


def test_the_pictures_with_the_largest_differences(
    plant: Plant, test_split: Split, capsys: pytest.CaptureFixture[str]
) -> None:
    model = plant(columns_in_chw_order, "torch_cnn", "torch")
    pictures = diagnosed(model, "onnx", 1, "--images")["pictures"]
    answers = {}
    for format in ("torch", "onnx"):
        runtime = load_runtime(model / format, read_manifest(model / format))
        answers[format] = runtime.predict({"pixels": test_split.images.astype(np.float32)})["probabilities"]
    differences = np.abs(answers["torch"] - answers["onnx"]).max(axis=1)
    assert len(pictures) == 8
    largest = [differences[picture["index"]] for picture in pictures]
    np.testing.assert_allclose(largest, np.sort(differences)[::-1][:8], atol=1e-5)
    for picture in pictures:
        assert picture["label"] == test_split.labels[picture["index"]]
        for side, format in (("source", "torch"), ("artifact", "onnx")):
            assert picture[side]["class"] == answers[format][picture["index"]].argmax()
    printed = capsys.readouterr().out
    assert all(re.search(rf"^ +{picture['index']}  ", printed, re.MULTILINE) for picture in pictures)
    path = model.parent / "report" / "diagnose-torch_cnn-onnx.png"
    assert f"Written: {path}" in printed
    sheet = Image.open(path)
    shown = test_split.images[pictures[0]["index"], :, :, 0]
    np.testing.assert_array_equal(np.asarray(sheet.convert("L"))[12:150:5, 12:150:5], shown)


def test_no_sheet_where_nothing_is_wrong(artifacts_copy: Path) -> None:
    diagnosed(artifacts_copy / "keras_cnn", "onnx", 0, "--images")
    assert [path.name for path in (artifacts_copy / "report").iterdir()] == ["diagnose-keras_cnn-onnx.json"]


# Artifacts that cannot be run


def flip_a_byte(folder: Path) -> None:
    path = folder / "model.onnx"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def write_no_graph(folder: Path) -> None:
    (folder / "model.onnx").write_text("no graph")
    rehash(folder)


def write_graph_of_nothing(folder: Path) -> None:
    """Its only operator takes what nobody makes."""
    output = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)
    graph = onnx.helper.make_graph([onnx.helper.make_node("Relu", ["x"], ["y"])], "nothing", [], [output])
    onnx.save(onnx.helper.make_model(graph), folder / "model.onnx")
    rehash(folder)


@pytest.mark.parametrize(
    ("model", "format", "message"),
    [
        ("", "", r"No model '' in \S+\. MODEL= may be keras_cnn, torch_cnn\."),
        ("mobilenet", "onnx", r"No model 'mobilenet' in \S+\. MODEL= may be keras_cnn, torch_cnn\."),
        (
            "keras_cnn",
            "",
            rf"keras_cnn has no format ''\. FORMAT= may be {', '.join(sorted(exported_from('keras')))}\.",
        ),
        (
            "keras_cnn",
            "coreml",
            rf"keras_cnn has no format 'coreml'\. FORMAT= may be {', '.join(sorted(exported_from('keras')))}\.",
        ),
        (
            "keras_cnn",
            "keras",
            r"keras_cnn-keras is the source, and the source is compared with nothing\. FORMAT= may be onnx, .*",
        ),
        ("keras_cnn", "../torch_cnn/onnx", r"keras_cnn has no format .*"),
    ],
)
def test_a_name_that_is_unknown(
    artifacts: Path, capsys: pytest.CaptureFixture[str], model: str, format: str, message: str
) -> None:
    assert command.main([model, format, "--artifacts", str(artifacts)]) == 2
    assert re.fullmatch(rf"error: {message}\n", capsys.readouterr().err)
    assert not (artifacts / "report").exists()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (flip_a_byte, r".*model\.onnx has sha256 \w+\.\.\., expected .*"),
        (lambda folder: (folder / "model.onnx").unlink(), r".*model\.onnx is missing: .*"),
        (lambda folder: (folder / MANIFEST).unlink(), r"keras_cnn has no format 'onnx'\. .*"),
        (lambda folder: (folder / MANIFEST).write_text("{"), r".*cannot be read as a manifest.*"),
        (lambda folder: (folder.parent / "keras" / MANIFEST).unlink(), r".* has 0 source artifacts, expected one\. .*"),
        (
            lambda folder: rehash(folder, format="coreml"),
            r".*is the manifest of keras_cnn-coreml, expected one .*onnx.*",
        ),
        (write_no_graph, r".*model\.onnx is text\. Expected .*"),
        (write_graph_of_nothing, r".*could not be loaded: .*"),
    ],
)
def test_an_artifact_that_cannot_be_used(
    artifacts_copy: Path, capsys: pytest.CaptureFixture[str], damage: Callable[[Path], object], message: str
) -> None:
    damage(artifacts_copy / "keras_cnn" / "onnx")
    arguments = ["keras_cnn", "onnx", "--artifacts", str(artifacts_copy), "--limit", "64"]
    assert command.main(arguments) == 2
    assert re.fullmatch(rf"error: {message}\n", capsys.readouterr().err)


@pytest.mark.parametrize(
    ("options", "message"),
    [(["--limit", "0"], "No answers were compared"), (["--dataset", "x"], "No data set is named")],
)
def test_no_pictures(artifacts: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str) -> None:
    assert command.main(["keras_cnn", "onnx", "--artifacts", str(artifacts), *options]) == 2
    assert capsys.readouterr().err.startswith(f"error: {message}")


def test_make_passes_its_settings_on(make: Run, artifacts_copy: Path) -> None:
    settings = [f"ARTIFACTS={artifacts_copy}", "MODEL=keras_cnn", "FORMAT=onnx"]
    done = make("diagnose", *settings, f"DIAGNOSE=--limit {LIMIT}")
    assert (done.returncode, "Nothing is wrong" in done.stdout) == (0, True), done.stderr
    missing = make("diagnose", f"ARTIFACTS={artifacts_copy}")
    assert missing.returncode == 2
    assert "error: No model '' in" in missing.stderr
    assert "Traceback" not in missing.stderr
