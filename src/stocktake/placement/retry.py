"""
Step 7b: do again what met a conflict. Invariant: a bounded number of times, with growing, jittered waits.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from stocktake.errors import PlacementConflict

_BACKOFF_S = 0.1
_BACKOFF_MAX_S = 2.0

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """
    Calls something again while it raises PlacementConflict.

    Attributes:
        retries_max: how often, after the first time.
        sleep, jitter: waits so many seconds; gives a number from 0 up to 1.
    """

    retries_max: int
    sleep: Callable[[float], object]
    jitter: Callable[[], float]

    def __call__(self, attempt: Callable[[], T]) -> T:
        """Give what the attempt gives; raises the conflict that outlives all tries."""
        import tenacity

        def wait_s(state: tenacity.RetryCallState) -> float:
            longest_s = min(_BACKOFF_MAX_S, _BACKOFF_S * 2.0 ** (state.attempt_number - 1))
            return longest_s * (0.5 + self.jitter() / 2)

        def pause(wait_s: float) -> None:
            self.sleep(wait_s)

        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(PlacementConflict),
            stop=tenacity.stop_after_attempt(self.retries_max + 1),
            wait=wait_s,
            sleep=pause,
            reraise=True,
        )
        return retrying(attempt)
