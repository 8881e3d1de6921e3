"""Artifacts of small models such as users bring: with other inputs than a grey picture, and failed conversions."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from contract.failed_edge import FailedEdge, FailedRoute, write_failed_edge
from contract.manifest import ImageSpec, Manifest, TensorSpec, sha256_of_files, write_manifest

PHOTO = ImageSpec(height=20, width=28, channels=3, fit="stretch")
CLASSES = 30
LOG = "Converting …\nERROR: GridSample is not supported <script>alert(1)</script>\n"

FAILED = FailedEdge(
    model="pair",
    format="onnx-int8",
    parent="onnx",
    reason="The operator GridSample has no int8 kernel.",
    cause="Integers are known for convolutions and matrix products alone.",
    advice="Leave GridSample out, or ship float16.",
    routes=(FailedRoute("static", "ValueError: GridSample"), FailedRoute("dynamic", "it is not installed")),
)


def write_brought(artifacts: Path) -> None:
    """Every kind of model that the page treats differently; `pair` in four formats, the others in one."""
    write_pair(artifacts / "pair")
    write_photo(artifacts / "photo" / "onnx", "probabilities")
    write_photo(artifacts / "features" / "onnx", "features")
    write_sequence(artifacts / "sequence" / "onnx")
    write_failed_edge(artifacts, FAILED, LOG)
    (artifacts / "photo" / "failed").mkdir()
    (artifacts / "photo" / "failed" / "tfjs.json").write_text('{"schema": 1, "model":')


def write_pair(model: Path) -> None:
    """Two inputs and two outputs, of two dtypes: an ONNX graph, a SavedModel that does the same, its two exports."""
    from onnx import helper, numpy_helper

    kernel = np.array([[0.5, -1.0], [0.25, 2.0], [-0.75, 0.125], [1.5, 0.1]], np.float32)
    nodes = [
        helper.make_node("MatMul", ["left", "kernel"], ["logits"]),
        helper.make_node("Sigmoid", ["logits"], ["scores"]),
        helper.make_node("Add", ["ids", "ids"], ["doubled"]),
    ]
    inputs = (TensorSpec("left", "float32", (None, 4), "NC"), TensorSpec("ids", "int32", (None, 3), "NC"))
    outputs = (TensorSpec("scores", "float32", (None, 2), "NC"), TensorSpec("doubled", "int32", (None, 3), "NC"))
    write_onnx(model / "onnx", nodes, [numpy_helper.from_array(kernel, "kernel")], inputs, outputs, None)
    done = subprocess.run([sys.executable, "-c", WRITE_PAIR, model], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


WRITE_PAIR = """
import sys
from dataclasses import replace
from pathlib import Path
import onnx
import tensorflow as tf
from contract.manifest import read_manifest, sha256_of_files, write_manifest
from export import export_artifact
from export.signatures import save

model = Path(sys.argv[1])
source, folder = read_manifest(model / "onnx"), model / "savedmodel"
folder.mkdir()
kernel = tf.Variable(onnx.numpy_helper.to_array(onnx.load(model / "onnx" / "model.onnx").graph.initializer[0]))
save(lambda left, ids: (tf.sigmoid(left @ kernel), ids + ids), [kernel], source, folder)
files = sha256_of_files(folder, [path for path in folder.rglob("*") if path.is_file()])
write_manifest(folder, replace(source, format="savedmodel", parent="onnx", files=files))
for format in ("tflite", "tfjs"):
    export_artifact(folder, format)
"""


def write_photo(folder: Path, output: str) -> None:
    """A classifier of colour pictures without labels; if the output is not `probabilities`, it is not a classifier."""
    from onnx import helper, numpy_helper

    random = np.random.default_rng(5)
    kernel = random.normal(0, 0.0002, (int(np.prod(PHOTO.shape)), CLASSES)).astype(np.float32)
    nodes = [
        helper.make_node("Flatten", ["pixels"], ["flat"], axis=1),
        helper.make_node("MatMul", ["flat", "kernel"], ["logits"]),
        helper.make_node("Softmax", ["logits"], [output], axis=1),
    ]
    inputs = (TensorSpec("pixels", "float32", (None, *PHOTO.shape), "NHWC"),)
    outputs = (TensorSpec(output, "float32", (None, CLASSES), "NC"),)
    write_onnx(folder, nodes, [numpy_helper.from_array(kernel, "kernel")], inputs, outputs, PHOTO)


def write_sequence(folder: Path) -> None:
    """One row of any length at a time: integers below 12 -> the mean of their rows in a table."""
    from onnx import helper, numpy_helper

    table = np.arange(24, dtype=np.float32).reshape(12, 2)
    nodes = [
        helper.make_node("Gather", ["table", "tokens"], ["rows"]),
        helper.make_node("ReduceMean", ["rows", "axis"], ["mean"], keepdims=0),
    ]
    weights = [numpy_helper.from_array(table, "table"), numpy_helper.from_array(np.array([1]), "axis")]
    inputs = (TensorSpec("tokens", "int64", (1, None), "NT"),)
    write_onnx(folder, nodes, weights, inputs, (TensorSpec("mean", "float32", (1, 2), "NC"),), None)


def write_onnx(
    folder: Path,
    nodes: list[Any],
    weights: list[Any],
    inputs: tuple[TensorSpec, ...],
    outputs: tuple[TensorSpec, ...],
    image: ImageSpec | None,
) -> None:
    import onnx
    from onnx import helper

    codes = {kind: helper.np_dtype_to_tensor_dtype(np.dtype(kind)) for kind in ("float32", "int32", "int64")}
    ends = [
        [
            helper.make_tensor_value_info(
                spec.name,
                codes[spec.dtype],
                [f"size{axis}" if size is None else size for axis, size in enumerate(spec.shape)],
            )
            for spec in specs
        ]
        for specs in (inputs, outputs)
    ]
    folder.mkdir(parents=True)
    graph = helper.make_graph(nodes, "brought", *ends, initializer=weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.save(model, folder / "model.onnx")
    files = sha256_of_files(folder, [folder / "model.onnx"])
    write_manifest(
        folder,
        Manifest(
            folder.parent.name, folder.name, None, inputs=inputs, outputs=outputs, image=image, labels=(), files=files
        ),
    )


def tfjs_that_answers_a_weight() -> dict[str, bytes]:
    """The files of a TF.js graph of `x`, float32 (N, 4): `negative` is -x, and `constant` is a weight, [1, 2, 3]."""
    real = {"type": "DT_FLOAT"}
    rows, three = ({"dim": [{"size": size} for size in sizes]} for sizes in (("-1", "4"), ("3",)))
    nodes = [
        {"name": "constant", "op": "Const", "attr": {"dtype": real}},
        {"name": "x", "op": "Placeholder", "attr": {"dtype": real, "shape": {"shape": rows}}},
        {"name": "negative", "op": "Neg", "input": ["x"], "attr": {"T": real}},
    ]
    inputs, outputs = (
        {name: {"name": f"{name}:0", "dtype": "DT_FLOAT", "tensorShape": shape} for name, shape in tensors.items()}
        for tensors in ({"x": rows}, {"negative": rows, "constant": three})
    )
    content = {
        "format": "graph-model",
        "signature": {"inputs": inputs, "outputs": outputs},
        "modelTopology": {"node": nodes, "library": {}, "versions": {}},
        "weightsManifest": [
            {"paths": ["shard.bin"], "weights": [{"name": "constant", "shape": [3], "dtype": "float32"}]}
        ],
    }
    return {"model.json": json.dumps(content).encode(), "shard.bin": np.array([1, 2, 3], np.float32).tobytes()}
