"""keras -> onnx. Load the result with `onnxruntime.InferenceSession("model.onnx")`."""

from collections.abc import Sequence
from pathlib import Path

import keras
import numpy as np

from contract.manifest import Manifest
from export.onnx_graph import finish_onnx

CONVERTERS = ("keras", "tf2onnx", "onnx")


def export(parent: Path, manifest: Manifest, target: Path) -> Sequence[Path]:
    """Write `model.onnx`, with the source's names and a free batch."""
    model = keras.models.load_model(parent / "model.h5", compile=False, safe_mode=True)
    # A Sequential that was read from a file can be exported only once it was called.
    model(np.zeros([size or 1 for size in manifest.inputs[0].shape], np.float32))
    path = target / "model.onnx"
    model.export(path, format="onnx", verbose=False)
    finish_onnx(path, manifest)
    return [path]
