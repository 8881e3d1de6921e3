"""Reduced precisions: real variants pass their class, planted faults do not, and the ledger says what a file holds."""

import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import flatbuffers
import numpy as np
import onnx
import pytest
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter, OpResolverType
from numpy.typing import NDArray
from onnx import numpy_helper

from contract.calibration import Calibration
from contract.code import ROOT
from contract.dataset import Split, load
from contract.errors import ParityError
from contract.ledger import Ledger, read_ledger
from contract.manifest import Manifest, TensorSpec, read_manifest, sha256_of_files, write_manifest
from contract.parity_result import ParityResult, read_status
from contract.precisions import PRECISIONS
from export.precision import make_variant
from export.precision import onnx as onnx_maker
from serve.runtimes import load_runtime
from tests.conftest import MadeOnce
from tests.test_export_precision import network
from verify.diagnose.tracers import Kept, Step, Trace, Values
from verify.lowered import rounded_inputs
from verify.parity import ROUNDS, verify_model
from verify.precision import losses
from verify.precision.files import Constant, Contents
from verify.precision.gate import CLASSES, Scored, kept_of, least_kept, limits_of, misses, paired_interval
from verify.precision.ledger import examine
from verify.precision.losses import lost_classes, lost_layers
from verify.precision.proof import foreign_weights
from verify.questions import Questions, of_split

MODEL = "keras_cnn"
PICTURES = 2000
MADE = [
    format
    for format, precision in PRECISIONS.items()
    if format != "onnx-int4" and precision.family not in ("executorch", "torch")
]
"""The variants of a convolutional network of Keras: int4 is for large matrices, and the last families for PyTorch."""


@pytest.fixture(scope="session")
def questions() -> Questions:
    return of_split(load("fashion_mnist", "test", PICTURES))


