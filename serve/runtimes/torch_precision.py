"""What the PyTorch runtime makes of a program of reduced precision when it loads it.

torch-bf16    autocast: products are computed in bfloat16. Their weights are rounded once, and not at each call.
torch-int8    PT2E's program quantises and restores around each product. That becomes one kernel of oneDNN in int8;
              without it PyTorch would multiply the restored values in float32.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.ao.quantization.fx._decomposed  # registers the operators of quantised programs
from torch.fx import GraphModule

Node = Any
"""A node of torch.fx, whose arguments may be of any type."""

BF16, INT8 = "torch-bf16", "torch-int8"

aten, onednn = torch.ops.aten, torch.ops.onednn
quantised = torch.ops.quantized_decomposed
ROUNDING, RESTORING = quantised.quantize_per_tensor.default, quantised.dequantize_per_tensor.default
RESTORING_WEIGHTS = quantised.dequantize_per_channel.default

CONVOLUTION, LINEAR = aten.conv2d.default, aten.linear.default
PRODUCTS = (CONVOLUTION, LINEAR, aten.conv1d.default, aten.conv3d.default, aten.conv_transpose2d.input)
"""Operators whose weights autocast rounds to bfloat16."""
SOFTMAX = (aten.softmax.int, aten.log_softmax.int)
"""In bfloat16, probabilities would be steps of 1/256 and more."""


def load_program(path: Path) -> torch.export.ExportedProgram:
    """The program in `path`, which may be quantised."""
    return torch.export.load(path)


def as_executed(module: GraphModule, format: str) -> GraphModule:
    """The program's module with what its precision changes, in place; a float32 program stays as it is."""
    if format == BF16:
        _round_weights(module)
    elif format == INT8:
        _use_kernels(module)
    return module


@contextlib.contextmanager
def precision_of(format: str) -> Iterator[None]:
    """In this context the program is called."""
    if format != BF16:
        yield
        return
    with torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
        yield


def called_in(format: str, function: Callable[..., Sequence[torch.Tensor]]) -> Callable[..., Sequence[torch.Tensor]]:
    """The program's function in its context; what it answers in bfloat16, which numpy does not have, is float32."""
    if format != BF16:
        return function

    def call(*inputs: torch.Tensor) -> Sequence[torch.Tensor]:
        with precision_of(format):
            answers = function(*inputs)
        return tuple(each.float() if each.dtype is torch.bfloat16 else each for each in answers)

    return call


# --- bfloat16


def _round_weights(module: GraphModule) -> None:
    """Keep in bfloat16 the weights that only products take, and give each softmax float32."""
    graph = module.graph
    for number, node in enumerate(list(graph.nodes)):
        if node.op == "get_attr" and node.users and all(_is_weight(node, user) for user in node.users):
            values = _attribute(module, node)
            if values.dtype is torch.float32:
                node.target = _held(module, f"rounded_{number}", values.to(torch.bfloat16))
        elif node.target in SOFTMAX:
            with graph.inserting_before(node):
                node.replace_input_with(node.args[0], graph.call_function(torch.Tensor.float, (node.args[0],)))
    module.recompile()


def _is_weight(node: Node, user: Node) -> bool:
    return user.target in PRODUCTS and node in user.args[1:3] and node is not user.args[0]


def _attribute(module: GraphModule, node: Node) -> torch.Tensor:
    owner: Any = module
    for part in str(node.target).split("."):
        owner = getattr(owner, part)
    return owner.detach()  # type: ignore[no-any-return]


def _held(module: GraphModule, name: str, values: torch.Tensor) -> str:
    module.register_buffer(name, values)
    return name


# --- int8


def rounded(values: torch.Tensor, scale: float, zero: int, low: int, high: int, dtype: torch.dtype) -> torch.Tensor:
    """Values as whole numbers of this dtype. PT2E's own operator does the same, in Python and with copies."""
    steps = torch.mul(values, 1.0 / scale).round_()
    return (steps.add_(zero) if zero else steps).clamp_(low, high).to(dtype)


def restored(values: torch.Tensor, scale: float, zero: int, *_: Any, **__: Any) -> torch.Tensor:
    """The real values that whole numbers stand for."""
    return values.to(torch.float32).sub_(zero).mul_(scale)


def _use_kernels(module: GraphModule) -> None:
    """One kernel of int8 for each product of a quantised activation and quantised weights, with what follows it."""
    graph = module.graph
    for number, node in enumerate(list(graph.nodes)):
        if node.target in (CONVOLUTION, LINEAR) and _is_quantised(node):
            _use_kernel(module, node, f"packed_{number}")
    graph.eliminate_dead_code()
    for node in graph.nodes:
        if node.target is ROUNDING:
            node.target = rounded
        elif node.target is RESTORING:
            node.target = restored
    module.recompile()


def _is_full(rounding: Node) -> bool:
    """Whether it has the whole range of its dtype, to which C++ clamps."""
    *_, low, high, dtype = rounding.args
    return (low, high) == (torch.iinfo(dtype).min, torch.iinfo(dtype).max)


def _is_quantised(node: Node) -> bool:
    activation, weights = node.args[:2]
    return (
        isinstance(activation, torch.fx.Node)
        and isinstance(weights, torch.fx.Node)
        and activation.target is RESTORING
        and weights.target is RESTORING_WEIGHTS
        and all(isinstance(each, torch.fx.Node) and each.op == "get_attr" for each in weights.args[:3])
    )


def _use_kernel(module: GraphModule, node: Node, name: str) -> None:
    graph = module.graph
    activation, weights = node.args[:2]
    values, scale, zero = activation.args[:3]
    stored, scales, zeros = (_attribute(module, each) for each in weights.args[:3])
    bias = node.args[2] if len(node.args) > 2 else None
    last, function, limits = _activation_after(node)
    output = _rounding_after(last)
    result = (*output.args[1:3], output.args[5]) if output else (1.0, 0, torch.float32)
    if node.target is CONVOLUTION:
        shape = [*node.args[3:], *([1, 1], [0, 0], [1, 1], 1)[max(len(node.args) - 3, 0) :]]
        packed = onednn.qconv_prepack(stored, scales, scale, zero, *shape, None)
        kernel, more = onednn.qconv_pointwise.default, shape
    else:
        packed = onednn.qlinear_prepack(stored, None)
        kernel, more = onednn.qlinear_pointwise.default, []
    held = (packed, scales.float(), zeros.to(torch.int32))
    names = [_held(module, f"{name}_{place}", each) for place, each in enumerate(held)]
    replaced = output or last
    with graph.inserting_before(replaced):
        parts = [graph.get_attr(each) for each in names]
        call = (values, scale, zero, *parts, bias, *more, *result, function, limits, "")
        replaced.replace_all_uses_with(graph.call_function(kernel, call))


def _activation_after(node: Node) -> tuple[Node, str, list[float]]:
    """The last node that the kernel can compute with the product, and its name and numbers in oneDNN."""
    (user, *others) = node.users
    if not others and user.target in (aten.relu.default, aten.relu_.default):
        return user, "relu", []
    if not others and node.target is CONVOLUTION and user.target in (aten.hardtanh.default, aten.hardtanh_.default):
        return user, "hardtanh", [*map(float, user.args[1:3] or (-1.0, 1.0))]
    return node, "none", []


def _rounding_after(node: Node) -> Node | None:
    """What rounds the result, where nothing else takes it."""
    (user, *others) = node.users
    return user if not others and user.target is ROUNDING and _is_full(user) and user.args[5] is torch.uint8 else None
