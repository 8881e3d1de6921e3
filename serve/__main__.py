"""python -m serve: check the settings and the artifacts, then become gunicorn."""

import importlib.util
import os
import sys
import tempfile
from pathlib import Path

from contract.errors import ArtifactMissing, RosettaError
from serve.artifacts import find_artifacts
from serve.keys import Keys
from serve.listeners import bind
from serve.open_files import allow_many_files
from serve.phone import is_loopback
from serve.settings import SettingError, Settings
from serve.tls import check_certificate


def main() -> None:
    """Replace this process by gunicorn, or print in one line what is wrong with the settings."""
    try:
        settings = Settings.from_environment()
        if not find_artifacts(settings.artifacts, settings.formats):
            formats = f" of {', '.join(settings.formats)}" if settings.formats else ""
            missing = f"There is no artifact{formats} in {settings.artifacts}."
            if not find_artifacts(settings.artifacts):
                raise ArtifactMissing(f"{missing} Make them with `make artifacts`.")
            # A runtime's image also starts where a user's own model has none of its formats.
            print(f"{missing} Nothing is served.", flush=True)
        bind(settings.host, settings.port).close()
        check_grpc(settings)
        check_state(settings.state)
        check_certificate(settings)
        warn_of_strangers(settings, Keys(settings))
    except RosettaError as error:
        sys.exit(f"error: {error}")
    allow_many_files()
    config = Path(__file__).with_name("gunicorn_conf.py")
    os.execv(sys.executable, [sys.executable, "-m", "gunicorn", "--config", str(config)])


def check_grpc(settings: Settings) -> None:
    """Raise SettingError where gRPC is to be spoken and cannot be."""
    if settings.grpc_port:
        if importlib.util.find_spec("hpack") is None or importlib.util.find_spec("google.protobuf") is None:
            raise SettingError("GRPC_PORT needs the packages hpack and protobuf, which are not installed here.")
        bind(settings.host, settings.grpc_port, "GRPC_PORT").close()


def warn_of_strangers(settings: Settings, keys: Keys) -> None:
    """Say how to keep strangers out, where the service listens on more than this machine and needs no keys."""
    if not (keys.are_needed or is_loopback(settings.host)):
        print(
            f"warning: HOST={settings.host} lets everybody on the network call the service: set SERVE_KEYS_FILE. "
            "docs/serving.md says how, under On a network.",
            file=sys.stderr,
            flush=True,
        )


def check_state(folder: Path | None) -> None:
    """Raise SettingError unless files can be written in the folder, which is made if it is missing."""
    if folder is None:
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise SettingError(
            f"SERVE_STATE={folder} cannot be used: {error.strerror}. Name a folder that can be written."
        ) from error


if __name__ == "__main__":
    main()
