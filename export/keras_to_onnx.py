"""keras -> onnx. Load the result with `onnxruntime.InferenceSession("model.onnx")`."""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import keras
import numpy as np
import tensorflow as tf
from keras.src.export.saved_model_export_archive import SavedModelExportArchive
from tensorflow.python.ops import math_ops

from contract.manifest import Manifest
from export import tf2onnx_operators
from export.keras_model import load_to_export
from export.known_operators import in_known_operators
from export.onnx_graph import finish_onnx, sparing_memory, write_frozen
from export.signatures import tensor_spec

CONVERTERS = ("keras", "tf2onnx", "onnx")


def by_keras(parent: Path, manifest: Manifest, target: Path) -> Sequence[Path]:
    """Write `model.onnx`, with the source's names and a free batch."""
    model = load_to_export(parent, manifest)
    # A Sequential that was loaded from a file can be exported only after a call.
    zeros = [np.zeros(spec.sizes_at(1), spec.dtype) for spec in manifest.inputs]
    model(zeros[0] if len(zeros) == 1 else zeros)
    path = target / "model.onnx"
    tf2onnx_operators.teach()
    with _gelu_by_erf(), in_known_operators(), _nothing_tracked(), sparing_memory():
        model.export(path, format="onnx", verbose=False)
    finish_onnx(path, manifest)
    return [path]


def by_frozen_graph(parent: Path, manifest: Manifest, target: Path) -> Sequence[Path]:
    """Write the same from the graph of one call, in which everything that does not vary is a constant.

    Keras's own export makes inputs of tensors that a layer keeps beside its weights, such as Normalization's mean.
    """
    model = load_to_export(parent, manifest)

    def call(*tensors: Any) -> Any:
        return keras.tree.flatten(model(tensors[0] if len(tensors) == 1 else list(tensors), training=False))

    specs = [tensor_spec(spec, manifest.batch) for spec in manifest.inputs]
    with _gelu_by_erf(), in_known_operators():
        return [write_frozen(tf.function(call).get_concrete_function(*specs), manifest, target)]


@contextlib.contextmanager
def _gelu_by_erf() -> Iterator[None]:
    """Trace GELU with Erf: TensorFlow uses Erfc, which is 1 - Erf, and which ONNX does not have.

    Only exports to ONNX do this: the converter to TF Lite recognises GELU by its Erfc, and has no Erf.
    """
    with mock.patch.object(math_ops, "erfc", lambda x, name=None: 1.0 - tf.math.erf(x)):
        yield


@contextlib.contextmanager
def _nothing_tracked() -> Iterator[None]:
    """Trace the model once. Before Keras hands its function to tf2onnx, it collects what a SavedModel would need, and
    traces the model twice for that. Nothing of it goes into an ONNX file, and it takes longer than tf2onnx."""
    with mock.patch.object(SavedModelExportArchive, "_filter_and_track_resources", lambda archive: None):
        yield
