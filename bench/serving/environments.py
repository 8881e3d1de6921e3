"""Installs what the service is measured against: an environment for each opponent, and load generators by apt.

The environments are in `build/serving/`, or in SERVING_CACHE, and are made once for each list of versions.
"""

import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

OPPONENTS = Path(__file__).with_name("opponents")
CACHE = Path(os.environ.get("SERVING_CACHE") or "build/serving").resolve()


def python_of(name: str) -> Path:
    """The interpreter of the opponent's environment, which is made if it is missing or its list has changed."""
    wanted = (OPPONENTS / f"{name}.txt").read_text(encoding="utf-8")
    folder = CACHE / name
    python, installed = folder / "bin" / "python", folder / "installed.txt"
    if not installed.exists() or installed.read_text(encoding="utf-8") != wanted:
        print(f"Installing {name} in {folder}", flush=True)
        shutil.rmtree(folder, ignore_errors=True)
        venv.create(folder, with_pip=True)
        packages = [line for line in wanted.splitlines() if line and not line.startswith("#")]
        pip = [str(python), "-m", "pip", "install", "-qq", "--disable-pip-version-check"]
        subprocess.run([*pip, *packages], check=True, stdout=sys.stderr)
        installed.write_text(wanted, encoding="utf-8")
    return python


def wrk() -> str:
    """The load generator's path. If it cannot be installed, exits with a line that says how to get it."""
    return _program("wrk", "wrk")


def h2load() -> str:
    """The path of the load generator for HTTP/2; else as `wrk`."""
    return _program("h2load", "nghttp2-client")


def _program(name: str, package: str) -> str:
    if shutil.which(name) is None and os.geteuid() == 0 and shutil.which("apt-get"):
        print(f"Installing {package}", flush=True)
        subprocess.run(["apt-get", "install", "--yes", "--quiet", package], check=False, stdout=sys.stderr)
    path = shutil.which(name)
    if path is None:
        sys.exit(
            f"error: {name}, the load generator, is not installed. On Debian and Ubuntu: sudo apt-get install {package}"
        )
    return path
