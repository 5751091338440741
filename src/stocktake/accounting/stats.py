"""
Step 6: counts of instances by state. Law: every `num_*` is an integer, and counted migrations are not in them.

Rules: docs/accounting.md, "Instances".
"""

from collections import Counter
from collections.abc import Mapping, Sequence

from stocktake.model.books import StatValue
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


def tallied(
    instances: Sequence[Instance], *, driver: Mapping[str, StatValue] | None, before: Mapping[str, StatValue]
) -> dict[str, StatValue]:
    """
    Make a node's stats.

    Args:
        instances: the counted ones.
        driver: what the driver passes in, merged in, with an `uptime` of None if it has none, as in Nova;
            our own names win.
        before: the saved record's stats: `failed_builds` is kept.
    """
    numbers: Counter[str] = Counter()
    for instance in instances:
        numbers["num_instances"] += 1
        numbers[f"num_vm_{instance.vm_state}"] += 1
        numbers[f"num_task_{instance.task_state}"] += 1
        numbers[f"num_os_type_{instance.os_type}"] += 1
        numbers[f"num_proj_{instance.project_id}"] += 1
    # An instance that builds and has such a task adds twice, as in Nova.
    io_workload = numbers["num_vm_building"] + sum(numbers[f"num_task_{task}"] for task in IO_TASKS)
    stats: dict[str, StatValue] = {} if driver is None else {"uptime": None, **driver}
    stats["failed_builds"] = _failed_builds(before)
    if instances:
        stats |= {name: number for name, number in numbers.items() if number}
        stats["io_workload"] = io_workload
    return stats


def current_workload(instances: Sequence[Instance]) -> int:
    """Count the instances that have a task."""
    return sum(instance.task_state is not None for instance in instances)


def _failed_builds(before: Mapping[str, StatValue]) -> int:
    """Read the count that is kept; a foreign writer may have left a string, as Nova does."""
    number = before.get("failed_builds", 0)
    if isinstance(number, str) and number.isdecimal():
        return int(number)
    return number if isinstance(number, int) else 0
