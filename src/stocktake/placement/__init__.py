"""
Step 7b: the scheduler. Law: Placement is made to agree with the books, and touched only where it differs.

Desired (what it should hold) and plan (what to write) are pure; apply writes; the rest is how to reach it.
"""

from stocktake.placement.opening import open_scheduler
from stocktake.placement.overrides import NodeOverrides, Overrides, overrides_for, read_overrides
from stocktake.placement.scheduler import NoScheduler, Scheduler, Synced

__all__ = [
    "NoScheduler",
    "NodeOverrides",
    "Overrides",
    "Scheduler",
    "Synced",
    "open_scheduler",
    "overrides_for",
    "read_overrides",
]
