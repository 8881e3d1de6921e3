"""TensorFlow SavedModel, called by its signature."""

from pathlib import Path

import tensorflow as tf

from contract.manifest import Manifest
from contract.tensors import Tensors
from serve.runtimes.keras import set_threads


class SavedModelRuntime:
    """Runs the signature `serving_default`, which takes any batch."""

    platform = "tensorflow_savedmodel"
    in_process = True

    def __init__(self, folder: Path, manifest: Manifest, threads: int) -> None:
        self.title = f"TensorFlow {tf.__version__}"
        set_threads(threads)
        self._model = tf.saved_model.load(str(folder))  # the function below dies with it
        self._function = self._model.signatures["serving_default"]

    def predict(self, inputs: Tensors) -> Tensors:
        answers = self._function(**{name: tf.constant(value) for name, value in inputs.items()})
        return {name: answer.numpy() for name, answer in answers.items()}

    def close(self) -> None:
        """Nothing is held outside this process's memory."""
