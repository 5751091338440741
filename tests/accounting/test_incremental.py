"""One instance counted anew gives what a whole tally gives, wherever no guest is in another's way."""

import dataclasses
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence

import pytest
from hypothesis import HealthCheck, assume, event, given, settings
from hypothesis import strategies as st

from stocktake.accounting import lifecycle, pci
from stocktake.accounting.incremental import digest, judged, placed, with_devices, with_entries
from stocktake.accounting.instance_usage import Holding, holdings_of, share_of
from stocktake.accounting.lifecycle import Location, MoveKind, Step
from stocktake.accounting.migrations import in_play
from stocktake.model.books import Entry, Tally
from stocktake.model.pci import PciRecord
from stocktake.model.problem import Problem
from stocktake.model.topology import CellTake, GuestTopology
from stocktake.model.value import replace
from stocktake.model.workload import Instance, Migration, NodeWork, Place
from tests.accounting.making import a_host, an_instance, codes, count, floating, pinned, two_cells, uuid_of, work
from tests.accounting.test_properties import counted, fed_back
from tests.strategies import FLAVORS, GUEST_TOPOLOGIES, HERE, HOST, NEWCOMER, NODE, UUIDS, Case, cases
from tests.strategies import instances as any_instance
from tests.strategies import migrations as any_migration

thorough = settings(
    max_examples=100,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
)
# What only a whole count can tell: who was in whose way.
IN_THE_WAY = {"pinned-cpu-taken", "pci-device-taken", "pci-function-conflict"}
# What only the hypervisor can tell of an instance that has changed.
DRIFT = {"instance-without-guest", "guest-exceeds-flavor"}
AT, AWAY = Location(host=HOST, node=NODE), Location(host="cn-2", node="cn-2.example.org")
ENDS: Mapping[str, Sequence[Callable[[Instance, Migration], Step]]] = {
    "abort": [lifecycle.aborted],
    "finish": [lifecycle.finished],
    "confirm": [lifecycle.finished, lifecycle.confirmed],
    "revert": [lifecycle.finished, lifecycle.reverted],
}
# Every kind of move, to every end that it can come to, from here, to here and within.
PLANS: tuple[tuple[MoveKind, str, Location, Location], ...] = (
    *(("resize", end, *sides) for end in ENDS for sides in ((AT, AT), (AT, AWAY), (AWAY, AT))),
    *(("migration", end, *sides) for end in ENDS for sides in ((AT, AT), (AT, AWAY), (AWAY, AT))),
    *(("live-migration", end, *sides) for end in ("abort", "finish") for sides in ((AT, AWAY), (AWAY, AT))),
    *(("evacuation", end, *sides) for end in ("abort", "finish") for sides in ((AT, AWAY), (AWAY, AT))),
)


@dataclasses.dataclass(frozen=True, slots=True)
class Promise:
    """All that the ledger has of one instance: its row, its migrations; and which devices it lets go and claims."""

    instance: Instance | None
    moves: tuple[Migration, ...] = ()
    frees: Collection[str] = ()
    takes: Collection[str] = ()

    @property
    def here(self) -> bool:
        """Its row says that it is on this node."""
        return self.instance is not None and not self.instance.deleted and place_of(self.instance) == HERE

    @property
    def touching(self) -> tuple[Migration, ...]:
        """Its migrations from or to this node."""
        return tuple(move for move in self.moves if HERE in sides_of(move))


def place_of(instance: Instance) -> tuple[str | None, str | None]:
    return instance.host, instance.node


def sides_of(move: Migration) -> tuple[tuple[str | None, str | None], ...]:
    return (move.source_compute, move.source_node), (move.dest_compute, move.dest_node)


def holders(records: Sequence[PciRecord]) -> dict[str, str | None]:
    return {record.address: record.instance_uuid for record in records}


