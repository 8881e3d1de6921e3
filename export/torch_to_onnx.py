"""torch -> onnx. Load the result with `onnxruntime.InferenceSession("model.onnx")`."""

import re
from collections.abc import Sequence
from pathlib import Path

import torch
from torch.onnx.errors import OnnxExporterError

from contract.errors import ExportError
from contract.manifest import Manifest
from export.onnx_graph import OPSET, finish_onnx

CONVERTERS = ("torch", "onnxscript", "onnx")


def export(parent: Path, manifest: Manifest, target: Path) -> Sequence[Path]:
    """Write `model.onnx`, with a free batch. The weights are inside, since a browser reads one file."""
    try:
        program = torch.onnx.export(
            torch.export.load(parent / "model.pt2"),
            (),
            dynamo=True,
            input_names=[spec.name for spec in manifest.inputs],
            output_names=[spec.name for spec in manifest.outputs],
            verbose=False,
        )
    except OnnxExporterError as error:
        raise ExportError(f"{manifest.name} -> onnx failed in PyTorch's exporter: {_summary(error)}") from error
    assert program is not None  # it is, with dynamo=True
    path = target / "model.onnx"
    program.save(path, external_data=False)
    finish_onnx(path, manifest)
    return [path]


def traced(parent: Path, manifest: Manifest, target: Path) -> Sequence[Path]:
    """The same from a call that is traced, with one fixed batch: what cannot be decomposed may be traced."""
    network = torch.export.load(parent / "model.pt2").module()
    network.train = lambda mode=True: network  # type: ignore[method-assign] # a program cannot be switched, and is as it was
    path = target / "model.onnx"
    example = tuple(
        torch.zeros([size or 1 for size in (manifest.batch, *spec.shape[1:])], dtype=getattr(torch, spec.dtype))
        for spec in manifest.inputs
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
    """What went wrong, without what the exporter advises its own developers, and without its colours."""
    said = re.sub(r"\x1b\[[0-9;]*m", "", str(error))
    _, found, summary = said.partition("## Exception summary")
    return " ".join((summary if found else said).partition("While executing")[0].split())
