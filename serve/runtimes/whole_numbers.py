"""Runtimes that compute all whole numbers in 32 bits: a larger one would become another number, and no error."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from contract.errors import InputError

LIMITS = np.iinfo(np.int32)


def check_32_bits(name: str, value: NDArray[Any], runtime: str) -> None:
    """Raise InputError where an input of whole numbers holds one beyond int32; `runtime` is what holds no others."""
    if value.size and not LIMITS.min <= value.min() <= value.max() <= LIMITS.max:
        raise InputError(
            f"The input {name!r} has values from {value.min()} to {value.max()}; {runtime} holds whole numbers of 32 "
            f"bits, {LIMITS.min} to {LIMITS.max}. Ask another format of this model."
        )
