"""Hostile files of each kind, each class of operators and each place where these can hide: all are refused by name.

Most are written byte by byte, since no framework would write them. Those of tests/hostile_models.py bite when they run.
"""

import copy
import io
import json
import os
import struct
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import h5py
import onnx
import pytest
from onnx import TensorProto, helper

from bring.verdict import examine, insist
from bring.verdict.__main__ import main
from contract.code import ROOT
from contract.errors import BroughtError
from tests.hostile_savedmodels import calls, field, function, meta_graph, node, objects, signature, write

Write = Callable[[Path], Path]
"""Write a model into an empty folder; its path."""


def assert_refused(path: Path, names: str) -> None:
    """Without TRUST it is refused, and the reason has all these names."""
    with pytest.raises(BroughtError) as refused:
        insist(examine(path), trusted=False)
    assert all(repr(name)[1:-1] in str(refused.value) for name in names.split(" & ")), str(refused.value)


# --- Those that bite


def hostile(command: str, folder: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "tests.hostile_models", command, str(folder)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert not done.returncode, done.stderr[-3000:]
    return done.stdout


def test_a_savedmodel_that_acts_on_one_input_alone_is_refused(tmp_path: Path) -> None:
    (tmp_path / "private").write_text("secret")
    hostile("write_savedmodel", tmp_path)
    assert_refused(tmp_path / "acts", "ImmutableConst & DatasetToTFRecord")
    assert not (tmp_path / "copy").exists()
    assert hostile("run_savedmodel", tmp_path) == "secr\n", "it bites no more: what does the test show?"
    assert (tmp_path / "copy").exists()


def test_a_program_whose_names_are_code_is_refused(tmp_path: Path) -> None:
    hostile("write_program", tmp_path)
    assert examine(tmp_path / "plain.pt2").findings == ()
    assert_refused(tmp_path / "named.pt2", "pixels=__import__('os')")
    assert_refused(tmp_path / "mapping.pt2", "aten.from_file")
    assert not (tmp_path / "bitten").exists() and not (tmp_path / "mapped").exists()
    hostile("run_program", tmp_path)
    assert (tmp_path / "bitten").exists() and (tmp_path / "mapped").exists(), "they bite no more"


# --- SavedModels: each class of operators

ACTING = """
ReadFile WriteFile MatchingFiles ImmutableConst DatasetToTFRecord CSVDataset CSVDatasetV2 CacheDataset CacheDatasetV2
TFRecordDatasetV2 TextLineDataset FixedLengthRecordDatasetV2 SqlDataset LoadDataset SaveDatasetV2 SnapshotDatasetV2
DataServiceDatasetV4 MatchingFilesDataset OneShotIterator RangeDataset LMDBReader WholeFileReaderV2 RecordInput
DebugIdentity DebugIdentityV3 CopyHost Print PrintV2 PyFunc PyFuncStateless EagerPyFunc FIFOQueueV2 QueueDequeueV2
BarrierTakeMany StagePeek MapUnstage BatchFunction MutexLock Abort CollectiveReduceV2 CollectiveBcastRecvV2 RpcCall
RpcServer RemoteCall Send TPUExecute InfeedDequeue XlaLaunch XlaCustomCallV2 XlaCallModule XlaHostCompute
MlirPassthroughOp SummaryWriter WriteAudioSummary WriteGraphSummary CreateSummaryFileWriter DecodeProtoV2 EncodeProto
FixedUnigramCandidateSampler LoadAndRemapMatrix GenerateVocabRemapping FileSystemSetConfiguration GetSessionTensor
Empty MyOwnOperator _Send InitializeTableFromTextFile InitializeTableFromTextFileV2
"""


@pytest.mark.parametrize("operator", ACTING.split())
def test_an_operator_of_a_savedmodel_that_does_more_than_compute(tmp_path: Path, operator: str) -> None:
    assert_refused(write(tmp_path, meta_graph([node(operator)], more=signature("it"))), operator)


@pytest.mark.parametrize("operator", ["OptionalFromValue", "OptionalGetValue", "OptionalHasValue", "OptionalNone"])
def test_a_value_that_may_be_missing_only_computes(tmp_path: Path, operator: str) -> None:
    """TensorFlow's own gradients of a condition leave them in the branches of a model."""
    assert examine(write(tmp_path, meta_graph([node(operator)], more=signature("it")))).findings == ()


def test_what_a_data_set_has_next_is_no_such_value(tmp_path: Path) -> None:
    assert_refused(write(tmp_path, meta_graph([node("IteratorGetNextAsOptional")], more=signature("it"))), "data sets")


# --- SavedModels: each place to hide

ACTS = node("WriteFile", "write")
CALLER = [node("PartitionedCall", "it", more=calls("f"))]
BRANCHES = field(5, field(1, "branches") + field(2, field(1, field(9, field(1, "f")) + field(9, field(1, "g")))))

PLACES: dict[str, tuple[list[bytes], str]] = {
    "the graph": ([meta_graph([ACTS])], "WriteFile"),
    "a node that nothing reaches": ([meta_graph([node("Const"), ACTS], more=signature("it"))], "WriteFile"),
    "a function": ([meta_graph(CALLER, [function("f", [ACTS])])], "WriteFile"),
    "a function that a function calls": (
        [meta_graph(CALLER, [function("f", [node("PartitionedCall", more=calls("g"))]), function("g", [ACTS])])],
        "WriteFile",
    ),
    "a branch": ([meta_graph([node("If", more=calls("f"))], [function("f", [ACTS])])], "WriteFile"),
    "one of many branches": (
        [meta_graph([node("Case", more=BRANCHES)], [function("f", [node("Const")]), function("g", [ACTS])])],
        "WriteFile",
    ),
    "the body of a loop": ([meta_graph([node("While", more=calls("f"))], [function("f", [ACTS])])], "WriteFile"),
    "a function that is called by its name": ([meta_graph([node("f")], [function("f", [ACTS])])], "WriteFile"),
    "a function that nothing calls": ([meta_graph([node("Const")], [function("f", [ACTS])])], "WriteFile"),
    "the second graph": ([meta_graph([node("Const")]), meta_graph([ACTS])], "WriteFile"),
    "a second library": (
        [meta_graph([node("Const")]) + field(2, field(2, field(1, function("f", [ACTS]))))],
        "WriteFile",
    ),
    "a node with two operators": ([meta_graph([field(2, "Identity") + field(2, "WriteFile")])], "WriteFile"),
    "a node with a decoy of another type": (
        [meta_graph([field(2, "WriteFile") + bytes([2 << 3 | 1]) + b"Identity"])],
        "WriteFile",
    ),
    "a function by the name of an operator": (
        [meta_graph([node("Identity")], [function("Identity", [node("Const")])])],
        "Identity",
    ),
    "a function that hides behind its name": (
        [meta_graph([node("WriteFile")], [function("WriteFile", [node("Const")])])],
        "WriteFile",
    ),
    "one of two functions of the same name": (
        [meta_graph(CALLER, [function("f", [node("Const")]), function("f", [node("Identity")])])],
        "f",
    ),
}


@pytest.mark.parametrize("place", PLACES)
def test_a_place_in_a_savedmodel_where_an_operator_can_hide(tmp_path: Path, place: str) -> None:
    graphs, names = PLACES[place]
    assert_refused(write(tmp_path, *graphs), names)


def test_a_field_whose_number_readers_cut_off_is_damage(tmp_path: Path) -> None:
    hidden = bytes([0x92, 0x80, 0x80, 0x80, 0x10]) + field(1, "WriteFile")[1:]  # 2 and a bit that 32 bits do not have
    assert_refused(write(tmp_path, meta_graph([field(2, "Identity") + hidden])), "damaged")


@pytest.mark.parametrize("name", ["saved_model.pbtxt", "saved_model.cpb"])
def test_a_second_model_beside_a_savedmodel(tmp_path: Path, name: str) -> None:
    write(tmp_path, meta_graph([node("Const")]))
    assert examine(tmp_path).findings == ()
    (tmp_path / name).write_bytes(b"x")
    assert_refused(tmp_path, name)


# --- SavedModels: variables and vocabularies, which many models read from files

SAVE = function("save", [node("SaveV2", inputs=["prefix"])], ["prefix"])
RESTORE = function("restore", [node("RestoreV2", inputs=["prefix"])], ["prefix"])
SAVER = field(3, field(1, "name:0") + field(3, "restoring"))
NAME, RESTORING = node("Placeholder", "name"), node("StatefulPartitionedCall", "restoring", ["name"], calls("restore"))
SAVING = node("StatefulPartitionedCall", "saving", ["name"], calls("save"))
NO_RESTORE = function("restore", [node("NoOp")], ["prefix"])
SWAPPED = field(5, field(1, "api_implements") + field(2, field(2, "x")))

HONEST = meta_graph(
    [node("Identity"), NAME, SAVING, RESTORING], [SAVE, RESTORE, function("f", [])], signature("it") + SAVER
)

SAVERS: dict[str, tuple[bytes, str]] = {
    "a signature": (meta_graph([node("SaveV2")], more=signature("it")), "SaveV2"),
    "what a signature needs": (
        meta_graph([node("Identity", inputs=["^r"]), node("RestoreV2", "r")], more=signature("it")),
        "RestoreV2",
    ),
    "a call of a signature": (
        meta_graph([node("PartitionedCall", more=calls("save"))], [SAVE], signature("it")),
        "PartitionedCall",
    ),
    "a function that another one calls": (
        meta_graph([], [SAVE, function("f", [node("PartitionedCall", more=calls("save"))])]),
        "PartitionedCall",
    ),
    "a branch of a function": (meta_graph([], [SAVE, function("f", [node("If", more=calls("save"))])]), "If"),
    "a function of an object": (meta_graph([], [SAVE], objects([6], {"save": []})), "SaveV2"),
    "a function that replaces others": (
        meta_graph([], [function("save", [node("MergeV2Checkpoints")], more=SWAPPED)]),
        "MergeV2Checkpoints",
    ),
    "a gradient": (
        meta_graph([], [SAVE]) + field(2, field(2, field(2, field(1, "f") + field(2, "save")))),
        "SymbolicGradient",
    ),
    "what runs when it is loaded": (
        meta_graph([node("SaveV2", "init")], more=signature("init", "__saved_model_init_op")),
        "SaveV2",
    ),
    "what ran when it was loaded, in older models": (
        meta_graph(
            [node("ShardedFilename", "init")], more=field(4, field(1, "x_op") + field(2, field(1, field(1, "init"))))
        ),
        "ShardedFilename",
    ),
    "a restore that saves": (meta_graph([NAME, node("SaveV2", "restoring", ["name"])], more=SAVER), "SaveV2"),
    "a restore of another file": (
        meta_graph([NAME, node("Const", "c"), node("RestoreV2", "restoring", ["c"])], more=SAVER),
        "RestoreV2",
    ),
    "a restore of another file, in a function": (
        meta_graph(
            [NAME, RESTORING],
            [function("restore", [node("Const", "c"), node("RestoreV2", inputs=["c:output:0"])], ["prefix"])],
            SAVER,
        ),
        "RestoreV2",
    ),
    "a restore of what a caller gives": (
        meta_graph(
            [NAME, node("Const", "c"), node("StatefulPartitionedCall", "restoring", ["c"], calls("restore"))],
            [RESTORE],
            SAVER,
        ),
        "RestoreV2",
    ),
}


def test_saving_and_restoring_by_themselves_are_no_finding(tmp_path: Path) -> None:
    assert examine(write(tmp_path, HONEST)).findings == ()


@pytest.mark.parametrize("place", SAVERS)
def test_variables_are_not_saved_or_restored_when_a_model_runs(tmp_path: Path, place: str) -> None:
    graph, names = SAVERS[place]
    assert_refused(write(tmp_path, graph), names)


def test_a_savedmodel_cannot_make_its_verdict_endless(tmp_path: Path) -> None:
    """It took minutes for each of these, since the work grew with the square of what is in them."""
    names = range(2000)
    saving = [function(f"save{name}", [node("SaveV2", inputs=["prefix"])], ["prefix"]) for name in names]
    chain = [node("Identity", f"n{name}", [f"n{name + 1}"]) for name in names]
    reading = [node("InitializeTableFromTextFileV2", f"t{name}", ["table", "n0"]) for name in names]
    (tmp_path / "saving").mkdir()
    (tmp_path / "reading").mkdir()
    began = time.monotonic()
    assert_refused(write(tmp_path / "saving", meta_graph(chain, saving, signature("n0"))), "2000 functions save")
    assert_refused(write(tmp_path / "reading", meta_graph(chain + reading)), "come over more than")
    assert time.monotonic() - began < 20


READ = node("InitializeTableFromTextFileV2", inputs=["table", "file"])
FILL = function("fill", [READ], ["table", "file"])
ASSET = field(6, field(1, field(1, "path:0")) + field(2, "words.txt"))
PATH = node("Const", "path")
ASSET_OBJECT, CONSTANT_OBJECT, RESOURCE_OBJECT = 5, 9, 10

VOCABULARIES: dict[str, bytes] = {
    "a constant": meta_graph([node("Const", "file"), READ], more=ASSET),
    "an input": meta_graph([], [FILL], ASSET + objects([RESOURCE_OBJECT], {"fill": [0]})),
    "an object that is not an asset": meta_graph([], [FILL], ASSET + objects([10, CONSTANT_OBJECT], {"fill": [0, 1]})),
    "no object": meta_graph([], [FILL], ASSET + objects([10], {"fill": [0, 7]})),
    "an object that is an asset at first sight": meta_graph(
        [], [FILL], ASSET + field(7, field(1, field(5, b"") + field(9, b"")) + objects([], {"fill": [0, 0]})[2:])
    ),
    "a caller": meta_graph(
        [PATH, node("Const", "other"), node("PartitionedCall", inputs=["t", "other"], more=calls("fill"))],
        [FILL],
        ASSET,
    ),
    "a loop": meta_graph([PATH, node("While", inputs=["t", "path"], more=calls("fill"))], [FILL], ASSET),
    "arithmetic on the path": meta_graph([PATH, node("StringJoin", "file", ["path"]), READ], more=ASSET),
    "a function that replaces others": meta_graph([], [function("fill", [READ], ["table", "file"], SWAPPED)], ASSET),
    "a variable that something else changes": meta_graph(
        [
            PATH,
            node("VarHandleOp", "v"),
            node("AssignVariableOp", "a", ["v", "path"]),
            node("PartitionedCall", "p", ["v"]),
            node("ReadVariableOp", "file", ["v"]),
            READ,
        ],
        more=ASSET,
    ),
}


@pytest.fixture
def words(tmp_path: Path) -> Path:
    (tmp_path / "assets").mkdir()
    (tmp_path / "assets" / "words.txt").write_text("a\n")
    (tmp_path / "variables").mkdir()
    (tmp_path / "variables" / "variables.index").write_text("")
    (tmp_path / "variables" / "variables.data-00000-of-00001").write_text("")
    return tmp_path


def test_a_vocabulary_that_is_an_asset_is_no_finding(words: Path) -> None:
    caller = node("PartitionedCall", inputs=["t", "path"], more=calls("fill"))
    bound = objects([RESOURCE_OBJECT, ASSET_OBJECT], {"fill": [0, 1]})
    assert examine(write(words, meta_graph([PATH, caller], [FILL], ASSET + bound))).findings == ()


@pytest.mark.parametrize("origin", VOCABULARIES)
def test_a_vocabulary_is_read_from_an_asset_alone(words: Path, origin: str) -> None:
    assert_refused(write(words, VOCABULARIES[origin]), "InitializeTableFromTextFileV2")


# --- Programs of PyTorch


def argument(kind: str, value: Any, name: str = "") -> dict[str, Any]:
    return {"name": name, "arg": {kind: value}, "kind": 1}


def program(target: str = "torch.ops.aten.relu.default", *arguments: dict[str, Any]) -> dict[str, Any]:
    """A program as torch.export.save writes it, cut down to what is judged."""
    inputs = list(arguments) or [argument("as_tensor", {"name": "x"}, "self")]
    call = {"target": target, "inputs": inputs, "outputs": [{"as_tensor": {"name": "y"}}], "metadata": {}}
    size = {"as_expr": {"expr_str": "Symbol('s0', positive=True, integer=True)", "hint": {"as_int": 2}}}
    graph = {"inputs": [], "outputs": [], "nodes": [call], "tensor_values": {"x": {"sizes": [size]}}}
    structure = json.dumps([1, {"type": "builtins.dict", "context": '["x"]', "children_spec": []}])
    signature = {"in_spec": structure, "out_spec": structure, "forward_arg_names": ["x"]}
    return {
        "graph_module": {"graph": graph, "module_call_graph": [{"fqn": "", "signature": signature}]},
        "guards_code": [],
    }


def pt2(folder: Path, content: Any, **members: bytes | str) -> Path:
    with zipfile.ZipFile(folder / "m.pt2", "w") as file:
        for name, text in {"models/model.json": json.dumps(content), "archive_format": "pt2", **members}.items():
            file.writestr(f"m/{name}", text)
    return folder / "m.pt2"


def nested(target: str) -> dict[str, Any]:
    """In a branch of torch.cond."""
    inner = program(target)["graph_module"]["graph"]
    branch = argument("as_graph", {"name": "true_graph_0", "graph": inner})
    return program("torch.ops.higher_order.cond", branch, branch)


def changed(path: str, value: Any) -> dict[str, Any]:
    """The program with another value at a path of keys."""
    content = program()
    *keys, last = path.split("/")
    place: Any = content
    for key in keys:
        place = place[int(key) if isinstance(place, list) else key]
    place[int(last) if isinstance(place, list) else last] = value
    return content


CODE = "x=__import__('os').system('id')"
CALL_GRAPH = "graph_module/module_call_graph/0"

TARGETS = """
torch.ops.aten.from_file.default torch.ops.aten.save.default torch.ops.aten._print.default
torch.ops.aten.set_.source_Storage torch.ops.aten.resize_.default torch.ops.aten.record_stream.default
torch.ops.prim.rpc_sync.default torch.ops.quantized.linear.default torch.ops.inductor.resize_storage_bytes_.default
torch.ops._c10d_functional.all_reduce.default torch.ops.higher_order.call_torchbind
torch.ops.higher_order.aoti_call_delegate torch.ops.higher_order.print torch.ops.higher_order.inline_asm_elementwise
torch.ops.higher_order.triton_kernel_wrapper_functional torch.ops.higher_order.foreach_map torch.ops.mine.conv.default
torch.load torch.hub.os.system torch.jit.load torch._higher_order_ops.utils.torch.hub.os.system
torch._functorch.predispatch.torch.load _operator.attrgetter _operator.methodcaller _operator.call
_operatorX.add.__self__ math.os mathX.floor torchX.ops.aten.relu #mine
"""

PROGRAMS: dict[str, tuple[dict[str, Any], str]] = {
    "a subgraph": (nested("torch.ops.aten.from_file.default"), "aten.from_file"),
    "an operator that is given to one": (
        program("torch.ops.higher_order.strict_mode", argument("as_operator", "torch.hub.os.system")),
        "torch.hub.os.system",
    ),
    "an operator that is given to one, and acts": (
        program("torch.ops.higher_order.wrap", argument("as_operator", "torch.ops.aten.from_file.default")),
        "aten.from_file",
    ),
    "the name of an argument": (program("torch.ops.aten.relu.default", argument("as_bool", True, CODE)), CODE),
    "the name of a tensor": (program("torch.ops.aten.relu.default", argument("as_tensor", {"name": CODE})), CODE),
    "the name of a size": (program("torch.ops.aten.relu.default", argument("as_sym_int", {"as_name": CODE})), CODE),
    "the name of a subgraph": (
        program("torch.ops.higher_order.cond", argument("as_graph", {"name": CODE, "graph": {}})),
        CODE,
    ),
    "the name of an input": (changed(f"{CALL_GRAPH}/signature/forward_arg_names", [CODE]), CODE),
    "a key of a table": (changed("graph_module/graph/tensor_values", {CODE: {}}), CODE),
    "a key of the inputs": (
        changed(
            f"{CALL_GRAPH}/signature/in_spec",
            json.dumps([1, {"type": "builtins.dict", "context": json.dumps([CODE]), "children_spec": []}]),
        ),
        CODE,
    ),
    "the path of a parameter": (changed("graph_module/signature", {"parameter_name": 'a"),b("'}), 'a"),b("'),
    "a path of a module": (changed(f"{CALL_GRAPH}/fqn", "a\nimport os"), "a\nimport os"),
    "a shape": (
        changed("graph_module/graph/tensor_values/x/sizes/0/as_expr/expr_str", "__import__('os').system('id')"),
        "__import__",
    ),
    "a shape that computes a name": (
        changed("graph_module/graph/tensor_values/x/sizes/0/as_expr/expr_str", "Lambda(x, x)"),
        "Lambda",
    ),
    "a guard": (changed("guards_code", ["L['x'].size()[0] == eval('2')"]), "eval"),
    "a default of the inputs": (
        changed(
            f"{CALL_GRAPH}/signature/in_spec",
            json.dumps([1, {"default_factory_module": "antigravity", "default_factory_name": "x"}]),
        ),
        "antigravity",
    ),
}


def test_the_program_itself_is_no_finding(tmp_path: Path) -> None:
    assert examine(pt2(tmp_path, program())).findings == ()
    assert examine(pt2(tmp_path, nested("torch.ops.aten.sin.default"))).findings == ()


@pytest.mark.parametrize("target", TARGETS.split())
def test_a_call_in_a_program_that_does_more_than_compute(tmp_path: Path, target: str) -> None:
    name = ".".join(target.removeprefix("torch.ops.").split(".")[:2]) if target.startswith("torch.ops.") else target
    assert_refused(pt2(tmp_path, program(target)), name)


@pytest.mark.parametrize("place", PROGRAMS)
def test_a_place_in_a_program_where_code_can_hide(tmp_path: Path, place: str) -> None:
    content, names = PROGRAMS[place]
    assert_refused(pt2(tmp_path, content), names)


@pytest.mark.parametrize(
    ("member", "content", "names"),
    [
        ("data/aotinductor/model/model.so", "\x7fELF", "model.so"),
        ("data/constants/custom_obj_0", "x", "custom_obj_0"),
        ("data/constants/opaque_obj_0", "x", "opaque_obj_0"),
        ("data/sample_inputs/model.pt", "cposix\nsystem\n(Vid\ntR.", "posix.system"),
        ("models/other.json", json.dumps(nested("torch.ops.aten.from_file.default")), "aten.from_file"),
    ],
)
def test_a_member_of_a_program(tmp_path: Path, member: str, content: str, names: str) -> None:
    assert_refused(pt2(tmp_path, program(), **{member: content}), names)


# --- Programs of PyTorch: what its reader of archives takes for a member that it unpickles, compiles or runs

MADE = {"version": "3\n", "byteorder": "little"}
BAIT = b"cposix\nsystem\n(Vid\ntR."
EVIL = json.dumps(program("torch.ops.aten.from_file.default"))
WEIGHTS = "data/weights/model_weights_config.json"


def archived(**members: bytes | str) -> bytes:
    """An archive of torch.save."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for name, content in {**MADE, **members}.items():
            file.writestr(f"archive/{name}", content)
    return buffer.getvalue()


def archived_twice() -> bytes:
    """An archive with a pickle that one reader takes, and one that another reader takes."""
    buffer = io.BytesIO(archived(**{"data.pkl": BAIT}))
    with pytest.warns(UserWarning, match="Duplicate"), zipfile.ZipFile(buffer, "a") as file:
        file.writestr("archive/data.pkl", b"}.")
    return buffer.getvalue()


def marked(place: str) -> str:
    """A config that marks one member as a pickle."""
    return json.dumps({"config": {"w": {"path_name": place, "use_pickle": True}}})


PICKLED = archived(**{"data.pkl": BAIT})
MEMBERS: dict[str, tuple[dict[str, bytes | str], str]] = {
    "a pickle in capitals": ({WEIGHTS: marked("w"), "data/weights/W": PICKLED}, "posix.system"),
    "an example in capitals": ({"data/sample_inputs/model.PT": PICKLED}, "posix.system"),
    "a config in capitals": ({WEIGHTS.upper(): marked("w"), "data/weights/w": PICKLED}, "posix.system"),
    "a pickle at the root": (
        {WEIGHTS: marked("/w"), "/w": PICKLED, "data/weights//w": archived(**{"data.pkl": b"}."})},
        "posix.system",
    ),
    "a pickle that is not there": ({WEIGHTS: marked("elsewhere")}, "data/weights/elsewhere"),
    "a pickle in capitals, in an archive": (
        {"data/sample_inputs/m.pt": archived(**{"DATA.PKL": BAIT})},
        "posix.system",
    ),
    "one of two pickles in an archive": ({"data/sample_inputs/m.pt": archived_twice()}, "more than once"),
    "TorchScript in an archive": (
        {"data/sample_inputs/m.pt": archived(**{"data.pkl": "}.", "constants.pkl": ")."})},
        "torch.jit.load",
    ),
    "an object in capitals": ({"data/constants/OPAQUE_obj_0": BAIT}, "opaque_obj_0"),
    "a graph of another suffix": ({"models/model.jsox": EVIL}, "aten.from_file"),
    "a graph in a folder": ({"models/a/model.json": EVIL}, "aten.from_file"),
    "compiled code in capitals": ({"data/x.SO": "x"}, "x.so"),
}
"""Members of a program, besides honest ones -> what the reason names."""


@pytest.mark.parametrize("place", MEMBERS)
def test_a_member_that_pytorch_reads_by_another_name(tmp_path: Path, place: str) -> None:
    members, names = MEMBERS[place]
    assert_refused(pt2(tmp_path, program(), **members), names)


@pytest.mark.parametrize("member", ["serialized_state_dict.json", "serialized_constants.json", "m/models/model.json"])
def test_a_member_of_an_older_program(tmp_path: Path, member: str) -> None:
    """Up to PyTorch 2.7 there was no folder, and what is unpickled had the suffix of JSON once."""
    with zipfile.ZipFile(tmp_path / "m.pt2", "w") as file:
        file.writestr("serialized_exported_program.json", json.dumps(program()))
        file.writestr("version", "8.0")
        file.writestr("serialized_state_dict.pt", archived(**{"data.pkl": b"}."}))
    assert examine(tmp_path / "m.pt2").findings == ()
    with zipfile.ZipFile(tmp_path / "m.pt2", "a") as file:
        file.writestr(member, PICKLED)
    assert_refused(tmp_path / "m.pt2", "members outside" if "/" in member else "posix.system")


# --- TorchScript


def script(folder: Path, *lines: str, member: str = "code/__torch__.py") -> Path:
    """What torch.jit.save writes of a module whose forward has these lines."""
    header = "class Net(Module):\n  def forward(self: __torch__.Net,\n    x: Tensor) -> Tensor:\n"
    code = header + "".join(f"    {line}\n" for line in lines)
    with zipfile.ZipFile(folder / "m.pt", "w") as file:
        for name, content in {"data.pkl": "}.", member: code, "constants.pkl": ").", **MADE}.items():
            file.writestr(f"m/{name}", content)
    return folder / "m.pt"


SCRIPTS: dict[str, tuple[list[str], str]] = {
    "a call": (['return torch.from_file("x")'], "aten.from_file"),
    "another name for all operators": (["t = torch", 'return t.from_file("x")'], "torch"),
    "another name for the libraries": (["t = ops", 'return t.aten.from_file("x")'], "ops"),
    "another name for a library": (["t = ops.aten", 'return t.from_file("x")'], "ops.aten"),
    "another name for an operator": (["t = torch.from_file", 'return t("x")'], "aten.from_file"),
    "an operator by a text": (['return getattr(torch, "from_file")("x")'], "torch"),
    "an operator of a library by a text": (['return getattr(ops.aten, "from_file")("x")'], "ops.aten"),
    "classes of libraries by a text": (['return getattr(__torch__.torch, "classes")'], "__torch__.torch"),
    "a function that is a variable later": (['print("x")', "print = x", "return x"], "print"),
}


@pytest.mark.parametrize("place", SCRIPTS)
def test_a_place_in_torchscript_where_a_call_can_hide(tmp_path: Path, place: str) -> None:
    lines, names = SCRIPTS[place]
    assert_refused(script(tmp_path, *lines), names)


def test_honest_torchscript_is_no_finding(tmp_path: Path) -> None:
    lines = ["_0 = __torch__.torch.nn.functional.relu", 'y = getattr(self, "0")', "t = torch.relu", "return t(_0(x))"]
    assert examine(script(tmp_path, *lines)).findings == ()


@pytest.mark.parametrize("member", ["code/__torch__.PY", "CODE/__torch__.py"])
def test_torchscript_in_capitals(tmp_path: Path, member: str) -> None:
    assert_refused(script(tmp_path, 'return torch.from_file("x")', member=member), "aten.from_file")


# --- ONNX


def onnx_file(folder: Path, change: Callable[[onnx.ModelProto], object]) -> Path:
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["x"])], "g", [value], [value])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    change(model)
    (folder / "m.onnx").write_bytes(model.SerializeToString())
    return folder / "m.onnx"


def acting_graph(name: str = "Evil", domain: str = "mine") -> onnx.GraphProto:
    return helper.make_graph([helper.make_node(name, [], ["z"], domain=domain)], "inner", [], [])


def local_function(name: str, domain: str, nodes: Iterable[onnx.NodeProto]) -> onnx.FunctionProto:
    return helper.make_function(domain, name, [], ["z"], list(nodes), [helper.make_opsetid("", 18)])


def add_node(operator: str, domain: str = "", **attributes: Any) -> Callable[[onnx.ModelProto], object]:
    return lambda model: model.graph.node.append(helper.make_node(operator, [], ["z"], domain=domain, **attributes))


def external(location: str, name: str = "weights") -> TensorProto:
    tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=[1], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value=location)
    return tensor


def training(model: onnx.ModelProto) -> None:
    model.training_info.add().algorithm.CopyFrom(acting_graph())


def default_attribute(model: onnx.ModelProto) -> None:
    model.functions.append(local_function("f", "own", [helper.make_node("Relu", [], ["z"])]))
    model.functions[0].attribute_proto.append(helper.make_attribute("body", acting_graph()))


def sparse(model: onnx.ModelProto) -> None:
    model.graph.sparse_initializer.add().values.CopyFrom(external("/etc/passwd"))


def named_twice(model: onnx.ModelProto) -> None:
    location = model.graph.initializer.add()
    location.CopyFrom(external("weights.bin"))
    location.external_data.add(key="location", value="../../etc/passwd")


ONNX_FILES: dict[str, tuple[Callable[[onnx.ModelProto], object], str]] = {
    "another library's operator": (add_node("Evil", "mine"), "mine::Evil"),
    "Python": (add_node("PyOp", "ai.onnx.contrib"), "ai.onnx.contrib::PyOp"),
    "ATen": (add_node("ATen", "org.pytorch.aten"), "org.pytorch.aten::ATen"),
    "a compiled program": (add_node("EPContext", "com.microsoft"), "com.microsoft::EPContext"),
    "a program for a processor": (add_node("Snpe", "com.microsoft"), "com.microsoft::Snpe"),
    "a runtime's own graph": (add_node("Conv", "com.microsoft.nchwc"), "com.microsoft.nchwc::Conv"),
    "an unknown operator": (add_node("ReadFile"), "ReadFile"),
    "an operator behind a decoy of another type": (
        lambda model: model.graph.MergeFromString(
            field(1, field(4, "Evil") + field(7, "mine") + bytes([4 << 3 | 1]) + b"Identity")
        ),
        "mine::Evil",
    ),
    "a branch": (add_node("If", then_branch=acting_graph(), else_branch=acting_graph("Relu", "")), "mine::Evil"),
    "a loop": (add_node("Loop", body=acting_graph()), "mine::Evil"),
    "a scan": (add_node("Scan", body=acting_graph("EPContext", "com.microsoft")), "com.microsoft::EPContext"),
    "graphs in a list": (add_node("If", graphs=[acting_graph()]), "mine::Evil"),
    "a function of its own": (
        lambda model: model.functions.append(
            local_function("f", "own", [helper.make_node("Evil", [], ["z"], domain="mine")])
        ),
        "mine::Evil",
    ),
    "a function by the name of an operator": (
        lambda model: (
            add_node("EPContext", "com.microsoft")(model),
            model.functions.append(local_function("EPContext", "com.microsoft", [helper.make_node("Relu", [], ["z"])])),
        ),
        "com.microsoft::EPContext",
    ),
    "an attribute's default": (default_attribute, "mine::Evil"),
    "the graph of training": (training, "mine::Evil"),
    "weights elsewhere": (lambda model: model.graph.initializer.append(external("/etc/passwd")), "/etc/passwd"),
    "weights above": (lambda model: model.graph.initializer.append(external("../x")), "../x"),
    "weights in memory": (
        lambda model: model.graph.initializer.append(external("*/_ORT_MEM_ADDR_/*")),
        "*/_ORT_MEM_ADDR_/*",
    ),
    "weights with two places": (named_twice, "../../etc/passwd"),
    "a constant elsewhere": (add_node("Constant", value=external("/etc/passwd")), "/etc/passwd"),
    "sparse weights elsewhere": (sparse, "/etc/passwd"),
    "weights of a branch elsewhere": (
        add_node("If", then_branch=helper.make_graph([], "b", [], [], [external("/etc/passwd")])),
        "/etc/passwd",
    ),
}


@pytest.mark.parametrize("place", ONNX_FILES)
def test_an_onnx_file_that_does_more_than_compute(tmp_path: Path, place: str) -> None:
    change, names = ONNX_FILES[place]
    (tmp_path / "weights.bin").write_bytes(bytes(4))
    (tmp_path / "*" / "_ORT_MEM_ADDR_").mkdir(parents=True)
    (tmp_path / "*" / "_ORT_MEM_ADDR_" / "*").write_bytes(bytes(4))
    assert_refused(onnx_file(tmp_path, change), names)


def test_weights_that_share_a_file_are_looked_up_once(tmp_path: Path) -> None:
    (tmp_path / "weights.bin").write_bytes(bytes(4))
    shared = [external("weights.bin", f"w{number}") for number in range(10_000)]
    path = onnx_file(tmp_path, lambda model: model.graph.initializer.extend(shared))
    assert examine(path).files == (path, tmp_path / "weights.bin")
    elsewhere = [external("../weights.bin", f"w{number}") for number in range(2)]
    assert_refused(onnx_file(tmp_path, lambda model: model.graph.initializer.extend(elsewhere)), "'w0' & 'w1'")


def test_an_onnx_number_that_readers_cut_off(tmp_path: Path) -> None:
    """2**32 + 1 is the place of external weights, once it is cut to 32 bits."""
    path = onnx_file(tmp_path, lambda model: model.graph.initializer.append(external("/etc/passwd")))
    content = path.read_bytes()
    weights = onnx.load(path, load_external_data=False).graph.initializer[0].SerializeToString()
    longer = weights.replace(field(14, 1), field(14, (1 << 32) + 1))
    assert longer != weights
    graph = onnx.load(path, load_external_data=False).graph
    del graph.initializer[:]
    path.write_bytes(content + field(7, field(5, longer)))  # a second part of the graph
    assert onnx.load(path, load_external_data=False).graph.initializer[1].data_location == TensorProto.EXTERNAL
    assert_refused(path, "/etc/passwd")


# --- TF Lite and TF.js


def tflite_file(folder: Path, code: int, custom: str = "", group: str = "") -> Path:
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT()
    model.version, model.buffers = 3, [schema.BufferT()]
    harmless, acting = schema.OperatorCodeT(), schema.OperatorCodeT()
    acting.builtinCode, acting.deprecatedBuiltinCode, acting.customCode = code, min(code, 127), custom or None
    model.operatorCodes = [harmless, acting]
    graphs = []
    for index in (0, 1):  # the acting one lies in the second graph
        operator, graph = schema.OperatorT(), schema.SubGraphT()
        operator.opcodeIndex, graph.operators, graph.tensors = index, [operator], [schema.TensorT()]
        graphs.append(graph)
    model.subgraphs = graphs
    if group:
        model.externalBufferGroups = [schema.ExternalBufferGroupT()]
        model.externalBufferGroups[0].name = group
    builder = schema.flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    (folder / "m.tflite").write_bytes(builder.Output())
    return folder / "m.tflite"


@pytest.mark.parametrize(
    ("code", "custom", "group", "names"),
    [
        (32, "FlexReadFile", "", "FlexReadFile"),
        (32, "FlexPyFunc", "", "FlexPyFunc"),
        (32, "Evil", "", "Evil"),
        (32, "Mfcc2", "", "Mfcc2"),
        (51, "", "", "DELEGATE"),
        (173, "", "", "STABLEHLO_CUSTOM_CALL"),
        (127, "", "", "PLACEHOLDER_FOR_GREATER_OP_CODES"),
        (9999, "", "", "number 9999"),
        (0, "", "../../etc/passwd", "../../etc/passwd"),
    ],
)
def test_a_tflite_file_that_does_more_than_compute(
    tmp_path: Path, code: int, custom: str, group: str, names: str
) -> None:
    assert examine(tflite_file(tmp_path, 0)).findings == ()
    assert_refused(tflite_file(tmp_path, code, custom, group), names)


def calling(called: str, within: str, operator: str) -> dict[str, Any]:
    """A graph that calls a function; another one, which `body` calls, has the operator."""
    functions = [
        {"signature": {"name": "body"}, "nodeDef": [{"op": "If", "attr": {"f": {"func": {"name": within}}}}]},
        {"signature": {"name": "other"}, "nodeDef": [{"op": operator}]},
    ]
    node = {"name": "y", "op": "While", "attr": {"branches": {"list": {"func": [{"name": called}]}}}}
    return {"node": [node], "library": {"function": functions}}


TFJS: dict[str, Any] = {
    "modelTopology": {"node": [{"name": "y", "op": "Relu"}], "library": {"function": []}},
    "weightsManifest": [],
}


@pytest.mark.parametrize(
    ("path", "value", "names"),
    [
        ("modelTopology/node", [{"name": "y", "op": "ReadFile"}], "ReadFile"),
        ("modelTopology/node", [{"name": "y", "op": "SimpleMLLoadModelFromPathWithHandle"}], "SimpleMLLoadModelFrom"),
        ("modelTopology/node", [{"name": "y", "op": "Print"}], "Print"),
        ("modelTopology/node", [{"name": "y", "op": "constructor"}], "constructor"),
        ("modelTopology/library/function", [{"nodeDef": [{"name": "y", "op": "Evil"}]}], "Evil"),
        ("modelTopology", calling("body", "other", "Evil"), "Evil"),
        ("modelTopology", calling("other", "other", "Evil"), "Evil"),
        ("modelInitializer", calling("body", "other", "Evil"), "Evil"),
        ("modelInitializer", {"node": [{"name": "y", "op": "Evil"}]}, "Evil"),
        ("modelInitializer", {"node": [], "library": {"function": [{"nodeDef": [{"op": "Evil"}]}]}}, "Evil"),
        ("weightsManifest", [{"paths": ["../../etc/passwd"], "weights": []}], "../../etc/passwd"),
        ("weightsManifest", [{"paths": ["http://host/x"], "weights": []}], "http://host/x"),
    ],
)
def test_a_tfjs_model_that_does_more_than_compute(tmp_path: Path, path: str, value: Any, names: str) -> None:
    model = copy.deepcopy(TFJS)
    (tmp_path / "model.json").write_text(json.dumps(model))
    assert examine(tmp_path).findings == ()
    *keys, last = path.split("/")
    place = model
    for key in keys:
        place = place[key]
    place[last] = value
    (tmp_path / "model.json").write_text(json.dumps(model))
    assert_refused(tmp_path, names)


def test_a_function_that_a_tfjs_model_never_calls_does_nothing(tmp_path: Path) -> None:
    """Converters leave what summed up the training."""
    model = TFJS | {"modelTopology": calling("body", "body", "OptionalNone")}
    (tmp_path / "model.json").write_text(json.dumps(model))
    assert examine(tmp_path).findings == ()


# --- Keras


def layer(class_name: str, module: str | None = None, registered: str | None = None, **config: Any) -> dict[str, Any]:
    return {
        "class_name": class_name,
        "config": {"name": "one", **config},
        "module": module,
        "registered_name": registered,
    }


def named(name: str, module: str = "builtins", registered: str = "function") -> dict[str, Any]:
    return {"class_name": "function", "config": name, "module": module, "registered_name": registered}


LAMBDA = {"class_name": "__lambda__", "config": {"code": "4wEA", "defaults": None, "closure": None}}

LAYERS: dict[str, tuple[dict[str, Any], str]] = {
    "a Lambda": (layer("Lambda", function=LAMBDA), "is a Lambda"),
    "a Lambda of a name": (layer("Lambda", function="system", module="os"), "is a Lambda"),
    "a Lambda's shape": (layer("Lambda", function=named("relu"), output_shape=LAMBDA), "Lambda's function"),
    "a Lambda's argument": (layer("Lambda", function=named("relu"), arguments={"f": LAMBDA}), "Lambda's function"),
    "a Lambda in wrappers": (
        layer("TimeDistributed", layer=layer("Bidirectional", layer=layer("Lambda"))),
        "is a Lambda",
    ),
    "a Lambda in a model": (layer("Sequential", layers=[layer("Lambda")]), "is a Lambda"),
    "another package's Lambda": (layer("keras>Lambda"), "is a Lambda"),
    "a SavedModel": (layer("TFSMLayer", filepath="/tmp/x"), "TFSMLayer"),
    "a module of PyTorch": (layer("TorchModuleWrapper", module="gAJ9"), "pickled PyTorch module"),
    "a function of JAX": (layer("JaxLayer", call_fn=named("f")), "JaxLayer"),
    "a module of Flax": (layer("FlaxLayer"), "FlaxLayer"),
    "a download": (layer("Dense", activation=named("get_file", "keras.utils")), "keras.utils.get_file"),
    "a model": (layer("Dense", activation=named("load_model", "keras.saving")), "keras.saving.load_model"),
    "a model by another name": (layer("Dense", activation=named("load_model", "keras.models")), "load_model"),
    "a setting": (
        layer("Dense", activation=named("enable_unsafe_deserialization", "keras.config")),
        "keras.config.enable_unsafe_deserialization",
    ),
    "a reader of configs": (
        layer("Dense", kernel_initializer=named("model_from_json", "keras.models")),
        "model_from_json",
    ),
    "a copy of models": (layer("clone_model", "keras.models"), "clone_model"),
    "the reader itself": (layer("deserialize", "keras.layers"), "deserialize"),
    "a reader by its registered name": (
        layer("Dense", activation=named("relu", "keras.activations", "deserialize")),
        "deserialize",
    ),
    "an activation of the system": (layer("Dense", activation=named("system", "os")), "os.system"),
    "a regularizer of the system": (
        layer("Dense", kernel_regularizer=layer("Popen", "subprocess")),
        "subprocess.Popen",
    ),
    "an initializer of somebody": (layer("Dense", kernel_initializer=layer("Mine", "mine.nets")), "mine.nets.Mine"),
    "a constraint in a list": (layer("Dense", kernel_constraint=[layer("Mine")]), "Mine"),
    "a registered class": (layer("Dense", "keras.layers", "mine>Dense"), "mine>Dense"),
    "a class as a value": (layer("Dense", x={"class_name": "class", "config": "Mine", "module": "mine"}), "mine.Mine"),
    "a type of TensorFlow": (
        layer("Dense", x={"class_name": "__typespec__", "spec_name": "x", "module": "os", "config": []}),
        "os.__typespec__",
    ),
    "the loss of a model in it": (
        layer("Sequential", layers=[]) | {"compile_config": {"loss": named("system", "os")}},
        "os.system",
    ),
    "an application": (layer("MobileNetV2", "keras.applications"), "keras.applications.MobileNetV2"),
    "a vocabulary": (layer("StringLookup", vocabulary="/etc/passwd"), "/etc/passwd"),
    "a vocabulary from elsewhere": (layer("TextVectorization", vocabulary="https://host/x"), "https://host/x"),
    "a vocabulary in a pipeline": (layer("Pipeline", layers=[layer("IntegerLookup", vocabulary="x")]), "'x'"),
}


@pytest.mark.parametrize("suffix", [".h5", ".keras"])
@pytest.mark.parametrize("place", LAYERS)
def test_a_keras_model_that_does_more_than_compute(tmp_path: Path, place: str, suffix: str) -> None:
    part, names = LAYERS[place]
    config = json.dumps({"class_name": "Sequential", "config": {"layers": [layer("Dense", units=1), part]}})
    path = tmp_path / f"m{suffix}"
    with h5py.File(tmp_path / "weights.h5" if suffix == ".keras" else path, "w") as file:
        file.attrs["keras_version"] = "3.15.1"
        file.attrs["model_config"] = config
    if suffix == ".keras":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("config.json", config)
            archive.write(tmp_path / "weights.h5", "model.weights.h5")
    assert_refused(path, names)


def test_a_file_steers_no_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Neither by its name nor by what is in it, and it adds no line of its own."""
    path = pt2(tmp_path, program())
    for name in ("\x1b[2J.pt2", "a.pt2: fine\nb.pt2", os.fsdecode(b"\xff.pt2"), "\u202e2tp.pt2"):
        (tmp_path / name).write_bytes(path.read_bytes())
        assert_refused(tmp_path / name, "Rename it")
    with h5py.File(tmp_path / "old.h5", "w") as file:
        file.attrs["keras_version"] = "1\x1b[2J\nold.h5: fine"
        file.attrs["model_config"] = "{}"
    (tmp_path / "\x1b[2J").mkdir()
    main([str(path.rename(tmp_path / "\x1b[2J" / "m.pt2"))])
    with pytest.raises(SystemExit):
        main([str(tmp_path / "old.h5")])
    printed = capsys.readouterr()
    assert "\x1b" not in printed.out + printed.err
    assert printed.out.count("\n") == printed.err.count("\n") == 1 and r"\x1b[2J" in printed.out


ENDLESS = [10**300] * 20_000
"""A shape whose product takes minutes."""


@pytest.mark.parametrize("shape", [ENDLESS, [-1, -1], [1.0], [True]])
def test_a_shape_of_something_else_than_sizes_is_damage_at_once(tmp_path: Path, shape: list[Any]) -> None:
    tensor = json.dumps({"w": {"dtype": "F32", "shape": shape, "data_offsets": [0, 4]}}).encode()
    (tmp_path / "w.safetensors").write_bytes(len(tensor).to_bytes(8, "little") + tensor + bytes(4))
    (tmp_path / "w.bin").write_bytes(bytes(4))
    weights = [{"paths": ["w.bin"], "weights": [{"name": "w", "shape": shape, "dtype": "float32"}]}]
    graph = {"node": [{"name": "y", "op": "Relu"}]}
    (tmp_path / "model.json").write_text(json.dumps({"modelTopology": graph, "weightsManifest": weights}))
    began = time.monotonic()
    for name in ("w.safetensors", "model.json"):
        assert_refused(tmp_path / name, "damaged")
    assert time.monotonic() - began < 10


def test_a_file_that_is_two_archives_is_refused(tmp_path: Path) -> None:
    """Readers differ in which of them they read: one looks from the beginning, another from the end."""
    path = pt2(tmp_path, program())
    content = path.read_bytes()
    for name, twice in {"before": b"PK\x03\x04" + bytes(60) + content, "after": content[:-2] + b"\x04\x00evil"}.items():
        (tmp_path / name).write_bytes(twice)
        assert_refused(tmp_path / name, "before its archive or after it")


def test_an_archive_with_two_tables_of_contents_is_refused(tmp_path: Path) -> None:
    """One reader looks for it before the end of the archive, another where the end says that it is."""
    path = pt2(tmp_path, program())
    content = path.read_bytes()
    end = content[-22:]
    (at,) = struct.unpack_from("<L", end, 16)
    moved = end[:16] + struct.pack("<L", at + 8) + end[20:]
    table, shifted = content[at:-22], bytearray(content[at:-22])
    place = 0
    while place < len(table):  # what one reader adds for all bytes before the archive, it takes away again
        name, more, comment = struct.unpack_from("<3H", table, place + 28)
        shifted[place + 42 : place + 46] = struct.pack("<L", struct.unpack_from("<L", table, place + 42)[0] + 8)
        place += 46 + name + more + comment
    path.write_bytes(content[:at] + bytes(shifted) + moved)
    with zipfile.ZipFile(path) as file:
        assert file.testzip() is None and file.infolist()[0].header_offset == 0
    assert_refused(path, "before its archive or after it")


def test_a_member_with_two_names_is_refused(tmp_path: Path) -> None:
    path = pt2(tmp_path, program(), **{"models/other.json": "{}"})
    path.write_bytes(path.read_bytes().replace(b"other.json", b"o\0her.json"))
    assert_refused(path, "two names for")
