"""What a module is made of: the project's own files that it imports, read from the imports themselves.

    python -m contract.code        writes make's prerequisites: a variable a module that a rule runs

make, the container images and stored measurements ask here which files a result depends on, so that no list of files is
kept by hand. Only the standard library is imported: make asks before there is an environment.
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


def files_of(*names: str, root: Path = ROOT) -> list[Path]:
    """The files of these modules and of everything that they import in turn, sorted.

    `serve.runtimes.*` stands for each module of that package: what a table of names loads, no import statement shows.
    A file that lies beside a module by the same name belongs to it, such as `tfjs.mjs` to `tfjs.py`. Raises
    ModuleNotFoundError for a name that is not a module of the project.
    """
    waiting = [module for name in names for module in _expanded(name, root)]
    found: dict[str, list[Path]] = {}
    while waiting:
        module = waiting.pop()
        if module in found:
            continue
        path = _path(module, root)
        if path is None:
            raise ModuleNotFoundError(f"{module} is not a module of this project: no such file below {root}.")
        found[module] = [path, *_beside(path)]
        waiting += [name for name in _imported_modules(path, module, root) if name not in found]
    return sorted({path for paths in found.values() for path in paths})


def digest(files: Iterable[Path], root: Path = ROOT) -> str:
    """The sha256 over the names and contents of files of this project; files that are not there count, too."""
    total = hashlib.sha256()
    for file in sorted(files):
        total.update(f"{file.relative_to(root)}\0".encode())
        total.update(file.read_bytes() if file.is_file() else b"missing")
    return total.hexdigest()


def imports(path: Path, module: str) -> Iterator[tuple[int, str]]:
    """Line and full name of everything that a module imports, at its top or inside a function."""
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
    """The project's modules that a module imports, and the packages that these lie in: importing runs them, too."""
    names = {module, *(name for _, name in imports(path, module))}
    modules: set[str] = set()
    for name in names:
        parts = name.split(".")
        prefixes = (".".join(parts[:length]) for length in range(1, len(parts) + 1))
        modules.update(prefix for prefix in prefixes if _path(prefix, root))
    return frozenset(modules)


def _path(module: str, root: Path) -> Path | None:
    """The file of a module; None where it is not a module of the project."""
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
    """`CODE.<module> := <files>` for everything that a rule of the Makefile runs."""
    rules = {"train.keras_cnn", "train.torch_cnn", "verify.samples", "contract.dataset"}
    rules |= {module_of(path) for path in (ROOT / "export").glob("*_to_*.py")}
    names = {rule: (rule, "export") if rule.startswith("export.") else (rule,) for rule in rules}
    names["verify"] = ("verify.__main__", "serve.runtimes.*")
    for rule, modules in sorted(names.items()):
        yield f"CODE.{rule} := {' '.join(path.relative_to(ROOT).as_posix() for path in files_of(*modules))}"


if __name__ == "__main__":
    print(*_make_variables(), sep="\n")
