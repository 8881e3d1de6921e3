"""The running stack: answers, hardening, and what happens when a container goes."""

import contextlib
import hashlib
import http.client
import json
import os
import shlex
import signal
import ssl
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from playwright.sync_api import Page

from compare.browser import chromium
from contract import dataset
from contract.formats import FORMATS, FORMATS_OF_IMAGE, is_reduced
from contract.parity_result import verified_at
from contract.precisions import PRECISIONS
from serve.remote.runtime import ANSWER_SECONDS
from tests.containers.conftest import SERVING, Engine, Stack, call
from tests.serving import ask, free_port, wait_until
from tests.test_serve_tls import make_certificate
from verify.precision.gate import CLASSES

TOLERANCE = 1e-4
"""What parity allows (verify/parity.py)."""


@pytest.fixture(scope="module")
def pixels() -> Any:
    return dataset.load("fashion_mnist", "test", 200).images.astype(np.float32)


def infer(stack: Stack, model: str, pixels: Any) -> tuple[int, Any]:
    """Status, and probabilities (N, 10) or the error."""
    tensor = {"name": "pixels", "datatype": "FP32", "shape": pixels.shape}
    header = json.dumps({"inputs": [tensor | {"parameters": {"binary_data_size": pixels.nbytes}}]}).encode()
    headers = {"Inference-Header-Content-Length": str(len(header))}
    status, _, body = stack.ask("POST", f"/v2/models/{model}/infer", header + pixels.tobytes(), headers)
    answer = json.loads(body)
    return status, answer["error"] if status != 200 else np.array(answer["outputs"][0]["data"]).reshape(-1, 10)


def test_up_prints_the_pages_address(stack: Stack) -> None:
    address = f"http://127.0.0.1:{stack.environment['PORT']}/"
    assert address in stack.printed
    status, headers, body = stack.ask("GET", "/")
    assert (status, headers.get_content_type()) == (200, "text/html")
    assert b"<script" in body


def test_every_format_answers_through_the_gateway_as_its_source_does(stack: Stack, pixels: Any) -> None:
    models = stack.models()
    variants = 2 * sum(each.usual and FORMATS[each.family].image is not None for each in PRECISIONS.values())
    assert len(models) == 10 + variants
    assert {model["state"] for model in models.values()} == {"READY"}, models
    for source in ("keras_cnn-keras", "torch_cnn-torch"):
        _, expected = infer(stack, source, pixels)
        for name in models:
            if name.startswith(source.split("-")[0]):
                status, got = infer(stack, name, pixels)
                assert status == 200, got
                if is_reduced(name.partition("-")[2]):
                    assert np.mean(got.argmax(1) == expected.argmax(1)) >= 0.98, name
                else:
                    assert np.abs(got - expected).max() <= TOLERANCE, name


def test_the_models_are_verified_in_the_images(stack: Stack) -> None:
    for name in stack.models():
        described = json.loads(stack.ask("GET", f"/v2/models/{name}")[2])["parameters"]
        expected = {"source"} if described["source"] is None else {"verified"}
        if is_reduced(name.partition("-")[2]):
            expected = {verified_at(limit) for limit in CLASSES}
        assert described["status"] in expected, described


def test_the_browser_gets_its_files_from_the_gateway(stack: Stack) -> None:
    for format, file in (("onnx", "model.onnx"), ("tflite", "model.tflite"), ("tfjs", "model.json")):
        assert stack.ask("GET", f"/artifacts/torch_cnn/{format}/{file}")[0] == 200


@pytest.fixture(scope="module")
def ship_view(stack: Stack) -> Iterator[Page]:
    with chromium() as browser:
        page = browser.new_page()
        page.goto(f"http://127.0.0.1:{stack.environment['PORT']}/?idle#ship")
        yield page


