"""Which of the project's files a module depends on, read from its imports.

    python -m contract.code        writes make's prerequisites: one variable for each module that a rule may run

Make, the container images and stored measurements ask here which files a result depends on, so nobody keeps a list of
files by hand. This module imports the standard library only: make runs it before the environment exists.
"""

import ast
import functools
import hashlib
import importlib.util
from collections.abc import Iterable, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

LOCK = ROOT / "requirements.lock"
"""The versions of every library: what the project's code depends on besides itself."""

STAGES = ("contract", "train", "export", "verify")
"""The folders whose modules the Makefile's rules run."""

LOADED_BY_NAME = {
    "export.precision": ("export.precision.*",),
    "verify": ("serve.runtimes.*", "verify.precision.*"),
}
"""What a command loads by the names in a table, which no import statement shows."""


def files_of(*names: str, root: Path = ROOT) -> list[Path]:
    """The files of these modules and of everything that they import in turn, sorted.

    `serve.runtimes.*` stands for every module of that package: no import statement shows what a table of names loads.
    A file beside a module with the same name belongs to it, as `tfjs.mjs` to `tfjs.py`.

    Raises ModuleNotFoundError for a name that is not a module of the project.
    """
    waiting = [module for name in names for module in _expanded(name, root)]
    modules: dict[str, list[Path]] = {}
    while waiting:
        module = waiting.pop()
        if module in modules:
            continue
        path = _path(module, root)
        if path is None:
            raise ModuleNotFoundError(f"{module} is not a module of this project: no such file below {root}.")
        modules[module] = [path, *_beside(path)]
        waiting += [name for name in _imported_modules(path, module, root) if name not in modules]
    return sorted({path for paths in modules.values() for path in paths})


def digest(files: Iterable[Path], root: Path = ROOT) -> str:
    """The sha256 of the names and contents of files of this project; a missing file counts as missing."""
    total = hashlib.sha256()
    for file in sorted(files):
        total.update(f"{file.relative_to(root)}\0".encode())
        total.update(file.read_bytes() if file.is_file() else b"missing")
    return total.hexdigest()


def imports(path: Path, module: str) -> Iterator[tuple[int, str]]:
    """The line and the full name of each import of a module, at its top or inside a function."""
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            source = node.module or ""
            if node.level:
                source = importlib.util.resolve_name("." * node.level + source, package)
            yield from ((node.lineno, f"{source}.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "__import__")):
            yield from ((node.lineno, str(name.value)) for name in node.args[:1] if isinstance(name, ast.Constant))


def module_of(path: Path, root: Path = ROOT) -> str:
    """`serve/runtimes/__init__.py` -> `serve.runtimes`."""
    return ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__")


@functools.cache
def _imported_modules(path: Path, module: str, root: Path) -> frozenset[str]:
    """The project's modules that a module imports, and the packages that hold these: importing runs them too."""
    names = {module, *(name for _, name in imports(path, module))}
    modules: set[str] = set()
    for name in names:
        parts = name.split(".")
        prefixes = (".".join(parts[:length]) for length in range(1, len(parts) + 1))
        modules.update(prefix for prefix in prefixes if _path(prefix, root))
    return frozenset(modules)


def _path(module: str, root: Path) -> Path | None:
    """The file of a module, or None where it is not a module of the project."""
    base = root.joinpath(*module.split("."))
    return next((path for path in (base / "__init__.py", base.with_suffix(".py")) if path.is_file()), None)


def _beside(path: Path) -> list[Path]:
    return [file for file in path.parent.glob(f"{path.stem}.*") if file.suffix not in (".py", ".pyc")]


def _expanded(name: str, root: Path) -> list[str]:
    package, star, _ = name.partition(".*")
    if not star:
        return [name]
    return [module_of(path, root) for path in sorted(root.joinpath(*package.split(".")).rglob("*.py"))]


def _make_variables() -> Iterator[str]:
    """`CODE.<module> := <files>` for every module that a rule may run; `CODE.verify` is that of its `__main__`."""
    modules = [module_of(path) for stage in STAGES for path in sorted((ROOT / stage).rglob("*.py"))]
    commands = {module.removesuffix(".__main__"): module for module in modules}  # __main__ comes after __init__
    for name, module in commands.items():
        files = files_of(module, *LOADED_BY_NAME.get(name, ()))
        yield f"CODE.{name} := {' '.join(path.relative_to(ROOT).as_posix() for path in files)}"


if __name__ == "__main__":
    print(*_make_variables(), sep="\n")
