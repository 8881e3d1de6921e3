"""The complementary error function is one minus the error function in ONNX, for every value."""

import math
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import tensorflow as tf

from contract.manifest import Manifest, TensorSpec
from export.onnx_graph import write_frozen


def test_it_is_what_the_standard_library_computes(tmp_path: Path) -> None:
    values = np.linspace(-5, 5, 41, dtype=np.float32)
    specs = (TensorSpec("x", "float32", (None,), "N"),), (TensorSpec("y", "float32", (None,), "N"),)
    function = tf.function(lambda x: tf.math.erfc(x)).get_concrete_function(tf.TensorSpec([None], tf.float32))
    path = write_frozen(function, Manifest("net", "onnx", None, *specs, None, ()), tmp_path)
    assert "Erf" in [node.op_type for node in onnx.load(path).graph.node]
    (got,) = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, {"x": values})
    np.testing.assert_allclose(got, [math.erfc(value) for value in values], atol=1e-6)
