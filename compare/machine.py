"""The machine that figures are measured on, and the versions that can change them."""

import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
from pathlib import Path

from compare.browser import CHROMIUM
from compare.footprint import NODE_MODULES
from compare.report import Machine
from verify.processor import processor_name

PYTHON_PACKAGES = (
    "numpy", "keras", "tensorflow-cpu", "torch", "onnx", "onnxruntime", "ai-edge-litert", "tf2onnx", "onnxscript",
    "onnx2tf", "tensorflowjs", "flask", "gunicorn", "uvloop", "playwright",
)  # fmt: skip
NODE_PACKAGES = (
    "@tensorflow/tfjs-core", "@tensorflow/tfjs-backend-wasm", "@tensorflow/tfjs-backend-webgl",
    "@tensorflow/tfjs-backend-webgpu", "onnxruntime-web", "@litertjs/core",
)  # fmt: skip


def this_machine() -> Machine:
    """This machine, and every version that can change a figure. A package that is not installed is left out."""
    return Machine(
        processor=processor_name(),
        cores=os.cpu_count() or 1,
        memory=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        system=_system(),
        python=platform.python_version(),
        versions=dict(sorted((_python_versions() | _node_versions() | _program_versions()).items())),
    )


def _system() -> str:
    names = [line for line in _lines(Path("/etc/os-release")) if line.startswith("PRETTY_NAME=")]
    return names[0].partition("=")[2].strip('"') if names else platform.system()


def _lines(file: Path) -> list[str]:
    return file.read_text().splitlines() if file.exists() else []


def _python_versions() -> dict[str, str]:
    versions = {}
    for name in PYTHON_PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def _node_versions() -> dict[str, str]:
    files = {name: NODE_MODULES / name / "package.json" for name in NODE_PACKAGES}
    return {name: json.loads(file.read_bytes())["version"] for name, file in files.items() if file.is_file()}


def _program_versions() -> dict[str, str]:
    """The versions that Node and Chromium print."""
    programs = {"node": "node", "chromium": os.environ.get("CHROMIUM") or next(filter(shutil.which, CHROMIUM), "")}
    return {name: version for name, program in programs.items() if (version := _version_of(program))}


def _version_of(program: str) -> str:
    try:
        done = subprocess.run([program, "--version"], capture_output=True, text=True, check=False, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    words = done.stdout.split()
    return next((word.lstrip("v") for word in words if any(letter.isdigit() for letter in word)), "")
