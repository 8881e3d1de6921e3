"""Sequential models that begin without an input layer, as Keras 2.3 and older wrote them.

The first layer names the shape of its input there, with the batch. Keras 3 takes it for the shape of one row, and the
model for one with an axis more, which some layers answer and others do not.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import h5py

NOTE = "Its first layer named the shape of the input, which Keras 3 reads wrong: an input layer stands before it now."


def with_entries(file: Path) -> Path | None:
    """A copy of an `.h5` file, in this process's folder, with an input layer wherever one is missing.

    None where the file misses none, or holds no model.
    """
    with h5py.File(file) as stored:
        text = stored.attrs.get("model_config")
    config = json.loads(text) if text else None
    if not add_entries(config):
        return None
    copy = Path(shutil.copy(file, Path.cwd() / "with_entries.h5"))
    with h5py.File(copy, "r+") as stored:
        stored.attrs["model_config"] = json.dumps(config)
    return copy


def add_entries(config: Any) -> bool:
    """Add the input layers that a model's configuration misses, in nested models too; whether any was missing."""
    if isinstance(config, list):
        return any([*map(add_entries, config)])  # a list: any() stops at the first
    if not isinstance(config, dict):
        return False
    added = config.get("class_name") == "Sequential" and _add_entry(config.get("config"))
    return any([added, *map(add_entries, config.values())])


def _add_entry(model: Any) -> bool:
    layers: Any = model.get("layers") if isinstance(model, dict) else model  # before Keras 2.2.3 it was a list
    try:
        first = layers[0]["config"]
        shape = first["batch_input_shape"]
        name = f"{first['name']}_input"
    except (TypeError, LookupError):
        return False
    if layers[0].get("class_name") == "InputLayer":
        return False
    del first["batch_input_shape"]
    dtype = first["dtype"] if isinstance(first.get("dtype"), str) else "float32"
    entry = {"batch_input_shape": shape, "dtype": dtype, "sparse": False, "name": name}
    layers.insert(0, {"class_name": "InputLayer", "config": entry})
    return True
