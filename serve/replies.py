"""What every HTTP answer has in common, whichever front sends it: JSON, errors, and the headers that keep it safe."""

from typing import Any

import orjson

from contract.errors import (
    ArtifactError,
    BodyIncomplete,
    BodyTooLarge,
    DeadlineExceeded,
    ImageTooLarge,
    InputError,
    ModelUnavailable,
    Overloaded,
    RosettaError,
    RuntimeFailure,
    UnknownModel,
    UnsupportedEncoding,
    UnsupportedImage,
)
from serve.callers import TooMany
from serve.keys import CHALLENGE, CallRefused, KeyMissing
from serve.protocol import Reply

STATUS_CODES: tuple[tuple[type[RosettaError], int], ...] = (
    (ImageTooLarge, 413),
    (BodyTooLarge, 413),
    (BodyIncomplete, 408),
    (UnsupportedImage, 415),
    (UnsupportedEncoding, 415),
    (InputError, 400),
    (KeyMissing, 401),
    (CallRefused, 403),
    (UnknownModel, 404),
    (ArtifactError, 404),
    (TooMany, 429),
    (Overloaded, 503),
    (ModelUnavailable, 503),
    (RuntimeFailure, 503),
    (DeadlineExceeded, 504),
)
"""The first match counts."""

CODE_HEADERS: dict[int, dict[str, str]] = {
    401: {"WWW-Authenticate": CHALLENGE},
    429: {"Retry-After": "1"},
    503: {"Retry-After": "1"},
}
"""What an error's answer tells its caller besides the message."""

DATA_HEADERS = {"X-Content-Type-Options": "nosniff", "Cross-Origin-Resource-Policy": "same-origin"}
"""Sent with everything. Browsers do not show data, so it needs no more: each header costs a tensor's answer 2 us."""

HEADERS = {
    **DATA_HEADERS,
    # In-browser runtimes use threads only in a page that is isolated from other origins.
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
    # blob: is where the runtimes' worker scripts live; 'wasm-unsafe-eval' allows WebAssembly, and no eval().
    "Content-Security-Policy": (
        "default-src 'self'; script-src 'self' 'wasm-unsafe-eval' blob:; worker-src 'self' blob:; "
        "img-src 'self' blob: data:; media-src 'self' blob:; style-src 'self' 'unsafe-inline'; "
        "connect-src 'self' blob: data:; object-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Referrer-Policy": "no-referrer",
}
"""Sent with what a browser may show or run."""

DATA_TYPES = ("application/json", "application/octet-stream")


def json_reply(data: Any, code: int = 200) -> Reply:
    """`data` as JSON; NaN becomes null."""
    return Reply(orjson.dumps(data), code)


def error_reply(error: RosettaError) -> Reply:
    """A known error as JSON, with its HTTP status."""
    code = status_code(error)
    return Reply(orjson.dumps({"error": str(error)}), code, headers=CODE_HEADERS.get(code, {}))


def fault_reply() -> Reply:
    """The reply to a fault of the service itself. The details are in the log alone."""
    return json_reply({"error": "The service failed on this request. Its log states why."}, 500)


def too_large(limit: int) -> BodyTooLarge:
    return BodyTooLarge(f"The request is larger than {limit} bytes, the limit. Send less at once.")


def echoed(request_id: str) -> str | None:
    """A caller's X-Request-ID as it is sent back, and logged; None if it is long, or not plain text."""
    return request_id if request_id.isascii() and request_id.isprintable() and 0 < len(request_id) <= 200 else None


def status_code(error: RosettaError) -> int:
    return next((code for kind, code in STATUS_CODES if isinstance(error, kind)), 500)
