"""onnx -> openvino. Load the result with `openvino.Core().compile_model("model.xml", "CPU")`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import openvino

from contract.errors import ExportError
from contract.manifest import Manifest

CONVERTERS = ("openvino",)


def export(parent: Path, manifest: Manifest, target: Path) -> Sequence[Path]:
    """Write the graph, `model.xml`, and its weights in float32, `model.bin`. Raises ExportError."""
    return save(openvino.convert_model(parent / "model.onnx"), manifest, target)


def unsimplified(parent: Path, manifest: Manifest, target: Path) -> Sequence[Path]:
    """Write the same, with every operator as it was read: OpenVINO simplifies the graph only where it runs it."""
    return save(openvino.Core().read_model(parent / "model.onnx"), manifest, target)


def save(model: Any, manifest: Manifest, target: Path) -> Sequence[Path]:
    """Write a model of OpenVINO. Raises ExportError where it lost a tensor's name."""
    for ports, specs in ((model.inputs, manifest.inputs), (model.outputs, manifest.outputs)):
        names = {name for port in ports for name in port.get_names()}
        if lost := [spec.name for spec in specs if spec.name not in names]:
            raise ExportError(f"{manifest.name} -> openvino: OpenVINO's reader lost the tensors {', '.join(lost)}.")
    path = target / "model.xml"
    openvino.save_model(model, path, compress_to_fp16=False)  # by default weights become float16
    return [path, path.with_suffix(".bin")]
