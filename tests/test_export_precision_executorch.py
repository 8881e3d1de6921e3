"""ExecuTorch in int8: it is made, judged and read like every variant, and faults in its file are caught."""

import json
import re
import shutil
import struct
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import export.precision
from contract.calibration import Calibration
from contract.code import ROOT
from contract.dataset import load
from contract.errors import ExportError
from contract.failed_edge import FailedEdge
from contract.formats import is_installed
from contract.ledger import Ledger
from contract.manifest import MANIFEST, Manifest, TensorSpec, read_manifest, sha256_of_files, write_manifest
from contract.parity_result import ParityResult, read_status
from contract.precisions import PRECISIONS, chosen
from export import export_artifact
from export.precision import make_variant, make_variants
from serve.runtimes import load_runtime
from tests.conftest import MadeOnce
from verify.parity import verify_model
from verify.placement import placements
from verify.precision.files import Constant, xnnpack
from verify.precision.files.executorch import read
from verify.precision.ledger import examine
from verify.questions import Questions, of_split

pytestmark = [
    pytest.mark.skipif(not is_installed("executorch"), reason="ExecuTorch is not installed"),
    pytest.mark.filterwarnings("ignore"),  # ExecuTorch's, torchao's and PyTorch's own, of each other
]

INT8 = "executorch-int8"
PRECISION = PRECISIONS[INT8]
PICTURES = 2000
WIDTH = 12


@pytest.fixture(scope="module")
def questions() -> Questions:
    return of_split(load("fashion_mnist", "test", PICTURES))


@pytest.fixture(scope="module")
def trained(made_once: MadeOnce, artifacts: Path, questions: Questions) -> Path:
    """The variant of a real network, made and compared. Do not change it."""

    def make(folder: Path) -> None:
        for format in ("torch", "executorch"):
            shutil.copytree(artifacts / "torch_cnn" / format, folder / "torch_cnn" / format)
        command = [sys.executable, "-m", "export.precision", str(folder / "torch_cnn"), "--dataset", "fashion_mnist"]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert re.fullmatch(r"torch_cnn-executorch-int8: made from executorch in \S+ s\n", done.stdout)
        verify_model(folder / "torch_cnn", questions, formats=[INT8])

    return made_once("executorch_int8", make) / "torch_cnn" / INT8


def source(folder: Path, network: torch.nn.Module, entry: TensorSpec, end: TensorSpec, example: torch.Tensor) -> Path:
    """A network as the PyTorch artifact of the model `net`; its batch is free, and so is the length of ids."""
    target = folder / "net" / "torch"
    target.mkdir(parents=True)
    free: dict[int, Any] = {0: torch.export.Dim("batch", min=1, max=4096)}
    if entry.dtype == "int64":
        free[1] = torch.export.Dim("length", min=1, max=512)
    program = torch.export.export(network.eval(), (example,), dynamic_shapes=(free,))
    torch.export.save(program, target / "model.pt2")
    files = sha256_of_files(target, [target / "model.pt2"])
    write_manifest(target, Manifest("net", "torch", None, (entry,), (end,), None, (), files))
    return target


def dense(folder: Path, network: torch.nn.Module | None = None, example: torch.Tensor | None = None) -> Path:
    """A network of dense layers beside a float32 program of it, whose bytes the maker of the variant does not read."""
    torch.manual_seed(0)
    network = network or torch.nn.Sequential(torch.nn.Linear(WIDTH, 32), torch.nn.ReLU(), torch.nn.Linear(32, 4))
    entry, end = (TensorSpec(name, "float32", (None, size), "NC") for name, size in (("x", WIDTH), ("y", 4)))
    torch_folder = source(folder, network, entry, end, torch.zeros(2, WIDTH) if example is None else example)
    parent = torch_folder.with_name("executorch")
    parent.mkdir()
    (parent / "model.pte").write_bytes(b"a program")
    files = sha256_of_files(parent, [parent / "model.pte"])
    write_manifest(parent, replace(read_manifest(torch_folder), format="executorch", parent="torch", files=files))
    return parent


