"""gunicorn's settings for the fast front: an event loop in each worker process."""

import logging
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from serve.access_log import open_access_log
from serve.settings import Settings
from serve.stats import FILES

settings = Settings.from_environment()

wsgi_app = "serve.asgi:create_front()"
bind = f"[{settings.host}]:{settings.port}" if ":" in settings.host else f"{settings.host}:{settings.port}"
workers = settings.workers
worker_class = "serve.worker.Worker"
timeout = 120  # loading every framework takes some seconds on a small machine
graceful_timeout = settings.timeout
keepalive = 5
preload_app = False  # models are loaded after the fork: runtimes have threads
control_socket_disable = True
loglevel = "warning"

logging.basicConfig(format="%(levelname)s %(name)s: %(message)s", level=logging.WARNING)
if settings.access_log:
    open_access_log()


def on_starting(server: Any) -> None:
    """Make the folder in which the workers share their counts, and forget those of an earlier start."""
    from serve.worker import Shares

    # The server outlives this file, which a reload reads anew.
    server.shares = Shares()
    folder = settings.state
    if folder is None and settings.workers > 1:
        server.made_state = folder = Path(tempfile.mkdtemp(prefix="rosetta-serve-"))
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        for old in folder.glob(FILES):
            old.unlink()
        os.environ["SERVE_STATE"] = str(folder)


def on_exit(server: Any) -> None:
    """Remove the folder, where it was made here."""
    if (made := getattr(server, "made_state", None)) is not None:
        shutil.rmtree(made, ignore_errors=True)


def pre_fork(server: Any, worker: Any) -> None:
    """Let the worker know how many connections the others have."""
    worker.shares, worker.slot = server.shares, server.shares.take()


def child_exit(server: Any, worker: Any) -> None:
    """Forget the connections of a worker that ended, or was killed."""
    server.shares.leave(worker.slot)


def post_worker_init(worker: Any) -> None:
    """Say where the page is, once every model has answered its first row."""
    from serve.banner import banner

    if worker.age == 1:
        print(banner(worker.wsgi.plane.catalog, settings), flush=True)
