"""How each format's file is read for the ledger and for the proof of its weights: one file a family."""

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from contract.formats import family_of


@dataclass(frozen=True)
class Constant:
    """A constant of the file, with its quantisation where it has one."""

    name: str
    dtype: str
    size: int
    """In bytes."""
    values: NDArray[Any]
    """As stored."""
    scale: NDArray[np.float64] | None = None
    """One for the tensor, one for each index along `axis`, or one for each value; None where it is not quantised."""
    zero: NDArray[Any] | None = None
    """The stored value that stands for 0; between two of them, where the format has a least value instead."""
    axis: int = 0

    def restored(self) -> NDArray[np.float64]:
        """The real values that it stands for."""
        stored = self.values.astype(np.float64)
        if self.scale is None:
            return stored
        zero = np.zeros(1) if self.zero is None else self.zero
        return (stored - self._along(zero)) * self._along(self.scale)

    def step(self) -> NDArray[np.float64]:
        """The distance of neighbouring values, to broadcast against them; for a float, that at each value."""
        if self.scale is not None:
            return self._along(self.scale)
        return np.asarray(np.spacing(np.abs(self.values)), np.float64)

    def _along(self, numbers: NDArray[Any]) -> NDArray[np.float64]:
        wide = np.asarray(numbers, np.float64)
        if wide.shape == self.values.shape:
            return wide
        if wide.size == 1:
            return wide.reshape([1] * self.values.ndim)
        return wide.reshape([-1 if axis == self.axis else 1 for axis in range(self.values.ndim)])


@dataclass(frozen=True)
class Contents:
    """What is in a file."""

    inputs: Mapping[str, str]
    outputs: Mapping[str, str]
    constants: tuple[Constant, ...]
    activations: Mapping[str, int]
    computing: Mapping[str, int]
    casts: int
    inserted: int
    faults: tuple[str, ...] = field(default=())
    """What contradicts itself in the file, one phrase each."""


READERS = {
    family: f"verify.precision.files.{family}:read" for family in ("onnx", "tflite", "tfjs", "executorch", "torch")
}
"""Family -> `module:function`, which needs its own packages."""


def reader_of(format: str) -> Callable[[Path], Contents] | None:
    """What reads the folder of an artifact in this format; None where nothing does."""
    name, _, function = READERS.get(family_of(format), "").partition(":")
    if not name:
        return None
    read: Callable[[Path], Contents] = getattr(importlib.import_module(name), function)
    return read
