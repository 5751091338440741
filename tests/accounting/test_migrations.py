"""Which migrations count, as what, and which are stale."""

import itertools

import pytest

from stocktake.accounting.migrations import (
    RESIZE_TASKS,
    SETTLED,
    chosen,
    comes_here,
    in_play,
    is_moving,
    leaves_here,
    with_contexts,
)
from stocktake.model.books import Entry, Tally
from stocktake.model.workload import Instance, Migration, MigrationContext
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
    codes,
    count,
    entries_of,
    floating,
    minutes,
    outgoing,
    pinned,
    same_host,
    two_cells,
    uuid_of,
    work,
)

STATUSES = ("accepted", "queued", "preparing", "running", "post-migrating", "finished", "confirming", "error")


def one(books: Tally) -> Entry:
    (entry,) = entries_of(books, "migration").values()
    return entry


@pytest.mark.parametrize(
    ("status", "looked_at"),
    [*((status, False) for status in sorted(SETTLED)), *((status, True) for status in STATUSES), (None, False)],
)
def test_given_a_status_when_asked_then_what_is_settled_is_not_looked_at(
    status: str | None, *, looked_at: bool
) -> None:
    # Nova selects by NOT IN, which no database finds true for a status of NULL.
    assert in_play(a_migration(status=status)) is looked_at
    assert not in_play(a_migration(status=status, deleted=True))
    books = count(promised=work([a_resize()], [a_migration(status=status)]))
    assert books.node.vcpus_used == (8 if looked_at else 0)


def test_given_the_settled_statuses_then_they_are_novas() -> None:
    assert {"confirmed", "reverted", "failed", "completed", "cancelled", "done"} == SETTLED


@pytest.mark.parametrize(
    ("vm_state", "task_state", "moving"),
    [
        ("resized", None, True),
        ("resized", "anything", True),
        *((vm_state, task, True) for vm_state in ("active", "stopped") for task in sorted(RESIZE_TASKS)),
        ("paused", "resize_prep", False),
        ("error", "resize_prep", False),
        ("active", "migrating", True),
        ("paused", "migrating", True),
        ("stopped", "migrating", False),
        ("active", None, False),
        ("active", "resize_reverting", False),
        ("shelved_offloaded", "spawning", False),
    ],
)
def test_given_states_when_asked_then_only_resizes_and_live_migrations_move(
    vm_state: str, task_state: str | None, *, moving: bool
) -> None:
    assert is_moving(an_instance(vm_state=vm_state, task_state=task_state)) is moving
    instance = a_resize(vm_state=vm_state, task_state=task_state)
    assert bool(entries_of(count(promised=work([instance], [a_migration()])), "migration")) is moving


def test_given_the_tasks_of_a_resize_then_they_are_novas() -> None:
    resizing = {"resize_prep", "resize_migrating", "resize_migrated", "resize_finish"}
    assert resizing | {"rebuilding", "rebuild_block_device_mapping", "rebuild_spawning"} == RESIZE_TASKS


def test_given_a_migration_of_no_instance_when_counted_then_it_is_skipped() -> None:
    assert entries_of(count(promised=work([], [a_migration()])), "migration") == {}


def test_given_a_migration_of_a_deleted_instance_whose_record_is_there_when_counted_then_it_counts() -> None:
    deleted = a_resize(deleted=True, vm_state="resized", task_state=None)
    assert one(count(promised=work([deleted], [a_migration()]))).vcpus == LARGE.vcpus


