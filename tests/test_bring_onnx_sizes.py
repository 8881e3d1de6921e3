"""A size that a file declares as -1 is any size."""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

from bring.description import Description
from bring.readers.onnx import OnnxSource


def test_a_size_of_minus_1_is_a_free_one(tmp_path: Path) -> None:
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [-1, 3, -1, -1]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "net", values[:1], values[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, tmp_path / "net.onnx")
    source = OnnxSource(tmp_path / "net.onnx", Description())
    assert [spec.shape for spec in (*source.inputs, *source.outputs)] == [(None, 3, None, None)] * 2
    rows = np.ones((2, 3, 5, 7), np.float32)
    assert source.predict({"x": rows})[0].shape == rows.shape
