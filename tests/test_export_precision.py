"""Variants of reduced precision: what is made, what is refused with a message, and that float32 artifacts stay."""

import importlib
import re
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from contract.calibration import Calibration, read, write
from contract.errors import ArtifactCorrupt, DataError, ExportError, PrecisionError
from contract.failed_edge import FailedEdge, read_failed_edges
from contract.formats import FORMATS
from contract.manifest import (
    MANIFEST,
    Manifest,
    TensorSpec,
    read_manifest,
    sha256_of_files,
    verify_files,
    write_manifest,
)
from contract.precisions import PRECISIONS, chosen
from export.precision import MAKERS, can_be_made, make_variant, make_variants
from export.precision.repair import search

ROWS, WIDTH = 64, 12
Weights = NDArray[np.float32]


def network(folder: Path, weights: Weights | None = None, model: str = "net") -> Path:
    """A dense layer, a relu and another dense layer, as the ONNX artifact of a model."""
    random = np.random.default_rng(0)
    first = random.normal(size=(WIDTH, 32)).astype(np.float32) if weights is None else weights
    second = random.normal(size=(32, 4)).astype(np.float32)
    nodes = [
        helper.make_node("MatMul", ["x", "first"], ["hidden"], "one"),
        helper.make_node("Relu", ["hidden"], ["positive"], "two"),
        helper.make_node("MatMul", ["positive", "second"], ["y"], "three"),
    ]
    ends = [
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", size])]
        for name, size in (("x", WIDTH), ("y", 4))
    ]
    constants = [numpy_helper.from_array(first, "first"), numpy_helper.from_array(second, "second")]
    return artifact(folder / model, helper.make_graph(nodes, "net", *ends, constants), "x", "y", 4)


def artifact(folder: Path, graph: onnx.GraphProto, entry: str, end: str, width: int) -> Path:
    """The graph as the ONNX artifact of the model in `folder`."""
    target = folder / "onnx"
    target.mkdir(parents=True)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.save(made, target / "model.onnx")
    inputs, outputs = (
        (TensorSpec(name, "float32", (None, size), "NC"),) for name, size in ((entry, WIDTH), (end, width))
    )
    manifest = Manifest(folder.name, "onnx", None, inputs, outputs, None, ())
    write_manifest(target, replace(manifest, files=sha256_of_files(target, [target / "model.onnx"])))
    return target


def rows(values: NDArray[np.float32] | None = None) -> Calibration:
    if values is None:
        values = np.random.default_rng(1).normal(size=(ROWS, WIDTH)).astype(np.float32)
    return Calibration({"x": values}, "rows of a test", tuple(map(str, range(len(values)))))


def answers(folder: Path, values: NDArray[np.float32]) -> NDArray[np.float32]:
    session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"x": values})[0])


# The table


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # ExecuTorch's and torchao's own
def test_every_precision_has_a_maker_and_a_family() -> None:
    assert MAKERS.keys() == PRECISIONS.keys()
    assert {precision.family for precision in PRECISIONS.values()} <= FORMATS.keys()
    for maker in (maker for format, maker in MAKERS.items() if can_be_made(PRECISIONS[format])):
        module, _, function = maker.partition(":")
        assert callable(getattr(importlib.import_module(module), function))


@pytest.mark.parametrize(
    ("text", "formats"),
    [
        ("none", []),
        ("all", [*PRECISIONS]),
        ("", [format for format, precision in PRECISIONS.items() if precision.usual]),
        ("int8", ["onnx-int8", "tflite-int8", "executorch-int8", "torch-int8"]),
        ("bf16", ["torch-bf16"]),
        (" fp16, int8dyn ", ["onnx-fp16", "onnx-int8dyn", "tflite-fp16", "tflite-int8dyn", "tfjs-fp16"]),
    ],
)
def test_precision_chooses_variants(text: str, formats: list[str]) -> None:
    assert [precision.format for precision in chosen(text)] == formats


