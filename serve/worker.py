"""gunicorn's worker process: uvicorn's event loop over the front, with connections of our own."""

import os
import signal
from typing import Any

from uvicorn_worker import UvicornWorker

from serve.connection import Connection


class Worker(UvicornWorker):  # type: ignore[misc]  # it has no types
    """Set as gunicorn's `worker_class`."""

    CONFIG_KWARGS: dict[str, Any] = {  # noqa: RUF012 - uvicorn_worker's own attribute
        "loop": "uvloop",
        "http": Connection,
        "ws": "none",
        "lifespan": "on",
        "interface": "asgi3",
        "access_log": False,  # the front writes its own
        "server_header": False,
        "proxy_headers": False,
        "timeout_notify": 1,
    }

    async def callback_notify(self) -> None:
        """Tell gunicorn's first process that this one lives; end with it, if it was killed."""
        self.notify()
        if os.getppid() != self.ppid:
            self.handle_exit(signal.SIGTERM, None)

    def handle_exit(self, sig: int, frame: object) -> None:
        """Also called for SIGQUIT, which uvicorn does not know: Ctrl-C at gunicorn's first process."""
        signal.raise_signal(signal.SIGTERM)
