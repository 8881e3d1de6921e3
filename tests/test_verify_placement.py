"""Where operators run, in graphs with a running sum, which accelerators do not know, between two products."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import tensorflow as tf
from onnx import TensorProto, helper, numpy_helper

from contract.code import ROOT
from contract.formats import is_installed
from contract.manifest import Manifest, TensorSpec
from contract.placement import Placement
from verify.placement import placements

WIDTH = 4
SPEC = TensorSpec("x", "float32", (None, WIDTH), "NC")
WEIGHTS = np.random.default_rng(0).normal(size=(WIDTH, WIDTH)).astype(np.float32)


def manifest(format: str, file: str) -> Manifest:
    return Manifest("net", format, None, (SPEC,), (replace(SPEC, name="y"),), None, (), files={file: ""})


def tflite(folder: Path) -> Manifest:
    def net(x: tf.Tensor) -> tf.Tensor:
        return tf.cumsum(x @ WEIGHTS, axis=1) @ (2 * WEIGHTS)

    traced = tf.function(net).get_concrete_function(tf.TensorSpec([None, WIDTH], tf.float32))
    (folder / "model.tflite").write_bytes(tf.lite.TFLiteConverter.from_concrete_functions([traced]).convert())
    return manifest("tflite", "model.tflite")


def graph(width: str | int = "batch") -> onnx.ModelProto:
    nodes = [
        helper.make_node("MatMul", ["x", "first"], ["a"]),
        helper.make_node("CumSum", ["a", "axis"], ["b"]),
        helper.make_node("MatMul", ["b", "second"], ["y"]),
    ]
    ends = [[helper.make_tensor_value_info(name, TensorProto.FLOAT, [width, WIDTH])] for name in ("x", "y")]
    constants = [numpy_helper.from_array(WEIGHTS, "first"), numpy_helper.from_array(2 * WEIGHTS, "second")]
    constants.append(numpy_helper.from_array(np.int64(1), "axis"))
    made = helper.make_graph(nodes, "net", *ends, constants)
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def test_xnnpack_takes_what_is_on_both_sides_of_a_running_sum(tmp_path: Path) -> None:
    assert placements(tmp_path, tflite(tmp_path)) == (Placement("XNNPACK", 2, 3, 2, is_loaded=True),)


def test_a_graph_is_loaded_with_the_least_sizes_that_it_takes(tmp_path: Path) -> None:
    kernel = np.ones((5, WIDTH, 2), np.float32)
    traced = tf.function(lambda x: tf.nn.conv1d(x, kernel, 1, "VALID")).get_concrete_function(
        tf.TensorSpec([None, None, WIDTH], tf.float32)
    )
    (tmp_path / "model.tflite").write_bytes(tf.lite.TFLiteConverter.from_concrete_functions([traced]).convert())
    spec = TensorSpec("x", "float32", (None, None, WIDTH), "NLC", least=(1, 5, WIDTH))
    (placement,) = placements(tmp_path, replace(manifest("tflite", "model.tflite"), inputs=(spec,)))
    assert placement.part == "XNNPACK"


@pytest.mark.parametrize(("batch", "is_free"), [("batch", True), (1, False)])
def test_providers_for_phones_could_take_what_is_on_both_sides(tmp_path: Path, batch: str | int, is_free: bool) -> None:
    onnx.save(graph(batch), tmp_path / "model.onnx")
    known = manifest("onnx", "model.onnx")
    known = known if is_free else replace(known, inputs=(replace(SPEC, shape=(1, WIDTH)),))
    expected = [Placement(part, 2, 3, 2, is_loaded=False, if_sizes_are_fixed=is_free) for part in ("NNAPI", "Core ML")]
    assert placements(tmp_path, known) == tuple(expected)


def test_the_check_of_an_onnx_file_leaves_pytorch_where_it_is(tmp_path: Path) -> None:
    """Loading it takes longer than the check."""
    onnx.save(graph(), tmp_path / "model.onnx")
    code = """if True:
        import sys
        from pathlib import Path
        from contract.manifest import Manifest, TensorSpec
        from verify.placement import placements
        ends = [(TensorSpec(name, "float32", (None, 4), "NC"),) for name in "xy"]
        known = Manifest("net", "onnx", None, *ends, None, (), {"model.onnx": ""})
        assert len(placements(Path(sys.argv[1]), known)) == 2
        assert "torch" not in sys.modules
        import torch
        assert torch.ones(1).sum() == 1
    """
    done = subprocess.run([sys.executable, "-c", code, tmp_path], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(not is_installed("openvino"), reason="OpenVINO is not installed")
def test_openvino_has_a_plain_kernel_for_a_running_sum(tmp_path: Path) -> None:
    import openvino

    onnx.save(graph(), tmp_path / "net.onnx")
    openvino.save_model(openvino.convert_model(tmp_path / "net.onnx"), tmp_path / "model.xml", compress_to_fp16=False)
    (placement,) = placements(tmp_path, manifest("openvino", "model.xml"))
    assert placement.part == "fast kernels"
    assert placement.operators == placement.total - 1
    assert placement.is_loaded


def test_executorch_keeps_what_its_exporter_counted(tmp_path: Path) -> None:
    (tmp_path / "model.pte").touch()
    counted = {"delegated": {"xnnpack": 10, "parts": 3, "others": 3}}
    known = replace(manifest("executorch", "model.pte"), made_with=counted)
    assert placements(tmp_path, known) == (Placement("XNNPACK", 10, 13, 3, is_loaded=True),)


@pytest.mark.parametrize("format", ["tflite", "onnx"])
def test_a_file_that_cannot_be_loaded_has_no_placement(tmp_path: Path, format: str) -> None:
    (tmp_path / f"model.{format}").write_bytes(b"nothing")
    assert placements(tmp_path, manifest(format, f"model.{format}")) == ()


def test_a_format_that_shows_nothing_has_no_placement(tmp_path: Path) -> None:
    (tmp_path / "model.keras").touch()
    assert placements(tmp_path, manifest("keras", "model.keras")) == ()


@pytest.mark.parametrize(
    ("placement", "words"),
    [
        (Placement("XNNPACK", 8, 9, 2, True), "8 of 9 operators run on XNNPACK, in 2 pieces"),
        (Placement("fast kernels", 9, 9, 0, True), "9 of 9 operators run on fast kernels"),
        (
            Placement("NNAPI", 5, 7, 1, False, True),
            "5 of 7 operators could run on NNAPI, in 1 piece, once its sizes are fixed",
        ),
        (Placement("Core ML", 0, 7, 0, False, True), "0 of 7 operators could run on Core ML"),
        (Placement("{part} {", 1, 7, 0, True), "1 of 7 operators run on {part} {"),
    ],
)
def test_a_placement_is_a_phrase(placement: Placement, words: str) -> None:
    assert str(placement) == words
