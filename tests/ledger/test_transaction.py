"""What claims read and write: rows that are held, the books of one holder, numbers that nobody else gets."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest

from stocktake.errors import LedgerError, LedgerUnreachable, NotFound
from stocktake.ledger import DatabaseLedger
from stocktake.model.books import ComputeNode, Entry
from stocktake.model.problem import Problem
from stocktake.model.value import replace
from tests.ledger.making import (
    HOST,
    NODE,
    START,
    again,
    counting,
    device,
    entry,
    full_instance,
    full_node,
    instance,
    migration,
    node,
    opened,
    saved,
)

THREADS = 6
GPU, NIC = "0000:05:00.0", "0000:06:00.0"


@pytest.fixture
def impatient(url: str, ledger: DatabaseLedger) -> Iterator[DatabaseLedger]:
    """Open the same ledger once more, for one who does not wait."""
    other = opened(url, wait_s=0.2)
    yield other
    other.close()


def an_entry(holder: str, **fields: Any) -> Entry:
    return replace(entry(holder), **fields)


def test_given_nodes_when_held_then_their_records_are_read_whole(ledger: DatabaseLedger) -> None:
    """Field by field, by uuid, one or many, each once."""
    one, two = saved(ledger, full_node()), saved(ledger, node("two"))
    with ledger.transaction() as tx:
        assert tx.hold([one.uuid]) == {one.uuid: one}
        assert tx.hold([two.uuid, one.uuid, two.uuid]) == {one.uuid: one, two.uuid: two}
        assert tx.hold([]) == {}
    assert ledger.node(one.uuid) == one


@pytest.mark.parametrize("many", [False, True])
def test_given_a_node_that_is_not_there_when_held_then_it_is_named(ledger: DatabaseLedger, *, many: bool) -> None:
    """A deleted one is not there."""
    there, gone = saved(ledger), saved(ledger, node("gone"))
    ledger.delete_node(gone.uuid)
    asked = [there.uuid, gone.uuid] if many else [gone.uuid]
    with pytest.raises(NotFound, match=gone.uuid) as raised, ledger.transaction() as tx:
        tx.hold(asked)
    assert there.uuid not in raised.value.what


def test_given_a_held_node_when_another_would_have_it_then_he_waits_and_finds_what_was_written(
    ledger: DatabaseLedger, impatient: DatabaseLedger
) -> None:
    """Who does not wait that long gets nothing; another node is free on a server."""
    record, other = saved(ledger), saved(ledger, node("other"))
    holding, written = threading.Event(), threading.Event()

    def second() -> ComputeNode:
        assert holding.wait(20)
        with ledger.transaction() as tx:
            return tx.hold([record.uuid])[record.uuid]

    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(second)
        with ledger.transaction() as tx:
            (held,) = tx.hold([record.uuid]).values()
            holding.set()
            with pytest.raises(LedgerUnreachable), impatient.transaction() as theirs:
                theirs.hold([record.uuid])
            if not impatient.name.startswith("sqlite"):
                with impatient.transaction() as theirs:
                    assert theirs.hold([other.uuid]) == {other.uuid: other}
            mine = tx.write_books(held, replace(held, vcpus_used=3), gone=(), come=())
            written.set()
        assert waiting.result(20) == mine
    assert written.is_set()
    assert mine.vcpus_used == 3


def test_given_nodes_held_in_contrary_order_when_at_once_then_none_waits_in_a_circle(ledger: DatabaseLedger) -> None:
    """Rows are locked in one order, whatever the order they were asked for in."""
    uuids = [saved(ledger, node(f"n{number}")).uuid for number in range(8)]

    def add(number: int) -> None:
        for _ in range(5):
            with ledger.transaction() as tx:
                held = tx.hold(uuids if number % 2 else uuids[::-1])
                for record in held.values():
                    tx.write_books(record, replace(record, vcpus_used=record.vcpus_used + 1), gone=(), come=())

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(add, range(4)))
    assert [(one.vcpus_used, one.generation) for one in ledger.nodes()] == [(20, 21)] * 8


def test_given_a_node_that_is_locked_when_it_is_not_there_then_it_is_passed_over(ledger: DatabaseLedger) -> None:
    """A refresh locks what it finds, and changes nothing by that."""
    record = saved(ledger)
    with ledger.transaction() as tx:
        tx.lock(["nobody", record.uuid, "nobody else"])
        assert tx.work(HOST, [NODE], {})[NODE].record == record
    assert ledger.node(record.uuid) == record


def test_given_an_instance_when_read_then_it_has_its_devices_and_a_deleted_one_is_none(ledger: DatabaseLedger) -> None:
    """Only devices of the node where it is."""
    mine, gone = full_instance(), instance(deleted=True)
    ledger.put_instances([mine, gone])
    saved(ledger, pci_devices=(device(GPU, status="claimed", instance_uuid=mine.uuid), device(NIC)))
    saved(ledger, node(host="kvm-2"), pci_devices=(device(NIC, status="claimed", instance_uuid=mine.uuid),))
    with ledger.transaction() as tx:
        assert tx.instance(mine.uuid) == replace(mine, pci_devices=(GPU,))
        assert tx.instance(gone.uuid) is None
        assert tx.instance("nobody") is None


def test_given_an_instance_when_asked_where_then_its_node_and_those_of_its_moves_in_play_are_named(
    ledger: DatabaseLedger,
) -> None:
    """Not nodes of the same name elsewhere, of settled moves, deleted, or nowhere."""
    mine = instance()
    places = {"here": (NODE, HOST), "there": ("kvm-2.example.org", "kvm-2"), "third": ("kvm-3.example.org", "kvm-3")}
    nodes = {key: saved(ledger, node(name, host)).uuid for key, (name, host) in places.items()}
    saved(ledger, node(NODE, "kvm-2"))
    saved(ledger, node("kvm-1-b", HOST))
    ledger.delete_node(saved(ledger, node("kvm-4.example.org", "kvm-4")).uuid)
    ledger.put_instances([mine, nowhere := instance(host=None, node=None)])
    back = {"dest_compute": "kvm-4", "dest_node": "kvm-4.example.org"}
    over = {"dest_compute": "kvm-3", "dest_node": "kvm-3.example.org"}
    ledger.put_migrations(
        [
            migration(1, mine.uuid),
            migration(2, mine.uuid, **back),
            migration(3, mine.uuid, **over, status="confirmed"),
            migration(4, mine.uuid, **over, deleted=True),
            migration(5, mine.uuid, dest_compute=None, dest_node=None),
            migration(6, "another", **over),
            migration(7, nowhere.uuid, source_compute=None, source_node=None),
        ]
    )
    with ledger.transaction() as tx:
        assert tx.whereabouts(mine.uuid) == {nodes["here"], nodes["there"]}
        assert tx.whereabouts(nowhere.uuid) == {nodes["there"]}
        assert tx.whereabouts("another") == {nodes["here"], nodes["third"]}
        assert tx.whereabouts("nobody") == set()
        assert [one.id for one in tx.migrations_of(mine.uuid)] == [1, 2, 5]


def test_given_a_host_of_many_nodes_when_asked_where_an_instance_is_then_only_its_own_are_read(
    ledger: DatabaseLedger,
) -> None:
    """Every claim asks that; the host may have ten thousand."""
    mine = instance()
    ledger.put_instances([mine])
    record = saved(ledger)
    for number in range(3):
        saved(ledger, node(f"n{number}"))
    with ledger.transaction() as tx, counting(ledger) as sent:
        assert tx.whereabouts(mine.uuid) == {record.uuid}
    (asked,) = [parameters for statement, parameters in sent if "hypervisor_hostname" in statement]
    assert NODE in str(asked)


def test_given_entries_when_one_holders_are_read_then_by_node_and_whatever_he_is(ledger: DatabaseLedger) -> None:
    """As an instance, as a move, as nobody's; what is reserved is nobody's own."""
    kinds = ("instance", "migration", "orphan", "misplaced")
    first = saved(ledger, entries=[an_entry("me", kind=kind) for kind in kinds] + [an_entry("you")])
    second = saved(ledger, node("two"), entries=(an_entry("host", kind="reserved"), an_entry("me")))
    third = saved(ledger, node("three"))
    with ledger.transaction() as tx:
        found = tx.entries_of([first.uuid, second.uuid, third.uuid], "me")
        assert sorted(one.kind for one in found[first.uuid]) == sorted(kinds)
        assert (found[second.uuid], found[third.uuid]) == ((an_entry("me"),), ())
        assert tx.entries_of([second.uuid], "host") == {second.uuid: ()}
        assert [one.kind for one in tx.entries(second.uuid)] == ["reserved", "instance"]


def test_given_books_when_written_then_only_what_changed_is_and_the_generation_grows(ledger: DatabaseLedger) -> None:
    """Figures and problems of the record; of the entries those that went, came or changed."""
    stays, goes, changes = an_entry("a"), an_entry("b"), an_entry("c", kind="orphan")
    before = saved(ledger, full_node(), entries=(stays, goes, changes, other := an_entry("z")))
    came = an_entry("c", vcpus=7)
    problem = Problem(code="c", about="a", text="t")
    wanted = replace(before, vcpus_used=9, problems=(problem,), numa_topology=None)
    with ledger.transaction() as tx:
        (held,) = tx.hold([before.uuid]).values()
        with counting(ledger) as sent:
            after = tx.write_books(held, wanted, gone=(stays, goes, changes), come=(stays, came))
    assert after.updated_at is not None
    assert before.updated_at is not None
    assert after.updated_at > before.updated_at
    assert after == replace(wanted, generation=before.generation + 1, updated_at=after.updated_at)
    assert ledger.node(before.uuid) == after
    assert ledger.entries(before.uuid) == (stays, came, other)
    update, *rest = [statement for statement, _ in sent]
    assert update.startswith("UPDATE compute_nodes")
    assert "cpu_info" not in update
    assert not any("pci_devices" in statement for statement in rest)
    # The entries that went, those that came, and the figures for history.
    assert len(rest) == 3


def test_given_books_that_are_written_when_a_refresh_saves_from_before_then_that_is_a_conflict(
    ledger: DatabaseLedger,
) -> None:
    """It counts again."""
    before = saved(ledger)
    with ledger.transaction() as tx:
        (held,) = tx.hold([before.uuid]).values()
        after = tx.write_books(held, held, gone=(), come=())
    assert again(ledger, before) == {}
    assert again(ledger, after)[before.uuid].generation == after.generation + 1


def test_given_books_when_the_transaction_fails_then_nothing_of_them_is_written(ledger: DatabaseLedger) -> None:
    """An instance that is there already takes the record with it."""
    mine = instance()
    ledger.put_instances([mine])
    before = saved(ledger, entries=(an_entry("a"),), pci_devices=(device(GPU),))
    taken = (device(GPU, status="claimed", instance_uuid=mine.uuid),)

    def claim() -> None:
        with ledger.transaction() as tx:
            (held,) = tx.hold([before.uuid]).values()
            tx.write_books(held, replace(held, vcpus_used=9), gone=(), come=(an_entry("b"),), devices=taken)
            tx.put_instances([mine])

    with pytest.raises(LedgerError, match="already"):
        claim()
    assert ledger.node(before.uuid) == before
    assert ledger.entries(before.uuid) == (an_entry("a"),)
    assert ledger.work(HOST, [NODE], {})[NODE].pci_devices == (device(GPU),)


def test_given_devices_when_books_are_written_with_them_then_those_are_the_nodes(ledger: DatabaseLedger) -> None:
    """None leaves them; tags, holder and request come back."""
    before = saved(ledger, pci_devices=(device(GPU, tags={"dev_type": "type-PCI"}), device(NIC)))
    other = saved(ledger, node("other"), pci_devices=(device(GPU),))
    with ledger.transaction() as tx:
        (held,) = tx.hold([before.uuid]).values()
        found = tx.devices([before.uuid])[before.uuid]
        assert found == (device(GPU, tags={"dev_type": "type-PCI"}), device(NIC))
        taken = replace(found[0], status="claimed", instance_uuid="me", request_id="gpu")
        held = tx.write_books(held, held, gone=(), come=(), devices=(taken,))
        assert tx.devices([before.uuid])[before.uuid] == (taken,)
        tx.write_books(held, held, gone=(), come=())
        assert tx.devices([before.uuid])[before.uuid] == (taken,)
        assert tx.devices([other.uuid])[other.uuid] == (device(GPU),)
        assert tx.devices(["nobody"])["nobody"] == ()


def test_given_devices_when_an_instance_lets_some_go_then_only_its_own_of_that_node_are_free(
    ledger: DatabaseLedger,
) -> None:
    """One that is gone from the host is not free: it goes."""
    mine = {"status": "allocated", "instance_uuid": "me", "request_id": "gpu"}
    theirs = {"status": "claimed", "instance_uuid": "you", "request_id": "gpu"}
    gone = {**mine, "status": "removed"}
    held = (device("a", **mine), device("b", **mine), device("c", **theirs), device("d", **gone), device("e", **gone))
    here = saved(ledger, pci_devices=held)
    there = saved(ledger, node(host="kvm-2"), pci_devices=(device("a", **mine),))
    with ledger.transaction() as tx:
        tx.free_devices("me", HOST, NODE, ("a", "c", "d", "x"))
        tx.free_devices("me", HOST, NODE, ())
        tx.free_devices("me", HOST, "nowhere", ("b",))
        assert tx.devices([here.uuid])[here.uuid] == (device("a"), *held[1:3], held[4])
        assert tx.devices([there.uuid])[there.uuid] == (device("a", **mine),)


def test_given_nobody_and_somebody_when_a_migration_is_numbered_then_it_is_one_more_than_the_last(
    ledger: DatabaseLedger,
) -> None:
    """Settled and deleted ones have had their numbers."""
    with ledger.transaction() as tx:
        assert tx.next_migration_id() == 1
    ledger.put_migrations([migration(4, "a", status="done"), migration(9, "b", deleted=True)])
    with ledger.transaction() as tx:
        assert tx.next_migration_id() == 10


def test_given_many_who_number_migrations_when_at_once_then_each_has_his_own(ledger: DatabaseLedger) -> None:
    """Nodes that have nothing to do with each other are held at once; their moves are numbered all the same."""
    uuids = [saved(ledger, node(f"n{number}")).uuid for number in range(THREADS)]

    def begin(number: int) -> int:
        with ledger.transaction() as tx:
            tx.hold([uuids[number % THREADS]])
            mine = tx.next_migration_id()
            tx.put_migrations([migration(mine, f"instance-{number}")])
            return mine

    with ThreadPoolExecutor(THREADS) as pool:
        numbers = list(pool.map(begin, range(30)))
    assert sorted(numbers) == list(range(1, 31))
    assert len(ledger.migrations()) == 30


def test_given_migrations_when_changed_then_all_but_their_making_is_written(ledger: DatabaseLedger) -> None:
    """Others stay; one that is not there is not made."""
    expires = START + timedelta(hours=1)
    ledger.put_migrations([migration(1, "a", claim_expires_at=expires), migration(2, "b")])
    one, two = ledger.migrations()
    wanted = replace(one, status="failed", claim_expires_at=None, dest_node="else", created_at=START)
    with ledger.transaction() as tx:
        tx.change_migrations([])
        tx.change_migrations([wanted, migration(3, "c")])
        now = tx.now
    assert ledger.migrations(all=True) == (replace(wanted, created_at=one.created_at, updated_at=now), two)


def test_given_times_to_expire_when_written_then_they_are_read_to_the_microsecond(ledger: DatabaseLedger) -> None:
    """Of instances and of migrations."""
    expires = START + timedelta(hours=1)
    ledger.put_instances([mine := instance(claim_expires_at=expires)])
    ledger.put_migrations([migration(1, mine.uuid, claim_expires_at=expires)])
    work = ledger.work(HOST, [NODE], {})[NODE]
    assert work.instances[0].claim_expires_at == work.migrations[0].claim_expires_at == expires
    with ledger.transaction() as tx:
        tx.change_instances([replace(mine, claim_expires_at=None)])
    assert ledger.instances()[0].claim_expires_at is None
