"""Keys: who may call, what a key may call, and what is answered to the others; on the fast way and behind a gateway."""

import base64
import contextlib
import hashlib
import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from contract.code import ROOT
from serve.app import create_app
from serve.catalog import Catalog
from serve.keys import CallRefused, KeyMissing, Keys, add_key, called_by
from serve.phone import is_loopback
from serve.settings import SettingError, Settings
from tests.serving import Service, ask_on, started, wait_until
from tests.test_docs import write_model

MODEL = "keras_cnn-onnx"
INFER = f"/v2/models/{MODEL}/infer"
BODY = json.dumps(
    {"inputs": [{"name": "pixels", "datatype": "FP32", "shape": [1, 28, 28, 1], "data": [0] * 784}]}
).encode()


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keys"


def keys_of(path: Path, **settings: bool) -> Keys:
    return Keys(Settings(keys_file=path, **settings))  # type: ignore[arg-type]


# The file


def test_a_key_is_kept_as_its_hash_alone_and_its_owner_alone_reads_the_file(path: Path) -> None:
    key = add_key(path, "app", "keras_cnn-*,metrics")
    assert len(base64.urlsafe_b64decode(key + "=")) == 32
    name, digest, calls = path.read_text().split()
    assert (name, digest, calls) == ("app", hashlib.sha256(key.encode()).hexdigest(), "keras_cnn-*,metrics")
    assert path.stat().st_mode & 0o777 == 0o600
    found = keys_of(path).check(b"Bearer " + key.encode(), INFER.encode())
    assert found is not None and found.name == "app"


def test_a_name_is_there_once(path: Path) -> None:
    add_key(path, "app", "*")
    with pytest.raises(SettingError, match="has a key named 'app'"):
        add_key(path, "app", "*")
    with pytest.raises(SettingError, match="No key can be named 'two words'"):
        add_key(path, "two words", "*")
    with pytest.raises(SettingError, match="No key can be named 'b' and call 'a b'"):
        add_key(path, "b", "a b")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "cannot be read: No such file"),
        ("app secret *\n", "line 1 is not a name, a SHA-256"),
        (f"# a comment\n\napp {'0' * 64} *\napp {'1' * 64} *\n", "line 4 has the name of a line above"),
        (f"app {'0' * 64}\n", "line 1 is not a name"),
        (b"\xff\xfe", "cannot be read"),
    ],
)
def test_a_file_that_cannot_be_used_ends_the_start_with_the_line(path: Path, text: str | bytes, message: str) -> None:
    if text is not None:
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(SettingError, match=message):
        keys_of(path)


def test_a_file_that_changes_counts_and_one_that_cannot_be_used_does_not(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = add_key(path, "first", "*")
    keys = keys_of(path)
    second = add_key(path, "second", "*")
    keys.look()
    assert keys.check(b"Bearer " + second.encode(), b"/v2") is not None
    path.write_text(f"second {hashlib.sha256(second.encode()).hexdigest()} *\n")
    keys.look()
    with pytest.raises(KeyMissing):
        keys.check(b"Bearer " + first.encode(), b"/v2")
    path.write_text("nonsense")
    with caplog.at_level(logging.ERROR):
        keys.look()
        keys.look()
    assert len(caplog.messages) == 1 and "line 1" in caplog.text
    assert keys.check(b"Bearer " + second.encode(), b"/v2") is not None


def test_the_command_prints_the_key_alone(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "serve.keys"]
    environment = {**os.environ, "SERVE_KEYS_FILE": str(tmp_path / "new" / "keys")}

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*command, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
        )

    done = run("app", "keras_cnn-*")
    assert done.returncode == 0, done.stderr
    keys = keys_of(tmp_path / "new" / "keys")
    assert keys.check(b"Bearer " + done.stdout.strip().encode(), INFER.encode()) is not None
    assert run("app").stderr.startswith("error: ") and run("app").returncode == 1
    assert "usage" in run().stderr and "usage" in run("--help").stderr