@pytest.mark.parametrize("text", ["int9", "int8,int9", "all,int8", "float16"])
def test_an_unknown_precision_is_said_with_those_that_are_known(text: str) -> None:
    with pytest.raises(
        PrecisionError,
        match=rf"PRECISION={text} cannot be used: .* is not one of fp16, int8, int8dyn, int4, .*, uint8 and bf16\.",
    ):
        chosen(text)


# What is made


@pytest.mark.parametrize("format", [format for format in PRECISIONS if format.startswith("onnx")])
def test_an_onnx_variant_answers_nearly_like_its_parent(tmp_path: Path, format: str) -> None:
    parent = network(tmp_path)
    manifest = make_variant(parent, PRECISIONS[format], rows())
    folder = parent.with_name(format)
    verify_files(folder, manifest)
    onnx.checker.check_model(folder / "model.onnx", full_check=True)
    expected, got = (answers(each, rows().inputs["x"]) for each in (parent, folder))
    assert 0 < np.abs(got - expected).max() < (0.2 if format == "onnx-int4" else 0.05) * np.ptp(expected)
    assert manifest.parent == "onnx"
    assert manifest.made_with["precision"] == PRECISIONS[format].title


def test_a_float16_graph_has_a_value_before_the_branch_that_takes_it(tmp_path: Path) -> None:
    """The branch takes `hidden` by its name alone: no input of the node says so."""
    value = helper.make_tensor_value_info
    branches = [
        helper.make_graph([helper.make_node(op, ["hidden"], [op])], op, [], [value(op, TensorProto.FLOAT, None)])
        for op in ("Abs", "Neg")
    ]
    nodes = [
        helper.make_node("MatMul", ["x", "weights"], ["hidden"], "multiplied"),
        helper.make_node("ReduceMax", ["x"], ["most"], "most", keepdims=0),
        helper.make_node("Greater", ["most", "zero"], ["is_above"], "compared"),
        helper.make_node("If", ["is_above"], ["y"], "chosen", then_branch=branches[0], else_branch=branches[1]),
    ]
    ends = [[value(name, TensorProto.FLOAT, ["batch", size])] for name, size in (("x", WIDTH), ("y", 4))]
    weights = np.random.default_rng(0).normal(size=(WIDTH, 4)).astype(np.float32)
    constants = [numpy_helper.from_array(weights, "weights"), numpy_helper.from_array(np.float32(0), "zero")]
    parent = artifact(tmp_path / "net", helper.make_graph(nodes, "net", *ends, constants), "x", "y", 4)
    make_variant(parent, PRECISIONS["onnx-fp16"], None)
    onnx.checker.check_model(parent.with_name("onnx-fp16") / "model.onnx")
    expected, got = (answers(parent.with_name(each), rows().inputs["x"]) for each in ("onnx", "onnx-fp16"))
    np.testing.assert_allclose(got, expected, atol=0.05)


def test_both_kinds_of_static_int8_are_timed_and_the_manifest_names_both(tmp_path: Path) -> None:
    made = make_variant(network(tmp_path), PRECISIONS["onnx-int8"], rows()).made_with
    assert made["tried"].keys() == {"U8S8", "S8S8"}
    assert made["kept"] in made["tried"]
    assert all(each["seconds"] > 0 and each["mean_difference"] > 0 for each in made["tried"].values())
    assert made["calibration"]["rows"] == ROWS
    assert made["calibration"]["sha256"] == rows().sha256


# Layers that stay in float


def losing(losses: Mapping[str, float]) -> Callable[[Sequence[str]], float]:
    """A variant that loses this much by each layer that is quantised."""
    return lambda in_float: 1 - sum(loss for layer, loss in losses.items() if layer not in in_float)


LOSSES = {"first": 0.01, "a": 0.001, "b": 0.2, "c": 0.0, "d": 0.001, "e": 0.0, "f": 0.0, "last": 0.01}


def test_the_ends_and_the_worst_layers_stay_in_float() -> None:
    repair = search([*LOSSES], losing(LOSSES), LOSSES.__getitem__)
    assert repair is not None
    assert repair.in_float[:3] == ("first", "last", "b")
    assert len(repair.in_float) <= len(LOSSES) / 2
    assert repair.before == pytest.approx(0.778)
    assert repair.after > 0.99


