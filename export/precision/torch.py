"""PyTorch in bfloat16: the parent's own program, which the runtime calls with autocast."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.fx import Interpreter, Node

from contract.calibration import Calibration
from contract.errors import ExportError, one_line
from contract.manifest import Manifest
from contract.tensors import numpy_dtype

CONVERTERS = ("torch",)


def brain(parent: Path, manifest: Manifest, target: Path, rows: Calibration | None) -> Mapping[str, Any]:
    """Copy the parent's files. Raises ExportError where autocast fails, or changes nothing."""
    program = _Dtypes(torch.export.load(parent / "model.pt2").module(check_guards=False))
    example = (np.zeros(spec.sizes_at(manifest.batch or 2), numpy_dtype(spec.dtype)) for spec in manifest.inputs)
    try:
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
            program.run(*map(torch.from_numpy, example))
    except Exception as error:  # an operator may refuse two dtypes in any words
        raise ExportError(f"Autocast to bfloat16 fails in {manifest.name}: {one_line(error)}") from error
    if torch.bfloat16 not in program.made:
        raise ExportError(
            f"Autocast changes nothing of {manifest.name}: it has none of the operators that PyTorch computes in "
            "bfloat16, which are those that multiply matrices."
        )
    for file in manifest.files:
        (target / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(parent / file, target / file)
    return {"autocast": "bfloat16"}


class _Dtypes(Interpreter):
    """Runs a program, and notes in which dtypes its operators answer."""

    def __init__(self, module: torch.fx.GraphModule) -> None:
        super().__init__(module)
        self.made: set[torch.dtype] = set()

    def run_node(self, n: Node) -> Any:
        result = super().run_node(n)
        if isinstance(result, torch.Tensor):
            self.made.add(result.dtype)
        return result
