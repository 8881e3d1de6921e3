"""What serves an artifact judges it once more: it may come from elsewhere than from the process that judged a file."""

import contextlib
import hashlib
import json
import os
import shutil
import signal
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import flatbuffers
import h5py
import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from bring.description import Description
from bring.source import write_source
from bring.verdict import examine, insist
from bring.verdict.artifact import FILES, insist_on_artifact
from contract import coreai_program
from contract.code import ROOT
from contract.errors import BroughtError, UntrustedModel
from contract.formats import is_installed, not_installed
from contract.manifest import Manifest, TensorSpec, read_manifest, sha256_of_files, write_manifest
from serve.catalog import load_catalog, load_model
from serve.runtimes import RUNTIMES
from serve.settings import Settings
from tests.hostile_savedmodels import meta_graph, node, signature, write
from tests.test_bring_verdict_corpus import LAMBDA, add_node, layer, onnx_file, program, pt2, tflite_file

SPEC = (TensorSpec("x", "float32", (None, 1), "NC"),)


def keras(folder: Path) -> Path:
    with h5py.File(folder / "model.h5", "w") as file:
        file.attrs["keras_version"] = "3.15.1"
        layers = [layer("Lambda", function=LAMBDA)]
        file.attrs["model_config"] = json.dumps({"class_name": "Sequential", "config": {"layers": layers}})
    return folder / "model.h5"


def tfjs(folder: Path) -> Path:
    graph = {"node": [{"name": "y", "op": "Print"}], "library": {"function": []}}
    (folder / "model.json").write_text(json.dumps({"modelTopology": graph, "weightsManifest": []}))
    return folder / "model.json"


def openvino(folder: Path, operator: str, version: str = "opset6", before: str = "") -> Path:
    layer = f'<layer id="0" name="x" type="{operator}" version="{version}"/>'
    text = f'<?xml version="1.0"?>\n{before}<net name="net" version="11"><layers>{layer}</layers></net>'
    (folder / "model.bin").write_bytes(b"")
    (folder / "model.xml").write_text(text)
    return folder / "model.xml"


def executorch(folder: Path, operator: str, backend: str = "XnnpackBackend", begins: bytes = b"ET12") -> Path:
    """A program of one plan, which calls one operator and one backend. It has no values, so that nothing runs it."""
    builder = flatbuffers.Builder(0)

    def table(fields: dict[int, int], count: int) -> int:
        builder.StartObject(count)
        for number, offset in fields.items():
            builder.PrependUOffsetTRelativeSlot(number, offset, 0)
        return int(builder.EndObject())

    def vector(*tables: int) -> int:
        builder.StartVector(4, len(tables), 4)
        for each in reversed(tables):
            builder.PrependUOffsetTRelative(each)
        return int(builder.EndVector())

    operators = vector(table({0: builder.CreateString(operator)}, 2))
    delegates = vector(table({0: builder.CreateString(backend)}, 3))
    plan = table({0: builder.CreateString("forward"), 6: operators, 7: delegates}, 10)
    program = table({1: vector(plan)}, 8)
    builder.Finish(program, begins)
    made = bytes(builder.Output())
    (root,) = struct.unpack_from("<I", made)
    header = b"eh00" + struct.pack("<IQQ", 24, len(made) + 24, 0)
    (folder / "model.pte").write_bytes(struct.pack("<I", root + 24) + made[4:8] + header + made[8:])
    return folder / "model.pte"


def varint(value: int) -> bytes:
    """A number as MLIR writes it, in 9 bytes."""
    return b"\0" + value.to_bytes(8, "little")


def coreai(folder: Path, operator: str, dialect: str = "aicode", version: int = 6) -> Path:
    """A program that names one operator. It has no graph, so that nothing runs it."""
    strings = [dialect.encode() + b"\0", operator.encode() + b"\0"]
    texts = varint(2) + b"".join(varint(len(each)) for each in reversed(strings)) + b"".join(strings)
    names = varint(1) + varint(0 << 1) + varint(1) + varint(0) + varint(1) + varint(1 << 1 | 1)
    sections = b"".join(bytes([kind]) + varint(len(data)) + data for kind, data in ((0, texts), (1, names)))
    program = b"ML\xefR" + varint(version) + b"MLIR\0" + sections
    made = folder / "model.aimodel"
    made.mkdir(exist_ok=True)
    (made / "main.mlirb").write_bytes(program)
    (made / "main.hash").write_bytes(hashlib.sha256(program).digest())
    return made


