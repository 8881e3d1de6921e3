"""TF.js layers models: Keras 2's layers as JSON, and their weights. tf_keras rebuilds them; the rest is keras2.py's."""

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tf_keras
from numpy.typing import NDArray

from bring.description import Description
from bring.readers.keras2 import KNOWN, Keras2Source
from contract.errors import BroughtError, one_line


class LayersSource(Keras2Source):
    note = f"Its layers were rebuilt by tf_keras {tf_keras.__version__}, and go on as a SavedModel."


def read(path: Path, description: Description) -> LayersSource:
    """The model of a model.json and the weights beside it. Raises BroughtError."""
    try:
        content = json.loads(path.read_bytes())
        topology = content["modelTopology"]
        config = topology.get("model_config", topology)
        model = tf_keras.models.model_from_json(json.dumps(config), custom_objects=KNOWN)
        weights = dict(_weights(path.parent, content["weightsManifest"]))
    except Exception as error:  # Keras may raise anything on a damaged file
        raise BroughtError(
            f"tf_keras {tf_keras.__version__} cannot rebuild {path.name}: {one_line(error, 600)}"
        ) from error
    model.set_weights(_in_order(model, weights, path.name))
    return LayersSource(model, path.name)


def _in_order(model: Any, weights: Mapping[str, NDArray[Any]], name: str) -> list[NDArray[Any]]:
    """The weights in the model's order: by their names, or as they come where those are others.

    Raises BroughtError where they do not fit.
    """
    wanted = {variable.name.removesuffix(":0"): tuple(variable.shape) for variable in model.weights}
    known = weights if wanted.keys() <= weights.keys() else dict(zip(wanted, weights.values(), strict=False))
    if other := [key for key, shape in wanted.items() if key not in known or known[key].shape != shape]:
        got = list(known[other[0]].shape) if other[0] in known else "none"
        raise BroughtError(
            f"{name} has other weights than its layers: {other[0]} is {got}, expected {list(wanted[other[0]])}. "
            "Convert the model again, and bring the whole folder."
        )
    return [known[key] for key in wanted]


def _weights(folder: Path, manifest: Any) -> Iterator[tuple[str, NDArray[Any]]]:
    """Each weight by its name, as fractions where it was quantised."""
    for group in manifest:
        data = b"".join((folder / name).read_bytes() for name in group["paths"])
        at = 0
        for weight in group["weights"]:
            how = weight.get("quantization", {})
            dtype = np.dtype(how.get("dtype", weight["dtype"]))
            count = math.prod(weight["shape"])
            values = np.frombuffer(data, dtype, count, at).reshape(weight["shape"])
            at += count * dtype.itemsize
            if "scale" in how:
                values = values * np.float32(how["scale"]) + np.float32(how["min"])
            yield weight["name"], values.astype(weight["dtype"])
