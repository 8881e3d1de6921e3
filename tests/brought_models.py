"""Small real models of every kind that a user can bring, written by their own frameworks.

python -m tests.brought_models FOLDER      in a process of its own, since the frameworks disturb each other
"""

import sys
import warnings
from pathlib import Path

import keras  # first, as the TF.js converter wants it
import numpy as np
import onnx
import tensorflow as tf
import torch

from contract.manifest import Manifest
from export import savedmodel_to_tfjs


def write(folder: Path) -> None:
    _write_keras(folder)
    _write_tensorflow(folder)
    _write_torch(folder)
    _write_onnx(folder)


def _write_keras(folder: Path) -> None:
    layers = keras.layers
    net = keras.Sequential(
        [
            keras.Input((6, 8, 1)),
            layers.Rescaling(1 / 255),
            layers.Conv2D(2, 3, activation="relu", kernel_regularizer="l2"),
            layers.BatchNormalization(),
            layers.TimeDistributed(layers.Dense(2)),
            layers.Flatten(),
            layers.Dense(3, activation="softmax"),
        ]
    )
    net.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    net.save(folder / "net.h5")
    net.save(folder / "net.keras")
    net.save_weights(folder / "net.weights.h5")
    net.export(folder / "savedmodel", verbose=False)

    pixels = keras.Input((4,))
    keras.Model(pixels, keras.ops.relu(pixels * 2)[:, 1:]).save(folder / "operators.keras")

    inner = keras.Sequential([keras.Input((4,)), layers.Lambda(lambda x: x * 2, name="doubled")])
    nested = keras.Sequential([keras.Input((3, 4)), layers.TimeDistributed(inner)])
    nested.save(folder / "lambda.h5")
    nested.save(folder / "lambda.keras")

    custom = keras.Sequential([keras.Input((4,)), Scaled(name="scaled")])
    custom.save(folder / "custom.h5")
    custom.save(folder / "custom.keras")

    words = layers.StringLookup(vocabulary=["a", "b"])
    text = keras.Input((1,), dtype="string")
    keras.Model(text, words(text)).save(folder / "words.keras")


@keras.saving.register_keras_serializable("mine")
class Scaled(keras.layers.Layer):  # type: ignore[misc]
    def call(self, x: tf.Tensor) -> tf.Tensor:
        return x * 3


def _write_tensorflow(folder: Path) -> None:
    (folder / "words.txt").write_text("a\nb\n")
    module = tf.Module()
    module.table = tf.lookup.StaticVocabularyTable(
        tf.lookup.TextFileInitializer(
            str(folder / "words.txt"),
            tf.string,
            tf.lookup.TextFileIndex.WHOLE_LINE,
            tf.int64,
            tf.lookup.TextFileIndex.LINE_NUMBER,
        ),
        1,
    )
    module.f = tf.function(lambda x: module.table.lookup(x), input_signature=[tf.TensorSpec([None], tf.string)])
    tf.saved_model.save(module, folder / "asset")

    floats, strings = tf.TensorSpec([2], tf.float32), tf.TensorSpec([], tf.string)
    for name, function, spec in (
        ("reads", tf.io.read_file, strings),
        ("python", lambda x: tf.numpy_function(np.square, [x], tf.float32), floats),
    ):
        module = tf.Module()
        module.f = tf.function(function, input_signature=[spec])
        tf.saved_model.save(module, folder / name)

    (folder / "net.tflite").write_bytes(tf.lite.TFLiteConverter.from_saved_model(str(folder / "savedmodel")).convert())
    module = tf.Module()
    square = tf.TensorSpec([2, 2], tf.float32)
    module.f = tf.function(lambda x: tf.linalg.inv(x), input_signature=[square])  # TF Lite has no such operator
    tf.saved_model.save(module, folder / "inverse")
    converter = tf.lite.TFLiteConverter.from_saved_model(str(folder / "inverse"))
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS, tf.lite.OpsSet.SELECT_TF_OPS]
    (folder / "flex.tflite").write_bytes(converter.convert())
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
    converter.allow_custom_ops = True
    (folder / "custom.tflite").write_bytes(converter.convert())

    manifest = Manifest("net", "savedmodel", None, (), (), None, ())
    savedmodel_to_tfjs.export(folder / "savedmodel", manifest, folder / "tfjs")


class Net(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = torch.nn.Conv2d(1, 2, 3)
        self.norm = torch.nn.BatchNorm2d(2)
        self.register_buffer("scale", torch.ones(2, 1, 1))
        self.offset = torch.arange(2.0)[:, None, None]

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        answer: torch.Tensor = self.norm(self.conv(pixels)) * self.scale + self.offset
        return answer


class Shapes(torch.nn.Module):
    """Arithmetic on dynamic shapes, and inputs in a dict: the file has guards and expressions."""

    def forward(self, given: dict[str, torch.Tensor], rows: torch.Tensor) -> torch.Tensor:
        return torch.cat([given["a"], rows], 0).reshape(-1, 2)[: given["a"].shape[0] // 2 + 1]


def _write_torch(folder: Path) -> None:
    net, pixels = Net().eval(), torch.zeros(2, 1, 6, 8)
    batch = torch.export.Dim("batch", min=1, max=64)
    torch.export.save(torch.export.export(net, (pixels,), dynamic_shapes=({0: batch},)), folder / "net.pt2")
    rows = {0: torch.export.Dim.AUTO}
    program = torch.export.export(
        Shapes(), ({"a": torch.zeros(6, 4)}, torch.zeros(3, 4)), dynamic_shapes=({"a": rows}, rows)
    )
    torch.export.save(program, folder / "shapes.pt2")
    torch.save(net.state_dict(), folder / "state.pt")
    torch.save(net.state_dict(), folder / "legacy.pt", _use_new_zipfile_serialization=False)
    optimizer = torch.optim.Adam(net.parameters())
    torch.save({"state_dict": net.state_dict(), "optimizer": optimizer.state_dict()}, folder / "checkpoint.pth")
    torch.save(net, folder / "module.pt")
    torch.save(net, folder / "module_legacy.pt", _use_new_zipfile_serialization=False)
    torch.jit.save(torch.jit.trace(net, pixels), folder / "script.pt")  # type: ignore[no-untyped-call]


def _write_onnx(folder: Path) -> None:
    helper = onnx.helper
    weights = onnx.numpy_helper.from_array(np.ones((4, 3), np.float32), "weights")
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "weights"], ["y"])],
        "net",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["N", 4])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["N", 3])],
        [weights],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    onnx.save(model, folder / "net.onnx")
    onnx.save(model, folder / "external.onnx", save_as_external_data=True, location="external.bin", size_threshold=0)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    write(Path(sys.argv[1]))
