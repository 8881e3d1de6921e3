"""Where a graph chooses between two tensors, what is not chosen has no part in the answer, in ONNX too."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import tensorflow as tf

from contract.manifest import Manifest, TensorSpec
from export.onnx_graph import write_frozen

VALUES = np.array([-np.inf, -1e4, -100, -1, -0.0, 0, 0.5, 4, 100, 1e4, np.inf, np.nan], np.float32)


def answers(function: Callable[[Any], Any], values: Any, folder: Path, dtype: str = "float32") -> Any:
    given = values.dtype.name
    specs = [TensorSpec(name, each, (None,), "N") for name, each in (("x", given), ("y", dtype))]
    manifest = Manifest("net", "onnx", None, (specs[0],), (specs[1],), None, ())
    path = write_frozen(tf.function(function).get_concrete_function(tf.TensorSpec([None], given)), manifest, folder)
    (got,) = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, {"x": values})
    return got


CHOICES: dict[str, tuple[Callable[[Any], Any], Callable[[Any], Any]]] = {
    "a root of what is negative": (
        lambda x: tf.where(x > 0, tf.sqrt(x), -x),
        lambda x: np.where(x > 0, np.sqrt(x), -x),
    ),
    "NaN and infinity are masked": (
        lambda x: tf.where(tf.math.is_finite(x), x, tf.zeros_like(x)),
        lambda x: np.where(np.isfinite(x), x, 0),
    ),
    "a large power": (
        lambda x: tf.where(x < 50.0, tf.exp(x), 7.0),
        lambda x: np.where(x < 50, np.exp(x), 7),
    ),
    "ELU with another factor": (
        lambda x: tf.where(x > 0, x, 0.7 * tf.math.expm1(x)),
        lambda x: np.where(x > 0, x, 0.7 * np.expm1(x)),
    ),
    "the operator of TensorFlow 1": (
        lambda x: tf.raw_ops.Select(condition=x > 0, x=1 / x, y=x * 2),
        lambda x: np.where(x > 0, 1 / x, x * 2),
    ),
}


@pytest.mark.parametrize("case", CHOICES)
def test_what_is_not_chosen_has_no_part_in_the_answer(tmp_path: Path, case: str) -> None:
    function, arithmetic = CHOICES[case]
    with np.errstate(all="ignore"):
        expected = arithmetic(VALUES)
    np.testing.assert_allclose(answers(function, VALUES, tmp_path), expected, rtol=1e-6, atol=1e-6)


def test_whole_numbers_and_booleans_are_chosen_too(tmp_path: Path) -> None:
    numbers = np.array([-(2**31), -3, 0, 3, 2**31 - 1], np.int32)
    got = answers(lambda x: tf.where(x > 0, x, 1 - x // 2), numbers, tmp_path, "int32")
    np.testing.assert_array_equal(got, np.where(numbers > 0, numbers, 1 - numbers // 2))
    got = answers(lambda x: tf.where(x > 0, x < 5, x < -5), numbers, tmp_path, "bool")
    np.testing.assert_array_equal(got, np.where(numbers > 0, numbers < 5, numbers < -5))


def test_one_condition_for_each_row_is_that_of_the_whole_row(tmp_path: Path) -> None:
    """TensorFlow 1 took such a condition as it is; elsewhere it would be one for each column."""
    rows = np.array([[-1, 4, -9], [1, 4, 9]], np.float32)
    specs = [TensorSpec(name, "float32", (None, 3), "NC") for name in ("x", "y")]
    manifest = Manifest("net", "onnx", None, (specs[0],), (specs[1],), None, ())
    function = tf.function(lambda x: tf.raw_ops.Select(condition=x[:, 0] > 0, x=tf.sqrt(x), y=-x))
    path = write_frozen(function.get_concrete_function(tf.TensorSpec([None, 3])), manifest, tmp_path)
    (got,) = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, {"x": rows})
    np.testing.assert_allclose(got, [[1, -4, 9], [1, 2, 3]])
