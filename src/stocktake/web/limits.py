"""
How often somebody may ask. Invariant: a bucket for each caller, in memory; each copy of the server counts for itself.
"""

import threading

from stocktake.clock import Clock

# So many seconds' worth may come at once.
BURST_S = 2.0
_CALLERS_MAX = 10_000


class Rates:
    """Buckets that fill up steadily, one for each caller; 0 a second is no limit at all."""

    def __init__(self, per_s: float, clock: Clock) -> None:
        self._per_s = per_s
        self._most = max(per_s * BURST_S, 1.0)
        self._clock = clock
        self._left: dict[str, tuple[float, float]] = {}
        self._lock = threading.Lock()

    def take(self, caller: str) -> float:
        """Take one request out of a caller's bucket; give the seconds until there is one if there is none, else 0."""
        if not self._per_s:
            return 0.0
        now_s = self._clock.monotonic_s()
        with self._lock:
            since_s, left = self._left.get(caller, (now_s, self._most))
            left = min(self._most, left + (now_s - since_s) * self._per_s)
            if left < 1:
                self._left[caller] = now_s, left
                return (1 - left) / self._per_s
            if len(self._left) >= _CALLERS_MAX and caller not in self._left:
                self._forget(now_s)
            self._left[caller] = now_s, left - 1
            return 0.0

    def _forget(self, now_s: float) -> None:
        """Forget those whose buckets are full again; if that are too few, everybody."""
        full_s = self._most / self._per_s
        self._left = {caller: one for caller, one in self._left.items() if now_s - one[0] < full_s}
        if len(self._left) >= _CALLERS_MAX:
            self._left.clear()
