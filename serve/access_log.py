"""One line of JSON for each request. A caller's words are in it, so a JSON writer writes it, and no format string."""

import json
from datetime import UTC, datetime
from typing import Any

from gunicorn.glogging import Logger


class AccessLog(Logger):  # type: ignore[misc]  # gunicorn has no types
    """gunicorn's logger, with an access log of our own."""

    def access(self, resp: Any, req: Any, environ: dict[str, Any], request_time: Any) -> None:
        if not self.access_log_enabled:
            return
        line = {
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "client": environ.get("REMOTE_ADDR"),
            "method": environ.get("REQUEST_METHOD"),
            "path": environ.get("PATH_INFO"),
            "status": resp.status,
            "bytes": resp.sent,
            "seconds": request_time.seconds + request_time.microseconds / 1e6,
            "request_id": dict(resp.headers).get("x-request-id"),
        }
        self.access_log.info("%s", json.dumps(line))
