"""Somebody who is woken from another thread."""

import threading

WAIT_S = 10.0


class Wakes:
    """Counts wakes, and waits for them."""

    def __init__(self) -> None:
        self.count = 0
        self._said = threading.Condition()

    def wake(self) -> None:
        """Hear something; from any thread."""
        with self._said:
            self.count += 1
            self._said.notify_all()

    def until(self, count: int, *, timeout_s: float = WAIT_S) -> None:
        """Wait for so many in all."""
        with self._said:
            assert self._said.wait_for(lambda: self.count >= count, timeout_s), f"heard {self.count}, not {count}"
