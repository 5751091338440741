"""Tables and properties of what consumers should hold of a node."""

from collections.abc import Mapping, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stocktake.accounting.tally import tally as tallied
from stocktake.model.books import ComputeNode, Entry
from stocktake.model.pci import DeviceType, PciRecord
from stocktake.model.provider import NOBODY, Allocation
from stocktake.model.topology import CellTake
from stocktake.model.value import replace
from stocktake.model.workload import Flavor, Instance
from stocktake.placement.desired import child_uuid, device_providers
from stocktake.placement.desired_allocations import allocations, wanted
from tests.placement.making import ROOT, tally, tree
from tests.strategies import Case, cases

GUEST, MOVE = "bbbbbbbb-0000-4000-8000-000000000001", "cccccccc-0000-4000-8000-000000000001"
ALL = frozenset({"VCPU", "PCPU", "MEMORY_MB", "DISK_GB"})
PF, VF1, VF2, LONE = "0000:03:00.0", "0000:03:00.1", "0000:03:00.2", "0000:0a:00.0"
CARD, SINGLE = child_uuid(ROOT, "node-1_0000:03:00.0"), child_uuid(ROOT, "node-1_0000:0A:00.0")
CLASS = "CUSTOM_PCI_10DE_1DB6"


def node(classes: frozenset[str] = ALL) -> ComputeNode:
    return tally(owned_classes=classes).node


def entry(consumer: str | None = GUEST, /, **fields: object) -> Entry:
    return replace(Entry(kind="instance", id=GUEST, why="", consumer=consumer), **fields)


def take(vcpus: int, *pinned: int) -> CellTake:
    return CellTake(cell=0, vcpus=vcpus, memory_mb=1, pinned_cpus=frozenset(pinned))


def device(address: str, kind: DeviceType = "type-PCI", parent: str | None = None, **fields: object) -> PciRecord:
    made = PciRecord(address=address, vendor_id="10de", product_id="1db6", dev_type=kind, parent_addr=parent)
    return replace(made, **{"status": "allocated", "instance_uuid": GUEST, **fields})


def on_root(*entries: Entry, classes: frozenset[str] = ALL) -> Mapping[str, Mapping[str, int]]:
    """What each consumer should hold of the root."""
    return {
        consumer: held.get(ROOT, {})
        for consumer, held in wanted(node(classes), entries, (), report_pci=True).items()
        if held.keys() <= {ROOT}
    }


SIZED: dict[str, object] = {"vcpus": 4, "memory_mb": 2048, "disk_mb": 20480}
ROOT_CASES: tuple[tuple[str, dict[str, object], frozenset[str], dict[str, int]], ...] = (
    ("plain", SIZED, ALL, {"VCPU": 4, "MEMORY_MB": 2048, "DISK_GB": 20}),
    ("disk is rounded up", {"disk_mb": 1}, ALL, {"DISK_GB": 1}),
    ("disk is rounded up, not cut", {"disk_mb": 1025}, ALL, {"DISK_GB": 2}),
    ("nothing", {}, ALL, {}),
    ("no disk there", SIZED, ALL - {"DISK_GB"}, {"VCPU": 4, "MEMORY_MB": 2048}),
    ("nothing there", SIZED, frozenset(), {}),
    ("floating on cells", {"vcpus": 3, "cells": (take(1), take(2))}, ALL, {"VCPU": 3}),
    ("pinned", {"vcpus": 2, "cells": (take(0, 4, 5),)}, ALL, {"PCPU": 2}),
    ("pinned, siblings blocked", {"vcpus": 2, "cells": (take(0, 4, 5, 6, 7),)}, ALL, {"PCPU": 4}),
    ("mixed on two cells", {"vcpus": 5, "cells": (take(1, 4), take(2, 8))}, ALL, {"VCPU": 3, "PCPU": 2}),
    ("pinned, none sold", {"vcpus": 2, "cells": (take(0, 4, 5, 6),)}, ALL - {"PCPU"}, {"VCPU": 2}),
    ("floating without cells beside dedicated CPUs", {"vcpus": 2}, ALL, {"VCPU": 2}),
    ("floating, only dedicated CPUs sold", {"vcpus": 2}, ALL - {"VCPU"}, {}),
)