# Who has the instance, which way the migration goes, what the instance's flavor is now: what counts for the migration.
@pytest.mark.parametrize(
    ("case", "migration", "instance", "takes"),
    [
        ("comes", a_migration(), a_resize(), LARGE),
        ("comes, finished", a_migration(status="finished"), a_resize(vm_state="resized", task_state=None), LARGE),
        ("is here already", a_migration(), a_resize(away=False), None),
        ("leaves", outgoing(a_migration()), a_resize(flavor=LARGE), SMALL),
        ("leaves, not gone yet", outgoing(a_migration()), a_resize(away=False), None),
        ("leaves, confirm races", outgoing(a_migration()), a_resize(old_flavor=None), None),
        ("same host, old flavor", same_host(a_migration()), a_resize(away=False), LARGE),
        (
            "same host, new flavor",
            same_host(a_migration()),
            a_resize(away=False, flavor=LARGE, instance_type_id=LARGE.id),
            SMALL,
        ),
        (
            "same host, cold migration",
            same_host(a_migration(migration_type="migration", new_instance_type_id=SMALL.id)),
            a_resize(away=False, flavor=SMALL),
            SMALL,
        ),
        (
            "same host, new flavor, confirm races",
            same_host(a_migration()),
            a_resize(away=False, instance_type_id=LARGE.id, old_flavor=None),
            None,
        ),
        (
            "same host, another flavor than either",
            same_host(a_migration()),
            a_resize(away=False, instance_type_id=77),
            SMALL,
        ),
        (
            "live migration comes",
            a_migration(migration_type="live-migration"),
            a_resize(task_state="migrating", old_flavor=None, new_flavor=None),
            SMALL,
        ),
        (
            "live migration leaves",
            outgoing(a_migration(migration_type="live-migration")),
            a_resize(task_state="migrating", old_flavor=None, new_flavor=None),
            SMALL,
        ),
        ("evacuation comes", a_migration(migration_type="evacuation"), a_resize(task_state="rebuilding"), SMALL),
        ("no type, ids differ", a_migration(migration_type=None), a_resize(), LARGE),
        ("no type, ids equal", a_migration(migration_type=None, new_instance_type_id=SMALL.id), a_resize(), SMALL),
        ("no type, no ids", a_migration(migration_type=None, new_instance_type_id=None), a_resize(), LARGE),
        ("host right, node wrong", a_migration(dest_node="other"), a_resize(), None),
        ("node right, host wrong", a_migration(dest_compute="other"), a_resize(), None),
        (
            "same host, other node",
            a_migration(source_compute=HOST, source_node="cn-1-b"),
            a_resize(host=HOST, node="cn-1-b"),
            LARGE,
        ),
    ],
)
def test_given_a_move_when_counted_then_it_takes_the_side_that_is_needed(
    case: str, migration: Migration, instance: Instance, takes: object
) -> None:
    books = count(promised=work([instance], [migration]))
    found = entries_of(books, "migration").get(instance.uuid)
    if takes is None:
        assert found is None, case
        return
    assert found is not None, case
    flavor = LARGE if takes is LARGE else SMALL
    assert (found.vcpus, found.memory_mb, found.disk_mb) == (flavor.vcpus, flavor.memory_mb, flavor.root_gb * 1024)
    assert "migration 1" in found.why
    assert codes(books) == []


def test_given_a_move_of_a_volume_backed_instance_when_counted_then_its_root_disk_is_nothing() -> None:
    assert one(count(promised=work([a_resize(volume_backed=True)], [a_migration()]))).disk_mb == 0


CONTEXT = MigrationContext(migration_id=1, old_numa_topology=pinned({0: 4}), new_numa_topology=pinned({0: 5}))


@pytest.mark.parametrize(
    ("migration", "instance", "pins"),
    [
        (a_migration(), a_resize(migration_context=CONTEXT, numa_topology=pinned({0: 6})), {5}),
        (outgoing(a_migration()), a_resize(migration_context=CONTEXT, numa_topology=pinned({0: 6})), {4}),
        (a_migration(), a_resize(numa_topology=pinned({0: 6})), None),
        (outgoing(a_migration()), a_resize(numa_topology=pinned({0: 6})), None),
    ],
)
def test_given_a_migration_context_when_a_move_counts_then_its_side_is_placed(
    migration: Migration, instance: Instance, pins: set[int] | None
) -> None:
    entry = one(count(a_host(numa_topology=two_cells()), work([instance], [migration])))
    assert [set(take.pinned_cpus) for take in entry.cells] == ([pins] if pins else [])


@pytest.mark.parametrize(
    ("instance_type_id", "instance_pins", "move_pins"), [(SMALL.id, {5}, set()), (LARGE.id, {5}, {4})]
)
def test_given_a_resize_on_this_node_when_counted_then_the_context_is_applied_and_both_sides_have_their_cpus(
    instance_type_id: int, instance_pins: set[int], move_pins: set[int]
) -> None:
    instance = a_resize(
        away=False, migration_context=CONTEXT, numa_topology=pinned({0: 4}), instance_type_id=instance_type_id
    )
    books = count(a_host(numa_topology=two_cells()), work([instance], [same_host(a_migration())]))
    # Applied for the count, the new side is the instance's; what the move asks of it is pinned already, once.
    counted = entries_of(books, "instance")[instance.uuid]
    assert {cpu for take in counted.cells for cpu in take.pinned_cpus} == instance_pins
    assert {cpu for take in one(books).cells for cpu in take.pinned_cpus} == move_pins
    assert books.node.numa_topology is not None
    assert books.node.numa_topology.cells[0].memory_usage_mb == 2048


