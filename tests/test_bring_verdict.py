"""Verdicts on real models of every kind, on hostile ones made from them, and on damaged ones: nothing is ever run."""

import io
import json
import os
import pickle
import random
import re
import shutil
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import onnx
import pytest
from ai_edge_litert import schema_py_generated as schema

from bring import verdict
from bring.verdict import Verdict, examine, insist
from bring.verdict import torch as torch_bytes
from bring.verdict.__main__ import main
from contract.code import ROOT
from contract.errors import BroughtError, UntrustedModel


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What tests/brought_models.py writes, and weights in .safetensors. Do not change it."""
    folder = tmp_path_factory.mktemp("models")
    command = [sys.executable, "-m", "tests.brought_models", str(folder)]
    made = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert not made.returncode, made.stderr[-3000:]
    (folder / "net.safetensors").write_bytes(safetensors({"a": ("F32", [2, 3], [0, 24]), "b": ("I8", [4], [24, 28])}))
    return folder


GOOD = {
    "net.h5": "keras",
    "net.keras": "keras",
    "operators.keras": "keras",
    "words.keras": "keras",
    "savedmodel": "savedmodel",
    "asset": "savedmodel",
    "net.pt2": "torch",
    "script.pt": "script",
    "shapes.pt2": "torch",
    "state.pt": "weights",
    "legacy.pt": "weights",
    "checkpoint.pth": "weights",
    "net.safetensors": "weights",
    "net.weights.h5": "keras_weights",
    "net.onnx": "onnx",
    "external.onnx": "onnx",
    "net.tflite": "tflite",
    "tfjs": "tfjs",
}


@pytest.mark.parametrize(("name", "kind"), GOOD.items())
def test_a_real_model_passes(models: Path, name: str, kind: str) -> None:
    judgement = examine(models / name)
    assert (judgement.kind, judgement.findings) == (kind, ())
    assert "nothing in it does more" in judgement.line() and verdict.KINDS[kind] in judgement.line()
    insist(judgement, trusted=False)


@pytest.mark.parametrize("name", [name for name in GOOD if "." in name and name != "external.onnx"])
def test_the_content_decides_the_kind(models: Path, tmp_path: Path, name: str) -> None:
    shutil.copy(models / name, tmp_path / "model.png")
    assert examine(tmp_path / "model.png").kind == GOOD[name]


def test_a_size_counts_all_files(models: Path) -> None:
    for name, files in {
        "external.onnx": [models / "external.onnx", models / "external.bin"],
        "tfjs": list((models / "tfjs").iterdir()),
        "savedmodel": [path for path in (models / "savedmodel").rglob("*") if path.is_file()],
    }.items():
        assert examine(models / name).size == sum(path.stat().st_size for path in files) > 0
    assert examine(models / "savedmodel" / "saved_model.pb").path == models / "savedmodel"
    assert examine(models / "tfjs" / "model.json") == examine(models / "tfjs")


@pytest.mark.parametrize(
    ("name", "trustable", "words"),
    [
        ("lambda.h5", True, "'doubled' is a Lambda: reading it runs Python code"),
        ("lambda.keras", True, "'doubled' is a Lambda: reading it runs Python code"),
        ("custom.h5", False, "'mine>Scaled' are not Keras's own"),
        ("custom.keras", False, r"'mine>Scaled' are not Keras's own.*model.export\(folder\)"),
        ("reads", True, "'ReadFile' do more than compute: they are for files"),
        ("python", False, "operators 'PyFunc' do more than compute: they are for Python functions"),
        ("module.pt", True, r"'__main__.Net', 'torch.nn.modules.conv.Conv2d'.*state_dict\(\).*torch.export.save"),
        ("module_legacy.pt", True, "'__main__.Net', 'torch.nn.modules.conv.Conv2d'"),
        ("flex.tflite", False, "'FlexMatrixInverse'.* nor a browser runs"),
        ("custom.tflite", False, "custom operators 'MatrixInverse'"),
    ],
)
def test_a_real_model_is_refused_for_what_it_would_do(models: Path, name: str, trustable: bool, words: str) -> None:
    assert_finding(examine(models / name), words, trustable)


def assert_finding(judgement: Verdict, words: str, trustable: bool) -> None:
    """There is one finding, with these words; trust lets it pass or not."""
    (finding,) = judgement.findings
    assert re.search(words, finding.what), finding.what
    assert finding.trustable is trustable
    assert finding.what in judgement.line()
    with pytest.raises(BroughtError) as refused:
        insist(judgement, trusted=False)
    assert finding.what in str(refused.value)
    assert isinstance(refused.value, UntrustedModel) is trustable
    if trustable:
        assert "TRUST=1" in str(refused.value)
        insist(judgement, trusted=True)
    else:
        with pytest.raises(BroughtError, match="trusted or not"):
            insist(judgement, trusted=True)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("nowhere.h5", r"nowhere\.h5 does not exist\. Expected a Keras"),
        ("words.txt", r"is text\. Expected"),
        (".", r"is a folder without saved_model\.pb.*Name one model"),
    ],
)
def test_a_real_file_that_is_not_read(models: Path, name: str, words: str) -> None:
    with pytest.raises(BroughtError, match=words):
        examine(models / name)


def packed(members: Mapping[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for name, content in members.items():
            file.writestr(name, content)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty"),
        (b"import keras\n" * 200, "is text"),
        ("모델이 아니다".encode() * 200, "is text"),
        (b"\x89PNG\r\n\x1a\n" + bytes(100), "a PNG picture"),
        (b"GGUF" + bytes(100), "GGUF language model"),
        (b"lmgg" + bytes(100), "GGML model.*converted from"),
        (b"CBM1" + bytes(100), r"CatBoost model.*model\.save_model"),
        (b"tree\nversion=v4\nnum_class=1\n", "LightGBM model.*convert_lightgbm"),
        (b"{L" + bytes(7) + b"\x07learner" + bytes(90), "XGBoost model.*convert_xgboost"),
        (b'{"learner": {"attributes": {}}, "version": [3, 0, 0]}', "XGBoost model.*convert_xgboost"),
        (struct.pack("<ii", 793712314, 12) + bytes(100), "fastText model"),
        (b"7767517\n3 3\nInput data 0 1 data\n", "graph of ncnn"),
        (b"ftrt" + bytes(100), "engine of TensorRT"),
        (b'{"base_code": {"magic": "pir"}, "program": {}}', "PaddlePaddle.*paddle2onnx"),
        (b"\x0a\x00\x22\x00\x2a\x00", "PaddlePaddle.*paddle2onnx"),
        (b"\x0a\x00\x12\x00\x1a\x00\x22\x00", "beside a TensorFlow checkpoint.*simple_save"),
        (b'[{"weights": [], "paths": ["net.bin"]}]', "list of a TF.js model's weights, without its layers"),
        (b"[net]\nbatch=1\n", "is text"),
        (b"\x1f\x8b\x08" + bytes(100), "gzip: unpack it first"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b"\x08\x04\x12\x00\xc2\x13\x00", "Core ML model"),
        (b"\x08\x01\x12\x00", "SavedModel's graph. Bring its whole folder"),
        (b"\xff" + bytes(range(128, 256)) * 4, "not a model of a supported kind"),
        (b'{"a": 1}', "JSON, but not a TF.js model"),
        (b'{"modelTopology": {"model_config": {}}, "format": "layers-model"}', "damaged.*does not describe a model"),
        (pickle.dumps({"coef": np.arange(3)}), r"Python pickle of .*numpy.*joblib"),
        (packed({"a.txt": b"a"}), "a zip archive .it has 'a.txt'."),
        (packed({"m.npy": b"a"}), "NumPy arrays"),
        (packed({"face.tflite": b"a", "hand.tflite": b"a"}), r"MediaPipe's tasks are: unpack it.* 'face\.tflite' "),
        (packed({"export/saved_model.pb": b"a"}), "unpack it, and name the model"),
        (packed({"m.mlpackage/Data/m.mlmodel": b"a"}), "Core ML package"),
        (b"PK\x03\x04" + bytes(100), "zip archive, but is truncated or damaged"),
    ],
)
def test_a_file_that_is_not_a_model_is_named(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "model.h5"
    path.write_bytes(content)
    with pytest.raises(BroughtError, match=words) as refused:
        examine(path)
    assert str(path) in str(refused.value)


def test_a_folder_that_is_not_a_model_is_named(tmp_path: Path) -> None:
    for names, words in (
        ([], "is an empty folder"),
        (["checkpoint", "model.index"], "checkpoints: variables without the graph"),
        (["Manifest.json", "Data"], "Core ML package"),
    ):
        folder = tmp_path / str(len(names)) / words[:2]
        folder.mkdir(parents=True)
        for name in names:
            (folder / name).touch()
        with pytest.raises(BroughtError, match=words):
            examine(folder)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(BroughtError, match="neither a file nor a folder"):
        examine(tmp_path / "pipe")


@pytest.mark.parametrize("name", GOOD)
def test_more_than_the_limit_is_refused(models: Path, name: str) -> None:
    with pytest.raises(BroughtError, match="over the limit of"):
        examine(models / name, max_bytes=examine(models / name).size - 1)


# --- Pickles. The bait makes a file: its own test shows that it would.


class Bait:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return os.mkdir, (str(self.target),)


def test_the_bait_bites(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(Bait(tmp_path / "bitten"), 2))
    assert (tmp_path / "bitten").exists()


@pytest.mark.parametrize("protocol", range(2, 6))
def test_a_pickle_is_not_run(models: Path, tmp_path: Path, protocol: int) -> None:
    bait = pickle.dumps(Bait(tmp_path / "bitten"), protocol)
    rezipped(models / "state.pt", tmp_path / "zip.pt", {"data.pkl": bait})
    assert_finding(examine(tmp_path / "zip.pt"), "'posix.mkdir'", True)
    rezipped(models / "state.pt", tmp_path / "broken.pt", {"data.pkl": bait[:-1]})  # it has run by then
    assert_finding(examine(tmp_path / "broken.pt"), "'posix.mkdir'", True)
    magic = (models / "legacy.pt").read_bytes()[:15]
    (tmp_path / "legacy.pt").write_bytes(magic + bait)
    assert_finding(examine(tmp_path / "legacy.pt"), "'posix.mkdir'", True)
    (tmp_path / "model.joblib").write_bytes(bait)
    with pytest.raises(BroughtError, match=r"Python pickle of 'posix\.mkdir'"):
        examine(tmp_path / "model.joblib")
    assert not (tmp_path / "bitten").exists()


@pytest.mark.parametrize(
    "opcodes",
    [
        b"\x80\x02(iposix\nmkdir\n.",
        b"\x80\x02\x82\x01.",
        b"\x80\x04\x8c\x05torch\x8c\x0cFloatStorage\x8c\x05posix0\x93.",  # not what the last strings say
        b"\x80\x02ctorch\nload\n.",
        b"\x80\x02ctorch.nn\nFloatStorage\n.",
        b"\x80\x02ctorch\nSizes\n.",
    ],
)
def test_every_way_to_import_counts(models: Path, tmp_path: Path, opcodes: bytes) -> None:
    rezipped(models / "state.pt", tmp_path / "w.pt", {"data.pkl": opcodes})
    assert_finding(examine(tmp_path / "w.pt"), "its pickle imports", True)


def rezipped(source: Path, target: Path, changes: Mapping[str, bytes | None]) -> None:
    """A copy of an archive with other members; torch's lie in a folder, whose name is added."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        root = "" if "config.json" in old.namelist() else old.namelist()[0].partition("/")[0] + "/"
        for name in old.namelist():
            if name[len(root) :] not in changes:
                new.writestr(name, old.read(name))
        for name, content in changes.items():
            if content is not None:
                new.writestr(root + name, content)


