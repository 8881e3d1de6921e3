"""Bytes <-> requests: everything that a caller sends is checked here, and nowhere else.

    tensors.py      what a tensor is on the wire: datatypes, shapes, JSON numbers and raw bytes
    oip.py          the Open Inference Protocol v2, with the binary tensor extension
    tfserving.py    TensorFlow Serving's REST API

Nothing here knows of Flask or ASGI: both fronts hand over a body and its headers, and send the `Reply` that comes back.
"""

from dataclasses import dataclass, field

from contract.tensors import Tensors

MAX_BATCH = 4096
"""Rows in one request; a `.pt2` program is exported for as many."""

VERSION = "1"
"""The one version of every model."""


@dataclass(frozen=True, slots=True)
class InferRequest:
    """A request whose tensors fit the model."""

    inputs: Tensors
    outputs: tuple[tuple[str, bool], ...]
    """The outputs asked for, in that order; True where the answer's bytes are wanted raw."""
    id: str | None = None
    timeout: float | None = None
    """Seconds that the caller waits, by its own word."""

    @property
    def rows(self) -> int:
        return len(next(iter(self.inputs.values())))


@dataclass(slots=True)  # a frozen one takes twice as long to make, and there is one for each request
class Reply:
    """An HTTP answer, whatever front sends it."""

    body: bytes
    code: int = 200
    content_type: str = "application/json"
    headers: dict[str, str] = field(default_factory=dict)
