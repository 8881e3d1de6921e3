"""What is really in an artifact of reduced precision: dtypes, bytes, and what computes in them.

Its name proves nothing of that. The parity gate writes this beside the manifest, as `ledger.json`. It holds for exactly
the bytes that were read, and on the processor that they were loaded on.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from contract.manifest import MANIFEST, sha256_of, write_json
from contract.records import RecordError, content_of, decode, encode, parse

LEDGER = "ledger.json"

NEWER: Mapping[str, Any] = {"classes": [], "layers": [], "fast_on": []}
"""What ledgers that are older do not have."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ClassLoss:
    """A class of which a variant gets fewer right than its source."""

    label: str
    rows: int
    change: float
    """Of the share of its rows that are right, below 0."""
    low: float
    high: float
    """Its interval, for the same rows in pairs: the intervals of all classes hold together at 95 %."""

    @property
    def is_beyond_noise(self) -> bool:
        return self.high < 0

    def __str__(self) -> str:
        """`Shirt -0.40 points (-1.1 to +0.3)`."""
        low, high = 100 * self.low, 100 * self.high
        return f"{self.label} {100 * self.change:+.2f} points ({low:+.1f} to {high:+.1f})"


@dataclass(frozen=True)
class LayerLoss:
    """A layer in which a variant's values part from those of its float32 artifact."""

    name: str
    op: str
    own: float
    """By how much its error exceeds that of the values that it is computed from: both are root mean squares, as shares
    of the float32 values', and add in squares."""
    error: float
    """Of its values, with all that reached it."""

    def __str__(self) -> str:
        """`conv2d_1/Relu 1.20 %`."""
        return f"{self.name} {100 * self.own:.2g} %"


@dataclass(frozen=True)
class Ledger:
    """One artifact's file, and what its runtime makes of it."""

    artifact_sha256: str
    """Of its manifest, which names the sha256 of every file."""
    dtype: str
    """The reduced dtype that its name claims; empty where the name is none that is known."""
    inputs: Mapping[str, str]
    outputs: Mapping[str, str]
    """Name -> dtype, as the file has them."""
    weights: Mapping[str, int]
    """Dtype -> bytes of constants."""
    activations: Mapping[str, int]
    """Dtype -> how many tensors between operators."""
    computing: Mapping[str, int]
    """Dtype -> how many of the operators that multiply matrices compute in it, when the runtime has loaded the file."""
    casts: int
    """Operators of the file that convert between dtypes: casts, quantisation, dequantisation."""
    inserted: int
    """How many the runtime has after loading it, less those of the file; below 0 where it removed some."""
    processor: str
    """With its vector instructions: runtimes choose kernels by these."""
    classes: tuple[ClassLoss, ...] = ()
    """The classes that lose most, at most three; none where none loses, or answers are not classes."""
    layers: tuple[LayerLoss, ...] = ()
    """The layers that lose most, at most three; none where they could not be looked at."""
    fast_on: tuple[str, ...] = ()
    """The vector instructions by which its dtype is fast; none where that does not depend on them."""

    @property
    def holds_dtype(self) -> bool:
        """Whether the file has weights of the dtype that its name claims."""
        return not self.dtype or self.weights.get(self.dtype, 0) > 0

    @property
    def is_stored_only(self) -> bool:
        """Whether nothing computes in the dtype that weights are stored in."""
        return bool(self.dtype) and not self.computing.get(self.dtype)


def write_ledger(folder: Path, ledger: Ledger) -> None:
    """Write `ledger.json` beside the manifest in `folder`, atomically."""
    write_json(folder / LEDGER, encode(ledger) | {"stored_only": ledger.is_stored_only})


def decoded(content: bytes) -> Ledger:
    """The ledger that a file has as its content. Raises RecordError."""
    data = parse(content)
    if isinstance(data, dict):
        data.pop("stored_only", None)  # for readers that have no rules of their own
        data = {**NEWER, **data}
    return decode(Ledger, data)


def read_ledger(folder: Path) -> Ledger | None:
    """The ledger of the artifact in `folder`; None where there is none for exactly these bytes."""
    try:
        ledger = decoded(content_of(folder / LEDGER))
        return ledger if ledger.artifact_sha256 == sha256_of(folder / MANIFEST) else None
    except FileNotFoundError:
        return None
    except (OSError, RecordError) as error:
        log.warning("%s cannot be read: %s. Run `make verify`.", folder / LEDGER, error)
        return None
