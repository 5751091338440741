"""What holds of the books of any node, however odd its ledger and its hypervisor are."""

from collections import Counter
from random import Random

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stocktake.accounting import pci
from stocktake.accounting.tally import tally
from stocktake.model.books import Entry, Tally
from stocktake.model.topology import GuestCell, GuestTopology
from stocktake.model.value import decode, encode, replace
from stocktake.model.workload import NodeWork
from tests.strategies import NEWCOMER, Case, cases, instances

NODE_UUID = "00000000-0000-4000-8000-0000000000ff"
# The strategies draw whole nodes: that takes hypothesis some time, and the tally none.
thorough = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)


def counted(case: Case, work: NodeWork | None = None) -> Tally:
    return tally(case.host, case.work if work is None else work, case.rules, uuid=NODE_UUID)


def fed_back(case: Case, books: Tally) -> NodeWork:
    """What the ledger gives after the books were saved."""
    stale = set(books.stale_migrations)
    return replace(
        case.work,
        record=books.node,
        pci_devices=books.pci_devices,
        migrations=tuple(replace(move, status="error") if move.id in stale else move for move in case.work.migrations),
    )


def others(books: Tally, uuid: str) -> list[Entry]:
    return [entry for entry in books.entries if entry.id != uuid]


@thorough
@given(cases())
def test_given_any_node_when_counted_then_the_record_is_the_sum_of_its_entries(case: Case) -> None:
    books = counted(case)
    node, entries = books.node, books.entries
    assert node.vcpus_used == sum(entry.vcpus for entry in entries)
    assert node.memory_mb_used == sum(entry.memory_mb for entry in entries)
    assert 0 <= node.local_gb_used * 1024 - sum(entry.disk_mb for entry in entries) < 1024
    assert node.free_ram_mb == node.memory_mb - node.memory_mb_used
    assert node.free_disk_gb == node.local_gb - node.local_gb_used
    assert node.running_vms == sum(entry.kind == "instance" for entry in entries)
    assert node.stats.get("num_instances", 0) == node.running_vms
    assert max(Counter((entry.kind, entry.id) for entry in entries).values()) == 1
    for cell in node.numa_topology.cells if node.numa_topology else ():
        takes = [take for entry in entries for take in entry.cells if take.cell == cell.id]
        assert cell.cpu_usage == sum(take.vcpus for take in takes)
        assert cell.memory_usage_mb == sum(take.memory_mb for take in takes)
        assert cell.pinned_cpus == frozenset().union(*(take.pinned_cpus for take in takes))
        assert {pages.size_kb: pages.used for pages in cell.pages} == {
            pages.size_kb: sum(taken.count for take in takes for taken in take.pages if taken.size_kb == pages.size_kb)
            for pages in cell.pages
        }


@thorough
@given(cases())
def test_given_any_node_when_counted_then_no_cpu_is_pinned_twice_and_none_that_is_not_dedicated(case: Case) -> None:
    books = counted(case)
    cells = {cell.id: cell for cell in case.host.numa_topology.cells} if case.host.numa_topology else {}
    pins: Counter[int] = Counter()
    for entry in books.entries:
        for take in entry.cells:
            pins.update(take.pinned_cpus)
            assert take.pinned_cpus <= cells[take.cell].pcpuset
    assert all(number == 1 for number in pins.values())


@thorough
@given(cases())
def test_given_any_node_when_counted_then_every_device_is_free_held_or_closed_off(case: Case) -> None:
    books = counted(case)
    by_status = Counter(record.status for record in books.pci_devices)
    assert sum(pool.count for pool in books.node.pci_device_pools) == by_status["available"]
    assert all(pool.count > 0 for pool in books.node.pci_device_pools)
    records = {record.address: record for record in books.pci_devices}
    assert len(records) == len(books.pci_devices)
    reported = {device.address for device in case.host.pci_devices if pci.matching(device, case.rules.device_specs)}
    assert {address for address, record in records.items() if record.status != "removed"} == reported
    assert all((record.status in pci.HELD) == (record.instance_uuid is not None) for record in books.pci_devices)
    held = Counter(address for entry in books.entries for address in entry.pci)
    assert all(number == 1 for number in held.values())
    for entry in books.entries:
        assert all(records[address].instance_uuid == entry.id for address in entry.pci)
    holders = {entry.id for entry in books.entries}
    taken = {address for address, record in records.items() if record.instance_uuid in holders}
    assert taken == held.keys()


