"""PyTorch's own quantiser (PT2E, of torchao), for each runtime that has rules of its own what to quantise."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch.export import Dim
from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

from contract.calibration import Calibration
from contract.errors import ExportError
from contract.manifest import Manifest

QUANTISED = ("quantized_decomposed", "quantized", "torchao")
"""Families of operators that only a quantised program has."""
WEIGHTS = torch.ops.quantized_decomposed.dequantize_per_channel.default
"""What restores weights with a scale for each channel."""


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """For one row a second thread gains little, and is ten times slower where another process uses its core."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def float_program(folder: Path, manifest: Manifest) -> Any:
    """The program in the folder of a PyTorch artifact. Raises ExportError where it is quantised already."""
    program = torch.export.load(folder / "model.pt2")
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


def quantised_by(
    quantiser: Any, module: torch.fx.GraphModule, manifest: Manifest, rows: Calibration
) -> torch.fx.GraphModule:
    """The module with its weights in int8, and each activation that an int8 kernel takes or gives rounded.

    Raises ExportError where there are no ranges, or nothing is quantised.
    """
    with _one_thread():
        _check_ranges(module, manifest, rows)
        prepared = prepare_pt2e(module, quantiser)
        with torch.no_grad():
            for row in _tensors(rows, manifest, manifest.batch or 1):
                prepared(*row)
        converted: torch.fx.GraphModule = convert_pt2e(prepared)
    _check_quantised(converted, manifest)
    return converted


def _check_quantised(module: torch.fx.GraphModule, manifest: Manifest) -> None:
    """Raise ExportError where the quantiser left every weight as it was."""
    if not any(node.target is WEIGHTS for node in module.graph.nodes):
        operators = ", ".join(sorted({*_operators(module.graph)})[:10])
        raise ExportError(
            f"Nothing of {manifest.name} could be quantised: the quantiser knows no weights of its operators "
            f"({operators})."
        )


def exported(module: torch.fx.GraphModule, program: Any, manifest: Manifest, rows: Calibration) -> Any:
    """The module as an exported program, with the free sizes of `program`, and without the weights that it had."""
    used = {str(node.target) for node in module.graph.nodes if node.op == "get_attr"}
    for name in [name for name, _ in module.named_parameters() if name not in used]:
        delattr(module.get_submodule(name.rpartition(".")[0]), name.rpartition(".")[2])
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
