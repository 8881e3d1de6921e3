"""PyTorch: the exported program's graph, run node by node."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from torch.fx import Interpreter, Node

from contract.manifest import Manifest
from serve.runtimes.torch import tensor
from serve.runtimes.torch_precision import INT8, as_executed, load_program, precision_of
from verify.diagnose.tracers import Kept, Step, Trace, Values

BATCH_NORM = torch.ops.aten.batch_norm.default


class TorchTracer:
    """Traces a `.pt2` program."""

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self._program = load_program(folder / "model.pt2")
        # In int8 the program's own operators are traced: a kernel has no values between its parts.
        self._module = as_executed(self._program.module(), "" if manifest.format == INT8 else manifest.format)
        self._format = manifest.format

    def trace(self, images: Values, kept: Kept = None) -> Trace:
        return self.with_values(images, {}, kept)

    def with_values(self, images: Values, values: Mapping[str, Values], kept: Kept = None) -> Trace:
        return self._run(images, _Recorder(self._module, values, False, kept))

    def in_training(self, images: Values) -> Trace | None:
        if all(node.target is not BATCH_NORM for node in self._module.graph.nodes):
            return None
        return self._run(images, _Recorder(self._module, {}, True, None))

    def named_weights(self) -> Mapping[str, NDArray[Any]]:
        return {name: weight.detach().float().numpy().copy() for name, weight in self._floats().items()}

    def with_weights(self, images: Values, weights: Mapping[str, NDArray[Any]], kept: Kept = None) -> Trace:
        own = self._floats()
        before = {name: own[name].detach().clone() for name in weights}
        try:
            with torch.no_grad():
                for name, array in weights.items():
                    own[name].copy_(torch.tensor(array))
            return self.trace(images, kept)
        finally:
            with torch.no_grad():
                for name, weight in before.items():
                    own[name].copy_(weight)

    def _floats(self) -> Mapping[str, torch.Tensor]:
        return {name: each for name, each in self._module.state_dict().items() if each.is_floating_point()}

    def weights(self) -> Iterator[NDArray[Any]]:
        for weight in self._program.state_dict.values():
            yield weight.detach().float().numpy() if weight.dtype == torch.bfloat16 else weight.detach().numpy()

    def close(self) -> None:
        """Nothing is held outside this process's memory."""

    def _run(self, images: Values, recorder: "_Recorder") -> Trace:
        with torch.inference_mode(), precision_of(self._format):
            recorder.run(tensor(images))
        nodes = list(self._module.graph.nodes)
        source = next(node.name for node in nodes if node.op == "placeholder")
        end = next(node for node in nodes if node.op == "output").all_input_nodes[0].name
        return Trace.of((_step(node, recorder.values.get(node.name)) for node in nodes), source, end, len(images))


class _Recorder(Interpreter):
    """Runs the graph and keeps every tensor; some of them are replaced."""

    def __init__(
        self, module: torch.fx.GraphModule, replaced: Mapping[str, Values], training: bool, kept: Kept
    ) -> None:
        super().__init__(module)
        self.values: dict[str, Values] = {}
        (end,) = (node.all_input_nodes[0].name for node in module.graph.nodes if node.op == "output")
        self._kept = None if kept is None else {*kept, end}
        self._replaced = replaced
        self._training = training

    def run_node(self, n: Node) -> Any:
        result = tensor(self._replaced[n.name]) if n.name in self._replaced else super().run_node(n)
        is_kept = self._kept is None or n.name in self._kept or n.op == "placeholder"
        if is_kept and isinstance(result, torch.Tensor) and n.op in ("placeholder", "call_function"):
            # A copy, since a later operator may change it in place.
            self.values[n.name] = result.to(torch.float32, copy=True).numpy()
        return result

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        if self._training and target is BATCH_NORM:
            # In training, with a momentum of 0: its running mean does not change.
            args = (*args[:5], True, 0.0, *args[7:])
        return super().call_function(target, args, kwargs)


def _step(node: Node, value: Values | None) -> Step:
    inputs = tuple(parent.name for parent in node.all_input_nodes)
    weights = [str(parent.target) for parent in node.all_input_nodes if parent.op == "get_attr"]
    # "net.conv1.weight" is the layer net.conv1.
    label = f"{weights[0].rpartition('.')[0]} ({node.name})" if weights else node.name
    return Step(node.name, label, str(node.target), inputs, value)
