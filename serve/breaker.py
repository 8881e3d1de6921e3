"""Whether a model that another process runs still answers.

A process that hangs makes every request wait for its whole time limit. So after two requests whose limits passed
without any answer, further ones are refused at once, until the model has answered a trial.
"""

import time

LIMITS = 2
"""Time limits that pass without an answer before the model counts as hanging."""


class Breaker:
    """Opens after time limits that passed, closes with an answer. Event loop and threads may share it."""

    def __init__(self) -> None:
        self.trouble = ""
        """Why requests are refused; empty while they are not."""
        self._passed = 0
        self._answered = 0.0

    def answered(self) -> None:
        """The model answered."""
        self._answered = time.perf_counter()
        self._passed, self.trouble = 0, ""

    def timed_out(self, start: float, seconds: float) -> bool:
        """The limit of a request that came at `start` has passed. Returns whether the breaker opens with it."""
        if self._answered > start:  # it answers others: it is slow, or busy
            return False
        self._passed += 1
        if self._passed < LIMITS or self.trouble:
            return False
        self.trouble = f"it gave no answer within {seconds:g} s, {LIMITS} times. It is tried again until it answers."
        return True