HOSTILE: dict[str, tuple[Callable[[Path], Path], str]] = {
    "keras": (keras, "is a Lambda"),
    "savedmodel": (lambda folder: write(folder, meta_graph([node("WriteFile")], more=signature("it"))), "WriteFile"),
    "torch": (lambda folder: pt2(folder, program("torch.ops.aten.from_file.default")), "aten.from_file"),
    "onnx": (lambda folder: onnx_file(folder, add_node("EPContext", "com.microsoft")), "com.microsoft::EPContext"),
    "tflite": (lambda folder: tflite_file(folder, 173), "STABLEHLO_CUSTOM_CALL"),
    "tfjs": (tfjs, "Print"),
    "openvino": (lambda folder: openvino(folder, "Assign"), "Assign"),
    "executorch": (lambda folder: executorch(folder, "et_copy::_h2d_copy"), "et_copy::_h2d_copy"),
    "coreai": (lambda folder: coreai(folder, "metal.metal4_kernel_v1"), "metal.metal4_kernel_v1"),
}


def artifact(folder: Path, family: str, made: Path, **made_with: object) -> Path:
    """An artifact of a file, by the name that its runtime loads."""
    if made.is_file() and family != "keras":
        made.rename(folder / FILES[family])
    files = sha256_of_files(folder, [file for file in folder.rglob("*") if file.is_file()])
    manifest = Manifest("mine", family, None, SPEC, SPEC, None, (), files, made_with)
    write_manifest(folder, manifest)
    return folder


@pytest.fixture
def folder(tmp_path: Path, family: str) -> Path:
    place = tmp_path / "mine" / family
    place.mkdir(parents=True)
    return place


@pytest.fixture
def family() -> str:
    """Of the tests that do not name theirs."""
    return "onnx"


def test_every_format_that_is_served_is_judged() -> None:
    assert HOSTILE.keys() == {*FILES, "keras"} == RUNTIMES.keys()


@pytest.mark.parametrize("family", HOSTILE)
def test_an_artifact_that_does_more_than_compute_is_not_loaded(folder: Path, family: str) -> None:
    hostile, words = HOSTILE[family]
    model = load_model(artifact(folder, family, hostile(folder)))
    assert not model.ready
    assert (model.status.word, model.status.reason) == ("failed", model.error)
    assert words in model.error and "does more than compute" in model.error


@contextlib.contextmanager
def within(seconds: int) -> Iterator[None]:
    """What waits longer is interrupted: for a pipe that nobody writes to, for example."""

    def interrupt(*_: object) -> None:
        raise TimeoutError(f"it took more than {seconds} s")

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("record", ["manifest.json", "behaviour.json", "ledger.json", "parity.json", "arm.json"])
def test_a_service_does_not_wait_for_a_record_that_is_a_pipe(folder: Path, record: str) -> None:
    artifact(folder, "onnx", harmless(folder))
    (folder / record).unlink(missing_ok=True)
    os.mkfifo(folder / record)
    with within(20):
        model = load_model(folder)
    assert not model.ready and record in model.error


@pytest.mark.parametrize("name", ["model.bin", "variables/variables.data-00000-of-00001"])
def test_an_artifact_with_a_pipe_is_not_loaded(folder: Path, name: str) -> None:
    artifact(folder, "onnx", harmless(folder))
    (folder / name).parent.mkdir(exist_ok=True)
    os.mkfifo(folder / name)
    with within(20):
        model = load_model(folder)
    assert repr(name) in model.error and "files and folders alone" in model.error


LIBRARIES = {"onnx", "onnxruntime", "tensorflow", "keras", "h5py", "ai_edge_litert", "flatbuffers", "torch", "openvino"}
LIBRARIES |= {"executorch", "coreai"}
NEEDED = {"keras": {"h5py"}, "tflite": {"ai_edge_litert", "flatbuffers"}}
"""What the image of a format's runtime has and the verdict on it imports."""
JUDGE = """
import sys
sys.modules |= dict.fromkeys(sys.argv[2:])  # importing one of these fails
from pathlib import Path
from bring.description import Description
from bring.source import write_source
from bring.verdict import examine, insist
from bring.verdict.artifact import insist_on_artifact
from contract.manifest import read_manifest
folder = Path(sys.argv[1])
insist_on_artifact(folder, read_manifest(folder), False)
"""


@pytest.mark.parametrize("family", HOSTILE)
def test_the_verdict_needs_no_library_that_an_image_lacks(folder: Path, family: str) -> None:
    hostile, words = HOSTILE[family]
    artifact(folder, family, hostile(folder))
    command = [sys.executable, "-c", JUDGE, str(folder), *(LIBRARIES - NEEDED.get(family, set()))]
    judged = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert "UntrustedModel" in judged.stderr and words in judged.stderr, judged.stderr


