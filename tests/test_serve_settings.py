"""A setting of the service that does not exist is named, with the nearest that does."""

import subprocess
import sys

import pytest

from contract.code import ROOT
from contract.image import MAX_PIXELS
from serve.settings import SettingError, Settings


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("SERVE_WORKER", "SERVE_WORKER is not a setting of the service. Did you mean SERVE_WORKERS?"),
        ("SERVE_MAX_BYTE", "SERVE_MAX_BYTE is not a setting of the service. Did you mean SERVE_MAX_BYTES?"),
        ("SERVE_XYZZY_QUUX", "SERVE_XYZZY_QUUX is not a setting of the service. The settings are SERVE_ACCESS_LOG, "),
    ],
)
def test_an_unknown_setting_is_refused(name: str, answer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "2")
    with pytest.raises(SettingError) as caught:
        Settings.from_environment()
    assert str(caught.value).startswith(answer)


def test_a_setting_that_exists_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERVE_BATCH_DELAY_US", "100")
    monkeypatch.setenv("SERVE_STATE", "state")
    assert Settings.from_environment().batch_delay == 100


def test_what_kubernetes_says_of_other_services_is_not_a_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PORT", "PORT_8000_TCP", "PORT_8000_TCP_ADDR", "SERVICE_HOST", "SERVICE_PORT", "SERVICE_PORT_HTTP"):
        monkeypatch.setenv(f"SERVE_ONNX_{name}", "10.0.0.1")
    Settings.from_environment()


def test_ready_is_all_or_any(monkeypatch: pytest.MonkeyPatch) -> None:
    for word in ("all", "any"):
        monkeypatch.setenv("SERVE_READY", word)
        assert Settings.from_environment().ready == word
    monkeypatch.setenv("SERVE_READY", "some")
    with pytest.raises(SettingError, match="SERVE_READY=some cannot be used: expected all or any"):
        Settings.from_environment()


def test_isolation_is_for_brought_models_for_all_or_for_none(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Settings.from_environment().isolation == "1"
    for word in ("0", "1", "all"):
        monkeypatch.setenv("SERVE_ISOLATION", word)
        assert Settings.from_environment().isolation == word
    monkeypatch.setenv("SERVE_ISOLATION", "2")
    with pytest.raises(SettingError, match="SERVE_ISOLATION=2 cannot be used: expected 0, 1 or all"):
        Settings.from_environment()


def test_the_first_process_starts_without_numpy() -> None:
    """It only checks the settings and becomes gunicorn, whose workers import the rest."""
    heavy = "import serve.__main__, sys; print([name for name in ('numpy', 'PIL', 'flask') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", heavy], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    assert Settings().max_pixels == MAX_PIXELS  # so it is written twice