# --- Programs of torch.export: its reader unpickles, evaluates and compiles some of what is in the archive.


def edited(models: Path, target: Path, change: Callable[[Any], object]) -> Path:
    with zipfile.ZipFile(models / "net.pt2") as file:
        program = json.loads(file.read("net/models/model.json"))
    change(program)
    rezipped(models / "net.pt2", target, {"models/model.json": json.dumps(program).encode()})
    return target


def first_expression(program: Any) -> dict[str, Any]:
    sizes: dict[str, Any] = program["graph_module"]["graph"]["tensor_values"]["pixels"]["sizes"][0]["as_expr"]
    return sizes


def test_an_expression_that_runs_when_it_is_read_is_a_finding(models: Path, tmp_path: Path) -> None:
    import torch

    code = f"__import__('os').mkdir({str(tmp_path / 'bitten')!r})"
    path = edited(models, tmp_path / "m.pt2", lambda program: first_expression(program).update(expr_str=code))
    assert_finding(examine(path), r"its shapes are given by .*__import__.* evaluates as Python code", False)
    assert not (tmp_path / "bitten").exists()
    with pytest.raises(Exception):  # noqa: B017  # the program is no longer one: it is the reading that matters
        torch.export.load(path)
    assert (tmp_path / "bitten").exists(), "torch.export.load evaluates no more: is the rule still needed?"


