"""torch -> onnx. Load the result with `onnxruntime.InferenceSession("model.onnx")`."""

import re
from collections.abc import Sequence
from pathlib import Path

import torch
from torch.onnx.errors import OnnxExporterError

from contract.errors import ExportError
from contract.manifest import Manifest
from export.onnx_graph import OPSET, finish_onnx
from export.torch_operators import TRANSLATIONS

CONVERTERS = ("torch", "onnxscript", "onnx")


def export(parent: Path, manifest: Manifest, target: Path) -> Sequence[Path]:
    """Write `model.onnx`, with a free batch. The weights are inside it, since a browser loads one file."""
    try:
        program = torch.onnx.export(
            torch.export.load(parent / "model.pt2"),
            (),
            dynamo=True,
            input_names=[spec.name for spec in manifest.inputs],
            output_names=[spec.name for spec in manifest.outputs],
            verbose=False,
            custom_translation_table=TRANSLATIONS,
        )
    except OnnxExporterError as error:
        raise ExportError(f"{manifest.name} -> onnx failed in PyTorch's exporter: {_summary(error)}") from error
    assert program is not None  # with dynamo=True it is a program
    path = target / "model.onnx"
    program.save(path, external_data=False)
    finish_onnx(path, manifest)
    return [path]


def traced(parent: Path, manifest: Manifest, target: Path) -> Sequence[Path]:
    """Write the same by tracing one call, with a fixed batch: some programs can only be traced."""
    network = torch.export.load(parent / "model.pt2").module()
    network.train = lambda mode=True: network  # type: ignore[method-assign] # a program has no training mode to switch
    path = target / "model.onnx"
    example = tuple(
        torch.zeros(spec.sizes_at(manifest.batch or 1), dtype=getattr(torch, spec.dtype)) for spec in manifest.inputs
    )
    with torch.no_grad():
        torch.onnx.export(
            network,
            example,
            str(path),
            dynamo=False,
            opset_version=OPSET,
            input_names=[spec.name for spec in manifest.inputs],
            output_names=[spec.name for spec in manifest.outputs],
        )
    finish_onnx(path, manifest)
    return [path]


def _summary(error: Exception) -> str:
    """The error, without the exporter's advice to its own developers, and without colours."""
    message = re.sub(r"\x1b\[[0-9;]*m", "", str(error))
    _, heading, summary = message.partition("## Exception summary")
    return " ".join((summary if heading else message).partition("While executing")[0].split())
