"""Every edge of the graph of formats keeps the tensors and the answers, and leaves nothing unfinished when it fails."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import onnx
import onnx.helper
import onnxruntime
import pytest
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter
from numpy.typing import NDArray

from contract.behaviour import BEHAVIOUR
from contract.code import ROOT
from contract.dataset import Bytes, Split
from contract.errors import ArtifactCorrupt, ArtifactError, ArtifactMissing, ExportError, UnknownEdge
from contract.formats import is_installed, needs
from contract.mac_record import QUESTIONS, SCRIPT
from contract.manifest import (
    MANIFEST,
    Manifest,
    TensorSpec,
    read_manifest,
    sha256_of_files,
    verify_files,
    write_manifest,
)
from contract.parity_result import PARITY
from export import EXPORTERS, Route, export_artifact, exported_from
from export.onnx_graph import finish_onnx
from export.onnx_names import rename, tensors_of
from serve.runtimes import Runtime, load_runtime

SOURCES = {"keras_cnn": "keras", "torch_cnn": "torch"}

TOLERANCE = 1e-5
"""Converters reorder float32 sums: the largest difference measured was 2e-6; a wrong layout is off by 0.5 or more."""


def edges_from(source: str) -> Iterator[tuple[str, str]]:
    """One edge to each format, the nearest first, as in the Makefile."""
    reached = {source}
    for parent, format in EXPORTERS:
        if parent in reached and format not in reached and is_installed(format):
            reached.add(format)
            yield parent, format


CASES = [(model, parent, format) for model, source in SOURCES.items() for parent, format in edges_from(source)]

BROUGHT_ONLY = {("savedmodel", "onnx"), ("tflite", "onnx")}
"""Edges that our own models do not need: tests/test_bring.py and tests/test_export_tflite_to_onnx.py test them."""

each_export = pytest.mark.parametrize(("model", "parent", "format"), CASES, ids=lambda word: str(word))
each_that_runs = pytest.mark.parametrize(
    ("model", "parent", "format"), [case for case in CASES if not needs(case[2])], ids=lambda word: str(word)
)
"""The others have tests of their own: tests/test_export_coreml.py."""


Load = Callable[[Path], Runtime]
Case = tuple[str, str, str]
Fault = Callable[[Path], None]
Done = subprocess.CompletedProcess[str]


@pytest.fixture(scope="module")
def load() -> Iterator[Load]:
    """Load an artifact in its real runtime, each once."""
    loaded: dict[Path, Runtime] = {}

    def cached(folder: Path) -> Runtime:
        if folder not in loaded:
            manifest = read_manifest(folder)
            verify_files(folder, manifest)
            loaded[folder] = load_runtime(folder, manifest)
        return loaded[folder]

    yield cached
    for runtime in loaded.values():
        runtime.close()


# What every export has


def test_every_exporter_is_walked_here() -> None:
    here = {edge for edge in EXPORTERS if is_installed(edge[1])}
    assert {(parent, format) for _, parent, format in CASES} == here - BROUGHT_ONLY
    assert len(CASES) == sum(len(exported_from(source)) for source in SOURCES.values())


@each_export
def test_the_manifest_has_the_sources_inputs_and_outputs(artifacts: Path, model: str, parent: str, format: str) -> None:
    source, exported = (read_manifest(artifacts / model / name) for name in (SOURCES[model], format))
    assert (exported.model, exported.format, exported.parent) == (model, format, parent)
    assert exported.inputs == source.inputs
    assert exported.outputs == source.outputs
    assert (exported.image, exported.labels) == (source.image, source.labels)
    assert exported.made_with["converters"]
    assert exported.made_with["seconds"] >= 0


@each_export
def test_the_manifest_names_every_file_in_the_folder(artifacts: Path, model: str, parent: str, format: str) -> None:
    folder = artifacts / model / format
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    beside = {QUESTIONS, SCRIPT} if needs(format) else {PARITY, BEHAVIOUR}
    assert files == {*read_manifest(folder).files, MANIFEST, *beside}


@pytest.mark.parametrize("folder", ["keras_cnn/keras", "keras_cnn/savedmodel", "torch_cnn/torch", "torch_cnn/onnx"])
def test_exporting_leaves_the_parent_as_it_was(artifacts: Path, folder: str) -> None:
    verify_files(artifacts / folder, read_manifest(artifacts / folder))


@pytest.mark.parametrize("batch", [1, 2, 7, 64])
@each_that_runs
def test_answers_are_the_sources_on_real_pictures(
    artifacts: Path,
    load: Load,
    test_split: Split,
    model: str,
    parent: str,
    format: str,
    batch: int,
) -> None:
    pixels = test_split.images[:batch].astype(np.float32)
    assert_same_answers(load(artifacts / model / SOURCES[model]), load(artifacts / model / format), pixels)


@pytest.mark.parametrize("batch", [1, 2, 7, 64])
@each_that_runs
def test_answers_are_the_sources_where_height_width_and_channels_differ(
    odd_models: Path,
    load: Load,
    odd_images: Bytes,
    model: str,
    parent: str,
    format: str,
    batch: int,
) -> None:
    pixels = odd_images[:batch].astype(np.float32)
    assert_same_answers(load(odd_models / model / SOURCES[model]), load(odd_models / model / format), pixels)


def assert_same_answers(source: Runtime, exported: Runtime, pixels: NDArray[np.float32]) -> None:
    expected, got = source.predict({"pixels": pixels}), exported.predict({"pixels": pixels})
    assert set(got) == {"probabilities"}
    assert got["probabilities"].shape == (len(pixels), 10)
    assert got["probabilities"].dtype == np.float32
    np.testing.assert_allclose(got["probabilities"], expected["probabilities"], rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("model", SOURCES)
def test_the_odd_pictures_would_show_a_wrong_layout(
    odd_models: Path, load: Load, odd_images: Bytes, model: str
) -> None:
    """Mirrored, or with its channels reversed, a picture gets an answer that differs by far more than the tolerance."""
    runtime, pixels = load(odd_models / model / SOURCES[model]), odd_images.astype(np.float32)
    right = runtime.predict({"pixels": pixels})["probabilities"]
    reread = pixels.reshape(64, 3, 20, 28).transpose(0, 2, 3, 1)
    for wrong in (pixels[:, ::-1], pixels[:, :, ::-1], pixels[..., ::-1], reread):
        answers = runtime.predict({"pixels": np.ascontiguousarray(wrong)})["probabilities"]
        assert np.abs(answers - right).max(axis=1).min() > 100 * TOLERANCE


# ONNX


@pytest.mark.parametrize("model", SOURCES)
def test_onnx_has_the_names_and_a_free_batch_in_one_checked_file(artifacts: Path, model: str) -> None:
    folder = artifacts / model / "onnx"
    assert list(read_manifest(folder).files) == ["model.onnx"], "a browser loads one file"
    loaded = onnx.load(folder / "model.onnx", load_external_data=False)
    onnx.checker.check_model(loaded, full_check=True)
    assert not any(tensor.external_data for tensor in loaded.graph.initializer)
    assert [onnx_tensor(value) for value in loaded.graph.input] == [("pixels", ["batch", 28, 28, 1])]
    assert [onnx_tensor(value) for value in loaded.graph.output] == [("probabilities", ["batch", 10])]


@pytest.mark.parametrize(("window", "operator"), [(6, "GlobalAveragePool"), (2, "AveragePool")])
def test_a_pooling_window_larger_than_the_picture_becomes_global_pooling(
    tmp_path: Path, window: int, operator: str
) -> None:
    path, helper = tmp_path / "model.onnx", onnx.helper
    pool = {"kernel_shape": [window] * 2, "strides": [window] * 2, "ceil_mode": 1, "count_include_pad": 1}
    nodes = [helper.make_node("Relu", ["x"], ["y"]), helper.make_node("AveragePool", ["y"], ["z"], **pool)]
    x, z = (
        helper.make_tensor_value_info(name, 1, ["n", 1, *size]) for name, size in (("x", (4, 5)), ("z", (None, None)))
    )
    graph = helper.make_graph(nodes, "pool", [x], [z])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    specs = [TensorSpec(name, "float32", (None, 1, None, None), "NCHW") for name in ("x", "z")]
    pictures = np.random.default_rng(1).random((2, 1, 4, 5), np.float32)
    before = onnxruntime.InferenceSession(path).run(None, {"x": pictures})[0]
    finish_onnx(path, Manifest("pool", "onnx", None, (specs[0],), (specs[1],), None, ()))
    assert [node.op_type for node in onnx.load(path).graph.node] == ["Relu", operator]
    np.testing.assert_allclose(onnxruntime.InferenceSession(path).run(None, {"x": pictures})[0], before, atol=1e-6)


def onnx_tensor(value: onnx.ValueInfoProto) -> tuple[str, list[str | int]]:
    return value.name, [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]


def test_a_traced_program_answers_any_number_of_pictures_one_at_a_time(
    odd_models: Path, load: Load, odd_images: Bytes, tmp_path: Path
) -> None:
    done = export(odd_models / "torch_cnn" / "torch", "onnx", tmp_path / "onnx", "--route", "1")
    assert done.returncode == 0, done.stderr
    assert read_manifest(tmp_path / "onnx").batch == 1
    pixels = odd_images[:7].astype(np.float32)
    assert_same_answers(load(odd_models / "torch_cnn" / "torch"), load(tmp_path / "onnx"), pixels)


# OpenVINO


@pytest.mark.skipif(not is_installed("openvino"), reason="OpenVINO is not installed")
@pytest.mark.parametrize("route", ["0", "1", "2"])
def test_openvino_keeps_the_names_and_float32(
    odd_models: Path, load: Load, odd_images: Bytes, tmp_path: Path, route: str
) -> None:
    done = export(odd_models / "torch_cnn" / "onnx", "openvino", tmp_path / "openvino", "--route", route)
    assert done.returncode == 0, done.stderr
    manifest = read_manifest(tmp_path / "openvino")
    assert list(manifest.files) == ["model.bin", "model.xml"]
    source = onnx.load(odd_models / "torch_cnn" / "onnx" / "model.onnx")
    weights = sum(4 * int(np.prod(tensor.dims)) for tensor in source.graph.initializer if tensor.data_type == 1)
    assert (tmp_path / "openvino" / "model.bin").stat().st_size >= weights > 10_000, "by default it would be float16"
    assert str(tmp_path) not in (tmp_path / "openvino" / "model.xml").read_text()
    assert_same_answers(
        load(odd_models / "torch_cnn" / "torch"), load(tmp_path / "openvino"), odd_images[:7].astype(np.float32)
    )


@pytest.mark.skipif(not is_installed("openvino"), reason="OpenVINO is not installed")
def test_openvino_takes_what_it_does_not_read_from_onnx_as_tensorflow_has_it(tmp_path: Path) -> None:
    """A linear model of a table."""
    source = tmp_path / "table" / "onnx"
    source.mkdir(parents=True)
    weights = np.random.default_rng(2).normal(size=15).tolist()
    nodes = [
        onnx.helper.make_node("Scaler", ["x"], ["scaled"], domain="ai.onnx.ml", offset=[0.5], scale=[2.0]),
        onnx.helper.make_node("LinearClassifier", ["scaled"], ["label", "p"], domain="ai.onnx.ml", coefficients=weights,
                              intercepts=[0.1, 0.2, 0.3], post_transform="SOFTMAX",
                              classlabels_ints=[4, 7, 9]),
    ]  # fmt: skip
    ends = (("x", "float32", 1, (None, 5)), ("label", "int64", 7, (None,)), ("p", "float32", 1, (None, 3)))
    infos = [onnx.helper.make_tensor_value_info(name, kind, ["N", *shape[1:]]) for name, _, kind, shape in ends]
    graph = onnx.helper.make_graph(nodes, "table", infos[:1], infos[1:])
    opsets = [onnx.helper.make_opsetid("", 17), onnx.helper.make_opsetid("ai.onnx.ml", 3)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opsets, ir_version=8), source / "model.onnx")
    specs = [TensorSpec(name, dtype, shape, "ND"[: len(shape)]) for name, dtype, _, shape in ends]
    files = sha256_of_files(source, [source / "model.onnx"])
    write_manifest(source, Manifest("table", "onnx", None, (specs[0],), tuple(specs[1:]), None, (), files=files))
    target = tmp_path / "table" / "openvino"
    assert "Scaler" in export(source, "openvino", target).stderr
    done = export(source, "openvino", target, "--route", "2")
    assert done.returncode == 0, done.stderr
    rows = {"x": np.random.default_rng(3).normal(size=(9, 5)).astype(np.float32)}
    expected, got = (load_runtime(folder, read_manifest(folder)).predict(rows) for folder in (source, target))
    np.testing.assert_allclose(got["p"], expected["p"], atol=1e-6)
    np.testing.assert_array_equal(got["label"], expected["label"])


# SavedModel


@pytest.mark.parametrize(("signature", "batch"), [("serving_default", None), ("batch1", 1)])
@pytest.mark.parametrize("model", SOURCES)
def test_savedmodel_has_both_signatures_with_the_names(
    artifacts: Path, model: str, signature: str, batch: int | None
) -> None:
    loaded = tf.saved_model.load(str(artifacts / model / "savedmodel"))
    assert set(loaded.signatures) == {"serving_default", "batch1"}
    _, inputs = loaded.signatures[signature].structured_input_signature
    outputs = loaded.signatures[signature].structured_outputs
    assert {name: spec.shape.as_list() for name, spec in inputs.items()} == {"pixels": [batch, 28, 28, 1]}
    assert {name: spec.shape.as_list() for name, spec in outputs.items()} == {"probabilities": [batch, 10]}


# TF Lite


@pytest.mark.parametrize("model", SOURCES)
def test_both_signatures_of_tflite_give_the_same_answer(artifacts: Path, test_split: Split, model: str) -> None:
    interpreter = Interpreter(str(artifacts / model / "tflite" / "model.tflite"))
    names = {"inputs": ["pixels"], "outputs": ["probabilities"]}
    assert interpreter.get_signature_list() == {"serving_default": names, "batch1": names}
    free, one = (interpreter.get_signature_runner(name) for name in ("serving_default", "batch1"))
    pixels = test_split.images[:8].astype(np.float32)
    single = [one(pixels=pixels[row : row + 1])["probabilities"] for row in range(8)]
    np.testing.assert_allclose(free(pixels=pixels)["probabilities"], np.concatenate(single), atol=TOLERANCE)


@pytest.mark.parametrize("model", SOURCES)
def test_an_interpreter_without_signatures_takes_any_batch(artifacts: Path, test_split: Split, model: str) -> None:
    path = str(artifacts / model / "tflite" / "model.tflite")
    interpreter, pixels = Interpreter(path), test_split.images[:8].astype(np.float32)
    (taken,), (given,) = interpreter.get_input_details(), interpreter.get_output_details()
    assert taken["shape"].tolist() == [1, 28, 28, 1]
    free = Interpreter(path).get_signature_runner("serving_default")
    for rows in (1, 8, 3):
        interpreter.resize_tensor_input(taken["index"], (rows, 28, 28, 1))
        interpreter.allocate_tensors()
        interpreter.set_tensor(taken["index"], pixels[:rows])
        interpreter.invoke()
        answers = interpreter.get_tensor(given["index"])
        np.testing.assert_allclose(answers, free(pixels=pixels[:rows])["probabilities"], atol=TOLERANCE)


@pytest.mark.parametrize("model", SOURCES)
def test_both_signatures_of_tflite_share_their_weights(artifacts: Path, model: str) -> None:
    weights = 4 * read_manifest(artifacts / model / SOURCES[model]).made_with["parameters"]
    size = (artifacts / model / "tflite" / "model.tflite").stat().st_size
    assert weights < size < 1.3 * weights


# TF.js


@pytest.mark.parametrize("model", SOURCES)
def test_tfjs_is_a_fused_graph_model_with_the_names(artifacts: Path, model: str) -> None:
    graph = json.loads((artifacts / model / "tfjs" / "model.json").read_text())
    assert graph["format"] == "graph-model"
    assert list(graph["signature"]["inputs"]) == ["pixels"]
    assert list(graph["signature"]["outputs"]) == ["probabilities"]
    operators = [node["op"] for node in graph["modelTopology"]["node"]]
    assert operators.count("_FusedConv2D") == 2
    assert not {"Conv2D", "BiasAdd", "VarHandleOp", "ReadVariableOp"} & set(operators)
    if model == "keras_cnn":  # the route from PyTorch puts the relu behind the pooling, where there are fewer values
        assert "Relu" not in operators


@pytest.mark.parametrize("model", SOURCES)
def test_tfjs_holds_the_float32_weights_once(artifacts: Path, model: str) -> None:
    folder = artifacts / model / "tfjs"
    weights = 4 * read_manifest(artifacts / model / SOURCES[model]).made_with["parameters"]
    size = sum((folder / name).stat().st_size for name in read_manifest(folder).files if name.endswith(".bin"))
    assert weights <= size < weights + 1_000


RECURRENT = """
import sys
from pathlib import Path
import keras
from export import export_artifact
from bring.description import Description
from bring.source import write_source

