"""PCI devices: which are tracked, who holds them, which are free."""

from collections.abc import Mapping

import pytest

from stocktake.accounting import pci
from stocktake.model.books import Tally
from stocktake.model.pci import DeviceSpec, DeviceStatus, PciDevice, PciRecord
from stocktake.model.rules import Rules
from stocktake.model.value import replace
from stocktake.model.workload import Instance, MigrationContext, NodeWork
from tests.accounting.making import (
    HOST,
    LARGE,
    NODE,
    a_device,
    a_guest,
    a_host,
    a_migration,
    a_resize,
    an_instance,
    codes,
    count,
    entries_of,
    outgoing,
    same_host,
    uuid_of,
    work,
)

ANY = (DeviceSpec(),)
RULES = Rules(host=HOST, device_specs=ANY, report_pci=False)
PF = a_device("0000:01:00.0", product_id="1528", dev_type="type-PF")
VF1 = a_device("0000:01:10.1", dev_type="type-VF", parent_addr=PF.address)
VF2 = a_device("0000:01:10.2", dev_type="type-VF", parent_addr=PF.address)
GPU = a_device("0000:05:00.0", vendor_id="10de", product_id="20b5")


def a_record(device: PciDevice, status: DeviceStatus = "allocated", holder: int | None = 1) -> PciRecord:
    return PciRecord(
        address=device.address,
        vendor_id=device.vendor_id,
        product_id=device.product_id,
        dev_type=device.dev_type,
        parent_addr=device.parent_addr,
        numa_node=device.numa_node,
        status=status,
        instance_uuid=None if holder is None else uuid_of(holder),
        request_id=None if holder is None else "r",
    )


def counted(devices: tuple[PciDevice, ...], promised: NodeWork | None = None, rules: Rules = RULES) -> Tally:
    return count(a_host(pci_devices=devices), promised, rules)


def statuses(books: Tally) -> Mapping[str, str]:
    return {record.address: record.status for record in books.pci_devices}


def among(**parts: str) -> Mapping[str, frozenset[str]]:
    """Say what parts of an address may be."""
    return {name: frozenset(values.split()) for name, values in parts.items()}


def holders(books: Tally) -> Mapping[str, str | None]:
    return {record.address: record.instance_uuid for record in books.pci_devices}


@pytest.mark.parametrize(
    ("spec", "device", "found"),
    [
        (DeviceSpec(), GPU, True),
        (DeviceSpec(vendor_id="10de"), GPU, True),
        (DeviceSpec(vendor_id="10DE", product_id="20B5"), GPU, True),
        (DeviceSpec(vendor_id="10de", product_id="1db6"), GPU, False),
        (DeviceSpec(vendor_id="8086"), GPU, False),
        (DeviceSpec(product_id="20b5"), GPU, True),
        (DeviceSpec(address="*:05:00.*"), GPU, True),
        (DeviceSpec(address="0000:05:00.0"), GPU, True),
        (DeviceSpec(address="0000:05:00.1"), GPU, False),
        (DeviceSpec(address="0001:05:00.0"), GPU, False),
        (DeviceSpec(address="05:00.0"), GPU, True),
        (DeviceSpec(address="06:00.0"), GPU, False),
        (DeviceSpec(address="05:00.1"), GPU, False),
        (DeviceSpec(vendor_id="8086", address="*:05:00.*"), GPU, False),
        (DeviceSpec(address_parts=among(bus="05 06 07")), GPU, True),
        (DeviceSpec(address_parts=among(bus="06 07")), GPU, False),
        (DeviceSpec(address_parts=among(domain="0001")), GPU, False),
        (DeviceSpec(address_parts=among(slot="01")), GPU, False),
        (DeviceSpec(address_parts=among(function="1 2 3 4 5 6 7")), GPU, False),
        (DeviceSpec(address_parts=among(bus="05", slot="00", function="0 1 2")), GPU, True),
        # The exact address of a PF stands for its VFs too; a glob does not.
        (DeviceSpec(address=PF.address), VF1, True),
        (DeviceSpec(address="*:01:00.0"), VF1, False),
        (DeviceSpec(address=PF.address), replace(VF1, parent_addr=None), False),
        (DeviceSpec(address=PF.address), replace(VF1, dev_type="type-PCI"), False),
        (DeviceSpec(address_parts=among(slot="00")), VF1, False),
        (DeviceSpec(address=VF1.address), VF1, True),
    ],
)
def test_given_a_device_spec_when_matched_then_ids_globs_and_patterns_decide(
    spec: DeviceSpec, device: PciDevice, *, found: bool
) -> None:
    assert (pci.matching(device, (spec,)) is spec) is found


