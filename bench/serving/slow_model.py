"""A residual network with random weights that takes about 10 ms a picture, as an artifact.

Its last layers have few pixels and many weights, so that two pictures in one batch cost less than two calls.
"""

import statistics
import time
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from bench.serving.calls import Model
from contract.behaviour import read_behaviour, write_behaviour
from contract.manifest import MANIFEST, Manifest, TensorSpec, sha256_of, sha256_of_files, write_manifest
from verify.behaviour import ROWS, observe
from verify.questions import Questions

CLASSES = 1000
STAGES = ((64, 2), (128, 2), (256, 2), (512, 2))
"""Channels and residual blocks of each stage, as in ResNet-18. The first layer and all stages but the first halve the
picture."""


def write(artifacts: Path, side: int = 64) -> Model:
    """The model in `artifacts/slow_resnet/onnx`, for pictures of this side, written if it is not there yet."""
    folder = artifacts / "slow_resnet" / "onnx"
    if not (folder / MANIFEST).exists():
        folder.mkdir(parents=True, exist_ok=True)
        onnx.save(_network(side), folder / "model.onnx")
        write_manifest(folder, _manifest(folder, side))
    pictures = np.random.default_rng(0).random((ROWS, side, side, 3), np.float32)
    model = Model(folder, pictures[:1])
    if read_behaviour(folder) is None:  # without it no two requests would share a call
        questions = Questions({"pixels": pictures}, None, "noise")
        write_behaviour(folder, observe(model.runtime, model.manifest, questions, sha256_of(folder / MANIFEST)))
    return model


def seconds(model: Model) -> float:
    """The median time of a call of the bare runtime with one row."""
    inputs, times = model.tensors(1), []
    for _ in range(20):
        start = time.perf_counter()
        model.runtime.predict(inputs)
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def _manifest(folder: Path, side: int) -> Manifest:
    return Manifest(
        model=folder.parent.name,
        format="onnx",
        parent=None,
        inputs=(TensorSpec("pixels", "float32", (None, side, side, 3), "NHWC"),),
        outputs=(TensorSpec("probabilities", "float32", (None, CLASSES), "NC"),),
        image=None,
        labels=(),
        files=sha256_of_files(folder, [folder / "model.onnx"]),
    )


class _Graph:
    """Nodes and weights of a graph. Each method adds some, and returns the name of its result."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self._random = np.random.default_rng(0)

    def add(self, kind: str, *inputs: str, **attributes: object) -> str:
        name = f"{kind}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [name], **attributes))
        return name

    def weight(self, *shape: int) -> str:
        """Random weights, scaled so that values keep their size from layer to layer."""
        scale = np.sqrt(1 / np.prod(shape[1:]))
        values: NDArray[np.float32] = self._random.standard_normal(shape, np.float32) * np.float32(scale)
        name = f"weight_{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(values, name))
        return name

    def conv(self, x: str, inputs: int, outputs: int, size: int, stride: int = 1) -> str:
        weight = self.weight(outputs, inputs, size, size)
        return self.add("Conv", x, weight, strides=[stride, stride], pads=[size // 2] * 4)

    def dense(self, x: str, inputs: int, outputs: int) -> str:
        return self.add("Gemm", x, self.weight(outputs, inputs), transB=1)

    def block(self, x: str, inputs: int, outputs: int, stride: int) -> str:
        y = self.add("Relu", self.conv(x, inputs, outputs, 3, stride))
        y = self.conv(y, outputs, outputs, 3)
        straight = x if inputs == outputs else self.conv(x, inputs, outputs, 1, stride)
        return self.add("Relu", self.add("Add", y, straight))


def _network(side: int) -> onnx.ModelProto:
    graph, channels = _Graph(), STAGES[0][0]
    x = graph.add("Transpose", "pixels", perm=[0, 3, 1, 2])
    x = graph.add("Relu", graph.conv(x, 3, channels, 3, stride=2))
    for stage, (outputs, blocks) in enumerate(STAGES):
        for number in range(blocks):
            x = graph.block(x, channels, outputs, 2 if stage and not number else 1)
            channels = outputs
    x = graph.dense(graph.add("Flatten", graph.add("GlobalAveragePool", x)), channels, CLASSES)
    graph.nodes.append(helper.make_node("Softmax", [x], ["probabilities"]))
    return helper.make_model(
        helper.make_graph(
            graph.nodes,
            "network",
            [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["batch", side, side, 3])],
            [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["batch", CLASSES])],
            graph.weights,
        ),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
    )
