"""Whole numbers are divided downwards in ONNX, too, as Python, Keras and TensorFlow do it."""

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import tensorflow as tf

from contract.manifest import Manifest, TensorSpec
from export.onnx_graph import write_frozen

ENDS = np.iinfo(np.int32)
NUMBERS = [ENDS.min, ENDS.min + 1, -7, -6, -4, -3, -2, -1, 0, 1, 2, 3, 5, 6, ENDS.max]


@pytest.mark.parametrize("divisor", [3, -3, 1, 7])
@pytest.mark.parametrize("dtype", ["int32", "int64", "float32"])
def test_floor_division_and_remainder_are_those_of_numpy(tmp_path: Path, dtype: str, divisor: int) -> None:
    numbers = np.array(NUMBERS[2:-1] if dtype == "float32" else NUMBERS, dtype)
    specs = tuple(TensorSpec(name, dtype, (None,), "N") for name in ("quotient", "remainder"))
    manifest = Manifest("net", "onnx", None, (TensorSpec("x", dtype, (None,), "N"),), specs, None, ())
    function = tf.function(lambda x: (x // divisor, x % divisor))
    path = write_frozen(function.get_concrete_function(tf.TensorSpec([None], dtype)), manifest, tmp_path)
    quotient, remainder = onnxruntime.InferenceSession(path).run(None, {"x": numbers})
    np.testing.assert_array_equal(quotient, numbers // np.array(divisor, dtype))
    np.testing.assert_array_equal(remainder, numbers % np.array(divisor, dtype))