def test_what_keeps_enough_is_left_as_it_is() -> None:
    assert search([*LOSSES], lambda in_float: 0.995, LOSSES.__getitem__) is None


def test_where_nothing_is_gained_nothing_stays_in_float() -> None:
    repair = search([*LOSSES], lambda in_float: 0.5, LOSSES.__getitem__)
    assert repair is not None
    assert (repair.in_float, repair.before, repair.after) == ((), 0.5, 0.5)


def test_the_search_ends_when_its_time_does() -> None:
    asked: list[str] = []

    def slow(layer: str) -> float:
        asked.append(layer)
        time.sleep(0.05)
        return 1.0

    search([f"layer {number}" for number in range(1000)], lambda in_float: 0.5, slow, seconds=0.2)
    assert len(asked) < 10


def test_a_layer_with_outliers_is_left_in_float_and_the_manifest_names_it(tmp_path: Path) -> None:
    """One channel of an activation is 10,000 times as large as the others: in int8 these are zero."""
    random = np.random.default_rng(0)
    count = 8
    layers = [np.eye(WIDTH) + 0.1 * random.normal(size=(WIDTH, WIDTH)) for _ in range(count)]
    layers[1][:, 0] *= 10_000
    layers[2][0, :] /= 10_000
    nodes = [
        helper.make_node("MatMul", [f"h{number}", f"w{number}"], [f"h{number + 1}"], f"layer {number}")
        for number in range(count)
    ]
    ends = [[helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", WIDTH])] for name in ("h0", f"h{count}")]
    constants = [numpy_helper.from_array(each.astype(np.float32), f"w{number}") for number, each in enumerate(layers)]
    parent = artifact(tmp_path, helper.make_graph(nodes, "net", *ends, constants), "h0", f"h{count}", WIDTH)
    values = rows().inputs["x"]
    about = make_variant(parent, PRECISIONS["onnx-int8"], replace(rows(), inputs={"h0": values})).made_with["repair"]
    assert {"layer 1", "layer 2"} <= {*about["in_float"]}
    assert about["kept_before"] < 0.7 < 0.99 < about["kept_after"]


def test_small_answers_beside_large_ones_are_not_rounded_to_zero(tmp_path: Path) -> None:
    """Boxes of hundreds of pixels and scores from 0 to 1 in one output: with one scale, a step would be 2."""
    random = np.random.default_rng(0)
    weights = 0.3 * random.normal(size=(WIDTH, 6)).astype(np.float32)
    sizes = np.array([500, 500, 500, 500, 1, 1], np.float32)
    nodes = [
        helper.make_node("MatMul", ["x", "weights"], ["logits"], "layer"),
        helper.make_node("Sigmoid", ["logits"], ["shares"], "shares"),
        helper.make_node("Mul", ["shares", "sizes"], ["y"], "sized"),
    ]
    ends = [
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", size])]
        for name, size in (("x", WIDTH), ("y", 6))
    ]
    constants = [numpy_helper.from_array(weights, "weights"), numpy_helper.from_array(sizes, "sizes")]
    parent = artifact(tmp_path / "net", helper.make_graph(nodes, "net", *ends, constants), "x", "y", 6)
    make_variant(parent, PRECISIONS["onnx-int8"], rows())
    expected, got = (answers(parent.with_name(each), rows().inputs["x"]) for each in ("onnx", "onnx-int8"))
    off = np.abs(got - expected).max(axis=0) / sizes
    assert 0 < off.max() < 0.02, "each beside its own size"


def test_what_scales_the_input_stays_in_float(tmp_path: Path) -> None:
    weights = np.random.default_rng(0).normal(size=(WIDTH, 4)).astype(np.float32)
    nodes = [
        helper.make_node("Mul", ["x", "factor"], ["scaled"], "scaling"),
        helper.make_node("MatMul", ["scaled", "weights"], ["y"], "layer"),
    ]
    ends = [
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", size])]
        for name, size in (("x", WIDTH), ("y", 4))
    ]
    constants = [numpy_helper.from_array(weights, "weights"), numpy_helper.from_array(np.float32(0.1), "factor")]
    parent = artifact(tmp_path / "net", helper.make_graph(nodes, "net", *ends, constants), "x", "y", 4)
    make_variant(parent, PRECISIONS["onnx-int8"], rows())
    made = onnx.load(parent.with_name("onnx-int8") / "model.onnx").graph
    (scaling,) = (node for node in made.node if node.op_type == "Mul")
    assert "x" in scaling.input
    assert any(tensor.data_type == TensorProto.INT8 for tensor in made.initializer)


# What is refused


def assert_refused(parent: Path, format: str, calibration: Calibration | None, message: str) -> None:
    before = (parent / MANIFEST).read_bytes(), (parent / "model.onnx").read_bytes()
    with pytest.raises(ExportError, match=message):
        make_variant(parent, PRECISIONS[format], calibration)
    assert before == ((parent / MANIFEST).read_bytes(), (parent / "model.onnx").read_bytes())
    assert not parent.with_name(format).exists()


def test_no_calibration_rows_is_said(tmp_path: Path) -> None:
    assert_refused(network(tmp_path), "onnx-int8", None, "It needs rows to calibrate on")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_calibration_rows_that_are_no_numbers_are_said(tmp_path: Path, value: float) -> None:
    values = rows().inputs["x"].copy()
    values[3, 2] = value
    assert_refused(
        network(tmp_path), "onnx-int8", rows(values), "1 of the 64 calibration rows .* have NaN or infinity in x"
    )


@pytest.mark.parametrize(("name", "shape", "got"), [("x", (64, 28, 28), "[28, 28]"), ("other", (64, 12), "none")])
def test_calibration_rows_of_another_kind_are_said(tmp_path: Path, name: str, shape: tuple[int, ...], got: str) -> None:
    parent = network(tmp_path)
    rows = Calibration({name: np.random.default_rng(0).random(shape, np.float32)}, "some rows", ("row",) * 64)
    with pytest.raises(ExportError, match=re.escape(f"not what the model takes: {got} for x, expected [{WIDTH}]")):
        make_variant(parent, PRECISIONS["onnx-int8"], rows)
    assert not (parent.parent / "onnx-int8").exists()
    verify_files(parent, read_manifest(parent))


def test_equal_calibration_rows_are_said(tmp_path: Path) -> None:
    black = np.zeros((ROWS, WIDTH), np.float32)
    assert_refused(network(tmp_path), "onnx-int8", rows(black), "All 64 calibration rows .* are equal")


def test_a_model_that_answers_nan_while_calibrating_is_said(tmp_path: Path) -> None:
    weights = np.full((WIDTH, 32), np.nan, np.float32)
    assert_refused(network(tmp_path, weights), "onnx-int8", rows(), "answers NaN or infinity to calibration rows")


def test_a_weight_beyond_float16_is_said(tmp_path: Path) -> None:
    weights = np.full((WIDTH, 32), 1e6, np.float32)
    assert_refused(network(tmp_path, weights), "onnx-fp16", None, r"The weight first has the value 1e\+06")


@pytest.mark.parametrize("format", ["onnx-fp16", "onnx-int8", "onnx-int8dyn"])
def test_a_model_that_is_quantised_already_is_said(tmp_path: Path, format: str) -> None:
    parent = network(tmp_path)
    make_variant(parent, PRECISIONS["onnx-int8"], rows())
    quantised = tmp_path / "again" / "onnx"
    shutil.copytree(parent.with_name("onnx-int8"), quantised)
    write_manifest(quantised, replace(read_manifest(quantised), model="again", format="onnx", parent=None))
    assert_refused(quantised, format, rows(), "again-onnx is quantised already")


def test_a_constant_layer_is_quantised(tmp_path: Path) -> None:
    """Weights that are all zero have no range; the variant has to be one all the same."""
    parent = network(tmp_path, np.zeros((WIDTH, 32), np.float32))
    make_variant(parent, PRECISIONS["onnx-int8"], rows())
    assert not answers(parent.with_name("onnx-int8"), rows().inputs["x"]).any()


@pytest.mark.parametrize("format", ["onnx-int8", "onnx-int8dyn"])
def test_operators_that_the_quantiser_does_not_know_are_named(tmp_path: Path, format: str) -> None:
    ends = [[helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", WIDTH])] for name in ("x", "y")]
    nodes = [helper.make_node("Elu", ["x"], ["hidden"], "one"), helper.make_node("Selu", ["hidden"], ["y"], "two")]
    parent = artifact(tmp_path / "net", helper.make_graph(nodes, "net", *ends), "x", "y", WIDTH)
    assert_refused(parent, format, rows(), r"Nothing of net-onnx could be quantised: .* \(Elu, Selu\)")


def test_a_damaged_parent_is_not_quantised(tmp_path: Path) -> None:
    parent = network(tmp_path)
    (parent / "model.onnx").write_bytes(b"other")
    with pytest.raises(ArtifactCorrupt, match=r"model\.onnx has sha256"):
        make_variant(parent, PRECISIONS["onnx-int8"], rows())


def test_a_tflite_file_that_was_brought_is_left_as_it_is(tmp_path: Path) -> None:
    parent = network(tmp_path).rename(tmp_path / "net" / "tflite")
    write_manifest(parent, replace(read_manifest(parent), format="tflite"))
    with pytest.raises(ExportError, match="this file was brought as it is"):
        make_variant(parent, PRECISIONS["tflite-fp16"], None)


# All variants of a model


def test_without_calibration_rows_the_others_are_made_and_the_reason_is_recorded(tmp_path: Path) -> None:
    parent = network(tmp_path)
    made = list(make_variants(parent.parent, chosen("all"), lambda manifest: None))
    assert [each.format for each in made] == ["onnx-fp16", "onnx-int8", "onnx-int8dyn", "onnx-int4"]
    assert [type(each) for each in made] == [Manifest, FailedEdge, Manifest, Manifest]
    (failed,) = read_failed_edges(tmp_path)
    assert (failed.name, failed.parent) == ("net-onnx-int8", "onnx")
    assert "Set DATA" in failed.reason


def test_what_is_no_longer_asked_for_is_removed(tmp_path: Path) -> None:
    parent = network(tmp_path)
    list(make_variants(parent.parent, chosen("all"), lambda manifest: None))
    list(make_variants(parent.parent, chosen("int8"), lambda manifest: rows()))
    assert sorted(path.parent.name for path in parent.parent.glob(f"*/{MANIFEST}")) == ["onnx", "onnx-int8"]
    assert read_failed_edges(tmp_path) == []


# Calibration rows on disk


def test_calibration_rows_come_back_equal(tmp_path: Path) -> None:
    write(tmp_path / "rows.npz", rows())
    again = read(tmp_path / "rows.npz")
    assert again.sha256 == rows().sha256
    assert (again.title, again.which) == (rows().title, rows().which)


@pytest.mark.parametrize("content", [b"", b"PK", b"other"])
def test_a_file_of_calibration_rows_that_cannot_be_read_is_said(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "rows.npz").write_bytes(content)
    with pytest.raises(DataError, match="cannot be read"):
        read(tmp_path / "rows.npz")


def test_another_value_is_another_set() -> None:
    values = rows().inputs["x"].copy()
    values[0, 0] += 1
    assert rows(values).sha256 != rows().sha256


def test_no_rows_are_no_calibration() -> None:
    with pytest.raises(DataError, match="no row calibrates"):
        Calibration({"x": np.zeros((0, 3))}, "nothing", ())


def test_a_variant_that_is_made_alone_leaves_the_others_as_they_are(tmp_path: Path) -> None:
    parent = network(tmp_path)
    [*make_variants(parent.parent, chosen("fp16"), lambda manifest: None)]
    made = [*make_variants(parent.parent, chosen("int8,int8dyn"), lambda manifest: rows(), "onnx-int8dyn")]
    assert [each.format for each in made] == ["onnx-int8dyn"]
    assert {folder.name for folder in parent.parent.glob("onnx-*")} == {"onnx-fp16", "onnx-int8dyn"}
