"""Every tensor of a brought model has a name of its own, whatever its file calls it, and keeps its own values."""

import json
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import onnx
import pytest
import tensorflow as tf
import tf_keras
import torch
from onnx import NodeProto, TensorProto, helper, numpy_helper
from torch import nn

from bring import names
from bring.description import Description, describe, parse_preprocess
from bring.source import READERS, write_source
from contract.code import ROOT
from contract.errors import BroughtError
from contract.manifest import Manifest, TensorSpec, read_manifest
from contract.parity_result import VERIFIED, read_status
from export import tflite_file
from export.onnx_names import call_ends
from serve.runtimes import load_runtime
from tests.test_bring_keras2 import write_layers

pytestmark = [
    pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*TorchScript.*|.*torch.jit.*:DeprecationWarning"),
]

KERNEL = np.linspace(-1, 1, 12, dtype=np.float32).reshape(4, 3)
ROWS = np.random.default_rng(8).normal(size=(5, 4)).astype(np.float32)
OTHERS = np.random.default_rng(9).normal(size=(5, 4)).astype(np.float32)
PRODUCT = ROWS @ KERNEL

Expected = Mapping[str, np.ndarray[Any, Any]]


# The rule


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["x", "head", "head"], ["x", "head", "head_1"]),
        (["a", "a", "a_1"], ["a", "a_2", "a_1"]),
        (["a b", "a_b", "a.b"], ["a_b_1", "a_b", "a_b_2"]),
        (["x", "x"], ["x", "x_1"]),
        (["x:0", "y:1"], ["x", "y_1"]),
        (["1", "_x", "é", ""], ["tensor_1", "tensor_x", "tensor", "tensor_2"]),
        (["class", "self", "class_"], ["class__1", "self_", "class_"]),
    ],
)
def test_each_tensor_gets_a_name_that_every_format_takes(given: list[str], expected: list[str]) -> None:
    got = names.unique(given)
    assert got == expected
    assert len(set(got)) == len(given)
    assert all(names.clean(name) == name for name in got)


def test_a_person_is_told_which_names_are_others() -> None:
    entry, first, second = (TensorSpec(name, "float32", (None, 3), "ND") for name in ("in.put:0", "head", "head"))
    inputs, outputs, renamed = names.own([entry], [first, second])
    assert [spec.name for spec in (*inputs, *outputs)] == ["in_put", "head", "head_1"]
    assert renamed == "Tensors have other names than in the file: 'head' is head_1."
    assert names.own([entry], [first]).renamed == ""
    assert names.changes(["1"] * 9, [f"tensor_{number}" for number in range(9)]).endswith(", and 3 more.")


def test_no_manifest_has_two_tensors_of_one_name() -> None:
    entry, output = (TensorSpec(name, "float32", (None, 3), "ND") for name in ("x", "y"))
    with pytest.raises(ValueError, match="two outputs have one name, of y, y"):
        Manifest("net", "onnx", None, (entry,), (output, output), None, ())
    with pytest.raises(ValueError, match="two inputs have one name, of x, x"):
        Manifest("net", "onnx", None, (entry, entry), (output,), None, ())


# Every kind of file: what it calls its tensors, and what each of them is


def keras_model(folder: Path) -> tuple[Path, Expected]:
    """One head twice, an answer that is the input, and two layers of one name but for a character."""
    folder.mkdir()
    entry, other = keras.Input((4,), name="x"), keras.Input((4,), name="other")
    head = keras.layers.Dense(3, use_bias=False, name="head")
    first, second = head(entry), head(other)
    doubled = [keras.layers.Rescaling(factor, name=name)(first) for factor, name in ((2, "a-b"), (3, "a.b"))]
    model = keras.Model([entry, other], [first, second, entry, first, *doubled])
    head.set_weights([KERNEL])
    model.save(folder / "net.keras")
    last = OTHERS @ KERNEL
    heads = {"head": PRODUCT, "head_1": last, "x_1": ROWS, "head_2": PRODUCT}
    return folder / "net.keras", heads | {"a_b": 2 * PRODUCT, "a_b_1": 3 * PRODUCT}