@pytest.fixture(scope="session")
def variants(made_once: MadeOnce, artifacts: Path, questions: Questions) -> Path:
    """Every variant of one real model, made and compared. Do not change it."""

    def make(folder: Path) -> None:
        shutil.copytree(artifacts / MODEL, folder / MODEL)
        command = [sys.executable, "-m", "export.precision", str(folder / MODEL), "--dataset", "fashion_mnist"]
        chosen = ["--precision", "fp16,int8,int8full,int8dyn,int16x8,uint8"]
        done = subprocess.run([*command, *chosen], cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("made from") == len(MADE), done.stdout
        verify_model(folder / MODEL, questions, formats=MADE)

    return made_once("variants", make)


# Real variants


@pytest.mark.parametrize("format", MADE)
def test_each_variant_passes_at_a_class_and_says_so(variants: Path, format: str) -> None:
    status = read_status(variants / MODEL / format)
    assert status.word in ("verified at 99.9 %", "verified at 99 %"), status.reason
    kept = status.parity and status.parity.kept
    assert kept
    assert kept.measure == "accuracy"
    assert kept.rows == PICTURES
    assert kept.low >= kept.limit
    assert kept.low <= kept.share <= kept.high
    assert "95 % interval" in status.reason


@pytest.mark.parametrize("format", MADE)
def test_a_variant_names_its_parent_and_has_its_inputs_and_outputs(variants: Path, format: str) -> None:
    manifest, parent = read_manifest(variants / MODEL / format), read_manifest(variants / MODEL / format.split("-")[0])
    assert manifest.parent == parent.format
    assert (manifest.inputs, manifest.outputs, manifest.labels) == (parent.inputs, parent.outputs, parent.labels)


@pytest.mark.parametrize("format", [format for format in MADE if PRECISIONS[format].calibrated])
def test_the_manifest_names_the_calibration_rows_and_none_of_them_is_a_test_picture(
    variants: Path, format: str
) -> None:
    about = read_manifest(variants / MODEL / format).made_with["calibration"]
    places = [int(place) for place in about["which"].split()]
    assert len(set(places)) == about["rows"] == 200
    pictures = load("fashion_mnist", "train").images[places]
    assert Calibration({"pixels": pictures}, "", tuple(about["which"].split())).sha256 == about["sha256"]


@pytest.mark.parametrize("format", MADE)
def test_a_variant_is_smaller_than_its_parent(variants: Path, format: str) -> None:
    folders = [variants / MODEL / name for name in (format, format.split("-")[0])]
    sizes = [sum((folder / name).stat().st_size for name in read_manifest(folder).files) for folder in folders]
    assert sizes[0] < 0.7 * sizes[1]


# The ledger, and readers that share nothing with it


def ledger_of(variants: Path, format: str) -> Ledger:
    ledger = read_ledger(variants / MODEL / format)
    assert ledger is not None
    return ledger


@pytest.mark.parametrize("format", [format for format in MADE if format.startswith("tflite")])
def test_an_interpreter_agrees_with_every_dtype_of_a_tflite_ledger(variants: Path, format: str) -> None:
    """LiteRT's own details, of the graph that it runs for one picture."""
    ledger = ledger_of(variants, format)
    interpreter = Interpreter(
        str(variants / MODEL / format / "model.tflite"),
        experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
    )
    runner = interpreter.get_signature_runner("batch1")
    assert ledger.inputs == {name: str(np.dtype(each["dtype"])) for name, each in runner.get_input_details().items()}
    assert ledger.outputs == {name: str(np.dtype(each["dtype"])) for name, each in runner.get_output_details().items()}
    dtypes = {str(np.dtype(detail["dtype"])) for detail in interpreter.get_tensor_details()}
    assert {*ledger.weights, *ledger.activations} == dtypes


@pytest.mark.parametrize("format", [format for format in MADE if format.startswith("onnx")])
def test_shape_inference_agrees_with_every_dtype_of_an_onnx_ledger(variants: Path, format: str) -> None:
    """ONNX's own type inference, and the sizes of the raw bytes."""
    ledger = ledger_of(variants, format)
    model = onnx.load(variants / MODEL / format / "model.onnx")
    names = {1: "float32", 2: "uint8", 3: "int8", 6: "int32", 7: "int64", 10: "float16"}
    assert ledger.inputs == {each.name: names[each.type.tensor_type.elem_type] for each in model.graph.input}
    assert ledger.outputs == {each.name: names[each.type.tensor_type.elem_type] for each in model.graph.output}
    stored: dict[str, int] = {}
    for tensor in model.graph.initializer:
        name = names[tensor.data_type]
        stored[name] = stored.get(name, 0) + len(numpy_helper.to_array(tensor).tobytes())
    assert ledger.weights == stored
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph
    made = {name for node in model.graph.node for name in node.output}
    seen = {
        names[each.type.tensor_type.elem_type] for each in (*inferred.value_info, *inferred.output) if each.name in made
    }
    assert {*ledger.activations} == seen


@pytest.mark.parametrize("format", [format for format in MADE if format.startswith("tfjs")])
def test_the_weights_of_a_tfjs_ledger_are_the_bytes_of_the_weight_files(variants: Path, format: str) -> None:
    folder, ledger = variants / MODEL / format, ledger_of(variants, format)
    assert sum(ledger.weights.values()) == sum(file.stat().st_size for file in folder.glob("*.bin"))
    text = (folder / "model.json").read_text()
    assert set(re.findall(r'"quantization": \{[^}]*"dtype": "(\w+)"', text)) | {"int32"} == {*ledger.weights}
    assert (ledger.inputs, ledger.outputs) == ({"pixels": "float32"}, {"probabilities": "float32"})


@pytest.mark.parametrize(
    ("format", "computes", "is_stored_only"),
    [
        ("onnx-fp16", {"float32"}, True),
        ("onnx-int8", {"int8"}, False),
        ("onnx-int8dyn", {"int8"}, False),
        ("tflite-fp16", {"float32"}, True),
        ("tflite-int8", {"int8"}, False),
        # The converter leaves weights of less than 1024 values in float32.
        ("tflite-int8dyn", {"int8", "float32"}, False),
        ("tflite-int8full", {"int8"}, False),
        ("tflite-int16x8", {"int8"}, False),
        ("tfjs-fp16", {"float32"}, True),
        ("tfjs-uint8", {"float32"}, True),
    ],
)
def test_the_ledger_tells_what_computes_from_what_is_stored(
    variants: Path, format: str, computes: set[str], is_stored_only: bool
) -> None:
    ledger = ledger_of(variants, format)
    if format == "onnx-fp16" and "float16" in ledger.computing:
        pytest.skip("this processor computes in float16")
    assert {*ledger.computing} == computes
    assert ledger.is_stored_only is is_stored_only
    assert ledger.processor


def test_int4_weights_are_read_from_their_blocks_and_are_the_parents(tmp_path: Path) -> None:
    parent = network(tmp_path)
    folder = parent.with_name("onnx-int4")
    manifest = make_variant(parent, PRECISIONS["onnx-int4"], None)
    examined = examine(folder, manifest)
    assert examined is not None
    ledger, faults = examined
    assert faults == []
    assert ledger.weights["int4"] == (32 * 16 + 4 * 16)
    assert ledger.is_stored_only

    model = onnx.load(folder / "model.onnx")
    packed = model.graph.initializer[0]
    set_values(packed, numpy_helper.to_array(packed) ^ np.uint8(4))
    onnx.save(model, folder / "model.onnx")
    examined = examine(folder, manifest)
    assert examined is not None
    assert "steps from the nearest" in examined[1][0]


def test_a_file_of_whole_numbers_is_called_with_floats(variants: Path, questions: Questions) -> None:
    """The reference quantises by the manifest's own numbers, and calls LiteRT without the service's runtime."""
    folder = variants / MODEL / "tflite-int8full"
    manifest, ledger = read_manifest(folder), ledger_of(variants, "tflite-int8full")
    assert {*ledger.inputs.values(), *ledger.outputs.values()} == {"int8"}
    assert [spec.dtype for spec in (*manifest.inputs, *manifest.outputs)] == ["float32", "float32"]
    into, back = (next(iter(manifest.made_with["quantised"][which].values())) for which in ("inputs", "outputs"))
    pixels = questions.inputs["pixels"][:5].astype(np.float32)
    numbers = np.clip(np.round(pixels / into["scale"]) + into["zero_point"], -128, 127).astype(np.int8)
    run = Interpreter(str(folder / "model.tflite")).get_signature_runner("serving_default")
    expected = (run(pixels=numbers)["probabilities"].astype(np.float32) - back["zero_point"]) * back["scale"]
    with closing(load_runtime(folder, manifest)) as runtime:
        answer = runtime.predict({"pixels": pixels})["probabilities"]
        beyond = np.array([np.nan, np.inf, -np.inf, 1e9], np.float32)
        strange = runtime.predict({"pixels": np.resize(beyond, (1, 28, 28, 1))})["probabilities"]
    assert answer.dtype == np.float32
    np.testing.assert_allclose(answer, expected, atol=1e-6)
    assert np.isfinite(strange).all(), "whole numbers have no NaN"


@pytest.mark.parametrize("format", MADE)
def test_the_ledger_names_the_layers_that_lose_most(variants: Path, format: str) -> None:
    layers = ledger_of(variants, format).layers
    assert 1 <= len(layers) <= 3
    assert [layer.own for layer in layers] == sorted((layer.own for layer in layers), reverse=True)
    assert all(layer.own <= layer.error < 0.05 for layer in layers), "each is the rounding of a sound variant"
    assert all(layer.name and layer.op not in ("DequantizeLinear", "DEQUANTIZE") for layer in layers)


def test_a_layer_that_is_spoilt_is_the_first_to_be_named(variants: Path, tmp_path: Path) -> None:
    shutil.copytree(variants / MODEL, tmp_path / MODEL)
    folder = tmp_path / MODEL / "onnx-int8"
    in_onnx(scales_of_other_channels)(folder)
    first, *others = lost_layers(folder, read_manifest(folder), of_split(load("fashion_mnist", "test", 16)))
    assert first.name == "conv2d_1/Relu"
    assert first.own > 3 * others[0].own


def test_layers_are_not_looked_at_where_the_parent_is_gone(
    variants: Path, tmp_path: Path, questions: Questions
) -> None:
    folder = shutil.copytree(variants / MODEL / "onnx-int8", tmp_path / "onnx-int8")
    assert lost_layers(folder, read_manifest(folder), questions) == ()


def test_few_rows_are_traced_where_these_take_long_or_much_memory() -> None:
    class Slow:
        def trace(self, images: Values, kept: Kept = None) -> Trace:
            time.sleep(0.05)
            return Trace({"x": Step("x", "x", "input", (), images)}, "x", "x")

        def weights(self) -> list[NDArray[Any]]:
            return []

        def close(self) -> None:
            """Nothing is held."""

    rows = np.zeros((16, 4), np.float32)
    assert losses._count(Slow(), rows[:1], 16) == 16
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(losses, "SECONDS", 0.12)
        assert losses._count(Slow(), rows[:1], 16) in (1, 2)
        patch.setattr(losses, "SECONDS", 10.0)
        patch.setattr(losses, "MEMORY", 48)
        assert losses._count(Slow(), rows[:1], 16) == 3


def test_the_classes_that_lose_most_are_named_with_their_intervals() -> None:
    right = np.repeat([0, 1, 2, 3], [1000, 1000, 1000, 10])
    before, after = right.copy(), right.copy()
    after[:60], after[1000:1002], after[3000:] = 1, 0, 2
    before[2000:2005] = 3  # a class that gains
    first, second = lost_classes(before, after, right, ("a", "b", "c", "d"))
    assert (first.label, first.rows, first.change) == ("a", 1000, -0.06)
    assert first.is_beyond_noise
    assert (second.label, second.change) == ("b", -0.002)
    assert not second.is_beyond_noise, "two pictures are noise"
    assert lost_classes(right, right, right, ()) == ()


def test_a_ledger_holds_for_exactly_its_bytes(variants: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(variants / MODEL / "onnx-int8", tmp_path / "onnx-int8")
    assert read_ledger(folder)
    manifest = read_manifest(folder)
    write_manifest(folder, replace(manifest, made_with={}))
    assert read_ledger(folder) is None


@pytest.mark.parametrize("is_quantised", [True, False])
def test_a_source_of_whole_numbers_is_named_where_an_artifact_differs(
    variants: Path, tmp_path: Path, questions: Questions, is_quantised: bool
) -> None:
    model = shutil.copytree(variants / MODEL, tmp_path / MODEL)
    source = read_manifest(model / "keras")
    write_manifest(model / "keras", replace(source, made_with={**source.made_with, "is_quantised": is_quantised}))
    strict = replace(questions.first(64), tolerance=1e-12)
    result = verify_model(model, strict, formats=["tflite"])["tflite"]
    assert not result.passed and (ROUNDS in result.reasons) == is_quantised
    assert (rounded_inputs(strict, read_manifest(model / "keras")) is None) == is_quantised


def test_the_source_is_asked_beside_each_row_by_half_a_step_of_float16() -> None:
    specs = [TensorSpec(name, dtype, (None, 5), "ND") for name, dtype in (("x", "float32"), ("ids", "int32"))]
    manifest = Manifest("net", "keras", None, tuple(specs), (replace(specs[0], name="y"),), None, ())
    pixels = (np.arange(500) % 255 + 1).astype(np.uint8).reshape(100, 5)
    rows: dict[str, NDArray[Any]] = {"x": pixels, "ids": np.ones((100, 5), np.int32)}
    rounded = rounded_inputs(Questions(rows, None, ""), manifest)
    assert rounded is not None and rounded.count == 64
    assert rounded.inputs["x"].dtype == np.float32
    off = rounded.inputs["x"] / rows["x"][:64].astype(np.float64) - 1
    np.testing.assert_allclose(np.abs(off), 2.0**-12, rtol=1e-3)
    assert 0.3 < (off > 0).mean() < 0.7
    np.testing.assert_array_equal(rounded.inputs["ids"], rows["ids"][:64])


def test_what_computes_in_less_than_it_says_is_caught(variants: Path, tmp_path: Path, questions: Questions) -> None:
    """The float16 graph under the name of the float32 one: within a brought model's tolerance nothing else shows it."""
    shutil.copytree(variants / MODEL, tmp_path / MODEL)
    folder = tmp_path / MODEL / "onnx"
    shutil.copy(tmp_path / MODEL / "onnx-fp16" / "model.onnx", folder / "model.onnx")
    files = sha256_of_files(folder, [folder / "model.onnx"])
    write_manifest(folder, replace(read_manifest(folder), files=files))
    few = replace(questions.first(128), tolerance=1e-3)
    results = verify_model(tmp_path / MODEL, few, formats=["onnx", "tflite"])
    assert results["onnx"].passed
    assert "it computes in less than float32, or approximates an operator: its answers are" in results["onnx"].lowered
    assert "it computes in less than float32" in read_status(folder).reason
    assert results["tflite"].lowered == ""
    assert "less than" not in read_status(tmp_path / MODEL / "tflite").reason


# Planted faults

Plant = Callable[[Any], None]


def in_onnx(change: Callable[[onnx.ModelProto], None]) -> Callable[[Path], None]:
    def plant(folder: Path) -> None:
        model = onnx.load(folder / "model.onnx")
        change(model)
        onnx.save(model, folder / "model.onnx")

    return plant


def in_tflite(change: Plant) -> Callable[[Path], None]:
    def plant(folder: Path) -> None:
        model: Any = schema.ModelT.InitFromObj(schema.Model.GetRootAs((folder / "model.tflite").read_bytes(), 0))
        change(model)
        builder = flatbuffers.Builder(0)
        builder.Finish(model.Pack(builder), b"TFL3")
        (folder / "model.tflite").write_bytes(bytes(builder.Output()))

    return plant


def initializers(model: onnx.ModelProto) -> Mapping[str, onnx.TensorProto]:
    return {tensor.name: tensor for tensor in model.graph.initializer}


def restored_weights(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    """The nodes that restore weights of several dimensions."""
    known = initializers(model)
    nodes = [node for node in model.graph.node if node.op_type == "DequantizeLinear" and node.input[0] in known]
    return [node for node in nodes if len(known[node.input[0]].dims) > 1]


def set_values(tensor: onnx.TensorProto, values: NDArray[Any]) -> None:
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))


def weights_zero_point(model: onnx.ModelProto) -> None:
    zero = initializers(model)[restored_weights(model)[0].input[2]]
    set_values(zero, numpy_helper.to_array(zero) + np.int8(1))


def zero_point_of_one_side(model: onnx.ModelProto) -> None:
    known = initializers(model)
    node = [each for each in model.graph.node if each.op_type == "DequantizeLinear" and each.input[0] not in known][1]
    zero = numpy_helper.to_array(known[node.input[2]])  # uint8 or int8: the faster kind is kept
    other = zero + zero.dtype.type(1)
    model.graph.initializer.append(numpy_helper.from_array(other, "another_zero"))
    node.input[2] = "another_zero"


def wrong_axis(model: onnx.ModelProto) -> None:
    """Scales along the input's channels instead of the output's."""
    node, known = restored_weights(model)[1], initializers(model)
    axis = next(attribute for attribute in node.attribute if attribute.name == "axis")
    axis.i = 1 - axis.i
    for name in node.input[1:]:
        set_values(known[name], np.resize(numpy_helper.to_array(known[name]), known[node.input[0]].dims[axis.i]))


def scales_of_other_channels(model: onnx.ModelProto) -> None:
    scale = initializers(model)[restored_weights(model)[0].input[1]]
    set_values(scale, numpy_helper.to_array(scale)[::-1].copy())


def scale_of_another_layer(model: onnx.ModelProto) -> None:
    first, second = (initializers(model)[node.input[1]] for node in restored_weights(model)[:2])
    count = int(np.prod(first.dims))
    set_values(first, np.resize(numpy_helper.to_array(second), count))


def quantised(model: Any) -> list[Any]:
    """The tensors with scales by channel, of all graphs."""
    return [
        tensor
        for graph in model.subgraphs
        for tensor in graph.tensors
        if tensor.quantization is not None
        and tensor.quantization.scale is not None
        and len(tensor.quantization.scale) > 1
        and tensor.type == schema.TensorType.INT8
    ]


def tflite_scales_reversed(model: Any) -> None:
    for tensor in quantised(model):
        tensor.quantization.scale = tensor.quantization.scale[::-1].copy()


def tflite_scale_of_another_layer(model: Any) -> None:
    tensors = quantised(model)
    scales = [tensor.quantization.scale for tensor in tensors]
    for tensor, other in zip(tensors, scales[1:] + scales[:1], strict=True):
        tensor.quantization.scale = np.resize(other, len(tensor.quantization.scale))


def tflite_weights_a_step_higher(model: Any) -> None:
    """As if they had been quantised with a zero point that is off by one: LiteRT refuses any but 0 in the file."""
    buffer = model.buffers[quantised(model)[0].buffer]
    raised = np.frombuffer(bytes(buffer.data), np.int8).astype(np.int16) + 1
    buffer.data = np.clip(raised, -127, 127).astype(np.int8).view(np.uint8)


FAULTS = {
    "onnx: scales along the wrong axis": ("onnx-int8", in_onnx(wrong_axis), "steps from the nearest"),
    "onnx: zero point of weights off by one": ("onnx-int8", in_onnx(weights_zero_point), "steps from the nearest"),
    "onnx: zero point of one side off by one": ("onnx-int8", in_onnx(zero_point_of_one_side), "with the zero point"),
    "onnx: scales of other channels": ("onnx-int8", in_onnx(scales_of_other_channels), "steps from the nearest"),
    "onnx: scale of another layer": ("onnx-int8", in_onnx(scale_of_another_layer), "steps from the nearest"),
    "tflite: scales of other channels": ("tflite-int8", in_tflite(tflite_scales_reversed), "steps from the nearest"),
    "tflite: scale of another layer": (
        "tflite-int8",
        in_tflite(tflite_scale_of_another_layer),
        "steps from the nearest",
    ),
    "tflite: zero point of weights off by one": (
        "tflite-int8",
        in_tflite(tflite_weights_a_step_higher),
        "steps from the nearest",
    ),
}


def bed(variants: Path, folder: Path, format: str) -> Path:
    """The variant beside its float32 artifact, which is the source here: no framework has to be loaded."""
    family = format.split("-")[0]
    for name in (family, format):
        shutil.copytree(variants / MODEL / name, folder / MODEL / name)
    source = folder / MODEL / family
    write_manifest(source, replace(read_manifest(source), parent=None))
    return folder / MODEL / format


def judged(folder: Path, questions: Questions) -> ParityResult:
    """The gate's result for the files that lie there now, as if an exporter had written them."""
    manifest = read_manifest(folder)
    written = sha256_of_files(folder, [folder / name for name in manifest.files])
    write_manifest(folder, replace(manifest, files=written))
    return verify_model(folder.parent, questions, formats=[folder.name])[folder.name]


@pytest.mark.parametrize("format", ["onnx-int8", "tflite-int8"])
def test_without_a_fault_the_bed_passes(variants: Path, tmp_path: Path, questions: Questions, format: str) -> None:
    result = judged(bed(variants, tmp_path, format), questions)
    assert result.passed, result.reasons


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_does_not_pass(variants: Path, tmp_path: Path, questions: Questions, fault: str) -> None:
    format, plant, reason = FAULTS[fault]
    folder = bed(variants, tmp_path, format)
    plant(folder)
    result = judged(folder, questions)
    assert not result.passed
    assert any(reason in each for each in result.reasons), result.reasons
    assert read_status(folder).word == "unverified"


@pytest.mark.parametrize("format", MADE)
def test_a_float_file_with_the_name_of_a_precision_does_not_pass(
    variants: Path, tmp_path: Path, questions: Questions, format: str
) -> None:
    folder = bed(variants, tmp_path, format)
    for name in read_manifest(folder).files:
        shutil.copyfile(folder.with_name(format.split("-")[0]) / name, folder / name)
    result = judged(folder, questions)
    assert any("its name says" in each for each in result.reasons), result.reasons


def test_ranges_of_black_pictures_do_not_pass(variants: Path, tmp_path: Path, questions: Questions) -> None:
    folder = bed(variants, tmp_path, "onnx-int8")
    parent, manifest = folder.with_name("onnx"), read_manifest(folder.with_name("onnx"))
    black = Calibration({"pixels": np.zeros((20, 28, 28, 1), np.uint8)}, "black", tuple("abcdefghijklmnopqrst"))
    onnx_maker.static(parent, manifest, folder, black)
    result = judged(folder, questions)
    assert not result.passed
    assert any("of its source's accuracy" in each for each in result.reasons), result.reasons


def weights_only(model: onnx.ModelProto) -> None:
    """Keep int8 weights, and take the quantisation of activations out."""
    known = initializers(model)
    pairs = {node.output[0]: node.input[0] for node in model.graph.node if node.op_type == "QuantizeLinear"}
    shortcut = {
        node.output[0]: pairs[node.input[0]]
        for node in model.graph.node
        if node.op_type == "DequantizeLinear" and node.input[0] in pairs
    }
    kept = [
        node
        for node in model.graph.node
        if node.op_type != "QuantizeLinear" and not (node.op_type == "DequantizeLinear" and node.input[0] not in known)
    ]
    for node in kept:
        for place, name in enumerate(node.input):
            node.input[place] = shortcut.get(name, name)
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in kept]
    del model.graph.node[:]
    model.graph.node.extend(copies)