@pytest.mark.parametrize(("case", "fields", "classes", "held"), ROOT_CASES, ids=[case for case, _, _, _ in ROOT_CASES])
def test_given_an_entry_then_its_consumer_holds_what_the_node_sells(
    case: str, fields: dict[str, object], classes: frozenset[str], held: dict[str, int]
) -> None:
    assert on_root(entry(**fields), classes=classes) == {GUEST: held}


def test_given_a_node_that_is_sold_as_a_whole_then_who_has_it_holds_all_of_it() -> None:
    whole = {"CUSTOM_GOLD": 1}
    one = entry(vcpus=2, memory_mb=512, disk_mb=1)
    held = wanted(node(frozenset(whole)), [one, entry(None, vcpus=1)], (), report_pci=True, whole=whole)
    assert held == {GUEST: {ROOT: whole}}
    made = allocations(node(frozenset(whole)), [one], (), {}, report_pci=True, whole=whole)
    assert made[GUEST].resources == {ROOT: whole}


def test_given_what_nobody_allocates_then_nobody_holds_it() -> None:
    assert on_root(entry(None, kind="reserved", id="host", **SIZED), entry(None, kind="orphan", **SIZED)) == {}


def test_given_two_sides_of_a_resize_then_the_instance_and_its_migration_hold_one_each() -> None:
    old = entry(MOVE, vcpus=2)
    new = entry(GUEST, kind="migration", vcpus=3)
    assert on_root(old, new) == {MOVE: {"VCPU": 2}, GUEST: {"VCPU": 3}}


def test_given_two_entries_of_one_consumer_then_they_add_up_and_disk_is_rounded_once() -> None:
    half: dict[str, object] = {"vcpus": 1, "memory_mb": 10, "disk_mb": 512}
    assert on_root(entry(**half), entry(**half), entry(**half)) == {GUEST: {"VCPU": 3, "MEMORY_MB": 30, "DISK_GB": 2}}


FUNCTIONS = (device(VF1, "type-VF", PF), device(VF2, "type-VF", PF))
PCI_CASES: tuple[tuple[str, tuple[str, ...], tuple[PciRecord, ...], dict[str, dict[str, int]]], ...] = (
    ("a device", (LONE,), (device(LONE),), {SINGLE: {CLASS: 1}}),
    ("functions count on their card", (VF1, VF2), FUNCTIONS, {CARD: {CLASS: 2}}),
    ("a class of one's own", (LONE,), (device(LONE, resource_class="gpu"),), {SINGLE: {"CUSTOM_GPU": 1}}),
    ("a card that is held whole", (PF,), (device(PF, "type-PF"), device(VF1, "type-VF", PF)), {CARD: {CLASS: 1}}),
    ("the network service's", (LONE,), (device(LONE, physical_network="net"),), {}),
    ("gone from the host", (LONE,), (device(LONE, status="removed"),), {}),
    ("not tracked", (LONE,), (), {}),
    ("somebody else's", (), (device(LONE),), {}),
)


@pytest.mark.parametrize(("case", "pci", "devices", "held"), PCI_CASES, ids=[case for case, *_ in PCI_CASES])
def test_given_devices_then_they_are_held_of_the_providers_that_sell_them(
    case: str, pci: tuple[str, ...], devices: tuple[PciRecord, ...], held: dict[str, dict[str, int]]
) -> None:
    entries = [entry(pci=pci)]
    assert wanted(node(), entries, devices, report_pci=True) == {GUEST: held}
    assert wanted(node(), entries, devices, report_pci=False) == {GUEST: {}}


def test_given_one_with_a_device_beside_one_without_then_the_device_is_held() -> None:
    found = wanted(node(), [entry(MOVE, vcpus=1), entry(pci=(LONE,))], (device(LONE),), report_pci=True)
    assert found == {MOVE: {ROOT: {"VCPU": 1}}, GUEST: {SINGLE: {CLASS: 1}}}