def keras2_model(folder: Path) -> tuple[Path, Expected]:
    entry = tf_keras.Input((4,), name="x")
    head = tf_keras.layers.Dense(3, use_bias=False, name="head")
    first, second = head(entry), head(tf.nn.relu(entry))  # which Keras 3 does not read
    model = tf_keras.Model(entry, [first, second, first])
    head.set_weights([KERNEL])
    folder.mkdir()
    model.save(folder / "net.h5")
    return folder / "net.h5", {"head": PRODUCT, "head_1": np.maximum(ROWS, 0) @ KERNEL, "head_2": PRODUCT}


def layers_model(folder: Path) -> tuple[Path, Expected]:
    entry = tf_keras.Input((4,), name="x")
    head = tf_keras.layers.Dense(3, use_bias=False, name="head")
    first, second = head(entry), head(tf_keras.layers.ReLU()(entry))
    model = tf_keras.Model(entry, [first, second])
    head.set_weights([KERNEL])
    return write_layers(model, folder), {"head": PRODUCT, "head_1": np.maximum(ROWS, 0) @ KERNEL}


class Signature(tf.Module):  # type: ignore[misc]
    """Its answers are called like its inputs, alike but for a character, a number, and the same tensor twice."""

    @tf.function(input_signature=[tf.TensorSpec([None, 4], name="x"), tf.TensorSpec([None, 4], name="y")])  # type: ignore[untyped-decorator]
    def answers(self, x: Any, y: Any) -> dict[str, Any]:
        product = x @ KERNEL
        return {
            "x": product,
            "a b": product + 1,
            "a_b": product + 2,
            "a.b": product + 2,
            "1": y @ KERNEL,
            "x_2": x * 3,
        }


SIGNATURE: Expected = {
    "x_1": PRODUCT,
    "a_b_1": PRODUCT + 1,
    "a_b": PRODUCT + 2,
    "a_b_2": PRODUCT + 2,
    "tensor_1": OTHERS @ KERNEL,
    "x_2": ROWS * 3,
}


def savedmodel(folder: Path) -> tuple[Path, Expected]:
    module = Signature()
    tf.saved_model.save(module, str(folder), signatures=module.answers)
    return folder, SIGNATURE


def frozen_graph(folder: Path) -> tuple[Path, Expected]:
    """Two placeholders that are alike but for a character, and an operator with two answers."""
    folder.mkdir()
    with tf.Graph().as_default() as graph:
        entries = [tf.compat.v1.placeholder(tf.float32, (None, 4), name=name) for name in ("a/b", "a_b")]
        tf.split(entries[0] @ tf.constant(KERNEL) + entries[1][:, :3], 3, axis=1, name="part")
        (folder / "net.pb").write_bytes(graph.as_graph_def().SerializeToString())
    parts = np.split(PRODUCT + OTHERS[:, :3], 3, axis=1)
    return folder / "net.pb", {"part": parts[0], "part_1": parts[1], "part_2": parts[2]}


def onnx_file(
    path: Path, nodes: Sequence[NodeProto], inputs: Mapping[str, list[Any]], outputs: Sequence[tuple[str, list[Any]]]
) -> Path:
    """A graph whose weights are `kernel`; inputs and outputs are floats of these shapes."""
    path.parent.mkdir(exist_ok=True)
    entries, exits = (
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in values]
        for values in (inputs.items(), outputs)
    )
    graph = helper.make_graph(nodes, "net", entries, exits, [numpy_helper.from_array(KERNEL, "kernel")])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


ONNX_ANSWERS: Expected = {"y": PRODUCT, "y_1": PRODUCT, "tensor_1": -PRODUCT, "class__1": ROWS}


def onnx_model(folder: Path) -> tuple[Path, Expected]:
    """An output that is listed twice, and one that is the input, which is called like a word of Python."""
    nodes = [helper.make_node("MatMul", ["class", "kernel"], ["y"]), helper.make_node("Neg", ["y"], ["1"])]
    outputs = [("y", ["batch", 3]), ("y", ["batch", 3]), ("1", ["batch", 3]), ("class", ["batch", 4])]
    return onnx_file(folder / "net.onnx", nodes, {"class": ["batch", 4]}, outputs), ONNX_ANSWERS


