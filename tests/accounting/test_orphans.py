"""Orphans: guests without an instance."""

from typing import Any

import pytest

from stocktake.accounting.orphans import adopted, of_guest, unmanaged
from stocktake.model.workload import Place
from tests.accounting.making import (
    ELSEWHERE,
    HOST,
    NODE,
    NOON,
    a_device,
    a_guest,
    a_host,
    a_migration,
    a_resize,
    an_instance,
    count,
    entries_of,
    pinned,
    two_cells,
    work,
)


def test_given_guests_when_sorted_then_those_of_nobody_are_left_by_uuid() -> None:
    guests = (a_guest(3), a_guest(1), a_guest(2))
    assert unmanaged(guests, {a_guest(1).uuid}) == (a_guest(2), a_guest(3))


@pytest.mark.parametrize(
    ("place", "kind", "said"),
    [
        (None, "orphan", "running on the hypervisor; the ledger does not know it"),
        (Place(host="cn-2", node="n-2", deleted=False), "misplaced", "the ledger has it on cn-2 (n-2)"),
        (Place(host=None, node=None, deleted=False), "misplaced", "the ledger has it on no host (no node)"),
        (Place(host="cn-2", node="n-2", deleted=True), "orphan", "the ledger deleted it on cn-2"),
        (Place(host=None, node=None, deleted=True), "orphan", "the ledger deleted it on no host"),
    ],
)
def test_given_a_guest_of_nobody_when_counted_then_it_says_where_the_ledger_thinks_it_is(
    place: Place | None, kind: str, said: str
) -> None:
    guest = a_guest()
    entry = of_guest(guest, {}, {guest.uuid: place} if place else {})
    assert (entry.kind, entry.id, entry.name) == (kind, guest.uuid, "domain-1")
    assert said in entry.why
    assert (entry.vcpus, entry.memory_mb, entry.disk_mb) == (2, 2048, 20480)


def test_given_a_guest_whose_instance_is_offloaded_here_when_counted_then_it_is_an_orphan_and_says_so() -> None:
    books = count(a_host(guests=(a_guest(),)), work([an_instance(vm_state="shelved_offloaded")]))
    (entry,) = entries_of(books, "orphan").values()
    assert entry.why.endswith("the ledger has it here as shelved_offloaded, which does not count")


def test_given_a_guest_that_is_off_when_counted_then_it_is_listed_and_takes_nothing() -> None:
    guest = a_guest(active=False, state="shutoff", numa=pinned({0: 4}), pci_addresses=("0000:01:00.0",))
    books = count(a_host(guests=(guest,), numa_topology=two_cells(), pci_devices=(a_device(),)))
    (entry,) = entries_of(books, "orphan").values()
    assert (entry.vcpus, entry.memory_mb, entry.disk_mb, entry.cells, entry.pci) == (0, 0, 0, (), ())


def test_given_an_orphan_when_counted_then_its_cells_count_too() -> None:
    guest = a_guest(numa=pinned({0: 4, 1: 5}))
    books = count(a_host(guests=(guest,), numa_topology=two_cells()))
    (entry,) = entries_of(books, "orphan").values()
    assert entry.cells[0].pinned_cpus == {4, 5}
    assert (books.node.vcpus_used, books.node.memory_mb_used, books.node.local_gb_used) == (2, 2560, 20)
    assert books.node.running_vms == 0


def test_given_guests_of_instances_and_moves_when_counted_then_they_are_no_orphans() -> None:
    guests = (a_guest(1), a_guest(2))
    books = count(a_host(guests=guests), work([an_instance(1), a_resize(2)], [a_migration(of=2)]))
    assert entries_of(books, "orphan") == {}


def test_given_a_driver_that_lists_no_guests_when_counted_then_nothing_is_missed() -> None:
    assert count(a_host(guests=None), work([an_instance()])).node.problems == ()


@pytest.mark.parametrize(("active", "vm_state", "power_state"), [(True, "active", 1), (False, "stopped", 4)])
def test_given_a_guest_when_adopted_then_it_takes_what_it_took_with_disk_rounded_up(
    vm_state: str, power_state: int, *, active: bool
) -> None:
    instance = adopted(a_guest(active=active, disk_mb=20481), host=HOST, node=NODE, now=NOON)
    assert (instance.uuid, instance.name, instance.host, instance.node) == (a_guest().uuid, "domain-1", HOST, NODE)
    assert (instance.vm_state, instance.power_state, instance.created_at) == (vm_state, power_state, NOON)
    assert (instance.flavor.vcpus, instance.flavor.memory_mb, instance.flavor.root_gb) == (2, 2048, 21)
    assert instance.flavor.name == "adopted domain-1"
    assert instance.adopted


def test_given_an_adopted_guest_when_counted_then_it_is_an_instance_and_the_figures_stay() -> None:
    host = a_host(guests=(a_guest(numa=pinned({0: 4})),), numa_topology=two_cells())
    before = count(host)
    after = count(host, work([adopted(host.guests[0], host=HOST, node=NODE, now=NOON)] if host.guests else []))
    assert after.node.running_vms == 1
    assert entries_of(after, "orphan") == {}
    for name in ("vcpus_used", "memory_mb_used", "local_gb_used", "numa_topology"):
        assert getattr(after.node, name) == getattr(before.node, name)


@pytest.mark.parametrize(
    ("instance", "guests", "code"),
    [
        ({}, (), "instance-without-guest"),
        ({"vm_state": "stopped"}, (), None),
        ({"task_state": "spawning"}, (), None),
        ({}, (a_guest(vcpus=4),), "guest-exceeds-flavor"),
        ({}, (a_guest(memory_mb=4096),), "guest-exceeds-flavor"),
        ({"name": None}, (a_guest(memory_mb=4096, active=False),), None),
        ({}, (a_guest(vcpus=1),), None),
        ({"name": None}, (), "instance-without-guest"),
    ],
)
def test_given_a_settled_instance_when_its_guest_differs_then_the_node_says_so(
    instance: dict[str, Any], guests: tuple[object, ...], code: str | None
) -> None:
    books = count(a_host(guests=guests), work([an_instance(**instance)]))
    assert [problem.code for problem in books.node.problems] == ([code] if code else [])


def test_given_a_guest_whose_instance_is_elsewhere_when_counted_then_it_is_misplaced() -> None:
    away = Place(host=ELSEWHERE[0], node=ELSEWHERE[1], deleted=False)
    books = count(a_host(guests=(a_guest(),)), work(places={a_guest().uuid: away}))
    assert entries_of(books, "misplaced").keys() == {a_guest().uuid}
    assert books.node.vcpus_used == 2
