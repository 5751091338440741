"""
Step 7b: a node's entries to what their consumers should hold of it. Invariant: pure, and what is held is what was
counted.

Rules: docs/accounting.md, "Allocations".
"""

from collections.abc import Iterable, Mapping, Sequence

from stocktake.accounting.capacity import entry_cpus
from stocktake.model.books import ComputeNode, Entry, Tally
from stocktake.model.pci import PciRecord
from stocktake.model.provider import NOBODY, Allocation, ProviderTree
from stocktake.model.value import replace
from stocktake.model.workload import Instance, NodeWork
from stocktake.placement.desired import device_places

_MIB_PER_GIB = 1024
_NOWHERE: Mapping[str, tuple[str, str]] = {}
_NOTHING: Mapping[str, int] = {}


def wanted(
    node: ComputeNode,
    entries: Iterable[Entry],
    devices: Iterable[PciRecord],
    *,
    report_pci: bool,
    whole: Mapping[str, int] = _NOTHING,
) -> dict[str, dict[str, dict[str, int]]]:
    """
    Work out what every consumer should hold of a node's providers.

    Args:
        node: its `owned_classes` say which classes it has.
        devices: those tracked, held ones as held.
        report_pci: devices are child providers; otherwise nobody holds any.
        whole: what every consumer holds of a node that is allocated as a whole, by class.

    Returns:
        Amounts by consumer, provider and class, none of them 0. Entries of one consumer add up; disk is their sum in
        MiB, rounded up to whole GiB: what is free must never be overstated.
    """
    mine: dict[str, list[Entry]] = {}
    for entry in entries:
        if entry.consumer is not None:
            mine.setdefault(entry.consumer, []).append(entry)
    pci = report_pci and any(entry.pci for several in mine.values() for entry in several)
    places = device_places(node.uuid, node.hypervisor_hostname, devices) if pci else _NOWHERE
    return {consumer: _held(node, several, places, whole) for consumer, several in mine.items()}


def desired_of(counted: Tally, work: NodeWork, tree: ProviderTree) -> dict[str, Allocation]:
    """Give the allocations on a node in classes that are wanted: one that is only kept while in use gets free."""
    root = tree.root
    classes = frozenset(name for provider in tree.providers for name in provider.inventories)
    return allocations(
        replace(counted.node, owned_classes=classes),
        counted.entries,
        counted.pci_devices,
        {**work.moving, **{instance.uuid: instance for instance in work.instances}},
        report_pci=len(tree.providers) > 1,
        whole={name: root.inventories[name].total for name in root.whole},
    )


def allocations(
    node: ComputeNode,
    entries: Sequence[Entry],
    devices: Iterable[PciRecord],
    instances: Mapping[str, Instance],
    *,
    report_pci: bool,
    whole: Mapping[str, int] = _NOTHING,
) -> dict[str, Allocation]:
    """
    Give the allocations on a node, by consumer.

    Args:
        instances: those that the entries are of, by uuid; they say whose project and user it is.
        whole: see `wanted`.
    """
    owner = {entry.consumer: entry.id for entry in entries if entry.consumer is not None}
    made = {}
    for consumer, resources in wanted(node, entries, devices, report_pci=report_pci, whole=whole).items():
        instance = instances.get(owner[consumer])
        made[consumer] = Allocation(
            consumer=consumer,
            kind="INSTANCE" if consumer == owner[consumer] else "MIGRATION",
            project_id=(instance and instance.project_id) or NOBODY,
            user_id=(instance and instance.user_id) or NOBODY,
            resources=resources,
        )
    return made


def _held(
    node: ComputeNode, entries: Sequence[Entry], places: Mapping[str, tuple[str, str]], whole: Mapping[str, int]
) -> dict[str, dict[str, int]]:
    """Add up one consumer's entries, by provider and class."""
    amounts = {
        "VCPU": 0,
        "PCPU": 0,
        "MEMORY_MB": sum(entry.memory_mb for entry in entries),
        "DISK_GB": -(-sum(entry.disk_mb for entry in entries) // _MIB_PER_GIB),
    }
    for entry in entries:
        shared, pinned = entry_cpus(entry, dedicated="PCPU" in node.owned_classes)
        amounts["VCPU"] += shared
        amounts["PCPU"] += pinned
    root = {name: amount for name, amount in amounts.items() if amount and name in node.owned_classes} | {**whole}
    held = {node.uuid: root} if root else {}
    for address in (address for entry in entries for address in entry.pci if address in places):
        provider, name = places[address]
        there = held.setdefault(provider, {})
        there[name] = there.get(name, 0) + 1
    return held