folder, layers = Path(sys.argv[1]), keras.layers
keras.utils.set_random_seed(7)
words = keras.Input((6,), dtype="int32", name="words")
read = layers.Embedding(20, 4, mask_zero=True)(words)
read = layers.Bidirectional(layers.GRU(3, return_sequences=True))(read)
keras.Model(words, layers.Dense(2, activation="softmax")(layers.LSTM(4)(read))).save(folder / "recurrent.keras")
write_source(folder / "recurrent.keras", folder, "recurrent", Description())
export_artifact(folder / "keras", "savedmodel")
"""


@pytest.mark.parametrize("batch", [1, 3])
def test_recurrent_layers_run_in_tfjs_when_their_loops_are_functions(recurrent: Path, load: Load, batch: int) -> None:
    words = np.random.default_rng(batch).integers(0, 20, (batch, 6)).astype(np.int32)
    (expected,), (got,) = (load(recurrent / format).predict({"words": words}).values() for format in ("keras", "tfjs"))
    assert np.ptp(expected, axis=0).max() > 1e-4 or batch == 1
    np.testing.assert_allclose(got, expected, rtol=0, atol=TOLERANCE)


@pytest.fixture(scope="module")
def recurrent(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recurrent network over masked words: a bidirectional layer, then another layer."""
    folder = tmp_path_factory.mktemp("recurrent")
    done = subprocess.run([sys.executable, "-c", RECURRENT, folder], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    done = export(folder / "savedmodel", "tfjs", "--route", LOOPS)
    assert done.returncode == 0, done.stderr
    return folder


LOOPS = str([route.name for route in EXPORTERS["savedmodel", "tfjs"]].index("graph model, loops as functions"))


def test_a_graph_without_loops_is_not_converted_twice(artifacts_copy: Path) -> None:
    done = export(artifacts_copy / "keras_cnn" / "savedmodel", "tfjs", "--route", LOOPS)
    assert (done.returncode, "There is no loop in the graph." in done.stderr) == (1, True)


# What can go wrong: the parent


def test_an_unknown_edge_names_the_known_ones(artifacts: Path, tmp_path: Path) -> None:
    with pytest.raises(UnknownEdge) as caught:
        export_artifact(artifacts / "keras_cnn" / "keras", "coreml", tmp_path / "coreml")
    assert str(caught.value) == "No exporter keras -> coreml. Known from keras: onnx, savedmodel."
    with pytest.raises(UnknownEdge) as caught:
        export_artifact(artifacts / "keras_cnn" / "tflite", "tfjs", tmp_path / "tfjs")
    assert str(caught.value) == "No exporter tflite -> tfjs. Known from tflite: onnx."
    assert list(tmp_path.iterdir()) == []


def test_a_missing_parent_is_one_line_and_exit_status_1(tmp_path: Path) -> None:
    with pytest.raises(ArtifactMissing, match="There is no artifact"):
        export_artifact(tmp_path / "keras", "onnx")
    done = export(tmp_path / "keras", "onnx")
    assert done.returncode == 1
    assert done.stderr == (
        f"error: There is no artifact in {tmp_path}/keras: it has no manifest.json. Make it with `make artifacts`.\n"
    )


@pytest.mark.parametrize(("parent", "format"), [("savedmodel", "tflite"), ("keras", "onnx")])
def test_a_parent_with_a_changed_byte_is_refused(artifacts_copy: Path, parent: str, format: str) -> None:
    model = artifacts_copy / "keras_cnn"
    damaged = model / parent / next(iter(read_manifest(model / parent).files))
    content = bytearray(damaged.read_bytes())
    content[len(content) // 2] ^= 1
    damaged.write_bytes(content)
    before = (model / format / MANIFEST).read_bytes()
    with pytest.raises(ArtifactCorrupt, match="it is not the file that was exported"):
        export_artifact(model / parent, format)
    assert (model / format / MANIFEST).read_bytes() == before


# What can go wrong: the converter


def garbage(path: Path) -> None:
    path.write_bytes(b"not a model" * 50)


def unknown_operator(path: Path) -> None:
    write_onnx(path, onnx.helper.make_node("NoSuchOperator", ["pixels"], ["probabilities"], domain="nowhere"))


def operator_that_is_known_in_part(path: Path) -> None:
    ends = ["pixels", "indices", "pixels"]
    write_onnx(path, onnx.helper.make_node("ScatterElements", ends, ["probabilities"], reduction="mul"))


def write_onnx(path: Path, node: onnx.NodeProto) -> None:
    shape = ["batch", 28, 28, 1]
    tensors = [
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape) for name in ("pixels", "probabilities")
    ]
    indices = onnx.helper.make_tensor("indices", onnx.TensorProto.INT64, [1, 28, 28, 1], [0] * 784)
    graph = onnx.helper.make_graph([node], "graph", tensors[:1], tensors[1:], [indices])
    versions = [onnx.helper.make_opsetid("", 18), onnx.helper.make_opsetid("nowhere", 1)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=versions), path)


