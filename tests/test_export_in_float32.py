"""A network of float64 or float16 is computed in float32 by TF Lite, and its inputs and outputs keep their dtype."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter

from contract.errors import ExportError
from contract.manifest import Manifest, TensorSpec
from export import signatures
from export.in_float32 import in_float32
from export.savedmodel_to_tflite import computed_in_float32, export

ROWS = np.random.default_rng(0).normal(size=(3, 4))
KERNEL = np.random.default_rng(1).normal(size=(4, 4))


def manifest(given: str, answered: str, sizes: tuple[int | None, ...] = (None, 4)) -> Manifest:
    x, y = (TensorSpec(name, dtype, sizes, "N" * len(sizes)) for name, dtype in (("x", given), ("y", answered)))
    return Manifest("net", "savedmodel", None, (x,), (y,), None, ())


def looped(x: Any) -> list[Any]:
    """A network with a function of its own: the body of a loop."""
    _, y = tf.while_loop(
        lambda turn, _: turn < 3, lambda turn, y: (turn + 1, tf.tanh(y @ tf.cast(KERNEL, y.dtype))), (0, x)
    )
    return [tf.nn.softmax(y)]


def answer(folder: Path, rows: Any) -> Any:
    return Interpreter(str(folder / "model.tflite")).get_signature_runner("serving_default")(x=rows)["y"]


@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-6), ("float16", 2e-3)])
def test_tf_lite_computes_in_float32_and_answers_in_the_sources_dtype(
    tmp_path: Path, dtype: str, tolerance: float
) -> None:
    parent, net = tmp_path / "savedmodel", manifest(dtype, dtype)
    signatures.save(looped, [], net, parent)
    with pytest.raises(Exception, match="Softmax"):
        export(parent, net, tmp_path)
    computed_in_float32(parent, net, tmp_path)
    rows = ROWS.astype(dtype)
    got = answer(tmp_path, rows)
    assert got.dtype == dtype
    np.testing.assert_allclose(got, looped(rows)[0], atol=tolerance)


def test_a_graph_of_float32_is_left_to_the_other_routes(tmp_path: Path) -> None:
    net = manifest("float32", "float32")
    signatures.save(lambda x: [tf.nn.softmax(x)], [], net, tmp_path / "savedmodel")
    with pytest.raises(ExportError, match="There is neither float64 nor float16"):
        computed_in_float32(tmp_path / "savedmodel", net, tmp_path)


def test_a_constant_beyond_float32_is_infinite_without_a_warning() -> None:
    definition = tf.function(lambda x: x * 1e300).get_concrete_function(tf.TensorSpec([], tf.float64)).graph
    graph = definition.as_graph_def()
    assert in_float32(graph)
    (constant,) = (node.attr["value"].tensor for node in graph.node if node.op == "Const")
    assert tf.make_ndarray(constant) == np.inf
    assert not in_float32(graph)


@pytest.mark.parametrize("divide", [tf.truncatediv, tf.math.floordiv], ids=["truncate", "floor"])
def test_sizes_of_64_bits_are_divided(tmp_path: Path, divide: Any) -> None:
    def halves(x: Any) -> list[Any]:
        half = divide(-tf.shape(x, tf.int64)[1], 2)
        return [tf.concat([x[:, half:], x[:, :half]], 1)]

    parent, net = tmp_path / "savedmodel", manifest("float32", "float32", (None, None))
    signatures.save(halves, [], net, parent)
    export(parent, net, tmp_path)
    for width in (5, 8):
        rows = np.random.default_rng(width).normal(size=(3, width)).astype(np.float32)
        np.testing.assert_array_equal(answer(tmp_path, rows), halves(rows)[0])


def test_numbers_that_a_caller_gives_are_not_divided_in_32_bits(tmp_path: Path) -> None:
    net = manifest("int64", "int64")
    signatures.save(lambda x: [tf.math.floordiv(x, 3)], [], net, tmp_path / "savedmodel")
    with pytest.raises(Exception, match="FloorDiv"):
        export(tmp_path / "savedmodel", net, tmp_path)
