"""
Step 1, what happens between two passes and how soon one answers it. Law: no wake is lost, and none is worth a core.

Wakes that come together are answered together: once it has been quiet for `settle_s`, or after five times that where it
never is. A pass is followed by a rest: as long as it took, though not longer than a tenth of a second, as a pass that
is long has mostly waited (libvirt lists no guest while it kills one). In a storm, when wakes do not even wait for the
rest's end, rests are as long as passes, and longer the longer it lasts.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass

from stocktake.clock import Clock

# A stream of wakes that never pauses is answered after so many times the time to settle.
SETTLES_MAX = 5
REST_CALM_S = 0.1
# In a storm the rest doubles up to so many times the pass, but by doubling it does not grow beyond so long.
RESTS_MAX = 8
REST_LONGEST_S = 1.0


@dataclass(slots=True)
class Counts:
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


class Wakes:
    """
    Collects wakes from any thread and says when a pass should answer them.

    Args:
        signal: called for the first wake after a pass began; it must not wait.
    """

    def __init__(self, clock: Clock, signal: Callable[[], None]) -> None:
        self.counts = Counts()
        self._clock = clock
        self._signal = signal
        self._guard = threading.Lock()
        self._pending = 0
        self._first_s = 0.0
        self._last_s = 0.0
        self._rested_s = 0.0
        self._rests = 0

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

    def take(self, *, periodic: bool) -> tuple[int, int]:
        """
        Begin a pass: it answers all that is pending, and what comes from now on is for the next one.

        Returns:
            How many wakes it answers, and how many of these needed no pass of their own.
        """
        with self._guard:
            answered, self._pending = self._pending, 0
            stormy = answered > 0 and self._first_s < self._rested_s
            self._rests = min(max(1, self._rests * 2), RESTS_MAX) if stormy else 0
            own = 0 if periodic else min(answered, 1)
            self.counts.passes += 1
            self.counts.event_passes += own
            self.counts.coalesced += answered - own
            return answered, answered - own

    def rest(self, began_s: float) -> None:
        """End the pass that began then."""
        ended_s = self._clock.monotonic_s()
        took_s = ended_s - began_s
        with self._guard:
            stormy_s = max(took_s, min(took_s * self._rests, REST_LONGEST_S))
            self._rested_s = ended_s + (stormy_s if self._rests else min(took_s, REST_CALM_S))
