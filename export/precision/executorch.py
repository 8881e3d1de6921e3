"""ExecuTorch in reduced precision, by PyTorch's own quantiser. It starts from the PyTorch program that the parent was
made from: of a finished program XNNPACK's parts are not taken apart again."""

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (
    XNNPACKQuantizer,
    get_symmetric_quantization_config,
)
from torch.export import Dim
from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

from contract.calibration import Calibration
from contract.errors import ExportError, one_line
from contract.manifest import Manifest, read_manifest, verify_files
from export.torch_to_executorch import write

CONVERTERS = ("executorch", "torch", "torchao")

QUANTISED = ("quantized_decomposed", "quantized", "torchao")
"""Families of operators that only a quantised program has."""
OUTSIDE = "Missing out variants"
"""What ExecuTorch says of operators of a program that it has no kernels for."""
WEIGHTS = torch.ops.quantized_decomposed.dequantize_per_channel.default
"""What restores weights with a scale for each channel."""


def static(parent: Path, manifest: Manifest, target: Path, rows: Calibration | None) -> Mapping[str, Any]:
    """Quantise weights by channel and activations to int8; what XNNPACK has no int8 kernel for stays in float32."""
    assert rows is not None  # make_variant gives them where the precision is calibrated
    program = _float_program(parent, manifest)
    module = program.module(check_guards=False)
    with _one_thread():
        _check_ranges(module, manifest, rows)
        quantised = _quantised(module, manifest, rows)
    _check_quantised(quantised, manifest)
    try:
        return write(lambda: _exported(quantised, program, manifest, rows), manifest, target / "model.pte")
    except RuntimeError as error:
        if OUTSIDE not in str(error):
            raise
        raise ExportError(
            f"XNNPACK computes only a part of what was quantised of {manifest.name}, and ExecuTorch has no kernels for "
            f"the rest: {one_line(error)}. Use another format of this model in int8."
        ) from error


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """For one row a second thread gains little, and is ten times slower where another process uses its core."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _float_program(parent: Path, manifest: Manifest) -> Any:
    """The program that the parent was made from. Raises ExportError."""
    if manifest.parent != "torch":
        raise ExportError(
            "ExecuTorch is quantised from the PyTorch program that it was converted from, and this file was brought as "
            "it is. Bring the model in the format that it was trained in."
        )
    source = parent.with_name(manifest.parent)
    verify_files(source, read_manifest(source))
    program = torch.export.load(source / "model.pt2")
    if quantised := sorted({name for name in _operators(program.graph) if name.split(".")[0] in QUANTISED}):
        raise ExportError(
            f"{manifest.name} is quantised already: it has {', '.join(quantised)}. Bring the float32 model."
        )
    return program


def _operators(graph: torch.fx.Graph) -> Iterator[str]:
    """The operators of a graph: `aten.conv2d`."""
    for node in graph.nodes:
        if isinstance(node.target, torch._ops.OpOverload):
            yield str(node.target.overloadpacket)


def _check_ranges(module: torch.nn.Module, manifest: Manifest, rows: Calibration) -> None:
    """Raise ExportError where the rows are too few, or the parent's answers to them are not numbers."""
    if manifest.batch and len(rows.which) < manifest.batch:
        raise ExportError(
            f"The {len(rows.which)} calibration rows ({rows.title}) are fewer than its batch of {manifest.batch}. Give "
            "more of them."
        )
    with torch.inference_mode():
        for row in _tensors(rows, manifest, manifest.batch or 1):
            if not all(bool(answer.isfinite().all()) for answer in torch.utils._pytree.tree_leaves(module(*row))):
                raise ExportError(
                    f"{manifest.name} answers NaN or infinity to calibration rows ({rows.title}), so its activations "
                    "have no ranges. Give rows like those that the model was trained on."
                )


def _quantised(module: torch.fx.GraphModule, manifest: Manifest, rows: Calibration) -> torch.fx.GraphModule:
    """The module with its weights in int8, and each activation that an int8 kernel takes or gives rounded to int8."""
    settings = get_symmetric_quantization_config(is_per_channel=True)
    prepared = prepare_pt2e(module, XNNPACKQuantizer().set_global(settings))
    with torch.no_grad():
        for row in _tensors(rows, manifest, manifest.batch or 1):
            prepared(*row)
    converted: torch.fx.GraphModule = convert_pt2e(prepared)
    return converted


def _check_quantised(module: torch.fx.GraphModule, manifest: Manifest) -> None:
    """Raise ExportError where the quantiser left every weight as it was."""
    if not any(node.target is WEIGHTS for node in module.graph.nodes):
        operators = ", ".join(sorted({*_operators(module.graph)})[:10])
        raise ExportError(
            f"Nothing of {manifest.name} could be quantised: the quantiser knows no weights of its operators "
            f"({operators})."
        )


def _exported(module: torch.fx.GraphModule, program: Any, manifest: Manifest, rows: Calibration) -> Any:
    """The module as an exported program, with the free sizes of `program`."""
    example = next(_tensors(rows, manifest, manifest.batch or 2))
    return torch.export.export(module, example, dynamic_shapes=_free_sizes(program))


def _free_sizes(program: Any) -> tuple[dict[int, Any], ...]:
    """For each input its free axes. A size that several axes share is the same one in all of them."""
    shapes = {node.name: node.meta["val"].shape for node in program.graph.nodes if node.op == "placeholder"}
    sizes: dict[str, Any] = {}
    free: list[dict[int, Any]] = []
    for name in program.graph_signature.user_inputs:
        free.append({})
        for axis, size in enumerate(shapes[name]):
            if isinstance(size, torch.SymInt):
                free[-1][axis] = sizes.setdefault(str(size), _free_size(f"size{len(sizes)}", size, program))
    return tuple(free)


def _free_size(name: str, size: torch.SymInt, program: Any) -> Any:
    known = program.range_constraints.get(size.node.expr)
    if known is None:  # a size that follows from another one
        return Dim.AUTO
    return Dim(name, min=int(known.lower), max=int(known.upper) if known.upper.is_finite else None)


def _tensors(rows: Calibration, manifest: Manifest, size: int) -> Iterator[tuple[torch.Tensor, ...]]:
    for batch in rows.batches(manifest.inputs, size):
        yield tuple(torch.from_numpy(batch[spec.name]) for spec in manifest.inputs)
