"""
What a claim writes: one instance counted anew on the nodes it touches, and the allocations that follow. Invariant: the
same as a whole tally would give; the scheduler is told of nothing that the ledger does not have.

Rules: docs/accounting.md, "Claims" and "Allocations".
"""

from collections.abc import Mapping, Sequence

from stocktake.accounting import pci
from stocktake.accounting.incremental import judged, placed, with_devices, with_entries
from stocktake.accounting.instance_usage import Share, holdings_of, share_of
from stocktake.accounting.lifecycle import Location
from stocktake.accounting.migrations import comes_here, leaves_here
from stocktake.accounting.numa import shifted
from stocktake.ledger import Transaction
from stocktake.model.books import ComputeNode, Entry
from stocktake.model.pci import PciRecord
from stocktake.model.provider import NOBODY, Allocation
from stocktake.model.value import Value, replace
from stocktake.model.workload import Instance, Migration
from stocktake.placement.desired_allocations import wanted


class RecountedNode(Value, frozen=True, kw_only=True):
    """A node after one instance was counted anew: its record, that instance's entries, its devices if it has some."""

    node: ComputeNode
    entries: tuple[Entry, ...]
    devices: tuple[PciRecord, ...] = ()


def location_of(node: ComputeNode) -> Location:
    """Say where a node is."""
    return Location(host=node.host, node=node.hypervisor_hostname)


def recount(
    tx: Transaction,
    nodes: Mapping[str, ComputeNode],
    uuid: str,
    instance: Instance | None,
    migration: Migration | None,
    *,
    frees: Mapping[Location, Sequence[str]] | None = None,
    takes: Mapping[str, Mapping[str, str]] | None = None,
) -> tuple[RecountedNode, ...]:
    """
    Count an instance anew on locked nodes, and write their records.

    Args:
        nodes: the locked nodes' records, by uuid.
        uuid: the instance's.
        instance: as it is now; None if it is no more.
        migration: the one that it is in; None if it moves no more.
        frees: addresses of the devices that it lets go, by where.
        takes: devices that it claims, address to alias, by the node's uuid.
    """
    gone = tx.entries_of(tuple(nodes), uuid)
    after: list[RecountedNode] = []
    for node_uuid, node in nodes.items():
        where = location_of(node)
        take = (takes or {}).get(node_uuid, {})
        free = (frees or {}).get(where, ())
        table: pci.Table | None = None
        if take or free or any(entry.pci for entry in gone[node_uuid]):
            before = {record.address: record for record in tx.devices([node_uuid])[node_uuid]}
            own = {address for address, record in before.items() if record.instance_uuid == uuid}
            keep = own - set(free) if instance is not None else set[str]()
            table = with_devices(before, uuid, keep, take)
        share = _share(instance, migration, where)
        after.append(_written(tx, node, uuid, share, gone=gone[node_uuid], table=table))
    return tuple(after)


def _share(instance: Instance | None, migration: Migration | None, where: Location) -> Share:
    """Work out what the instance takes of a node."""
    if instance is None:
        return Share()
    touching = [
        one
        for one in ([migration] if migration else [])
        if comes_here(one, where.host, where.node) or leaves_here(one, where.host, where.node)
    ]
    here = (instance.host, instance.node) == (where.host, where.node)
    return share_of(instance, touching, where.host, where.node, here=here)


def _written(
    tx: Transaction,
    node: ComputeNode,
    uuid: str,
    share: Share,
    *,
    gone: Sequence[Entry],
    table: pci.Table | None,
) -> RecountedNode:
    held = pci.held_by(table).get(uuid, ()) if table is not None else ()
    bare = replace(node, numa_topology=shifted(node.numa_topology, gone, ()))
    come, refused = placed(bare, holdings_of(share, held))
    after = judged(with_entries(node, gone, come), uuid, (*share.problems, *refused))
    if table is not None:
        after = replace(after, pci_device_pools=pci.pools(table))
    devices = tuple(record for _, record in sorted(table.items())) if table is not None else None
    saved = tx.write_books(node, after, gone=gone, come=come, devices=devices)
    return RecountedNode(node=saved, entries=come, devices=devices or ())


def allocations_of(
    instance: Instance, migration: Migration | None, counted: Sequence[RecountedNode], *, report_pci: bool
) -> tuple[Allocation, ...]:
    """
    Work out what an instance, and the migration it is or was in, should hold.

    Args:
        counted: every node that either has something of.
    """
    by_consumer: dict[str, dict[str, Mapping[str, int]]] = {instance.uuid: {}}
    if migration is not None and migration.uuid is not None:
        by_consumer[migration.uuid] = {}
    for one in counted:
        for consumer, resources in wanted(one.node, one.entries, one.devices, report_pci=report_pci).items():
            by_consumer.setdefault(consumer, {}).update(resources)
    return tuple(
        Allocation(
            consumer=consumer,
            kind="INSTANCE" if consumer == instance.uuid else "MIGRATION",
            project_id=instance.project_id or NOBODY,
            user_id=instance.user_id or NOBODY,
            resources=resources,
        )
        for consumer, resources in by_consumer.items()
    )
