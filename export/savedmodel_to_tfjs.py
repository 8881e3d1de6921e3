"""savedmodel -> tfjs: a graph model. Load the result with `tf.loadGraphModel(".../model.json")` in JavaScript."""

import contextlib
import importlib.machinery
import json
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

import keras  # noqa: F401  # first: it would take the empty jax below for a real one

from contract.errors import ExportError
from contract.manifest import Manifest
from export.tfjs_operators import without_missing_operators

CONVERTERS = ("tensorflowjs", "tensorflow-cpu")

UNUSED = ("tensorflow_decision_forests", "tensorflow_hub", "jax", "jax.experimental", "jax.experimental.jax2tf", "flax")
"""Packages that tensorflowjs imports for its other input formats. Its published requirements cannot be installed with
them."""


def export(parent: Path, manifest: Manifest, target: Path) -> Sequence[Path]:
    """Write `model.json` and its weight files: convolution, bias and relu are fused, constants are folded."""
    return _converted(load_converter(), parent, manifest, target)


def unfused(parent: Path, manifest: Manifest, target: Path) -> Sequence[Path]:
    """Write the same with no operators fused: inside loops, fused ones get shapes that TF.js does not accept."""
    conversion = load_converter()
    with _nothing_fused(conversion):
        return _converted(conversion, parent, manifest, target)


def with_functions(parent: Path, manifest: Manifest, target: Path) -> Sequence[Path]:
    """Write the same with the body of each loop as a function: only so does TF.js run recurrent layers."""
    conversion = load_converter()
    with _nothing_fused(conversion):
        files = _converted(conversion, parent, manifest, target, control_flow_v2=True)
    graph = target / "model.json"
    model = json.loads(graph.read_bytes())
    functions = model["modelTopology"].get("library", {}).get("function", [])
    if not functions:
        raise ExportError("There is no loop in the graph.")
    for function in functions:
        _list_results(function)
    graph.write_text(json.dumps(model, separators=(",", ":")))
    return files


@contextlib.contextmanager
def _nothing_fused(conversion: Any) -> Iterator[None]:
    optimise = conversion._run_grappler

    def without_fusion(config: Any, *others: Any) -> Any:
        steps = config.graph_options.rewrite_options.optimizers
        steps[:] = [step for step in steps if step != "remap"]
        return optimise(config, *others)

    with (
        mock.patch.object(conversion, "_run_grappler", without_fusion),
        # Its backends have Prelu with a slope for each of the last axis's values alone.
        mock.patch.object(conversion.fuse_prelu, "fuse_ops_for_prelu", lambda graph: graph),
    ):
        yield


def _list_results(function: dict[str, Any]) -> None:
    """Put the function's results into its tensor lists, where the lists hold the same values.

    At the end of a function TF.js 4.22 frees every tensor that is not one of its results, even one that a list still
    holds: a recurrent layer's outputs.
    """
    returned = {value.partition(":")[0] for value in function["ret"].values()}
    results = {
        node["input"][0]: f"{node['name']}:output:0"
        for node in function["nodeDef"]
        if node["op"] == "Identity" and node["name"] in returned
    }
    for node in function["nodeDef"]:
        if node["op"] == "TensorListSetItem":
            handle, index, item, *control = node["input"]
            node["input"] = [handle, index, results.get(item, item), *control]


def _converted(conversion: Any, parent: Path, manifest: Manifest, target: Path, **more: Any) -> Sequence[Path]:
    texts = [spec.name for spec in (*manifest.inputs, *manifest.outputs) if spec.dtype == "bytes"]
    if texts:
        raise ExportError(f"Its {texts[0]} holds texts, and TF.js models are served with numbers and bool alone.")
    optimise = conversion.optimize_graph
    conversion.optimize_graph = lambda graph, *others, **more: optimise(
        without_missing_operators(graph), *others, **more
    )
    try:
        conversion.convert_tf_saved_model(
            str(parent),
            str(target),
            signature_def="serving_default",
            saved_model_tags="serve",
            use_structured_outputs_names=True,
            strip_debug_ops=True,  # an Assert is none of its operators
            **more,
        )
    finally:
        conversion.optimize_graph = optimise
    _name_outputs(target / "model.json")
    return list(target.iterdir())


def _name_outputs(file: Path) -> None:
    """Give each output its name: the converter finds names by dtype and shape, and leaves those that share both.

    Such an output is called after its node, `Identity_1:0`. These nodes are numbered in the order of the names.
    """
    model = json.loads(file.read_bytes())
    names = model["userDefinedMetadata"]["structuredOutputKeys"]
    outputs = {}
    for name, tensor in model["signature"]["outputs"].items():
        number = re.fullmatch(r"Identity(?:_(\d+))?:0", tensor["name"])
        outputs[names[int(number[1] or 0)] if number and name not in names else name] = tensor
    model["signature"]["outputs"] = outputs
    _sort_attributes(model["modelTopology"])
    file.write_text(json.dumps(model), encoding="utf-8")


def _sort_attributes(topology: dict[str, Any]) -> None:
    """Their order is another one in each process, and so would be the file's bytes."""
    functions = topology.get("library", {}).get("function", [])
    for nodes in (topology["node"], *(function["nodeDef"] for function in functions)):
        for node in nodes:
            node["attr"] = dict(sorted(node.get("attr", {}).items()))


def load_converter() -> Any:
    """tensorflowjs' converter, imported with empty modules in place of `UNUSED`.

    These are gone afterwards: what converts next in this process, such as OpenVINO, would take them for real ones.
    """
    empty = {name: ModuleType(name) for name in UNUSED if name not in sys.modules}
    for name, module in empty.items():
        module.__spec__ = importlib.machinery.ModuleSpec(name, None)
        module.__path__ = []
    sys.modules |= empty
    sys.modules["jax.experimental"].jax2tf = sys.modules["jax.experimental.jax2tf"]  # type: ignore[attr-defined]
    try:
        from tensorflowjs.converters import tf_saved_model_conversion_v2
    finally:
        for name in empty:
            del sys.modules[name]
    return tf_saved_model_conversion_v2
