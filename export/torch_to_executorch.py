"""torch -> executorch. Load the result with `executorch.runtime.Runtime.get().load_program("model.pte")`.

A program of ExecuTorch has the memory of its values planned, for the largest sizes of its inputs: larger ones are
refused. XNNPACK computes what it can of the graph, and ExecuTorch's own kernels the rest.
"""

import operator
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from executorch.backends.xnnpack.partition.config import ALL_PARTITIONER_CONFIGS, MaxDimConfig, PreluConfig
from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
from executorch.exir import EdgeCompileConfig, ExecutorchBackendConfig, to_edge_transform_and_lower
from executorch.exir.passes import MemoryPlanningPass
from torch.utils._sympy.value_ranges import ValueRanges

from contract.manifest import Manifest
from export import Written
from export.torch_recurrent import refuse_many_steps

CONVERTERS = ("executorch", "torch")

ROWS = 64
"""The largest batch: a runtime computes more rows piece by piece, and larger pieces are not faster."""
SIZE = 512
"""The largest size of any other free axis."""
PLANNED = 64 << 20
"""Bytes that may be planned, since they are taken when the program is loaded; else the largest batch is smaller."""


class _PreluOfPictures(PreluConfig):  # type: ignore[misc]
    """PReLU behind a convolution. XNNPACK's own rule has it of any rank, and its conversion fails on all but 4."""

    def check_constraints(self, node: torch.fx.Node, program: Any) -> bool:
        is_picture = node.all_input_nodes[0].meta["val"].dim() == 4
        return is_picture and bool(super().check_constraints(node, program))


class _KeptMax(MaxDimConfig):  # type: ignore[misc]
    """The maximum along the height or the width that keeps the axis, of which the rule does not ask."""

    def check_constraints(self, node: torch.fx.Node, program: Any) -> bool:
        axis, keeps_axis = (*node.args[1:], False)[:2]
        return bool(keeps_axis) and axis in (2, 3) and bool(super().check_constraints(node, program))


RULES = [{PreluConfig: _PreluOfPictures, MaxDimConfig: _KeptMax}.get(rule, rule) for rule in ALL_PARTITIONER_CONFIGS]
"""What XNNPACK is given; ExecuTorch computes the rest."""


def export(parent: Path, manifest: Manifest, target: Path) -> Written:
    """Write `model.pte`, with the weights inside it. It takes batches up to `ROWS`. Raises ExportError."""
    path = target / "model.pte"
    refuse_many_steps(torch.export.load(parent / "model.pt2"), "ExecuTorch")
    return Written([path], write(lambda: torch.export.load(parent / "model.pt2"), manifest, path))


def write(load: Callable[[], Any], manifest: Manifest, path: Path) -> Mapping[str, Any]:
    """Lower to XNNPACK what `load` gives, an exported program that may be changed, and write it to `path`.

    What a manifest notes of it: its largest sizes, and what computes its operators.
    """
    rows = ROWS
    made, delegated = _program(load(), manifest, rows)
    planned = sum(_plan(made).non_const_buffer_sizes)
    if planned > PLANNED and manifest.batch is None:
        rows = max(2, rows * PLANNED // planned)
        made, delegated = _program(load(), manifest, rows)
    path.write_bytes(made.buffer)
    return {"largest": _largest(made, manifest), "delegated": delegated}


def _program(program: Any, manifest: Manifest, rows: int) -> tuple[Any, Mapping[str, int]]:
    """The program for batches up to `rows`, and what computes its operators."""
    _name_softmax(program.graph)
    # The check of the lowered graph holds free sizes to the example's: a GRU would then take 2 rows alone. What it
    # would refuse has no kernel, and the runtime refuses that.
    unchecked = EdgeCompileConfig(_check_ir_validity=False)
    edge = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner(RULES)], compile_config=unchecked)
    lowered = edge.exported_program()
    delegated = _delegated(lowered.graph_module)  # before operators that only hold memory come in
    _set_largest(program, lowered, manifest, rows)
    # Inputs keep the caller's memory, so that nothing is copied. An input that is also an output would then be lost.
    signature = lowered.graph_signature
    is_passed_on = not {*signature.user_inputs}.isdisjoint(signature.user_outputs)
    planning = MemoryPlanningPass(alloc_graph_input=is_passed_on, alloc_graph_output=is_passed_on)
    return edge.to_executorch(ExecutorchBackendConfig(memory_planning_pass=planning)), delegated


def _name_softmax(graph: torch.fx.Graph) -> None:
    """Replace the exponential of a log_softmax that nothing else takes by softmax, which XNNPACK computes."""
    plain = {
        torch.ops.aten.log_softmax.int: torch.ops.aten.softmax.int,
        torch.ops.aten._log_softmax.default: torch.ops.aten._softmax.default,
    }
    for node in [node for node in graph.nodes if node.target is torch.ops.aten.exp.default]:
        log = node.args[0]
        if log.target in plain and len(log.users) == 1:
            node.target, node.args, node.kwargs = plain[log.target], log.args, log.kwargs
            graph.erase_node(log)


def _set_largest(program: Any, lowered: Any, manifest: Manifest, rows: int) -> None:
    """Give each free size its largest value, for which the memory is planned.

    Those that the program came with do not last: PyTorch's kernels for convolutions branch at a batch of 16, and
    tracing them takes the branch for a limit, so that the program would end up with at most 15 rows. A size without
    a limit would be held to that of the example.
    """
    sizes = {node.name: node.meta["val"].shape for node in lowered.graph.nodes if node.op == "placeholder"}
    shapes = [sizes[name] for name in lowered.graph_signature.user_inputs]
    batches: set[Any] = set()
    ranges: dict[Any, Any] = {}
    for spec, shape in zip(manifest.inputs, shapes, strict=True):
        for axis, size in enumerate(shape):
            if isinstance(size, torch.SymInt):
                ranges = size.node.shape_env.var_to_range
                batches |= size.node.expr.free_symbols if axis == spec.batch_axis else set()
    for symbol, known in program.range_constraints.items() if ranges else ():
        most = rows if symbol in batches else SIZE
        upper = int(known.upper) if known.upper <= most else most
        if symbol in ranges:  # a least size of 1 would make tracing hold the size to the example's
            ranges[symbol] = ValueRanges(min(ranges[symbol].lower, upper), upper)


def _plan(made: Any) -> Any:
    return made.executorch_program.execution_plan[0]


def _largest(made: Any, manifest: Manifest) -> Mapping[str, list[int]]:
    """Input's name -> its largest size on each axis."""
    plan = _plan(made)
    return {spec.name: plan.values[at].val.sizes for spec, at in zip(manifest.inputs, plan.inputs, strict=True)}


def _delegated(graph: torch.fx.GraphModule) -> Mapping[str, int]:
    """How many operators of the graph XNNPACK computes, in how many parts, and how many ExecuTorch's kernels."""
    parts = [getattr(graph, str(node.target)) for node in graph.graph.nodes if node.op == "get_attr"]
    parts = [part for part in parts if hasattr(part, "backend_id")]
    inside = [name for part in parts for name in _operators(part.original_module.graph)]
    return {"xnnpack": len(inside), "parts": len(parts), "others": len(list(_operators(graph.graph)))}


def _operators(graph: torch.fx.Graph) -> Iterator[str]:
    """The operators that compute tensors."""
    for node in graph.nodes:
        is_call = node.op == "call_function" and node.target is not operator.getitem
        if (
            is_call
            and "call_delegate" not in str(node.target)
            and isinstance(node.meta.get("val"), torch.Tensor | tuple)
        ):
            yield str(node.target)