@pytest.mark.parametrize(
    ("migration", "applied"),
    [(a_migration(), True), (outgoing(a_migration()), False), (same_host(a_migration()), True)],
)
def test_given_a_context_when_applied_then_only_to_what_comes_here(migration: Migration, *, applied: bool) -> None:
    instance = an_instance(migration_context=CONTEXT, numa_topology=pinned({0: 6}))
    (counted,) = with_contexts((instance,), (migration,), HOST, NODE)
    assert counted.numa_topology == (pinned({0: 5}) if applied else pinned({0: 6}))


def test_given_an_instance_without_context_when_applied_then_it_stays() -> None:
    instance = an_instance(numa_topology=floating())
    assert with_contexts((instance,), (a_migration(),), HOST, NODE) == (instance,)


def test_given_a_context_without_a_new_topology_when_applied_then_the_instance_has_none() -> None:
    instance = an_instance(numa_topology=floating(), migration_context=MigrationContext(migration_id=1))
    (counted,) = with_contexts((instance,), (a_migration(),), HOST, NODE)
    assert counted.numa_topology is None


@pytest.mark.parametrize(
    ("case", "several", "latest"),
    [
        ("by updated_at", {1: (1, 9), 2: (2, 8)}, 1),
        ("by created_at where never updated", {1: (1, None), 2: (2, None)}, 2),
        ("updated against created", {1: (1, 5), 2: (4, None)}, 1),
        ("created after the other's update", {1: (1, 3), 2: (4, None)}, 2),
        ("a tie keeps the one first created", {1: (2, 7), 2: (1, 7)}, 2),
        ("a full tie keeps the lowest id", {2: (1, 7), 1: (1, 7)}, 1),
        ("no times at all", {1: (None, None), 2: (None, None)}, 1),
        ("any time is later than none", {1: (None, None), 2: (1, None)}, 2),
    ],
)
def test_given_several_migrations_of_an_instance_when_chosen_then_the_latest_is_and_none_is_stale(
    case: str, several: dict[int, tuple[int | None, int | None]], latest: int
) -> None:
    rows = [
        a_migration(
            number,
            created_at=None if made is None else minutes(made),
            updated_at=None if changed is None else minutes(changed),
        )
        for number, (made, changed) in several.items()
    ]
    for order in itertools.permutations(rows):
        picked, stale = chosen(order, {uuid_of(1): a_resize()})
        assert ([migration.id for migration in picked], stale) == ([latest], ()), case


@pytest.mark.parametrize(
    ("case", "named", "statuses", "counted", "stale"),
    [
        ("the latest is named", 2, {1: "finished", 2: "migrating"}, [2], (1,)),
        ("an earlier one is named", 1, {1: "finished", 2: "migrating"}, [1], (2,)),
        ("none of them is named", 9, {1: "finished", 2: "migrating"}, [], (1, 2)),
        ("only one, and another is named", 9, {1: "migrating"}, [], (1,)),
        ("what is in error stays so", 2, {1: "error", 2: "migrating"}, [2], ()),
        ("the named one is in error", 2, {1: "migrating", 2: "error"}, [2], (1,)),
    ],
)
def test_given_a_context_that_names_a_migration_when_chosen_then_it_counts_and_the_others_are_stale(
    case: str, named: int, statuses: dict[int, str], counted: list[int], stale: tuple[int, ...]
) -> None:
    context = MigrationContext(migration_id=named)
    rows = [a_migration(number, status=status) for number, status in statuses.items()]
    books = count(promised=work([a_resize(migration_context=context)], rows))
    assert books.stale_migrations == stale, case
    assert len(entries_of(books, "migration")) == len(counted)
    assert [f"migration {number}" in one(books).why for number in counted] == [True] * len(counted)


def test_given_a_context_that_names_none_when_chosen_then_the_latest_counts() -> None:
    instance = a_resize(migration_context=MigrationContext())
    books = count(promised=work([instance], [a_migration(1), a_migration(2)]))
    assert books.stale_migrations == ()
    assert "migration 2" in one(books).why


def test_given_an_instance_that_does_not_move_when_chosen_then_nothing_is_stale() -> None:
    instance = an_instance(migration_context=MigrationContext(migration_id=9))
    assert count(promised=work([instance], [a_migration()])).stale_migrations == ()


def test_given_a_resize_to_here_without_its_new_flavor_when_counted_then_the_flavor_it_has_counts_and_it_is_told() -> (
    None
):
    books = count(promised=work([a_resize(new_flavor=None)], [a_migration()]))
    assert one(books).vcpus == SMALL.vcpus
    assert codes(books) == ["flavor-missing"]
    assert "migration 1" in books.node.problems[0].text


