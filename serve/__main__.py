"""python -m serve: check the settings and the artifacts, then become gunicorn."""

import os
import sys
import tempfile
from pathlib import Path

from contract.errors import ArtifactMissing, RosettaError
from serve.catalog import find_artifacts
from serve.listeners import bind
from serve.settings import SettingError, Settings


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
        check_state(settings.state)
    except RosettaError as error:
        sys.exit(f"error: {error}")
    config = Path(__file__).with_name("gunicorn_conf.py")
    os.execv(sys.executable, [sys.executable, "-m", "gunicorn", "--config", str(config)])


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