@thorough
@given(cases(), st.randoms(use_true_random=False))
def test_given_rows_in_another_order_when_counted_then_the_books_are_the_same(case: Case, random: Random) -> None:
    def shuffled(rows: tuple[object, ...]) -> tuple[object, ...]:
        return tuple(random.sample(rows, len(rows)))

    work = replace(
        case.work,
        instances=shuffled(case.work.instances),
        migrations=shuffled(case.work.migrations),
        pci_devices=shuffled(case.work.pci_devices),
        moving=dict(reversed(list(case.work.moving.items()))),
        places=dict(reversed(list(case.work.places.items()))),
    )
    host = replace(
        case.host,
        pci_devices=shuffled(case.host.pci_devices),
        guests=None if case.host.guests is None else shuffled(case.host.guests),
    )
    assert counted(Case(host=host, work=work, rules=case.rules)) == counted(case)


@thorough
@given(cases())
def test_given_books_that_are_saved_when_counted_again_then_nothing_changes(case: Case) -> None:
    first = counted(case)
    again = counted(case, fed_back(case, first))
    assert again == replace(first, stale_migrations=())


@thorough
@given(cases(), instances(NEWCOMER, here=True), st.data())
def test_given_an_instance_that_comes_and_goes_when_counted_then_the_books_are_as_before(
    case: Case, instance: object, data: st.DataObject
) -> None:
    before = counted(case)
    saved = fed_back(case, before)
    free = [record.address for record in before.pci_devices if record.status == "available"]
    mine = set(data.draw(st.lists(st.sampled_from(free), unique=True, max_size=2))) if free else set()
    given_devices = tuple(
        replace(record, status="claimed", instance_uuid=NEWCOMER) if record.address in mine else record
        for record in before.pci_devices
    )
    with_it = counted(case, replace(saved, instances=(*saved.instances, instance), pci_devices=given_devices))
    after = counted(case, replace(saved, record=with_it.node, pci_devices=with_it.pci_devices))
    assert replace(after, stale_migrations=()) == replace(before, stale_migrations=())


@thorough
@given(cases(), instances(NEWCOMER, here=True))
def test_given_one_bad_guest_when_counted_then_only_its_own_entry_and_the_problems_change(
    case: Case, instance: object
) -> None:
    nowhere = GuestTopology(
        cells=(
            GuestCell(id=99, memory_mb=1, cpuset=frozenset({0})),
            GuestCell(id=0, memory_mb=64, pagesize_kb=7, cpu_policy="dedicated", cpu_pinning={0: 999}),
        )
    )
    here = case.work.instances
    fine = counted(case, replace(case.work, instances=(*here, replace(instance, numa_topology=None))))
    bad = counted(case, replace(case.work, instances=(*here, replace(instance, numa_topology=nowhere))))
    assert others(bad, NEWCOMER) == others(fine, NEWCOMER)
    cells = ("numa_topology", "problems", "entries_digest")
    assert replace(bad.node, **{name: getattr(fine.node, name) for name in cells}) == fine.node
    assert bad.pci_devices == fine.pci_devices
    about = {problem.about for problem in set(bad.node.problems) ^ set(fine.node.problems)}
    assert about <= {NEWCOMER, "cell 0"}


@thorough
@given(cases())
def test_given_any_books_when_written_as_json_then_they_read_back_equal(case: Case) -> None:
    books = counted(case)
    assert decode(encode(books), Tally, where="") == books
