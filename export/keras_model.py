"""How every stage loads a Keras model: not compiled, and in safe mode unless the user trusts the file."""

from collections import Counter
from functools import lru_cache
from pathlib import Path
from typing import Any

import keras

from contract.manifest import Manifest

MOST_KEPT = 100_000_000
"""Bytes of a file whose model stays in memory between two exports: what converts next needs the room of larger ones."""


def load_keras(folder: Path, manifest: Manifest) -> Any:
    """The keras.Model of the artifact in `folder`. Raises ArtifactCorrupt where it has no Keras file, or several."""
    return load_keras_file(folder / manifest.file(".h5", ".keras"), manifest.is_trusted)


def load_to_export(folder: Path, manifest: Manifest) -> Any:
    """The same, for an exporter: the next one of this process gets the same model, where it takes little memory.

    Building a deep network's layers takes as long as tracing them.
    """
    file = manifest.file(".h5", ".keras")
    if (folder / file).stat().st_size > MOST_KEPT:
        return load_keras(folder, manifest)
    return _loaded_once(folder / file, manifest.files[file], manifest.is_trusted)


@lru_cache(1)
def _loaded_once(file: Path, sha256: str, is_trusted: bool) -> Any:
    """`sha256` is what the manifest says: the file may be written anew."""
    return load_keras_file(file, is_trusted)


def load_keras_file(file: Path, is_trusted: bool) -> Any:
    """The keras.Model in an `.h5` or `.keras` file. Raises whatever Keras raises on a file that it cannot read.

    In safe mode Keras refuses a file that holds code of its own, such as a Lambda layer.
    """
    return keras.models.load_model(file, compile=False, safe_mode=not is_trusted)


def computed_in(model: Any) -> dict[str, int]:
    """Dtype -> how many of the layers with weights compute in it; empty where all compute in float32.

    Under a mixed policy it is not the dtype of the weights: these are float32 and are rounded at each call.
    """
    layers = (layer for layer in model._flatten_layers() if layer.weights and not layer._layers)
    dtypes = Counter(str(layer.compute_dtype) for layer in layers)
    return {} if set(dtypes) <= {"float32"} else dict(dtypes)
