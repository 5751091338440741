"""Who comes at once: savers in threads and processes, claims, first openers."""

import threading
from concurrent.futures import ThreadPoolExecutor

from stocktake.ledger import DatabaseLedger, NodeSave
from stocktake.ledger.schema import HEAD
from stocktake.model.books import Tally
from stocktake.model.value import replace
from tests.ledger.children import add_one, spawn, together
from tests.ledger.making import first_save, instance, node, opened, saved

THREADS = 6
ROUNDS = 10


def test_given_threads_that_save_at_once_when_all_are_done_then_no_addition_is_lost(ledger: DatabaseLedger) -> None:
    """A save from an old generation never overwrites."""
    record = saved(ledger)
    with ThreadPoolExecutor(THREADS) as pool:
        jobs = [pool.submit(add_one, ledger, record.uuid) for _ in range(THREADS * ROUNDS)]
        assert all(job.result() >= 1 for job in jobs)
    after = ledger.node(record.uuid)
    assert (after.vcpus_used, after.generation) == (THREADS * ROUNDS, THREADS * ROUNDS + 1)


def test_given_processes_that_save_at_once_when_all_are_done_then_no_addition_is_lost(
    ledger: DatabaseLedger, url: str
) -> None:
    """The same without anything shared but the database."""
    record = saved(ledger)
    together([spawn("add", url, record.uuid, str(ROUNDS)) for _ in range(3)])
    assert ledger.node(record.uuid).vcpus_used == 3 * ROUNDS


def test_given_savers_of_many_nodes_in_contrary_order_when_at_once_then_none_waits_in_a_circle(
    ledger: DatabaseLedger,
) -> None:
    """Rows are locked in one order, whatever the order of the saves."""
    records = [saved(ledger, node(f"n{number}")) for number in range(20)]
    uuids = [record.uuid for record in records]

    def save_all(*, backwards: bool) -> int:
        done = 0
        for _ in range(ROUNDS):
            found = {one.uuid: one for one in ledger.nodes()}
            order = uuids[::-1] if backwards else uuids
            saves = [
                NodeSave(tally=Tally(node=found[uuid], entries=()), expected_generation=found[uuid].generation)
                for uuid in order
            ]
            done += len(ledger.save(saves).saved)
            ledger.note_failures(dict.fromkeys(order))
        return done

    with ThreadPoolExecutor(4) as pool:
        jobs = [pool.submit(save_all, backwards=number % 2 == 1) for number in range(4)]
        done = sum(job.result() for job in jobs)
    assert sum(one.generation - 1 for one in ledger.nodes()) == done


def test_given_two_who_make_the_same_node_when_at_once_then_one_does(ledger: DatabaseLedger) -> None:
    """The other has a conflict, and its other nodes are saved."""
    gate = threading.Barrier(4)

    def make(number: int) -> frozenset[str]:
        gate.wait()
        return ledger.save([first_save(node("same")), first_save(node(f"own{number}"))]).conflicts

    with ThreadPoolExecutor(4) as pool:
        conflicts = list(pool.map(make, range(4)))
    assert sorted(map(len, conflicts)) == [0, 1, 1, 1]
    assert len(ledger.nodes()) == 5


def test_given_claims_at_once_when_each_looks_before_it_takes_then_the_limit_holds(ledger: DatabaseLedger) -> None:
    """What issue 3 builds on: read and promise under the node's lock."""
    record = saved(ledger, replace(node(), vcpus=8))

    def claim(_: int) -> bool:
        with ledger.transaction([record.uuid]) as tx:
            work = tx.work(record.host, [record.hypervisor_hostname], {})[record.hypervisor_hostname]
            if sum(one.flavor.vcpus for one in work.instances) + 2 > record.vcpus:
                return False
            tx.put_instances([instance()])
            return True

    with ThreadPoolExecutor(THREADS) as pool:
        assert sum(pool.map(claim, range(20))) == 4
    assert ledger.node(record.uuid).generation == record.generation + 20


def test_given_heartbeats_at_once_when_all_are_done_then_there_is_one_row(ledger: DatabaseLedger) -> None:
    """Two agents of one host by mistake."""
    with ThreadPoolExecutor(THREADS) as pool:
        uuids = {one.service.uuid for one in pool.map(lambda _: ledger.heartbeat("h", version="1"), range(30))}
    assert len(uuids) == 1
    assert ledger.services()[0].report_count == 30


def test_given_an_empty_database_when_processes_open_it_at_once_then_each_finds_a_whole_ledger(
    empty_url: str,
) -> None:
    """One makes the schema, the others wait."""
    said = together([spawn("open", empty_url) for _ in range(4)])
    assert said == [f"{HEAD}\n0\n"] * 4


def test_given_an_empty_database_when_threads_open_it_at_once_then_each_finds_a_whole_ledger(empty_url: str) -> None:
    """The same within a process."""

    def find(_: int) -> str | None:
        ledger = opened(empty_url, wait_s=30)
        try:
            return ledger.schema_version()
        finally:
            ledger.close()

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(find, range(4))) == [HEAD] * 4