@pytest.mark.parametrize(
    ("format", "image"), {f: image for image, formats in FORMATS_OF_IMAGE.items() for f in formats}.items()
)
def test_the_line_that_the_page_shows_runs_that_format_alone(
    engine: Engine, stack: Stack, ship_view: Page, format: str, image: str
) -> None:
    """As it is pasted, apart from the engine's name, a port that is free, and a name by which to end it."""
    source = "torch_cnn" if format == "torch" else "keras_cnn"
    ship_view.get_by_label("Row", exact=True).select_option(f"{source}-{format}@server")
    line = ship_view.locator(f"[data-ship='{source}-{format}@server'] [data-snippet=Container]").text_content() or ""
    assert line.endswith(f" rosetta-serve/{image}")
    (docker, run, *options) = shlex.split(line)
    assert (docker, run) == ("docker", "run")
    port = free_port()
    assert options.count("127.0.0.1:8000:8000") == 1
    options[options.index("127.0.0.1:8000:8000")] = f"127.0.0.1:{port}:8000"
    container = engine.run("run", "--detach", *options).stdout.strip()
    try:
        wait_until(lambda: answers(port, "/v2/health/ready"), 60)
        status, _, body = ask(port, "GET", f"/v2/models/{source}-{format}")
        assert (status, json.loads(body)["name"]) == (200, f"{source}-{format}")
    finally:
        engine.run("kill", container)


def answers(port: int, path: str) -> bool:
    """Whether it says 200; no connection, or one that is closed, is what a container that starts gives."""
    with contextlib.suppress(OSError, http.client.HTTPException):
        return ask(port, "GET", path)[0] == 200
    return False


@pytest.mark.parametrize("service", SERVING)
def test_a_container_can_do_no_more_than_it_must(engine: Engine, stack: Stack, service: str) -> None:
    container = stack.container(service)
    host = container["HostConfig"]
    assert host["ReadonlyRootfs"]
    assert host["CapDrop"] == ["ALL"]
    assert any(option.startswith("no-new-privileges") for option in host["SecurityOpt"])
    assert not host["Privileged"]
    assert not container["Mounts"]
    assert host["Memory"] > 0
    assert host["NanoCpus"] > 0
    processes = engine.run("top", container["Id"], "-eo", "pid,uid,args").stdout.splitlines()[1:]
    assert {line.split()[1] for line in processes} == {"10001"}
    for path in ("/app/artifacts/x", "/app/serve/x", "/venv/x", "/tmp/x", "/etc/x"):
        written = engine.run("exec", container["Id"], "sh", "-c", f"echo x >{path}", check=False)
        assert written.returncode != 0, path
    status = engine.run("exec", container["Id"], "cat", "/proc/1/status").stdout
    assert "CapEff:\t0000000000000000" in status
    assert "NoNewPrivs:\t1" in status


def test_the_runtimes_reach_nothing_and_nothing_else_reaches_them(engine: Engine, stack: Stack) -> None:
    for service in FORMATS_OF_IMAGE:
        settings = stack.container(service)["NetworkSettings"]
        assert not any(settings["Ports"].values()), "no port of it is published"
        (network,) = settings["Networks"]
        assert engine.inspect("network", network)["Internal"]


@pytest.fixture
def gone(stack: Stack) -> Iterator[str]:
    """The container of serve-tflite, whose process was killed from outside, as by a lack of memory."""
    killed = stack.container("serve-tflite")
    os.kill(killed["State"]["Pid"], signal.SIGKILL)
    yield killed["Id"]
    wait_until(lambda: stack.models()["keras_cnn-tflite"]["state"] == "READY", 60)


def test_a_killed_container_fails_alone_and_comes_back(stack: Stack, pixels: Any, gone: str) -> None:
    seen: set[int] = set()
    deadline = time.monotonic() + 60
    while {503, 200} - seen or infer(stack, "keras_cnn-tflite", pixels[:1])[0] != 200:
        assert time.monotonic() < deadline, f"seen {seen}: it was to fail, and to come back by itself"
        status, answer = infer(stack, "keras_cnn-tflite", pixels[:1])
        seen.add(status)
        if status == 503:
            assert "serve-tflite:8000" in answer
        assert infer(stack, "keras_cnn-onnx", pixels[:1])[0] == 200
        assert stack.ask("GET", "/v2/health/ready")[0] == 200
    after = stack.container("serve-tflite")
    assert after["Id"] == gone
    assert after["RestartCount"] >= 1


def test_a_hung_container_holds_up_nothing_else(engine: Engine, stack: Stack, pixels: Any) -> None:
    container = stack.container("serve-torch")["Id"]
    engine.run("pause", container)
    try:
        wait_until(lambda: infer(stack, "torch_cnn-torch", pixels[:1])[0] == 503, 20)
        start = time.monotonic()
        status, error = infer(stack, "torch_cnn-torch", pixels[:1])
        assert (status, "does not answer" in error) == (503, True)
        assert infer(stack, "torch_cnn-onnx", pixels[:1])[0] == 200
        assert stack.ask("GET", "/v2/health/live")[0] == 200
        assert time.monotonic() - start < ANSWER_SECONDS
    finally:
        engine.run("unpause", container)
    wait_until(lambda: infer(stack, "torch_cnn-torch", pixels[:1])[0] == 200, 20)