def test_given_several_specs_when_matched_then_the_first_one_says() -> None:
    first, second = DeviceSpec(vendor_id="10de", tags={"n": "1"}), DeviceSpec(tags={"n": "2"})
    assert pci.matching(GPU, (first, second)) is first
    assert pci.matching(PF, (first, second)) is second
    assert pci.matching(PF, (first,)) is None


def test_given_devices_that_no_spec_matches_when_counted_then_they_are_not_tracked() -> None:
    books = counted((PF, GPU), rules=replace(RULES, device_specs=(DeviceSpec(vendor_id="10de"),)))
    assert statuses(books) == {GPU.address: "available"}


def test_given_a_new_device_when_tracked_then_it_has_what_the_driver_and_the_spec_say() -> None:
    spec = DeviceSpec(resource_class="CUSTOM_GPU", traits=frozenset({"CUSTOM_T"}), tags={"physical_network": "p"})
    device = replace(GPU, numa_node=1, label="l", dev_id="d")
    (record,) = pci.tracked((device,), (), (spec,)).values()
    assert record == PciRecord(
        address=GPU.address,
        vendor_id="10de",
        product_id="20b5",
        dev_type="type-PCI",
        numa_node=1,
        label="l",
        dev_id="d",
        resource_class="CUSTOM_GPU",
        traits=frozenset({"CUSTOM_T"}),
        physical_network="p",
        tags={"physical_network": "p", "dev_type": "type-PCI", "address": GPU.address},
    )


# A device was saved with a status and perhaps a holder; the hypervisor has it (or not); its holder is an instance here.
@pytest.mark.parametrize(
    ("before", "holder", "there", "after"),
    [
        ("available", None, True, "available"),
        ("available", None, False, None),
        ("unavailable", None, True, "available"),
        ("unclaimable", None, False, None),
        ("claimed", 1, True, "allocated"),
        ("allocated", 1, True, "allocated"),
        ("claimed", 1, False, "removed"),
        ("allocated", 1, False, "removed"),
        ("removed", 1, False, "removed"),
        ("removed", 1, True, "allocated"),
        # Held by nobody is free, whatever it says.
        ("allocated", None, True, "available"),
        ("allocated", None, False, None),
        ("available", 1, True, "available"),
        # Its holder is gone.
        ("claimed", 9, True, "available"),
        ("allocated", 9, True, "available"),
        ("allocated", 9, False, None),
        ("removed", 9, False, None),
    ],
)
def test_given_a_saved_device_when_counted_then_it_is_what_the_rules_say(
    before: DeviceStatus, holder: int | None, after: str | None, *, there: bool
) -> None:
    promised = work([an_instance(1)], pci_devices=(a_record(GPU, before, holder),))
    books = counted((GPU,) if there else (), promised)
    assert statuses(books) == ({} if after is None else {GPU.address: after})
    kept = after in pci.HELD
    assert holders(books) == ({} if after is None else {GPU.address: uuid_of(1) if kept else None})
    assert entries_of(books, "instance")[uuid_of(1)].pci == ((GPU.address,) if kept else ())
    assert sum(pool.count for pool in books.node.pci_device_pools) == (after == "available")


def test_given_a_device_that_no_spec_matches_any_more_when_it_is_in_use_then_it_is_kept_until_freed() -> None:
    rules = replace(RULES, device_specs=())
    record = a_record(GPU)
    assert statuses(counted((GPU,), work([an_instance(1)], pci_devices=(record,)), rules)) == {GPU.address: "removed"}
    assert statuses(counted((GPU,), work(pci_devices=(record,)), rules)) == {}


def test_given_a_device_that_changed_when_tracked_then_it_is_as_the_driver_says_now() -> None:
    changed = replace(GPU, numa_node=1)
    (record,) = counted((changed,), work([an_instance(1)], pci_devices=(a_record(GPU),))).pci_devices
    assert (record.numa_node, record.status, record.request_id) == (1, "allocated", "r")


