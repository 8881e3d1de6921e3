"""Grouped convolutions as every converter knows them. Keras has XLA compile them, and no converter looks into that."""

import contextlib
from collections.abc import Iterator
from typing import Any
from unittest import mock

import keras
import tensorflow as tf
from keras.src.backend.tensorflow import nn


@contextlib.contextmanager
def without_xla() -> Iterator[None]:
    """Trace a convolution of groups as a depthwise one, or as one for each group with the results put together."""
    usual = nn.conv

    def conv(
        inputs: Any,
        kernel: Any,
        strides: Any = 1,
        padding: str = "valid",
        data_format: str | None = None,
        dilation_rate: Any = 1,
    ) -> Any:
        settings: dict[str, Any] = {
            "strides": strides,
            "padding": padding,
            "data_format": data_format,
            "dilation_rate": dilation_rate,
        }
        groups = (inputs.shape[-1] or 0) // kernel.shape[-2]
        if (data_format or keras.config.image_data_format()) != "channels_last" or groups <= 1:
            return usual(inputs, kernel, **settings)
        if kernel.shape[-2] == 1 and len(kernel.shape) == 4:
            # Both count the channels that come out by groups: the kernel only has another axis for them.
            settings |= {name: tuple(value) for name, value in settings.items() if isinstance(value, list)}
            return nn.depthwise_conv(inputs, tf.reshape(kernel, [*kernel.shape[:2], groups, -1]), **settings)
        parts = zip(tf.split(inputs, groups, axis=-1), tf.split(kernel, groups, axis=-1), strict=True)
        return tf.concat([usual(part, own, **settings) for part, own in parts], axis=-1)

    with mock.patch.object(nn, "conv", conv):
        yield
