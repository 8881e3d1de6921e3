"""torch -> coreml. Load the result with `MLModel(contentsOf: MLModel.compileModel(at:))` in Swift.

Core ML is a part of Apple's systems, so nothing here runs it: what can be proven from the file is, and a Mac proves its
answers (verify/mac/).
"""

import contextlib
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import coremltools
import torch

from contract.coreml_program import FILES, PACKAGE, faults
from contract.errors import ExportError
from contract.manifest import Manifest
from export import Written

CONVERTERS = ("coremltools", "torch")

TARGET, SYSTEM = coremltools.target.iOS16, "iOS 16, macOS 13"
"""The oldest system that runs it, by the converter's name and for people. Older ones are the converter's default."""
MOST = (1 << 31) - 1
"""The largest size that Core ML can be told of."""


def export(parent: Path, manifest: Manifest, target: Path) -> Written:
    """Write the folder `model.mlpackage`. Free sizes stay free, within the program's limits.

    Raises ExportError where the file has something else than the manifest, or values of less than float32.
    """
    program = torch.export.load(parent / "model.pt2").run_decompositions({})
    package = target / PACKAGE
    with contextlib.redirect_stdout(sys.stderr):  # where the other converters write what they do
        model = coremltools.convert(
            program,
            source="pytorch",
            inputs=list(_inputs(program, manifest)),
            outputs=[coremltools.TensorType(name=spec.name) for spec in manifest.outputs],
            convert_to="mlprogram",
            compute_precision=coremltools.precision.FLOAT32,  # the default is float16
            minimum_deployment_target=TARGET,
            skip_model_load=True,  # a Mac would compile it
        )
        model.save(str(package))
    _leave_out_the_rest(package)
    if problems := faults(package, manifest):
        raise ExportError(f"{manifest.model}-coreml is not what its source is: {'; '.join(problems)}.")
    return Written([path for name in FILES if (path := package / name).exists()], {"system": SYSTEM})


def _inputs(program: Any, manifest: Manifest) -> Iterator[Any]:
    """The program's inputs by the manifest's names, with the limits of their free sizes. One symbol is one size."""
    sizes = {node.name: node.meta["val"].shape for node in program.graph.nodes if node.op == "placeholder"}
    ranges = {str(symbol): _range(limits) for symbol, limits in program.range_constraints.items()}
    for spec, name in zip(manifest.inputs, program.graph_signature.user_inputs, strict=True):
        yield coremltools.TensorType(name=spec.name, shape=[_size(size, ranges) for size in sizes[name]])


def _range(limits: Any) -> Any:
    """PyTorch writes a least size of 2 where it only treats 1 as a case of its own."""
    least = 1 if limits.lower <= 2 else int(limits.lower)
    return coremltools.RangeDim(least, int(limits.upper) if limits.upper <= MOST else MOST)


def _size(size: int | torch.SymInt, ranges: Mapping[str, Any]) -> Any:
    return size if isinstance(size, int) else ranges[str(size)]


def _leave_out_the_rest(package: Path) -> None:
    """Remove what the converter writes for ExecuTorch alone, and let others read what it writes for one user."""
    for path in package.rglob("*"):
        if path.is_file() and path.relative_to(package).as_posix() not in FILES:
            path.unlink()
        else:
            path.chmod(0o755 if path.is_dir() else 0o644)
