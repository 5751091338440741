"""
Step 1, what happens between two passes and how soon one answers it. Invariant: no wake is lost, and none is worth a
core.

Wakes that come together are answered together: once it has been quiet for `settle_s`, or after five times that where it
never is. After a pass they rest for as long as it kept a CPU busy; in a storm, when wakes do not even wait for that,
longer the longer it lasts. What a pass waited is no work: libvirt, for one, lists no guest while it kills one. While
the driver sees guests start, which are counted already, the rest is a second.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass

from stocktake.clock import Clock

# A stream of wakes that never pauses is answered after so many times the time to settle.
SETTLES_MAX = 5
# In a storm the rest doubles up to so many times the work, but by doubling it does not grow beyond so long.
RESTS_MAX = 8
REST_LONGEST_S = 1.0
UNSETTLED_REST_S = 1.0


@dataclass(slots=True)
class WakeupCounts:
    """
    What happened since the start; numbers that only grow.

    Attributes:
        passes: all of them, failed ones too.
        event_passes: those that were run because of a wake.
        events: wakes.
        coalesced: wakes that were answered by a pass that was run anyway.
    """

    passes: int = 0
    event_passes: int = 0
    events: int = 0
    coalesced: int = 0


class Wakeups:
    """
    Collects wakes from any thread and says when a pass should answer them.

    Args:
        signal: called for the first wake after a pass began; it must not wait.
        busy_s: gives the CPU seconds that passes have taken so far.
    """

    def __init__(self, clock: Clock, signal: Callable[[], None], busy_s: Callable[[], float]) -> None:
        self.counts = WakeupCounts()
        self._clock = clock
        self._signal = signal
        self._busy_s = busy_s
        self._guard = threading.Lock()
        self._pending = 0
        self._first_s = 0.0
        self._last_s = 0.0
        self._rested_s = 0.0
        self._rests = 1
        self._began_busy_s = 0.0

    def wake(self) -> None:
        """Somebody saw something change; for any thread."""
        now_s = self._clock.monotonic_s()
        with self._guard:
            self.counts.events += 1
            self._pending += 1
            self._last_s = now_s
            first = self._pending == 1
            if first:
                self._first_s = now_s
        if first:
            self._signal()

    def due_s(self, settle_s: float) -> float | None:
        """Say when a pass should answer what is pending; None if nothing is."""
        with self._guard:
            if not self._pending:
                return None
            settled_s = min(self._last_s + settle_s, self._first_s + settle_s * SETTLES_MAX)
            return max(settled_s, self._rested_s)

    def begin(self, *, periodic: bool) -> tuple[int, int]:
        """
        Begin a pass: it answers all that is pending, and what comes from now on is for the next one.

        Returns:
            How many wakes it answers, and how many of these needed no pass of their own.
        """
        self._began_busy_s = self._busy_s()
        with self._guard:
            answered, self._pending = self._pending, 0
            stormy = answered > 0 and self._first_s < self._rested_s
            self._rests = min(self._rests * 2, RESTS_MAX) if stormy else 1
            own = 0 if periodic else min(answered, 1)
            self.counts.passes += 1
            self.counts.event_passes += own
            self.counts.coalesced += answered - own
            return answered, answered - own

    def end(self, *, settling: bool) -> None:
        """End the pass, and rest; `settling`: the driver knows of more to come."""
        work_s = self._busy_s() - self._began_busy_s
        rest_s = max(work_s, min(work_s * self._rests, REST_LONGEST_S), UNSETTLED_REST_S if settling else 0.0)
        with self._guard:
            self._rested_s = self._clock.monotonic_s() + rest_s
