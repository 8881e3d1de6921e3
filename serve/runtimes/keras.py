"""Keras, as a frozen graph: `model.predict` costs 50 ms a call, this less than a tenth of a millisecond."""

from pathlib import Path

import keras
import tensorflow as tf

from contract.manifest import Manifest
from contract.tensors import Tensors
from export.keras_model import load_keras
from serve.runtimes.tensorflow_call import eager_call, frozen_call, set_threads


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
        function = tf.function(lambda *tensors: model(tensors[0] if single else list(tensors), training=False))
        concrete = function.get_concrete_function(*specs)
        call = frozen_call(concrete, len(specs), threads)
        if call is None:
            self._function = function  # the concrete one dies with it
        # A concrete function skips Keras's own call path, and the check of the arguments' shapes at every call.
        self._call = call or eager_call(concrete)

    def predict(self, inputs: Tensors) -> Tensors:
        answers = self._call(*(inputs[name] for name in self._inputs))
        return dict(zip(self._outputs, answers, strict=True))

    def close(self) -> None:
        """Nothing is held outside this process's memory."""
