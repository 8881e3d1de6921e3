"""gunicorn's settings: one process, since each would hold every model once more, and threads that share the models."""

import logging
from typing import Any

from serve.settings import Settings

settings = Settings.from_environment()

wsgi_app = "serve.app:create_app()"
bind = f"[{settings.host}]:{settings.port}" if ":" in settings.host else f"{settings.host}:{settings.port}"
workers = 1
worker_class = "gthread"
threads = 8
timeout = 120  # loading every framework takes some seconds on a small machine
graceful_timeout = 20
keepalive = 30
preload_app = False  # models are loaded after the fork: runtimes have threads
control_socket_disable = True
loglevel = "warning"

logging.basicConfig(format="%(levelname)s %(name)s: %(message)s", level=logging.WARNING)


def post_worker_init(worker: Any) -> None:
    """Say where the page is, once every model has answered its first row."""
    from serve.banner import banner

    print(banner(worker.wsgi.extensions["catalog"], settings), flush=True)
