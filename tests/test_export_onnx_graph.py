"""What every export to ONNX changes: names of sizes, stack traces, GELU that is written out."""

import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper

from contract.code import ROOT
from contract.manifest import Manifest, TensorSpec, sha256_of_files, write_manifest
from export.onnx_graph import BATCH, name_gelu, name_sizes, name_softmax, remove_notes
from export.onnx_names import graphs_in

ROOTS = [("Div", math.sqrt(2)), ("Mul", math.sqrt(0.5))]
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
@pytest.mark.parametrize(("scaling", "factor"), ROOTS, ids=["Div", "Mul"])
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


def of_log_softmax(*more: onnx.NodeProto, outputs: str = "y") -> onnx.ModelProto:
    """Probabilities by way of their logarithms, between two other operators."""
    nodes = [
        helper.make_node("Neg", ["x"], ["negative"]),
        helper.make_node("LogSoftmax", ["negative"], ["log"], axis=1),
        helper.make_node("Exp", ["log"], ["y"]),
        *more,
    ]
    ends = {
        name: helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 5]) for name in ("x", *outputs.split())
    }
    graph = helper.make_graph(nodes, "net", [ends.pop("x")], [*ends.values()])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    return onnx.shape_inference.infer_shapes(model)


def test_probabilities_by_way_of_their_logarithms_become_one_operator(tmp_path: Path) -> None:
    model, path = of_log_softmax(), tmp_path / "model.onnx"
    onnx.save(model, path)
    before = answer(path)
    name_softmax(model)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)
    assert [node.op_type for node in model.graph.node] == ["Neg", "Softmax"]
    np.testing.assert_allclose(answer(path), before, rtol=1e-6)


@pytest.mark.parametrize(
    "model",
    [of_log_softmax(outputs="y log"), of_log_softmax(helper.make_node("Abs", ["log"], ["z"]), outputs="y z")],
    ids=["an output", "taken twice"],
)
def test_logarithms_that_something_else_takes_stay(model: onnx.ModelProto) -> None:
    before = model.SerializeToString()
    name_softmax(model)
    assert model.SerializeToString() == before


def test_a_graph_that_cannot_be_upgraded_to_another_opset_stays(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    write(path, "NoSuchOperator", 1.0, ORDERS["half last"])
    before = path.read_bytes()
    name_gelu(path)
    assert path.read_bytes() == before


# The names of sizes


class Sequences(torch.nn.Module):
    """Rows of any length: attention, and the rows twice, one behind the other."""

    def __init__(self) -> None:
        super().__init__()
        self.table = torch.nn.Embedding(20, 8)
        self.attention = torch.nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = self.table(tokens)
        mixed, _ = self.attention(x, x, x)
        return torch.cat([x, mixed], 1), mixed.mean(1)


@pytest.fixture(scope="module")
def sequences(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, torch.nn.Module]:
    """The ONNX file of a PyTorch module whose batch and length are free, and the module."""
    folder = tmp_path_factory.mktemp("sequences") / "torch"
    folder.mkdir()
    torch.manual_seed(0)
    net = Sequences().eval()
    free = {0: torch.export.Dim("rows", min=1, max=64), 1: torch.export.Dim.AUTO}
    tokens = torch.zeros(2, 16, dtype=torch.long)
    torch.export.save(torch.export.export(net, (tokens,), dynamic_shapes=(free,)), folder / "model.pt2")
    outputs = (TensorSpec("both", "float32", (None, None, 8), "NTC"), TensorSpec("mean", "float32", (None, 8), "NC"))
    manifest = Manifest(
        model="sequences",
        format="torch",
        parent=None,
        inputs=(TensorSpec("tokens", "int64", (None, None), "NT"),),
        outputs=outputs,
        image=None,
        labels=(),
        files=sha256_of_files(folder, [folder / "model.pt2"]),
    )
    write_manifest(folder, manifest)
    done = subprocess.run([sys.executable, "-m", "export", folder, "onnx"], cwd=ROOT, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder.parent / "onnx" / "model.onnx", net


def names_in(values: list[onnx.ValueInfoProto]) -> set[str]:
    return {dim.dim_param for value in values for dim in value.type.tensor_type.shape.dim if dim.dim_param}


def test_every_name_of_a_size_is_one_that_an_input_has(sequences: tuple[Path, torch.nn.Module]) -> None:
    graph = onnx.load(sequences[0]).graph
    declared = names_in(list(graph.input))
    assert len(declared) == 2 and BATCH in declared
    assert names_in([*graph.value_info, *graph.output]) <= declared
    assert [dim.dim_param for value in graph.output for dim in value.type.tensor_type.shape.dim[:1]] == [BATCH, BATCH]


@pytest.mark.parametrize(("rows", "length"), [(1, 1), (3, 7), (5, 40)])
def test_the_answers_at_any_size_stay_the_frameworks(
    sequences: tuple[Path, torch.nn.Module], rows: int, length: int
) -> None:
    path, net = sequences
    tokens = np.random.default_rng(rows).integers(0, 20, (rows, length))
    answers = onnxruntime.InferenceSession(path).run(None, {"tokens": tokens})
    with torch.inference_mode():
        expected = net(torch.from_numpy(tokens))
    for answer, tensor in zip(answers, expected, strict=True):
        np.testing.assert_allclose(answer, tensor.numpy(), atol=1e-6)


def sized(inner: list[int | str], entry: list[int | str], leaving: list[int | str]) -> onnx.ModelProto:
    """x -> a -> y, each with these sizes; the graph of an If has the inner ones, too."""
    infos = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, sizes)
        for name, sizes in (("x", entry), ("a", inner), ("y", leaving), ("b", inner))
    ]
    branch = helper.make_graph([helper.make_node("Identity", ["a"], ["b"])], "branch", [], infos[3:])
    nodes = [
        helper.make_node("Abs", ["x"], ["a"]),
        helper.make_node("If", ["yes"], ["y"], then_branch=branch, else_branch=branch),
    ]
    yes = helper.make_tensor("yes", TensorProto.BOOL, [], [True])
    graph = helper.make_graph(nodes, "net", infos[:1], infos[2:3], [yes], value_info=infos[1:2])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


