"""
Step 6: which migrations count, as what, and which are stale. Invariant: at most one migration counts for an instance.

Rules: docs/accounting.md, "Migrations".
"""

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from datetime import UTC, datetime

from stocktake.model.topology import GuestTopology
from stocktake.model.value import Value, replace
from stocktake.model.workload import Flavor, Instance, Migration, MigrationContext

SETTLED = frozenset({"confirmed", "reverted", "failed", "completed", "cancelled", "done"})
RESIZE_TASKS = frozenset(
    {
        "resize_prep",
        "resize_migrating",
        "resize_migrated",
        "resize_finish",
        "rebuilding",
        "rebuild_block_device_mapping",
        "rebuild_spawning",
    }
)
_LONG_AGO = datetime.min.replace(tzinfo=UTC)
_NO_CONTEXT = MigrationContext()


class Move(Value, frozen=True, kw_only=True):
    """
    A migration that counts on the node.

    Attributes:
        flavor, numa_topology, pci_devices: what it takes; PCI devices by address.
        allocates: its claimed devices are allocated by being counted (it comes in, or grows where it is).
    """

    migration: Migration
    instance: Instance
    why: str
    flavor: Flavor
    numa_topology: GuestTopology | None
    pci_devices: tuple[str, ...]
    allocates: bool


def in_play(migration: Migration) -> bool:
    """
    Say whether a migration is looked at: in progress, finished or in error, and its row not deleted.

    One without a status is not: Nova selects by `status NOT IN (...)`, which is never true of NULL.
    """
    return not migration.deleted and migration.status is not None and migration.status not in SETTLED


def is_moving(instance: Instance) -> bool:
    """Say whether an instance is in a resize state or live-migrating."""
    if instance.vm_state == "resized":
        return True
    if instance.vm_state in {"active", "stopped"} and instance.task_state in RESIZE_TASKS:
        return True
    return instance.vm_state in {"active", "paused"} and instance.task_state == "migrating"


def comes_here(migration: Migration, host: str, node: str) -> bool:
    """Say whether this (host, node) is the destination."""
    return migration.dest_compute == host and migration.dest_node == node


def leaves_here(migration: Migration, host: str, node: str) -> bool:
    """Say whether this (host, node) is the source."""
    return migration.source_compute == host and migration.source_node == node


def takes_away(migration: Migration, instance: Instance, host: str, node: str) -> bool:
    """Say whether what the instance has on this (host, node) is the side that the migration leaves."""
    if not leaves_here(migration, host, node):
        return False
    return not comes_here(migration, host, node) or instance.instance_type_id == migration.old_instance_type_id


def with_contexts(
    instances: Sequence[Instance], migrations: Sequence[Migration], host: str, node: str
) -> tuple[Instance, ...]:
    """Apply the migration context's new side, for the count only, to instances that a migration brings here."""
    coming = {migration.instance_uuid for migration in migrations if comes_here(migration, host, node)}
    return tuple(_applied(instance) if instance.uuid in coming else instance for instance in instances)


def chosen(
    migrations: Sequence[Migration], instances: Mapping[str, Instance]
) -> tuple[tuple[Migration, ...], tuple[int, ...]]:
    """
    Choose one migration per instance.

    The one that the instance's migration context names; without a context the one latest by `updated_at`, else
    `created_at`, and of equals the first created.

    Args:
        migrations: those in play.
        instances: by uuid, records of deleted ones included; a migration of no instance is skipped.

    Returns:
        The migrations that may count, and the sorted ids of those that are stale and not in `error` yet.
    """
    candidates: dict[str, list[Migration]] = {}
    for migration in migrations:
        instance = instances.get(migration.instance_uuid)
        if instance is not None and is_moving(instance):
            candidates.setdefault(migration.instance_uuid, []).append(migration)
    counted: list[Migration] = []
    stale: list[int] = []
    for uuid, several in candidates.items():
        context = instances[uuid].migration_context
        if context is None or context.migration_id is None:
            counted.append(_latest(several))
            continue
        counted.extend(migration for migration in several if migration.id == context.migration_id)
        others = (migration for migration in several if migration.id != context.migration_id)
        stale.extend(migration.id for migration in others if migration.status != "error")
    return tuple(sorted(counted, key=lambda migration: migration.instance_uuid)), tuple(sorted(stale))


def move_of(
    migration: Migration, instance: Instance, host: str, node: str, *, counted: AbstractSet[str]
) -> tuple[Move | None, str]:
    """
    Work out what a chosen migration takes of this (host, node).

    Args:
        counted: uuids of the instances that are counted on the node already.

    Returns:
        The move, None if it takes nothing; and what is missing, a sentence, empty if nothing is.
    """
    comes, leaves = comes_here(migration, host, node), leaves_here(migration, host, node)
    if comes and leaves:
        if takes_away(migration, instance, host, node):
            why = "resize on this node, room for the new flavor"
            return _new_side(migration, instance, why=why, stand_in=None)
        return _old_side(migration, instance, why="resize on this node, room for a revert"), ""
    if instance.uuid in counted:
        return None, ""
    if comes:
        why = f"{_type(migration)} to this node from {_place(migration.source_node, migration.source_compute)}"
        return _new_side(migration, instance, why=why, stand_in=instance.flavor)
    if leaves:
        there = _place(migration.dest_node, migration.dest_compute)
        why = f"{_type(migration)} from this node to {there}, room for a revert"
        return _old_side(migration, instance, why=why), ""
    return None, ""


def _new_side(
    migration: Migration, instance: Instance, *, why: str, stand_in: Flavor | None
) -> tuple[Move | None, str]:
    """Take the new side; where the new flavor is missing, the stand-in counts, and the node is told."""
    flavor = instance.new_flavor if _type(migration) == "resize" else instance.flavor
    missing = "" if flavor else f"migration {migration.id} is a resize, and the instance has no new flavor"
    flavor = flavor or stand_in
    if flavor is None:
        return None, missing
    context = instance.migration_context or _NO_CONTEXT
    move = Move(
        migration=migration,
        instance=instance,
        why=f"migration {migration.id}: {why}",
        flavor=flavor,
        numa_topology=context.new_numa_topology,
        pci_devices=context.new_pci_devices,
        allocates=True,
    )
    return move, missing


def _old_side(migration: Migration, instance: Instance, *, why: str) -> Move | None:
    """Take the old side; an old flavor that is gone means that a confirm is racing: nothing is left to hold."""
    flavor = instance.old_flavor if _type(migration) == "resize" else instance.flavor
    if flavor is None:
        return None
    context = instance.migration_context or _NO_CONTEXT
    return Move(
        migration=migration,
        instance=instance,
        why=f"migration {migration.id}: {why}",
        flavor=flavor,
        numa_topology=context.old_numa_topology,
        pci_devices=context.old_pci_devices,
        allocates=False,
    )


def _place(node: str | None, host: str | None) -> str:
    return node or host or "an unknown host"


def _type(migration: Migration) -> str:
    if migration.migration_type is not None:
        return migration.migration_type
    return "resize" if migration.old_instance_type_id != migration.new_instance_type_id else "migration"


def _latest(several: Sequence[Migration]) -> Migration:
    """Pick the latest; of equal times the one first created, then the one with the lowest id."""
    first_created = sorted(several, key=lambda migration: (migration.created_at or _LONG_AGO, migration.id))
    return max(first_created, key=lambda migration: migration.updated_at or migration.created_at or _LONG_AGO)


def _applied(instance: Instance) -> Instance:
    context = instance.migration_context
    if context is None:
        return instance
    return replace(instance, numa_topology=context.new_numa_topology)