def test_int8_weights_that_are_computed_in_float_are_stored_only(
    variants: Path, tmp_path: Path, questions: Questions
) -> None:
    folder = bed(variants, tmp_path, "onnx-int8")
    in_onnx(weights_only)(folder)
    judged(folder, questions)
    ledger = read_ledger(folder)
    assert ledger is not None
    assert ledger.weights["int8"] > 0
    assert ledger.computing == {"float32": 3}
    assert ledger.is_stored_only


# What is no fault


def test_weights_that_are_folded_are_the_parents(tmp_path: Path) -> None:
    """A multiplication behind a convolution, as a normalisation is exported, becomes a part of its weights."""
    random = np.random.default_rng(0)
    weights, factors = random.normal(size=(4, 3, 3, 3)), random.uniform(0.2, 5, (1, 4, 1, 1))
    nodes = [
        onnx.helper.make_node("Conv", ["x", "weights"], ["hidden"], "convolution"),
        onnx.helper.make_node("Mul", ["hidden", "factors"], ["y"], "factor"),
    ]
    ends = [
        [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)]
        for name, shape in (("x", ["batch", 3, 9, 7]), ("y", ["batch", 4, 7, 5]))
    ]
    constants = [
        onnx.numpy_helper.from_array(each.astype(np.float32), name)
        for name, each in (("weights", weights), ("factors", factors))
    ]
    model = onnx.helper.make_model(
        onnx.helper.make_graph(nodes, "net", *ends, constants),
        opset_imports=[onnx.helper.make_opsetid("", 18)],
        ir_version=10,
    )
    parent = network(tmp_path)
    onnx.save(model, parent / "model.onnx")
    about = read_manifest(parent)
    inputs = (replace(about.inputs[0], shape=(None, 3, 9, 7), layout="NCHW"),)
    outputs = (replace(about.outputs[0], shape=(None, 4, 7, 5), layout="NCHW"),)
    files = sha256_of_files(parent, [parent / "model.onnx"])
    write_manifest(parent, replace(about, inputs=inputs, outputs=outputs, files=files))
    pixels = random.normal(size=(32, 3, 9, 7)).astype(np.float32)
    rows = Calibration({about.inputs[0].name: pixels}, "pixels", tuple(map(str, range(32))))
    make_variant(parent, PRECISIONS["onnx-int8"], rows)
    folder = parent.with_name("onnx-int8")
    examined = examine(folder, read_manifest(folder))
    assert examined is not None
    assert examined[1] == []


