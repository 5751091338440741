"""What one instance takes of one node, whoever else is there."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stocktake.accounting.instance_usage import Share, holdings_of, share_of
from stocktake.accounting.migrations import in_play
from stocktake.model.value import replace
from stocktake.model.workload import Instance, Migration, MigrationContext
from tests.accounting.making import (
    HOST,
    LARGE,
    NODE,
    SMALL,
    a_migration,
    a_resize,
    an_instance,
    floating,
    outgoing,
    pinned,
    same_host,
    uuid_of,
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