class Net(nn.Module):
    """Its inputs are called like an answer and like an operator of its own; one answer is given twice."""

    kernel: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("kernel", torch.tensor(KERNEL))

    def forward(self, output_0: torch.Tensor, relu: torch.Tensor) -> tuple[torch.Tensor, ...]:
        product = output_0 @ self.kernel
        return product, product, torch.relu(relu), relu


TORCH: Expected = {"output_0_1": PRODUCT, "output_1": PRODUCT, "output_2": np.maximum(OTHERS, 0), "output_3": OTHERS}


def program(folder: Path) -> tuple[Path, Expected]:
    folder.mkdir()
    batch = {0: torch.export.Dim("batch", min=1, max=64)}
    exported = torch.export.export(Net(), (torch.ones(2, 4), torch.ones(2, 4)), dynamic_shapes=(batch, batch))
    torch.export.save(exported, folder / "net.pt2")
    return folder / "net.pt2", TORCH


def script(folder: Path) -> tuple[Path, Expected]:
    folder.mkdir()
    traced: Any = torch.jit.trace(Net().eval(), (torch.ones(2, 4), torch.zeros(2, 4)))  # type: ignore[no-untyped-call]
    traced.save(folder / "net.jit")
    entries = (f'[[input]]\nname = "{name}"\nshape = [-1, 4]\n' for name in ("output_0", "relu"))
    (folder / "model.toml").write_text("".join(entries))
    return folder / "net.jit", TORCH


def weights(folder: Path) -> tuple[Path, Expected]:
    """The user calls the input as the program calls its answer."""
    folder.mkdir()
    (folder / "named_nets.py").write_text(
        "import torch\n\nclass Twice(torch.nn.Linear):\n"
        "    def __init__(self):\n        super().__init__(4, 3, False)\n\n"
        "    def forward(self, x):\n        y = super().forward(x)\n        return y, y * 2\n"
    )
    (folder / "model.toml").write_text(
        'architecture = "named_nets:Twice"\n[[input]]\nname = "output 0"\nshape = [-1, 4]'
    )
    torch.save({"weight": torch.tensor(KERNEL.T.copy())}, folder / "net.pt")
    return folder / "net.pt", {"output_0_1": PRODUCT, "output_1": 2 * PRODUCT}


def tflite(folder: Path) -> tuple[Path, Expected]:
    module = Signature()
    tf.saved_model.save(module, str(folder), signatures=module.answers)
    content = tf.lite.TFLiteConverter.from_saved_model(str(folder)).convert()
    (folder / "net.tflite").write_bytes(content)
    return folder / "net.tflite", SIGNATURE


PLAIN: Expected = {"t_2": ROWS * 3, "t_3": ROWS * 3}


def tflite_without_signatures(folder: Path) -> tuple[Path, Expected]:
    """All its tensors are called t, and it gives one answer twice."""
    path, _ = tflite(folder)
    model = tflite_file.unpacked(path.read_bytes())
    graph, model.signatureDefs = model.subgraphs[0], None
    (tripled,) = (place for place in graph.outputs if list(graph.tensors[place].shapeSignature) == [-1, 4])
    graph.inputs = np.array(sorted(graph.inputs, key=lambda place: graph.tensors[place].name), np.int32)
    graph.outputs = np.array([tripled, tripled], np.int32)
    for tensor in graph.tensors:
        tensor.name = b"t"
    path.write_bytes(tflite_file.packed(model))
    return path, PLAIN


def tfjs(folder: Path) -> tuple[Path, Expected]:
    """A graph model whose signature has a colon in its names, and one name for an input and an answer."""
    folder.mkdir()
    real = {"type": "DT_FLOAT"}
    rows, answers = ({"dim": [{"size": "-1"}, {"size": size}]} for size in ("4", "3"))
    nodes = [
        {"name": "kernel", "op": "Const", "attr": {"dtype": real}},
        {"name": "x", "op": "Placeholder", "attr": {"dtype": real, "shape": {"shape": rows}}},
        {"name": "y", "op": "MatMul", "input": ["x", "kernel"], "attr": {"T": real}},
        {"name": "z", "op": "Neg", "input": ["y"], "attr": {"T": real}},
    ]
    outputs = {
        name: {"name": f"{node}:0", "dtype": "DT_FLOAT", "tensorShape": answers}
        for name, node in (("x:0", "y"), ("y:0", "y"), ("y:1", "z"), ("y_1", "y"))
    }
    content = {
        "format": "graph-model",
        "signature": {"inputs": {"x:0": {"name": "x:0", "dtype": "DT_FLOAT", "tensorShape": rows}}, "outputs": outputs},
        "modelTopology": {"node": nodes, "library": {}, "versions": {}},
        "weightsManifest": [
            {"paths": ["shipped.bin"], "weights": [{"name": "kernel", "shape": [4, 3], "dtype": "float32"}]}
        ],
    }
    (folder / "shipped.bin").write_bytes(KERNEL.tobytes())
    (folder / "model.json").write_text(json.dumps(content))
    return folder, {"x_1": PRODUCT, "y": PRODUCT, "y_1_1": -PRODUCT, "y_1": PRODUCT}


