"""A reciprocal of a root answers in TF Lite as in TensorFlow, at zero too. Where zero cannot be, it stays as it is."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter
from tensorflow.lite.python import schema_py_generated as schema

from contract.manifest import Manifest, TensorSpec
from export import savedmodel_to_tflite, signatures
from export.tflite_file import ALIGNMENT
from export.tflite_roots import with_roots

ROWS = np.array([[0, 0, 0], [1e-22, 0, 0], [3, 0, 4]], np.float32)
WEIGHTS = np.arange(1, 8, dtype=np.float32)


def normalised(x: Any) -> Any:
    """As Keras's UnitNormalization."""
    return x * tf.minimum(tf.math.rsqrt(tf.reduce_sum(x * x, -1, keepdims=True)), 1e12)


def divided(x: Any) -> Any:
    return (x + 1) / tf.sqrt(tf.reduce_sum(x, -1, keepdims=True))


def guarded(x: Any) -> Any:
    """As in a normalisation of layers: what is under the root is above zero."""
    return x * tf.math.rsqrt(tf.reduce_mean(x * x, -1, keepdims=True) + 1e-6)


def convert(function: Callable[[Any], Any]) -> bytes:
    """By TensorFlow alone."""
    traced = tf.function(function).get_concrete_function(tf.TensorSpec([None, 3], tf.float32))
    content: bytes = tf.lite.TFLiteConverter.from_concrete_functions([traced]).convert()
    return content


def run(content: bytes, rows: Any) -> tuple[Any, list[str]]:
    """The answers, and the operators."""
    interpreter = Interpreter(model_content=content)
    (entry,), (output,) = interpreter.get_input_details(), interpreter.get_output_details()
    interpreter.resize_tensor_input(entry["index"], rows.shape)
    interpreter.allocate_tensors()
    interpreter.set_tensor(entry["index"], rows)
    interpreter.invoke()
    return interpreter.get_tensor(output["index"]), [each["op_name"] for each in interpreter._get_ops_details()]


@pytest.mark.parametrize("function", [normalised, divided, tf.math.rsqrt])
def test_it_answers_as_tensorflow_does_at_zero(function: Callable[[Any], Any]) -> None:
    plain = convert(function)
    assert np.isnan(run(plain, ROWS)[0][0]).all(), "TF Lite is right by itself: this is not needed any more"
    answers, operators = run(with_roots(plain), ROWS)
    np.testing.assert_allclose(answers, function(tf.constant(ROWS)), rtol=1e-6)
    assert "RSQRT" not in operators and "SQRT" in operators


def test_what_cannot_be_zero_stays_one_operator() -> None:
    content = convert(guarded)
    assert "RSQRT" in run(content, ROWS)[1]
    assert with_roots(content) is content


def test_constants_stay_and_are_aligned() -> None:
    content = with_roots(convert(lambda x: tf.concat([normalised(x), x[:, :1] * WEIGHTS], 1)))
    answers = run(content, ROWS)[0]
    np.testing.assert_allclose(answers[2], np.append([0.6, 0, 0.8], 3 * WEIGHTS), rtol=1e-6)
    model = schema.Model.GetRootAs(content, 0)
    whole = np.frombuffer(content, np.uint8)
    for buffer in map(model.Buffers, range(model.BuffersLength())):
        if buffer.DataLength():
            data = buffer.DataAsNumpy()
            assert (data.ctypes.data - whole.ctypes.data) % ALIGNMENT == 0


def test_the_exporter_writes_it_for_both_signatures(tmp_path: Path) -> None:
    entry, output = TensorSpec("x", "float32", (None, 3), "NC"), TensorSpec("y", "float32", (None, 3), "NC")
    manifest = Manifest("net", "savedmodel", None, (entry,), (output,), None, ())
    (tmp_path / "savedmodel").mkdir()
    signatures.save(lambda x: [normalised(x)], [], manifest, tmp_path / "savedmodel")
    (file,) = savedmodel_to_tflite.export(tmp_path / "savedmodel", manifest, tmp_path)
    interpreter = Interpreter(str(file))
    answers = interpreter.get_signature_runner("serving_default")(x=ROWS)["y"]
    np.testing.assert_allclose(answers[[0, 2]], np.array([[0, 0, 0], [0.6, 0, 0.8]]), rtol=1e-6)
    np.testing.assert_array_equal(interpreter.get_signature_runner("batch1")(x=ROWS[:1])["y"], [[0, 0, 0]])