@pytest.mark.parametrize("family", HOSTILE)
def test_an_artifact_that_was_trusted_is_let_through(folder: Path, family: str) -> None:
    hostile, _ = HOSTILE[family]
    trusted = artifact(folder, family, hostile(folder), trusted=True)
    manifest = read_manifest(trusted)
    insist_on_artifact(trusted, manifest, manifest.is_trusted)
    with pytest.raises(UntrustedModel):
        insist_on_artifact(trusted, manifest, False)


def harmless(folder: Path) -> Path:
    """An ONNX file that can be run."""
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 1]) for name in ("x", "y")]
    weights = numpy_helper.from_array(np.ones((1, 1), np.float32), "w")
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"])], "g", values[:1], values[1:], [weights])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    return folder / "model.onnx"


TRUST: list[tuple[dict[str, object], bool, bool]] = [
    ({}, False, True),
    ({"trusted": True}, False, True),
    ({}, True, True),
    ({"trusted": True}, True, False),
]
"""What the source's manifest says, what the operator says, and whether the artifact is refused."""


def test_the_other_artifacts_are_served(folder: Path) -> None:
    artifact(folder, "onnx", harmless(folder))
    manifest = read_manifest(folder)
    write_manifest(folder, replace(manifest, outputs=(replace(SPEC[0], name="y"),)))
    other = folder.with_name("tfjs")
    other.mkdir()
    artifact(other, "tfjs", tfjs(other))
    catalog = load_catalog(folder.parents[1])
    assert {name: model.ready for name, model in catalog.items()} == {"mine-onnx": True, "mine-tfjs": False}


@pytest.mark.parametrize(("made_with", "trust", "is_refused"), TRUST)
def test_trust_takes_the_manifest_of_the_source_and_the_operator(
    folder: Path, made_with: dict[str, object], trust: bool, is_refused: bool
) -> None:
    """A manifest may be forged: alone it says nothing."""
    artifact(folder, "onnx", onnx_file(folder, add_node("EPContext", "com.microsoft")))
    write_manifest(folder, replace(read_manifest(folder), parent="keras"))
    source = folder.with_name("keras")
    source.mkdir()
    artifact(source, "keras", keras(source), **made_with)
    for model in (load_model(folder, Settings(trust=trust)), load_model(source, Settings(trust=trust))):
        assert ("does more than compute" in model.error) is is_refused
        assert ("serve it with SERVE_TRUST=1" in model.error) is is_refused
        assert not model.ready  # no runtime has that operator, nor this Lambda's code


@pytest.mark.parametrize(("family", "other"), [("onnx", "tflite"), ("tflite", "onnx"), ("torch", "onnx")])
def test_an_artifact_is_what_its_name_says(folder: Path, family: str, other: str) -> None:
    made = harmless(folder) if other == "onnx" else tflite_file(folder, 0)
    with pytest.raises(BroughtError, match="but not as its name says"):
        insist_on_artifact(artifact(folder, family, made), read_manifest(folder), False)


@pytest.mark.parametrize(
    ("operator", "version", "before", "words"),
    [
        ("Fetch", "opset6", "", "'Fetch' are not OpenVINO's own"),
        ("Add", "extension", "", "'extension::Add' are not OpenVINO's own"),
        ("Add", "opset1", "<!DOCTYPE net>", "does not begin as OpenVINO writes it"),
        ("&bad;", "opset1", "", "undefined entity"),
    ],
)
def test_a_graph_of_openvino_has_its_own_operators_alone(
    tmp_path: Path, operator: str, version: str, before: str, words: str
) -> None:
    with pytest.raises(BroughtError) as refused:
        insist(examine(openvino(tmp_path, operator, version, before)), trusted=True)
    assert words in str(refused.value)


def test_a_graph_of_openvino_is_not_a_source(tmp_path: Path) -> None:
    with pytest.raises(BroughtError, match="an OpenVINO model, which is not read: bring the model that it was"):
        write_source(openvino(tmp_path, "Add", "opset1"), tmp_path / "made", "mine", Description())


@pytest.mark.parametrize(
    ("operator", "backend", "begins", "words"),
    [
        ("llama::fetch", "XnnpackBackend", b"ET12", "'llama::fetch' are not ExecuTorch's own"),
        ("aten::add", "QnnBackend", b"ET12", "leaves parts of its graph to 'QnnBackend', which are not run here"),
        ("aten::add", "XnnpackBackend", b"ET13", "or is written for a newer version"),
    ],
)
def test_a_program_of_executorch_has_its_own_operators_and_xnnpack_alone(
    tmp_path: Path, operator: str, backend: str, begins: bytes, words: str
) -> None:
    insist(examine(executorch(tmp_path, "aten::add")), trusted=False)
    with pytest.raises(BroughtError) as refused:
        insist(examine(executorch(tmp_path, operator, backend, begins)), trusted=True)
    assert words in str(refused.value)


