"""A reload without a gap: the workers that serve go on until the next ones are ready, or for good if these are worse.

gunicorn starts new workers at SIGHUP and ends the old ones at once, though the new ones load their models for many
seconds. Here an old worker waits until each new one is ready. A new one that cannot run a model which ran before, since
its artifact is damaged, ends, and the old ones stay.

All processes share one page of memory. Each writes only what is its own, so no lock is needed.
"""

import json
import mmap
from collections.abc import Collection

LOADING, READY, REFUSED = 0, 1, 2

_SIZE = 65_536
_FIRST, _STOPS, _STATES, _NAMES = 0, 8, 16, 4096
"""Where in the page: the age of the newest generation's first worker, whether the service ends, the state of each
worker by its age, and the names of the models that the last ready worker runs."""


class Generations:
    """What the workers of one service know of each other. Made before the first of them is forked."""

    def __init__(self) -> None:
        self._page = mmap.mmap(-1, _SIZE)
        self.begin(1)

    def begin(self, first: int) -> None:
        """A reload begins: workers of this age and above are new."""
        self._page[_FIRST : _FIRST + 8] = first.to_bytes(8, "little")

    def stop(self) -> None:
        """The service ends: no worker waits for another."""
        self._page[_STOPS] = 1

    def set_ready(self, age: int, models: Collection[str]) -> None:
        """The worker of this age answers, with these models."""
        names = json.dumps(sorted(models)).encode()
        if len(names) < _SIZE - _NAMES:
            self._page[_NAMES:] = names.ljust(_SIZE - _NAMES)
        self._set_state(age, READY)

    def refuse(self, age: int) -> None:
        """The worker of this age ends, since it would be worse than those that serve."""
        self._set_state(age, REFUSED)

    def models_before(self) -> set[str]:
        """The models that the last ready worker runs."""
        return set(json.loads(self._page[_NAMES:].rstrip(b"\0 ") or b"[]"))

    def is_reloaded(self, age: int, count: int) -> bool:
        """Whether the worker of this age is one of the `count` that a reload started, so that old ones serve yet."""
        return 1 < self._first <= age < self._first + count

    def is_old(self, age: int) -> bool:
        """Whether newer workers are to replace the one of this age, while the service goes on."""
        return age < self._first and not self._page[_STOPS]

    def next_ones(self, count: int) -> set[int]:
        """The states of the newest generation's workers."""
        return {self._page[self._place(age)] for age in range(self._first, self._first + count)}

    @property
    def _first(self) -> int:
        return int.from_bytes(self._page[_FIRST : _FIRST + 8], "little")

    def _place(self, age: int) -> int:
        return _STATES + age % (_NAMES - _STATES)

    def _set_state(self, age: int, state: int) -> None:
        self._page[self._place(age)] = state
