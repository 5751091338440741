"""
Is the agent healthy? Invariant: pure; passes complete in time, and the ledger and the driver are there.

Placement that is away is shown and is no reason: the books are kept, and it is told as soon as it is back.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from stocktake.agent.metrics.figures import Life

# How many intervals may pass without a completed pass, and how short that may be: a busy host takes its time.
_INTERVALS_MAX = 3
_LIMIT_LEAST_S = 180.0


@dataclass(frozen=True, slots=True)
class Reason:
    """Why not: a stable code, and a sentence for people."""

    code: str
    text: str


@dataclass(frozen=True, slots=True)
class Health:
    """The verdict; healthy without reasons."""

    reasons: tuple[Reason, ...]

    @property
    def healthy(self) -> bool:
        """Say whether there is nothing to complain of."""
        return not self.reasons


def limit_s(interval_s: float | None, asked_s: float) -> float:
    """Give the seconds within which a pass has to complete: those asked for; for 0 three intervals, at least 180."""
    return asked_s or max(_LIMIT_LEAST_S, _INTERVALS_MAX * (interval_s or 0.0))


def health(life: Life, now_s: float) -> Health:
    """Judge; `now_s` is the steady clock's."""
    return Health(tuple(_reasons(life, now_s)))


def _reasons(life: Life, now_s: float) -> Iterator[Reason]:
    if life.completed_s is None:
        yield Reason("no-pass", f"no pass has completed yet; the agent started {now_s - life.started_s:.0f} s ago")
    elif life.interval_s is not None and now_s - life.completed_s > life.limit_s:
        age_s = now_s - life.completed_s
        yield Reason("stale-pass", f"no pass has completed for {age_s:.0f} s; the limit is {life.limit_s:g} s")
    elif life.began_s is not None and now_s - life.began_s > life.limit_s:
        age_s = now_s - life.began_s
        yield Reason("long-pass", f"a pass has been under way for {age_s:.0f} s; the limit is {life.limit_s:g} s")
    for part in ("ledger", "driver"):
        if life.parts.get(part):
            yield Reason(f"{part}-away", life.parts[part])