@pytest.mark.parametrize(("kept", "is_fault"), [(6e-8, False), (3e-7, True)])
def test_a_value_below_what_float16_holds_may_keep_its_sign(kept: float, is_fault: bool) -> None:
    own = np.array([1.0, 2.0, 3.0, 1e-9], np.float32)
    stored = np.array([1.0, 2.0, 3.0, kept], np.float16)
    parent, variant = (
        Contents({}, {}, (Constant("w", str(each.dtype), each.nbytes, each),), {}, {}, 0, 0) for each in (own, stored)
    )
    assert bool([*foreign_weights(parent, variant)]) is is_fault


# The classes


def pairs(rows: int, lost: int, won: int = 0, right: float = 1.0) -> Scored:
    """Right and wrong answers of a source that is right on a share of the rows."""
    source = np.zeros(rows)
    source[: round(rows * right)] = 1
    artifact = source.copy()
    artifact[:lost] = 0
    artifact[rows - won :] = 1
    return Scored("accuracy", source, artifact)


@pytest.mark.parametrize(
    ("scored", "limit", "passes"),
    [
        (pairs(10_000, 0), 0.999, True),
        (pairs(10_000, 3), 0.999, True),
        (pairs(10_000, 30), 0.99, True),
        (pairs(10_000, 85), 0.99, False),
        (pairs(10_000, 200), 0.99, False),
        (pairs(10_000, 40, 40, 0.9), 0.99, True),
        (pairs(10_000, 400, 400, 0.9), 0.99, True),
        (pairs(64, 0), 0.99, False),
    ],
)
def test_an_artifact_passes_where_the_whole_interval_reaches_the_class(
    scored: Scored, limit: float, passes: bool
) -> None:
    kept = kept_of(scored)
    assert (kept.limit, kept.passes) == (limit, passes)


