"""Padding with zeros before a MaxPool, where the zeros are the maximum: ONNX Runtime would lose them."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from bring.description import Description, parse_preprocess
from bring.readers.onnx import OnnxSource
from bring.wrapping import plan
from export.onnx_padding import keep_zeros_before_pooling

PADS = [0, 0, 1, 1, 0, 0, 1, 1]
NEGATIVE = -np.arange(1, 17).reshape(1, 1, 4, 4)
DTYPES = {"float16": TensorProto.FLOAT16, "float32": TensorProto.FLOAT, "float64": TensorProto.DOUBLE}


def padded_pool(dtype: str, opset: int, given: str, mode: str = "constant", value: float = 0) -> onnx.ModelProto:
    """The maximum of each 3x3 window of a padded 4x4; `given` is where the graph states the padding's value."""
    constants, nodes = [], []
    if opset < 11:
        attributes = {"value": float(value)} if given == "attribute" else {}
        nodes.append(helper.make_node("Pad", ["x"], ["padded"], pads=PADS, mode=mode, **attributes))
    else:
        constants.append(numpy_helper.from_array(np.array(PADS, np.int64), "pads"))
        tensor = numpy_helper.from_array(np.array(value, dtype), "value")
        if given == "constant":
            nodes.append(helper.make_node("Constant", [], ["value"], value=tensor))
        elif given == "initializer":
            constants.append(tensor)
        inputs = ["x", "pads"] if given == "default" else ["x", "pads", "value"]
        nodes.append(helper.make_node("Pad", inputs, ["padded"], mode=mode))
    nodes.append(helper.make_node("MaxPool", ["padded"], ["y"], kernel_shape=[3, 3], strides=[2, 2]))
    kind = DTYPES[dtype]
    entry = helper.make_tensor_value_info("x", kind, ["batch", 1, 4, 4])
    output = helper.make_tensor_value_info("y", kind, ["batch", 1, 2, 2])
    graph = helper.make_graph(nodes, "net", [entry], [output], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def answer(model: onnx.ModelProto, dtype: str, optimized: bool = True) -> Any:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    if not optimized:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, {"x": NEGATIVE.astype(dtype)})[0]


WAYS = [
    *((opset, given) for opset in (9, 10) for given in ("default", "attribute")),
    *((opset, given) for opset in (11, 13, 18, 21) for given in ("default", "initializer", "constant")),
]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("opset", "given"), WAYS)
def test_zeros_around_negative_numbers_stay_the_largest(dtype: str, opset: int, given: str) -> None:
    model = padded_pool(dtype, opset, given)
    expected = answer(model, dtype, optimized=False)
    assert expected.max() == 0
    keep_zeros_before_pooling(model)
    onnx.checker.check_model(model, full_check=True)
    assert np.abs(answer(model, dtype) - expected).max() < 1e-7


@pytest.mark.parametrize(("mode", "value"), [("reflect", 0), ("edge", 0), ("constant", -1.5)])
def test_other_padding_is_left_as_it_is(mode: str, value: float) -> None:
    model = padded_pool("float32", 18, "initializer", mode, value)
    before = model.SerializeToString()
    keep_zeros_before_pooling(model)
    assert model.SerializeToString() == before
    assert (answer(model, "float32") == answer(model, "float32", optimized=False)).all()


def test_a_users_graph_is_served_with_its_zeros(tmp_path: Path) -> None:
    model = padded_pool("float32", 17, "default")
    onnx.save(model, tmp_path / "net.onnx")
    expected = answer(model, "float32", optimized=False)
    brought = OnnxSource(tmp_path / "net.onnx", Description())
    (direct,) = brought.predict({"x": NEGATIVE.astype(np.float32)})
    assert np.abs(direct - expected).max() < 1e-7
    around = plan(brought, Description(preprocess=parse_preprocess("none")), "net.onnx")
    (written,) = brought.write(tmp_path, around)
    session = onnxruntime.InferenceSession(written, providers=["CPUExecutionProvider"])
    (shipped,) = session.run(None, {around.inputs[0].name: NEGATIVE.reshape(1, 4, 4, 1).astype(np.float32)})
    assert np.abs(shipped - expected).max() < 1e-7
