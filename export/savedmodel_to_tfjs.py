"""savedmodel -> tfjs: a graph model. Load the result with `tf.loadGraphModel(".../model.json")` in JavaScript."""

import importlib.machinery
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import keras  # noqa: F401  # first: it would take the empty jax below for a real one

from contract.manifest import Manifest

CONVERTERS = ("tensorflowjs", "tensorflow-cpu")

UNUSED = ("tensorflow_decision_forests", "tensorflow_hub", "jax", "jax.experimental", "jax.experimental.jax2tf", "flax")
"""Packages that tensorflowjs imports for its other input formats, and that its published requirements break on."""


def export(parent: Path, manifest: Manifest, target: Path) -> Sequence[Path]:
    """Write `model.json` and its weight files: convolution, bias and relu are fused, constants folded."""
    _stand_in_for_unused()
    from tensorflowjs.converters import tf_saved_model_conversion_v2 as conversion

    return _converted(conversion, parent, target)


def unfused(parent: Path, manifest: Manifest, target: Path) -> Sequence[Path]:
    """The same with every operator by itself: inside loops, fused ones get shapes that TF.js does not take."""
    _stand_in_for_unused()
    from tensorflowjs.converters import tf_saved_model_conversion_v2 as conversion

    optimise = conversion._run_grappler

    def without_fusion(config: Any, *others: Any) -> Any:
        steps = config.graph_options.rewrite_options.optimizers
        steps[:] = [step for step in steps if step != "remap"]
        return optimise(config, *others)

    conversion._run_grappler = without_fusion
    try:
        return _converted(conversion, parent, target)
    finally:
        conversion._run_grappler = optimise


def _converted(conversion: Any, parent: Path, target: Path) -> Sequence[Path]:
    optimise = conversion.optimize_graph
    conversion.optimize_graph = lambda graph, *others, **more: optimise(_by_erf(graph), *others, **more)
    try:
        conversion.convert_tf_saved_model(
            str(parent),
            str(target),
            signature_def="serving_default",
            saved_model_tags="serve",
            use_structured_outputs_names=True,
        )
    finally:
        conversion.optimize_graph = optimise
    return list(target.iterdir())


def _by_erf(graph: Any) -> Any:
    """The graph with 1 - Erf for Erfc, by which TensorFlow computes GELU, and which TF.js does not have."""
    import tensorflow as tf

    definition = graph.as_graph_def()
    complements = [node for node in definition.node if node.op == "Erfc"]
    if not complements:
        return graph
    for node in complements:
        erf, one = definition.node.add(), definition.node.add()
        erf.CopyFrom(node)
        erf.op, erf.name = "Erf", f"{node.name}/erf"
        one.op, one.name = "Const", f"{node.name}/one"
        one.input.append(f"^{erf.name}")  # inside the same loop, where there is one
        one.attr["dtype"].CopyFrom(node.attr["T"])
        one.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(1, node.attr["T"].type))
        node.op, node.input[:] = "Sub", [one.name, erf.name]
    with tf.Graph().as_default() as rewritten:
        tf.graph_util.import_graph_def(definition, name="")
    return rewritten


def _stand_in_for_unused() -> None:
    """Let `import tensorflowjs` succeed without `UNUSED`: empty modules take the places of those that are missing.

    This changes the process, so an export runs in one of its own (`python -m export`).
    """
    for name in UNUSED:
        if name not in sys.modules:
            module = ModuleType(name)
            module.__spec__ = importlib.machinery.ModuleSpec(name, None)
            module.__path__ = []
            sys.modules[name] = module
    sys.modules["jax.experimental"].jax2tf = sys.modules["jax.experimental.jax2tf"]  # type: ignore[attr-defined]
