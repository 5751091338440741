"""Counts of instances by state."""

from collections.abc import Iterable, Mapping

import pytest

from stocktake.accounting.instance_usage import of_instance
from stocktake.accounting.stats import IO_TASKS, adjusted, current_workload, kept
from stocktake.model.books import Entry, StatValue
from stocktake.model.workload import Instance
from tests.accounting.making import a_migration, a_resize, an_instance, count, work


def tallied(
    entries: Iterable[Entry], *, driver: Mapping[str, StatValue] | None, before: Mapping[str, StatValue]
) -> dict[str, StatValue]:
    """Give the stats of a node with these entries, as its record has them."""
    return kept(driver, before) | adjusted({}, (), tuple(entries))


def test_given_no_instance_when_counted_then_there_is_failed_builds_only() -> None:
    assert tallied((), driver=None, before={}) == {"failed_builds": 0}


def test_given_instances_when_counted_then_each_state_type_and_project_is() -> None:
    instances = (
        an_instance(1),
        an_instance(2, vm_state="building", task_state="spawning", os_type=None, project_id=None),
        an_instance(3, vm_state="stopped", project_id="q"),
    )
    entries = tuple(map(of_instance, instances))
    assert tallied(entries, driver=None, before={}) == {
        "failed_builds": 0,
        "num_instances": 3,
        "num_vm_active": 1,
        "num_vm_building": 1,
        "num_vm_stopped": 1,
        "num_task_None": 2,
        "num_task_spawning": 1,
        "num_os_type_linux": 2,
        "num_os_type_None": 1,
        "num_proj_p": 1,
        "num_proj_q": 1,
        "num_proj_None": 1,
        "io_workload": 1,
    }
    assert current_workload(entries) == 1


@pytest.mark.parametrize(
    ("vm_state", "task_state", "io_workload"),
    [
        *[("active", task, 1) for task in IO_TASKS],
        *[("building", task, 2) for task in IO_TASKS],
        ("building", None, 1),
        ("active", "resize_migrated", 0),
        ("active", "resize_finish", 0),
        ("active", None, 0),
    ],
)
def test_given_a_task_when_counted_then_it_adds_to_the_load_once_and_a_build_once_more(
    vm_state: str, task_state: str | None, io_workload: int
) -> None:
    stats = tallied((of_instance(an_instance(vm_state=vm_state, task_state=task_state)),), driver=None, before={})
    assert stats["io_workload"] == io_workload


@pytest.mark.parametrize(
    ("driver", "merged"),
    [
        (None, {}),
        ({}, {"uptime": None}),
        ({"uptime": "3 days"}, {"uptime": "3 days"}),
        ({"custom": "7", "n": 1}, {"uptime": None, "custom": "7", "n": 1}),
    ],
)
def test_given_what_a_driver_says_when_counted_then_it_is_merged_in(
    driver: dict[str, StatValue] | None, merged: dict[str, StatValue]
) -> None:
    assert tallied((), driver=driver, before={}) == {**merged, "failed_builds": 0}


@pytest.mark.parametrize(
    ("before", "number"),
    [({}, 0), ({"failed_builds": 3}, 3), ({"failed_builds": "4"}, 4), ({"failed_builds": None}, 0)],
)
def test_given_builds_that_failed_when_counted_again_then_their_number_is_kept(
    before: dict[str, StatValue], number: int
) -> None:
    assert tallied((), driver={"failed_builds": 99}, before=before)["failed_builds"] == number


def test_given_a_counted_migration_when_counted_then_it_is_in_no_number() -> None:
    books = count(promised=work([a_resize()], [a_migration()]))
    assert books.node.stats == {"failed_builds": 0}
    assert (books.node.running_vms, books.node.current_workload) == (0, 0)
    assert books.node.vcpus_used == 8


ACTIVE, BUILDING = an_instance(1), an_instance(2, vm_state="building", task_state="rebuilding")


@pytest.mark.parametrize("driver", [None, {"uptime": "3 days", "custom": "7"}])
@pytest.mark.parametrize("gone", [(), (ACTIVE,), (BUILDING,), (ACTIVE, BUILDING)])
@pytest.mark.parametrize("come", [(), (an_instance(3),), (an_instance(3, os_type=None), BUILDING)])
def test_given_stats_when_instances_go_and_come_then_they_are_those_of_who_is_there(
    driver: dict[str, StatValue] | None, gone: tuple[Instance, ...], come: tuple[Instance, ...]
) -> None:
    def stats(instances: Iterable[Instance]) -> dict[str, StatValue]:
        return tallied(entries_of(instances), driver=driver, before={"failed_builds": 3})

    before = stats((ACTIVE, BUILDING))
    after = stats((*(one for one in (ACTIVE, BUILDING) if one not in gone), *come))
    assert adjusted(before, entries_of(gone), entries_of(come)) == after


def entries_of(instances: Iterable[Instance]) -> tuple[Entry, ...]:
    return tuple(map(of_instance, instances))


def test_given_a_count_that_somebody_left_as_text_when_an_instance_comes_then_it_counts_from_nothing() -> None:
    # Nova stores strings; the next refresh says it exactly.
    assert adjusted({"num_instances": "9", "x": "y"}, (), entries_of([ACTIVE]))["num_instances"] == 1


def test_given_the_tasks_that_are_load_then_they_are_novas() -> None:
    """As in Nova's nova/compute/stats.py, `io_workload`."""
    assert set(IO_TASKS) == {
        "resize_migrating",
        "rebuilding",
        "resize_prep",
        "image_snapshot",
        "image_backup",
        "rescuing",
        "unshelving",
    }
