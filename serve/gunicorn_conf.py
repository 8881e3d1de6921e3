"""gunicorn's settings for the fast front: an event loop in each worker process."""

import logging
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from serve.access_log import open_access_log
from serve.listeners import open_listeners
from serve.settings import SettingError, Settings
from serve.stats import FILES

settings = Settings.from_environment()

wsgi_app = "serve.asgi:create_front()"
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
    """Listen; make the folder in which the workers share their counts, and remove those of an earlier start."""
    try:
        server.LISTENERS = open_listeners(settings.host, settings.port, settings.workers)
    except SettingError as error:
        sys.exit(f"error: {error}")
    folder = settings.state
    if folder is None and settings.workers > 1:
        server.made_state = folder = Path(tempfile.mkdtemp(prefix="rosetta-serve-"))
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        for old in folder.glob(FILES):
            old.unlink()
        os.environ["SERVE_STATE"] = str(folder)


def on_exit(server: Any) -> None:
    """Remove the folder, if it was made here."""
    if (made := getattr(server, "made_state", None)) is not None:
        shutil.rmtree(made, ignore_errors=True)


def pre_fork(server: Any, worker: Any) -> None:
    """Give the worker the listener that the fewest others have."""
    taken = [other.listener for other in server.WORKERS.values()]
    worker.listener = min(server.LISTENERS, key=taken.count)


def post_worker_init(worker: Any) -> None:
    """Print where the page is, once every model has answered its first row."""
    from serve.banner import banner

    if worker.age == 1:
        print(banner(worker.wsgi.plane.catalog, settings), flush=True)
