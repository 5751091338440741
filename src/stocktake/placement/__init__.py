"""
Step 7b: the scheduler. Invariant: Placement is made to agree with the books, and touched only where it differs.

Desired and wanted (what it should hold, who should hold it) and plan (what to write) are pure; apply, consumers and
healing write; the rest is how to reach it.
"""

from stocktake.placement.opening import open_door, open_scheduler
from stocktake.placement.overrides import NodeOverrides, Overrides, overrides_for, read_overrides
from stocktake.placement.scheduler import NoScheduler, Scheduler, Synced, SyncedAllocations

__all__ = [
    "NoScheduler",
    "NodeOverrides",
    "Overrides",
    "Scheduler",
    "Synced",
    "SyncedAllocations",
    "open_door",
    "open_scheduler",
    "overrides_for",
    "read_overrides",
]
