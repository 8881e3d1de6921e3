"""onnx -> openvino, by TensorFlow's operators: for graphs with operators that OpenVINO does not read from ONNX."""

import tempfile
from collections.abc import Sequence
from pathlib import Path

import openvino

from contract.manifest import Manifest
from export import onnx_to_savedmodel
from export.onnx_to_openvino import save

CONVERTERS = ("openvino", *onnx_to_savedmodel.CONVERTERS)


def export(parent: Path, manifest: Manifest, target: Path) -> Sequence[Path]:
    """Write `model.xml` and `model.bin` from the graph as TensorFlow has it. Raises ExportError."""
    with tempfile.TemporaryDirectory() as scratch:
        onnx_to_savedmodel.by_operators(parent, manifest, Path(scratch))
        return save(openvino.convert_model(scratch), manifest, target)
