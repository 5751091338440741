"""Whose a node is: it has one owner at any time, and what is promised on it goes with it."""

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest

from stocktake.errors import LedgerError, NotFound
from stocktake.ledger import DatabaseLedger, Ledger
from tests.ledger.making import HOST, NODE, again, counting, instance, migration, node, saved

OTHER = "kvm-2"


@pytest.fixture
def ledger(any_ledger: Ledger) -> Ledger:
    """Whoever is before it, it says the same."""
    return any_ledger


def test_given_nodes_when_owners_are_read_then_deleted_nodes_have_none(ledger: Ledger) -> None:
    here, there, gone = saved(ledger), saved(ledger, node("b", OTHER)), saved(ledger, node("c"))
    ledger.delete_node(gone.uuid)
    assert ledger.owners() == {here.uuid: HOST, there.uuid: OTHER}


def test_given_a_node_when_taken_then_all_that_is_promised_on_it_comes_too(ledger: Ledger) -> None:
    """What is on the host's other nodes, or on a node of that name elsewhere, stays."""
    record = saved(ledger)
    on, beside, elsewhere = instance(), instance(node="beside"), instance(host="kvm-3")
    ended, released = instance(), instance()
    ledger.put_instances([on, beside, elsewhere, ended, released])
    ledger.delete_instances([ended.uuid])
    ledger.delete_instances([released.uuid], released=True)
    leaving, coming, over = (
        migration(1, on.uuid),
        migration(2, on.uuid, source_compute="kvm-3", source_node="x", dest_compute=HOST, dest_node=NODE),
        migration(3, on.uuid, status="confirmed"),
    )
    ledger.put_migrations([leaving, coming, over])
    assert ledger.take_nodes({record.uuid: HOST}, OTHER) == {record.uuid}
    hosts = {one.uuid: one.host for one in ledger.instances(deleted=True)}
    assert hosts == {on.uuid: OTHER, beside.uuid: HOST, elsewhere.uuid: "kvm-3", ended.uuid: OTHER, released.uuid: HOST}
    moves = {one.id: (one.source_compute, one.dest_compute) for one in ledger.migrations(all=True)}
    assert moves == {1: (OTHER, "kvm-2"), 2: ("kvm-3", OTHER), 3: (HOST, "kvm-2")}
    work = ledger.work(OTHER, [NODE], {})[NODE]
    assert work.record is not None
    assert [one.uuid for one in work.instances] == [on.uuid]
    assert work.deleted_uuids == {ended.uuid}


def test_given_a_node_when_taken_then_a_late_save_of_the_old_owner_is_a_conflict(ledger: Ledger) -> None:
    record = saved(ledger)
    ledger.take_nodes({record.uuid: HOST}, OTHER)
    assert again(ledger, record) == {}


@pytest.mark.parametrize("seen", [OTHER, "nobody"])
def test_given_a_node_that_has_changed_hands_when_taken_then_it_stays_where_it_is(ledger: Ledger, seen: str) -> None:
    record = saved(ledger)
    assert ledger.take_nodes({record.uuid: seen, "gone": HOST}, "kvm-3") == frozenset()
    assert ledger.node(record.uuid) == record


def test_given_two_who_take_the_same_nodes_at_once_then_each_node_goes_to_one(ledger: Ledger) -> None:
    records = [saved(ledger, node(f"n{number}")) for number in range(12)]
    gate = Barrier(3)

    def take(host: str) -> frozenset[str]:
        gate.wait()
        return ledger.take_nodes({record.uuid: HOST for record in records}, host)

    with ThreadPoolExecutor(3) as pool:
        taken = dict(zip("abc", pool.map(take, "abc"), strict=True))
    assert sorted(uuid for uuids in taken.values() for uuid in uuids) == sorted(record.uuid for record in records)
    assert ledger.owners() == {uuid: host for host, uuids in taken.items() for uuid in uuids}


def test_given_nodes_when_given_away_then_one_with_an_instance_stays(ledger: Ledger) -> None:
    held, free, others = saved(ledger), saved(ledger, node("free")), saved(ledger, node("c", OTHER))
    ended = instance(node="free")
    ledger.put_instances([instance(), ended])
    ledger.delete_instances([ended.uuid])
    wanted = dict.fromkeys([held.uuid, free.uuid, others.uuid, "gone"], "kvm-3")
    assert ledger.give_nodes(wanted, HOST) == {free.uuid}
    assert ledger.owners() == {held.uuid: HOST, free.uuid: "kvm-3", others.uuid: OTHER}


def test_given_a_node_of_the_same_name_when_taken_then_nothing_is(ledger: Ledger) -> None:
    mine, theirs = saved(ledger), saved(ledger, node(NODE, OTHER))
    with pytest.raises(LedgerError):
        ledger.take_nodes({theirs.uuid: OTHER}, HOST)
    assert ledger.owners() == {mine.uuid: HOST, theirs.uuid: OTHER}


def test_given_many_nodes_when_they_change_hands_then_no_table_is_walked_for_each(database: DatabaseLedger) -> None:
    records = [saved(database, node(f"n{number}")) for number in range(5)]
    with counting(database) as sent:
        database.take_nodes({record.uuid: HOST for record in records}, OTHER)
    assert len(sent) <= 10


def test_given_a_service_when_it_joins_a_pool_then_others_read_it_until_it_leaves(ledger: Ledger) -> None:
    ledger.register(HOST, version="1")
    pool = {"driver": "ironic", "shard": "s1"}
    ledger.join_pool(HOST, pool)
    ledger.heartbeat(HOST, version="2")
    assert [one.pool for one in ledger.services()] == [pool]
    ledger.join_pool(HOST, None)
    assert [one.pool for one in ledger.services()] == [None]
    with pytest.raises(NotFound):
        ledger.join_pool("nobody", pool)
