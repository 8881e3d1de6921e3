"""gunicorn's settings for the fast front: an event loop in each worker process."""

import logging
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from serve.access_log import AccessLog
from serve.settings import Settings
from serve.stats import FILES

settings = Settings.from_environment()

wsgi_app = "serve.asgi:create_front()"
bind = f"[{settings.host}]:{settings.port}" if ":" in settings.host else f"{settings.host}:{settings.port}"
workers = settings.workers
worker_class = "asgi"
asgi_loop = "uvloop"
http_parser = "python"  # the C parser leaks large bodies under uvloop
worker_connections = 1000
timeout = 120  # loading every framework takes some seconds on a small machine
graceful_timeout = settings.timeout
keepalive = 5  # also how long an idle connection holds up the end
preload_app = False  # models are loaded after the fork: runtimes have threads
control_socket_disable = True
loglevel = "warning"
accesslog = "-" if settings.access_log else None
logger_class = AccessLog

logging.basicConfig(format="%(levelname)s %(name)s: %(message)s", level=logging.WARNING)

_made: Path | None = None


def on_starting(server: Any) -> None:
    """Make the folder in which the workers share their counts, and forget those of an earlier start."""
    global settings, _made
    if settings.state is None and settings.workers > 1:
        _made = Path(tempfile.mkdtemp(prefix="rosetta-serve-"))
    folder = settings.state or _made
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        for old in folder.glob(FILES):
            old.unlink()
        os.environ["SERVE_STATE"] = str(folder)


def on_exit(server: Any) -> None:
    """Remove the folder, where it was made here."""
    if _made is not None:
        shutil.rmtree(_made, ignore_errors=True)


def post_worker_init(worker: Any) -> None:
    """Say where the page is, once every model has answered its first row."""
    from serve.banner import banner

    if worker.age == 1:
        print(banner(worker.asgi.plane.catalog, settings), flush=True)