def test_guards_operators_and_modules_of_a_program_are_findings(models: Path, tmp_path: Path) -> None:
    def change(program: Any) -> None:
        program["guards_code"] = ["1), __import__('os').system('true'), (2"]
        program["graph_module"]["graph"]["nodes"][0]["target"] = "torch.ops.mine.conv.default"
        factory = json.dumps({"default_factory_module": "antigravity", "default_factory_name": "x"})
        spec = json.dumps([1, {"type": "collections.defaultdict", "context": factory, "children_spec": []}])
        program["graph_module"]["module_call_graph"][0]["signature"]["in_spec"] = spec

    judgement = examine(edited(models, tmp_path / "m.pt2", change))
    for words in ("evaluates as Python code", "modules 'antigravity'", r"'mine\.conv' are not PyTorch's own"):
        assert sum(re.search(words, finding.what) is not None for finding in judgement.findings) == 1


@pytest.mark.parametrize(
    ("expression", "innocent"),
    [
        ("Add(FloorDiv(Symbol('s98', positive=True, integer=True), Integer(2)), Integer(1))", True),
        ("1 + (L['d']['a'].size()[0] // 2) <= 2*L['y'].size()[0]", True),
        ("Max(1, s0) if s0 >= 2 and not s1 else -s0", True),
        ("Eq(Mod(s0, 2), 0)", True),
        ("open('x')", False),
        ("Symbol('s').__class__", False),
        ("Abs('exit()')", False),
        ("(lambda: 0)()", False),
        ("[x for x in y]", False),
        ("L['x'].to_file('y')", False),
        ("f'{x}'", False),
        ("-" * 9000 + "1", False),
        ("1 +", False),
    ],
)
def test_expressions_of_shapes_are_arithmetic(expression: str, innocent: bool) -> None:
    assert torch_bytes.innocent(expression) is innocent


