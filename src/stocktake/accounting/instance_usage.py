"""
Step 6: what one instance takes of one node. Invariant: it depends on that instance and its migrations, and on nobody
else.

That is why a claim may count one instance anew instead of all (`incremental`), and still gives what `tally` gives.
Powered on or off, an instance counts, unless its resources may be given up.

Rules: docs/accounting.md, "Instances" and "Migrations".
"""

from collections.abc import Collection, Sequence

from stocktake.accounting import migrations as migrations_
from stocktake.accounting.migrations import Move
from stocktake.accounting.stats import counts_of
from stocktake.model.books import Entry, HolderKind
from stocktake.model.problem import Problem
from stocktake.model.topology import GuestTopology
from stocktake.model.value import Value, replace
from stocktake.model.workload import Flavor, Instance, Migration


class Holding(Value, frozen=True, kw_only=True):
    """An entry before it is placed: what it wants of the cells, and which PCI devices are its own."""

    entry: Entry
    numa: GuestTopology | None = None
    pci: tuple[str, ...] = ()


class Share(Value, frozen=True, kw_only=True):
    """
    How one instance counts on a node.

    Attributes:
        counted: the instance as it counts, its migration context applied; None if it does not count as an instance.
        move: the migration that counts; None if none does.
        leaving: the migration whose source side `counted` is; its allocation is the migration's.
        stale: ids of migrations that are to be set to `error`.
    """

    counted: Instance | None = None
    move: Move | None = None
    leaving: Migration | None = None
    stale: tuple[int, ...] = ()
    problems: tuple[Problem, ...] = ()


def share_of(instance: Instance, migrations: Sequence[Migration], host: str, node: str, *, here: bool) -> Share:
    """
    Work out how an instance counts on a node.

    Args:
        migrations: all in play that name it, and have this node as source or destination.
        here: it is on this node, by its record.
    """
    counted = instance if here and counts(instance) else None
    if not migrations:
        return Share(counted=counted)
    if counted is not None:
        (counted,) = migrations_.with_contexts((counted,), migrations, host, node)
    picked, stale = migrations_.chosen(migrations, {instance.uuid: instance})
    if not picked:
        return Share(counted=counted, stale=stale)
    (migration,) = picked
    already = {instance.uuid} if counted is not None else frozenset[str]()
    move, missing = migrations_.move_of(migration, instance, host, node, counted=already)
    problems = (Problem(code="flavor-missing", about=instance.uuid, text=missing),) if missing else ()
    leaving = migration if migrations_.takes_away(migration, instance, host, node) else None
    return Share(counted=counted, move=move, leaving=leaving, stale=stale, problems=problems)


def holdings_of(share: Share, held: Collection[str]) -> tuple[Holding, ...]:
    """
    Make the holdings of an instance: as itself, as a move, as both, or none.

    Args:
        held: addresses of the devices that it holds on this node.
    """
    counted, move = share.counted, share.move
    made: list[Holding] = []
    moved = set(move.pci_devices) if move else set()
    if counted is not None:
        entry = of_instance(counted)
        if share.leaving is not None:
            entry = replace(entry, consumer=share.leaving.uuid)
        made.append(Holding(entry=entry, numa=counted.numa_topology, pci=tuple(sorted(set(held) - moved))))
    if move is not None:
        consumer = move.instance.uuid if move.allocates else move.migration.uuid
        entry = of_flavor("migration", move.instance, move.flavor, why=move.why)
        mine = held if counted is None else moved & set(held)
        made.append(Holding(entry=replace(entry, consumer=consumer), numa=move.numa_topology, pci=tuple(sorted(mine))))
    return tuple(made)


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
