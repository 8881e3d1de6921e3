"""`python -m serve` as a person starts it: what it prints, that it answers many at once, and how it ends."""

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from contract.code import ROOT
from contract.dataset import Split
from contract.manifest import MANIFEST, read_manifest, staged, write_manifest
from export import exported_from
from serve.banner import banner
from serve.catalog import Catalog
from serve.replies import DATA_HEADERS, DATA_TYPES, HEADERS
from serve.settings import SettingError, Settings
from tests.formats_here import run_from
from tests.serving import Answer, Service, ask_on, settings, started, wait_until

MAX_BYTES = 1_000_000
EXPORTS = len(exported_from("keras")) + len(exported_from("torch"))
"""Of both of our models."""


@pytest.fixture(scope="module")
def service_artifacts(artifacts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the service serves: a copy, that may be changed under it."""
    return shutil.copytree(artifacts, tmp_path_factory.mktemp("served") / "artifacts")


@pytest.fixture(scope="module")
def service(service_artifacts: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    start = time.monotonic()
    with started(
        service_artifacts, tmp_path_factory.mktemp("output") / "service", SERVE_MAX_BYTES=str(MAX_BYTES)
    ) as running:
        print(f"ready after {time.monotonic() - start:.1f} s")
        yield running


@pytest.fixture
def small(artifacts: Path, tmp_path: Path) -> Path:
    """Artifacts that load in an instant, one of them in a Node process."""
    for format in ("onnx", "tfjs"):
        shutil.copytree(artifacts / "keras_cnn" / format, tmp_path / "small" / "keras_cnn" / format)
    return tmp_path / "small"


def infer_body(split: Split, start: int, stop: int) -> bytes:
    pixels = split.images[start:stop]
    tensor = {"name": "pixels", "datatype": "FP32", "shape": list(pixels.shape), "data": pixels.ravel().tolist()}
    return json.dumps({"inputs": [tensor]}).encode()


def without_times(answer: Any) -> Any:
    """A JSON answer without what differs from call to call."""
    if isinstance(answer, dict):
        return {key: without_times(value) for key, value in answer.items() if key != "ms"}
    return [without_times(value) for value in answer] if isinstance(answer, list) else answer


# What it prints


def test_the_banner_names_the_page_and_every_artifact(service: Service) -> None:
    assert f"The page:    http://127.0.0.1:{service.port}/\n" in service.printed
    count = len(index(service))
    assert f"answers with {count} of {2 + EXPORTS} artifacts" in service.printed
    lines = [line for line in service.printed.splitlines() if "_cnn-" in line]
    rows = [line.split()[:2] for line in lines if "needs macOS" not in line]
    assert len(lines) == 2 + EXPORTS and rows[0] == ["keras_cnn-keras", "source"]
    assert [name for name, _ in rows] == [model["name"] for model in index(service)]
    assert [status for _, status in rows].count("verified") == len(run_from("keras")) + len(run_from("torch"))
    right = [float(share) for share in re.findall(r"([0-9.]+)% of the test pictures right", service.printed)]
    assert len(right) == count and all(20 < share <= 100 for share in right)


def test_the_banners_line_works_when_it_is_pasted_into_a_shell(service: Service) -> None:
    (line,) = (line for line in service.printed.splitlines() if "curl" in line)
    done = subprocess.run(["bash", "-c", line], capture_output=True, check=True)
    rows = json.loads(done.stdout)["results"]
    assert [row["model"] for row in rows] == [model["name"] for model in index(service)]
    assert len(rows) == 2 + len(run_from("keras")) + len(run_from("torch"))
    assert all(row["agrees"] for row in rows)


def test_nothing_is_logged_when_all_is_well(service: Service) -> None:
    ours = [line for line in service.log.splitlines() if line.startswith(("WARNING ", "ERROR ", "Traceback"))]
    assert [line for line in ours if "absl::InitializeLog" not in line] == []


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("127.0.0.1", "http://127.0.0.1:8123/"),
        ("localhost", "http://localhost:8123/"),
        ("0.0.0.0", "http://127.0.0.1:8123/"),
        ("::", "http://[::1]:8123/"),
        ("::1", "http://[::1]:8123/"),
    ],
)
def test_the_banner_names_an_address_that_can_be_opened(tmp_path: Path, host: str, address: str) -> None:
    text = banner(Catalog([]), Settings(artifacts=tmp_path, host=host, port=8123))
    assert f"The page:    {address}\n" in text
    assert f"--data-binary @- {address}compare\n" in text


def index(service: Service) -> Any:
    """Of all but what another system alone runs."""
    models = json.loads(service.ask("POST", "/v2/repository/index")[2])
    return [model for model in models if "not_run" not in model]


# What it answers


def test_200_good_and_bad_requests_at_once_are_each_answered_right(
    service: Service, artifacts: Path, test_split: Split
) -> None:
    png = (artifacts / "samples" / "0000.png").read_bytes()
    calls: list[tuple[str, str, bytes | None, int]] = [
        *(("POST", f"/v2/models/{model['name']}/infer", infer_body(test_split, 3, 6), 200) for model in index(service)),
        *(("POST", f"/predict/{model['name']}", png, 200) for model in index(service)),
        ("POST", "/compare", png, 200),
        ("GET", "/artifacts/keras_cnn/onnx/model.onnx", None, 200),
        ("GET", "/v2/models/torch_cnn-tfjs", None, 200),
        ("GET", "/nothing", None, 404),
        ("POST", "/predict/nothing", png, 404),
        ("DELETE", "/v2", None, 405),
        ("POST", "/compare", png[:200], 400),
        ("POST", "/compare", b"no picture", 415),
        ("POST", "/v2/models/keras_cnn-tfjs/infer", b"{", 400),
        ("POST", "/v2/models/torch_cnn-torch/infer", infer_body(test_split, 0, 0), 400),
        ("POST", "/predict/keras_cnn-tflite", b"x" * (MAX_BYTES + 1), 413),
    ]
    expected = [answer(service.ask(*call[:3])) for call in calls]
    assert [status for status, _ in expected] == [call[3] for call in calls]

    def work(thread: int) -> list[tuple[int, Any]]:
        """25 requests on one connection, as a browser keeps it, in an order of its own."""
        order = np.random.default_rng(thread).permutation(len(calls))[:25].tolist()
        with contextlib.closing(service.connect()) as connection:
            return [(number, answer(ask_on(connection, *calls[number][:3]))) for number in order]

    with ThreadPoolExecutor(8) as pool:
        answers = [done for thread in pool.map(work, range(8)) for done in thread]
    assert len(answers) == 200
    for number, got in answers:
        assert same(got, expected[number]), calls[number][:2]
    assert "Traceback" not in service.log


def answer(response: Answer) -> tuple[int, Any]:
    status, headers, body = response
    for name, value in (DATA_HEADERS if headers.get_content_type() in DATA_TYPES else HEADERS).items():
        assert headers[name] == value
    return status, without_times(json.loads(body)) if headers["Content-Type"] == "application/json" else body


def same(got: Any, expected: Any) -> bool:
    """Equal, numbers to 1e-6: with several threads on few cores, a runtime may add in another order."""
    if isinstance(got, float) and isinstance(expected, float):
        return abs(got - expected) < 1e-6
    if isinstance(got, dict) and isinstance(expected, dict):
        return got.keys() == expected.keys() and all(same(got[key], expected[key]) for key in got)
    if isinstance(got, list | tuple) and isinstance(expected, list | tuple):
        return len(got) == len(expected) and all(map(same, got, expected))
    return bool(got == expected)


def test_a_body_in_chunks_is_read_and_is_limited_too(
    service: Service, service_artifacts: Path, test_split: Split
) -> None:
    path, body = "/v2/models/keras_cnn-onnx/infer", infer_body(test_split, 0, 2)
    status, _, whole = service.ask("POST", path, body)
    chunks = iter([body[:10], body[10:5000], body[5000:]])
    assert service.ask("POST", path, chunks)[::2] == (status, whole)
    picture = (service_artifacts / "samples" / "0000.png").read_bytes()
    at_once, in_chunks = (service.ask("POST", "/predict/keras_cnn-onnx", sent) for sent in (picture, iter([picture])))
    assert same(answer(in_chunks), answer(at_once))
    padding = b" " * (MAX_BYTES - len(body))
    assert service.ask("POST", path, iter([body, padding]))[::2] == (status, whole)
    status, _, refused = service.ask("POST", path, iter([body, padding, b" "]))
    assert status == 413
    assert str(MAX_BYTES) in json.loads(refused)["error"]


@pytest.mark.parametrize(
    "path",
    [
        "/artifacts/keras_cnn/onnx/../../samples/index.json",
        "/artifacts/keras_cnn/onnx/../../../../../../etc/passwd",
        "/artifacts/keras_cnn/onnx/%2e%2e/keras/model.h5",
        "/artifacts/../../pyproject.toml",
        "/../../../../etc/passwd",
        "/samples/../keras_cnn/onnx/manifest.json",
        "/assets/../../package.json",
    ],
)
def test_a_path_with_dots_leads_nowhere_else(service: Service, path: str) -> None:
    status, _, body = service.ask("GET", path)
    assert status == 404
    assert "error" in json.loads(body)


def test_replacing_an_artifact_changes_nothing_that_is_loaded(
    service: Service, service_artifacts: Path, test_split: Split
) -> None:
    body = infer_body(test_split, 0, 4)
    paths = [f"/v2/models/torch_cnn-{format}/infer" for format in ("onnx", "tflite", "tfjs", "savedmodel")]
    before = [answer(service.ask("POST", path, body)) for path in paths]
    for format in ("onnx", "tflite", "tfjs", "savedmodel"):
        replace_by_another_export(service_artifacts / "torch_cnn" / format)
        (service_artifacts / "torch_cnn" / f".{format}.1.partial").mkdir()
    assert [answer(service.ask("POST", path, body)) for path in paths] == before
    assert answer(service.ask("GET", "/v2/models/torch_cnn-onnx"))[0] == 200
    status, refused = answer(service.ask("GET", "/artifacts/torch_cnn/onnx/model.onnx"))
    assert status == 503
    assert "changed since torch_cnn-onnx was loaded" in refused["error"]
    rows = answer(service.ask("POST", "/compare", (service_artifacts / "samples" / "0001.png").read_bytes()))[1]
    assert all(row["agrees"] for row in rows["results"])


def replace_by_another_export(folder: Path) -> None:
    """What an export that is run again does, with files that no runtime could load."""
    manifest = read_manifest(folder)
    with staged(folder) as staging:
        for file in manifest.files:
            (staging / file).parent.mkdir(parents=True, exist_ok=True)
            (staging / file).write_bytes(b"another export")
        write_manifest(staging, manifest)


# How it starts


def test_a_damaged_artifact_is_named_and_the_others_serve(small: Path, tmp_path: Path) -> None:
    model = small / "keras_cnn" / "onnx" / "model.onnx"
    model.write_bytes(model.read_bytes() + b"x")
    with started(small, tmp_path / "output") as running:
        assert "answers with 1 of 2 artifacts" in running.printed
        assert "NOT SERVED: " in running.printed
        assert "has sha256" in running.printed
        assert "WARNING serve.catalog: keras_cnn-onnx is not served: " in running.log
        assert [model["state"] for model in index(running)] == ["UNAVAILABLE", "READY"]
        assert running.ask("GET", "/v2/models/keras_cnn-onnx")[0] == 503


def refused(artifacts: Path, **more: str) -> str:
    """The one line that the service prints instead of starting."""
    done = subprocess.run(
        [sys.executable, "-m", "serve"],
        cwd=ROOT,
        env=settings(artifacts, **more),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    return line


def test_a_port_in_use_is_one_clear_line(small: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        line = refused(small, PORT=str(port))
    assert line == (
        f"error: HOST=127.0.0.1 PORT={port} cannot be listened on: Address already in use. Set another HOST or PORT."
    )


@pytest.mark.parametrize("host", ["192.0.2.1", "a b", "x" * 300, "::1::1", "/tmp", "http://127.0.0.1"])
def test_a_host_that_cannot_be_listened_on_is_one_clear_line(small: Path, host: str) -> None:
    line = refused(small, HOST=host)
    assert f"HOST={host} PORT=" in line
    assert "cannot be listened on: " in line


@pytest.mark.parametrize("value", ["0", "65536", "-1", "80x", "8000.0", "٣", " 8000", "9" * 5000])
def test_a_port_that_is_not_a_number_in_range_is_one_clear_line(small: Path, value: str) -> None:
    line = refused(small, PORT=value)
    assert line.startswith(f"error: PORT={value[:40]} cannot be used: expected a whole number from 1 to 65535")


NUMBERS = {
    "SERVE_THREADS": (1, 1024),
    "SERVE_MAX_BYTES": (1, 2**40),
    "SERVE_MAX_PIXELS": (1, 2**32),
    "SERVE_MAX_HELD": (1, 2**50),
    "SERVE_WORKERS": (1, 256),
    "SERVE_BATCHING": (0, 1),
    "SERVE_MAX_BATCH": (1, 4096),
    "SERVE_MAX_QUEUE": (1, 2**20),
    "SERVE_BATCH_DELAY_US": (0, 10**6),
    "SERVE_TIMEOUT": (1, 3600),
    "SERVE_ACCESS_LOG": (0, 1),
    "SERVE_ISOLATION_BYTES": (0, 2**50),
    "GRPC_PORT": (0, 65535),
    "SERVE_CONTROL": (0, 1),
    "SERVE_MAX_REQUESTS": (0, 2**30),
    "SERVE_MAX_CONNECTIONS": (1, 2**20),
    "SERVE_CALLER_CONNECTIONS": (0, 2**20),
    "SERVE_CALLER_REQUESTS": (0, 2**30),
    "SERVE_CALLER_ROWS": (0, 2**30),
    "SERVE_CALLER_BYTES": (0, 2**50),
    "SERVE_OPEN_HEALTH": (0, 1),
    "SERVE_OPEN_METRICS": (0, 1),
    "SERVE_TRUST": (0, 1),
    "SERVE_VERSIONS": (1, 1000),
}


def variables() -> dict[str, str]:
    """The field of each setting -> its environment variable, as its docstring names it."""
    source = (ROOT / "serve" / "settings.py").read_text()
    return {
        field.name: re.findall(rf'^    {field.name}: [^\n]*\n    """([A-Z_]+): ', source, re.MULTILINE)[0]
        for field in fields(Settings)
    }


