"""The files of published packages: fetched by name and version, and taken out without running anything of them."""

import csv
import re
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

from bring.description import FILE as MODEL_TOML
from bring.description import nearest
from bring.options import OPTIONS
from contract.errors import BroughtError

LIST = Path(__file__).with_name("models.tsv")
FETCH_SECONDS = 600
MAX_BYTES = 1 << 30
"""Of all files that are taken out of one package."""
OTHER = re.compile(r"([\w.-]+)==([\w.]+)/")
"""What the name of a file of another package begins with."""
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
    """In the package: the model first, which may be a folder; then what lies beside it, such as the network's code.

    `other==1.0/other` is the file or folder `other` of another package of the registry.
    """
    about: str
    """What it is, for people."""
    settings: Mapping[str, str]
    """Options of `python -m bring`."""
    toml: str = ""
    """What its model.toml says, which lies beside the list under the model's name; empty where there is none."""

    @property
    def packages(self) -> Mapping[tuple[str, str], tuple[str, ...]]:
        """(package, version) -> what is taken out of it."""
        names: dict[tuple[str, str], tuple[str, ...]] = {}
        for file in self.files:
            other = OTHER.match(file)
            package = (other[1], other[2]) if other else (self.package, self.version)
            names[package] = (*names.get(package, ()), OTHER.sub("", file))
        return names


def read_list(file: Path = LIST) -> dict[str, Listed]:
    """The models by name. Raises BroughtError for a row that cannot be used."""
    lines = [line for line in file.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    return {row["name"]: _listed(row, file) for row in csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)}


def _listed(row: Mapping[str, str], file: Path) -> Listed:
    settings = dict(setting.partition("=")[::2] for setting in shlex.split(row["settings"] or ""))
    for name in settings:
        if name.lower() not in OPTIONS:
            known = [option.upper() for option in OPTIONS]
            raise BroughtError(f"{LIST.name}, {row['name']}: no such setting as {name}{nearest(name, known)}")
    if row["registry"] not in FETCHERS:
        raise BroughtError(f"{LIST.name}, {row['name']}: the registry is {row['registry']}, expected pypi or npm.")
    options = {name.lower(): value for name, value in settings.items()}
    toml = file.with_name(f"{row['name']}.toml")
    return Listed(
        row["name"], row["registry"], row["package"], row["version"], tuple(row["files"].split()), row["what it is"],
        options, toml.read_text(encoding="utf-8") if toml.is_file() else "",
    )  # fmt: skip


def fetch(model: Listed, cache: Path) -> Path:
    """The model's file or folder, in a folder of its own below `cache`; what is there already is not fetched again.

    Raises BroughtError where a package cannot be had, or has no such file.
    """
    folder = cache / "files" / model.name
    if not all((folder / PurePosixPath(name).name).exists() for name in model.files):
        staging = folder.with_name(f".{model.name}.partial")
        for old in (staging, folder):
            shutil.rmtree(old, ignore_errors=True)
        staging.mkdir(parents=True)
        for (package, version), names in model.packages.items():
            place = cache / "packages" / f"{package.replace('/', '_')}-{version}"
            take_out(_archive(model.registry, package, version, place), names, staging)
        staging.rename(folder)
    if model.toml:
        (folder / MODEL_TOML).write_text(model.toml, encoding="utf-8")
    return folder / PurePosixPath(model.files[0]).name


def _archive(registry: str, package: str, version: str, folder: Path) -> Path:
    if not any(folder.glob("[!.]*")):
        folder.mkdir(parents=True, exist_ok=True)
        command = FETCHERS[registry](package, version, folder)
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=FETCH_SECONDS)
            lines = done.stderr.strip().splitlines() if done.returncode else []
        except (OSError, subprocess.TimeoutExpired) as error:
            raise BroughtError(f"{package} {version} cannot be fetched: {error}.") from error
        if done.returncode or not any(folder.glob("[!.]*")):
            raise BroughtError(f"{package} {version} cannot be fetched: {(lines or ['no file came'])[-1]}.")
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
        places = {name: _place(name, member) for name in names if member == name or member.startswith(f"{name}/")}
        if not places:
            continue
        left -= size * len(places)
        if left < 0 or any(".." in place.parts for place in places.values()):
            raise BroughtError(f"{archive.name} has the file {member}, which is too large or leads out of its folder.")
        first, *others = (folder / place for place in places.values())
        first.parent.mkdir(parents=True, exist_ok=True)
        with first.open("xb") as file:
            shutil.copyfileobj(stream, file)
        for copy in others:  # a model that also lies in the folder of its code
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(first, copy)
        taken |= places.keys()
    if missing := [name for name in names if name not in taken]:
        raise BroughtError(f"{archive.name} has no {' and no '.join(missing)}. Correct {LIST.name}.")


def _place(name: str, member: str) -> PurePosixPath:
    """Where a member of an archive lies below the last part of this name, which is the member or one of its folders."""
    return PurePosixPath(PurePosixPath(name).name, PurePosixPath(member).relative_to(name))


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
