"""The names in the code say what they hold."""

import ast
from collections.abc import Iterator

from contract.code import ROOT
from tests.test_imports import ORDER

STAGES = {name.partition(".")[0] for name in ORDER} | {"docker"}

SAY_NOTHING = {"asked", "found", "said", "told"}
"""Words that fit whatever a function gets or gives; what it is has a name of its own."""


def test_no_variable_argument_or_function_has_a_name_that_fits_anything() -> None:
    code = [file for stage in sorted(STAGES) for file in sorted((ROOT / stage).rglob("*.py"))]
    assert len(code) > 200
    empty = [
        f"{file.relative_to(ROOT)}:{line}: {name}"
        for file in code
        for name, line in _names(ast.parse(file.read_text()))
        if name.strip("_").lower() in SAY_NOTHING
    ]
    assert empty == []


def _names(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """What the code names, and where."""
    for node in ast.walk(tree):
        match node:
            case ast.Name(id=name, ctx=ast.Store()) | ast.arg(arg=name):
                yield name, node.lineno
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                yield name, node.lineno