def rows(values: NDArray[np.float32] | None = None) -> Calibration:
    if values is None:
        values = np.random.default_rng(1).normal(size=(64, WIDTH)).astype(np.float32)
    return Calibration({"x": values}, "rows of a test", tuple(map(str, range(len(values)))))


# The variant of a real network


def test_it_passes_at_a_class_and_names_its_calibration_rows(trained: Path) -> None:
    status = read_status(trained)
    assert status.word in ("verified at 99.9 %", "verified at 99 %"), status.reason
    kept = status.parity and status.parity.kept
    assert kept
    assert (kept.measure, kept.rows) == ("accuracy", PICTURES)
    manifest, parent = read_manifest(trained), read_manifest(trained.with_name("executorch"))
    assert manifest.parent == "executorch"
    assert (manifest.inputs, manifest.outputs, manifest.labels) == (parent.inputs, parent.outputs, parent.labels)
    assert manifest.made_with["largest"] == parent.made_with["largest"]
    about = manifest.made_with["calibration"]
    pictures = load("fashion_mnist", "train").images[[int(place) for place in about["which"].split()]]
    assert Calibration({"pixels": pictures}, "", tuple(about["which"].split())).sha256 == about["sha256"]
    sizes = [(folder / "model.pte").stat().st_size for folder in (trained, trained.with_name("executorch"))]
    assert sizes[0] < 0.7 * sizes[1]


@pytest.mark.parametrize("count", [1, 2, 15, 16, 64, 130])
def test_any_batch_has_the_answers_of_its_rows_alone(trained: Path, questions: Questions, count: int) -> None:
    runtime = load_runtime(trained, read_manifest(trained))
    pixels = questions.inputs["pixels"][:count].astype(np.float32)
    together = runtime.predict({"pixels": pixels})["probabilities"]
    alone = [runtime.predict({"pixels": pixels[at : at + 1]})["probabilities"] for at in range(count)]
    np.testing.assert_allclose(together, np.concatenate(alone), rtol=0, atol=1e-6)


def test_xnnpack_takes_all_that_is_quantised(trained: Path) -> None:
    (placed,) = placements(trained, read_manifest(trained))
    assert placed.part == "XNNPACK"
    assert placed.total - placed.operators == 2, "what holds sizes and constants, as in float32"


# The ledger, and ExecuTorch's own reader


def ledger_of(folder: Path) -> tuple[Ledger, list[str]]:
    examined = examine(folder, read_manifest(folder))
    assert examined is not None
    return examined


def own_graphs(folder: Path) -> tuple[Any, list[dict[str, Any]]]:
    """The program, and XNNPACK's graphs as JSON, by ExecuTorch's own code and its schema."""
    from executorch.backends.xnnpack import serialization
    from executorch.exir._serialize._flatbuffer import _flatc_decompile
    from executorch.exir._serialize._program import deserialize_pte_binary

    program = deserialize_pte_binary((folder / "model.pte").read_bytes()).program
    schema = Path(serialization.__path__[0], "runtime_schema.fbs")
    graphs = []
    for part in program.backend_delegate_data:
        start, size = struct.unpack_from("<II", part.data, 10)
        with tempfile.TemporaryDirectory() as scratch:
            Path(scratch, "graph.bin").write_bytes(part.data[start : start + size])
            _flatc_decompile(scratch, str(schema), str(Path(scratch, "graph.bin")), ["--raw-binary"])
            text = Path(scratch, "graph.json").read_text()
            graphs.append(json.loads(re.sub(r"-?\binf\b", "null", text)))  # a bound of a clamp that has none
    return program, graphs


DTYPES = {
    "xnn_datatype_fp32": ("float32", 4),
    "xnn_datatype_qint8": ("int8", 1),
    "xnn_datatype_qcint8": ("int8", 1),
    "xnn_datatype_qcint32": ("int32", 4),
}


