"""savedmodel -> tflite. Load the result with `ai_edge_litert.interpreter.Interpreter("model.tflite")`.

One file with two signatures over the same weights: `serving_default` takes any batch (the server), `batch1` takes one
row (browsers and phones, whose LiteRT refuses a free batch).
"""

from collections.abc import Sequence
from pathlib import Path

import tensorflow as tf

from contract.manifest import Manifest

CONVERTERS = ("tensorflow-cpu",)


def export(parent: Path, manifest: Manifest, target: Path) -> Sequence[Path]:
    """Write `model.tflite`, with LiteRT's built-in operators only."""
    # Subgraph 0, which callers without signatures run, is the static one.
    return _converted(parent, target, ["batch1", "serving_default"])


def export_one(parent: Path, manifest: Manifest, target: Path) -> Sequence[Path]:
    """Write the same for one row at a time: some operators are converted only where every size is known."""
    return _converted(parent, target, ["batch1"])


def _converted(parent: Path, target: Path, signatures: list[str]) -> Sequence[Path]:
    converter = tf.lite.TFLiteConverter.from_saved_model(str(parent), signature_keys=signatures)
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
    path = target / "model.tflite"
    path.write_bytes(converter.convert())
    return [path]