def test_given_a_resize_on_this_node_without_its_new_flavor_when_counted_then_the_instance_counts_and_it_is_told() -> (
    None
):
    books = count(promised=work([a_resize(away=False, new_flavor=None)], [same_host(a_migration())]))
    assert entries_of(books, "migration") == {}
    assert books.node.vcpus_used == SMALL.vcpus
    assert codes(books) == ["flavor-missing"]


def test_given_migrations_of_several_instances_when_chosen_then_each_is_decided_by_itself_and_they_are_by_uuid() -> (
    None
):
    first, second, third = (a_migration(number, of=number) for number in (1, 2, 3))
    moving = {
        uuid_of(3): a_resize(3, migration_context=MigrationContext(migration_id=3)),
        uuid_of(2): a_resize(2),
        uuid_of(1): a_resize(1, migration_context=MigrationContext(migration_id=1)),
    }
    assert chosen((third, second, first), moving) == ((first, second, third), ())


def test_given_a_move_that_does_not_say_what_it_is_when_counted_then_its_flavors_do() -> None:
    resized = one(count(promised=work([a_resize()], [a_migration(migration_type=None)])))
    assert resized.why.startswith("migration 1: resize to this node")
    same = a_migration(migration_type=None, new_instance_type_id=SMALL.id)
    moved = one(count(promised=work([a_resize(new_flavor=SMALL)], [same])))
    assert moved.why.startswith("migration 1: migration to this node")


def test_given_a_migration_between_two_others_when_counted_then_it_takes_nothing() -> None:
    migration = a_migration(dest_compute="cn-3", dest_node="cn-3")
    assert entries_of(count(promised=work([a_resize()], [migration])), "migration") == {}


def test_given_a_migration_from_nowhere_when_counted_then_the_entry_says_so() -> None:
    migration = a_migration(migration_type="live-migration", source_compute=None, source_node=None)
    entry = one(count(promised=work([a_resize(task_state="migrating")], [migration])))
    assert entry.why == "migration 1: live-migration to this node from an unknown host"
    leaves = one(count(promised=work([a_resize()], [outgoing(a_migration())]))).why
    assert f"from this node to {ELSEWHERE[0]}" in leaves
    assert leaves.endswith("room for a revert")


@pytest.mark.parametrize(
    ("case", "instance", "migration", "consumers"),
    [
        ("no move", an_instance(), None, {"instance": "instance"}),
        (
            "leaves, still here",
            an_instance(task_state="resize_migrating"),
            outgoing(a_migration()),
            {"instance": "migration"},
        ),
        ("leaves, gone already", a_resize(), outgoing(a_migration()), {"migration": "migration"}),
        ("comes, not here yet", a_resize(), a_migration(), {"migration": "instance"}),
        ("comes, here already", a_resize(away=False), a_migration(), {"instance": "instance"}),
        (
            "resized here, old flavor",
            a_resize(away=False, instance_type_id=1),
            same_host(a_migration()),
            {"instance": "migration", "migration": "instance"},
        ),
        (
            "resized here, new flavor",
            a_resize(away=False, instance_type_id=2),
            same_host(a_migration()),
            {"instance": "instance", "migration": "migration"},
        ),
        ("not moving any more", an_instance(), outgoing(a_migration()), {"instance": "instance"}),
        ("a migration without a uuid", a_resize(), outgoing(a_migration(uuid=None)), {"migration": None}),
    ],
    ids=lambda case: case if isinstance(case, str) else "",
)
def test_given_a_move_when_counted_then_what_it_leaves_is_its_own_and_the_rest_the_instances(
    case: str, instance: Instance, migration: Migration | None, consumers: dict[str, str | None]
) -> None:
    books = count(promised=work([instance], [migration] if migration else []))
    names = {instance.uuid: "instance", migration.uuid if migration else None: "migration"} | {None: None}
    assert {one.kind: names[one.consumer] for one in books.entries if one.kind != "reserved"} == consumers
    assert [one.consumer for one in books.entries if one.kind == "reserved"] == [None]


def test_given_a_node_when_asked_whether_a_move_leaves_or_comes_then_host_and_node_both_count() -> None:
    move = a_migration(source_compute="a", source_node="n1", dest_compute="b", dest_node="n2")
    ends = [("a", "n1"), ("a", "n2"), ("b", "n1"), ("b", "n2")]
    assert [leaves_here(move, *end) for end in ends] == [True, False, False, False]
    assert [comes_here(move, *end) for end in ends] == [False, False, False, True]