def test_executorchs_own_reader_agrees_with_every_dtype_of_the_ledger(trained: Path) -> None:
    ledger, faults = ledger_of(trained)
    assert faults == []
    program, graphs = own_graphs(trained)
    stored, between = Counter[str](), Counter[str]()
    for graph in graphs:
        for value in (each["xvalue_union"] for each in graph["xvalues"]):
            tensor = value.get("tensor_value", value)
            dtype, width = DTYPES[tensor["datatype"]]
            if tensor["constant_buffer_idx"]:
                stored[dtype] += width * int(np.prod(tensor["dims"]))
            elif tensor["external_id"] == 2**32 - 1:
                between[dtype] += 1
    of_plan = [each.val for each in program.execution_plan[0].values if hasattr(each.val, "scalar_type")]
    for tensor in of_plan:
        name = {"FLOAT": "float32", "LONG": "int64"}[tensor.scalar_type.name]
        if tensor.data_buffer_idx and tensor.allocation_info is None:
            stored[name] += 8
        else:
            between[name] += 1
    assert ledger.weights == stored
    assert ledger.activations == between
    nodes = Counter(node["xnode_union_type"] for graph in graphs for node in graph["xnodes"])
    multiply = ("XNNConv2d", "XNNDepthwiseConv2d", "XNNFullyConnected")
    assert ledger.computing == {"int8": sum(nodes[each] for each in multiply)} == {"int8": 3}
    assert ledger.casts - nodes["XNNConvert"] == 1, "the constant that pixels are divided by"
    assert (ledger.inputs, ledger.outputs) == ({"pixels": "float32"}, {"probabilities": "float32"})
    assert not ledger.is_stored_only


# Planted faults


def weights(folder: Path) -> list[Constant]:
    """The quantised weights, those of the first layer first."""
    return [each for each in read(folder).constants if each.dtype == "int8"]


def written_over(folder: Path, old: NDArray[Any], new: NDArray[Any]) -> None:
    data = (folder / "model.pte").read_bytes()
    assert data.count(old.tobytes()) == 1
    (folder / "model.pte").write_bytes(data.replace(old.tobytes(), new.astype(old.dtype).tobytes()))


def scales_of(constant: Constant) -> NDArray[np.float32]:
    assert constant.scale is not None
    return constant.scale.astype(np.float32)


def weights_a_step_higher(folder: Path) -> None:
    """As if they had been quantised with a zero point that is off by one: these scales have none in the file."""
    values = weights(folder)[1].values
    written_over(folder, values, np.clip(values.astype(np.int16) + 1, -127, 127))


def scales_of_other_channels(folder: Path) -> None:
    scales = scales_of(weights(folder)[1])
    written_over(folder, scales, scales[::-1])


def scale_of_another_layer(folder: Path) -> None:
    first, second = (scales_of(each) for each in weights(folder)[:2])
    written_over(folder, second, np.resize(first, len(second)))


def scales_of_a_bias(folder: Path) -> None:
    """XNNPACK adds it with the scales of input and weights, whatever it was rounded with."""
    scales = next(scales_of(each) for each in read(folder).constants if each.dtype == "int32")
    written_over(folder, scales, 1.1 * scales)


def float_program(folder: Path) -> None:
    shutil.copyfile(folder.with_name("executorch") / "model.pte", folder / "model.pte")


FAULTS: dict[str, tuple[Callable[[Path], None], str]] = {
    "weights a step higher": (weights_a_step_higher, "steps from the nearest"),
    "scales of other channels": (scales_of_other_channels, "steps from the nearest"),
    "scale of another layer": (scale_of_another_layer, "steps from the nearest"),
    "scales of a bias": (scales_of_a_bias, "has other scales than its input's times its weights'"),
    "a float program with the name of int8": (float_program, "its name says int8, and its weights are float32"),
}


