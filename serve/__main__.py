"""python -m serve: check the settings and the artifacts, then become gunicorn."""

import os
import sys
from pathlib import Path

from contract.errors import ArtifactMissing, RosettaError
from contract.manifest import MANIFEST
from serve.settings import Settings


def main() -> None:
    """Replace this process by gunicorn; what is wrong with the settings is one line."""
    try:
        settings = Settings.from_environment()
        if not any(settings.artifacts.glob(f"*/*/{MANIFEST}")):
            raise ArtifactMissing(f"There is no artifact in {settings.artifacts}. Make them with `make artifacts`.")
    except RosettaError as error:
        sys.exit(f"error: {error}")
    config = Path(__file__).with_name("gunicorn.conf.py")
    os.execv(sys.executable, [sys.executable, "-m", "gunicorn", "--config", str(config)])


if __name__ == "__main__":
    main()
