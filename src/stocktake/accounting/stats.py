"""
Step 6: counts of instances by state. Invariant: every `num_*` is an integer, and counted migrations are not in them.

An instance's entry carries the names of the counts that it adds one to, so that the stats are a sum of the entries too.

Rules: docs/accounting.md, "Instances".
"""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping

from stocktake.model.books import Entry, StatValue
from stocktake.model.workload import Instance

IO_TASKS = (
    "resize_migrating",
    "rebuilding",
    "resize_prep",
    "image_snapshot",
    "image_backup",
    "rescuing",
    "unshelving",
)
_IO_COUNTS = ("num_vm_building", *(f"num_task_{task}" for task in IO_TASKS))
_IDLE = "num_task_None"


def counts_of(instance: Instance) -> tuple[str, ...]:
    """Name the counts that a counted instance adds one to, besides `num_instances`."""
    return (
        f"num_vm_{instance.vm_state}",
        f"num_task_{instance.task_state}",
        f"num_os_type_{instance.os_type}",
        f"num_proj_{instance.project_id}",
    )


def kept(driver: Mapping[str, StatValue] | None, before: Mapping[str, StatValue]) -> dict[str, StatValue]:
    """
    Give the stats that no entry makes.

    Args:
        driver: what the driver passes in, with an `uptime` of None if it has none, as in Nova.
        before: the saved record's stats: `failed_builds` is kept.
    """
    stats: dict[str, StatValue] = {} if driver is None else {"uptime": None, **driver}
    stats["failed_builds"] = _failed_builds(before)
    return stats


def adjusted(stats: Mapping[str, StatValue], gone: Collection[Entry], come: Collection[Entry]) -> dict[str, StatValue]:
    """Make the stats that a node has once some entries are gone and others have come."""
    names = {"num_instances", "io_workload"}.union(*(entry.counts for entry in gone), *(entry.counts for entry in come))
    numbers: Counter[str] = Counter()
    for name in names | {name for name in _IO_COUNTS if name in stats}:
        number = stats.get(name, 0)
        numbers[name] = number if isinstance(number, int) else 0
    for entry in gone:
        _add(numbers, entry, -1)
    for entry in come:
        _add(numbers, entry)
    return {name: value for name, value in stats.items() if name not in numbers} | _shown(numbers)


def current_workload(entries: Iterable[Entry]) -> int:
    """Count the instances that have a task."""
    return sum(bool(entry.counts) and _IDLE not in entry.counts for entry in entries)


def _add(numbers: Counter[str], entry: Entry, sign: int = 1) -> None:
    if entry.counts:
        numbers["num_instances"] += sign
        for name in entry.counts:
            numbers[name] += sign


def _shown(numbers: Counter[str]) -> dict[str, StatValue]:
    """Give the counts as a record has them: none at all without instances."""
    if not numbers["num_instances"]:
        return {}
    # An instance that builds and has such a task adds twice, as in Nova.
    numbers["io_workload"] = sum(numbers[name] for name in _IO_COUNTS)
    return {name: number for name, number in numbers.items() if number or name == "io_workload"}


def _failed_builds(before: Mapping[str, StatValue]) -> int:
    """Read the count that is kept; a foreign writer may have left a string, as Nova does."""
    number = before.get("failed_builds", 0)
    if isinstance(number, str) and number.isdecimal():
        return int(number)
    return number if isinstance(number, int) else 0