FAULTS: Mapping[Fault, str] = {
    garbage: "failed in its converter: DecodeError: ",
    unknown_operator: r"There is no translation of the ONNX operator nowhere\.NoSuchOperator\.",
    operator_that_is_known_in_part: "The ONNX node ScatterElements .* cannot be translated: .*products of scattered",
}


@pytest.fixture(scope="module")
def refused(artifacts: Path, tmp_path_factory: pytest.TempPathFactory) -> Mapping[Fault, Done]:
    """The run of each of FAULTS, two at a time: most of the time is the converters' start."""
    folder = tmp_path_factory.mktemp("refused")

    def converted(write: Fault) -> Done:
        model = folder / write.__name__
        for format in ("onnx", "savedmodel"):
            shutil.copytree(artifacts / "torch_cnn" / format, model / format)
        write(model / "onnx" / "model.onnx")
        rewrite_manifest(model / "onnx")
        with keeps_the_old_artifact(model / "savedmodel"):
            return export(model / "onnx", "savedmodel")

    with ThreadPoolExecutor(2) as pool:
        return dict(zip(FAULTS, pool.map(converted, FAULTS), strict=True))


@pytest.mark.parametrize("write", FAULTS)
def test_an_onnx_file_that_cannot_be_converted_is_one_line_and_keeps_the_old_artifact(
    refused: Mapping[Fault, Done], write: Fault
) -> None:
    done = refused[write]
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    *_, last = done.stderr.splitlines()
    assert last.startswith("error: ")
    assert "\x1b" not in last
    assert re.search(FAULTS[write], last)