def test_a_program_of_executorch_that_is_damaged_anywhere_is_judged_or_refused(tmp_path: Path) -> None:
    """Never anything else than a refusal, and never a long wait."""
    whole = executorch(tmp_path, "aten::add").read_bytes()
    random = np.random.default_rng(0)
    for length in range(12, len(whole), 7):
        (tmp_path / "model.pte").write_bytes(whole[:length])
        with pytest.raises(BroughtError, match="truncated or damaged"):
            examine(tmp_path / "model.pte")
    for _ in range(300):
        damaged = np.frombuffer(whole, np.uint8).copy()
        damaged[random.integers(12, len(whole), 4)] = random.integers(0, 256, 4)
        (tmp_path / "model.pte").write_bytes(damaged.tobytes())
        with contextlib.suppress(BroughtError):
            insist(examine(tmp_path / "model.pte"), trusted=True)


def test_a_program_of_executorch_is_not_a_source(tmp_path: Path) -> None:
    with pytest.raises(BroughtError, match="a program of ExecuTorch, which is not read: bring the model that it was"):
        write_source(executorch(tmp_path, "aten::add"), tmp_path / "made", "mine", Description())


@pytest.mark.parametrize(
    ("operator", "dialect", "version", "words"),
    [
        ("primitive.fetch_v1", "aicode", 6, "'primitive.fetch_v1' are not Core AI's own"),
        ("call", "llvm", 6, "it has operators of 'llvm', expected 'aicode' alone"),
        ("relu_v1", "aicode", 7, "it has version 7 of MLIR's bytecode, expected 6"),
    ],
)
def test_a_program_of_core_ai_has_its_own_operators_alone(
    tmp_path: Path, operator: str, dialect: str, version: int, words: str
) -> None:
    insist(examine(coreai(tmp_path, "relu_v1")), trusted=False)
    with pytest.raises(BroughtError) as refused:
        insist(examine(coreai(tmp_path, operator, dialect, version)), trusted=True)
    assert words in str(refused.value)


def test_a_program_of_core_ai_that_is_damaged_anywhere_is_judged_or_refused(tmp_path: Path) -> None:
    """Never anything else than a refusal, and never a long wait."""
    program = coreai(tmp_path, "relu_v1") / "main.mlirb"
    whole, random = program.read_bytes(), np.random.default_rng(0)
    for length in range(len(whole)):
        program.write_bytes(whole[:length])
        with pytest.raises(BroughtError, match="truncated or damaged"):
            examine(program.parent)
    for _ in range(500):
        damaged = np.frombuffer(whole, np.uint8).copy()
        damaged[random.integers(0, len(whole), 4)] = random.integers(0, 256, 4)
        program.write_bytes(damaged.tobytes())
        with contextlib.suppress(BroughtError):
            insist(examine(program.parent), trusted=True)


def test_a_program_of_core_ai_is_not_a_source(tmp_path: Path) -> None:
    with pytest.raises(BroughtError, match="a program of Core AI, which is not read: bring the model that it was"):
        write_source(coreai(tmp_path, "relu_v1"), tmp_path / "made", "mine", Description())


@pytest.mark.skipif(not is_installed("coreai"), reason=not_installed("coreai"))
def test_the_operators_of_a_program_are_those_that_core_ais_compiler_reads(artifacts: Path) -> None:
    """In a process of its own: it must not share one with TensorFlow."""
    program = artifacts / "torch_cnn" / "coreai" / "model.aimodel" / "main.mlirb"
    script = """
import re, sys
from coreai.authoring.asset import AIProgram
from pathlib import Path
print(*re.findall(r"= coreai\\.([\\w.]+)", str(AIProgram._load_bytecode(Path(sys.argv[1])))))
"""
    command = [sys.executable, "-c", script, str(program)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    ours = {name.rpartition(".")[2].rpartition("_v")[0] for name in coreai_program.operators(program.read_bytes())}
    assert {"conv2d", "max_pool_2d", "transpose", "invoke"} <= {*done.stdout.split()} & ours


def test_a_keras_file_is_read_as_its_suffix_says(tmp_path: Path) -> None:
    """Keras goes by the suffix: from a .keras file it reads an archive, and that may be appended to an HDF5 file."""
    made = keras(tmp_path)
    with h5py.File(made, "r+") as file:
        file.attrs["model_config"] = json.dumps({"class_name": "Sequential", "config": {"layers": []}})
    shutil.move(made, tmp_path / "model.keras")
    artifact(tmp_path, "keras", tmp_path / "model.keras")
    with pytest.raises(BroughtError, match="but not as its name says"):
        insist_on_artifact(tmp_path, read_manifest(tmp_path), False)
