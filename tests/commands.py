"""The project's commands, and small scripts, in a process of their own."""

import subprocess
import sys
from pathlib import Path

from contract.code import ROOT


def run_script(script: str, folder: Path) -> Path:
    """Run a script that writes into the folder, its only argument; the folder. It may take two minutes."""
    _check([sys.executable, "-c", script, str(folder)], 120)
    return folder


def brought(path: Path, artifacts: Path) -> Path:
    """Bring a file, or all in a folder, without reduced precisions; the artifacts."""
    _check([sys.executable, "-m", "bring", str(path), "--artifacts", str(artifacts), "--precision", "none"], None)
    return artifacts


def _check(command: list[str], seconds: float | None) -> None:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=seconds)
    assert done.returncode == 0, done.stderr
