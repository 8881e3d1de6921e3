"""savedmodel -> onnx, by tf2onnx. Load the result with `onnxruntime.InferenceSession("model.onnx")`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tensorflow as tf

from contract.manifest import Manifest
from export.onnx_graph import write_frozen
from export.signatures import tensor_spec

CONVERTERS = ("tf2onnx", "tensorflow-cpu", "onnx")


def export(parent: Path, manifest: Manifest, target: Path) -> Sequence[Path]:
    """Write `model.onnx`, with the source's names."""
    model = tf.saved_model.load(str(parent))
    function = model.signatures["serving_default"]

    def call(*tensors: Any) -> Any:
        answers = function(**dict(zip((spec.name for spec in manifest.inputs), tensors, strict=True)))
        return [answers[spec.name] for spec in manifest.outputs]

    specs = [tensor_spec(spec, manifest.batch) for spec in manifest.inputs]
    return [write_frozen(tf.function(call).get_concrete_function(*specs), manifest, target)]
