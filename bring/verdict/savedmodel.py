"""SavedModels, from their bytes: the operators of every graph and function in it. TensorFlow is not imported."""

import functools
import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path

from bring.verdict.findings import Examination, Finding, few, leaves, part_of
from bring.verdict.wire import messages, text
from contract.errors import BroughtError

PYTHON = {"PyFunc", "PyFuncStateless", "EagerPyFunc"}
SAVER = {"SaveV2", "RestoreV2", "MergeV2Checkpoints", "ShardedFilename", "Save", "SaveSlices", "Restore"}
FILES = re.compile(
    r"ReadFile|WriteFile|MatchingFiles|\w*Reader(V2)?|\w*Summary\w*Writer|Write\w*Summary|Debug(Identity|Nan|Numeric)\w*"
    r"|(TextLine|FixedLengthRecord|TFRecord|LMDB|Csv|Save|Load|Snapshot|DataService|SqlDatabase|Sql)\w*Dataset\w*"
)
SAVING = re.compile(r"__inference__traced_(save|restore)_?\w*")
"""The functions in which TensorFlow saves and restores the variables."""


def folder(path: Path, max_bytes: int) -> Examination:
    """Judge a SavedModel's folder. Raises BroughtError if a file of it is missing."""
    members = sorted(path.rglob("*"))
    findings = []
    if linked := [name for member in members if leaves(path, name := str(member.relative_to(path)))]:
        findings.append(Finding(f"its files {few(linked)} are links that leave its folder", False))
    if (size := (path / "saved_model.pb").stat().st_size) > max_bytes:
        raise BroughtError(f"{path / 'saved_model.pb'} has {size} bytes, over the limit of {max_bytes}.")
    model = memoryview((path / "saved_model.pb").read_bytes())
    graphs = list(messages(model, 2))
    if not any(graphs):
        raise ValueError("saved_model.pb holds no graph")
    for graph in graphs:
        findings += _graph_findings(path, graph)
    return Examination("savedmodel", findings, tuple(member for member in members if member.is_file()))


def _graph_findings(path: Path, graph: memoryview) -> Iterator[Finding]:
    nodes: list[tuple[str, str, memoryview]] = []
    """(the function that has the node, or "", its operator, the whole node)"""
    functions = set()
    for definition in messages(graph, 2):
        nodes += [("", text(node, 2), node) for node in messages(definition, 1)]
        for library in messages(definition, 2):
            for function in messages(library, 1):
                name = text(next(messages(function, 1), memoryview(b"")), 1)
                functions.add(name)
                nodes += [(name, text(node, 2), node) for node in messages(function, 3)]
    operators = {operator for _, operator, _ in nodes}
    if operators & {"VarHandleOp", "VariableV2", "Variable"}:
        _check_variables(path)
    yield from _asset_findings(path, graph)
    if operators & PYTHON:
        yield Finding(
            f"it calls Python functions ({few(sorted(operators & PYTHON))}) that are not in it. Write that part with "
            "TensorFlow's own operators, not tf.py_function or tf.numpy_function, and export it again.",
            False,
        )
    saving = [name.encode() for name in functions if SAVING.fullmatch(name)]
    touching = {operator for operator in operators if FILES.fullmatch(operator)}
    for owner, operator, node in nodes:
        if owner and not SAVING.fullmatch(owner):
            content = bytes(node) if operator == "PrintV2" or saving else b""
            if operator in SAVER or any(name in content for name in saving):
                touching.add(operator)
            if operator == "PrintV2" and b"file://" in content:
                touching.add(operator)
    if touching:
        yield Finding(
            f"its operators {few(sorted(touching))} read or write files of this machine when the model runs. Export "
            "the model without them."
        )
    known = _known_operators()
    if unknown := sorted(name for name in operators - functions - known if known and not name.startswith("_")):
        yield Finding(
            f"its operators {few(unknown)} are not TensorFlow's own: the library that adds them is needed. Export the "
            "model without them.",
            False,
        )


def _asset_findings(path: Path, graph: memoryview) -> Iterator[Finding]:
    for asset in messages(graph, 6):
        if leaves(path / "assets", name := text(asset, 2)):
            yield Finding(f"its asset {few([name])} lies outside of its folder", False)
        else:
            part_of(path / "assets", name, path / "saved_model.pb")


def _check_variables(path: Path) -> None:
    variables = path / "variables"
    part_of(path, "variables/variables.index", path / "saved_model.pb")
    shards = sorted(file.name for file in variables.glob("variables.data-*-of-*"))
    count = int(shards[0].rpartition("-of-")[2]) if shards else 1
    if len(shards) < count:
        raise BroughtError(
            f"{variables} has {len(shards)} of the {count} files variables.data-00000-of-{count:05} and on: the "
            "variables are missing. Bring the whole folder."
        )


@functools.cache
def _known_operators() -> frozenset[str]:
    """The operators of the TensorFlow that is installed, read from its sources; empty where there is none."""
    spec = importlib.util.find_spec("tensorflow")
    if spec is None or not spec.submodule_search_locations:
        return frozenset()
    sources = Path(spec.submodule_search_locations[0], "python", "ops").glob("gen_*_ops.py")
    called = re.compile(r'_apply_op_helper\(\s*"(\w+)"')
    return frozenset(name for source in sources for name in called.findall(source.read_text(encoding="utf-8")))
