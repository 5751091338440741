"""
Step 6: orphans, guests without an instance. Invariant: what the hypervisor runs is allocated, whoever started it.

Rules: docs/accounting.md, "Orphans" (ours: Nova has counted none since 2020).
"""

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from datetime import datetime

from stocktake.accounting.instance_usage import MIB_PER_GIB, counts
from stocktake.model.books import Entry
from stocktake.model.hypervisor import Guest
from stocktake.model.workload import Flavor, Instance, Place


def unmanaged(guests: Sequence[Guest], counted: AbstractSet[str]) -> tuple[Guest, ...]:
    """Pick the guests that are neither a counted instance nor a counted migration's instance, by uuid."""
    return tuple(sorted((guest for guest in guests if guest.uuid not in counted), key=lambda guest: guest.uuid))


def of_guest(guest: Guest, here: Mapping[str, Instance], places: Mapping[str, Place]) -> Entry:
    """
    Make an orphan's or a misplaced guest's entry, without cells and PCI devices.

    Args:
        here: all the ledger's instances on this node by uuid, those that don't count too.
        places: where the ledger has guests that are not on this node, by uuid.
    """
    place = places.get(guest.uuid)
    misplaced = place is not None and not place.deleted
    takes = guest if guest.active else None
    return Entry(
        kind="misplaced" if misplaced else "orphan",
        id=guest.uuid,
        name=guest.name,
        why=f"{guest.state} on the hypervisor; {_ledger_says(here.get(guest.uuid), place)}",
        vcpus=takes.vcpus if takes else 0,
        memory_mb=takes.memory_mb if takes else 0,
        disk_mb=takes.disk_mb if takes else 0,
    )


def _ledger_says(instance: Instance | None, place: Place | None) -> str:
    if instance is not None:
        assert not counts(instance), "a counted instance's guest is no orphan"
        return f"the ledger has it here as {instance.vm_state}, which does not count"
    if place is None:
        return "the ledger does not know it"
    if place.deleted:
        return f"the ledger deleted it on {place.host or 'no host'}"
    return f"the ledger has it on {place.host or 'no host'} ({place.node or 'no node'})"


def adopted(guest: Guest, *, host: str, node: str, now: datetime) -> Instance:
    """Make an instance of an unmanaged guest: it takes what the guest takes, disk rounded up to GiB."""
    return Instance(
        uuid=guest.uuid,
        name=guest.name,
        host=host,
        node=node,
        vm_state="active" if guest.active else "stopped",
        power_state=1 if guest.active else 4,
        flavor=Flavor(
            name=f"adopted {guest.name}",
            vcpus=guest.vcpus,
            memory_mb=guest.memory_mb,
            root_gb=-(-guest.disk_mb // MIB_PER_GIB),
        ),
        numa_topology=guest.numa,
        adopted=True,
        created_at=now,
    )
