"""Measurements as they come, a file each, so that an interrupted run goes on where it was.

What a measurement depends on is stored with it: the artifact's bytes, the code, the versions, the machine, the
settings. Where any of these is another now, the measurement is made anew.
"""

import contextlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from contract.manifest import write_json

Record = Mapping[str, Any]


class Store:
    """A folder with a JSON file for each measurement, and whatever files these speak of."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def get(self, name: str, about: Record) -> Record | None:
        """The measurement of this name, if it was made of the same things."""
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            stored = json.loads((self.folder / f"{name}.json").read_bytes())
            if stored["about"] == about:
                found: Record = stored["measured"]
                return found
        return None

    def put(self, name: str, about: Record, measured: Record) -> None:
        write_json(self.folder / f"{name}.json", {"about": about, "measured": measured})
