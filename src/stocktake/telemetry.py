"""
What has happened since the start, counted. Invariant: to count is one addition under a lock; it asks nothing and never
fails.

Anything may be handed a `Telemetry`. What reads it (the metrics) reads a copy. Names are those of the metrics.
"""

import threading
from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Outcome = Literal["fine", "partial", "failed"]
Answered = Literal["ok", "conflict", "refused", "unreachable"]

# Upper limits of a duration's buckets in seconds, after Prometheus' usual ones; above the last everything is one.
BUCKETS_S = (0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)

EVENTS = "stocktake_events_total"
COALESCED = "stocktake_events_coalesced_total"
CACHE_CHECKS = "stocktake_cache_checks_total"
CACHE_LIES = "stocktake_cache_lies_total"
ERRORS = "stocktake_errors_total"
PASSES = "stocktake_passes_total"
REQUESTS = "stocktake_placement_requests_total"
SAVES = "stocktake_ledger_saves_total"
CONFLICTS = "stocktake_ledger_conflicts_total"
DELETED = "stocktake_nodes_deleted_total"

# What a scrape shows as 0 before the first: a rate needs a beginning. The second name is the value of the one label.
_KNOWN = (
    *((name, "") for name in (EVENTS, COALESCED, CACHE_CHECKS, CACHE_LIES, SAVES, CONFLICTS, DELETED)),
    *((PASSES, outcome) for outcome in ("fine", "partial", "failed")),
    *((REQUESTS, answered) for answered in ("ok", "conflict", "refused", "unreachable")),
)


@dataclass(slots=True)
class Durations:
    """How often something took how long: one count per bucket, the last for all that is longer; the sum in seconds."""

    counts: list[int] = field(default_factory=lambda: [0] * (len(BUCKETS_S) + 1))
    sum_s: float = 0.0

    def add(self, seconds: float) -> None:
        """Count one."""
        self.counts[bisect_left(BUCKETS_S, seconds)] += 1
        self.sum_s += seconds

    def copy(self) -> "Durations":
        """Give one that does not change any more."""
        return Durations(list(self.counts), self.sum_s)


@dataclass(frozen=True, slots=True)
class Counts:
    """
    All counts at one moment.

    Attributes:
        totals: by metric and the value of its label, which is empty for a metric without one.
        passes: how long whole passes took.
        steps: how long each step took, by step.
    """

    totals: Mapping[tuple[str, str], int]
    passes: Durations
    steps: Mapping[str, Durations]


class Telemetry:
    """The counts of one program; threads may share it."""

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._totals = dict.fromkeys(_KNOWN, 0)
        self._passes = Durations()
        self._steps: dict[str, Durations] = {}

    def events(self, number: int = 1) -> None:
        """Count events that a hypervisor sent."""
        self._add(EVENTS, number)

    def coalesced(self, number: int = 1) -> None:
        """Count events that asked for a look that was due already."""
        self._add(COALESCED, number)

    def cache_checked(self, checks: int = 1, *, lies: int = 0) -> None:
        """Count comparisons of what was remembered with what is so, and the entries that differed."""
        self._add(CACHE_CHECKS, checks)
        self._add(CACHE_LIES, lies)

    def error(self, code: str) -> None:
        """Count an error by its code."""
        self._add(ERRORS, 1, code)

    def placement(self, answered: Answered) -> None:
        """Count a request to Placement by how it was answered."""
        self._add(REQUESTS, 1, answered)

    def saved(self, number: int, *, conflicts: int = 0) -> None:
        """Count records that were saved, and those that others had changed meanwhile."""
        self._add(SAVES, number)
        self._add(CONFLICTS, conflicts)

    def deleted(self, number: int = 1) -> None:
        """Count orphan compute nodes that were deleted."""
        self._add(DELETED, number)

    def passed(self, outcome: Outcome, seconds: float, steps: Mapping[str, float]) -> None:
        """Count a pass: how it ended, how long it took, and how long each of its steps did, in seconds."""
        self._add(PASSES, 1, outcome)
        with self._mutex:
            self._passes.add(seconds)
            for step, took_s in steps.items():
                self._steps.setdefault(step, Durations()).add(took_s)

    def counts(self) -> Counts:
        """Copy what was counted so far."""
        with self._mutex:
            steps = {step: durations.copy() for step, durations in self._steps.items()}
            return Counts(totals=dict(self._totals), passes=self._passes.copy(), steps=steps)

    def _add(self, name: str, number: int, label: str = "") -> None:
        with self._mutex:
            self._totals[name, label] = self._totals.get((name, label), 0) + number