def test_what_a_program_unpickles_is_a_finding(models: Path, tmp_path: Path) -> None:
    bait = pickle.dumps(Bait(tmp_path / "bitten"), 2)
    with zipfile.ZipFile(models / "net.pt2") as file:
        weights = json.loads(file.read("net/data/weights/model_weights_config.json"))
    next(iter(weights["config"].values())).update(use_pickle=True, path_name="weight_0")
    marked = {"data/weights/model_weights_config.json": json.dumps(weights).encode(), "data/weights/weight_0": bait}
    example = {"data/sample_inputs/model.pt": packed({"archive/data.pkl": bait})}
    for name, changes in {"marked": marked, "example": example}.items():
        rezipped(models / "net.pt2", tmp_path / name, changes)
        assert_finding(examine(tmp_path / name), "its pickle imports 'posix.mkdir'", True)
    rezipped(models / "net.pt2", tmp_path / "opaque", {"data/constants/opaque_obj_0": bait})
    assert_finding(examine(tmp_path / "opaque"), "pickled objects of its own classes", True)
    assert not (tmp_path / "bitten").exists()


@pytest.mark.parametrize("name", ["data/aotinductor/model/model.so", "extra/x.cubin"])
def test_compiled_code_in_a_program_is_a_finding(models: Path, tmp_path: Path, name: str) -> None:
    rezipped(models / "net.pt2", tmp_path / "m.pt2", {name: b"\x7fELF"})
    assert_finding(examine(tmp_path / "m.pt2"), "compiled code .*which runs when it is read.*torch.export.save", True)


# --- Keras: HDF5 and archives.