def test_another_stack_on_the_same_port_is_refused_in_one_line(stack: Stack) -> None:
    refused = call("docker/stack", "up", **{**stack.environment, "COMPOSE_PROJECT_NAME": "rosetta-serve-other"})
    port = stack.environment["PORT"]
    assert refused.returncode == 1
    other = int(port) % 65535 + 1
    assert refused.stdout == f"error: 127.0.0.1:{port} is in use. Try another port: make up PORT={other}\n"


@pytest.fixture
def own_files(tmp_path: Path) -> dict[str, str]:
    """A certificate of this machine, and the key "secret" for callers, which no other user may read: settings."""
    tls = make_certificate(tmp_path)
    keys = tmp_path / "keys"
    keys.write_text(f"phone {hashlib.sha256(b'secret').hexdigest()} *\n")
    keys.chmod(0o600)
    return {
        "SERVE_TLS_CERT": str(tls / "cert.pem"),
        "SERVE_TLS_KEY": str(tls / "key.pem"),
        "SERVE_KEYS_FILE": str(keys),
    }


@pytest.fixture
def plain_again(stack: Stack) -> Iterator[None]:
    yield
    up = call("docker/stack", "up", **stack.environment)
    assert up.returncode == 0, up.stdout


@pytest.mark.usefixtures("plain_again")
def test_up_takes_a_certificate_and_keys_that_only_their_owner_may_read(
    engine: Engine, stack: Stack, own_files: dict[str, str]
) -> None:
    up = call("docker/stack", "up", **stack.environment, **own_files)
    assert up.returncode == 0, up.stdout
    port = stack.environment["PORT"]
    assert f"https://127.0.0.1:{port}/" in up.stdout
    trusted = ssl.create_default_context(cafile=str(Path(own_files["SERVE_TLS_CERT"]).parent / "authority.pem"))
    for headers, status in (({}, 401), ({"Authorization": "Bearer secret"}, 200)):
        connection = http.client.HTTPSConnection("127.0.0.1", int(port), timeout=20, context=trusted)
        with contextlib.closing(connection):
            connection.request("GET", "/v2/models/keras_cnn-onnx", headers=headers)
            assert connection.getresponse().status == status
    gateway = stack.container("gateway")
    listed = engine.run("exec", gateway["Id"], "ls", "-lnA", "/run/rosetta-serve").stdout.splitlines()[1:]
    assert {tuple(line.split()[i] for i in (0, 2)) for line in listed} == {("-r--------", "10001")}, listed
    assert not any("PRIVATE KEY" in value for value in gateway["Config"]["Env"])


def test_up_names_a_file_that_is_not_there(stack: Stack, tmp_path: Path) -> None:
    refused = call("docker/stack", "up", **stack.environment, SERVE_TLS_KEY=str(tmp_path / "key.pem"))
    assert refused.returncode == 1
    assert refused.stdout == (
        f"error: SERVE_TLS_KEY={tmp_path}/key.pem is not a file that you can read. `make certificate` and `make key` "
        "make these files.\n"
    )


@pytest.mark.usefixtures("plain_again")
def test_up_says_at_once_why_the_gateway_does_not_start(stack: Stack) -> None:
    start = time.monotonic()
    refused = call("docker/stack", "up", **stack.environment, SERVE_READY="perhaps")
    assert refused.returncode == 1
    assert "does not start: " in refused.stdout and "SERVE_READY" in refused.stdout.splitlines()[-1]
    assert time.monotonic() - start < 60


def test_down_stops_within_the_grace_period(engine: Engine, stack: Stack) -> None:
    """The last test of this file: it takes a container of the stack down and starts it again."""
    container = stack.container("serve-onnx")["Id"]
    start = time.monotonic()
    engine.run("stop", "--time", "40", container)
    assert time.monotonic() - start < 20
    assert engine.inspect("container", container)["State"]["ExitCode"] == 0, "it ended by itself, it was not killed"
    engine.run("start", container)
    wait_until(lambda: stack.models()["keras_cnn-onnx"]["state"] == "READY", 60)