KINDS: dict[str, Callable[[Path], tuple[Path, Expected]]] = {
    "keras": keras_model,
    "keras of version 2": keras2_model,
    "layers": layers_model,
    "savedmodel": savedmodel,
    "frozen": frozen_graph,
    "onnx": onnx_model,
    "torch": program,
    "script": script,
    "weights": weights,
    "tflite": tflite,
    "tflite without signatures": tflite_without_signatures,
    "tfjs": tfjs,
}


def answers_of(folder: Path, manifest: Manifest, values: Sequence[Any]) -> Expected:
    """What the artifact answers, from its inputs in their order; asked for one row last, as for several."""
    runtime = load_runtime(folder, manifest)
    try:
        given = dict(zip((spec.name for spec in manifest.inputs), values, strict=True))
        answers = runtime.predict(given)
        one = runtime.predict({name: value[:1] for name, value in given.items()})
        again = runtime.predict(given)
    finally:
        runtime.close()
    for name, answer in answers.items():
        np.testing.assert_array_equal(again[name], answer)
        np.testing.assert_allclose(one[name], answer[:1], atol=1e-5)
    return dict(answers)


def check(answers: Expected, expected: Expected, manifest: Manifest) -> None:
    assert answers.keys() == expected.keys() == {spec.name for spec in manifest.outputs}
    for name, values in expected.items():
        np.testing.assert_allclose(answers[name], values, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("kind", KINDS)
def test_each_tensor_of_every_kind_of_file_keeps_its_values(tmp_path: Path, kind: str) -> None:
    path, expected = KINDS[kind](tmp_path / "file")
    manifest = write_source(path, tmp_path / "net", "net", describe(path, {})).manifest
    folder = tmp_path / "net" / manifest.format
    values = [ROWS, OTHERS][: len(manifest.inputs)]
    check(answers_of(folder, manifest, values), expected, manifest)
    is_unique = kind in ("keras of version 2", "layers")  # tf_keras sees to it
    assert any("other names than in the file" in note for note in manifest.made_with["notes"]) != is_unique


def test_every_reader_is_among_these() -> None:
    """A folder of Hugging Face has one answer, and inputs whose names this project gives. Weights of Keras go on as a
    model of Keras does."""
    assert {kind.partition(" ")[0] for kind in KINDS} == READERS.keys() - {"huggingface", "keras_weights"}


@pytest.fixture(scope="module")
def brought(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The artifacts of files whose tensors share names, in every format."""
    folder, artifacts = tmp_path_factory.mktemp("models"), tmp_path_factory.mktemp("names") / "artifacts"
    for name, write in (("signature", savedmodel), ("plain", tflite_without_signatures), ("program", program)):
        path, _ = write(folder / name)
        if path.is_file():
            path.rename(folder / f"{name}{path.suffix}")
    command = [sys.executable, "-m", "bring", "--precision", "none", "--artifacts", str(artifacts)]
    files = [folder / "signature", folder / "plain.tflite", folder / "program.pt2"]
    for file in files:
        done = subprocess.run([*command, str(file)], cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert "other names than in the file" in done.stdout
    return artifacts


@pytest.mark.parametrize("format", ["onnx", "savedmodel", "tflite", "tfjs"])
@pytest.mark.parametrize(
    ("model", "expected"),
    [("signature", SIGNATURE), ("plain", PLAIN), ("program", TORCH)],
)
def test_each_tensor_keeps_its_values_in_every_format(
    brought: Path, model: str, format: str, expected: Expected
) -> None:
    folder = brought / model / format
    manifest = read_manifest(folder)
    check(answers_of(folder, manifest, [ROWS, OTHERS]), expected, manifest)
    assert manifest.is_source or read_status(folder).word == VERIFIED


# The names that are given when a model is brought


def test_a_given_name_takes_that_of_no_other_tensor(tmp_path: Path) -> None:
    """The file calls its input and what lies between as they are called here, and its second answer as the first is."""
    nodes = [
        helper.make_node("Mul", ["pixels", "pixels"], ["probabilities"]),
        helper.make_node("Sub", ["probabilities", "pixels"], ["shipped_0"]),
        helper.make_node("GlobalAveragePool", ["shipped_0"], ["means"]),
        helper.make_node("Flatten", ["means"], ["logits"]),
    ]
    shape = ["batch", 3, 6, 8]
    outputs = [("logits", ["batch", 3]), ("probabilities", shape), ("logits", ["batch", 3])]
    path = onnx_file(tmp_path / "net" / "net.onnx", nodes, {"pixels": shape}, outputs)
    description = Description(preprocess=parse_preprocess("unit order=BGR"), answers="logits")
    pixels = np.random.default_rng(1).integers(0, 256, (5, 6, 8, 3)).astype(np.float32)
    manifest = write_source(path, tmp_path / "made", "net", description).manifest
    answers = answers_of(tmp_path / "made" / "onnx", manifest, [pixels])
    values = pixels[..., ::-1] / 255
    logits = (values**2 - values).mean((1, 2))
    powers = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    squares = (values**2).transpose(0, 3, 1, 2)
    check(answers, {"probabilities": powers, "probabilities_1": squares, "logits_1": logits}, manifest)


@pytest.mark.parametrize("kind", ["onnx", "tfjs"])
def test_what_was_brought_once_can_be_brought_again(tmp_path: Path, kind: str) -> None:
    """Its own preprocessing stays inside, behind that of the second time."""
    shape = ["batch", 4, 2, 3]
    nodes = [helper.make_node("ReduceMean", ["x"], ["y"], axes=[1, 2], keepdims=0)]
    path = onnx_file(tmp_path / "net" / "net.onnx", nodes, {"x": shape}, [("y", ["batch", 3])])
    if kind == "tfjs":
        path = tfjs_means(tmp_path / "web")
    pixels = np.random.default_rng(2).integers(0, 256, (5, 4, 2, 3)).astype(np.float32)
    expected = pixels.mean((1, 2)) * 0.5**2 + (0.25 * 0.5 + 0.25)
    for number in range(2):
        target = tmp_path / f"made{number}"
        description = Description(preprocess=parse_preprocess("scale=0.5 mean=-0.25 layout=NHWC"), answers="values")
        manifest = write_source(path, target, "net", description).manifest
        path = target / kind / ("model.onnx" if kind == "onnx" else "")
    (answers,) = answers_of(path if path.is_dir() else path.parent, manifest, [pixels]).values()
    np.testing.assert_allclose(answers, expected, atol=1e-4)


def tfjs_means(folder: Path) -> Path:
    folder.mkdir()
    real, whole = {"type": "DT_FLOAT"}, {"type": "DT_INT32"}
    dims, out = ({"dim": [{"size": str(size)} for size in (-1, *sizes)]} for sizes in ((4, 2, 3), (3,)))
    nodes = [
        {"name": "axes", "op": "Const", "attr": {"dtype": whole}},
        {"name": "x", "op": "Placeholder", "attr": {"dtype": real, "shape": {"shape": dims}}},
        {
            "name": "y",
            "op": "Mean",
            "input": ["x", "axes"],
            "attr": {"T": real, "Tidx": whole, "keep_dims": {"b": False}},
        },
    ]
    signature = {
        "inputs": {"x": {"name": "x:0", "dtype": "DT_FLOAT", "tensorShape": dims}},
        "outputs": {"y": {"name": "y:0", "dtype": "DT_FLOAT", "tensorShape": out}},
    }
    weights = [{"name": "axes", "shape": [2], "dtype": "int32"}]
    content = {
        "format": "graph-model",
        "signature": signature,
        "modelTopology": {"node": nodes, "library": {}, "versions": {}},
        "weightsManifest": [{"paths": ["weights.bin"], "weights": weights}],
    }
    (folder / "weights.bin").write_bytes(np.array([1, 2], np.int32).tobytes())
    (folder / "model.json").write_text(json.dumps(content))
    return folder


def test_names_change_inside_of_branches_and_change_places(tmp_path: Path) -> None:
    """Two outputs take each other's name, and a branch reads a tensor of the graph around it by the new name."""
    branches = []
    for name, operator in (("then", "Relu"), ("else", "Neg")):
        out = helper.make_tensor_value_info(f"{name}_y", TensorProto.FLOAT, ["batch", 3])
        branches.append(helper.make_graph([helper.make_node(operator, ["a"], [f"{name}_y"])], name, [], [out]))
    nodes = [
        helper.make_node("MatMul", ["x", "kernel"], ["a"]),
        helper.make_node("Constant", [], ["zero"], value=numpy_helper.from_array(np.float32(0))),
        helper.make_node("ReduceSum", ["x"], ["sum"], keepdims=0),
        helper.make_node("Greater", ["sum", "zero"], ["is_more"]),
        helper.make_node("If", ["is_more"], ["b"], then_branch=branches[0], else_branch=branches[1]),
    ]
    outputs = [("a", ["batch", 3]), ("b", ["batch", 3])]
    model = onnx.load(onnx_file(tmp_path / "net" / "net.onnx", nodes, {"x": ["batch", 4]}, outputs))
    call_ends(model, ["rows"], ["b", "a"])
    onnx.checker.check_model(model, full_check=True)
    (tmp_path / "onnx").mkdir()
    onnx.save(model, tmp_path / "onnx" / "model.onnx")
    specs = [TensorSpec(name, "float32", (None, size), "NC") for name, size in (("rows", 4), ("b", 3), ("a", 3))]
    manifest = Manifest("net", "onnx", None, (specs[0],), (specs[1], specs[2]), None, ())
    runtime = load_runtime(tmp_path / "onnx", manifest)
    for rows in (np.abs(ROWS), -np.abs(ROWS)):
        answers = runtime.predict({"rows": rows})
        product = rows @ KERNEL
        np.testing.assert_allclose(answers["b"], product, atol=1e-5)
        np.testing.assert_allclose(answers["a"], np.maximum(product, 0) if rows[0, 0] > 0 else -product, atol=1e-5)


# What the person calls them


def test_inputs_are_described_by_the_names_of_the_file_or_by_those_here(tmp_path: Path) -> None:
    nodes = [helper.make_node("MatMul", ["in put.1", "kernel"], ["y"])]
    path = onnx_file(tmp_path / "net" / "net.onnx", nodes, {"in put.1": ["batch", 4]}, [("y", ["batch", 3])])
    np.savez(path.parent / "rows.npz", **{"in put.1": ROWS})  # type: ignore[arg-type] # of its other argument
    for name in ("in put.1", "in_put_1"):
        (path.parent / "model.toml").write_text(f'rows = "rows.npz"\n[[input]]\nname = "{name}"\nrange = [-9, 9]')
        manifest = write_source(path, tmp_path / "made", "net", describe(path, {})).manifest
        assert [spec.name for spec in manifest.inputs] == ["in_put_1"]
    for columns in ("in put.1[{}]", "in_put_1[{}]"):
        header = ",".join(columns.format(number) for number in range(4))
        (path.parent / "rows.csv").write_text(f"{header}\n1,2,3,4\n4,3,2,1\n")
        (path.parent / "model.toml").write_text('rows = "rows.csv"')
        write_source(path, tmp_path / "made", "net", describe(path, {}))


def test_two_arrays_that_would_have_one_name_are_refused(tmp_path: Path) -> None:
    nodes = [helper.make_node("MatMul", ["x_1", "kernel"], ["y"])]
    path = onnx_file(tmp_path / "net" / "net.onnx", nodes, {"x_1": ["batch", 4]}, [("y", ["batch", 3])])
    np.savez(path.parent / "rows.npz", **{"x.1": ROWS, "x_1": OTHERS})  # type: ignore[arg-type]
    (path.parent / "model.toml").write_text('rows = "rows.npz"')
    with pytest.raises(BroughtError, match="one array for each input, by its name"):
        write_source(path, tmp_path / "made", "net", describe(path, {}))