def promised(before: NodeWork, uuid: str, promise: Promise) -> NodeWork:
    """Make what the ledger gives once this is what it has of the instance."""
    instance = promise.instance
    here = [one for one in before.instances if one.uuid != uuid]
    moving = {key: one for key, one in before.moving.items() if key != uuid}
    places = {key: place for key, place in before.places.items() if key != uuid}
    if instance is not None and promise.here:
        here.append(instance)
    elif instance is not None:
        places[uuid] = Place(host=instance.host, node=instance.node, deleted=instance.deleted)
    if instance is not None and promise.touching:
        moving[uuid] = instance

    def as_written(record: PciRecord) -> PciRecord:
        if record.address in promise.takes:
            return replace(record, status="claimed", instance_uuid=uuid)
        if record.address in promise.frees and record.instance_uuid == uuid:
            return replace(record, status="available", instance_uuid=None)
        return record

    others = [move for move in before.migrations if move.instance_uuid != uuid]
    return replace(
        before,
        instances=tuple(here),
        migrations=(*others, *promise.touching),
        moving=moving,
        places=places,
        pci_devices=tuple(map(as_written, before.pci_devices)),
    )


def recounted(books: Tally, uuid: str, promise: Promise) -> Tally:
    """Count one instance anew, as a claim does."""
    moves = tuple(move for move in promise.touching if in_play(move))
    gone = tuple(entry for entry in books.entries if entry.id == uuid)
    bare = with_entries(books.node, gone, ())
    mine = {record.address for record in books.pci_devices if record.instance_uuid == uuid}
    keep = mine - set(promise.frees) if promise.here or moves else set()
    table = {record.address: record for record in books.pci_devices}
    table = dict(with_devices(table, uuid, keep, dict.fromkeys(promise.takes, "alias")))
    come: tuple[Entry, ...] = ()
    found: tuple[Problem, ...] = ()
    stale: tuple[int, ...] = ()
    if promise.instance is not None:
        share = share_of(promise.instance, moves, HOST, NODE, here=promise.here)
        come, refused = placed(bare, holdings_of(share, pci.held_by(table).get(uuid, ())))
        found, stale = (*share.problems, *refused), share.stale
    node = judged(with_entries(books.node, gone, come), uuid, found)
    node = replace(node, pci_device_pools=pci.pools(table))
    entries = (*(entry for entry in books.entries if entry.id != uuid), *come)
    return Tally(node=node, entries=entries, stale_migrations=stale, pci_devices=tuple(table.values()))


def check(case: Case, before: NodeWork, books: Tally, uuid: str, promise: Promise) -> tuple[NodeWork, Tally]:
    """Hold a recount to the whole tally of the same facts and promises; give what the ledger and the books are then."""
    after = promised(before, uuid, promise)
    whole = counted(case, after)
    assume(not IN_THE_WAY & set(codes(whole)))
    # A guest that its promise leaves is there as nobody's: only who knows the hypervisor's guests can count it.
    assume(not any(entry.id == uuid and entry.kind in ("orphan", "misplaced") for entry in whole.entries))
    anew = recounted(books, uuid, promise)
    ours = [problem for problem in whole.node.problems if problem.about != uuid or problem.code not in DRIFT]
    assert set(anew.node.problems) == set(ours)
    assert replace(anew.node, problems=()) == replace(whole.node, problems=())
    assert set(anew.entries) == set(whole.entries)
    assert len(anew.entries) == len(whole.entries)
    assert anew.stale_migrations == whole.stale_migrations
    assert holders(anew.pci_devices) == holders(whole.pci_devices)
    return fed_back(Case(case.host, after, case.rules), whole), whole


def saved(case: Case) -> tuple[NodeWork, Tally]:
    books = counted(case)
    assume(not IN_THE_WAY & set(codes(books)))
    return fed_back(case, books), books


def free(books: Tally) -> list[str]:
    return [record.address for record in books.pci_devices if record.status == "available"]


def some_of(addresses: Sequence[str]) -> st.SearchStrategy[tuple[str, ...]]:
    """Up to two devices."""
    return st.lists(st.sampled_from(addresses), unique=True, max_size=2).map(tuple) if addresses else st.just(())


