"""The error function by arithmetic is the standard library's, and puts TF Lite's operators in place of TensorFlow's."""

import math
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter

from contract.errors import ExportError
from contract.manifest import Manifest, TensorSpec
from export import signatures
from export.error_function import erf, erfc
from export.savedmodel_to_tflite import export, written_out

VALUES = np.linspace(-6, 6, 101, dtype=np.float32)


def test_it_is_what_the_standard_library_computes() -> None:
    np.testing.assert_allclose(erf(tf.constant(VALUES)), [math.erf(value) for value in VALUES], atol=5e-7)
    np.testing.assert_allclose(erfc(tf.constant(VALUES)), [math.erfc(value) for value in VALUES], atol=5e-7)


def manifest() -> Manifest:
    """Names whose order is not the alphabet's."""
    specs = [TensorSpec(name, "float32", (None, 4), "NC") for name in ("b", "a", "z", "y")]
    return Manifest("net", "savedmodel", None, tuple(specs[:2]), tuple(specs[2:]), None, ())


def test_tf_lite_answers_as_the_savedmodel_does(tmp_path: Path) -> None:
    parent, target = tmp_path / "savedmodel", tmp_path / "tflite"
    target.mkdir()
    scale = tf.Variable(np.linspace(0.5, 2, 4, dtype=np.float32))
    signatures.save(lambda b, a: [tf.math.erf(a * scale) - b, tf.math.erfc(b)], [scale], manifest(), parent)
    with pytest.raises(Exception, match="Erf"):
        export(parent, manifest(), target)
    written_out(parent, manifest(), target)
    rows = {name: np.random.default_rng(seed).normal(size=(3, 4)).astype(np.float32) for seed, name in enumerate("ab")}
    expected = tf.saved_model.load(str(parent)).signatures["serving_default"](**rows)
    got = Interpreter(str(target / "model.tflite")).get_signature_runner("serving_default")(**rows)
    for name in ("z", "y"):
        np.testing.assert_allclose(got[name], expected[name], atol=1e-6)


def test_a_graph_without_it_is_left_to_the_other_routes(tmp_path: Path) -> None:
    signatures.save(lambda b, a: [a + b, tf.tanh(b)], [], manifest(), tmp_path / "savedmodel")
    with pytest.raises(ExportError, match="There is no error function in the graph"):
        written_out(tmp_path / "savedmodel", manifest(), tmp_path)
