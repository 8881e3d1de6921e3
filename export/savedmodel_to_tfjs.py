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

import keras  # noqa: F401  # first: it would take the empty jax below for a real one

from contract.errors import ExportError
from contract.manifest import Manifest

CONVERTERS = ("tensorflowjs", "tensorflow-cpu")

UNUSED = ("tensorflow_decision_forests", "tensorflow_hub", "jax", "jax.experimental", "jax.experimental.jax2tf", "flax")
"""Packages that tensorflowjs imports for its other input formats. Its published requirements cannot be installed with
them."""


def export(parent: Path, manifest: Manifest, target: Path) -> Sequence[Path]:
    """Write `model.json` and its weight files: convolution, bias and relu are fused, constants are folded."""
    return _converted(_converter(), parent, target)


def unfused(parent: Path, manifest: Manifest, target: Path) -> Sequence[Path]:
    """Write the same with no operators fused: inside loops, fused ones get shapes that TF.js does not accept."""
    conversion = _converter()
    with _nothing_fused(conversion):
        return _converted(conversion, parent, target)


def with_functions(parent: Path, manifest: Manifest, target: Path) -> Sequence[Path]:
    """Write the same with the body of each loop as a function: only so does TF.js run recurrent layers."""
    conversion = _converter()
    with _nothing_fused(conversion):
        files = _converted(conversion, parent, target, control_flow_v2=True)
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

    conversion._run_grappler = without_fusion
    try:
        yield
    finally:
        conversion._run_grappler = optimise


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


def _converted(conversion: Any, parent: Path, target: Path, **more: Any) -> Sequence[Path]:
    optimise = conversion.optimize_graph
    conversion.optimize_graph = lambda graph, *others, **more: optimise(
        _without_missing_operators(graph), *others, **more
    )
    try:
        conversion.convert_tf_saved_model(
            str(parent),
            str(target),
            signature_def="serving_default",
            saved_model_tags="serve",
            use_structured_outputs_names=True,
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
    file.write_text(json.dumps(model), encoding="utf-8")


def _without_missing_operators(graph: Any) -> Any:
    """The graph without operators that TF.js does not have, or does not have for the types that it uses here."""
    import tensorflow as tf

    definition = graph.as_graph_def()
    complements = [node for node in definition.node if node.op == "Erfc"]
    masks = [node for node in definition.node if node.op == "ReverseV2" and node.attr["T"].type == tf.bool]
    if not complements and not masks:
        return graph
    for node in complements:
        _by_erf(definition, node)
    for node in masks:
        _by_numbers(definition, node)
    with tf.Graph().as_default() as rewritten:
        tf.graph_util.import_graph_def(definition, name="")
    return rewritten


def _by_erf(definition: Any, node: Any) -> None:
    """Replace Erfc, with which TensorFlow computes GELU, by 1 - Erf."""
    import tensorflow as tf

    erf, one = definition.node.add(), definition.node.add()
    erf.CopyFrom(node)
    erf.op, erf.name = "Erf", f"{node.name}/erf"
    one.op, one.name = "Const", f"{node.name}/one"
    one.input.append(f"^{erf.name}")  # in the same loop, if the node is in one
    one.attr["dtype"].CopyFrom(node.attr["T"])
    one.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(1, node.attr["T"].type))
    node.op, node.input[:] = "Sub", [one.name, erf.name]


def _by_numbers(definition: Any, node: Any) -> None:
    """Reverse a mask as integers: the WebAssembly backend reads four bytes of each value, and masks have one."""
    import tensorflow as tf

    mask, reverse = definition.node.add(), definition.node.add()
    reverse.CopyFrom(node)
    mask.op, mask.name, mask.input[:] = "Cast", f"{node.name}/mask", [node.input[0]]
    mask.attr["SrcT"].type, mask.attr["DstT"].type = tf.bool.as_datatype_enum, tf.int32.as_datatype_enum
    reverse.name, reverse.input[0] = f"{node.name}/numbers", mask.name
    reverse.attr["T"].type = tf.int32.as_datatype_enum
    node.op, node.input[:] = "Cast", [reverse.name]
    node.attr.clear()
    node.attr["SrcT"].type, node.attr["DstT"].type = tf.int32.as_datatype_enum, tf.bool.as_datatype_enum


def _converter() -> Any:
    """tensorflowjs' converter, imported with empty modules in place of `UNUSED`.

    This changes the process, so an export runs in its own process (`python -m export`).
    """
    for name in UNUSED:
        if name not in sys.modules:
            module = ModuleType(name)
            module.__spec__ = importlib.machinery.ModuleSpec(name, None)
            module.__path__ = []
            sys.modules[name] = module
    sys.modules["jax.experimental"].jax2tf = sys.modules["jax.experimental.jax2tf"]  # type: ignore[attr-defined]
    from tensorflowjs.converters import tf_saved_model_conversion_v2

    return tf_saved_model_conversion_v2
