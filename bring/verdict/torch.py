"""PyTorch files, from their bytes: what torch.export.save and torch.save write. Nothing is unpickled.

`torch.export.load` does more than read tensors: it unpickles the members that the configs mark for it, evaluates the
expressions of dynamic shapes, and compiles the guards. Each of these is checked here.
"""

import ast
import functools
import io
import json
import posixpath
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bring.verdict import operators, torchscript
from bring.verdict.archives import check_archive, read_member
from bring.verdict.findings import EXPECTED, Examination, Finding, few
from bring.verdict.pickles import foreign, is_torch
from contract.errors import BroughtError

COMPILED = (".so", ".o", ".a", ".dylib", ".dll", ".pyd", ".cpp", ".c", ".cu", ".cubin", ".hsaco", ".ptx", ".py", ".pyc")
OLDER = ("serialized_", "version", "extra_files/")
"""How the members begin of what torch.export.save wrote up to PyTorch 2.7, without a folder around them."""
GRAPH = re.compile(r"models/.*|serialized_exported_program\.json")
"""The members that PyTorch reads as graphs, whatever their suffix is."""
UNPICKLED = re.compile(r".*\.(pt|pkl|pth)|serialized_(?!exported_program\.json).*")
"""The members that PyTorch unpickles, whatever a config says."""
SIZES = "arithmetic on sizes"
"""What an expression of dynamic shapes may call stands under this heading."""
METHODS = {"size", "stride", "storage_offset", "numel", "dim"}
HARMLESS_MODULES = {"builtins", "collections"}
NAME = re.compile(r"[\w.]*")
"""A name in a graph, which becomes part of the Python code that its reader compiles."""
PATH = re.compile(r"[\w. /:<>-]*")
"""The path of a parameter or module, which becomes a string in that code."""
NAMED = {"name", "as_name", "forward_arg_names"}
PATHS = {"fqn", "parameter_name", "buffer_name", "tensor_constant_name", "custom_obj_name", "parameter_fqn"}
TABLES = {"tensor_values", "sym_int_values", "sym_bool_values", "sym_float_values", "custom_obj_values"}
"""Fields whose keys are names of a graph."""


def archive(path: Path, file: zipfile.ZipFile, max_bytes: int) -> Examination:
    """Judge a zip archive of PyTorch: an exported program, TorchScript, or pickled weights. Raises BroughtError."""
    findings = check_archive(file, path, max_bytes)
    names = file.namelist()
    root = "" if "serialized_exported_program.json" in names else names[0].partition("/")[0] + "/"
    if not all(name.startswith(root or OLDER) for name in names):
        raise BroughtError(f"{path} has members outside of its folder {root!r}: PyTorch does not write such files.")
    members = {name[len(root) :].lower(): name for name in names}  # its reader takes `X.PKL` for `x.pkl`, too
    if "constants.pkl" in members or any(name.startswith("code/") for name in members):
        return Examination("script", findings + list(torchscript.findings(file, members)), (path,))
    if "data.pkl" in members:
        names_imported = foreign(io.BytesIO(read_member(file, members["data.pkl"])))
        return Examination("weights", findings + pickled(names_imported), (path,))
    return Examination("torch", findings + list(_program_findings(file, members, path, max_bytes)), (path,))


def legacy(path: Path, max_bytes: int) -> Examination:
    """Judge a pickle outside of a zip archive: from torch.save before PyTorch 1.6, or from another library."""
    with path.open("rb") as stream:
        ours = is_torch(stream)
        stream.seek(0)
        names = foreign(stream, pickles=5 if ours else 1)
    if ours:
        return Examination("weights", pickled(names), (path,))
    raise BroughtError(
        f"{path} is a Python pickle{f' of {few(names)}' if names else ''}, such as joblib and scikit-learn write: no "
        f"model that can be read without running it. {EXPECTED}"
    )


def pickled(names: list[str]) -> list[Finding]:
    """The finding on a pickle that imports these names."""
    if not names:
        return []
    return [
        Finding(
            f"its pickle imports {few(names)}: reading it calls them, whatever they do. Where the model is built, save "
            'its weights alone, `torch.save(model.state_dict(), "weights.pt")`, or better, the program: '
            '`torch.export.save(torch.export.export(model.eval(), (example,)), "model.pt2")`.'
        )
    ]


def _program_findings(file: zipfile.ZipFile, members: dict[str, str], path: Path, max_bytes: int) -> Iterator[Finding]:
    if compiled := [name for name in members if name.startswith("data/aotinductor/") or name.endswith(COMPILED)]:
        yield Finding(
            f"it holds compiled code ({few(compiled, 3)}), which runs when it is read. Save the program without it: "
            "`torch.export.save`, not `aoti_compile_and_package`."
        )
    graphs = [name for name in members if GRAPH.fullmatch(name)]
    if not graphs and not compiled:
        raise ValueError("it has no graph (models/*.json)")
    names: list[str] = []
    for name in sorted(_pickles(file, members)):
        names += _unpickled(read_member(file, members[name]), path, max_bytes)
    yield from pickled(names)
    if opaque := [name for name in members if re.match(r"data/constants/(custom|opaque)_obj", name)]:
        yield Finding(f"it holds pickled objects of its own classes ({few(opaque, 3)}): reading them runs code.")
    for name in graphs:
        yield from _graph_findings(json.loads(read_member(file, members[name])))


