"""keras -> savedmodel. Load the result with `tf.saved_model.load(folder).signatures["serving_default"]`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from contract.manifest import Manifest
from export import Written, signatures
from export.keras_model import computed_in, load_to_export
from export.known_operators import in_known_operators
from export.overflow import without_overflow

CONVERTERS = ("keras", "tensorflow-cpu")


def export(parent: Path, manifest: Manifest, target: Path) -> Written:
    """Write the SavedModel's files, with the signatures `serving_default` and `batch1`."""
    model = load_to_export(parent, manifest)

    def function(*tensors: Any) -> Sequence[Any]:
        outputs = model(tensors[0] if len(tensors) == 1 else list(tensors), training=False)
        return outputs if isinstance(outputs, list | tuple) else [outputs]

    with in_known_operators(), without_overflow():
        files = signatures.save(function, [weight.value for weight in model.weights], manifest, target)
    return Written(files, {"computed_in": dtypes} if (dtypes := computed_in(model)) else {})
