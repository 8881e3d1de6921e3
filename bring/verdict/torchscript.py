"""TorchScript, from the bytes of a file: every function in its archive of code. PyTorch is not imported.

The code is text in TorchScript's language, whose syntax is Python's; PyTorch parses it with a parser of its own and
runs it in an interpreter that knows no Python. So what it can do is what it calls: operators (`torch.relu`,
`ops.quantized.add`), functions of the language (`annotate`), and its own classes. Those that load run at once.
"""

import ast
import io
import zipfile
from collections.abc import Iterator, Mapping

from bring.verdict import operators
from bring.verdict.archives import read_member
from bring.verdict.findings import Finding, few
from bring.verdict.pickles import foreign

OWN = "__torch__"
CLASSES = "__torch__.torch.classes."
"""Classes that are not of the file: libraries in C++ add them."""
MADE_BY_WRITER = "torch.jit._pickle."
"""How the writer's pickles name lists of numbers; the reader knows them by these names alone."""
NAMESPACES = {"torch": "aten", "ops": ""}
PICKLES = ("data.pkl", "constants.pkl", "traced_inputs.pkl")


def findings(file: zipfile.ZipFile, members: Mapping[str, str]) -> Iterator[Finding]:
    """Findings on what the code calls, and on the classes in its pickles. Raises ValueError where it is damaged."""
    called: dict[str, None] = {}
    for name in sorted(members):
        if name.startswith("code/") and name.endswith(".py"):
            called |= dict.fromkeys(_called(read_member(file, members[name]).decode(), name))
    known = {name for name in operators.purposes("torch") if "." in name}
    yield from operators.findings([name for name in called if name in known], "torch", "PyTorch's")
    yield from operators.findings([name for name in called if name not in known], "torchscript", "TorchScript's")
    imported = [name for each in PICKLES if each in members for name in _imported(file, members[each])]
    if imported:
        yield Finding(
            f"its data are objects of {few(imported)}, which are not of the file. Save its module again.", False
        )


def _imported(file: zipfile.ZipFile, member: str) -> list[str]:
    """The classes that a pickle names, except those of the file's own code."""
    names = foreign(io.BytesIO(read_member(file, member)))
    return [name for name in names if name.startswith(CLASSES) or not name.startswith((OWN, MADE_BY_WRITER))]


def _called(code: str, member: str) -> Iterator[str]:
    """The operators and functions that a module of code calls or names, as the lists have them."""
    try:
        tree = ast.parse(code)
    except (SyntaxError, RecursionError, MemoryError) as error:
        raise ValueError(f"{member} is not TorchScript: {error}") from error
    # A variable may hold a function; where it comes from is judged there.
    own = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    own -= {name for name, purpose in operators.purposes("torchscript").items() if purpose != operators.COMPUTES}
    inner = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield "import"
        elif isinstance(node, ast.Attribute | ast.Name) and id(node) not in inner and (path := _path(node)):
            yield from _of_path(path)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id not in own:
            yield node.func.id


def _of_path(path: list[str]) -> Iterator[str]:
    """The operator that a name leads to; nothing for the file's own classes, and for what a variable has.

    What leads only halfway is named as it is, since a variable or `getattr` may go on from there.
    """
    root, *rest = path
    name = ".".join(path)
    if root == OWN and (name.startswith(CLASSES) or CLASSES.startswith(f"{name}.")):
        yield name
    elif root == "torch" and len(rest) == 1 and rest[0] not in TYPES:
        yield f"aten.{rest[0]}"
    elif root == "ops" and len(rest) == 2:
        yield ".".join(rest)
    elif (root == "torch" and not set(rest[:1]) & TYPES) or root == "ops":
        yield name


TYPES = {"jit", "classes", "nn", "device", "Tensor", "Generator"}
"""Names of torch that are not operators, but types or the way to such."""


def _path(node: ast.Attribute | ast.Name) -> list[str]:
    """`a.b.c` as its names; empty where it begins with something else than a name."""
    names: list[str] = []
    reached: ast.expr = node
    while isinstance(reached, ast.Attribute):
        names.append(reached.attr)
        reached = reached.value
    return [reached.id, *reversed(names)] if isinstance(reached, ast.Name) else []
