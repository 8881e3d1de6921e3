"""How a Keras source artifact is read, wherever it is read."""

from pathlib import Path
from typing import Any

import keras

from contract.manifest import Manifest


def read_keras(folder: Path, manifest: Manifest) -> Any:
    """The model in `folder`: `.h5` or `.keras`. What it brings of its own code runs only where somebody said so."""
    (file,) = (name for name in manifest.files if name.endswith((".h5", ".keras")))
    trusted = bool(manifest.made_with.get("trusted"))
    return keras.models.load_model(folder / file, compile=False, safe_mode=not trusted)