# What a key may call


@pytest.mark.parametrize(
    ("url", "called"),
    [
        (INFER, MODEL),
        (f"/v2/models/{MODEL}", MODEL),
        (f"/v2/models/{MODEL}/versions/1/infer?x=/metrics", MODEL),
        (f"/v2/models/{MODEL.replace('n', '%6e')}/infer", MODEL),
        (f"/v1/models/{MODEL}:predict", MODEL),
        (f"/v1/models/{MODEL}/versions/1:predict", MODEL),
        (f"/predict/{MODEL}", MODEL),
        ("/artifacts/keras_cnn/onnx/model.onnx", MODEL),
        ("/artifacts/keras_cnn/failed/onnx.log", "keras_cnn-failed"),
        ("/metrics", "metrics"),
        ("/v2/models/stats", "metrics"),
        ("/compare", "compare"),
        ("/v2/health/ready", "health"),
        ("/v2/repository/models/x/load", "repository"),
        ("/v2/repository/index", "server"),
        ("/", "server"),
    ],
)
def test_a_url_calls_a_model_or_a_part_of_the_service(url: str, called: str) -> None:
    assert called_by(url.encode()) == called


def test_every_path_of_the_service_with_a_model_in_it_calls_that_model() -> None:
    app = create_app(Catalog([]), Settings())
    for rule in app.url_map.iter_rules():
        if rule.arguments & {"name", "model", "format"} and not rule.rule.startswith(
            ("/assets/", "/runtimes/", "/report/", "/samples/", "/<name>")
        ):
            named = rule.rule.replace("<name>", MODEL) if "<name>" in rule.rule else rule.rule
            url = named.replace("<model>", "keras_cnn").replace("<format>", "onnx").replace("<path:name>", "file")
            assert called_by(url.encode()) in (MODEL, "keras_cnn-failed", "repository"), rule


@pytest.mark.parametrize(
    ("calls", "allowed"),
    [
        ("*", {MODEL, "torch_cnn-onnx", "metrics", "compare", "repository", "server"}),
        ("*-*", {MODEL, "torch_cnn-onnx", "server"}),
        ("keras_cnn-*", {MODEL, "server"}),
        ("torch_cnn-onnx,metrics", {"torch_cnn-onnx", "metrics", "server"}),
        ("compare", {"compare", "server"}),
        ("KERAS_CNN-ONNX", {"server"}),
    ],
)
def test_a_key_may_call_what_its_line_says(path: Path, calls: str, allowed: set[str]) -> None:
    header = b"Bearer " + add_key(path, "app", calls).encode()
    keys = keys_of(path)
    urls = {MODEL: INFER, "torch_cnn-onnx": "/predict/torch_cnn-onnx", "metrics": "/metrics", "compare": "/compare"}
    urls |= {"repository": "/v2/repository/models/x/unload", "server": "/v2"}
    for called, url in urls.items():
        with contextlib.nullcontext() if called in allowed else pytest.raises(CallRefused, match="may call"):
            keys.check(header, url.encode())


@pytest.mark.parametrize(("open_health", "open_metrics"), [(True, False), (False, True)])
def test_health_and_metrics_have_settings_of_their_own(path: Path, open_health: bool, open_metrics: bool) -> None:
    add_key(path, "app", "*")
    keys = keys_of(path, open_health=open_health, open_metrics=open_metrics)
    for url, is_open in ((b"/v2/health/live", open_health), (b"/metrics", open_metrics), (b"/", False)):
        with contextlib.nullcontext() if is_open else pytest.raises(KeyMissing):
            assert keys.check(b"", url) is None


@pytest.mark.parametrize(
    "header", [b"", b"Bearer", b"Bearer ", b"Bearer nothing", b"Token x", b"Basic !", b"Basic eDp5", b"\xff\xfe"]
)
def test_what_is_no_known_key_is_refused(path: Path, header: bytes) -> None:
    key = add_key(path, "app", "*")
    with pytest.raises(KeyMissing):
        keys_of(path).check(header, b"/v2")
    basic = base64.b64encode(f"anybody:{key}".encode())
    assert keys_of(path).check(b"Basic " + basic, b"/v2") is not None


