"""PyTorch in int8, by its own quantiser (PT2E) with the rules of x86: the runtime makes kernels of oneDNN of it."""

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torchao.quantization.pt2e.quantizer.x86_inductor_quantizer import (
    X86InductorQuantizer,
    get_default_x86_inductor_quantization_config,
)

from contract.calibration import Calibration
from contract.manifest import Manifest
from contract.torch_program import without_paths
from export.precision.pt2e import exported, float_program, quantised_by

CONVERTERS = ("torch", "torchao")


def static(parent: Path, manifest: Manifest, target: Path, rows: Calibration | None) -> Mapping[str, Any]:
    """Quantise weights by channel to int8, and the activations that they multiply to uint8; the rest is float32."""
    assert rows is not None  # make_variant gives them where the precision is calibrated
    program = float_program(parent, manifest)
    quantiser = X86InductorQuantizer().set_global(get_default_x86_inductor_quantization_config())
    with warnings.catch_warnings():
        # It warns of each operator whose input it leaves in float32.
        warnings.filterwarnings("ignore", "The input of .* is not quantized", UserWarning)
        quantised = quantised_by(quantiser, program.module(check_guards=False), manifest, rows)
    torch.export.save(without_paths(exported(quantised, program, manifest, rows)), target / "model.pt2")
    return {}
