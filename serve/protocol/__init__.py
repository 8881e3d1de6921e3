"""Bytes <-> requests: everything that a caller sends is checked here, and nowhere else.

    tensors.py      what a tensor is on the wire: datatypes, shapes, JSON numbers and raw bytes
    oip.py          the Open Inference Protocol v2, with the binary tensor extension
    oip_reader.py   the fast ways to read it
    tfserving.py    TensorFlow Serving's REST API
    json_text.py    long JSON: counted before it is made, its numbers read in pieces
    encoding.py     compressed bodies
    memory.py       what was worked out for one request and holds for the next

Nothing here depends on Flask or ASGI, on the runtimes or on the statistics: a front hands over a body and its headers,
and sends the `Reply`.
"""

from dataclasses import dataclass, field

from contract.tensors import Tensors

MAX_BATCH = 4096
"""Rows in one request; a `.pt2` program is exported for as many."""

VERSION = "1"
"""The first version of every model."""


@dataclass(slots=True)  # a frozen one takes twice as long to make, and there is one for each request
class InferRequest:
    """A request whose tensors fit the model."""

    inputs: Tensors
    outputs: tuple[tuple[str, bool], ...]
    """The requested outputs, in order; True for raw bytes in the answer."""
    id: str | None = None
    timeout: float | None = None
    """The request's own time limit in seconds."""
    allow_nan: bool = False
    """Whether a JSON answer may hold NaN and Infinity, which JSON does not have; they are null else."""
    times: bool = False
    """Whether the answer is to state how long the request waited and was computed."""


@dataclass(slots=True)
class Reply:
    """An HTTP answer, for any front."""

    body: bytes
    code: int = 200
    content_type: str = "application/json"
    headers: dict[str, str] = field(default_factory=dict)
    rows: int = 0
    """The rows that a model answered, and the seconds that they waited: for the access log."""
    queue: float = 0.0
