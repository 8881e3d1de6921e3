"""What is being done to a model that is brought, and how long it will still take: one line, on a terminal alone."""

from collections.abc import Collection
from typing import Any, Self

from tqdm import tqdm


class Progress:
    """The line. A model has two steps for each format: it is converted, and compared."""

    def __init__(self, name: str, formats: int) -> None:
        form = "{desc}: {n_fmt} of {total_fmt} steps |{bar}| {elapsed}, {remaining} left{postfix}"
        self._bar = tqdm(total=2 * formats, desc=name, bar_format=form, dynamic_ncols=True, disable=None)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: Any) -> None:
        self._bar.close()

    def doing(self, words: str) -> None:
        """Say what is being done."""
        self._bar.set_postfix_str(words)

    def reached(self, converted: int, compared: int, expected: Collection[str] = ()) -> None:
        """So many formats were converted and compared; where others are `expected`, both go on at once."""
        self._bar.n = converted + compared
        if expected:
            left = [
                f"{words} {number} of {len(expected)}"
                for words, number in (("converted", converted), ("compared", compared))
            ]
            self._bar.set_postfix_str(", ".join(left), refresh=False)
        self._bar.refresh()
