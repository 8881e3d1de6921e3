"""The network of a file that has only weights: built by the callable that ARCH names, in the user's own code."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bring.architecture import Architecture, parse
from bring.description import Description, nearest
from bring.readers import absent
from bring.verdict.findings import few
from contract.errors import BroughtError


def build(path: Path, description: Description, kind: str, in_short: Callable[[Exception], str]) -> tuple[Any, str]:
    """What the callable returns, and a note for people, empty where there is nothing to say.

    `kind` is what it should return, such as torch.nn.Module. Raises BroughtError where nothing is named, where a
    module or a package is missing that the network needs, and where the code raises anything.
    """
    if not description.architecture:
        raise BroughtError(
            f"{path.name} has only weights, not their network. Set ARCH=module:callable, such as ARCH=nets:build: "
            f"nets.py lies beside the file, and build() returns the {kind}."
        )
    called, text = parse(description.architecture), f"ARCH={description.architecture}"
    sys.path[:0] = [str(path.resolve().parent), *filter(None, [description.architecture_path])]
    with absent.stand_ins() as stand_ins:
        try:
            built = _attribute(called, absent.import_module(called.module, stand_ins), text)(
                *called.arguments, **called.named_arguments or {}
            )
        except BroughtError:
            raise
        except ModuleNotFoundError as error:
            raise _absent(text, path, error) from error
        except Exception as error:  # it is the user's own code
            without = f" {few(stand_ins.packages)}, which it imports, is not there." if stand_ins.packages else ""
            raise BroughtError(
                f"{text} could not be called: {in_short(error)}{without}{_arguments(called, error)}"
            ) from error
    return built, _note(stand_ins.packages)


def absent_in(error: BaseException | None) -> str | None:
    """The package that is not there, where this is why something failed later on."""
    while error is not None:
        if isinstance(error, absent.PackageAbsent):
            return str(error.name)
        error = error.__cause__ or error.__context__
    return None


def _attribute(called: Architecture, module: Any, text: str) -> Any:
    thing, owner = module, f"The module {called.module}"
    for name in called.names:
        if not hasattr(thing, name):
            raise BroughtError(f"{text}: {owner} has no {name}{nearest(name, dir(thing))}")
        thing, owner = getattr(thing, name), name
    if not callable(thing):
        raise BroughtError(f"{text}: {owner} is a {type(thing).__name__}, expected a function or a class.")
    return thing


def _absent(text: str, path: Path, error: ModuleNotFoundError) -> BroughtError:
    return BroughtError(
        f"{text} imports {error.name}, which is not there. Put it beside {path.name}; or set "
        f"ARCH_PATH=folder to the one in which Python finds it; or type `.venv/bin/pip install {error.name}`, if "
        "that is its package."
    )


def _arguments(called: Architecture, error: Exception) -> str:
    """How to give arguments, where they seem to be what is missing."""
    if called.has_arguments or not isinstance(error, TypeError):
        return ""
    return f" Arguments can be given, as in ARCH=\"{called.module}:{'.'.join(called.names)}('tiny', size=3)\"."


def _note(packages: list[str]) -> str:
    if not packages:
        return ""
    are = "is" if len(packages) == 1 else "are"
    return f"The network was built without {', '.join(packages)}, which its code imports and which {are} not there."