@pytest.mark.parametrize(
    ("entry", "inner", "expected"),
    [
        (["N", 4], ["N", 4], [BATCH, 4]),
        (["s81", "s7"], ["s81", "s7"], [BATCH, "s7"]),
        (["s81", "s7"], ["s81", "2*s7"], [BATCH, None]),
        (["N", "N"], ["N", "N"], [BATCH, BATCH]),
        (["time", BATCH], ["time", BATCH], [BATCH, f"not_the_{BATCH}"]),
        ([BATCH, "time"], [BATCH, "u0"], [BATCH, None]),
    ],
)
def test_a_size_has_its_inputs_name_inside_and_at_the_end(
    entry: list[int | str], inner: list[int | str], expected: list[int | str | None]
) -> None:
    model = sized(inner, entry, inner)
    name_sizes(model, {"x": 0})
    branch = model.graph.node[1].attribute[0].g
    for value in (*model.graph.value_info, *model.graph.output, *branch.output):
        dims = value.type.tensor_type.shape.dim
        assert [dim.dim_param or dim.dim_value or None for dim in dims] == expected
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param == BATCH


def test_a_fixed_batch_stays_and_unknown_names_go() -> None:
    model = sized([1, "s9"], [1, "s7"], [1, "s7"])
    name_sizes(model, {})
    assert [dim.dim_param or dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim] == [1, "s7"]
    assert names_in([*model.graph.value_info, *model.graph.output]) == {"s7"}


def test_what_an_exporter_notes_about_the_makers_code_goes_and_other_notes_stay() -> None:
    model = sized(["N"], ["N"], ["N"])
    for graph in graphs_in(model):
        for node in graph.node:
            node.doc_string = "/home/maker/net.py(12): forward"
        for part in (graph, *graph.node, *graph.output, *graph.initializer):
            part.metadata_props.add(key="pkg.torch.onnx.stack_trace", value="/home/maker/net.py")
            part.metadata_props.add(key="licence", value="Apache-2.0")
    before = model.SerializeToString().count(b"licence")
    remove_notes(model)
    assert b"/home/maker" not in model.SerializeToString()
    assert model.SerializeToString().count(b"licence") == before > 4