def judged(trained: Path, folder: Path, plant: Callable[[Path], None], questions: Questions) -> ParityResult:
    """The gate's result for a copy with the fault, as if an exporter had written it; its parent is the source."""
    for format in ("executorch", INT8):
        shutil.copytree(trained.with_name(format), folder / "torch_cnn" / format)
    parent, variant = folder / "torch_cnn" / "executorch", folder / "torch_cnn" / INT8
    write_manifest(parent, replace(read_manifest(parent), parent=None))
    plant(variant)
    files = sha256_of_files(variant, [variant / "model.pte"])
    write_manifest(variant, replace(read_manifest(variant), files=files))
    return verify_model(folder / "torch_cnn", questions, formats=[INT8])[INT8]


def test_without_a_fault_it_passes(trained: Path, tmp_path: Path, questions: Questions) -> None:
    result = judged(trained, tmp_path, lambda folder: None, questions)
    assert result.passed, result.reasons


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_does_not_pass(trained: Path, tmp_path: Path, questions: Questions, fault: str) -> None:
    plant, reason = FAULTS[fault]
    result = judged(trained, tmp_path, plant, questions)
    assert not result.passed
    assert any(reason in each for each in result.reasons), result.reasons


def test_a_graph_that_is_damaged_anywhere_is_an_error_or_read(trained: Path, tmp_path: Path) -> None:
    whole = (trained / "model.pte").read_bytes()
    shutil.copy(trained / MANIFEST, tmp_path)
    random = np.random.default_rng(0)
    for _ in range(300):
        damaged = bytearray(whole)
        damaged[random.integers(len(whole))] = random.integers(256)
        (tmp_path / "model.pte").write_bytes(damaged)
        try:
            read(tmp_path)
        except (ValueError, KeyError, IndexError, struct.error):
            continue
    with pytest.raises(ValueError, match="part 1 of its graph is not of XNNPACK"):
        xnnpack.graph(bytes(64), "part 1", {})


# What the quantiser does not know stays in float


