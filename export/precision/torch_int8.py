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


aten, nn = torch.ops.aten, torch.nn
MADE_OF = {
    aten.conv2d.default: nn.Conv2d,
    aten.linear.default: nn.Linear,
    aten.relu.default: nn.ReLU,
    aten.relu_.default: nn.ReLU,
    aten.hardtanh.default: nn.Hardtanh,
    aten.hardtanh_.default: nn.Hardtanh,
}
"""The quantiser looks for the layers that operators were exported from, which a program that was exported again has
forgotten."""


def static(parent: Path, manifest: Manifest, target: Path, rows: Calibration | None) -> Mapping[str, Any]:
    """Quantise weights by channel to int8, and the activations that they multiply to uint8; the rest is float32."""
    assert rows is not None  # make_variant gives them where the precision is calibrated
    program = float_program(parent, manifest)
    module = program.module(check_guards=False)
    for node in module.graph.nodes:
        if node.target in MADE_OF:
            node.meta["source_fn_stack"] = [(node.name, MADE_OF[node.target])]
    quantiser = X86InductorQuantizer().set_global(get_default_x86_inductor_quantization_config())
    with warnings.catch_warnings():
        # It warns of each operator whose input it leaves in float32.
        warnings.filterwarnings("ignore", "The input of .* is not quantized", UserWarning)
        quantised = quantised_by(quantiser, module, manifest, rows)
    torch.export.save(without_paths(exported(quantised, program, manifest, rows)), target / "model.pt2")
    return {}