def test_too_few_rows_are_said_with_the_number_that_would_do() -> None:
    *_, last = misses(kept_of(pairs(64, 0)))
    assert last == "64 rows are too few to show it: about 560 would do"


def test_the_interval_is_agresti_and_mins() -> None:
    """Their formula by hand: 20 lost and 10 won of 1000, half a pair added to each of four cells."""
    changes = np.array([-1.0] * 20 + [1.0] * 10 + [0.0] * 970)
    rows, lost, won = 1002, 20.5, 10.5
    middle = (won - lost) / rows
    reach = 1.959964 * np.sqrt((won + lost) - (won - lost) ** 2 / rows) / rows
    assert paired_interval(changes) == pytest.approx((middle - reach, middle + reach), rel=1e-6)


def test_pairs_on_the_same_rows_are_narrower_than_two_shares_apart() -> None:
    low, high = paired_interval(np.array([-1.0] * 5 + [1.0] * 5 + [0.0] * 9_990))
    assert high - low < 0.002 < 2 * 1.96 * np.sqrt(2 * 0.9 * 0.1 / 10_000)


def test_a_model_that_lost_small_outputs_beside_large_ones_does_not_pass() -> None:
    """Boxes of hundreds and scores below 1 in one output: the scores are all zero."""
    random = np.random.default_rng(0)
    expected = np.concatenate([random.uniform(0, 640, (500, 4)), random.uniform(0, 1, (500, 4))], axis=1)
    dead = expected * [1, 1, 1, 1, 0, 0, 0, 0]
    assert not least_kept({"boxes": expected}, {"boxes": dead}, None, False).passes
    rounded = expected * (1 + 1e-3 * random.normal(size=expected.shape))
    assert least_kept({"boxes": expected}, {"boxes": rounded}, None, False).passes


