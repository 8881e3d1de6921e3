"""A graph that is traced with known operators computes what TensorFlow's own operators compute."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from export.known_operators import in_known_operators


def grouped(groups: int, filters: int, **settings: Any) -> Any:
    return keras.Sequential([keras.Input((9, 8, 6)), keras.layers.Conv2D(filters, 3, groups=groups, **settings)])


def attention() -> Any:
    tokens = keras.Input((5, 8))
    return keras.Model(tokens, keras.layers.MultiHeadAttention(2, 4)(tokens, tokens))


def summed(equation: str) -> Any:
    rows = keras.Input((4, 4))
    return keras.Model(rows, keras.ops.einsum(equation, rows, rows))


@pytest.mark.parametrize(
    ("build", "known"),
    [
        (lambda: grouped(6, 12), {"DepthwiseConv2dNative"}),
        (lambda: grouped(6, 6, strides=2, padding="same"), {"DepthwiseConv2dNative"}),
        (lambda: grouped(6, 6, dilation_rate=2), {"DepthwiseConv2dNative"}),
        (lambda: grouped(6, 6, strides=(1, 2)), {"Conv2D", "ConcatV2"}),
        (lambda: grouped(2, 4), {"Conv2D", "ConcatV2"}),
        (lambda: grouped(1, 4), {"Conv2D"}),
        (attention, {"Softmax", "BatchMatMulV2"}),
        (lambda: summed("abc,adc->abd"), {"BatchMatMulV2"}),
        (lambda: summed("abb,acd->abd"), {"Einsum"}),  # of a diagonal: it stays as it is
    ],
    ids=["depthwise", "strides", "dilations", "uneven strides", "groups", "one group", "attention", "sums", "diagonal"],
)
def test_known_operators_compute_the_same(build: Callable[[], Any], known: set[str]) -> None:
    keras.utils.set_random_seed(3)
    model = build()
    rows = np.random.default_rng(3).normal(size=(2, *model.input_shape[1:])).astype(np.float32)
    with in_known_operators():
        traced = tf.function(lambda rows: model(rows, training=False)).get_concrete_function(
            tf.TensorSpec((None, *model.input_shape[1:]), tf.float32)
        )
    operators = {operation.type for operation in traced.graph.get_operations()}
    assert known <= operators
    assert ("Einsum" in operators) == ("Einsum" in known) and not any("Call" in operator for operator in operators)
    np.testing.assert_allclose(traced(tf.constant(rows)), model(rows, training=False), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("axis", "keepdims"), [(1, False), (-1, True), (None, False), (None, True)])
@pytest.mark.parametrize("name", ["argmax", "argmin"])
def test_places_are_found_without_looking_at_bits(name: str, axis: int | None, keepdims: bool) -> None:
    rows = np.random.default_rng(3).normal(size=(2, 5, 3)).astype(np.float32)
    find = getattr(keras.ops, name)
    with in_known_operators():
        traced = tf.function(lambda rows: find(rows, axis=axis, keepdims=keepdims)).get_concrete_function(
            tf.TensorSpec((None, 5, 3), tf.float32)
        )
    assert "Bitcast" not in {operation.type for operation in traced.graph.get_operations()}
    expected = getattr(np, name)(rows, axis=axis, keepdims=keepdims)
    np.testing.assert_array_equal(traced(tf.constant(rows)), expected)
    np.testing.assert_array_equal(find(rows, axis=axis, keepdims=keepdims), expected)
