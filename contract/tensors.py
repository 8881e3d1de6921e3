"""Tensors in memory: what a manifest's dtypes are in NumPy, and how a model's inputs and outputs are handed over."""

import functools
import itertools
import operator
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Tensors = Mapping[str, NDArray[Any]]
"""A model's inputs or outputs by name."""

FEW_LISTS, LISTS_A_BYTE = 1 << 16, 4


def is_endless(shape: Sequence[int], size: int) -> bool:
    """Whether `size` bytes of values in this shape make far more lists in each other than bytes: a shape costs none."""
    lists: int = sum(itertools.accumulate(shape[:-1], operator.mul))
    return lists > FEW_LISTS + LISTS_A_BYTE * size


@functools.cache  # NumPy's own look-up takes 1 us
def numpy_dtype(name: str) -> np.dtype[Any]:
    """The NumPy dtype of a manifest's dtype; byte strings are kept as `bytes` objects."""
    if name == "bytes":
        return np.dtype(object)
    if name == "bfloat16":
        import ml_dtypes  # only those who use such tensors need it

        bfloat16: np.dtype[Any] = np.dtype(ml_dtypes.bfloat16)
        return bfloat16
    return np.dtype(name)
