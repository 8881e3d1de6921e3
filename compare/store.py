"""Stored measurements, one file each, so that an interrupted run can continue.

Each file also records what the measurement depends on: the artifact's bytes, the code, the versions, the machine and
the settings. If any of these has changed, the measurement is repeated.
"""

import contextlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from contract.manifest import write_json

Record = Mapping[str, Any]


class Store:
    """A folder with a JSON file for each measurement, and the files that these name."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def get(self, name: str, about: Record) -> Record | None:
        """The measurement of this name, if it was made under the same conditions."""
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            stored = json.loads((self.folder / f"{name}.json").read_bytes())
            if stored["about"] == about:
                measured: Record = stored["measured"]
                return measured
        return None

    def put(self, name: str, about: Record, measured: Record) -> None:
        write_json(self.folder / f"{name}.json", {"about": about, "measured": measured})
