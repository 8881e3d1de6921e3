"""A PyTorch program: its graph says what is stored. What computes in what, one call says, as the runtime makes it."""

import operator
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from contract.manifest import Manifest, read_manifest
from serve.runtimes import warm_up_inputs
from serve.runtimes.torch_precision import CONVOLUTION, RESTORING_WEIGHTS, as_executed, load_program, precision_of
from verify.precision.files import Constant, Contents

INTEGER = "onednn::q"
"""How the names of kernels begin that multiply integers."""
MULTIPLYING = {
    "aten::convolution", "aten::linear", "aten::addmm", "aten::mm", "aten::bmm", "aten::baddbmm",
    "aten::mkldnn_rnn_layer", "aten::_scaled_dot_product_flash_attention_for_cpu",
}  # fmt: skip
"""Operators that multiply in the dtype of their inputs."""
CASTS = {
    "aten::_to_copy", "aten::quantize_per_tensor", "quantized_decomposed::quantize_per_tensor",
    "quantized_decomposed::dequantize_per_tensor", "quantized_decomposed::dequantize_per_channel",
}  # fmt: skip
NORMALISATION = torch.ops.aten.batch_norm.default
ROWS = 2


def read(folder: Path) -> Contents:
    """Read `model.pt2`, and call it once as the runtime does. Raises what PyTorch raises for a damaged file."""
    manifest, program = read_manifest(folder), load_program(folder / "model.pt2")
    graph = program.graph_module.graph
    dtypes = {node.name: _name(node.meta["val"]) for node in graph.nodes if _is_tensor(node.meta.get("val"))}
    inputs, outputs = program.graph_signature.user_inputs, program.graph_signature.user_outputs
    calls = _calls(program, manifest)
    casts = sum(_operator(node.target) in CASTS for node in graph.nodes)
    return Contents(
        inputs={spec.name: dtypes[str(name)] for spec, name in zip(manifest.inputs, inputs, strict=True)},
        outputs={spec.name: dtypes[str(name)] for spec, name in zip(manifest.outputs, outputs, strict=True)},
        constants=(*_constants(program), *_folded(program)),
        activations=Counter(dtypes[node.name] for node in graph.nodes if _is_activation(node, dtypes)),
        computing=Counter(_computing(calls)),
        casts=casts,
        inserted=sum(name in CASTS for name, _ in calls) - casts,
    )


def _is_tensor(value: Any) -> bool:
    return isinstance(value, torch.Tensor)


def _name(value: torch.Tensor) -> str:
    return str(value.dtype).removeprefix("torch.")


def _operator(target: Any) -> str:
    """`aten::convolution`; empty for what is no operator of PyTorch."""
    return str(target._schema.name) if isinstance(target, torch._ops.OpOverload) else ""


def _is_activation(node: torch.fx.Node, dtypes: dict[str, str]) -> bool:
    return node.op == "call_function" and node.name in dtypes and node.target is not RESTORING_WEIGHTS


class _Recorder(TorchDispatchMode):
    """Notes each operator that is called, and the dtype of its first tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[str, str]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        taken = [_name(each) for each in args if isinstance(each, torch.Tensor)]
        self.calls.append((_operator(func), taken[0] if taken else ""))
        return func(*args, **(kwargs or {}))


def _calls(program: torch.export.ExportedProgram, manifest: Manifest) -> list[tuple[str, str]]:
    module = as_executed(program.module(check_guards=False), manifest.format)
    inputs = warm_up_inputs(manifest, manifest.batch or ROWS)
    recorder = _Recorder()
    with torch.no_grad(), precision_of(manifest.format), recorder:
        module(*(torch.from_numpy(inputs[spec.name]) for spec in manifest.inputs))
    return recorder.calls


def _computing(calls: list[tuple[str, str]]) -> Iterator[str]:
    for name, dtype in calls:
        if name.startswith(INTEGER):
            yield "int8"
        elif name in MULTIPLYING:
            yield dtype


def _constants(program: torch.export.ExportedProgram) -> Iterator[Constant]:
    module = program.module(check_guards=False)
    held: dict[str, torch.Tensor] = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    quantised = {
        str(node.args[0].target): (*(held[str(each.target)] for each in node.args[1:3]), node.args[3])
        for node in module.graph.nodes
        if node.target is RESTORING_WEIGHTS and all(each.op == "get_attr" for each in node.args[:3])
    }
    for name, values in held.items():
        scale, zero, axis = quantised.get(name, (None, None, 0))
        stored = values.detach()
        yield Constant(
            name,
            _name(stored),
            stored.nbytes,
            (stored.view(torch.uint16) if stored.dtype is torch.bfloat16 else stored).numpy(),
            None if scale is None else scale.double().numpy(),
            None if zero is None else zero.numpy(),
            axis,
        )


def _folded(program: torch.export.ExportedProgram) -> Iterator[Constant]:
    """The weights of each convolution times its normalisation, as the quantiser folds them: they are in no file."""
    module = program.module(check_guards=False)
    for node in module.graph.nodes:
        product = node.args[0] if node.target is NORMALISATION else None
        if product is None or product.target is not CONVOLUTION:
            continue
        weights, variance = (_held(module, each) for each in (product.args[1], node.args[4]))
        scale = _held(module, node.args[1]) if node.args[1] is not None else torch.ones_like(variance)
        factor = scale / torch.sqrt(variance + node.args[7])
        yield Constant(f"{node.name}, folded", "float32", 0, (weights * factor[:, None, None, None]).numpy())


def _held(module: Any, node: torch.fx.Node) -> torch.Tensor:
    held: torch.Tensor = operator.attrgetter(str(node.target))(module)
    return held.detach().double()
