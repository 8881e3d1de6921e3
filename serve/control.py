"""Load and unload: callers may change which of the artifacts in the folder are served, where the settings allow it.

A new artifact is loaded, warmed up and measured before it takes the old one's place. Requests that came before are
answered by the old one, which ends after its last answer, at the latest once their time limit has passed. One that
cannot be loaded changes nothing.

The worker that is called writes down what it did, and the others do the same.
"""

import contextlib
import fcntl
import json
import logging
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

from contract.errors import InputError, ModelUnavailable, RosettaError, UnknownModel
from contract.manifest import write_json
from contract.parity_result import FAILED, Status
from serve.artifacts import find_versions
from serve.catalog import ServedModel, load_versions
from serve.keys import CallRefused
from serve.runtimes import Runtime
from serve.settings import Settings

FILE = "control.json"
"""What was done, in the state folder: a model's name -> how often that was, and whether it is loaded."""

UNLOADED = "it was unloaded. Load it with POST /v2/repository/models/{}/load."

log = logging.getLogger(__name__)

Done = dict[str, tuple[int, bool]]


class Control:
    """Loads and unloads the models of one worker; `replace` puts the versions of one in the old ones' places."""

    def __init__(
        self, settings: Settings, replace: Callable[[list[ServedModel]], list[ServedModel]], before: Done
    ) -> None:
        self._settings, self._replace = settings, replace
        self._file = _file(settings)
        self._changing = threading.Lock()
        self._done: Done = {name: (count, True) for name, (count, _) in before.items()}
        """What is done here. What others had loaded `before` this worker read its artifacts, it has loaded anew."""

    def load(self, name: str) -> None:
        """Load an artifact's newest versions, anew if they are loaded.

        Raises UnknownModel, ModelUnavailable or CallRefused.
        """
        self._change(name, True)

    def unload(self, name: str) -> None:
        """Serve a model no more until it is loaded again. Raises UnknownModel or CallRefused."""
        self._change(name, False)

    def follow(self) -> None:
        """Do what other workers did."""
        for name, (count, is_loaded) in done_in(self._settings).items():
            if self._done.get(name, (0, True)) == (count, is_loaded):
                continue
            with self._changing:
                self._done[name] = count, is_loaded
                try:
                    self._do(name, is_loaded)
                except RosettaError as error:
                    log.error("Another worker has loaded %s, and this one cannot: %s", name, error)

    def _change(self, name: str, is_loaded: bool) -> None:
        if not self._settings.control:
            raise CallRefused("Callers may load and unload models only where the service has SERVE_CONTROL=1.")
        with self._changing:
            self._do(name, is_loaded)
            with self._writing() as done:
                done[name] = self._done[name] = done.get(name, (0, True))[0] + 1, is_loaded

    def _do(self, name: str, is_loaded: bool) -> None:
        versions_by_name = find_versions(self._settings.artifacts, self._settings.formats, self._settings.versions)
        if name not in versions_by_name:
            known = ", ".join(versions_by_name) or "none"
            raise UnknownModel(f"There is no artifact {name[:100]!r} in the folder of artifacts. There are: {known}.")
        if is_loaded:
            versions = load_versions(name, versions_by_name[name], self._settings)
            if failure := next((model.failure for model in versions if model.failure), ""):
                for model in versions:
                    _end(model)
                raise ModelUnavailable(f"{name} cannot be loaded, and nothing has changed: {failure}")
        else:
            versions = [_unloaded(name, folder, version) for version, folder in versions_by_name[name].items()]
        for old in self._replace(versions):
            _end_after_last_answer(old, self._settings.timeout)

    @contextlib.contextmanager
    def _writing(self) -> Iterator[Done]:
        """What was done, to be added to while no other worker does."""
        if self._file is None:
            yield {}
            return
        with self._file.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            done: Any = done_in(self._settings)
            yield done
            write_json(self._file, done)


def done_in(settings: Settings) -> Done:
    """What callers have had loaded and unloaded so far. A worker reads it before it reads the artifacts."""
    file = _file(settings)
    try:
        done = json.loads(file.read_bytes()) if file else {}
    except (OSError, ValueError):
        return {}
    return {name: (count, is_loaded) for name, (count, is_loaded) in done.items()}


def _file(settings: Settings) -> Path | None:
    return settings.state and settings.state / FILE


def refuse_files(parameters: Iterable[str]) -> None:
    """Raise InputError for the parameters by which Triton's callers bring a model along."""
    if any(name == "config" or name.startswith("file:") for name in parameters):
        raise InputError("A model is loaded from the folder of artifacts as it is: send no 'config' and no files.")


def _unloaded(name: str, folder: Path, version: str) -> ServedModel:
    failure = UNLOADED.format(name)
    status = Status(FAILED, failure)
    return ServedModel(name, folder, None, status, None, failure=failure, is_refused=True, version=version)


def _end(model: ServedModel) -> None:
    if model.loaded is not None:
        model.loaded.close()


def _end_after_last_answer(model: ServedModel, seconds: float) -> None:
    """End a model that no new request gets, once the last of those that have it is answered, or after so many seconds.

    A request under way holds its model, so that the interpreter counts them: no request pays for another count. One
    that failed holds it no longer, since no error that is kept has a traceback.
    """
    if model.loaded is None:
        return
    unused: SimpleQueue[None] = SimpleQueue()  # its `put` may be called wherever the last request lets go of the model
    weakref.finalize(model, unused.put, None).atexit = False
    ending = (model.loaded, unused, seconds)
    threading.Thread(target=_end_once_unused, args=ending, daemon=True, name=f"end {model.name}").start()


def _end_once_unused(runtime: Runtime, unused: SimpleQueue[None], seconds: float) -> None:
    with contextlib.suppress(Empty):
        unused.get(timeout=seconds)
    runtime.close()