def h5(path: Path, config: Any, version: str | None = "3.15.1") -> h5py.File:
    file = h5py.File(path, "w")
    if config is not None:
        file.attrs["model_config"] = json.dumps(config)
    if version is not None:
        file.attrs["keras_version"] = version
    return file


def sequential(*layers: Mapping[str, Any]) -> dict[str, Any]:
    return {"class_name": "Sequential", "config": {"name": "net", "layers": list(layers)}}


def layer(class_name: str, **config: Any) -> dict[str, Any]:
    return {"class_name": class_name, "config": {"name": "one", **config}}


@pytest.mark.parametrize(
    ("part", "trustable", "words"),
    [
        (layer("Lambda", function=["4wEA", None, None]), True, "'one' is a Lambda"),
        (layer("Bidirectional", layer=layer("RNN", cell=layer("Lambda"))), True, "is a Lambda"),
        (
            layer("Dense", activation={"class_name": "__lambda__", "config": {"code": "4wEA"}}),
            True,
            "Lambda's function",
        ),
        (layer("TFSMLayer", filepath="/tmp/other"), True, "SavedModel from a path outside of the file"),
        (layer("TFSMLayer", function=layer("function") | {"config": "relu"}), True, "is a TFSMLayer"),
        (
            layer("Lambda", function=layer("function") | {"config": "relu"}, mask=layer("__lambda__")),
            True,
            "'s function",
        ),
        (layer("TorchModuleWrapper", module="gAJ9"), True, "pickled PyTorch module"),
        (layer("keras>Lambda"), True, "is a Lambda"),
        (layer("Lambda", function=layer("function") | {"config": "mine"}), False, "'mine' are not Keras's own"),
        (
            layer("Dense", activation={"class_name": "function", "config": "deserialize"}),
            False,
            "'deserialize' are not",
        ),
        (layer("Mine"), False, "'Mine' are not Keras's own"),
        ({**layer("Dense"), "module": "mine.layers"}, False, "'mine.layers.Dense' are not Keras's own"),
        ({**layer("get_file"), "module": "keras.utils"}, False, "'keras.utils.get_file' are not"),
        (layer("Dense", activation={"class_name": "function", "config": "mine"}), False, "'mine' are not"),
        (
            layer("TensorFlowOpLayer", function="nn.relu"),
            False,
            r"'TensorFlowOpLayer', which only Keras 2 reads.*2\.15",
        ),
        (layer("StringLookup", vocabulary="/etc/passwd"), False, "vocabulary from '/etc/passwd', a file outside"),
    ],
)
def test_layers_that_run_code_or_are_unknown(tmp_path: Path, part: Any, trustable: bool, words: str) -> None:
    h5(tmp_path / "m.h5", sequential(layer("Dense", units=3), part)).close()
    assert_finding(examine(tmp_path / "m.h5"), words, trustable)


def test_a_lambda_of_keras_own_function_runs_no_code(tmp_path: Path) -> None:
    own = {"module": "keras.activations", "class_name": "function", "config": "relu", "registered_name": "relu"}
    h5(tmp_path / "m.h5", sequential(layer("Lambda", function=own))).close()
    assert examine(tmp_path / "m.h5").findings == ()


def test_hdf5_does_not_lead_elsewhere(tmp_path: Path) -> None:
    with h5(tmp_path / "m.h5", sequential()) as file:
        file["weights/loop"] = file["/"]
        file["soft"] = h5py.SoftLink("/nowhere")
        file["link"] = h5py.ExternalLink("/etc/other.h5", "/x")
        file.create_dataset("raw", (4,), "u1", external=[("/etc/passwd", 0, 4)])
        layout = h5py.VirtualLayout((4,), "f4")
        layout[:] = h5py.VirtualSource("/etc/virtual.h5", "x", (4,))
        file.create_virtual_dataset("weights/virtual", layout)
    judgement = examine(tmp_path / "m.h5")
    assert [finding.trustable for finding in judgement.findings] == [False] * 3
    for words in ("'/link' is a link to another file, '/etc/other.h5'", "'/etc/passwd'", "'/etc/virtual.h5'"):
        assert sum(words in finding.what for finding in judgement.findings) == 1


