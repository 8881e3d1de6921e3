"""One line of JSON for each request. It holds text from callers, so a JSON writer makes it, not a format string."""

import json
import logging
import sys
import urllib.parse
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

_log = logging.getLogger("serve.access")


def open_access_log() -> None:
    """Send the lines to standard output."""
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(logging.Formatter("%(message)s"))
    _log.addHandler(handler)
    _log.setLevel(logging.INFO)
    _log.propagate = False


def log_access(
    scope: Mapping[str, Any],
    method: str,
    url: bytes,
    status: int,
    size: int,
    seconds: float,
    request_id: str | None,
) -> None:
    """Write a request's line: the client, the method and path, and the answer's status, bytes and time."""
    client = scope.get("client")
    line = {
        "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "client": client and client[0],
        "method": method,
        "path": urllib.parse.unquote(url.partition(b"?")[0].decode("latin-1")),
        "status": status,
        "bytes": size,
        "seconds": round(seconds, 6),
        "request_id": request_id,
    }
    _log.info("%s", json.dumps(line))