@pytest.mark.parametrize(
    ("instance", "status", "after"),
    [
        (an_instance(), "claimed", "allocated"),
        (an_instance(vm_state="shelved_offloaded"), "claimed", "claimed"),
        (an_instance(vm_state="shelved_offloaded"), "allocated", "allocated"),
    ],
)
def test_given_a_claimed_device_when_its_instance_is_counted_then_it_is_allocated(
    instance: Instance, status: DeviceStatus, after: str
) -> None:
    books = counted((GPU,), work([instance], pci_devices=(a_record(GPU, status),)))
    assert statuses(books) == {GPU.address: after}


def test_given_moves_when_counted_then_what_comes_is_allocated_and_what_leaves_is_kept() -> None:
    claimed = (a_record(GPU, "claimed"),)
    comes = counted((GPU,), work([a_resize()], [a_migration()], pci_devices=claimed))
    assert (statuses(comes), entries_of(comes, "migration")[uuid_of(1)].pci) == (
        {GPU.address: "allocated"},
        (GPU.address,),
    )
    leaves = counted((GPU,), work([a_resize()], [outgoing(a_migration())], pci_devices=claimed))
    assert statuses(leaves) == {GPU.address: "claimed"}
    settled = a_migration(status="confirmed")
    assert statuses(counted((GPU,), work([a_resize()], [settled], pci_devices=claimed))) == {GPU.address: "available"}


@pytest.mark.parametrize(
    ("type_id", "instance_has", "move_has"),
    [(1, (VF1.address,), (VF2.address,)), (LARGE.id, (VF2.address,), (VF1.address,))],
)
def test_given_a_resize_on_this_node_when_counted_then_each_side_has_its_own_devices(
    type_id: int, instance_has: tuple[str, ...], move_has: tuple[str, ...]
) -> None:
    context = MigrationContext(migration_id=1, old_pci_devices=(VF1.address,), new_pci_devices=(VF2.address,))
    instance = a_resize(away=False, instance_type_id=type_id, migration_context=context)
    saved = (a_record(VF1), a_record(VF2, "claimed"))
    books = counted((VF1, VF2), work([instance], [same_host(a_migration())], pci_devices=saved))
    assert entries_of(books, "instance")[uuid_of(1)].pci == instance_has
    assert entries_of(books, "migration")[uuid_of(1)].pci == move_has
    assert statuses(books) == {VF1.address: "allocated", VF2.address: "allocated"}


# What is in use of a PF and its two VFs, and what becomes of the three.
@pytest.mark.parametrize(
    ("used", "pf", "vf1", "vf2"),
    [
        ({}, "available", "available", "available"),
        ({PF: "allocated"}, "allocated", "unavailable", "unavailable"),
        ({VF1: "allocated"}, "unavailable", "allocated", "available"),
        ({VF1: "allocated", VF2: "allocated"}, "unavailable", "allocated", "allocated"),
    ],
)
def test_given_a_pf_and_its_vfs_when_one_is_used_then_the_others_are_closed_off(
    used: Mapping[PciDevice, DeviceStatus], pf: str, vf1: str, vf2: str
) -> None:
    saved = tuple(a_record(device, status) for device, status in used.items())
    books = counted((PF, VF1, VF2), work([an_instance()], pci_devices=saved))
    assert statuses(books) == {PF.address: pf, VF1.address: vf1, VF2.address: vf2}
    assert sum(pool.count for pool in books.node.pci_device_pools) == [pf, vf1, vf2].count("available")
    assert codes(books) == []
    assert statuses(counted((PF, VF1, VF2), work(pci_devices=books.pci_devices))) == dict.fromkeys(
        (PF.address, VF1.address, VF2.address), "available"
    )


def test_given_a_claimed_one_when_closed_off_then_the_others_are_unclaimable() -> None:
    offloaded = an_instance(vm_state="shelved_offloaded")
    by_pf = counted((PF, VF1), work([offloaded], pci_devices=(a_record(PF, "claimed"),)))
    assert statuses(by_pf) == {PF.address: "claimed", VF1.address: "unclaimable"}
    by_vf = counted((PF, VF1, VF2), work([offloaded], pci_devices=(a_record(VF1, "claimed"),)))
    assert statuses(by_vf)[PF.address] == "unclaimable"
    mixed = work([offloaded], pci_devices=(a_record(VF1, "claimed"), a_record(VF2, "allocated")))
    assert statuses(counted((PF, VF1, VF2), mixed))[PF.address] == "unavailable"


