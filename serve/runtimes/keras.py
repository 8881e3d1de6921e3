"""Keras, as a compiled concrete function: `model.predict` costs 50 ms a call, this a third of a millisecond."""

from pathlib import Path

import keras
import tensorflow as tf

from contract.manifest import Manifest
from contract.tensors import Tensors
from export.keras_model import load_keras


class KerasRuntime:
    """Runs an HDF5 model."""

    platform = "keras_h5"
    in_process = True

    def __init__(self, folder: Path, manifest: Manifest, threads: int) -> None:
        self.title = f"Keras {keras.__version__}"
        set_threads(threads)
        model = load_keras(folder, manifest)
        self._inputs = [spec.name for spec in manifest.inputs]
        self._outputs = [spec.name for spec in manifest.outputs]
        single = len(self._inputs) == 1
        specs = [tf.TensorSpec(spec.shape, spec.dtype, name=spec.name) for spec in manifest.inputs]
        # A concrete function skips Keras's own call path, and the check of the arguments' shapes at every call.
        self._call = tf.function(lambda *tensors: model(tensors[0] if single else list(tensors), training=False))
        self._function = self._call.get_concrete_function(*specs)

    def predict(self, inputs: Tensors) -> Tensors:
        answers = self._function(*(tf.constant(inputs[name]) for name in self._inputs))
        answers = answers if isinstance(answers, list | tuple) else [answers]
        return {name: answer.numpy() for name, answer in zip(self._outputs, answers, strict=True)}

    def close(self) -> None:
        """Nothing is held outside this process's memory."""


def set_threads(threads: int) -> None:
    """TensorFlow's pools have one size for the whole process, which can be set only before its first operation."""
    try:
        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.threading.set_inter_op_parallelism_threads(threads)
    except RuntimeError:
        pass  # another artifact was loaded before, with the same setting
