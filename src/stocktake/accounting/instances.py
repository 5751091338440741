"""
Step 6: what an instance takes. Invariant: powered on or off, it counts, unless its resources may be given up.

Rules: docs/accounting.md, "Instances".
"""

from stocktake.accounting.stats import counts_of
from stocktake.model.books import Entry, HolderKind
from stocktake.model.value import replace
from stocktake.model.workload import Flavor, Instance

MIB_PER_GIB = 1024


def counts(instance: Instance) -> bool:
    """Say whether an instance that is on the node counts: not if its resources may be given up."""
    if instance.deleted or instance.vm_state == "deleted":
        return False
    return instance.vm_state != "shelved_offloaded" or instance.task_state == "spawning"


def disk_mb(flavor: Flavor, *, volume_backed: bool) -> int:
    """Add up a flavor's local disk in MiB, exactly; nothing for a root disk that a volume backs."""
    root_gb = 0 if volume_backed else flavor.root_gb
    return (root_gb + flavor.ephemeral_gb) * MIB_PER_GIB + flavor.swap_mb


def of_flavor(kind: HolderKind, instance: Instance, flavor: Flavor, *, why: str) -> Entry:
    """Make the entry of an instance with this flavor, without cells and PCI devices, which need the whole node."""
    return Entry(
        kind=kind,
        id=instance.uuid,
        name=instance.name,
        why=why,
        vcpus=flavor.vcpus,
        memory_mb=flavor.memory_mb,
        disk_mb=disk_mb(flavor, volume_backed=instance.volume_backed),
    )


def of_instance(instance: Instance) -> Entry:
    """Make the entry of a counted instance."""
    task = f", {instance.task_state}" if instance.task_state else ""
    why = f"instance on this node ({instance.vm_state}{task})"
    entry = of_flavor("instance", instance, instance.flavor, why=why)
    return replace(entry, counts=counts_of(instance), consumer=instance.uuid)
