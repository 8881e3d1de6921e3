"""The files of a published package: fetched by name and version, and taken out without running anything of it."""

import csv
import shlex
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from bring.description import nearest
from bring.options import OPTIONS
from contract.errors import BroughtError

LIST = Path(__file__).with_name("models.tsv")
FETCH_SECONDS = 600
MAX_BYTES = 1 << 30
"""Of all files that are taken out of one package."""
NPM_ROOT = "package/"
"""What the name of each file in an npm package begins with."""


@dataclass(frozen=True)
class Listed:
    """One row of models.tsv."""

    name: str
    registry: str
    """`pypi` or `npm`."""
    package: str
    version: str
    files: tuple[str, ...]
    """In the package: the model first, which may be a folder; then what lies beside it."""
    about: str
    """What it is, for people."""
    settings: Mapping[str, str]
    """Options of `python -m bring`."""


def read_list(file: Path = LIST) -> dict[str, Listed]:
    """The models by name. Raises BroughtError for a row that cannot be used."""
    lines = [line for line in file.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    return {row["name"]: _listed(row) for row in csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)}


def _listed(row: Mapping[str, str]) -> Listed:
    settings = dict(setting.partition("=")[::2] for setting in shlex.split(row["settings"] or ""))
    for name in settings:
        if name.lower() not in OPTIONS:
            known = [option.upper() for option in OPTIONS]
            raise BroughtError(f"{LIST.name}, {row['name']}: no such setting as {name}{nearest(name, known)}")
    if row["registry"] not in FETCHERS:
        raise BroughtError(f"{LIST.name}, {row['name']}: the registry is {row['registry']}, expected pypi or npm.")
    options = {name.lower(): value for name, value in settings.items()}
    return Listed(
        row["name"], row["registry"], row["package"], row["version"], tuple(row["files"].split()), row["what it is"],
        options,
    )  # fmt: skip


def fetch(model: Listed, cache: Path) -> Path:
    """The model's file or folder, in a folder of its own below `cache`; what is there already is not fetched again.

    Raises BroughtError where the package cannot be had, or has no such file.
    """
    folder = cache / "files" / model.name
    place = folder / PurePosixPath(model.files[0]).name
    if not place.exists():
        archive = _archive(model, cache / "packages" / f"{model.package.replace('/', '_')}-{model.version}")
        staging = folder.with_name(f".{model.name}.partial")
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir(parents=True)
        take_out(archive, model.files, staging)
        staging.rename(folder)
    return place


def _archive(model: Listed, folder: Path) -> Path:
    if not any(folder.glob("[!.]*")):
        folder.mkdir(parents=True, exist_ok=True)
        command = FETCHERS[model.registry](f"{model.package}", model.version, folder)
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=FETCH_SECONDS)
            lines = done.stderr.strip().splitlines() if done.returncode else []
        except (OSError, subprocess.TimeoutExpired) as error:
            raise BroughtError(f"{model.package} {model.version} cannot be fetched: {error}.") from error
        if done.returncode or not any(folder.glob("[!.]*")):
            raise BroughtError(f"{model.package} {model.version} cannot be fetched: {(lines or ['no file came'])[-1]}.")
    return next(folder.glob("[!.]*"))


def _from_pypi(package: str, version: str, folder: Path) -> list[str]:
    # A source package would run its own setup.py.
    plain = ["--no-deps", "--only-binary=:all:", "--disable-pip-version-check", "--quiet"]
    return [sys.executable, "-m", "pip", "download", *plain, "--dest", str(folder), f"{package}=={version}"]


def _from_npm(package: str, version: str, folder: Path) -> list[str]:
    return ["npm", "pack", "--silent", "--ignore-scripts", "--pack-destination", str(folder), f"{package}@{version}"]


FETCHERS = {"pypi": _from_pypi, "npm": _from_npm}
"""Registry -> the command of its own client that fetches one package, and nothing that it depends on."""


def take_out(archive: Path, names: tuple[str, ...], folder: Path) -> None:
    """Write these files, or folders, of an archive into `folder`, each by its last name.

    Links and special files are not taken, nor a name that leads out of the folder. Raises BroughtError where one of the
    names is missing, or where they hold more than MAX_BYTES.
    """
    left = MAX_BYTES
    taken: set[str] = set()
    for member, size, stream in _members(archive):
        name = next((name for name in names if member == name or member.startswith(f"{name}/")), None)
        if name is None:
            continue
        parts = PurePosixPath(PurePosixPath(name).name, PurePosixPath(member).relative_to(name)).parts
        left -= size
        if left < 0 or ".." in parts:
            raise BroughtError(f"{archive.name} has the file {member}, which is too large or leads out of its folder.")
        target = folder.joinpath(*parts)
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("xb") as file:
            shutil.copyfileobj(stream, file)
        taken.add(name)
    if missing := [name for name in names if name not in taken]:
        raise BroughtError(f"{archive.name} has no {' and no '.join(missing)}. Correct {LIST.name}.")


def _members(archive: Path) -> Iterator[tuple[str, int, IO[bytes]]]:
    """The name, the size, and the content of each regular file in a wheel or in a package of npm."""
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as wheel:
            for entry in wheel.infolist():
                if not entry.is_dir():
                    with wheel.open(entry) as content:
                        yield entry.filename, entry.file_size, content
        return
    with tarfile.open(archive) as package:
        for member in package:
            if member.isreg() and (file := package.extractfile(member)) is not None:
                yield member.name.removeprefix(NPM_ROOT), member.size, file
