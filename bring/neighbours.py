"""Which files beside a model's belong to it: the cell shows the process that reads the model these, and no others.

python -m bring.neighbours FILE     prints the names that are written in it, as JSON; it runs in a cell itself
"""

import json
import sys
from pathlib import Path

from bring.verdict import onnx
from bring.verdict.findings import mapped
from contract.cell import sandbox
from contract.cell.sandbox import Cell, ChildFailed

MOST = 10_000
SELF_CONTAINED = (b"\x89HDF", b"PK\x03\x04", b"\x80")
"""How files begin that name no others: HDF5, zip archives, pickles."""


def of(file: Path, cell: Cell, architecture: str | None) -> list[Path]:
    """The files and folders beside `file` that reading it takes; `architecture` is the user's ARCH."""
    file = file.resolve()
    if file.is_dir():
        return []
    if architecture or file.name == "saved_model.pb":
        return [file.parent]
    with file.open("rb") as stream:
        head = stream.read(8)
    if head.startswith(SELF_CONTAINED) or head[4:] == b"TFL3" or all(entry == file for entry in file.parent.iterdir()):
        return []
    try:
        names = json.loads(sandbox.run(cell, "bring.neighbours", str(cell.file)).output.splitlines()[-1])
    except (ChildFailed, ValueError, IndexError, RecursionError):
        return []  # the reader says what is wrong with it
    named = [name for name in names[:MOST] if isinstance(name, str)] if isinstance(names, list) else []
    return [path for name in named if (path := _inside(file.parent, name))]


def _inside(folder: Path, name: str) -> Path | None:
    """A regular file in the folder; None for what leads out of it, by itself or through a link."""
    try:
        path = (folder / name).resolve()
        return path if path.is_relative_to(folder) and path.is_file() else None
    except (OSError, ValueError):  # a name that cannot be one
        return None


def names_in(file: Path) -> list[str]:
    """The names of other files that are written in a file, in ONNX or in TF.js's JSON."""
    content = mapped(file)
    if bytes(content[:1024]).lstrip()[:1] == b"{":
        return [str(path) for group in json.loads(bytes(content))["weightsManifest"] for path in group["paths"]]
    return onnx.places(content)


if __name__ == "__main__":
    print(json.dumps(names_in(Path(sys.argv[1]))))
