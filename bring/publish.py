"""Put what children made in its place among the artifacts, and know when there is nothing to do.

Beside a model's artifacts lies `brought.json`: the hash of every file that was read for them, what the user said, and
the hash of the code that made them. While all of it stays the same, the artifacts are not made again.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from bring.architecture import parse
from bring.data_folder import class_folders, pictures_in
from bring.description import Description
from contract.code import LOCK, digest, files_of
from contract.manifest import BROUGHT, MANIFEST, read_manifest, sha256_of, verify_files
from contract.records import content_of

SCHEMA = 3
CODE = (
    "bring.walk",
    "bring.steps",
    "bring.source",
    "bring.readers.*",
    "bring.verdict.*",
    "export.*",
    "verify.__main__",
    "verify.precision.*",
    "serve.runtimes.*",
)
"""The modules that make artifacts and compare them: other code makes them anew."""

Hashes = dict[str, str | None]
"""A name -> the sha256 of the file or folder; None where it cannot be read."""


def hash_of_code() -> str:
    """The digest of the code that makes artifacts.

    It takes a second: every module that is imported, directly or not, is read for its imports.
    """
    return digest([*files_of(*CODE), LOCK])


def given_by(path: Path, description: Description) -> dict[str, Any]:
    """The file or folder, what the user says about it, and the content of every path in that.

    Raises BroughtError for a folder of pictures that has no subfolder.
    """
    given = {path.name: _hash(path)} | {str(named): _hash_named(named) for named in _paths_in(description)}
    if description.architecture is not None and description.architecture_path is not None:
        package = parse(description.architecture).module.partition(".")[0]
        module = Path(description.architecture_path, package)
        given[str(module)] = _hash(module if module.is_dir() else module.with_suffix(".py"))
    return {"schema": SCHEMA, "description": json.loads(description.to_json()), "given": given}


def hashes_of_read(path: Path, names: Iterable[str]) -> Hashes:
    """The files beside the model in `path` that its reading took besides it, such as weights and modules.

    `names` are relative to the model's folder, and come from a process that may be hostile: what leads out of the
    folder is left out, as is what `fingerprint` has.
    """
    path = path.resolve()
    known = {path, *files_of(*CODE)}
    files = {name: Path(os.path.normpath(path.parent / name)) for name in names}
    return {
        name: _hash(file)
        for name, file in sorted(files.items())
        if file.is_relative_to(path.parent) and not file.is_relative_to(path) and file not in known
    }


def is_published(model: Path, path: Path, expected: Mapping[str, Any]) -> bool:
    """Whether the artifacts in the folder `model` were made from what `expected`, a fingerprint of `path`, says, and
    from files that are still what they were."""
    try:
        record = json.loads(content_of(model / BROUGHT))
        read = record.pop("read")
        return bool(record == expected and read == hashes_of_read(path, read))
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        return False


def _paths_in(value: Any) -> Iterator[Path]:
    """Every path in a description, wherever it stands."""
    if isinstance(value, Path):
        yield value
    elif is_dataclass(value):
        for part in fields(value):
            yield from _paths_in(getattr(value, part.name))
    elif isinstance(value, tuple | list):
        for each in value:
            yield from _paths_in(each)


def _hash_named(path: Path) -> str | None:
    """Of a file that a description names, or of a folder's classes and of those pictures that become questions."""
    if not path.is_dir():
        return _hash(path)
    classes = " ".join(folder.name for folder in class_folders(path))
    return f"{classes}: {_hash_of_all(path, (file for file, _ in pictures_in(path)))}"


def _hash(path: Path) -> str | None:
    """Of a file's content, or of the files in a folder; None where it cannot be read."""
    try:
        if path.is_dir():
            return _hash_of_all(path, sorted(file for file in path.rglob("*") if not file.is_dir()))
        return sha256_of(path) if path.is_file() else None
    except OSError:
        return None


def _hash_of_all(folder: Path, files: Iterable[Path]) -> str:
    """Of the names of these files in the folder, in their order, and of their contents."""
    total = hashlib.sha256()
    for file in files:
        total.update(os.fsencode(f"{file.relative_to(folder)}\0{_hash(file)}\n"))
    return total.hexdigest()


def check(model: Path) -> None:
    """Refuse files that do not match their manifests. Raises ArtifactCorrupt."""
    for manifest in model.glob(f"*/{MANIFEST}"):
        verify_files(manifest.parent, read_manifest(manifest.parent))


def publish(made: Path, target: Path) -> None:
    """Move a file or folder to `target`; the old one is removed when the new one is in place."""
    target.parent.mkdir(parents=True, exist_ok=True)
    new = target.with_name(f".{target.name}.{os.getpid()}.partial")
    shutil.move(made, new)  # a copy, where they are on different disks
    old = target.with_name(f".{target.name}.{os.getpid()}.old.partial")
    if target.exists():
        target.rename(old)
    new.rename(target)
    shutil.rmtree(old, ignore_errors=True) if old.is_dir() else old.unlink(missing_ok=True)