@thorough
@given(cases(), st.data())
def test_given_any_promise_when_any_other_takes_its_place_then_one_count_is_the_whole(
    case: Case, data: st.DataObject
) -> None:
    known = [instance.uuid for instance in (*case.work.instances, *case.work.moving.values())]
    uuid = data.draw(st.sampled_from([*known, *known, UUIDS[0], NEWCOMER]))
    doubt = Problem(code="guest-unreadable", about=uuid, text="t")
    doubts = data.draw(st.sampled_from([(), (doubt,)]))
    case = Case(replace(case.host, problems=(*case.host.problems, *doubts)), case.work, case.rules)
    before, books = saved(case)
    numbers = range(11, 11 + data.draw(st.integers(0, 3)))
    moves = tuple(replace(data.draw(any_migration(number, [uuid])), instance_uuid=uuid) for number in numbers)
    row = data.draw(any_instance(uuid, here=True) | any_instance(uuid) | st.none())
    promise = Promise(row, moves)
    if promise.here:
        promise = dataclasses.replace(promise, takes=data.draw(some_of(free(books))))
    _, after = check(case, before, books, uuid, promise)
    event(f"{entries(books, uuid)} before, {entries(after, uuid)} after")


def entries(books: Tally, uuid: str) -> str:
    """Say as what an instance counts."""
    return " and ".join(entry.kind for entry in books.entries if entry.id == uuid) or "nothing"


@thorough
@given(cases(), any_instance(NEWCOMER, here=True), st.sampled_from(PLANS), st.data())
def test_given_an_instance_when_it_moves_then_one_count_is_the_whole_at_every_step(
    case: Case, drawn: Instance, plan: tuple[MoveKind, str, Location, Location], data: st.DataObject
) -> None:
    kind, end, source, dest = plan
    before, books = saved(case)
    held = data.draw(some_of(free(books))) if source == AT else ()
    vm_state = "paused" if kind == "live-migration" and drawn.volume_backed else "active"
    row = replace(drawn, vm_state=vm_state, task_state=None, migration_context=None, old_flavor=None, new_flavor=None)
    row = replace(row, host=source.host, node=source.node, pci_devices=held)
    before, books = check(case, before, books, NEWCOMER, Promise(row, takes=held))

    takes = data.draw(some_of(free(books))) if dest == AT else ()
    flavor = replace(data.draw(FLAVORS), id=3) if kind == "resize" else None
    lifecycle.check_move(row, kind, source, dest, flavor)
    step = lifecycle.begun(
        row,
        kind,
        dest,
        flavor=flavor,
        numa=data.draw(st.none() | GUEST_TOPOLOGIES),
        devices=takes,
        migration_id=21,
        migration_uuid=UUIDS[6],
        expires_at=None,
    )
    before, books = check(case, before, books, NEWCOMER, of_step(step, takes))
    for go in ENDS[end]:
        assert step.migration is not None
        step = go(step.instance, step.migration)
        before, books = check(case, before, books, NEWCOMER, of_step(step))
    event(f"{kind} {'here' if source == dest else 'in' if dest == AT else 'out'}, {end}")


def of_step(step: Step, takes: Collection[str] = ()) -> Promise:
    assert step.migration is not None
    return Promise(step.instance, (step.migration,), step.frees.get(AT, ()), takes)


@thorough
@given(cases(), any_instance(NEWCOMER, here=True), st.none() | GUEST_TOPOLOGIES, st.data())
def test_given_a_shelved_instance_when_it_is_unshelved_or_not_then_one_count_is_the_whole_at_every_step(
    case: Case, drawn: Instance, numa: GuestTopology | None, data: st.DataObject
) -> None:
    before, books = saved(case)
    shelved = replace(drawn, host=None, node=None, vm_state="shelved_offloaded", task_state=None, numa_topology=None)
    takes = data.draw(some_of(free(books)))
    claimed = lifecycle.unshelving(shelved, AT, numa, None)
    before, books = check(case, before, books, NEWCOMER, Promise(claimed, takes=takes))
    assert entries(books, NEWCOMER) == "instance"
    check(case, before, books, NEWCOMER, Promise(lifecycle.built(claimed)))
    check(case, before, books, NEWCOMER, Promise(lifecycle.reshelved(claimed)))
    assert counted(case, promised(before, NEWCOMER, Promise(lifecycle.reshelved(claimed)))).node == counted(case).node


