"""
Time and ids come from outside. Invariant: nothing else in the package asks the machine what time it is.

Tests and the simulation pass their own `Clock` and `Ids`.
"""

import threading
import time
import uuid
from datetime import UTC, datetime
from typing import Final, Protocol

# Set once this process is told to end: who waits for somebody else's answer then waits for seconds only.
ENDING: Final = threading.Event()


class Clock(Protocol):
    """The time of day and a steady count of seconds."""

    def now(self) -> datetime:
        """Give the time of day, aware, in UTC, in whole microseconds."""
        ...

    def monotonic_s(self) -> float:
        """Give seconds that only ever grow, from an arbitrary start."""
        ...

    def wait(self, event: threading.Event, timeout_s: float | None) -> bool:
        """Wait until `event` is set or `timeout_s` seconds are over; say whether it is set."""
        ...


class Ids(Protocol):
    """A source of new ids."""

    def uuid(self) -> str:
        """Give a new random UUID in its canonical form."""
        ...


class SystemClock:
    """The machine's own clock."""

    def now(self) -> datetime:
        """Give the time of day in UTC."""
        return datetime.now(UTC)

    def monotonic_s(self) -> float:
        """Give the machine's monotonic seconds."""
        return time.monotonic()

    def wait(self, event: threading.Event, timeout_s: float | None) -> bool:
        """Block on the event."""
        return event.wait(timeout_s)


def cpu_s() -> float:
    """Give the CPU seconds that this process has taken so far, all its threads together."""
    return time.process_time()


class RandomIds:
    """Random UUIDs."""

    def uuid(self) -> str:
        """Give a random UUID (version 4)."""
        return str(uuid.uuid4())
