"""How both exporters to SavedModel write it: with the manifest's names, and two signatures over the same weights.

Keras and onnx2tf both lose the output's name, and a browser's LiteRT needs a static batch. So the function is
wrapped once more: `serving_default` takes any batch, `batch1` takes one row.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import tensorflow as tf

from contract.manifest import Manifest, TensorSpec

SIGNATURES: dict[str, int | None] = {"serving_default": None, "batch1": 1}
"""Signature -> its batch."""


def save(
    function: Callable[..., Sequence[Any]], variables: Sequence[Any], manifest: Manifest, target: Path
) -> Sequence[Path]:
    """Write `function` as a SavedModel into `target`.

    `function` takes the manifest's inputs in their order, as tensors, and returns its outputs in their order.
    `variables` are the tf.Variables that it reads, and whatever else has to be saved for it, such as tables.
    If a whole Keras model were tracked instead, the converter to TF Lite would not see that they are constant.
    """
    module = tf.Module()
    module.variables_read = list(variables)

    def named(*tensors: Any) -> dict[str, Any]:
        outputs = dict(zip((spec.name for spec in manifest.outputs), function(*tensors), strict=True))
        for spec in manifest.outputs:
            # This only checks and records the shape; tf.ensure_shape would be an operator, which TF.js cannot run.
            outputs[spec.name].set_shape(spec.shape_at(manifest.batch))
        return outputs

    signatures = {
        signature: tf.function(named, autograph=False).get_concrete_function(
            *(tensor_spec(spec, manifest.batch or batch) for spec in manifest.inputs)
        )
        for signature, batch in SIGNATURES.items()
    }
    # A converter may have made variables that belong to no layer: all that the functions read has to be saved.
    known = {variable.ref() for variable in variables if isinstance(variable, tf.Variable)}
    read = (variable for signature in signatures.values() for variable in signature.graph.variables)
    module.others_read = list({variable.ref(): variable for variable in read if variable.ref() not in known}.values())
    tf.saved_model.save(module, str(target), signatures=signatures)
    return [path for path in target.rglob("*") if path.is_file()]


def tensor_spec(spec: TensorSpec, batch: int | None) -> Any:
    """The input as TensorFlow describes it, with this batch where it has one."""
    dtype = tf.string if spec.dtype == "bytes" else spec.dtype
    return tf.TensorSpec(spec.shape_at(batch), dtype, name=spec.name)
