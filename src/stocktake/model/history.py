"""What a node had, and what was allocated of it, over time. Invariant: a row holds until the next one."""

from datetime import datetime

from stocktake.model.value import Value


class Moment(Value, frozen=True, kw_only=True):
    """
    A node's figures at the end of an interval: CPUs, MiB, GB.

    Attributes:
        at: when the interval began.
    """

    at: datetime
    vcpus: int
    vcpus_used: int
    memory_mb: int
    memory_mb_used: int
    local_gb: int
    local_gb_used: int
    running_vms: int


class Ages(Value, frozen=True, kw_only=True):
    """
    How much is kept.

    Attributes:
        interval_s: the shortest time between two rows of a node; 0 keeps no history.
        full_days, hourly_days, daily_days: how long all rows are kept, the last of each hour, the last of each day.
    """

    interval_s: int = 300
    full_days: int = 1
    hourly_days: int = 30
    daily_days: int = 365
