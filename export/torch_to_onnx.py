"""torch -> onnx. Load the result with `onnxruntime.InferenceSession("model.onnx")`."""

from collections.abc import Sequence
from pathlib import Path

import torch

from contract.manifest import Manifest
from export.onnx_graph import finish_onnx

CONVERTERS = ("torch", "onnxscript", "onnx")


def export(parent: Path, manifest: Manifest, target: Path) -> Sequence[Path]:
    """Write `model.onnx`, with a free batch. The weights are inside, since a browser reads one file."""
    program = torch.onnx.export(
        torch.export.load(parent / "model.pt2"),
        (),
        dynamo=True,
        input_names=[spec.name for spec in manifest.inputs],
        output_names=[spec.name for spec in manifest.outputs],
        verbose=False,
    )
    assert program is not None  # it is, with dynamo=True
    path = target / "model.onnx"
    program.save(path, external_data=False)
    finish_onnx(path, manifest)
    return [path]