@pytest.mark.parametrize("name", NUMBERS)
def test_a_setting_that_is_not_a_number_in_range_is_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    least, most = NUMBERS[name]
    for value in (str(least - 1), str(most + 1), "many", "1.0", " 1", "٣", "9" * 5000):
        monkeypatch.setenv(name, value)
        with pytest.raises(SettingError) as caught:
            Settings.from_environment()
        assert str(caught.value) == (
            f"{name}={value[:40]} cannot be used: expected a whole number from {least} to {most}."
        )
    for value in (str(least), str(most), ""):
        monkeypatch.setenv(name, value)
        Settings.from_environment()


def test_a_setting_that_cannot_be_used_is_one_clear_line(small: Path) -> None:
    assert refused(small, SERVE_WORKERS="many").startswith("error: SERVE_WORKERS=many cannot be used: ")


def test_a_state_folder_that_cannot_be_written_is_one_clear_line(small: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "state", Path("/proc/state")):
        line = refused(small, SERVE_STATE=str(folder))
        assert line.startswith(f"error: SERVE_STATE={folder} cannot be used: ")
        assert line.endswith("Name a folder that can be written.")


def test_every_setting_is_checked_here() -> None:
    names = set(variables().values())
    lists = {"SERVE_FORMATS", "SERVE_REMOTES"}  # in test_serve_remote.py
    lists |= {"SERVE_HOSTS", "SERVE_CORS"}  # in test_serve_http.py
    lists |= {
        "SERVE_KEYS_FILE",
        "SERVE_REMOTE_KEY",
        "SERVE_TLS_CERT",
        "SERVE_TLS_KEY",
    }  # in test_serve_keys.py, _tls.py
    lists |= {"SERVE_READY", "SERVE_ISOLATION"}  # in test_serve_settings.py
    assert names == {"ARTIFACTS", "HOST", "PORT", "SERVE_STATE", *lists, *NUMBERS}