def test_hdf5_that_is_not_a_current_keras_model(tmp_path: Path) -> None:
    for name, config, version, words in (
        ("one", sequential(), "1.2.2", r"written by Keras 1\.2\.2.*Keras 2\.3\.1"),
        ("none", sequential(), None, "written by Keras 1"),
        ("other", None, None, "HDF5 file, but not a Keras model"),
        ("odd", ["no", "model"], "3.0", "does not describe a model"),
    ):
        h5(tmp_path / name, config, version).close()
        with pytest.raises(BroughtError, match=words):
            examine(tmp_path / name)
    with h5(tmp_path / "bomb", sequential()) as file:
        file.create_dataset("w", (1 << 26,), "f4", chunks=(1 << 20,), compression="gzip")
    with pytest.raises(BroughtError, match="decompression bomb"):
        examine(tmp_path / "bomb")


def test_archives_that_harm_their_reader(models: Path, tmp_path: Path) -> None:
    for name in ("../../evil.py", "/etc/evil", "assets/..\\evil", "c:evil"):
        rezipped(models / "net.keras", tmp_path / "m.keras", {name: b"x"})
        assert_finding(examine(tmp_path / "m.keras"), "leave the folder", False)
    shutil.copy(models / "net.keras", tmp_path / "twice.keras")
    with pytest.warns(UserWarning, match="Duplicate"), zipfile.ZipFile(tmp_path / "twice.keras", "a") as file:
        file.writestr("config.json", "{}")
    with pytest.raises(BroughtError, match=r"'config\.json' more than once"):
        examine(tmp_path / "twice.keras")
    for source in ("net.keras", "net.pt2", "state.pt"):
        shutil.copy(models / source, tmp_path / "bomb")
        with zipfile.ZipFile(tmp_path / "bomb", "a", zipfile.ZIP_DEFLATED) as file:
            root = "" if source == "net.keras" else file.namelist()[0].partition("/")[0] + "/"
            file.writestr(f"{root}zeros", bytes(60_000_000))
        with pytest.raises(BroughtError, match="decompression bomb"):
            examine(tmp_path / "bomb")


def test_weights_of_an_archive(models: Path, tmp_path: Path) -> None:
    rezipped(models / "net.keras", tmp_path / "none.keras", {"model.weights.h5": None})
    with pytest.raises(BroughtError, match="no weights in it"):
        examine(tmp_path / "none.keras")
    for array, refused in ((np.ones(3), False), (np.array([Bait(tmp_path)], object), True)):
        buffer = io.BytesIO()
        np.savez(buffer, array)
        changes = {"model.weights.h5": None, "model.weights.npz": buffer.getvalue()}
        rezipped(models / "net.keras", tmp_path / "npz.keras", changes)
        assert [finding.trustable for finding in examine(tmp_path / "npz.keras").findings] == [False] * refused
    with h5py.File(tmp_path / "w.h5", "w") as file:
        file["link"] = h5py.ExternalLink("other.h5", "/x")
    rezipped(models / "net.keras", tmp_path / "l.keras", {"model.weights.h5": (tmp_path / "w.h5").read_bytes()})
    assert_finding(examine(tmp_path / "l.keras"), "link to another file, 'other.h5'", False)


# --- SavedModels.


def changed_folder(source: Path, target: Path, old: bytes = b"", new: bytes = b"") -> Path:
    shutil.copytree(source, target)
    content = (target / "saved_model.pb").read_bytes()
    assert len(old) == len(new) and (not old or old in content)
    (target / "saved_model.pb").write_bytes(content.replace(old, new) if old else content)
    return target


def test_parts_of_a_savedmodel(models: Path, tmp_path: Path) -> None:
    for name, source, gone in (
        ("index", "savedmodel", "variables/variables.index"),
        ("data", "savedmodel", "variables/variables.data-00000-of-00001"),
        ("words", "asset", "assets/words.txt"),
    ):
        folder = changed_folder(models / source, tmp_path / name)
        (folder / gone).unlink()
        with pytest.raises(BroughtError, match="Bring the whole folder"):
            examine(folder)
    folder = changed_folder(models / "asset", tmp_path / "out", b"words.txt", b"../../etc")
    assert_finding(examine(folder), "asset '../../etc' lies outside", False)
    folder = changed_folder(models / "savedmodel", tmp_path / "linked")
    shutil.move(folder / "variables", tmp_path / "elsewhere")
    (folder / "variables").symlink_to(tmp_path / "elsewhere")
    assert_finding(examine(folder), "'variables' are links that leave", False)
    folder = changed_folder(models / "reads", tmp_path / "custom", b"ReadFile", b"MyOpFile")
    assert_finding(examine(folder), "'MyOpFile' are not TensorFlow's own", False)


