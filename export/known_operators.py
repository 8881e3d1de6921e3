"""What TensorFlow computes by operators that converters or runtimes do not know, in those that all of them know."""

import contextlib
from collections.abc import Iterator
from typing import Any
from unittest import mock

import tensorflow as tf
from tensorflow.python.ops import nn_ops, special_math_ops

CHANNELS_LAST = (None, "NWC", "NHWC", "NDHWC")


@contextlib.contextmanager
def in_known_operators() -> Iterator[None]:
    """Trace convolutions of groups as depthwise ones, or as one for each group; sums over products as MatMul.

    Keras has XLA compile convolutions of groups, which no converter looks into; onnx2tf leaves some depthwise ones as
    such, which TF.js does not have, and for which TF Lite takes twice the time. Keras writes attention with Einsum,
    which TF.js does not have either.
    """
    function, convolution, einsum = tf.function, nn_ops.convolution_internal, tf.einsum

    def without_xla(*of: Any, jit_compile: bool | None = None, **others: Any) -> Any:
        return (lambda compiled: compiled) if jit_compile else function(*of, **others)

    def by_groups(inputs: Any, kernel: Any, *others: Any, **settings: Any) -> Any:
        kernel = tf.convert_to_tensor(kernel)
        groups = (inputs.shape[-1] or 0) // (kernel.shape[-2] or 1) if kernel.shape.rank else 0
        if groups <= 1 or others or settings.get("data_format") not in CHANNELS_LAST:
            return convolution(inputs, kernel, *others, **settings)
        strides, dilations = (_pair(settings.get(name)) for name in ("strides", "dilations"))
        if kernel.shape[-2] == 1 and kernel.shape.rank == 4 and strides[0] == strides[1]:
            # Both count the channels that come out by groups: the kernel only has another axis for them.
            kernel = tf.reshape(kernel, [*kernel.shape[:2], groups, -1])
            return tf.nn.depthwise_conv2d(
                inputs, kernel, [1, *strides, 1], settings["padding"], settings.get("data_format"), dilations
            )
        parts = zip(tf.split(inputs, groups, axis=-1), tf.split(kernel, groups, axis=-1), strict=True)
        return tf.concat([convolution(part, own, **settings) for part, own in parts], axis=-1)

    def by_matmul(equation: str, *inputs: Any, **settings: Any) -> Any:
        try:
            return special_math_ops._einsum_v1(equation, *inputs)
        except ValueError:  # an equation that it does not know
            return einsum(equation, *inputs, **settings)

    with (
        mock.patch.object(tf, "function", without_xla),
        mock.patch.object(tf, "einsum", by_matmul),
        mock.patch.object(nn_ops, "convolution_internal", by_groups),
    ):
        yield


def _pair(setting: Any) -> list[int]:
    """A setting of two dimensions, however TensorFlow takes it: none, one number, or one for each of two or four."""
    if setting is None or isinstance(setting, int):
        return [setting or 1] * 2
    given = [int(each) for each in setting]
    return given * 2 if len(given) == 1 else given[1:-1] if len(given) == 4 else given