def test_a_network_without_keys_is_warned_of(tmp_path: Path) -> None:
    assert [is_loopback(host) for host in ("127.0.0.1", "::1", "localhost", "127.9.9.9")] == [True] * 4
    assert [is_loopback(host) for host in ("0.0.0.0", "::", "192.0.2.1", "example.org")] == [False] * 4
    write_model(tmp_path / "artifacts" / "keras_cnn" / "onnx")
    for keys in ("", str(tmp_path / "keys")):
        add_key(tmp_path / "keys", "second" if keys else "first", "*")
        with started(
            tmp_path / "artifacts",
            tmp_path / f"output{bool(keys)}",
            HOST="0.0.0.0",
            SERVE_KEYS_FILE=keys,
            SERVE_OPEN_HEALTH="0",
        ) as service:
            assert ("warning: HOST=0.0.0.0 lets everybody" in service.log) == (not keys)
            assert ("SERVE_KEYS_FILE" in service.log) == (not keys)
            assert service.ask("GET", "/v2/health/ready")[0] == (401 if keys else 200)
            health = {**os.environ, "PORT": str(service.port)}
            assert (
                subprocess.run([sys.executable, "-m", "serve.health"], cwd=ROOT, env=health, check=False).returncode
                == 0
            )


# The service


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("keys")
    write_model(folder / "artifacts" / "keras_cnn" / "onnx")
    return folder


@pytest.fixture(scope="module")
def all_calls(folder: Path) -> str:
    return add_key(folder / "keys", "all", "*")


@pytest.fixture(scope="module")
def metrics_alone(folder: Path) -> str:
    return add_key(folder / "keys", "grafana", "metrics")


@pytest.fixture(scope="module")
def service(folder: Path, all_calls: str, metrics_alone: str) -> Iterator[Service]:
    settings = {"SERVE_KEYS_FILE": str(folder / "keys"), "SERVE_CORS": "https://app.example.org"}
    with started(folder / "artifacts", folder / "output", **settings) as running:
        yield running


POSTS = {"tensors": (INFER, BODY), "a picture": (f"/predict/{MODEL}", b"x"), "all models": ("/compare", b"x")}


@pytest.mark.parametrize("case", POSTS)
def test_a_stranger_gets_401_and_a_key_for_something_else_403(
    service: Service, all_calls: str, metrics_alone: str, case: str
) -> None:
    url, body = POSTS[case]
    code, headers, answer = service.ask("POST", url, body)
    assert code == 401 and "no key" in json.loads(answer)["error"]
    assert headers["WWW-Authenticate"].startswith("Bearer ") and "Basic " in headers["WWW-Authenticate"]
    code, _, answer = service.ask("POST", url, body, bearer("x" * 43))
    assert code == 401 and "known here" in json.loads(answer)["error"]
    code, headers, answer = service.ask("POST", url, body, bearer(metrics_alone))
    assert code == 403 and "'grafana' may call metrics" in json.loads(answer)["error"]
    assert "WWW-Authenticate" not in headers
    assert service.ask("POST", url, body, bearer(all_calls))[0] == (200 if case == "tensors" else 415)


def test_each_key_gets_what_it_may_call_and_health_is_open(
    service: Service, all_calls: str, metrics_alone: str
) -> None:
    assert service.ask("GET", "/v2/health/ready")[0] == 200
    assert service.ask("GET", "/metrics")[0] == 401
    assert service.ask("GET", "/metrics", None, bearer(metrics_alone))[0] == 200
    assert service.ask("GET", "/v2", None, bearer(metrics_alone))[0] == 200
    assert service.ask("GET", f"/v2/models/{MODEL}", None, bearer(metrics_alone))[0] == 403
    basic = {"Authorization": "Basic " + base64.b64encode(f"me:{all_calls}".encode()).decode()}
    assert service.ask("GET", f"/v2/models/{MODEL}", None, basic)[0] == 200


