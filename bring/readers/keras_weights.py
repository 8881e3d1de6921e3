"""Keras files that hold only weights, `.h5`: ARCH builds the model, and Keras loads them into it.

A model of Keras's own layers then goes on as if it had been saved whole. Any other becomes a SavedModel: a file of
Keras would lack the code of its layers.
"""

import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import keras
import tensorflow as tf

from bring.description import DTYPES, Description
from bring.inputs import WEIGHTS_ALONE, described_inputs
from bring.readers import network
from bring.readers.keras import KerasSource
from bring.verdict import examine
from bring.wrapping import Source
from contract.errors import BroughtError, RosettaError, one_line, shortened
from contract.manifest import TensorSpec

NUMBERS = [dtype for dtype in DTYPES if dtype != "bytes"]
OF_TRAINING = ("optimizer", "optimizer_weights", "metrics", "seed_generator")
"""The groups of a file that are not weights."""


def read(path: Path, description: Description) -> Source:
    """Raises BroughtError."""
    built, note = network.build(path, description, "keras.Model", in_short)
    library = _library_of(built, description)
    whole = _with_inputs(library, built, path, description)
    _load(built, path, description)
    source: Any = _as_file(whole, description) if library is keras else None
    if source is None:
        from bring.readers.keras2 import Keras2Source

        source = Keras2Source(whole, path.name)
        what = "has layers that are not Keras's own" if library is keras else "is a model of tf_keras"
        source.note = f"It {what}, and goes on as a SavedModel."
    source.note = " ".join(filter(None, [getattr(source, "note", ""), note]))
    return source  # type: ignore[no-any-return]


def in_short(error: Exception) -> str:
    return shortened(one_line(error), 600)


def _library_of(built: Any, description: Description) -> Any:
    """Keras 3, or tf_keras, by the model that was built. Raises BroughtError for anything else."""
    if isinstance(built, keras.Model):
        return keras
    import tf_keras

    if isinstance(built, tf_keras.Model):
        return tf_keras
    raise BroughtError(
        f"ARCH={description.architecture} returned a {type(built).__name__}, expected a keras.Model, as the file has "
        "weights of Keras."
    )


def _with_inputs(library: Any, built: Any, path: Path, description: Description) -> Any:
    """The model, called with the inputs that the user describes where it does not say them. Raises BroughtError."""
    if getattr(built, "inputs", None):
        return built
    if description.preprocess is not None and description.preprocess.layout is None:
        description = replace(description, preprocess=replace(description.preprocess, layout="NHWC"))
    specs = described_inputs(path, description, NUMBERS, WEIGHTS_ALONE)
    entries = [_entry(library, spec) for spec in specs]
    try:
        return library.Model(entries, built(entries[0] if len(entries) == 1 else entries))
    except Exception as error:  # it is the user's own code
        package = network.absent_in(error)
        needs = f" It needs {package}, which is not there." if package else ""
        raise BroughtError(
            f"The model of ARCH={description.architecture} cannot be called with {_in_words(specs)}: "
            f"{in_short(error)}{needs}"
        ) from error


def _entry(library: Any, spec: TensorSpec) -> Any:
    if spec.batch_axis == 0:
        return library.Input(spec.shape[1:], dtype=spec.dtype, name=spec.name)
    raise BroughtError(f"The input {spec.name} has no batch as its first axis: a model of Keras has it there.")


def _in_words(specs: Sequence[TensorSpec]) -> str:
    return ", ".join(f"{spec.name} {[-1 if size is None else size for size in spec.shape]}" for spec in specs)


def _load(built: Any, path: Path, description: Description) -> None:
    """Load the weights. Raises BroughtError where the model is not the one that they are of."""
    with h5py.File(path, "r") as file:
        is_old = "layer_names" in file.attrs or "model_weights" in file
        count = sum(1 for _ in _arrays(file))
    unlike = f"The weights in {path.name} are not those of ARCH={description.architecture}:"
    # Keras goes by the name.
    named = Path(shutil.copy(path, Path.cwd() / f"weights{'.h5' if is_old else '.weights.h5'}"))
    try:
        built.load_weights(named)
    except Exception as error:  # Keras may raise anything
        raise BroughtError(f"{unlike} {_mismatch(error)}") from error
    finally:
        named.unlink()
    if count > len(built.weights):  # Keras leaves them out without a word
        raise BroughtError(f"{unlike} the file has {count} arrays, and the model has {len(built.weights)}.")


def _mismatch(error: Exception) -> str:
    """What Keras says about weights that do not fit, without the values."""
    text = re.sub(r", value=\[.*?\]>", ">", str(error), flags=re.DOTALL)
    shapes = re.search(r"variable\.shape=(\([^)]*\)), Received: value\.shape=(\([^)]*\)).*?path=([^,>]+)", text)
    if shapes:
        return f"{shapes[3]} has the shape {shapes[1]}, and the file has {shapes[2]} for it."
    return in_short(type(error)(text)) if type(error) in (ValueError, TypeError, KeyError) else in_short(error)


def _arrays(group: Any) -> Iterator[Any]:
    """The arrays of the model in a file of weights."""
    for name, member in group.items():
        if name in OF_TRAINING:
            continue
        if isinstance(member, h5py.Dataset):
            yield member
        else:
            yield from _arrays(member)


def _as_file(model: Any, description: Description) -> KerasSource | None:
    """The model, saved as a file and read again; None where a file does not hold all of it, or would run code."""
    file = Path.cwd() / "model.keras"
    try:
        model.save(file)
        if examine(file).findings:
            return None
        return KerasSource(file, description)
    except (RosettaError, TypeError, ValueError, NotImplementedError, AttributeError, tf.errors.OpError):
        return None
