"""Trace a graph with operators that every converter and runtime knows, in place of those that some do not know."""

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import tensorflow as tf
from tensorflow.python.ops import nn_ops, special_math_ops

CHANNELS_LAST = (None, "NWC", "NHWC", "NDHWC")


@contextlib.contextmanager
def in_known_operators() -> Iterator[None]:
    """Trace grouped convolutions as depthwise ones, or as one for each group, and Einsum as MatMul.

    Keras compiles grouped convolutions with XLA, which no converter can read. onnx2tf writes some depthwise
    convolutions as grouped ones, which TF.js does not have, and which take twice the time in TF Lite. Keras writes
    attention with Einsum, which TF.js does not have either.
    """
    function, convolution, einsum = tf.function, nn_ops.convolution_internal, tf.einsum

    def without_xla(*arguments: Any, jit_compile: bool | None = None, **others: Any) -> Any:
        return (lambda compiled: compiled) if jit_compile else function(*arguments, **others)

    def by_groups(inputs: Any, kernel: Any, *others: Any, **settings: Any) -> Any:
        kernel = tf.convert_to_tensor(kernel)
        groups = (inputs.shape[-1] or 0) // (kernel.shape[-2] or 1) if kernel.shape.rank else 0
        if groups <= 1 or others or settings.get("data_format") not in CHANNELS_LAST:
            return convolution(inputs, kernel, *others, **settings)
        strides, dilations = (_pair(settings.get(name)) for name in ("strides", "dilations"))
        if kernel.shape[-2] == 1 and kernel.shape.rank == 4 and strides[0] == strides[1]:
            # Both order the output channels by group: the depthwise kernel only has another axis for them.
            kernel = tf.reshape(kernel, [*kernel.shape[:2], groups, -1])
            return tf.nn.depthwise_conv2d(
                inputs, kernel, [1, *strides, 1], settings["padding"], settings.get("data_format"), dilations
            )
        parts = zip(tf.split(inputs, groups, axis=-1), tf.split(kernel, groups, axis=-1), strict=True)
        return tf.concat([convolution(part, own, **settings) for part, own in parts], axis=-1)

    def by_matmul(equation: str, *inputs: Any, **settings: Any) -> Any:
        try:
            return special_math_ops._einsum_v1(equation, *inputs)
        except ValueError:  # it does not know this equation
            return einsum(equation, *inputs, **settings)

    with (
        mock.patch.object(tf, "function", without_xla),
        mock.patch.object(tf, "einsum", by_matmul),
        mock.patch.object(nn_ops, "convolution_internal", by_groups),
        _plain_places(),
    ):
        yield


@contextlib.contextmanager
def _plain_places() -> Iterator[None]:
    """Trace the places of the largest and of the smallest value as TensorFlow's own operators find them.

    Keras looks at the bits of each value to tell 0 from -0, which no converter can read. Between the two it is a tie.
    """
    if "keras" not in sys.modules:
        yield
        return
    from keras.src.backend.tensorflow import numpy

    def place(find: Callable[..., Any]) -> Callable[..., Any]:
        def of(x: Any, axis: int | None = None, keepdims: bool = False) -> Any:
            x = tf.convert_to_tensor(x)
            indices = find(tf.reshape(x, [-1]) if axis is None else x, axis=axis or 0, output_type=tf.int32)
            if not keepdims:
                return indices
            return tf.reshape(indices, [1] * x.shape.rank) if axis is None else tf.expand_dims(indices, axis)

        return of

    with (
        mock.patch.object(numpy, "argmax", place(tf.argmax)),
        mock.patch.object(numpy, "argmin", place(tf.argmin)),
    ):
        yield


def _pair(setting: Any) -> list[int]:
    """A setting for two dimensions, from any form that TensorFlow accepts: none, one number, or a list of 1, 2 or 4."""
    if setting is None or isinstance(setting, int):
        return [setting or 1] * 2
    values = [int(value) for value in setting]
    return values * 2 if len(values) == 1 else values[1:-1] if len(values) == 4 else values
