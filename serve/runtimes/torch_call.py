"""How the PyTorch runtime calls a program: straight-line code, and for batches of pictures oneDNN's own layout."""

import contextlib
import ctypes
import warnings
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch.fx.graph import CodeGen

from contract.manifest import Manifest
from serve.runtimes import warm_up_inputs

aten = torch.ops.aten

Call = Callable[..., Sequence[torch.Tensor]]
"""The program's flat inputs -> its flat outputs."""

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
KEPT = 2**28
"""Bytes that the C library keeps instead of returning them to the system."""

BATCH = 8
"""The least number of rows for `for_batches`: with fewer, the changes of layout cost more than they save."""
TRACED, CHECKED = BATCH, BATCH + 3
"""The rows of the trace, and of the comparison with the program itself: a traced size would show there."""
CLOSE = 1e-5


def keep_memory() -> None:
    """Have malloc keep the memory that it freed.

    PyTorch frees each layer's result at once. By default glibc returns a large one to the system, and the next call
    gets it again page by page: 64 pictures through a small network then take three times as long.
    """
    with contextlib.suppress(OSError, AttributeError):  # another C library
        libc = ctypes.CDLL(None)
        libc.mallopt(M_TRIM_THRESHOLD, KEPT)
        libc.mallopt(M_MMAP_THRESHOLD, KEPT)


def straight_line(module: Any) -> Callable[..., tuple[torch.Tensor, ...]]:
    """A program's module as one function of its flat inputs, which returns its flat outputs.

    A call of the module itself takes twice as long for a small network: it goes through `nn.Module`, checks its guards
    (the protocol has checked the shapes before), looks up each weight by a path, and dispatches each operator in
    Python. The operators and their order are the same here.
    """
    graph = module.graph
    graph.set_codegen(CodeGen())  # without trees of arguments
    weights = SimpleNamespace()
    for number, node in enumerate(list(graph.nodes)):
        if node.op == "call_module" and not node.users:  # the guards
            graph.erase_node(node)
        elif node.op == "get_attr":
            name = f"weight_{number}"
            setattr(weights, name, _attribute(module, node.target))
            node.target = name
        elif node.op == "call_function":
            node.target = _binding(node.target)
    code = graph.python_code("self")
    namespace: dict[str, Any] = dict(code.globals)
    exec(code.src, namespace)  # torch.fx wrote this source from the graph, as for each of its modules
    forward = namespace["forward"]
    return lambda *inputs: forward(weights, *inputs)


def _attribute(module: Any, path: str) -> Any:
    for name in path.split("."):
        module = getattr(module, name)
    return module.detach() if isinstance(module, torch.Tensor) else module


def _binding(operator: Any) -> Any:
    """PyTorch's own function for an operator, which dispatches in C++; the operator itself where there is none."""
    if operator is aten.sym_size.int:
        return torch.Tensor.size
    if not isinstance(operator, torch._ops.OpOverload) or operator.namespace != "aten":
        return operator
    name = operator.overloadpacket.__name__
    if name.startswith("__"):  # such as __and__, of which torch.fx cannot say where it comes from
        return operator
    for functions in (torch._C._VariableFunctions, torch._C._nn):
        if hasattr(functions, name):
            return getattr(functions, name)
    return operator


def for_batches(function: Call, program: torch.export.ExportedProgram, manifest: Manifest) -> Call | None:
    """The program's function with its convolutions, and what lies between them, in oneDNN's layout and fused.

    64 pictures take half as long so. None where that is not safe or does not pay: without a convolution, with sizes
    besides the batch that are free, with a state, or where the answers are not the same.
    """
    has_convolution = any(node.target is aten.conv2d.default for node in program.graph.nodes)
    is_free = any(None in spec.shape[1:] for spec in manifest.inputs)
    is_whole = not manifest.has_rows or manifest.batch is not None
    if not has_convolution or is_free or is_whole or program.graph_signature.buffers_to_mutate:
        return None
    try:
        with warnings.catch_warnings(), torch.inference_mode():
            # TorchScript is deprecated. What PyTorch names instead needs a compiler where the program is run.
            warnings.simplefilter("ignore")
            traced = torch.jit.trace(  # type: ignore[no-untyped-call]
                _Module(function), _examples(manifest, TRACED), check_trace=False
            )
            optimised: Call = torch.jit.optimize_for_inference(traced.eval())
            examples = _examples(manifest, CHECKED)
            is_same = all(map(_close, function(*examples), optimised(*examples)))
    except Exception:  # TorchScript raises anything for what it does not know
        return None
    return optimised if is_same else None


class _Module(torch.nn.Module):
    """What TorchScript can freeze."""

    def __init__(self, function: Call) -> None:
        super().__init__()
        self.function = function

    def forward(self, *inputs: torch.Tensor) -> Sequence[torch.Tensor]:
        return self.function(*inputs)


def _examples(manifest: Manifest, rows: int) -> tuple[torch.Tensor, ...]:
    """Random pixels, and zeros for whole numbers, which may be indices into a table."""
    random = np.random.default_rng(0)
    arrays = warm_up_inputs(manifest, rows).values()
    pixels = (random.integers(0, 256, array.shape) if array.dtype.kind == "f" else array for array in arrays)
    return tuple(torch.from_numpy(each.astype(array.dtype)) for each, array in zip(pixels, arrays, strict=True))


def _close(expected: torch.Tensor, got: torch.Tensor) -> bool:
    if expected.shape != got.shape or expected.dtype != got.dtype:
        return False
    unit = max(1.0, float(expected.abs().max())) if expected.numel() else 1.0
    return torch.allclose(got, expected, rtol=0, atol=CLOSE * unit)
