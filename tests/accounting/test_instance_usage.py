"""What one instance takes of one node, whoever else is there."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stocktake.accounting.instance_usage import Share, counts, disk_mb, holdings_of, of_instance, share_of
from stocktake.accounting.migrations import in_play
from stocktake.model.value import replace
from stocktake.model.workload import Flavor, Instance, Migration, MigrationContext
from tests.accounting.making import (
    ELSEWHERE,
    HOST,
    LARGE,
    NODE,
    SMALL,
    a_host,
    a_migration,
    a_resize,
    an_instance,
    count,
    entries_of,
    floating,
    outgoing,
    pinned,
    same_host,
    two_cells,
    uuid_of,
    work,
)
from tests.accounting.test_properties import counted, thorough
from tests.strategies import Case, cases

ME, MOVE = uuid_of(1), uuid_of(9001)
OLD, NEW = pinned({0: 4}), pinned({0: 5})
CONTEXT = MigrationContext(
    migration_id=1,
    old_numa_topology=OLD,
    new_numa_topology=NEW,
    old_pci_devices=("a",),
    new_pci_devices=("b",),
)


def share(instance: Instance, *moves: Migration) -> Share:
    here = (instance.host, instance.node) == (HOST, NODE) and not instance.deleted
    return share_of(instance, moves, HOST, NODE, here=here)


def moving(**changes: Any) -> Instance:
    """An instance of small flavor that is here and being resized."""
    return a_resize(away=False, numa_topology=OLD, migration_context=CONTEXT, **changes)


AWAY: dict[str, Any] = {"host": "cn-2", "node": "cn-2.example.org"}
GROWN: dict[str, Any] = {"flavor": LARGE, "instance_type_id": LARGE.id}

# For each holding: kind, flavor's memory, cell's pins, devices, consumer. The instance holds devices a, b and c here.
CASES: tuple[tuple[str, Instance, tuple[Migration, ...], list[tuple[object, ...]]], ...] = (
    ("settled here", an_instance(), (), [("instance", 2048, None, "abc", ME)]),
    ("settled elsewhere", an_instance(**AWAY), (), []),
    ("shelved away, still here", an_instance(vm_state="shelved_offloaded"), (), []),
    (
        "unshelved here",
        an_instance(vm_state="shelved_offloaded", task_state="spawning"),
        (),
        [("instance", 2048, None, "abc", ME)],
    ),
    ("leaves, still here", moving(), (outgoing(a_migration()),), [("instance", 2048, OLD, "abc", MOVE)]),
    ("has left", moving(**AWAY, **GROWN), (outgoing(a_migration()),), [("migration", 2048, OLD, "abc", MOVE)]),
    ("comes, not here yet", moving(**AWAY), (a_migration(),), [("migration", 8192, NEW, "abc", ME)]),
    ("has come", moving(**GROWN), (a_migration(status="finished"),), [("instance", 8192, NEW, "abc", ME)]),
    (
        "grows here",
        moving(),
        (same_host(a_migration()),),
        [("instance", 2048, NEW, "ac", MOVE), ("migration", 8192, NEW, "b", ME)],
    ),
    (
        "has grown here",
        moving(**GROWN, vm_state="resized", task_state=None),
        (same_host(a_migration()),),
        [("instance", 8192, NEW, "bc", ME), ("migration", 2048, OLD, "a", MOVE)],
    ),
    # The old flavor is gone: a confirm is racing, and the instance is on its new side already.
    (
        "has grown here, and a confirm is racing",
        moving(**GROWN, vm_state="resized", task_state=None, old_flavor=None),
        (same_host(a_migration()),),
        [("instance", 8192, NEW, "abc", ME)],
    ),
    ("does not move any more", an_instance(), (outgoing(a_migration()),), [("instance", 2048, None, "abc", ME)]),
    (
        "deleted while it leaves",
        moving(deleted=True),
        (outgoing(a_migration()),),
        [("migration", 2048, OLD, "abc", MOVE)],
    ),
    ("a move between two others", moving(**AWAY), (a_migration(dest_compute="cn-3"),), []),
    (
        "a move without a uuid",
        moving(**AWAY),
        (outgoing(a_migration(uuid=None)),),
        [("migration", 2048, OLD, "abc", None)],
    ),
)


@pytest.mark.parametrize(
    ("instance", "moves", "expected"), [case[1:] for case in CASES], ids=[case[0] for case in CASES]
)
def test_given_an_instance_and_its_moves_when_counted_then_it_holds_what_its_side_is_for(
    instance: Instance, moves: tuple[Migration, ...], expected: list[tuple[object, ...]]
) -> None:
    held = [
        (one.entry.kind, one.entry.memory_mb, one.numa, "".join(one.pci), one.entry.consumer)
        for one in holdings_of(share(instance, *moves), ("c", "b", "a"))
    ]
    assert held == expected


def test_given_stale_moves_when_counted_then_they_are_named_and_the_named_one_counts() -> None:
    found = share(moving(**AWAY), a_migration(1), a_migration(2), a_migration(3, status="error"))
    assert found.move is not None
    assert (found.move.migration.id, found.stale) == (1, (2,))


def test_given_only_stale_moves_when_counted_then_the_instance_counts_without_any() -> None:
    found = share(moving(), outgoing(a_migration(2)))
    assert (found.counted, found.move, found.leaving, found.stale) == (moving(), None, None, (2,))


@pytest.mark.parametrize(("away", "memory_mb"), [(True, SMALL.memory_mb), (False, None)])
def test_given_a_resize_without_its_new_flavor_when_counted_then_the_problem_names_the_instance(
    *, away: bool, memory_mb: int | None
) -> None:
    instance = a_resize(away=away, new_flavor=None)
    found = share(instance, a_migration() if away else same_host(a_migration()))
    assert [(problem.code, problem.about) for problem in found.problems] == [("flavor-missing", ME)]
    assert (found.move.flavor.memory_mb if found.move else None) == memory_mb


def test_given_devices_that_a_move_names_and_nobody_holds_when_counted_then_they_are_no_ones() -> None:
    held = holdings_of(share(moving(), same_host(a_migration())), ())
    assert [one.pci for one in held] == [(), ()]


def test_given_a_context_when_its_move_goes_away_then_it_is_not_applied_here() -> None:
    found = share(replace(moving(), numa_topology=floating()), outgoing(a_migration()))
    assert found.counted is not None
    assert found.counted.numa_topology == floating()


@thorough
@given(cases(), st.data())
def test_given_any_node_when_one_instance_is_asked_about_then_its_share_is_what_a_whole_count_gives_it(
    case: Case, data: st.DataObject
) -> None:
    every = {one.uuid: one for one in (*case.work.moving.values(), *case.work.instances)}
    if not every:
        return
    uuid = data.draw(st.sampled_from(sorted(every)))
    books = counted(case)
    moves = tuple(one for one in case.work.migrations if one.instance_uuid == uuid and in_play(one))
    here = uuid in {one.uuid for one in case.work.instances}
    found = share_of(every[uuid], moves, HOST, NODE, here=here)
    held = [record.address for record in books.pci_devices if record.instance_uuid == uuid]
    bare = {"cells": ()}
    mine = [
        replace(entry, **bare)
        for entry in books.entries
        if entry.id == uuid and entry.kind in ("instance", "migration")
    ]
    assert [replace(one.entry, pci=one.pci) for one in holdings_of(found, held)] == mine
    assert set(found.stale) <= set(books.stale_migrations)


@pytest.mark.parametrize(
    ("vm_state", "task_state", "counted"),
    [
        ("active", None, True),
        ("active", "powering-off", True),
        ("building", "spawning", True),
        ("building", "scheduling", True),
        ("stopped", None, True),
        ("paused", None, True),
        ("suspended", None, True),
        ("rescued", None, True),
        ("resized", None, True),
        ("error", None, True),
        ("soft-delete", None, True),
        ("shelved", None, True),
        (None, None, True),
        ("shelved_offloaded", None, False),
        ("shelved_offloaded", "unshelving", False),
        ("shelved_offloaded", "spawning", True),
        ("deleted", None, False),
        ("deleted", "spawning", False),
    ],
)
def test_given_states_when_asked_then_only_what_may_be_given_up_does_not_count(
    vm_state: str | None, task_state: str | None, *, counted: bool
) -> None:
    instance = an_instance(vm_state=vm_state, task_state=task_state)
    assert counts(instance) is counted
    books = count(promised=work([instance]))
    assert books.node.running_vms == int(counted)
    assert books.node.vcpus_used == (2 if counted else 0)


def test_given_a_deleted_record_when_asked_then_it_does_not_count() -> None:
    assert not counts(an_instance(deleted=True))


@pytest.mark.parametrize("place", [(ELSEWHERE[0], "cn-1.example.org"), ("cn-1", ELSEWHERE[1]), (None, None)])
def test_given_host_or_node_of_another_when_sorted_then_it_is_not_here(place: tuple[str | None, str | None]) -> None:
    instance = an_instance(host=place[0], node=place[1])
    assert work([instance]).instances == ()


@pytest.mark.parametrize(
    ("flavor", "volume_backed", "disk"),
    [
        (Flavor(vcpus=1, memory_mb=1, root_gb=20), False, 20480),
        (Flavor(vcpus=1, memory_mb=1, root_gb=20), True, 0),
        (Flavor(vcpus=1, memory_mb=1, root_gb=20, ephemeral_gb=5), False, 25600),
        (Flavor(vcpus=1, memory_mb=1, root_gb=20, ephemeral_gb=5, swap_mb=1536), True, 6656),
        (Flavor(vcpus=1, memory_mb=1, swap_mb=1), False, 1),
        (Flavor(vcpus=0, memory_mb=0), False, 0),
    ],
)
def test_given_a_flavor_when_its_disk_is_added_up_then_it_is_exact_in_mib(
    flavor: Flavor, *, volume_backed: bool, disk: int
) -> None:
    assert disk_mb(flavor, volume_backed=volume_backed) == disk
    entry = of_instance(an_instance(flavor=flavor, volume_backed=volume_backed))
    assert (entry.vcpus, entry.memory_mb, entry.disk_mb) == (flavor.vcpus, flavor.memory_mb, disk)


def test_given_an_instance_when_counted_then_the_entry_says_who_and_why() -> None:
    entry = of_instance(an_instance(vm_state="stopped", task_state="powering-on"))
    assert (entry.kind, entry.id, entry.name) == ("instance", an_instance().uuid, "vm-1")
    assert entry.why == "instance on this node (stopped, powering-on)"
    assert of_instance(an_instance()).why == "instance on this node (active)"


def test_given_an_instance_that_is_powered_off_when_counted_then_its_cells_count_too() -> None:
    instance = an_instance(vm_state="stopped", power_state=4, numa_topology=floating(2))
    books = count(a_host(numa_topology=two_cells()), work([instance]))
    (take,) = entries_of(books, "instance")[instance.uuid].cells
    assert (take.cell, take.vcpus, take.memory_mb) == (0, 2, 1024)