def test_a_page_of_a_named_origin_may_send_a_key(service: Service, all_calls: str) -> None:
    origin = {"Origin": "https://app.example.org"}
    code, headers, _ = service.ask("OPTIONS", INFER, None, {**origin, "Access-Control-Request-Method": "POST"})
    assert code == 200 and "Authorization" in headers["Access-Control-Allow-Headers"]
    code, headers, _ = service.ask("POST", INFER, BODY, origin)
    assert code == 401 and headers["Access-Control-Allow-Origin"] == origin["Origin"]
    assert service.ask("POST", INFER, BODY, {**origin, **bearer(all_calls)})[0] == 200


def test_a_key_counts_as_soon_as_its_line_is_there(service: Service, folder: Path) -> None:
    key = add_key(folder / "keys", "later", "*")
    wait_until(lambda: service.ask("POST", INFER, BODY, bearer(key))[0] == 200, 10)
    with contextlib.closing(service.connect()) as kept:  # it sends the same head again, which is not read anew
        assert [ask_on(kept, "POST", INFER, BODY, bearer(key))[0] for _ in range(2)] == [200, 200]
        lines = (folder / "keys").read_text().splitlines(keepends=True)
        (folder / "keys").write_text("".join(line for line in lines if not line.startswith("later ")))
        wait_until(lambda: ask_on(kept, "POST", INFER, BODY, bearer(key))[0] == 401, 10)
    assert service.ask("POST", INFER, BODY, bearer(key))[0] == 401


def test_a_gateway_sends_its_own_key_and_asks_for_its_callers(
    service: Service, folder: Path, all_calls: str, metrics_alone: str, tmp_path: Path
) -> None:
    callers = tmp_path / "keys"
    key = add_key(callers, "caller", "*-*")
    remote = {"SERVE_REMOTES": f"onnx={service.url}", "SERVE_KEYS_FILE": str(callers)}
    with started(folder / "artifacts", tmp_path / "right", SERVE_REMOTE_KEY=all_calls, **remote) as gateway:
        wait_until(lambda: gateway.ask("GET", "/v2/health/ready")[0] == 200)
        for _ in range(3):  # the first is read here, later ones are relayed
            code, _, answer = gateway.ask("POST", INFER, BODY, bearer(key))
            assert code == 200
            np.testing.assert_allclose(sum(json.loads(answer)["outputs"][0]["data"]), 1, atol=1e-5)
        assert gateway.ask("POST", INFER, BODY, bearer(all_calls))[0] == 401
    with started(folder / "artifacts", tmp_path / "wrong", SERVE_REMOTE_KEY=metrics_alone, **remote) as gateway:
        code, _, answer = gateway.ask("POST", INFER, BODY, bearer(key))
        assert code == 503 and "status 403" in json.loads(answer)["error"]


def test_the_flask_application_alone_asks_for_keys(folder: Path, all_calls: str, metrics_alone: str) -> None:
    client = create_app(Catalog([]), Settings(artifacts=folder, keys_file=folder / "keys")).test_client()
    answer = client.get("/metrics")
    assert answer.status_code == 401 and answer.headers["WWW-Authenticate"].startswith("Bearer ")
    assert client.get("/metrics", headers=bearer(metrics_alone)).status_code == 200
    assert client.get("/compare", headers=bearer(metrics_alone)).status_code == 403
    assert client.get("/v2/health/live").status_code == 200


def test_a_key_of_a_gateway_is_checked() -> None:
    from serve.settings import _key

    assert (_key("abc_-"), _key("")) == ("abc_-", None)
    with pytest.raises(SettingError, match="SERVE_REMOTE_KEY cannot be used"):
        _key("a\r\nX: y")