class Tagger(torch.nn.Module):
    """Ids (N, L) -> (N, L, 4). The quantiser knows no embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.out = torch.nn.Embedding(50, 8), torch.nn.Linear(8, 4)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        answers: torch.Tensor = self.out(self.table(ids)).log_softmax(-1).exp()
        return answers


def test_an_operator_that_the_quantiser_does_not_know_stays_in_float_and_sizes_stay_free(tmp_path: Path) -> None:
    torch.manual_seed(0)
    entry, end = TensorSpec("ids", "int64", (None, None), "NL"), TensorSpec("tags", "float32", (None, None, 4), "NLC")
    parent = source(tmp_path, Tagger(), entry, end, torch.zeros(2, 16, dtype=torch.long))
    export_artifact(parent, "executorch")
    ids = np.random.default_rng(0).integers(0, 50, (40, 16))
    folder = parent.with_name(INT8)
    about = make_variant(
        parent.with_name("executorch"), PRECISION, Calibration({"ids": ids}, "ids", tuple(map(str, range(40))))
    ).made_with
    assert about["largest"] == {"ids": [64, 512]}
    assert about["delegated"]["others"] == 1, "the embedding; probabilities by way of their logarithms are a softmax"
    ledger, faults = ledger_of(folder)
    assert faults == []
    assert (ledger.weights["float32"], ledger.weights["int8"]) == (50 * 8 * 4, 8 * 4)
    assert ledger.computing == {"int8": 1}
    runtimes = [load_runtime(each, read_manifest(each)) for each in (parent, folder)]
    for shape in ((1, 1), (3, 17), (65, 512)):
        asked_for = np.random.default_rng(1).integers(0, 50, shape)
        expected, got = (runtime.predict({"ids": asked_for})["tags"] for runtime in runtimes)
        assert got.shape == (*shape, 4)
        assert 0 < np.abs(got - expected).max() < 0.05


# What is refused


def assert_refused(parent: Path, calibration: Calibration | None, message: str) -> None:
    before = {path: path.read_bytes() for path in parent.iterdir()}
    with pytest.raises(ExportError, match=message):
        make_variant(parent, PRECISION, calibration)
    assert before == {path: path.read_bytes() for path in parent.iterdir()}
    assert not parent.with_name(INT8).exists()


def test_rows_that_give_no_ranges_are_said(tmp_path: Path) -> None:
    parent, values = dense(tmp_path), rows().inputs["x"].copy()
    assert_refused(parent, None, "It needs rows to calibrate on")
    assert_refused(parent, rows(np.zeros_like(values)), "All 64 calibration rows .* are equal")
    values[3, 2] = np.nan
    assert_refused(parent, rows(values), "1 of the 64 calibration rows .* have NaN or infinity in x")


def test_a_model_that_answers_nan_while_calibrating_is_said(tmp_path: Path) -> None:
    layer = torch.nn.Linear(WIDTH, 4)
    layer.weight.data[0] = torch.nan
    assert_refused(dense(tmp_path, layer), rows(), "answers NaN or infinity to calibration rows")


class Quantised(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        numbers = torch.ops.quantized_decomposed.quantize_per_tensor(x, 0.1, 0, -128, 127, torch.int8)
        restored: torch.Tensor = torch.ops.quantized_decomposed.dequantize_per_tensor(
            numbers, 0.1, 0, -128, 127, torch.int8
        )
        return restored[:, :4]


def test_a_model_that_is_quantised_already_is_said(tmp_path: Path) -> None:
    from torchao.quantization.pt2e import quantize_pt2e

    assert quantize_pt2e, "it registers the operators"
    message = r"net-executorch is quantised already: it has quantized_decomposed\.dequantize_per_tensor, "
    assert_refused(dense(tmp_path, Quantised()), rows(), message)


class Pointwise(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.selu(torch.nn.functional.elu(x)[:, :4])


def test_operators_that_the_quantiser_does_not_know_are_named(tmp_path: Path) -> None:
    message = r"Nothing of net-executorch could be quantised: .* \(aten\.elu, aten\.selu, aten\.slice\)"
    assert_refused(dense(tmp_path, Pointwise()), rows(), message)


def test_a_program_that_was_brought_is_left_as_it_is(tmp_path: Path) -> None:
    parent = dense(tmp_path)
    write_manifest(parent, replace(read_manifest(parent), parent=None))
    assert_refused(parent, rows(), "this file was brought as it is")


def test_too_few_rows_for_a_fixed_batch_are_said(tmp_path: Path) -> None:
    parent = dense(tmp_path)
    write_manifest(parent, replace(read_manifest(parent), batch=100))
    assert_refused(parent, rows(), "64 calibration rows .* are fewer than its batch of 100")


def test_where_executorch_is_not_installed_nothing_is_made_and_nothing_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parent = dense(tmp_path)
    shutil.copytree(parent, parent.with_name(INT8))
    monkeypatch.setattr(export.precision, "is_installed", lambda format: not format.startswith("executorch"))
    made = make_variants(parent.parent, chosen("all"), lambda manifest: rows())
    assert [each.name for each in made if "executorch" in each.format] == []
    assert (parent.with_name(INT8) / MANIFEST).exists(), "another machine may have made it"
    with pytest.raises(ExportError, match="ExecuTorch is not installed"):
        make_variant(parent, PRECISION, rows())


def test_what_fails_leaves_its_record(tmp_path: Path) -> None:
    parent = dense(tmp_path, Pointwise())
    made = make_variants(parent.parent, chosen("int8"), lambda manifest: rows())
    (failed,) = [each for each in made if each.format == INT8]
    assert isinstance(failed, FailedEdge)
    assert (failed.name, failed.parent) == (f"net-{INT8}", "executorch")
