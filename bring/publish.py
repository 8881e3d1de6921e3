"""Put what children made in its place among the artifacts, and know when there is nothing to do.

Beside a model's artifacts lies `brought.json`: a fingerprint of the file, of the options and of the code that they were
made from. While it stays the same, the artifacts are not made again.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bring.data_folder import class_folders
from bring.description import FILE as MODEL_TOML
from contract.code import LOCK, files_of
from contract.errors import BroughtError
from contract.manifest import MANIFEST, read_manifest, verify_files

SCHEMA = 2
FINGERPRINT = "brought.json"
CODE = ("bring.source", "bring.readers.*", "bring.verdict.*", "export.*")
"""The modules that make artifacts: other code makes them anew."""


def fingerprint(path: Path, options: Mapping[str, str]) -> dict[str, Any]:
    """What the artifacts depend on: the file, the options of the command line, and the code."""
    digest = hashlib.sha256()
    files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
    beside = [path.parent / MODEL_TOML, *(Path(options[key]) for key in ("labels",) if key in options)]
    for file in (*files, *beside, *files_of(*CODE), LOCK):
        if file.is_file():
            with file.open("rb") as stream:
                digest.update(hashlib.file_digest(stream, "sha256").digest())
    data = Path(options["data"]) if "data" in options else None
    pictures = sum(len(list(folder.iterdir())) for folder in class_folders(data)) if data and data.is_dir() else 0
    return {"schema": SCHEMA, "sha256": digest.hexdigest(), "options": dict(options), "pictures": pictures}


def is_published(model: Path, expected: Mapping[str, Any]) -> bool:
    """Whether the artifacts in the folder `model` were made from what `expected`, a fingerprint, says."""
    try:
        return bool(json.loads((model / FINGERPRINT).read_bytes()) == expected)
    except (OSError, ValueError):
        return False


def check(model: Path) -> None:
    """Refuse links, and files that do not match their manifests. Raises BroughtError or ArtifactCorrupt."""
    for path in model.rglob("*"):
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            raise BroughtError(f"{path.name} is not a plain file: nothing of {model.name} is kept.")
    for manifest in model.glob(f"*/{MANIFEST}"):
        verify_files(manifest.parent, read_manifest(manifest.parent))


def publish(made: Path, target: Path) -> None:
    """Copy a file or folder to `target`, owned by this user; the old one is removed when the new one is in place."""
    target.parent.mkdir(parents=True, exist_ok=True)
    new = target.with_name(f".{target.name}.{os.getpid()}.partial")
    if made.is_dir():
        shutil.copytree(made, new)
    else:
        shutil.copyfile(made, new)
    old = target.with_name(f".{target.name}.{os.getpid()}.old.partial")
    if target.exists():
        target.rename(old)
    new.rename(target)
    shutil.rmtree(old, ignore_errors=True) if old.is_dir() else old.unlink(missing_ok=True)
