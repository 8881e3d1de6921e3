"""What an artifact costs besides time: the bytes of its files, of its runtime's packages, and of its image.

One rule for all packages: what the package manager puts there, with everything that it requires. The language's own
program, Python or Node, does not count, and neither does what Python writes beside modules at their first import: an
image's size holds both.
"""

import contextlib
import functools
import gzip
import importlib.metadata
import json
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import brotli
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from compare.figures import Measured, Missing, exact
from contract.formats import FORMATS
from contract.manifest import Manifest

NODE_MODULES = Path(__file__).resolve().parents[1] / "web" / "node_modules"


def file_figures(folder: Path, manifest: Manifest) -> dict[str, Measured]:
    """Bytes of the artifact's files: on disk, and compressed as a server would send them."""
    contents = [(folder / name).read_bytes() for name in manifest.files]
    sizes = {
        "disk": sum(map(len, contents)),
        "gzip": sum(len(gzip.compress(content, 6)) for content in contents),
        "brotli": sum(len(brotli.compress(content)) for content in contents),
    }
    return {name: exact(size, "B", len(contents)) for name, size in sizes.items()}


@functools.cache  # TensorFlow has 20,000 files
def installed(family: str) -> Measured:
    """Bytes of the runtime's packages as installed here, with everything that they require."""
    if packages := FORMATS[family].node_packages:
        return _installed_node(packages)
    try:
        names = requirements(FORMATS[family].packages)
    except importlib.metadata.PackageNotFoundError as error:
        return Missing(f"The package {error.name} is not installed.")
    sizes = {path: size for name in names for path, size in _files(name).items()}
    return exact(sum(sizes.values()), "B", len(names))


def requirements(packages: Iterable[str]) -> set[str]:
    """The packages and everything that they require, as far as it is installed here.

    Raises PackageNotFoundError if one of the packages themselves is not installed.
    """
    names: set[str] = set()
    wanted = [canonicalize_name(importlib.metadata.distribution(name).name) for name in packages]
    while wanted:
        name = wanted.pop()
        if name in names:
            continue
        try:
            lines = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue
        names.add(name)
        needs = [Requirement(line) for line in lines]
        wanted += [canonicalize_name(need.name) for need in needs if not need.marker or need.marker.evaluate()]
    return names


@functools.cache
def _files(package: str) -> dict[str, int]:
    """The bytes of each file of a package. Paths stay text: there are 100,000 of them."""
    sizes: dict[str, int] = {}
    for file in importlib.metadata.files(package) or []:
        path = os.path.normpath(str(file.locate()))
        with contextlib.suppress(OSError):
            about = os.stat(path)  # noqa: PTH116 - a Path takes five times as long
            if stat.S_ISREG(about.st_mode) and file.suffix != ".pyc":
                sizes[path] = about.st_size
    return sizes


def _installed_node(packages: Iterable[str]) -> Measured:
    """Bytes of the packages as npm has installed them."""
    folders, wanted = set[Path](), list(packages)
    while wanted:
        folder = NODE_MODULES / wanted.pop()
        if folder in folders:
            continue
        try:
            package = json.loads((folder / "package.json").read_bytes())
        except OSError:
            return Missing(f"{folder.relative_to(NODE_MODULES)} is not in web/node_modules. Run `make web`.")
        folders.add(folder)
        wanted += package.get("dependencies", {})
    files = {file for folder in folders for file in folder.rglob("*") if file.is_file() and file.suffix != ".pyc"}
    return exact(sum(file.stat().st_size for file in files), "B", len(folders))


@functools.cache
def image(name: str) -> Measured:
    """Bytes of a container image, as the container engine counts them."""
    docker = shutil.which("docker")
    if docker is None:
        return Missing("There is no container engine: `docker` is not on the PATH.")
    command = [docker, "image", "inspect", "--format", "{{.Size}}", name]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=20)
    except subprocess.TimeoutExpired:
        return Missing("The container engine did not answer within 20 s.")
    if done.returncode:
        return Missing(
            f"The engine has no image {name}: {(done.stderr.strip().splitlines() or ['no reason given'])[-1]}"
        )
    return exact(int(done.stdout), "B")


@functools.cache
def bare_interpreter() -> int:
    """Bytes of memory that Python uses before it imports anything."""
    program = "print(next(line for line in open('/proc/self/status') if line.startswith('VmRSS')).split()[1])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return int(done.stdout) * 1024