def test_what_onnx2tf_gives_up_on_is_one_line_too(artifacts: Path, tmp_path: Path) -> None:
    shutil.copytree(artifacts / "torch_cnn" / "onnx", tmp_path / "onnx")
    operator_that_is_known_in_part(tmp_path / "onnx" / "model.onnx")
    rewrite_manifest(tmp_path / "onnx")
    number = [route.name for route in EXPORTERS["onnx", "savedmodel"]].index("onnx2tf")
    done = export(tmp_path / "onnx", "savedmodel", "--route", str(number))
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert re.search("^error: onnx2tf gave up on torch_cnn-onnx: .*ScatterElements", done.stderr.splitlines()[-1])


def rewrite_manifest(folder: Path) -> None:
    """Rewrite the manifest for the files that are in the folder now."""
    manifest = read_manifest(folder)
    files = sha256_of_files(folder, [folder / name for name in manifest.files])
    write_manifest(folder, replace(manifest, files=files))


Raise = Callable[[Exception | None], None]


@pytest.fixture
def faulty(monkeypatch: pytest.MonkeyPatch) -> Raise:
    """Replace keras -> onnx by an exporter that writes half a file and raises, or writes no file."""

    def install(error: Exception | None) -> None:
        def export(parent: Path, manifest: Manifest, target: Path) -> Sequence[Path]:
            if error:
                (target / "model.onnx").write_bytes(b"half of")
                raise error
            return []

        module = ModuleType("faulty")
        vars(module).update(export=export, CONVERTERS=("numpy",))
        monkeypatch.setitem(sys.modules, "faulty", module)
        monkeypatch.setitem(EXPORTERS, ("keras", "onnx"), (Route("faulty", "faulty:export"),))

    return install


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (
            RuntimeError("of\n\n  many\n lines"),
            "keras_cnn-keras -> onnx failed in its converter: RuntimeError: of many lines",
        ),
        (OSError("file signature not found"), "failed in its converter: OSError: file signature not found"),
        (SystemError(), "failed in its converter: SystemError"),
        (None, "wrote no file, expected at least one"),
    ],
)
def test_whatever_a_converter_raises_is_an_export_error_in_one_line(
    artifacts_copy: Path, faulty: Raise, error: Exception | None, words: str
) -> None:
    faulty(error)
    model = artifacts_copy / "keras_cnn"
    with keeps_the_old_artifact(model / "onnx"), pytest.raises(ExportError) as caught:
        export_artifact(model / "keras", "onnx")
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "error",
    [
        OSError(28, os.strerror(28)),
        OSError(122, os.strerror(122)),
        tf.errors.ResourceExhaustedError(None, None, "/a/saved_model.pb; No space left on device"),
        OSError("Unable to write (errno = 28, error message = 'No space left on device')"),
    ],
)
def test_a_full_disk_is_a_clear_error_whoever_notices_it(artifacts_copy: Path, faulty: Raise, error: Exception) -> None:
    faulty(error)
    model = artifacts_copy / "keras_cnn"
    with (
        keeps_the_old_artifact(model / "onnx"),
        pytest.raises(ArtifactError, match=r"^No disk space is left for .*/onnx\. Free some"),
    ):
        export_artifact(model / "keras", "onnx")