def _pickles(file: zipfile.ZipFile, members: dict[str, str]) -> set[str]:
    """The members that `torch.export.load` unpickles: by their name, or because a config says so.

    Raises ValueError for a config that names a member which is not there.
    """
    pickles = {name for name in members if UNPICKLED.fullmatch(name)}
    for name in members:
        if match := re.fullmatch(r"(data/(?:weights|constants)/).*config\.json", name):
            config = json.loads(read_member(file, members[name]))["config"]
            marked = [str(entry["path_name"]) for entry in config.values() if entry.get("use_pickle")]
            pickles |= {posixpath.join(match[1], place).lower() for place in marked}  # as its reader joins them
    if missing := pickles - members.keys():
        raise ValueError(f"its configs name {few(sorted(missing))}, which it does not have")
    return pickles


def _unpickled(data: bytes, path: Path, max_bytes: int) -> list[str]:
    """What a pickle imports that is a member of the archive `path`, and may be an archive of torch.save itself."""
    if not data.startswith(b"PK"):
        return foreign(io.BytesIO(data), pickles=5 if is_torch(io.BytesIO(data)) else 1) if data else []
    with zipfile.ZipFile(io.BytesIO(data)) as inner:
        if check_archive(inner, path, max_bytes, len(data)):
            raise ValueError("an archive in it has members that leave their folder")
        ends = {name.rpartition("/")[2].lower(): name for name in inner.namelist()}
        script = ["torch.jit.load"] if "constants.pkl" in ends else []  # PyTorch reads it as TorchScript then
        inside = [name for name in inner.namelist() if name.lower().endswith("data.pkl")]
        return script + [name for member in inside for name in foreign(io.BytesIO(read_member(inner, member)))]


def _graph_findings(program: Any) -> Iterator[Finding]:
    """Findings on operators that do more than compute, and on text that its reader would run as Python."""
    called: dict[str, None] = {}
    code: dict[str, None] = {}
    modules: dict[str, None] = {}
    names: dict[str, None] = {}
    for node in _objects(program):
        if "inputs" in node or "as_operator" in node:
            called |= dict.fromkeys(_called(node))
        texts = [node.get("expr_str"), *(node.get("guards_code") or ())]
        code |= {text: None for text in texts if text is not None and not innocent(str(text))}
        module = node.get("default_factory_module", str(node.get("fqn")).partition(":")[0])
        if ("default_factory_module" in node or "__enum__" in node) and module not in HARMLESS_MODULES:
            modules[str(module)] = None
        names |= dict.fromkeys(_odd_names(node))
    if code:
        yield Finding(f"its shapes are given by {few(code, 3)}, which reading it evaluates as Python code", False)
    if names:
        yield Finding(f"its graph has the names {few(names, 3)}, which reading it compiles as Python code", False)
    if modules:
        yield Finding(f"its inputs or outputs are built by the modules {few(modules)}, which reading it imports")
    yield from operators.findings(called, "torch", "PyTorch's")


def _objects(program: Any) -> Iterator[dict[str, Any]]:
    """Every object of a program, at any depth."""
    todo = [program]
    while todo:
        node = todo.pop()
        if isinstance(node, str):
            try:  # the structure of inputs and outputs is JSON in JSON
                node = json.loads(node)
            except ValueError:
                continue
        if isinstance(node, dict):
            yield node
            node = node.values()
        elif not isinstance(node, list):
            continue
        todo += [each for each in node if isinstance(each, dict | list) or (isinstance(each, str) and each[:1] in "[{")]


def _called(node: dict[str, Any]) -> Iterator[str]:
    """What a node calls, and what it gives to a higher-order operator to call; operators without their overload."""
    targets = [node["target"]] if "target" in node and "inputs" in node else []
    targets += [node["as_operator"]] if "as_operator" in node else []
    for target in map(str, targets):
        operator = target.removeprefix("torch.ops.")
        yield target if operator == target else ".".join(operator.split(".")[:2])


def _odd_names(node: dict[str, Any]) -> Iterator[str]:
    """The names in one object of a graph that are not names."""
    for key, value in node.items():
        if key in NAMED or key in PATHS:
            pattern = NAME if key in NAMED else PATH
            values = value if isinstance(value, list) else [value]
            yield from (each for each in values if isinstance(each, str) and not pattern.fullmatch(each))
        elif key in TABLES and isinstance(value, dict):
            yield from (name for name in value if not NAME.fullmatch(name))
        elif key == "context" and isinstance(value, str):  # the keys of a dict: names of arguments, among others
            yield from (each for each in re.findall(r'"((?:[^"\\]|\\.)*)"', value) if not PATH.fullmatch(each))


@functools.cache
def innocent(expression: str) -> bool:
    """Whether an expression of dynamic shapes is only arithmetic on sizes: reading the file evaluates it."""
    try:
        tree = ast.parse(expression, mode="eval") if len(expression) < 10_000 else None
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return tree is not None and all(_innocent(node) for node in ast.walk(tree))


def _innocent(node: ast.AST) -> bool:
    if isinstance(node, ast.Call):
        called = node.func
        if isinstance(called, ast.Attribute):
            return called.attr in METHODS or (isinstance(called.value, ast.Name) and called.value.id == "math")
        return isinstance(called, ast.Name) and (operators.purposes("torch").get(called.id) == SIZES)
    if isinstance(node, ast.Attribute):
        return not node.attr.startswith("_")
    if isinstance(node, ast.Constant):
        return not isinstance(node.value, str) or re.fullmatch(r"[\w .-]*", node.value) is not None
    plain = (ast.Expression, ast.Name, ast.keyword, ast.BinOp, ast.UnaryOp, ast.BoolOp, ast.Compare, ast.IfExp)
    return isinstance(node, (*plain, ast.Subscript, ast.operator, ast.unaryop, ast.boolop, ast.cmpop, ast.expr_context))
