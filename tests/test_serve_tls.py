"""TLS: the certificate that `make certificate` makes, in each worker, replaced without a gap."""

import contextlib
import os
import shutil
import socket
import ssl
import subprocess
import sys
from pathlib import Path

import pytest

from contract.code import ROOT
from serve.settings import SettingError, Settings
from serve.tls import check_certificate
from tests.serving import Service, started, wait_until
from tests.serving import settings as environment
from tests.test_docs import write_model

REQUEST = b"GET /v2/health/live HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"


def make_certificate(folder: Path) -> Path:
    """Run the project's command in a folder; the folder of what it made."""
    folder.mkdir(exist_ok=True)
    shutil.copy(ROOT / "bootstrap", folder)
    (folder / "docker").mkdir(exist_ok=True)
    shutil.copy(ROOT / "docker" / "torch.sh", folder / "docker")
    shutil.copy(ROOT / "pyproject.toml", folder)
    done = subprocess.run([folder / "bootstrap", "certificate"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder / "tls"


def serial(service: Service, authority: Path) -> str:
    """The number of the certificate that the service shows, once it has answered a request under it."""
    context = ssl.create_default_context(cafile=str(authority))
    plain = socket.create_connection(("127.0.0.1", service.port), timeout=20)
    with context.wrap_socket(plain, server_hostname="localhost") as connection:
        connection.sendall(REQUEST)
        assert connection.recv(65536).startswith(b"HTTP/1.1 200 OK")
        shown = connection.getpeercert()
    assert shown is not None
    return str(shown["serialNumber"])


@pytest.mark.parametrize("workers", [1, 2])
def test_every_worker_speaks_tls_and_takes_a_new_certificate(tmp_path: Path, workers: int) -> None:
    tls = make_certificate(tmp_path / "made")
    write_model(tmp_path / "artifacts" / "keras_cnn" / "onnx")
    settings = {"SERVE_TLS_CERT": str(tls / "cert.pem"), "SERVE_TLS_KEY": str(tls / "key.pem")}
    with started(tmp_path / "artifacts", tmp_path / "output", SERVE_WORKERS=str(workers), **settings) as service:
        wait_until(lambda: len(service.workers()) == workers)
        assert f"https://127.0.0.1:{service.port}/" in service.printed
        shown = {serial(service, tls / "authority.pem") for _ in range(12)}
        assert len(shown) == 1
        (tls / "cert.pem").write_text("not a certificate")
        wait_until(lambda: service.log.count("What was read before goes on") == workers, 10)
        assert {serial(service, tls / "authority.pem") for _ in range(12)} == shown
        make_certificate(tmp_path / "made")  # the same authority signs it
        wait_until(lambda: not shown & {serial(service, tls / "authority.pem") for _ in range(12)}, 10)
        health = {**os.environ, "PORT": str(service.port), **settings}
        assert subprocess.run([sys.executable, "-m", "serve.health"], cwd=ROOT, env=health, check=False).returncode == 0
        with socket.create_connection(("127.0.0.1", service.port), timeout=20) as plain:
            plain.sendall(REQUEST)
            with contextlib.suppress(ConnectionResetError):
                assert not plain.recv(65536).startswith(b"HTTP")


def test_a_certificate_that_cannot_be_used_ends_the_start(tmp_path: Path) -> None:
    one, other = make_certificate(tmp_path / "one"), make_certificate(tmp_path / "other")
    with pytest.raises(SettingError, match="set together"):
        check_certificate(Settings(tls_cert=one / "cert.pem"))
    for certificate, key in (
        (one / "cert.pem", other / "key.pem"),
        (one / "gone", one / "key.pem"),
        (tmp_path, one / "key.pem"),
    ):
        with pytest.raises(SettingError, match="cannot be used"):
            check_certificate(Settings(tls_cert=certificate, tls_key=key))
    check_certificate(Settings(tls_cert=one / "cert.pem", tls_key=one / "key.pem"))
    write_model(tmp_path / "artifacts" / "keras_cnn" / "onnx")
    variables = environment(tmp_path / "artifacts", SERVE_TLS_CERT=str(one / "cert.pem"))
    done = subprocess.run(
        [sys.executable, "-m", "serve"], cwd=ROOT, env=variables, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1 and done.stderr.splitlines() == [f"error: {SET_TOGETHER}"]


SET_TOGETHER = "SERVE_TLS_CERT and SERVE_TLS_KEY are set together, or not at all."
