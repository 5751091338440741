"""
Step 6, what counts on a node, where there are records and no ledger to ask. Invariant: chosen as the ledger chooses.

A support case brings all the records that somebody had; `ledger.read` is what chooses them in a refresh.
"""

from collections.abc import Iterable, Mapping, Sequence

from stocktake.model.pci import DeviceStatus, PciDevice, PciRecord
from stocktake.model.value import replace
from stocktake.model.workload import Instance, Migration, NodeWork, Place


def select_work(host: str, node: str, instances: Sequence[Instance], migrations: Sequence[Migration]) -> NodeWork:
    """Select a node's instances, the migrations that have it as source or destination, and where the others are."""
    here = tuple(one for one in instances if (one.host, one.node) == (host, node) and not one.deleted)
    moves = tuple(
        one
        for one in migrations
        if (host, node) in {(one.source_compute, one.source_node), (one.dest_compute, one.dest_node)}
    )
    moved = {migration.instance_uuid for migration in moves}
    known = {one.uuid for one in here}
    return NodeWork(
        instances=here,
        migrations=moves,
        moving={one.uuid: one for one in instances if one.uuid in moved},
        places={
            one.uuid: Place(host=one.host, node=one.node, deleted=one.deleted)
            for one in instances
            if one.uuid not in known
        },
    )


def device_records(
    given: Mapping[str, tuple[str, DeviceStatus]], reported: Iterable[PciDevice]
) -> tuple[PciRecord, ...]:
    """
    Make the records of devices that instances were given; of one that is gone, only the address is known.

    Args:
        given: by address, the uuid of the instance and the device's status.
    """
    known = {device.address: device for device in reported}
    return tuple(
        replace(
            PciRecord.of(known.get(address) or PciDevice(address=address, vendor_id="", product_id="")),
            status=status,
            instance_uuid=uuid,
        )
        for address, (uuid, status) in given.items()
    )


def ended_consumers(instances: Iterable[Instance], *, hidden: frozenset[str], new_node: bool) -> frozenset[str]:
    """
    Name the deleted instances whose allocations a refresh removes, as Nova does: wherever the instance was.

    Args:
        hidden: instances whose records another cell has taken over: it has their allocations.
        new_node: the node's first refresh, which makes the provider and removes nothing.
    """
    return frozenset(one.uuid for one in instances if one.deleted and not new_node) - hidden