def test_a_source_that_only_guesses_is_judged_by_agreement() -> None:
    random = np.random.default_rng(0)
    expected, labels = random.normal(size=(2000, 10)), random.integers(0, 10, 2000)
    kept = least_kept({"y": expected}, {"y": expected}, labels, True)
    assert (kept.measure, kept.share) == ("agreement", 1)
    assert least_kept({"y": expected}, {"y": expected}, expected.argmax(axis=1), True).measure == "accuracy"


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_answers_that_are_no_numbers_keep_nothing(value: float) -> None:
    expected = np.random.default_rng(0).normal(size=(500, 3))
    broken = np.full_like(expected, value)
    assert least_kept({"y": expected}, {"y": broken}, None, False).share == 0
    assert least_kept({"y": expected}, {"y": broken}, None, True).share == 0


@pytest.mark.parametrize(
    ("text", "limits"), [("", CLASSES), ("0.5%", (0.995,)), ("0.005", (0.995,)), (" 2 %", (0.98,))]
)
def test_max_loss_chooses_another_limit(text: str, limits: tuple[float, ...]) -> None:
    assert limits_of(text) == limits


@pytest.mark.parametrize("text", ["0", "100%", "1", "-1%", "much", "nan", "%"])
def test_a_max_loss_that_is_none_is_said(text: str) -> None:
    with pytest.raises(ParityError, match=r"MAX_LOSS=.* is not a limit"):
        limits_of(text)


