"""What was worked out once and is the same each time, bounded, since callers choose the keys."""

from typing import TypeVar

Key = TypeVar("Key")
Value = TypeVar("Value")

ENTRIES = 256


class Memory(dict[Key, Value]):
    """A dict of at most `ENTRIES` entries."""

    def remember(self, key: Key, value: Value) -> Value:
        """Keep a value, and return it. A full memory is emptied first: to track the oldest entry would cost more."""
        if len(self) >= ENTRIES:
            self.clear()
        self[key] = value
        return value
