"""The QR code for phones: where it is printed, what a camera reads in it, and what is said where it cannot be used."""

import socket
import subprocess
import sys
from collections.abc import Callable

import cv2
import numpy as np
import pytest

from contract.code import ROOT
from serve.banner import banner
from serve.catalog import Catalog
from serve.phone import QUIET, for_phones, network_address, qr_code
from serve.settings import Settings

URL = "https://192.0.2.7:8443/"
MODULE = 8
"""Pixels."""

INKS = {" ": (0, 0), "▄": (0, 255), "▀": (255, 0), "█": (255, 255)}
"""What a terminal draws for a character in white on black: the upper half, the lower half."""


def read(printed: str) -> str:
    """What a camera reads in the code among these lines."""
    lines = [line.strip("\n")[2:] for line in printed.splitlines() if set(line[2:]) & set("▄▀█")]
    halves = [[INKS[letter][half] for letter in line] for line in lines for half in (0, 1)]
    picture = np.kron(np.array(halves, np.uint8), np.ones((MODULE, MODULE), np.uint8)).astype(np.uint8)
    text: str = cv2.QRCodeDetector().detectAndDecode(picture)[0]
    return text


@pytest.fixture(scope="module")
def certified(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Settings]:
    """`certified(host)`: settings with a certificate for 192.0.2.7 and no other address."""
    folder = tmp_path_factory.mktemp("tls")
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", "/CN=x",
         "-addext", "subjectAltName=IP:192.0.2.7", "-keyout", "key.pem", "-out", "cert.pem"],
        cwd=folder, check=True, capture_output=True, timeout=60,
    )  # fmt: skip
    return lambda host: Settings(
        artifacts=folder, host=host, port=8443, tls_cert=folder / "cert.pem", tls_key=folder / "key.pem"
    )


@pytest.mark.parametrize("url", ["http://192.0.2.7:1/", URL, f"https://{'a' * 60}.local:65535/"])
def test_a_camera_reads_the_address(url: str) -> None:
    code = qr_code(url, has_colours=False, encoding="utf-8")
    assert read(code) == url
    light = code.splitlines()[: QUIET // 2]
    assert all(set(line[2:]) == {"█"} for line in light), "the margin is as light as the code's paper"


def test_it_is_in_colours_on_a_terminal_and_left_out_where_it_cannot_be_written() -> None:
    plain = qr_code(URL, has_colours=False, encoding="utf-8")
    coloured = qr_code(URL, has_colours=True, encoding="utf-8")
    assert coloured.replace("\033[97;40m", "").replace("\033[0m", "") == plain != coloured
    assert qr_code(URL, has_colours=True, encoding="ascii") == ""


def test_the_banner_has_it_where_phones_can_call(certified: Callable[..., Settings]) -> None:
    said = banner(Catalog([]), certified("192.0.2.7"))
    assert read(said) == URL
    assert "firewall has to let\n  TCP port 8443 in" in said and "ufw allow 8443/tcp" in said
    assert "make certificate" not in said
    for host in ("127.0.0.1", "::1", "localhost"):
        assert for_phones(certified(host)) == ""
    assert for_phones(Settings(host="192.0.2.7")) == "", "without TLS a phone's browser gives no camera and no threads"


def test_a_certificate_of_another_address_is_said(certified: Callable[..., Settings]) -> None:
    said = for_phones(certified("192.0.2.8"))
    assert read(said) == "https://192.0.2.8:8443/"
    assert "cert.pem is not for 192.0.2.8" in said and "make certificate" in said


def test_the_address_of_a_wildcard_is_this_machine_s(
    certified: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    if (address := network_address("0.0.0.0")) is not None:
        with socket.socket() as own:
            own.bind((address, 0))  # or OSError

    def unreachable(*_: object) -> None:
        raise OSError(101, "Network is unreachable")

    monkeypatch.setattr(socket.socket, "connect", unreachable)
    assert "no address in a network" in for_phones(certified("0.0.0.0"))


def test_the_stack_s_command_prints_it() -> None:
    command = [sys.executable, "-m", "serve.phone", URL]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, check=True, timeout=60, env={"PYTHONUTF8": "1"})
    assert read(done.stdout.decode()) == URL
