"""
Step 7b, between passes: read the scheduler back, some nodes at a time. Invariant: each within the span, and nobody
waits.

Generations don't show every change (see `placement.service`), so that what was agreed on is looked at again. For
thousands of nodes that takes longer than a change may wait: so it is spread, and whoever wakes the agent comes first.
"""

from bisect import bisect_right
from collections.abc import Callable, Iterable

from stocktake.clock import Clock
from stocktake.placement import Scheduler


class ReadBack:
    """Whose turn it is; every node has one within a span, in seconds."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._uuids: tuple[str, ...] = ()
        self._last = ""
        self._paid_s = clock.monotonic_s()

    def know(self, uuids: Iterable[str]) -> None:
        """Say which nodes there are now; those that come and go change nobody else's turn."""
        self._uuids = tuple(sorted(uuids))

    def due(self, span_s: float) -> tuple[str, ...]:
        """Give the nodes whose turn has come, in turn."""
        passed_s = self._clock.monotonic_s() - self._paid_s
        number = min(int(passed_s / span_s * len(self._uuids)), len(self._uuids))
        first = bisect_right(self._uuids, self._last)
        return tuple(self._uuids[(first + place) % len(self._uuids)] for place in range(number))

    def run(self, scheduler: Scheduler, span_s: float, stop: Callable[[], bool]) -> bool:
        """
        Read back those whose turn has come, until told to stop; what is left stays due.

        Returns:
            Whether all is as it was agreed on; what is not, the next pass reads and mends.

        Raises:
            PlacementUnreachable, PlacementError: it gave no answer; that node stays due.
        """
        same = True
        for uuid in self.due(span_s):
            if stop():
                break
            same &= scheduler.is_as_agreed(uuid)
            self._last = uuid
            # Of what is more than a whole span late, only one is made up for.
            oldest_s = self._clock.monotonic_s() - span_s
            self._paid_s = max(self._paid_s, oldest_s) + span_s / len(self._uuids)
        return same
