"""What flows along the edges of an ONNX graph while TensorFlow traces it.

Most values are tensors, or arrays where they are known. Two kinds are kept as they are for as long as possible: a
tensor whose channels are last, because convolutions want it so, and a list of sizes, because a shape of which some
sizes are known gives faster artifacts than a tensor of unknown numbers.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray


class Untranslated(Exception):
    """A setting of an operator has no translation. The graph adds which node has it."""


class ChannelsLast:
    """A value (N, C, ...) that is held as a tensor (N, ..., C); it is permuted only where something needs its order."""

    def __init__(self, tensor: Any) -> None:
        self.tensor = tensor
        self._first: Any = None

    @property
    def rank(self) -> int:
        return int(self.tensor.shape.rank)

    @property
    def first(self) -> Any:
        """The tensor (N, C, ...)."""
        if self._first is None:
            *_, channels = shape = self.tensor.shape.as_list()
            if channels == 1 or all(size == 1 for size in shape[1:-1]):  # no value changes its place
                sizes = sizes_of(self.tensor)
                self._first = reshaped(self.tensor, [sizes[0], sizes[-1], *sizes[1:-1]])
            else:
                self._first = tf.transpose(self.tensor, [0, self.rank - 1, *range(1, self.rank - 1)])
        return self._first


@dataclass(frozen=True)
class Sizes:
    """A vector of whole numbers, or one of them, each an int or a scalar tensor of int32."""

    items: tuple[Any, ...]
    is_vector: bool = True

    def tensor(self) -> Any:
        """As ONNX has it: int64."""
        if all(isinstance(item, int) for item in self.items):
            return np.array(self.items if self.is_vector else self.items[0], np.int64)
        whole = tf.cast(tf.stack([tf.cast(item, tf.int32) for item in self.items]), tf.int64)
        return whole if self.is_vector else whole[0]


def plain(value: Any) -> Any:
    """The value as an array or a tensor in ONNX's own order of axes."""
    if isinstance(value, ChannelsLast):
        return value.first
    return value.tensor() if isinstance(value, Sizes) else value


def channels_last(value: Any) -> Any:
    """A value (N, C, ...) as a tensor (N, ..., C)."""
    if isinstance(value, ChannelsLast):
        return value.tensor
    value = plain(value)
    rank = len(value.shape)
    shape = list(value.shape)
    if not isinstance(value, np.ndarray) and (shape[1] == 1 or all(size == 1 for size in shape[2:])):
        sizes = sizes_of(value)
        return reshaped(value, [sizes[0], *sizes[2:], sizes[1]])
    return tf.transpose(value, [0, *range(2, rank), 1])


def turned(value: Any, rank: int) -> Any:
    """The value as one operand of an element-wise operator whose others have the channels last; None if it has no such
    form."""
    if isinstance(value, ChannelsLast):
        return value.tensor if value.rank == rank else None
    if isinstance(value, np.ndarray) and value.ndim <= rank:
        whole = value.reshape([1] * (rank - value.ndim) + list(value.shape))
        return np.moveaxis(whole, 1, -1)
    return None


def sizes_of(value: Any) -> list[Any]:
    """The sizes of a value in ONNX's order of axes: an int where it is known, else a scalar tensor."""
    if isinstance(value, ChannelsLast):
        first, *spatial, channels = sizes_of(value.tensor)
        return [first, channels, *spatial]
    if isinstance(value, Sizes):
        return [len(value.items)] if value.is_vector else []
    if isinstance(value, np.ndarray):
        return list(value.shape)
    if value.shape.rank is None:
        raise Untranslated("a tensor of unknown rank")
    known = value.shape.as_list()
    return known if None not in known else [
        tf.shape(value)[axis] if size is None else size for axis, size in enumerate(known)
    ]  # fmt: skip


def items_of(value: Any) -> list[Any] | None:
    """The numbers of a vector of sizes, or None where they are a tensor."""
    if isinstance(value, Sizes):
        return list(value.items)
    return [int(item) for item in value.reshape(-1)] if isinstance(value, np.ndarray) else None


def reshaped(tensor: Any, sizes: list[Any]) -> Any:
    """The tensor in another shape; its one size that is not known is left to the operator, which converters prefer."""
    known = [size for size in sizes if isinstance(size, int)]
    if len(known) == len(sizes) - 1 and -1 not in known and 0 not in known:
        sizes = [size if isinstance(size, int) else -1 for size in sizes]
    return tf.reshape(tensor, sizes)


def constant(value: Any) -> NDArray[Any]:
    """The array of a value that has to be known. Raises Untranslated where it is computed from the inputs."""
    value = plain(value)
    if not isinstance(value, np.ndarray):
        raise Untranslated("a setting that is computed from the inputs")
    return value
