"""
Step 7b: providers of ours that somebody else writes too. Invariant: one change is an accident, a second one is told.

What we left is put back in each pass, and what they left in each of theirs: without a word that would go on for ever.
It is remembered by the process: an agent tells, a single `refresh` can't.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from stocktake.model.problem import Problem
from stocktake.model.provider import Provider

# So many passes in which something had to be put back are a contest,
TIMES_MIN = 2
# and it is over once nothing had to be for so long.
QUIET = timedelta(minutes=15)


@dataclass(slots=True)
class _Contest:
    since: datetime
    last: datetime
    times: int = 0
    providers: set[str] = field(default_factory=set)


class Contests:
    """The trees of providers on which something of ours had to be put back, by their roots' uuids."""

    def __init__(self, now: Callable[[], datetime]) -> None:
        self._now = now
        self._contests: dict[str, _Contest] = {}

    def note(self, root: str, undone: Collection[str]) -> None:
        """Note a pass that put back what others had changed on these providers of a tree; none is no news."""
        if not undone:
            return
        now = self._now()
        contest = self._current(root) or _Contest(since=now, last=now)
        contest.last = now
        contest.times += 1
        contest.providers.update(undone)
        self._contests[root] = contest

    def forget(self, root: str) -> None:
        """Remember nothing of a tree."""
        self._contests.pop(root, None)

    def problem(self, root: Provider) -> Problem | None:
        """Say that somebody else keeps writing to a tree; None if nobody does, or no longer."""
        contest = self._current(root.uuid)
        if contest is None or contest.times < TIMES_MIN:
            return None
        return Problem(
            code="provider-contested",
            about=root.name,
            text=(
                f"somebody else keeps changing what stocktake writes to provider {', '.join(sorted(contest.providers))}"
                f", since {contest.since:%Y-%m-%d %H:%M} UTC: it is written again each time"
            ),
            remedy=(
                "Find out who: a nova-compute or another stocktake that reports the same host. One of them has to "
                "stop, or report to a Placement of its own."
            ),
        )

    def _current(self, root: str) -> _Contest | None:
        contest = self._contests.get(root)
        if contest is not None and self._now() - contest.last > QUIET:
            del self._contests[root]
            return None
        return contest
