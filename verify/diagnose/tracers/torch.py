"""PyTorch: the exported program's graph, run node by node."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from torch.fx import Interpreter, Node

from contract.manifest import Manifest
from serve.runtimes.torch import tensor
from verify.diagnose.tracers import Step, Trace, Values

BATCH_NORM = torch.ops.aten.batch_norm.default


class TorchTracer:
    """Traces a `.pt2` program."""

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self._program = torch.export.load(folder / "model.pt2")
        self._module = self._program.module()

    def trace(self, images: Values) -> Trace:
        return self.with_values(images, {})

    def with_values(self, images: Values, values: Mapping[str, Values]) -> Trace:
        return self._run(images, _Recorder(self._module, values, training=False))

    def in_training(self, images: Values) -> Trace | None:
        if all(node.target is not BATCH_NORM for node in self._module.graph.nodes):
            return None
        return self._run(images, _Recorder(self._module, {}, training=True))

    def weights(self) -> Iterator[NDArray[Any]]:
        for weight in self._program.state_dict.values():
            yield weight.detach().float().numpy() if weight.dtype == torch.bfloat16 else weight.detach().numpy()

    def close(self) -> None:
        """Nothing is held outside this process's memory."""

    def _run(self, images: Values, recorder: "_Recorder") -> Trace:
        with torch.inference_mode():
            recorder.run(tensor(images))
        nodes = list(self._module.graph.nodes)
        source = next(node.name for node in nodes if node.op == "placeholder")
        end = next(node for node in nodes if node.op == "output").all_input_nodes[0].name
        return Trace.of((_step(node, recorder.values.get(node.name)) for node in nodes), source, end, len(images))


class _Recorder(Interpreter):
    """Runs the graph and keeps every tensor; some of them are replaced."""

    def __init__(self, module: torch.fx.GraphModule, replaced: Mapping[str, Values], training: bool) -> None:
        super().__init__(module)
        self.values: dict[str, Values] = {}
        self._replaced = replaced
        self._training = training

    def run_node(self, n: Node) -> Any:
        result = tensor(self._replaced[n.name]) if n.name in self._replaced else super().run_node(n)
        if isinstance(result, torch.Tensor) and n.op in ("placeholder", "call_function"):
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
