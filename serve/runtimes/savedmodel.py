"""TensorFlow SavedModel: its signature, as a frozen graph where that is possible."""

from pathlib import Path

import tensorflow as tf

from contract.manifest import Manifest
from contract.tensors import Tensors
from serve.runtimes.tensorflow_call import eager_call, frozen_call, set_threads


class SavedModelRuntime:
    """Runs the signature `serving_default`, which takes any batch."""

    platform = "tensorflow_savedmodel"
    in_process = True

    def __init__(self, folder: Path, manifest: Manifest, threads: int) -> None:
        self.title = f"TensorFlow {tf.__version__}"
        set_threads(threads)
        model = tf.saved_model.load(str(folder))
        signature = model.signatures["serving_default"]
        # Both are dictionaries by name; TensorFlow's flat order is by sorted names.
        self._inputs = sorted(signature.structured_input_signature[1])
        self._outputs = sorted(signature.structured_outputs)
        call = frozen_call(signature, len(self._inputs), threads)
        if call is None:
            self._model = model  # the signature dies with it
        self._call = call or eager_call(lambda *tensors: signature(**dict(zip(self._inputs, tensors, strict=True))))

    def predict(self, inputs: Tensors) -> Tensors:
        answers = self._call(*(inputs[name] for name in self._inputs))
        return dict(zip(self._outputs, answers, strict=True))

    def close(self) -> None:
        """Nothing is held outside this process's memory."""
