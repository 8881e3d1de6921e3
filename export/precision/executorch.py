"""ExecuTorch in reduced precision, by PyTorch's own quantiser. It starts from the PyTorch program that the parent was
made from: of a finished program XNNPACK's parts are not taken apart again."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (
    XNNPACKQuantizer,
    get_symmetric_quantization_config,
)

from contract.calibration import Calibration
from contract.errors import ExportError, one_line
from contract.manifest import Manifest, read_manifest, verify_files
from export.precision.pt2e import exported, float_program, quantised_by
from export.torch_to_executorch import write

CONVERTERS = ("executorch", "torch", "torchao")

OUTSIDE = "Missing out variants"
"""What ExecuTorch says of operators of a program that it has no kernels for."""


def static(parent: Path, manifest: Manifest, target: Path, rows: Calibration | None) -> Mapping[str, Any]:
    """Quantise weights by channel and activations to int8; what XNNPACK has no int8 kernel for stays in float32."""
    assert rows is not None  # make_variant gives them where the precision is calibrated
    program = float_program(_source(parent, manifest), manifest)
    quantiser = XNNPACKQuantizer().set_global(get_symmetric_quantization_config(is_per_channel=True))
    quantised = quantised_by(quantiser, program.module(check_guards=False), manifest, rows)
    try:
        return write(lambda: exported(quantised, program, manifest, rows), manifest, target / "model.pte")
    except RuntimeError as error:
        if OUTSIDE not in str(error):
            raise
        raise ExportError(
            f"XNNPACK computes only a part of what was quantised of {manifest.name}, and ExecuTorch has no kernels for "
            f"the rest: {one_line(error)}. Use another format of this model in int8."
        ) from error


def _source(parent: Path, manifest: Manifest) -> Path:
    """The folder of the program that the parent was made from. Raises ExportError."""
    if manifest.parent != "torch":
        raise ExportError(
            "ExecuTorch is quantised from the PyTorch program that it was converted from, and this file was brought as "
            "it is. Bring the model in the format that it was trained in."
        )
    source = parent.with_name(manifest.parent)
    verify_files(source, read_manifest(source))
    return source