def an_instance(uuid: str, **fields: object) -> Instance:
    return replace(Instance(uuid=uuid, flavor=Flavor(vcpus=1, memory_mb=1)), **fields)


def test_given_instances_then_their_allocations_say_whose_they_are_and_of_what_kind() -> None:
    entries = [entry(MOVE, vcpus=2), entry(GUEST, kind="migration", vcpus=3)]
    owner = an_instance(GUEST, project_id="blue", user_id="ann")
    assert allocations(node(), entries, (), {GUEST: owner}, report_pci=True) == {
        MOVE: Allocation(
            consumer=MOVE, kind="MIGRATION", project_id="blue", user_id="ann", resources={ROOT: {"VCPU": 2}}
        ),
        GUEST: Allocation(
            consumer=GUEST, kind="INSTANCE", project_id="blue", user_id="ann", resources={ROOT: {"VCPU": 3}}
        ),
    }


@pytest.mark.parametrize(
    "known", [{}, {GUEST: an_instance(GUEST)}, {GUEST: an_instance(GUEST, project_id="", user_id="")}]
)
def test_given_an_instance_of_nobody_then_its_project_and_user_are_placements_own(known: dict[str, Instance]) -> None:
    (made,) = allocations(node(), [entry(vcpus=1)], (), known, report_pci=True).values()
    assert (made.project_id, made.user_id) == (NOBODY, NOBODY)


def held_of(made: Mapping[str, Mapping[str, Mapping[str, int]]], provider: str, name: str) -> int:
    return sum(held.get(provider, {}).get(name, 0) for held in made.values())


def counted(entries: Sequence[Entry]) -> list[Entry]:
    """The entries as a claim would have them: instances and migrations hold, the rest do not."""
    return [replace(one, consumer=one.id) if one.kind in ("instance", "migration") else one for one in entries]


@given(case=cases(), classes=st.frozensets(st.sampled_from(sorted(ALL))))
def test_given_any_books_then_what_is_held_is_what_was_counted(case: Case, classes: frozenset[str]) -> None:
    books = tallied(case.host, case.work, case.rules, uuid=ROOT)
    record = replace(books.node, uuid=ROOT, owned_classes=classes)
    entries = counted(books.entries)
    mine = [one for one in entries if one.consumer is not None]
    made = wanted(record, entries, books.pci_devices, report_pci=True)
    assert made.keys() == {one.consumer for one in mine}
    for held in made.values():
        assert held.get(ROOT, {}).keys() <= classes
        assert all(amount > 0 for amounts in held.values() for amount in amounts.values())
    assert held_of(made, ROOT, "MEMORY_MB") == ("MEMORY_MB" in classes) * sum(one.memory_mb for one in mine)
    disk_mb = sum(one.disk_mb for one in mine)
    if "DISK_GB" in classes:
        assert disk_mb <= held_of(made, ROOT, "DISK_GB") * 1024 < disk_mb + 1024 * len(made) + 1
    if "PCPU" not in classes:
        assert held_of(made, ROOT, "VCPU") == ("VCPU" in classes) * sum(one.vcpus for one in mine)
    else:
        assert held_of(made, ROOT, "PCPU") == sum(len(cell.pinned_cpus) for one in mine for cell in one.cells)


@given(case=cases())
def test_given_any_devices_then_never_more_are_held_than_their_providers_sell(case: Case) -> None:
    books = tallied(case.host, case.work, case.rules, uuid=ROOT)
    record = replace(books.node, uuid=ROOT)
    root = tree(record.hypervisor_hostname, root_uuid=ROOT).root
    providers, _ = device_providers(root, books.pci_devices, frozenset(), frozenset())
    sold = {(one.uuid, name): there.total for one in providers for name, there in one.inventories.items()}
    made = wanted(record, counted(books.entries), books.pci_devices, report_pci=True)
    held: dict[tuple[str, str], int] = {}
    for resources in made.values():
        for uuid, amounts in resources.items():
            for name, amount in amounts.items():
                if uuid != ROOT:
                    held[uuid, name] = held.get((uuid, name), 0) + amount
    assert all(amount <= sold[key] for key, amount in held.items())
