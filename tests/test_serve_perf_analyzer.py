"""NVIDIA's perf_analyzer against the service: it compares its own counts with the service's statistics.

The program is in an old wheel of tritonclient. It needs a library of NVIDIA's, which is a wheel as well, and Debian's
libb64. Where these cannot be had, the tests are skipped.
"""

import os
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.serving import Service, free_port, started
from tests.test_docs import write_model

WHEELS = """\
tritonclient==2.34.0 --hash=sha256:ce5845f94f8a014f6de1ca13e07049c31b4bdffca594bbe0654a6db58eb2ce4b
nvidia-cuda-runtime-cu12==12.9.79 --hash=sha256:25bba2dfb01d48a9b59ca474a1ac43c6ebf7011f1b0b8cc44f54eb6ac48a96c3
"""

MODEL = "keras_cnn-onnx"

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def perf_analyzer(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Runs the program with these arguments."""
    folder = tmp_path_factory.mktemp("perf_analyzer")
    (folder / "wheels.txt").write_text(WHEELS)
    pip = [sys.executable, "-m", "pip", "download", "--no-deps", "--require-hashes", "--timeout=10", "--retries=1"]
    fetch(folder, *pip, "--quiet", "-r", "wheels.txt")
    for wheel in folder.glob("*.whl"):
        zipfile.ZipFile(wheel).extractall(folder)
    fetch(folder, "apt-get", "download", "libb64-0d")
    fetch(folder, "dpkg", "-x", *(package.name for package in folder.glob("libb64*.deb")), ".")
    (program,) = folder.rglob("bin/perf_analyzer")
    program.chmod(0o755)
    libraries = {str(path.parent) for name in ("libcudart.so.12", "libb64.so.0d") for path in folder.rglob(name)}
    environment = {**os.environ, "LD_LIBRARY_PATH": ":".join(libraries)}

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [str(program), *arguments]
        return subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=60
        )

    return run


def fetch(folder: Path, *command: str) -> None:
    """Run a command that needs a network, or skip the tests."""
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=120)
    except (OSError, subprocess.TimeoutExpired) as error:
        pytest.skip(f"perf_analyzer cannot be had: {error}")
    if done.returncode:
        pytest.skip(f"perf_analyzer cannot be had: {done.stderr[-300:]}")


@pytest.fixture(scope="module")
def grpc_port() -> int:
    return free_port()


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, grpc_port: int) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("measured")
    write_model(folder / "artifacts" / "keras_cnn" / "onnx")
    with started(folder / "artifacts", folder / "output", GRPC_PORT=str(grpc_port)) as running:
        yield running


def stats(service: Service) -> tuple[int, int]:
    """Requests and rows that were answered."""
    (model,) = service.ask_json("GET", f"/v2/models/{MODEL}/stats")["model_stats"]
    return model["inference_stats"]["success"]["count"], model["inference_count"]


@pytest.mark.parametrize(("protocol", "batch"), [("http", 1), ("http", 3), ("grpc", 1), ("grpc", 3)])
def test_its_counts_are_the_services(
    perf_analyzer: Run, service: Service, grpc_port: int, protocol: str, batch: int
) -> None:
    port = grpc_port if protocol == "grpc" else service.port
    requests, rows = stats(service)
    done = perf_analyzer(
        *("-m", MODEL, "-i", protocol, "-u", f"127.0.0.1:{port}", "-b", str(batch), "--concurrency-range", "4"),
        *("--measurement-mode", "count_windows", "--measurement-request-count", "50", "-s", "999", "-p", "500"),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Concurrency: 4, throughput: " in done.stdout
    after = stats(service)
    assert after[0] - requests >= 50
    assert after[1] - rows == batch * (after[0] - requests)
