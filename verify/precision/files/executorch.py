"""A program of ExecuTorch: what its own kernels compute, and the graphs within it that XNNPACK does.

`program.fbs` in ExecuTorch's sources has the numbers of the fields; xnnpack.py reads the graphs.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from contract.executorch_program import DELEGATES, NAME, OPERATORS, Program, program
from contract.flatbuffer import Table
from contract.manifest import TensorSpec, read_manifest
from verify.precision.files import Constant, Contents, xnnpack

DTYPES = {
    0: "uint8", 1: "int8", 2: "int16", 3: "int32", 4: "int64", 5: "float16", 6: "float32", 7: "float64", 11: "bool",
    15: "bfloat16", 27: "uint16", 28: "uint32", 29: "uint64",
}  # fmt: skip
TENSOR, KERNEL_CALL, IN_SEGMENT = 5, 1, 1
"""Their numbers in unions and enums."""
CONSTANTS, NAMED = 5, 7
VALUES, INPUTS, OUTPUTS, CHAINS, INSTRUCTIONS = 2, 3, 4, 5, 2
KIND, CONTENT = 0, 1
DTYPE, SIZES, BUFFER, PLANNED = 0, 2, 5, 6
"""The places of fields: in a program, in its plan, in a union, in a tensor."""

MULTIPLYING = ("aten::convolution", "aten::linear", "aten::addmm", "aten::mm", "aten::bmm")
CASTS = ("aten::_to_copy", "dim_order_ops::_to_dim_order_copy")


@dataclass(frozen=True)
class Tensor:
    """A tensor of the program."""

    dtype: str
    constant: Constant | None


def read(folder: Path) -> Contents:
    """Read `model.pte`. Raises ValueError or struct.error where it is damaged."""
    data = (folder / "model.pte").read_bytes()
    its = program(data)
    graphs = list(_graphs(data, its))
    tensors = dict(_tensors(data, its))
    calls = list(_calls(its, tensors))
    held = [tensor.constant for tensor in tensors.values() if tensor.constant]
    manifest = read_manifest(folder)
    return Contents(
        inputs={spec.name: tensors[at].dtype for spec, at in _ends(its, INPUTS, manifest.inputs)},
        outputs={spec.name: tensors[at].dtype for spec, at in _ends(its, OUTPUTS, manifest.outputs)},
        constants=(*held, *xnnpack.constants(graphs)),
        activations=Counter(tensor.dtype for tensor in tensors.values() if not tensor.constant)
        + Counter(value.dtype for graph in graphs for value in graph.values if value.is_inner),
        computing=Counter(taken[0] for name, taken in calls if name in MULTIPLYING and taken)
        + Counter(dtype for graph in graphs for dtype in xnnpack.computing(graph)),
        casts=sum(name in CASTS and taken[0] != taken[-1] for name, taken in calls if taken)
        + sum(map(xnnpack.casts, graphs)),
        inserted=0,
        faults=tuple(fault for graph in graphs for fault in xnnpack.unequal_scales(graph)),
    )


def _ends(its: Program, which: int, specs: Sequence[TensorSpec]) -> Iterator[tuple[TensorSpec, int]]:
    """Inputs or outputs, in the program's order, with their places among its values."""
    yield from zip(specs, map(int, its.plan.numbers(which, "i4")), strict=True)


def _graphs(data: bytes, its: Program) -> Iterator[xnnpack.Graph]:
    named = {each.text(0): its.segments[each.number(1, "I")] for each in its.table.tables(NAMED)}
    for number, delegate in enumerate(its.plan.tables(DELEGATES), 1):
        place = delegate.table(1)
        if place is None or place.number(0, "b") != IN_SEGMENT:
            raise ValueError("a part of the graph is not in a segment of its own")
        part = data[its.segments[place.number(1, "I")]]
        yield xnnpack.graph(part, f"part {number}", {key: data[where] for key, where in named.items()})


def _tensors(data: bytes, its: Program) -> Iterator[tuple[int, Tensor]]:
    """The place of each tensor among the plan's values, and the tensor."""
    for at, value in enumerate(its.plan.tables(VALUES)):
        tensor = value.table(CONTENT)
        if value.number(KIND, "B") == TENSOR and tensor is not None:
            code = tensor.number(DTYPE, "b")
            dtype = DTYPES.get(code, f"type {code}")
            is_held = tensor.number(BUFFER, "I") > 0 and tensor.table(PLANNED) is None
            yield at, Tensor(dtype, _constant(data, its, tensor, f"value {at}", dtype) if is_held else None)


def _constant(data: bytes, its: Program, tensor: Table, name: str, dtype: str) -> Constant:
    where = its.table.table(CONSTANTS)
    if where is None:
        raise ValueError("its constants are not in a segment")
    segment = data[its.segments[where.number(0, "I")]]
    start = int(where.numbers(1, "u8")[tensor.number(BUFFER, "I")])
    sizes = [int(size) for size in tensor.numbers(SIZES, "i4")]
    kind = np.dtype(dtype if hasattr(np, dtype) else "uint16")
    values = np.frombuffer(segment, kind, int(np.prod(sizes)), start).reshape(sizes)
    return Constant(name, dtype, values.nbytes, values)


def _calls(its: Program, tensors: dict[int, Tensor]) -> Iterator[tuple[str, list[str]]]:
    """Each call of one of ExecuTorch's kernels: its operator, and the dtypes of the tensors that it takes and gives."""
    names = [operator.text(NAME) for operator in its.plan.tables(OPERATORS)]
    for chain in its.plan.tables(CHAINS):
        for instruction in chain.tables(INSTRUCTIONS):
            call = instruction.table(CONTENT)
            if instruction.number(KIND, "B") == KERNEL_CALL and call is not None:
                taken = [tensors[at].dtype for at in map(int, call.numbers(1, "i4")) if at in tensors]
                yield names[call.number(0, "i")], taken