def test_the_status_names_the_limit_that_was_asked_for(variants: Path, tmp_path: Path, questions: Questions) -> None:
    folder = bed(variants, tmp_path, "onnx-int8dyn")
    verify_model(folder.parent, questions, limits_of("3%"))
    assert read_status(folder).word == "verified at 97 %"


def test_a_variant_that_cannot_be_run_stays_unverified_and_stops_nothing(
    variants: Path, tmp_path: Path, questions: Questions, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = bed(variants, tmp_path, "onnx-int8")
    (folder / "parity.json").unlink()
    (folder / "model.onnx").write_bytes(b"no graph")
    write_manifest(folder, replace(read_manifest(folder), files=sha256_of_files(folder, [folder / "model.onnx"])))
    assert verify_model(folder.parent, questions) == {}
    assert "keras_cnn-onnx-int8 cannot be compared" in capfd.readouterr().err
    assert read_status(folder).word == "unverified"


def test_few_pictures_prove_nothing(variants: Path, tmp_path: Path, test_split: Split) -> None:
    folder = bed(variants, tmp_path, "onnx-int8")
    few = Split(test_split.images[:50], test_split.labels[:50])
    result = verify_model(folder.parent, of_split(few), formats=["onnx-int8"])["onnx-int8"]
    assert not result.passed
    assert "50 rows are too few" in "; ".join(result.reasons)
