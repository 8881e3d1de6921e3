"""SavedModels, from their bytes: every operator of every graph and function in it. TensorFlow is not imported.

The numbers are those of the fields in TensorFlow's .proto files. What computes may be anywhere. Three things are judged
by where they are: what saves and restores the variables may lie only where nothing but saving and restoring reaches it,
a restore reads only the model's own variables, and a vocabulary is read only from the model's own assets.
"""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from bring.verdict import operators
from bring.verdict.findings import Examination, Finding, few, leaves, mapped, part_of
from bring.verdict.savedmodel_files import LISTED, SAVING, VOCABULARY, Files, Function, Node, assets
from contract.errors import BroughtError
from contract.wire import Bytes, decoded, messages, parts, text

PYTHON = "Python functions"
GRADIENTS = "(gradients)"


def folder(path: Path, max_bytes: int) -> Examination:
    """Judge a SavedModel's folder. Raises BroughtError if a file of it is missing."""
    members = sorted(path.rglob("*"))
    findings = []
    if odd := [name.name for name in members if name.exists() and not (name.is_file() or name.is_dir())]:
        raise BroughtError(f"{path} has {few(odd)}, expected files and folders alone. Copy it again.")
    if linked := [name for member in members if leaves(path, name := str(member.relative_to(path)))]:
        findings.append(Finding(f"its files {few(linked)} are links that leave its folder", False))
    if other := [name for name in ("saved_model.cpb", "saved_model.pbtxt") if (path / name).exists()]:
        findings.append(Finding(f"it has {few(other)} beside saved_model.pb: readers differ in which they read", False))
    if (size := (path / "saved_model.pb").stat().st_size) > max_bytes:
        raise BroughtError(f"{path / 'saved_model.pb'} has {size} bytes, over the limit of {max_bytes}.")
    graphs = list(messages(mapped(path / "saved_model.pb"), 2))
    if not any(graphs):
        raise ValueError("saved_model.pb holds no graph")
    for graph in graphs:
        findings += _graph_findings(path, graph)
    return Examination("savedmodel", findings, tuple(member for member in members if member.is_file()))


def frozen(path: Path, max_bytes: int) -> Examination:
    """Judge a frozen graph of TensorFlow 1: nothing in it may use files, since its variables are constants."""
    functions = list(_functions_of(mapped(path)))
    if not any(function.nodes for function in functions):
        raise ValueError("it has no nodes")
    own = {function.name for function in functions}
    listed = operators.purposes(LISTED)
    used = dict.fromkeys(node.operator for function in functions for node in function.nodes)
    names = [name for name in used if name in listed or name not in own]
    return Examination("frozen", list(operators.findings(names, LISTED, "TensorFlow's", {PYTHON})), (path,))


def _graph_findings(path: Path, graph: Bytes) -> Iterator[Finding]:
    functions = list(_functions(graph))
    used = dict.fromkeys(node.operator for function in functions for node in function.nodes)
    if {"VarHandleOp", "VariableV2", "Variable"} & used.keys():
        _check_variables(path)
    yield from _asset_findings(path, graph)
    listed = operators.purposes(LISTED)
    names = Counter(function.name for function in functions)
    if confusing := [name for name, count in names.items() if count > 1 or name in listed]:
        yield Finding(f"its functions {few(confusing)} are there twice, or have the names of operators", False)
    uses_files = {name for name in used if listed.get(name) in (SAVING, VOCABULARY)}
    others = [name for name in used if name in listed or name not in names]  # a call may be by the function's name
    yield from operators.findings([name for name in others if name not in uses_files], LISTED, "TensorFlow's", {PYTHON})
    if uses_files:
        yield from Files(graph, functions).findings()


def _functions(graph: Bytes) -> Iterator[Function]:
    """The main graph, the functions of its library, and one that stands for what leads to their gradients."""
    return _functions_of(*messages(graph, 2))


def _functions_of(*definitions: Bytes) -> Iterator[Function]:
    main, gradients = Function(), Function(GRADIENTS)
    for definition in definitions:
        for number, value in parts(definition):
            if number == 1:
                main.nodes.append(_node(value))
            elif number == 2:
                yield from (_function(function) for function in messages(value, 1))
                leading = (*messages(value, 2), *messages(value, 3))
                gradients.nodes += [Node(operator="SymbolicGradient", content=content) for content in leading]
    yield from (main, gradients)


def _function(definition: Bytes) -> Function:
    function = Function()
    for number, value in parts(definition):
        if number == 1:  # its signature: the name, and the arguments
            function.name = text(value, 1) or function.name
            function.arguments += [text(argument, 1) for argument in messages(value, 2)]
        elif number == 3:
            function.nodes.append(_node(value))
        elif number == 5 and b"api_implements" in bytes(value):
            function.is_replacement = True
    return function


def _node(definition: Bytes) -> Node:
    node = Node()
    for number, value in parts(definition):
        if number == 3:
            node.inputs.append(decoded(value))
        elif number == 1:
            node.name = decoded(value)
        elif number == 2:
            node.operator = decoded(value)
    node.content = b"" if node.operator == "Const" else definition
    return node


def _asset_findings(path: Path, graph: Bytes) -> Iterator[Finding]:
    for asset in assets(graph):
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