# --- ONNX, TF.js, safetensors: files that name other files, and sizes that have to agree.


@pytest.mark.parametrize(
    ("location", "words"),
    [
        ("/etc/passwd", "outside of its folder, in '/etc/passwd'"),
        ("../external.bin", "outside of its folder"),
        ("", "outside of its folder"),
        ("linked.bin", "outside of its folder"),
        ("missing.bin", None),
        ("short.bin", None),
    ],
)
def test_external_weights_stay_in_the_folder(models: Path, tmp_path: Path, location: str, words: str | None) -> None:
    model = onnx.load(models / "external.onnx", load_external_data=False)
    next(entry for entry in model.graph.initializer[0].external_data if entry.key == "location").value = location
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    (tmp_path / "linked.bin").symlink_to(models / "external.bin")
    (tmp_path / "short.bin").write_bytes(b"short")
    if words:
        assert_finding(examine(tmp_path / "m.onnx"), words, False)
        return
    with pytest.raises(BroughtError, match=rf"{location}.*(which is not there|is truncated)"):
        examine(tmp_path / "m.onnx")


def test_operators_and_opsets_of_onnx(models: Path, tmp_path: Path) -> None:
    helper = onnx.helper
    model = onnx.load(models / "net.onnx")
    inner = helper.make_graph([helper.make_node("Hidden", [], ["z"], domain="mine")], "then", [], [])
    model.graph.node.append(helper.make_node("If", ["x"], ["z"], then_branch=inner, else_branch=inner))
    model.graph.node.append(helper.make_node("Local", ["x"], ["w"], domain="own"))
    model.graph.node.append(helper.make_node("Gelu", ["x"], ["v"], domain="com.microsoft"))
    body = [helper.make_node("Relu", ["a"], ["b"])]
    model.functions.append(helper.make_function("own", "Local", ["a"], ["b"], body, [helper.make_opsetid("", 18)]))
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    assert_finding(examine(tmp_path / "m.onnx"), "operators 'mine::Hidden' are not ONNX's or ONNX Runtime's own", False)
    model = onnx.load(models / "net.onnx")
    model.opset_import[0].version = 99
    (tmp_path / "new.onnx").write_bytes(model.SerializeToString())
    assert_finding(examine(tmp_path / "new.onnx"), r"opset is 99.*Export it with opset_version=", False)


def test_weights_of_a_tfjs_model(models: Path, tmp_path: Path) -> None:
    folder = tmp_path / "tfjs"
    shutil.copytree(models / "tfjs", folder)
    (shard,) = folder.glob("*.bin")
    content = shard.read_bytes()
    shard.write_bytes(content[:-4])
    with pytest.raises(BroughtError, match=rf"have {len(content) - 4} bytes, expected {len(content)}"):
        examine(folder)
    shard.unlink()
    with pytest.raises(BroughtError, match="which is not there"):
        examine(folder)
    model = json.loads((folder / "model.json").read_bytes())
    for outside in ("../x.bin", "https://example.org/x.bin", "/etc/passwd"):
        model["weightsManifest"][0]["paths"] = [outside]
        (folder / "model.json").write_text(json.dumps(model))
        assert_finding(examine(folder), "lie outside of its folder", False)


