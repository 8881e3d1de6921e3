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
    conversion.convert_tf_saved_model(
        str(parent),
        str(target),
        signature_def="serving_default",
        saved_model_tags="serve",
        use_structured_outputs_names=True,
    )
    return list(target.iterdir())


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
