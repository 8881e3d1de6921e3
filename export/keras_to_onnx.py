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
    model(np.zeros((1, *manifest.inputs[0].shape[1:]), np.float32))  # a Sequential read from a file exports once it was called
    path = target / "model.onnx"
    model.export(path, format="onnx", verbose=False)
    finish_onnx(path, manifest)
    return [path]
