"""Files for browsers: compressed once, cached by their content, and only public ones."""

import functools
import gzip
import hashlib
import mimetypes
import os
from pathlib import Path

from flask import Response, request
from werkzeug.exceptions import NotFound
from werkzeug.security import safe_join

from contract.errors import ArtifactMissing, ModelUnavailable
from contract.manifest import MANIFEST
from contract.parity_result import PARITY
from serve.catalog import ServedModel

COMPRESSED = frozenset({".png", ".jpg", ".woff2", ".gz"})
"""Suffixes of files that gzip does not make smaller."""

TYPES = {
    ".mjs": "text/javascript",
    ".js": "text/javascript",
    ".wasm": "application/wasm",
    ".json": "application/json",
    ".log": "text/plain",
}
"""Browsers insist on these, and the tables of systems differ."""


def page_file(folder: Path, name: str) -> Response:
    """A file below `folder`, or 404. Names with a hash in them, as Vite writes them, may be cached for good."""
    path = safe_join(str(folder), name)
    if path is None or not os.path.isfile(path):  # noqa: PTH113 - Path.is_file raises on names that are too long
        raise NotFound
    response, _ = _answer(Path(path))
    forever = name.startswith("assets/")
    response.headers["Cache-Control"] = "public, max-age=31536000, immutable" if forever else "no-cache"
    return response


def artifact_file(model: ServedModel, name: str) -> Response:
    """A file of an artifact. Raises ArtifactMissing for a name that its manifest does not have."""
    known = [*model.described.files, MANIFEST, PARITY]
    path = model.folder / name
    if name not in known or not path.is_file():
        raise ArtifactMissing(f"{model.name} has no file {name[:200]!r}. Its files: {', '.join(known)}.")
    response, digest = _answer(path)
    if digest != model.described.files.get(name, digest):
        raise ModelUnavailable(f"{path} changed since {model.name} was loaded. Start the service again.")
    response.headers["Cache-Control"] = (
        "no-cache"  # browsers check it each time, and get it again only when it has changed
    )
    return response


def _answer(path: Path) -> tuple[Response, str]:
    """The answer, and the sha256 of the file. Raises NotFound for a file that was removed meanwhile."""
    compress = path.suffix not in COMPRESSED and request.accept_encodings["gzip"] > 0
    try:
        status = path.stat()
        data, digest = _read(path, status.st_mtime_ns, status.st_size, compress)
    except OSError:
        raise NotFound from None
    kind = TYPES.get(path.suffix) or mimetypes.guess_type(path.name)[0] or "application/octet-stream"
    response = Response(data, content_type=f"{kind}; charset=utf-8" if kind.startswith("text/") else kind)
    response.headers["Vary"] = "Accept-Encoding"
    if compress:
        response.headers["Content-Encoding"] = "gzip"
    response.set_etag(f"{digest}-gzip" if compress else digest)
    response.make_conditional(request)
    return response, digest


@functools.lru_cache(maxsize=64)
def _read(path: Path, modified: int, size: int, compress: bool) -> tuple[bytes, str]:
    """A file's bytes, compressed or not, and the sha256 of the uncompressed ones; cached until the file changes."""
    data = path.read_bytes()
    digest = hashlib.sha256(data).hexdigest()
    return (gzip.compress(data, 6, mtime=0) if compress else data), digest
