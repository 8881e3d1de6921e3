"""GELU that is written out becomes one node before onnx2tf reads the graph."""

import math
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from export.onnx_graph import name_gelu

ROOT = [("Div", math.sqrt(2)), ("Mul", math.sqrt(0.5))]
ORDERS = {
    "half last": [("Mul", ["x", "sum"], "all"), ("Mul", ["all", "half"], "y")],
    "half of the sum": [("Mul", ["half", "sum"], "part"), ("Mul", ["x", "part"], "y")],
    "half of x": [("Mul", ["x", "half"], "part"), ("Mul", ["sum", "part"], "y")],
}


def write(path: Path, scaling: str, factor: float, rest: list[tuple[str, list[str], str]], opset: int = 17) -> None:
    nodes = [
        (scaling, ["x", "factor"], "scaled"),
        ("Erf", ["scaled"], "erf"),
        ("Add", ["one", "erf"], "sum"),
        *rest,
    ]
    row = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 5]) for name in "xy"]
    constants = {"factor": factor, "one": 1.0, "half": 0.5}
    graph = helper.make_graph(
        [helper.make_node(operator, inputs, [output]) for operator, inputs, output in nodes],
        "gelu",
        row[:1],
        row[1:],
        [helper.make_tensor(name, TensorProto.FLOAT, [], [value]) for name, value in constants.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10), path)


def answer(path: Path) -> np.ndarray:
    rows = np.linspace(-4, 4, 10, dtype=np.float32).reshape(2, 5)
    return np.asarray(onnxruntime.InferenceSession(path).run(None, {"x": rows})[0])


@pytest.mark.parametrize("order", ORDERS.values(), ids=list(ORDERS))
@pytest.mark.parametrize(("scaling", "factor"), ROOT, ids=["Div", "Mul"])
def test_gelu_written_out_becomes_one_node(
    tmp_path: Path, scaling: str, factor: float, order: list[tuple[str, list[str], str]]
) -> None:
    path = tmp_path / "model.onnx"
    write(path, scaling, factor, order)
    before = answer(path)
    name_gelu(path)
    assert [node.op_type for node in onnx.load(path).graph.node] == ["Gelu"]
    np.testing.assert_allclose(answer(path), before, atol=1e-6)


def test_what_only_looks_like_gelu_stays(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    write(path, "Div", 2.0, ORDERS["half last"])
    before = answer(path)
    name_gelu(path)
    assert "Erf" in [node.op_type for node in onnx.load(path).graph.node]
    np.testing.assert_array_equal(answer(path), before)


def test_a_graph_that_cannot_be_upgraded_to_another_opset_stays(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    write(path, "NoSuchOperator", 1.0, ORDERS["half last"])
    before = path.read_bytes()
    name_gelu(path)
    assert path.read_bytes() == before