def a_problem(code: str, about: str = uuid_of(1)) -> Problem:
    return Problem(code=code, about=about, text="t")


# What a record carries, what a count found of instance 1: what it carries then.
@pytest.mark.parametrize(
    ("carries", "found", "then"),
    [
        ([], [], []),
        ([], ["page-size-unknown"], ["page-size-unknown"]),
        (["page-size-unknown"], [], []),
        (["page-size-unknown", "pinned-cpu-unknown"], ["page-size-unknown"], ["page-size-unknown"]),
        (["flavor-missing", "instance-without-guest", "guest-exceeds-flavor", "pinned-cpu-taken"], [], []),
        # The hypervisor's own report says that; a count does not.
        (["guest-impossible", "guest-twice"], [], ["guest-impossible", "guest-twice"]),
        (["used-negative", "placement-refused"], ["a"], ["a", "used-negative", "placement-refused"]),
    ],
)
def test_given_problems_when_an_instance_is_counted_anew_then_what_a_count_said_of_it_is_said_anew(
    carries: list[str], found: list[str], then: list[str]
) -> None:
    other = a_problem("page-size-unknown", uuid_of(2))
    node = replace(count().node, problems=tuple(map(a_problem, carries)))
    assert [one.code for one in judged(node, uuid_of(1), tuple(map(a_problem, found))).problems] == then
    both = judged(replace(node, problems=(*node.problems, other)), uuid_of(1), tuple(map(a_problem, found)))
    assert set(both.problems) == {other, *map(a_problem, then)}


def test_given_the_same_problems_in_whatever_order_when_counted_anew_then_the_record_is_as_it_was() -> None:
    node = replace(count().node, problems=(a_problem("z"), a_problem("a")))
    assert judged(node, uuid_of(1), ()) is node


def test_given_a_cell_that_was_too_full_when_its_guest_goes_then_that_is_over() -> None:
    full = an_instance(1, numa_topology=floating(40))
    host = a_host(numa_topology=two_cells(pages=()))
    books = count(host, work([full]))
    assert codes(books) == ["cell-overfull", "page-size-unknown"]
    after = judged(with_entries(books.node, books.entries[1:], ()), full.uuid, ())
    assert after == count(host).node


def test_given_an_instance_at_work_when_it_goes_or_another_comes_then_the_workload_does() -> None:
    books = count(promised=work([an_instance(1, task_state="rebooting")]))
    (mine,) = books.entries[1:]
    assert books.node.current_workload == 1
    assert with_entries(books.node, (mine,), ()).current_workload == 0
    assert with_entries(books.node, (), (replace(mine, id=uuid_of(2)),)).current_workload == 2
    assert with_entries(books.node, (mine,), (mine,)).current_workload == 1


@pytest.mark.parametrize(
    "code",
    [
        "flavor-missing",
        "guest-cell-unknown",
        "guest-exceeds-flavor",
        "instance-without-guest",
        "page-size-unknown",
        "pci-device-taken",
        "pinned-cpu-taken",
        "pinned-cpu-unknown",
    ],
)
def test_given_what_a_count_said_of_an_instance_when_it_is_counted_anew_then_it_is_over(code: str) -> None:
    node = replace(count().node, problems=(a_problem(code),))
    assert judged(node, uuid_of(1), ()).problems == ()


def test_given_a_cpu_that_another_has_when_placed_then_it_is_told_and_not_pinned() -> None:
    host = a_host(numa_topology=two_cells())
    books = count(host, work([an_instance(1, numa_topology=pinned({0: 4}))]))
    wanted = Holding(entry=Entry(kind="instance", id=uuid_of(2), why="w"), numa=pinned({0: 4, 1: 5}))
    (entry,), (problem,) = placed(books.node, [wanted])
    assert (problem.code, problem.about) == ("pinned-cpu-taken", uuid_of(2))
    assert "another guest" in problem.text
    assert [take.pinned_cpus for take in entry.cells] == [{5}]


