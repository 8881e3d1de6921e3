"""Rows that are picked or reversed by numbers of their own are so in TF.js, too."""

from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

from export.tfjs_gathers import is_gather_by_rows
from export.tfjs_operators import without_missing_operators

LENGTHS = np.array([0, 1, 3, 5], np.int32)


def operators(graph: Any) -> set[str]:
    return {node.op for node in graph.as_graph_def().node}


def answered(traced: Any, rows: Any, *others: Any) -> tuple[Any, set[str]]:
    """What the rewritten graph answers, and its operators."""
    frozen = convert_variables_to_constants_v2(traced)
    assert any(node.op == "ReverseSequence" or is_gather_by_rows(node) for node in frozen.graph.as_graph_def().node)
    graph = without_missing_operators(frozen.graph)
    given = dict(zip((tensor.name for tensor in frozen.inputs), (rows, *others), strict=True))
    assert not any(map(is_gather_by_rows, graph.as_graph_def().node))
    with tf.compat.v1.Session(graph=graph) as session:
        return session.run(frozen.outputs[0].name, given), operators(graph)


@pytest.mark.parametrize(("sequence", "batch"), [(1, 0), (0, 1), (2, 0), (3, 1)])
@pytest.mark.parametrize("dtype", ["float32", "bool"])
def test_each_row_is_reversed_up_to_its_length(sequence: int, batch: int, dtype: str) -> None:
    shape = [3, 2, 6, 7]
    shape[batch], shape[sequence] = len(LENGTHS), 5
    rows = (np.random.default_rng(0).normal(size=shape) * 2).astype(dtype)
    traced = tf.function(lambda x, count: tf.reverse_sequence(x, count, sequence, batch)).get_concrete_function(
        tf.TensorSpec([None] * 4, dtype), tf.TensorSpec([None], tf.int64)
    )
    got, known = answered(traced, rows, LENGTHS)
    np.testing.assert_array_equal(got, tf.reverse_sequence(rows, LENGTHS, sequence, batch))
    assert (got.dtype, "ReverseSequence" in known) == (dtype, False)


@pytest.mark.parametrize(("lengths", "operator"), [([5, 5], "ReverseV2"), ([5, 4], "GatherV2")])
def test_rows_as_long_as_the_axis_need_no_gather(lengths: list[int], operator: str) -> None:
    rows = np.random.default_rng(0).normal(size=(5, 2, 3)).astype(np.float32)
    traced = tf.function(lambda x: tf.reverse_sequence(x, lengths, 0, 1)).get_concrete_function(
        tf.TensorSpec(rows.shape, tf.float32)
    )
    got, known = answered(traced, rows)
    np.testing.assert_array_equal(got, tf.reverse_sequence(rows, lengths, 0, 1))
    assert known & {"ReverseV2", "GatherV2"} == {operator}


@pytest.mark.parametrize(
    ("axis", "batch", "sizes"),
    [(1, 1, (2, 6)), (3, 1, (2, 6)), (-1, 2, (2, 3)), (2, -1, (2, 3, 6))],
)
@pytest.mark.parametrize("dtype", ["float32", "bool"])
def test_each_row_is_picked_from_by_its_own_numbers(axis: int, batch: int, sizes: tuple[int, ...], dtype: str) -> None:
    random = np.random.default_rng(0)
    rows, places = (random.normal(size=(2, 3, 4, 5)) * 2).astype(dtype), random.integers(0, 3, sizes)
    traced = tf.function(lambda x, places: tf.gather(x, places, axis=axis, batch_dims=batch)).get_concrete_function(
        tf.TensorSpec([None] * 4, dtype), tf.TensorSpec([None] * len(sizes), tf.int64)
    )
    got, _ = answered(traced, rows, places)
    np.testing.assert_array_equal(got, tf.gather(rows, places, axis=axis, batch_dims=batch))


def test_it_is_reversed_inside_a_loop() -> None:
    def twice(x: Any, count: Any) -> Any:
        return tf.while_loop(
            lambda turn, _: turn < 2, lambda turn, y: (turn + 1, tf.reverse_sequence(y + 1, count, 1)), (0, x)
        )[1]

    rows = np.random.default_rng(0).normal(size=(4, 5)).astype(np.float32)
    traced = tf.function(twice).get_concrete_function(tf.TensorSpec([None, 5]), tf.TensorSpec([None], tf.int32))
    got, known = answered(traced, rows, LENGTHS)
    np.testing.assert_allclose(got, rows + 2, rtol=1e-6)
    assert "Enter" in known
