"""gunicorn's settings for the fast front: an event loop in each worker process."""

import logging
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from serve import control, gauges, stats
from serve.generations import Generations
from serve.listeners import drop_new, open_listeners
from serve.open_files import too_few_files
from serve.settings import SettingError, Settings

settings = Settings.from_environment()

wsgi_app = "serve.asgi:create_front()"
workers = settings.workers
worker_class = "serve.worker.Worker"
timeout = 120  # loading every framework takes some seconds on a small machine
graceful_timeout = settings.timeout
keepalive = 5
certfile, keyfile = settings.tls_cert and str(settings.tls_cert), settings.tls_key and str(settings.tls_key)
preload_app = False  # models are loaded after the fork: runtimes have threads
control_socket_disable = True
loglevel = "warning"

logging.basicConfig(format="%(levelname)s %(name)s: %(message)s", level=logging.WARNING)


def on_starting(server: Any) -> None:
    """Listen; make the folder in which the workers share their counts, and remove those of an earlier start."""
    try:
        server.LISTENERS = open_listeners(settings.host, settings.port, settings.workers)
    except SettingError as error:
        sys.exit(f"error: {error}")
    server.generations = Generations()
    server.stop = partial(_stop, server, server.stop)
    server.reload = partial(_reload, server, server.reload)
    folder = settings.state
    if folder is None and settings.workers > 1:
        server.made_state = folder = Path(tempfile.mkdtemp(prefix="rosetta-serve-"))
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        for old in (*folder.glob(stats.FILES), *folder.glob(gauges.FILES), *folder.glob(control.FILE)):
            old.unlink()
        os.environ["SERVE_STATE"] = str(folder)


def _stop(server: Any, stop: Callable[[bool], None], graceful: bool = True) -> None:
    """End the service: first let no new connection in, so that the workers answer all that are there."""
    server.generations.stop()
    for listener in server.LISTENERS:
        drop_new(listener)
    stop(graceful)


def _reload(server: Any, reload: Callable[[], None]) -> None:
    """Start new workers, without waiting for the end of the old ones: a signal to end would wait as long."""
    reload()
    server.cfg.set("graceful_timeout", settings.timeout)


def on_reload(server: Any) -> None:
    """Let the workers that serve know that the next ones are coming."""
    server.generations.begin(server.worker_age + 1)
    server.cfg.set("graceful_timeout", 0)


def on_exit(server: Any) -> None:
    """Remove the folder, if it was made here."""
    if (made := getattr(server, "made_state", None)) is not None:
        shutil.rmtree(made, ignore_errors=True)


def pre_fork(server: Any, worker: Any) -> None:
    """Give the worker the listener that the fewest others have, and what it knows of the others."""
    taken = [other.listener for other in server.WORKERS.values()]
    worker.listener = min(server.LISTENERS, key=taken.count)
    worker.generations = server.generations


def post_worker_init(worker: Any) -> None:
    """Print where the page is, once every model has answered its first row."""
    from serve.banner import banner

    if worker.age == 1:
        if trouble := too_few_files(settings.max_connections, worker.wsgi.plane.max_connections):
            worker.log.warning(trouble)
        try:
            print(banner(worker.wsgi.plane.catalog, settings), flush=True)
        except OSError as error:  # where standard output is a file on a full disk, the service answers all the same
            worker.log.warning("Standard output takes nothing: %s.", error.strerror)