def test_given_a_pf_and_its_vf_that_are_both_held_when_counted_then_it_is_told() -> None:
    saved = (a_record(PF), a_record(VF1), a_record(VF2))
    books = counted((PF, VF1, VF2), work([an_instance()], pci_devices=saved))
    assert statuses(books) == dict.fromkeys((PF.address, VF1.address, VF2.address), "allocated")
    (problem,) = books.node.problems
    assert (problem.code, problem.about, problem.severity) == ("pci-function-conflict", PF.address, "error")
    assert problem.text == (
        f"PCI device {PF.address} is held by {uuid_of(1)}, "
        f"and its virtual functions {VF1.address}, {VF2.address} are too"
    )


def test_given_a_vf_of_a_pf_that_is_not_tracked_when_used_then_nothing_else_is_closed_off() -> None:
    orphaned = replace(VF2, parent_addr=None)
    saved = (a_record(VF1), a_record(orphaned))
    assert statuses(counted((VF1, orphaned), work([an_instance()], pci_devices=saved))) == {
        VF1.address: "allocated",
        orphaned.address: "allocated",
    }


def test_given_an_orphan_with_devices_when_counted_then_it_holds_them_while_it_runs() -> None:
    guest = a_guest(9, pci_addresses=(GPU.address, "0000:77:00.0"))
    books = count(a_host(pci_devices=(GPU,), guests=(guest,)), None, RULES)
    assert holders(books) == {GPU.address: guest.uuid}
    assert entries_of(books, "orphan")[guest.uuid].pci == (GPU.address,)
    again = count(a_host(pci_devices=(GPU,), guests=(guest,)), work(pci_devices=books.pci_devices), RULES)
    assert again.pci_devices == books.pci_devices
    off = count(a_host(pci_devices=(GPU,), guests=(replace(guest, active=False),)), work(pci_devices=books.pci_devices))
    assert off.pci_devices == ()


def test_given_an_orphan_of_several_devices_when_counted_then_each_is_looked_at_by_itself() -> None:
    # One that is not tracked, one that an instance holds, and a free one.
    guest = a_guest(9, pci_addresses=("0000:00:01.0", VF1.address, GPU.address))
    promised = work([an_instance(1, vm_state="stopped")], pci_devices=(a_record(VF1),))
    books = count(a_host(pci_devices=(VF1, GPU), guests=(guest,)), promised, RULES)
    assert holders(books) == {VF1.address: uuid_of(1), GPU.address: guest.uuid}
    assert codes(books) == ["pci-device-taken"]


def test_given_a_device_whose_instance_is_gone_when_counted_then_nothing_of_the_request_stays() -> None:
    (record,) = counted((GPU,), work(pci_devices=(a_record(GPU),))).pci_devices
    assert (record.status, record.instance_uuid, record.request_id) == ("available", None, None)


def test_given_an_orphan_that_gave_a_device_back_when_counted_then_the_device_is_free() -> None:
    guest = a_guest(9, pci_addresses=(GPU.address,))
    books = count(a_host(pci_devices=(GPU,), guests=(guest,)), None, RULES)
    without = a_host(pci_devices=(GPU,), guests=(replace(guest, pci_addresses=()),))
    assert statuses(count(without, work(pci_devices=books.pci_devices), RULES)) == {GPU.address: "available"}


def test_given_an_orphans_device_that_vanishes_when_counted_then_it_is_kept_while_the_guest_has_it() -> None:
    guest = a_guest(9, pci_addresses=(GPU.address,))
    books = count(a_host(guests=(guest,)), work(pci_devices=(a_record(GPU, holder=9),)), RULES)
    assert (statuses(books), holders(books)) == ({GPU.address: "removed"}, {GPU.address: guest.uuid})
    assert entries_of(books, "orphan")[guest.uuid].pci == (GPU.address,)


def test_given_an_orphan_with_an_instances_device_when_counted_then_the_instance_has_it_and_it_is_told() -> None:
    guest = a_guest(9, pci_addresses=(GPU.address,))
    promised = work([an_instance(1, vm_state="stopped")], pci_devices=(a_record(GPU),))
    books = count(a_host(pci_devices=(GPU,), guests=(guest,)), promised, RULES)
    assert holders(books) == {GPU.address: uuid_of(1)}
    (problem,) = books.node.problems
    assert (problem.code, problem.about, problem.severity) == ("pci-device-taken", guest.uuid, "error")


