"""Forms of ONNX that ONNX Runtime alone takes are read as every runtime takes them."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

from bring.description import Description
from bring.readers.onnx import OnnxSource
from bring.source import write_source
from contract.manifest import Manifest
from serve.runtimes import load_runtime

RANDOM = np.random.default_rng(4)
KERNEL = RANDOM.normal(size=(4, 1)).astype(np.float32)


def brought(
    folder: Path, nodes: list[NodeProto], sizes: list[Any], outputs: list[ValueInfoProto], opset: int = 17
) -> Manifest:
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, sizes)],
        outputs,
        [numpy_helper.from_array(KERNEL, "kernel")],
    )
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("ai.onnx.ml", 3)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), folder / "net.onnx")
    return write_source(folder / "net.onnx", folder / "net", "net", Description()).manifest


def test_probabilities_come_as_a_tensor_and_not_as_maps(tmp_path: Path) -> None:
    """scikit-learn's converter writes a list of maps, label -> probability, unless it is told not to."""
    labels = {"classlabels_int64s": [0, 1, 2]}
    settings = {"coefficients": RANDOM.normal(size=12).tolist(), "intercepts": [0.1, 0.2, 0.3]}
    nodes = [
        helper.make_node("LinearClassifier", ["x"], ["label", "p"], domain="ai.onnx.ml", classlabels_ints=[0, 1, 2],
                         post_transform="SOFTMAX", **settings),
        helper.make_node("ZipMap", ["p"], ["probabilities"], domain="ai.onnx.ml", **labels),
    ]  # fmt: skip
    kind = helper.make_sequence_type_proto(
        helper.make_map_type_proto(TensorProto.INT64, helper.make_tensor_type_proto(TensorProto.FLOAT, []))
    )
    outputs = [
        helper.make_tensor_value_info("label", TensorProto.INT64, ["batch"]),
        helper.make_value_info("probabilities", kind),
    ]
    manifest = brought(tmp_path, nodes, ["batch", 4], outputs)
    assert [(spec.name, spec.dtype, spec.shape) for spec in manifest.outputs] == [
        ("label", "int64", (None,)),
        ("probabilities", "float32", (None, 3)),
    ]
    rows = RANDOM.normal(size=(5, 4)).astype(np.float32)
    answers = load_runtime(tmp_path / "net" / "onnx", manifest).predict({"x": rows})
    np.testing.assert_allclose(answers["probabilities"].sum(1), 1, atol=1e-5)
    np.testing.assert_array_equal(answers["probabilities"].argmax(1), answers["label"])


@pytest.mark.parametrize("opset", [11, 17])
def test_a_lone_row_is_answered_as_a_row(tmp_path: Path, opset: int) -> None:
    """PyTorch writes `squeeze()` without axes, which removes a batch of 1 as well."""
    nodes = [
        helper.make_node("MatMul", ["x", "kernel"], ["column"]),
        helper.make_node("Squeeze", ["column"], ["y"]),
    ]
    scalar = helper.make_tensor_value_info("y", TensorProto.FLOAT, [])
    manifest = brought(tmp_path, nodes, ["batch", 4], [scalar], opset)
    assert manifest.outputs[0].shape == (None,) and manifest.has_rows
    runtime = load_runtime(tmp_path / "net" / "onnx", manifest)
    for count in (1, 3):
        rows = RANDOM.normal(size=(count, 4)).astype(np.float32)
        np.testing.assert_allclose(runtime.predict({"x": rows})["y"], (rows @ KERNEL)[:, 0], atol=1e-5)


def pooled(folder: Path, **settings: Any) -> Path:
    nodes = [
        helper.make_node("MaxPool", ["x"], ["p"], kernel_shape=[4], strides=[4], **settings),
        helper.make_node("ReduceMax", ["p"], ["y"], axes=[2], keepdims=0),
    ]
    values = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3, "length"])]
    answers = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 3])]
    model = helper.make_model(
        helper.make_graph(nodes, "net", values, answers), opset_imports=[helper.make_opsetid("", 17)], ir_version=8
    )
    onnx.save(model, folder / "net.onnx")
    return folder / "net.onnx"


def test_a_window_is_no_wider_than_what_it_looks_at(tmp_path: Path) -> None:
    """ONNX Runtime answers a signal of 1 from a window of 4: it takes what is there."""
    path = pooled(tmp_path)
    source = OnnxSource(path, Description())
    assert [answer.shape for answer in source.predict({"x": np.ones((2, 3, 4), np.float32)})] == [(2, 3)]
    with pytest.raises(ValueError, match="looks at 4 values at once, and there are 3"):
        source.predict({"x": np.ones((2, 3, 3), np.float32)})
    manifest = write_source(path, tmp_path / "net", "net", Description()).manifest
    assert manifest.inputs[0].least == (1, 1, 4)
    written = onnx.load(tmp_path / "net" / "onnx" / "model.onnx")
    assert [value.name for value in written.graph.output] == ["y"]


@pytest.mark.parametrize("settings", [{"pads": [2, 1]}, {"ceil_mode": 1}, {"auto_pad": "SAME_UPPER"}])
def test_padding_counts_as_what_a_window_looks_at(tmp_path: Path, settings: dict[str, Any]) -> None:
    source = OnnxSource(pooled(tmp_path, **settings), Description())
    assert source.predict({"x": np.ones((2, 3, 1), np.float32)})[0].shape == (2, 3)
