"""What ARCH says: the callable that builds the network of a file that holds only weights.

    nets:build                                      a function, or a class, of nets.py
    torchcrepe.model:Crepe('tiny')                  with arguments: numbers, texts, lists, dicts, True, False, None
    lite:EfficientNet.from_name('lite0', classes=9) a method of a class

It is read here, and nothing of it is run: bring/readers/network.py does that.
"""

import ast
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from contract.errors import BroughtError

EXAMPLES = "ARCH=nets:build, or ARCH=\"nets:Net('tiny', classes=3)\""


@dataclass(frozen=True)
class Architecture:
    """A callable of a module, and what it is called with."""

    module: str
    names: tuple[str, ...]
    """The callable's, from the module on: a class and its method."""
    arguments: tuple[Any, ...] = ()
    named_arguments: Mapping[str, Any] | None = None
    has_arguments: bool = False
    """Whether the user wrote a call, be it with none."""


def parse(text: str) -> Architecture:
    """Raises BroughtError for anything but a module, a colon and a callable, perhaps with constant arguments."""
    module, _, call = text.partition(":")
    if not call or not all(part.isidentifier() for part in module.split(".")):
        raise BroughtError(f"ARCH={text} is not module:callable. Expected such as {EXAMPLES}.")
    try:
        node = ast.parse(call.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise BroughtError(f"ARCH={text}: {call!r} is no Python that calls something. Expected {EXAMPLES}.") from None
    if not isinstance(node, ast.Call):
        return Architecture(module, _names(node, text))
    try:
        arguments = tuple(ast.literal_eval(argument) for argument in node.args)
        named = {str(keyword.arg): ast.literal_eval(keyword.value) for keyword in node.keywords if keyword.arg}
        is_constant = len(named) == len(node.keywords)
    except (ValueError, TypeError, RecursionError, MemoryError):
        is_constant = False
    if not is_constant:
        raise BroughtError(
            f"ARCH={text}: its arguments have to be constants: numbers, texts, lists, dicts, True, False and None. "
            "Write a function that calls it with others, beside the file, and name that function."
        )
    return Architecture(module, _names(node.func, text), arguments, named, has_arguments=True)


def _names(node: ast.expr, text: str) -> tuple[str, ...]:
    """The names in `Net` or `Net.small`."""
    if isinstance(node, ast.Attribute):
        return (*_names(node.value, text), node.attr)
    if isinstance(node, ast.Name):
        return (node.id,)
    raise BroughtError(f"ARCH={text} does not name a callable after the colon. Expected {EXAMPLES}.")