def safetensors(tensors: Mapping[str, tuple[str, list[int], list[int]]], length: int | None = None) -> bytes:
    header = json.dumps(
        {name: {"dtype": dtype, "shape": shape, "data_offsets": at} for name, (dtype, shape, at) in tensors.items()}
    ).encode()
    end = max((at[1] for _, _, at in tensors.values()), default=0)
    return (len(header) if length is None else length).to_bytes(8, "little") + header + bytes(end)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (safetensors({"a": ("F32", [2], [0, 8]), "b": ("F32", [2], [4, 12])}), "expected 8"),
        (safetensors({"a": ("F32", [2], [0, 8]), "b": ("F32", [2], [12, 20])}), "expected 8"),
        (safetensors({"a": ("F32", [3], [0, 8])}), "its shape's size"),
        (safetensors({"a": ("F32", [2], [0, 8])}) + b"more", "its tensors end at"),
        (safetensors({"a": ("F32", [2], [0, 8])})[:-1], "its tensors end at"),
        (safetensors({}), "holds no tensors"),
        (safetensors({"a": ("F32", [2], [0, 8])}, length=60), "truncated or damaged"),
        (safetensors({"a": ("F32", [2], [0, 8]), "b": ("F32", [0], [8, 8])}).replace(b'"b"', b'"a"'), "twice"),
    ],
)
def test_tensors_fill_their_file(tmp_path: Path, content: bytes, words: str) -> None:
    (tmp_path / "m.safetensors").write_bytes(content)
    with pytest.raises(BroughtError, match=words):
        examine(tmp_path / "m.safetensors")


def test_a_buffer_of_tflite_lies_within_the_file(models: Path, tmp_path: Path) -> None:
    content = bytearray((models / "net.tflite").read_bytes())
    model = schema.Model.GetRootAs(content, 0)
    (first, *_) = (each for each in map(model.Buffers, range(model.BuffersLength())) if not each.DataIsNone())
    length = first._tab.Vector(first._tab.Offset(4)) - 4
    content[length : length + 4] = len(content).to_bytes(4, "little")
    (tmp_path / "m.tflite").write_bytes(content)
    with pytest.raises(BroughtError, match=r"TF Lite model, but is truncated or damaged .*buffer \d+ goes beyond"):
        examine(tmp_path / "m.tflite")


# --- Damage: whatever the bytes are, the answer is a verdict or a message.


def judged(path: Path) -> str:
    """ "" for a verdict, else the message. Anything but BroughtError goes through, and fails the test."""
    try:
        return "" if examine(path).line() else "no line"
    except BroughtError as error:
        return str(error)


FILES = [name for name in GOOD if "." in name and name != "external.onnx"] + [
    "savedmodel/saved_model.pb",
    "tfjs/model.json",
]


@pytest.mark.parametrize("name", [*FILES, "module_legacy.pt", "flex.tflite"])
def test_a_truncated_file_ends_as_a_message(models: Path, tmp_path: Path, name: str) -> None:
    content = (models / name).read_bytes()
    path = tmp_path / Path(name).name
    for length in (1, 2, 4, 7, 8, 9, 12, 64, 200, len(content) // 3, len(content) // 2, len(content) - 1):
        path.write_bytes(content[: min(length, len(content) - 1)])
        message = judged(path)
        # Tensors follow the pickles of torch's old format and the tables of TF Lite's: those may be whole.
        assert message or name.endswith(("legacy.pt", "tflite")), f"{length} of {len(content)} bytes"
        assert not message or str(path.parent) in message


def test_changed_bytes_end_as_a_message(models: Path, tmp_path: Path) -> None:
    chance = random.Random(7)
    refused = 0
    for case in range(240):
        name = FILES[case % len(FILES)]
        content = bytearray((models / name).read_bytes())
        for _ in range(chance.choice((1, 3, 30))):
            content[chance.randrange(min(len(content), chance.choice((40, 4000, 1 << 30))))] = chance.randrange(256)
        path = tmp_path / Path(name).name
        path.write_bytes(content)
        refused += bool(judged(path))
    assert 40 < refused < 240, "most damage is refused, and some does not matter"


# --- The command.


def test_the_command_prints_verdicts_and_refuses(models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main([str(models / "net.h5"), str(models / "tfjs")])
    assert capsys.readouterr().out.count("nothing in it does more than compute\n") == 2
    with pytest.raises(SystemExit) as stopped:
        main([str(models / "lambda.h5"), str(models / "net.onnx"), str(models / "words.txt")])
    printed = capsys.readouterr()
    assert stopped.value.code == 1
    assert "an ONNX model" in printed.out and "TRUST=1" in printed.err and "is text" in printed.err
    main(["--trust", str(models / "lambda.h5")])
    assert "is a Lambda" in capsys.readouterr().out