def test_given_nothing_to_place_when_placed_then_entries_are_as_they_came() -> None:
    bare = Entry(kind="instance", id=uuid_of(1), why="w")
    node = count(a_host(numa_topology=two_cells())).node
    assert placed(node, [Holding(entry=bare)]) == ((bare,), ())
    assert placed(node, [Holding(entry=bare, pci=("a",))]) == ((replace(bare, pci=("a",)),), ())
    assert placed(count().node, [Holding(entry=bare, numa=floating())]) == ((bare,), ())


PF, VF, CARD = "0000:01:00.0", "0000:01:10.0", "0000:05:00.0"


def a_table(**said: tuple[str, str | None]) -> pci.Table:
    """A PF, its VF and a card, free unless said otherwise: status and holder."""
    made = {
        "pf": PciRecord(address=PF, vendor_id="8086", product_id="1528", dev_type="type-PF"),
        "vf": PciRecord(address=VF, vendor_id="8086", product_id="1515", dev_type="type-VF", parent_addr=PF),
        "card": PciRecord(address=CARD, vendor_id="10de", product_id="20b5", dev_type="type-PCI"),
    }
    for name, (status, holder) in said.items():
        made[name] = replace(made[name], status=status, instance_uuid=holder, request_id="r" if holder else None)
    return {record.address: record for record in made.values()}


# Devices before, what instance "me" goes on to hold and takes, devices after.
@pytest.mark.parametrize(
    ("before", "keep", "take", "after"),
    [
        ({}, [], [], {}),
        ({}, [], [CARD], {"card": ("claimed", "me")}),
        ({"card": ("allocated", "me")}, [CARD], [], {"card": ("allocated", "me")}),
        ({"card": ("claimed", "me")}, [], [], {}),
        ({"card": ("allocated", "you")}, [], [], {"card": ("allocated", "you")}),
        ({"card": ("removed", "you")}, [], [], {"card": ("removed", "you")}),
        ({"card": ("removed", "me")}, [CARD], [], {"card": ("removed", "me")}),
        # A PF and its VFs exclude each other.
        ({}, [], [VF], {"vf": ("claimed", "me"), "pf": ("unclaimable", None)}),
        ({}, [], [PF], {"pf": ("claimed", "me"), "vf": ("unclaimable", None)}),
        ({"vf": ("allocated", "me"), "pf": ("unavailable", None)}, [], [], {}),
        (
            {"vf": ("allocated", "you"), "pf": ("unavailable", None), "card": ("allocated", "me")},
            [],
            [],
            {"vf": ("allocated", "you"), "pf": ("unavailable", None)},
        ),
    ],
)
def test_given_devices_when_an_instance_holds_others_then_the_rest_is_as_a_refresh_leaves_it(
    before: dict[str, tuple[str, str | None]],
    keep: list[str],
    take: list[str],
    after: dict[str, tuple[str, str | None]],
) -> None:
    left = with_devices(a_table(**before), "me", keep, dict.fromkeys(take, "alias"))
    assert {key: (one.status, one.instance_uuid) for key, one in left.items()} == {
        key: (one.status, one.instance_uuid) for key, one in a_table(**after).items()
    }
    assert all((one.request_id is None) == (one.instance_uuid is None) for one in left.values())
    assert all(left[address].request_id == "alias" for address in take)


def test_given_a_device_that_is_gone_from_the_host_when_it_is_let_go_then_it_goes_from_the_books() -> None:
    assert with_devices(a_table(card=("removed", "me")), "me", (), {}).keys() == {PF, VF}


@pytest.mark.parametrize("status", ["claimed", "allocated", "removed", "unavailable", "unclaimable"])
def test_given_a_device_that_is_not_free_when_taken_then_that_is_a_bug(status: str) -> None:
    with pytest.raises(AssertionError, match="only a free device"):
        with_devices(a_table(card=(status, "you")), "me", (), {CARD: "alias"})


TAKES = st.builds(CellTake, cell=st.integers(0, 1), vcpus=st.integers(0, 2), memory_mb=st.integers(0, 2))
ENTRIES = st.builds(
    Entry,
    kind=st.sampled_from(("instance", "migration", "orphan")),
    id=st.sampled_from(("a", "b", "c")),
    why=st.sampled_from(("w", "v")),
    vcpus=st.integers(0, 3),
    cells=st.lists(TAKES, max_size=1).map(tuple),
)