@contextmanager
def keeps_the_old_artifact(folder: Path) -> Iterator[None]:
    """The block changes nothing in `folder`, and leaves nothing beside it."""
    beside, manifest = sorted(folder.parent.iterdir()), (folder / MANIFEST).read_bytes()
    yield
    assert sorted(folder.parent.iterdir()) == beside
    assert (folder / MANIFEST).read_bytes() == manifest
    verify_files(folder, read_manifest(folder))


# What can go wrong: the machine


ON_DISKS = [case for case in CASES if case[2] in ("savedmodel", "tflite")][:3]


@pytest.fixture(scope="module")
def on_full_disks(artifacts: Path, tmp_path_factory: pytest.TempPathFactory) -> Mapping[Case, tuple[Path, Done]]:
    """Each of these artifacts, exported again to a disk that is nearly full; two at a time, as above."""
    disks = {case: tmp_path_factory.mktemp("disk") for case in ON_DISKS}

    def exported(case: Case) -> tuple[Path, Done]:
        model, parent, format = case
        folder = shutil.copytree(artifacts / model / format, disks[case] / format)
        with keeps_the_old_artifact(folder):
            return folder, export(artifacts / model / parent, format, folder)

    with ExitStack() as mounted:
        for (model, _, format), disk in disks.items():
            blocks = sum(-(-path.stat().st_size // 4096) + 1 for path in (artifacts / model / format).rglob("*"))
            mount = ["mount", "-t", "tmpfs", "-o", f"size={blocks * 4 + 16}k", "full", str(disk)]
            if subprocess.run(mount, check=False).returncode:
                pytest.skip("no disk can be mounted here")
            mounted.callback(umount, disk)
        with ThreadPoolExecutor(2) as pool:
            return dict(zip(ON_DISKS, pool.map(exported, ON_DISKS), strict=True))


def umount(disk: Path) -> None:
    subprocess.run(["umount", disk], check=False, capture_output=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="a small disk can be mounted only by root")
@pytest.mark.parametrize("case", ON_DISKS, ids="-".join)
def test_a_full_disk_is_a_clear_error_and_keeps_the_old_artifact(
    on_full_disks: Mapping[Case, tuple[Path, Done]], case: Case
) -> None:
    folder, done = on_full_disks[case]
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith(f"error: No disk space is left for {folder}. Free some")


def test_a_killed_export_keeps_the_old_artifact_and_the_next_one_succeeds(artifacts_copy: Path) -> None:
    model = artifacts_copy / "keras_cnn"
    before = (model / "tflite" / MANIFEST).read_bytes()
    command = [sys.executable, "-m", "export", str(model / "savedmodel"), "tflite"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as running:
        while not list(model.glob(".tflite.*.partial")):
            assert running.poll() is None
            time.sleep(0.002)
        running.send_signal(signal.SIGKILL)
    assert running.returncode == -signal.SIGKILL
    assert list(model.glob(".tflite.*.partial")), "the export ended before it was killed"
    assert (model / "tflite" / MANIFEST).read_bytes() == before
    verify_files(model / "tflite", read_manifest(model / "tflite"))
    assert export(model / "savedmodel", "tflite").returncode == 0
    assert not list(model.glob(".*.partial"))
    verify_files(model / "tflite", read_manifest(model / "tflite"))


def export(*arguments: str | Path) -> Done:
    """Convert in a separate process, as the Makefile does."""
    command = [sys.executable, "-m", "export", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_onnx2tf_takes_any_name_between_inputs_and_outputs(artifacts: Path, tmp_path: Path, load: Load) -> None:
    """What tf2onnx makes of a TF Lite file has names of several operators, one after the other."""
    parent = Path(shutil.copytree(artifacts / "torch_cnn" / "onnx", tmp_path / "onnx"))
    model = onnx.load(parent / "model.onnx")
    ends = {value.name for value in (*model.graph.input, *model.graph.output)}
    rename(model, {name: f"_{name};bias add" for name in tensors_of(model) if name not in ends})
    for node in model.graph.node:
        node.name = f"{node.name};relu:0"
    onnx.save(model, parent / "model.onnx")
    rewrite_manifest(parent)
    number = [route.name for route in EXPORTERS["onnx", "savedmodel"]].index("onnx2tf")
    assert export(parent, "savedmodel", "--route", str(number)).returncode == 0
    pixels = np.random.default_rng(0).random((3, 28, 28, 1), np.float32)
    assert_same_answers(load(parent), load(tmp_path / "savedmodel"), pixels)
