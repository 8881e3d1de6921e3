"""ONNX files with odd names, weights among the inputs, and outputs that are declared wrongly; programs with dicts."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import NodeProto, TensorProto, helper, numpy_helper

from bring.description import Description
from bring.source import QUANTISED, write_source
from contract.manifest import Manifest
from serve.runtimes import load_runtime

RANDOM = np.random.default_rng(9)
KERNEL = RANDOM.normal(size=(4, 3)).astype(np.float32)
FLOAT = TensorProto.FLOAT


def write(
    path: Path, nodes: list[NodeProto], names: tuple[str, str], shape: list[Any] | None, version: int = 8
) -> Path:
    """A graph with the weights KERNEL, called "the kernel", which version 3 has among its inputs."""
    entry = helper.make_tensor_value_info(names[0], FLOAT, ["batch", 4])
    kernel = helper.make_tensor_value_info("the kernel", FLOAT, KERNEL.shape)
    graph = helper.make_graph(
        nodes,
        "net",
        [entry, *([kernel] if version < 4 else [])],
        [helper.make_tensor_value_info(names[1], FLOAT, shape)],
        [numpy_helper.from_array(KERNEL, "the kernel")],
    )
    opset = helper.make_opsetid("", 17 if version > 3 else 9)
    onnx.save(helper.make_model(graph, opset_imports=[opset], ir_version=version), path)
    return path


def answers_of(path: Path, folder: Path, inputs: dict[str, Any]) -> tuple[Manifest, dict[str, Any]]:
    manifest = write_source(path, folder / "net", "net", Description()).manifest
    return manifest, dict(load_runtime(folder / "net" / manifest.format, manifest).predict(inputs))


@pytest.mark.parametrize("version", [3, 8])
def test_names_are_cleaned(tmp_path: Path, version: int) -> None:
    """Two that would be equal stay two; one that is clean already keeps its name."""
    nodes = [
        helper.make_node("MatMul", ["in put.0", "the kernel"], ["a:b"], name="Mat Mul@0"),
        helper.make_node("Tanh", ["a:b"], ["a_b"], name="Tanh:1"),
        helper.make_node("Relu", ["a_b"], ["scope/out.0"], name="last one"),
    ]
    path = write(tmp_path / "net.onnx", nodes, ("in put.0", "scope/out.0"), ["batch", 3], version)
    rows = RANDOM.normal(size=(5, 4)).astype(np.float32)
    manifest, answers = answers_of(path, tmp_path, {"in_put_0": rows})
    assert ([spec.name for spec in manifest.inputs], [*answers]) == (["in_put_0"], ["scope_out_0"])
    np.testing.assert_allclose(answers["scope_out_0"], np.maximum(np.tanh(rows @ KERNEL), 0), atol=1e-5)
    written = onnx.load(tmp_path / "net" / "onnx" / "model.onnx")
    assert [value.name for value in written.graph.input] == ["in_put_0"]
    assert [node.name for node in written.graph.node] == ["Mat_Mul_0", "Tanh_1", "last_one"]
    assert [node.output[0] for node in written.graph.node[:2]] == ["a_b_1", "a_b"]
    assert written.ir_version >= 4


def test_names_in_branches_are_those_outside(tmp_path: Path) -> None:
    """Both branches of an If read a tensor of the graph around them."""
    branches = []
    for name, operator in (("then", "Relu"), ("else", "Neg")):
        out = helper.make_tensor_value_info(f"{name} y", FLOAT, ["batch", 3])
        branches.append(helper.make_graph([helper.make_node(operator, ["a b"], [f"{name} y"])], name, [], [out]))
    nodes = [
        helper.make_node("MatMul", ["x", "the kernel"], ["a b"]),
        helper.make_node("ReduceSum", ["x"], ["sum all"], keepdims=0),
        helper.make_node("Greater", ["sum all", "zero"], ["is it?"]),
        helper.make_node("If", ["is it?"], ["y"], then_branch=branches[0], else_branch=branches[1]),
    ]
    constant = helper.make_node("Constant", [], ["zero"], value=numpy_helper.from_array(np.float32(0)))
    path = write(tmp_path / "net.onnx", [constant, *nodes], ("x", "y"), ["batch", 3])
    rows = RANDOM.normal(size=(1, 4)).astype(np.float32)
    for sign in (1, -1):
        _, answers = answers_of(path, tmp_path / str(sign), {"x": sign * np.abs(rows)})
        product = sign * np.abs(rows) @ KERNEL
        np.testing.assert_allclose(answers["y"], np.maximum(product, 0) if sign > 0 else -product, atol=1e-5)


@pytest.mark.parametrize("declared", [["batch", 3, 1, 1], [1, 7], None])
def test_an_output_that_is_declared_wrongly_is_corrected_and_told(tmp_path: Path, declared: list[Any] | None) -> None:
    nodes = [helper.make_node("MatMul", ["x", "the kernel"], ["y"])]
    path = write(tmp_path / "net.onnx", nodes, ("x", "y"), declared)
    rows = RANDOM.normal(size=(5, 4)).astype(np.float32)
    manifest, answers = answers_of(path, tmp_path, {"x": rows})
    np.testing.assert_allclose(answers["y"], rows @ KERNEL, atol=1e-5)
    assert manifest.outputs[0].shape == (None, 3)
    if declared:
        (note,) = manifest.made_with["notes"]
        assert "of its output y, which is ['any', 3]: corrected" in note
    dims = onnx.load(tmp_path / "net" / "onnx" / "model.onnx").graph.output[0].type.tensor_type.shape.dim
    assert [dim.dim_param or dim.dim_value for dim in dims] == ["batch", 3]


def test_a_program_takes_a_dict_as_its_tensors(tmp_path: Path) -> None:
    class Net(torch.nn.Module):
        def forward(self, both: dict[str, torch.Tensor], factor: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"sum": both["b"] + both["a"] * factor, "a": both["a"]}

    batch = torch.export.Dim("batch", min=1, max=64)
    rows = {"a": torch.ones(2, 3), "b": torch.ones(2, 3)}
    free = {0: batch}
    program = torch.export.export(Net(), (rows, torch.ones(2, 1)), dynamic_shapes=({"a": free, "b": free}, free))
    torch.export.save(program, tmp_path / "net.pt2")
    values = {name: RANDOM.normal(size=(4, size)).astype(np.float32) for name, size in (("a", 3), ("b", 3), ("f", 1))}
    manifest = write_source(tmp_path / "net.pt2", tmp_path / "net", "net", Description()).manifest
    inputs = dict(zip((spec.name for spec in manifest.inputs), values.values(), strict=True))
    answers = load_runtime(tmp_path / "net" / "torch", manifest).predict(inputs)
    np.testing.assert_allclose(answers["output_0"], values["b"] + values["a"] * values["f"], atol=1e-6)


@pytest.mark.parametrize("rounds", [True, False], ids=["activations", "weights alone"])
def test_a_graph_that_rounds_between_its_layers_is_said_to_be_quantised(tmp_path: Path, rounds: bool) -> None:
    constants = {
        "s": np.array(0.1, np.float32), "z": np.array(0, np.int8),
        "w": np.random.default_rng(0).integers(-9, 9, (4, 3), np.int8),
    }  # fmt: skip
    nodes = [helper.make_node("DequantizeLinear", ["w", "s", "z"], ["weights"])]
    if rounds:
        nodes += [
            helper.make_node("QuantizeLinear", ["x", "s", "z"], ["whole"]),
            helper.make_node("DequantizeLinear", ["whole", "s", "z"], ["fractions"]),
        ]
    nodes.append(helper.make_node("MatMul", ["fractions" if rounds else "x", "weights"], ["y"]))
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 3])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "net.onnx"
    )
    source = write_source(tmp_path / "net.onnx", tmp_path / "made", "net", Description()).manifest
    assert source.is_quantised == rounds
    assert [note for note in source.made_with["notes"] if note.startswith("It is quantised")] == [QUANTISED][:rounds]