def test_given_no_entry_when_digested_then_it_is_nothing_in_all_its_digits() -> None:
    assert digest(()) == digest((), base="") == "0" * 32


@given(st.lists(ENTRIES, max_size=6), st.lists(ENTRIES, max_size=6))
def test_given_entries_when_some_go_and_others_come_then_it_is_the_digest_of_what_is_there(
    stay: list[Entry], come: list[Entry]
) -> None:
    gone = stay[: len(stay) // 2]
    whole = digest(stay)
    assert digest(come, base=whole, gone=gone) == digest([*come, *stay[len(gone) :]])
    assert digest(gone, base=digest((), base=whole, gone=gone)) == whole
    assert len(digest(come, base=whole, gone=gone)) == 32


@given(st.lists(ENTRIES, max_size=4), st.lists(ENTRIES, max_size=4))
def test_given_two_lists_when_digested_then_they_are_alike_if_they_hold_the_same_in_whatever_order(
    these: list[Entry], those: list[Entry]
) -> None:
    assert digest(these) == digest(reversed(these))
    assert (digest(these) == digest(those)) is (Counter(these) == Counter(those))


def test_given_an_entry_when_any_field_of_it_changes_then_the_digest_does() -> None:
    entry = Entry(kind="instance", id="a", why="w")
    others = {
        "kind": "orphan",
        "id": "b",
        "name": "n",
        "why": "v",
        "vcpus": 1,
        "memory_mb": 1,
        "disk_mb": 1,
        "cells": (CellTake(cell=0, vcpus=0, memory_mb=0),),
        "pci": ("a",),
        "counts": ("num_vm_active",),
        "consumer": "c",
    }
    assert others.keys() == set(Entry.__struct_fields__)
    digests = {digest([entry]), *(digest([replace(entry, **{name: other})]) for name, other in others.items())}
    assert len(digests) == 1 + len(others)


def test_given_cpus_in_another_order_when_digested_then_it_is_the_same() -> None:
    def pinning(*cpus: int) -> Entry:
        return Entry(
            kind="instance",
            id="a",
            why="w",
            cells=(CellTake(cell=0, vcpus=0, memory_mb=0, pinned_cpus=frozenset(cpus)),),
        )

    assert digest([pinning(1, 17, 33)]) == digest([pinning(33, 1, 17)])


def test_given_a_record_when_entries_go_and_come_then_each_figure_is_the_sum() -> None:
    books = count()
    gone = Entry(kind="instance", id="a", why="", vcpus=1, memory_mb=100, disk_mb=1025, counts=("num_task_None",))
    come = Entry(kind="instance", id="b", why="", vcpus=3, memory_mb=700, disk_mb=2049, counts=("num_task_spawning",))
    moved = Entry(kind="migration", id="c", why="", vcpus=5, memory_mb=11, disk_mb=0)
    before = with_entries(books.node, (), (gone,))
    after = with_entries(before, (gone,), (come, moved))
    node = books.node
    assert (before.vcpus_used, before.memory_mb_used, before.disk_mb_used) == (
        node.vcpus_used + 1,
        node.memory_mb_used + 100,
        node.disk_mb_used + 1025,
    )
    assert (before.local_gb_used, before.running_vms, before.current_workload) == (2, 1, 0)
    assert (after.vcpus_used, after.memory_mb_used) == (node.vcpus_used + 8, node.memory_mb_used + 711)
    assert (after.disk_mb_used, after.local_gb_used) == (node.disk_mb_used + 2049, 3)
    assert (after.free_ram_mb, after.free_disk_gb) == (node.memory_mb - after.memory_mb_used, node.local_gb - 3)
    assert (after.running_vms, after.current_workload) == (1, 1)
    assert (after.stats["num_instances"], after.stats["num_task_spawning"]) == (1, 1)
    assert "num_task_None" not in after.stats
    assert after.entries_digest == digest((*books.entries, come, moved))
