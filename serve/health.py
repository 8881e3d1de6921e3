"""python -m serve.health: exit status 0 when the service on this machine is ready. It is the images' health check."""

import http.client
import os
import sys

TIMEOUT = 2.0


def main() -> None:
    """Call the service's port; print what is wrong in one line."""
    connection = http.client.HTTPConnection("127.0.0.1", int(os.environ.get("PORT") or 8000), timeout=TIMEOUT)
    try:
        connection.request("GET", "/v2/health/ready")
        status = connection.getresponse().status
    except (OSError, http.client.HTTPException) as error:
        sys.exit(f"not ready: {error}")
    if status != 200:
        sys.exit(f"not ready: HTTP status {status}")


if __name__ == "__main__":
    main()
