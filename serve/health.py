"""python -m serve.health: exit status 0 when the service on this machine is ready. It is the images' health check.

Where SERVE_OPEN_HEALTH=0 makes the check need a key, to answer at all is enough: workers answer once they are ready.
"""

import http.client
import os
import ssl
import sys

TIMEOUT = 2.0


def main() -> None:
    """Call the service's port; print what is wrong in one line."""
    connection = _connect(int(os.environ.get("PORT") or 8000))
    try:
        connection.request("GET", "/v2/health/ready")
        status = connection.getresponse().status
    except (OSError, http.client.HTTPException) as error:
        sys.exit(f"not ready: {error}")
    if status not in (200, 401):
        sys.exit(f"not ready: HTTP status {status}")


def _connect(port: int) -> http.client.HTTPConnection:
    if not os.environ.get("SERVE_TLS_CERT"):
        return http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT)
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # it is this machine, whatever its name
    return http.client.HTTPSConnection("127.0.0.1", port, timeout=TIMEOUT, context=context)


if __name__ == "__main__":
    main()