@pytest.mark.parametrize("content", ["nothing", "an empty folder", "a file", "half-written artifacts"])
def test_without_artifacts_one_line_names_the_command_that_makes_them(tmp_path: Path, content: str) -> None:
    folder = tmp_path / "artifacts"
    if content == "an empty folder":
        folder.mkdir()
    elif content == "a file":
        folder.write_text("")
    elif content == "half-written artifacts":
        (folder / "keras_cnn" / ".onnx.1.partial").mkdir(parents=True)
        (folder / "keras_cnn" / ".onnx.1.partial" / MANIFEST).write_text("{}")
        (folder / "keras_cnn" / "tfjs").mkdir()
    assert refused(folder) == f"error: There is no artifact in {folder}. Make them with `make artifacts`."


def test_an_empty_setting_is_the_default(small: Path, tmp_path: Path) -> None:
    with started(small, tmp_path / "output", SERVE_THREADS="", SERVE_MAX_BYTES="", HOST="") as running:
        assert f"http://127.0.0.1:{running.port}/" in running.printed


# How it ends


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_with_status_0_and_all_its_processes(
    small: Path, tmp_path: Path, number: signal.Signals
) -> None:
    with started(small, tmp_path / "output") as running:
        descendants = running.descendants()
        assert "node" in {name.lower() for name in descendants.values()}
        running.process.send_signal(number)
        assert running.process.wait(15) == 0
        wait_until(lambda: not any(Path(f"/proc/{process}").exists() for process in descendants), 15)
        assert "Traceback" not in running.log


def test_a_killed_worker_is_replaced_and_leaves_no_process(small: Path, tmp_path: Path, test_split: Split) -> None:
    with started(small, tmp_path / "output") as running:
        first = running.descendants()
        (worker,) = running.workers()
        os.kill(worker, signal.SIGKILL)
        wait_until(lambda: bool(running.workers() - {worker}))
        status, _, body = running.ask("POST", "/v2/models/keras_cnn-tfjs/infer", infer_body(test_split, 0, 1))
        assert status == 200, body
        wait_until(lambda: not first.keys() & running.descendants().keys(), 15)
        wait_until(lambda: not any(Path(f"/proc/{process}").exists() for process in first), 15)


def test_a_killed_service_leaves_no_process(small: Path, tmp_path: Path) -> None:
    with started(small, tmp_path / "output") as running:
        descendants = running.descendants()
        running.process.kill()
        wait_until(lambda: not any(Path(f"/proc/{process}").exists() for process in descendants), 30)
