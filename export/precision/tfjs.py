"""TF.js in reduced precision: its weights alone, for a smaller download. TF.js loads them as float32."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from contract.calibration import Calibration
from contract.errors import ExportError
from contract.manifest import Manifest
from export.savedmodel_to_tfjs import load_converter

CONVERTERS = ("tensorflowjs",)


def half(parent: Path, manifest: Manifest, target: Path, rows: Calibration | None) -> Mapping[str, Any]:
    """Weights in float16."""
    return _written(parent, manifest, target, "float16")


def quarter(parent: Path, manifest: Manifest, target: Path, rows: Calibration | None) -> Mapping[str, Any]:
    """Weights in uint8, with a scale and a least value for each tensor."""
    return _written(parent, manifest, target, "uint8")


def _written(parent: Path, manifest: Manifest, target: Path, dtype: str) -> Mapping[str, Any]:
    """The parent's graph with its weights of float32 in this dtype; whole numbers, such as shapes, stay as they are.

    Raises ExportError where the parent's weights are quantised already.
    """
    load_converter()  # tensorflowjs can be imported only with its empty modules
    from tensorflowjs import read_weights, write_weights

    model = json.loads((parent / "model.json").read_bytes())
    if any("quantization" in spec for group in model["weightsManifest"] for spec in group["weights"]):
        raise ExportError(f"{manifest.name} is quantised already: bring the float32 model.")
    groups = read_weights.read_weights(model["weightsManifest"], str(parent))
    names = [entry["name"] for group in groups for entry in group if entry["data"].dtype == np.float32]
    model["weightsManifest"] = write_weights.write_weights(
        groups, str(target), write_manifest=False, quantization_dtype_map={dtype: names}
    )
    (target / "model.json").write_text(json.dumps(model), encoding="utf-8")
    for file in set(manifest.files) - {"model.json"} - _weight_files(parent):
        (target / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(parent / file, target / file)
    return {}


def _weight_files(folder: Path) -> set[str]:
    model = json.loads((folder / "model.json").read_bytes())
    return {path for group in model["weightsManifest"] for path in group["paths"]}
