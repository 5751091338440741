"""
Step 7b: the scheduler. Invariant: Placement is made to agree with the books, and touched only where it differs.

`desired` and `desired_allocations` (what it should hold, and who) and `plan` (what to write) are pure; `providers`,
`allocations` and `allocation_sync` read and write; `client`, `session` and `embedded` are how to reach it.
"""

from stocktake.placement.overrides import NodeOverrides, Overrides, overrides_for, read_overrides
from stocktake.placement.scheduler import Guard, NoScheduler, Scheduler, Synced, SyncedAllocations

__all__ = [
    "Guard",
    "NoScheduler",
    "NodeOverrides",
    "Overrides",
    "Scheduler",
    "Synced",
    "SyncedAllocations",
    "overrides_for",
    "read_overrides",
]
