"""Compressed bodies: gzip and deflate, in both directions. The limit on a request counts the decompressed bytes."""

import gzip
import zlib

from contract.errors import BodyTooLarge, InputError, UnsupportedEncoding

WINDOWS = {
    "gzip": (16 + zlib.MAX_WBITS,),
    "x-gzip": (16 + zlib.MAX_WBITS,),
    "deflate": (zlib.MAX_WBITS, -zlib.MAX_WBITS),
}
"""The window sizes by which zlib knows each encoding. Callers send deflate with or without zlib's own header."""

WORTH_IT = 1000
"""Bytes; a smaller answer is not compressed."""


def decompress(body: bytes, encoding: str, limit: int) -> bytes:
    """Undo a Content-Encoding. Raises UnsupportedEncoding, BodyTooLarge past `limit` bytes, InputError when broken."""
    for name in reversed([part.strip().lower() for part in encoding.split(",")]):
        if name in ("", "identity"):
            continue
        if name not in WINDOWS:
            raise UnsupportedEncoding(f"The Content-Encoding is {name[:80]!r}, expected gzip, deflate or none.")
        body = _inflate(body, name, limit)
    return body


def _inflate(body: bytes, name: str, limit: int) -> bytes:
    for window in WINDOWS[name]:
        inflater = zlib.decompressobj(window)
        try:
            result = inflater.decompress(body, limit + 1)
        except zlib.error:
            continue
        if len(result) > limit:
            raise BodyTooLarge(f"The request is larger than {limit} bytes when decompressed. Send less at once.")
        if inflater.eof and not inflater.unused_data:
            return result
    raise InputError(f"The body is not complete {name} data: got {len(body)} bytes.")


def compress(body: bytes, accepted: str) -> tuple[bytes, str | None]:
    """The body, compressed if the caller's Accept-Encoding allows it, and the encoding's name; None if it does not."""
    if not accepted or len(body) < WORTH_IT:
        return body, None
    names = _accepted(accepted)
    if "gzip" in names:
        return gzip.compress(body, 1, mtime=0), "gzip"
    if "deflate" in names:
        return zlib.compress(body, 1), "deflate"
    return body, None


def _accepted(header: str) -> set[str]:
    """The names in an Accept-Encoding header, without those that it refuses by `q=0`."""
    parts = (part.replace(" ", "").lower().partition(";") for part in header.split(","))
    return {name for name, _, quality in parts if quality not in ("q=0", "q=0.0", "q=0.00", "q=0.000")}
