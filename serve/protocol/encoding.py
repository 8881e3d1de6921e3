"""Compressed bodies: gzip and deflate, in both directions. The limit on a request counts the decompressed bytes."""

import contextlib
import gzip
import io
import zlib

from contract.errors import BodyTooLarge, InputError, UnsupportedEncoding

WINDOWS = {
    "gzip": (16 + zlib.MAX_WBITS,),
    "x-gzip": (16 + zlib.MAX_WBITS,),
    "deflate": (zlib.MAX_WBITS, -zlib.MAX_WBITS),
}
"""The window sizes by which zlib knows each encoding. Callers send deflate with or without zlib's own header."""

PIECE = 65_536
"""Bytes that are taken, or made, at once."""

WORTH_IT = 1000
"""Bytes; a smaller answer is not compressed."""


def decompress(body: bytes, encoding: str, limit: int) -> bytes:
    """Undo a Content-Encoding. Raises UnsupportedEncoding, BodyTooLarge past `limit` bytes, InputError when broken.

    Only one layer is undone: each further one could multiply the cost of a request.
    """
    names = [name for part in encoding.split(",") if (name := part.strip().lower()) not in ("", "identity")]
    if not names:
        return body
    if len(names) > 1 or names[0] not in WINDOWS:
        raise UnsupportedEncoding(f"The Content-Encoding is {encoding[:80]!r}, expected gzip, deflate or none, once.")
    return _inflate(body, names[0], limit)


def _inflate(body: bytes, name: str, limit: int) -> bytes:
    for window in WINDOWS[name]:
        with contextlib.suppress(zlib.error):
            return _inflate_window(body, window, limit)
    raise InputError(f"The body is not complete {name} data: got {len(body)} bytes.")


def _inflate_window(body: bytes, window: int, limit: int) -> bytes:
    """Raises BodyTooLarge, or zlib.error for what is not complete.

    It is done piece by piece, into a place that grows: to make millions of bytes at once holds up other threads.
    """
    inflater, result = zlib.decompressobj(window), io.BytesIO()
    for start in range(0, len(body), PIECE):
        rest, made = body[start : start + PIECE], PIECE
        while not inflater.eof and (rest or made == PIECE):
            made = result.write(inflater.decompress(rest, PIECE))
            rest = inflater.unconsumed_tail
            if result.tell() > limit:
                raise BodyTooLarge(f"The request is larger than {limit} bytes when decompressed. Send less at once.")
        if inflater.unused_data or (inflater.eof and start + PIECE < len(body)):
            raise zlib.error("there is more behind the end")
    if not inflater.eof:
        raise zlib.error("the end is missing")
    return result.getvalue()


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