def tags_of(device: PciDevice, spec: DeviceSpec, *, report_pci: bool) -> Mapping[str, str]:
    rules = Rules(host=HOST, device_specs=(spec,), report_pci=report_pci)
    (pool,) = counted((device,), rules=rules).node.pci_device_pools
    return pool.tags


NETWORK = {"physical_network": "physnet1"}


@pytest.mark.parametrize(
    ("device", "tags", "report_pci", "expected"),
    [
        (GPU, {}, False, {"dev_type": "type-PCI", "address": GPU.address}),
        (GPU, {"colour": "red"}, False, {"dev_type": "type-PCI", "address": GPU.address, "colour": "red"}),
        # A VF's pool is named after its PF.
        (VF1, {}, False, {"dev_type": "type-VF", "address": PF.address, "remote_managed": "false"}),
        # Nova says of every PF and VF who manages it.
        (PF, {}, False, {"dev_type": "type-PF", "address": PF.address, "remote_managed": "false"}),
        (
            PF,
            {"remote_managed": "true"},
            False,
            {"dev_type": "type-PF", "address": PF.address, "remote_managed": "true"},
        ),
        (
            a_device("0000:0a:00.0"),
            {},
            True,
            {"dev_type": "type-PCI", "address": "0000:0a:00.0", "rp_name": f"{NODE}_0000:0A:00.0"},
        ),
        (
            VF1,
            {},
            True,
            {
                "dev_type": "type-VF",
                "address": PF.address,
                "remote_managed": "false",
                "rp_name": f"{NODE}_{PF.address}",
            },
        ),
        # The network service's devices have no provider, so their pools name none.
        (
            VF1,
            NETWORK,
            True,
            {"dev_type": "type-VF", "address": PF.address, "remote_managed": "false", **NETWORK},
        ),
    ],
)
def test_given_a_free_device_when_pooled_then_its_tags_are_what_nova_would_give_it(
    device: PciDevice, tags: Mapping[str, str], expected: Mapping[str, str], *, report_pci: bool
) -> None:
    assert tags_of(device, DeviceSpec(tags=tags), report_pci=report_pci) == expected


def test_given_devices_when_pooled_then_alike_ones_share_a_pool_and_vfs_are_by_parent() -> None:
    second_pf = a_device("0000:02:00.0", dev_type="type-PF", product_id="1528")
    vf3 = a_device("0000:02:10.0", dev_type="type-VF", parent_addr=second_pf.address)
    books = counted((PF, VF1, VF2, second_pf, vf3, GPU, replace(GPU, address="0000:06:00.0")))
    assert [(pool.tags["address"], pool.product_id, pool.count) for pool in books.node.pci_device_pools] == [
        ("0000:01:00.0", "1515", 2),
        ("0000:01:00.0", "1528", 1),
        ("0000:02:00.0", "1515", 1),
        ("0000:02:00.0", "1528", 1),
        ("0000:05:00.0", "20b5", 1),
        ("0000:06:00.0", "20b5", 1),
    ]


def test_given_vfs_of_one_pf_that_differ_in_cell_when_pooled_then_their_order_does_not_matter() -> None:
    near, far, nowhere = (replace(VF1, numa_node=0), replace(VF2, numa_node=1), a_device("0000:01:10.3"))
    lost = replace(nowhere, dev_type="type-VF", parent_addr=PF.address)
    forth = counted((near, far, lost)).node.pci_device_pools
    assert [pool.numa_node for pool in forth] == [None, 0, 1]
    assert counted((lost, far, near)).node.pci_device_pools == forth


def test_given_devices_without_tags_when_pooled_then_only_the_free_are_and_a_count_gives_tags() -> None:
    old = {one.address: a_record(one, "available", None) for one in (GPU, PF)} | {VF1.address: a_record(VF1)}
    assert [(pool.product_id, pool.count, pool.tags) for pool in pci.pools(old)] == [("20b5", 1, {}), ("1528", 1, {})]
    books = counted((GPU, VF1), work([an_instance(1)], pci_devices=(*old.values(),)))
    assert [one.tags["address"] for one in books.pci_devices] == [PF.address, GPU.address]
