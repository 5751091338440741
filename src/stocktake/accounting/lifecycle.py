"""
Step 6, what a claim and its end make of an instance and its migration. Invariant: a state that may not move is refused.

Nothing here asks whether there is room. States, statuses and the migration context are Nova's (docs/accounting.md,
"Claims"), so that what is counted between two of these steps is what Nova would count.
"""

from collections.abc import Mapping
from datetime import datetime
from hashlib import blake2b
from typing import Literal

from stocktake.errors import InvalidInput, NotNow
from stocktake.model.topology import GuestTopology
from stocktake.model.value import Value, encode, replace
from stocktake.model.workload import Flavor, Instance, Migration, MigrationContext

MoveKind = Literal["resize", "migration", "live-migration", "evacuation"]


class Location(Value, frozen=True, kw_only=True):
    """A node: the service that reports it, and its name."""

    host: str
    node: str


class Step(Value, frozen=True, kw_only=True):
    """
    An instance and its migration after a step.

    Attributes:
        migration: None if the instance has no move in progress.
        frees: addresses of the devices that it lets go, by the node that has them.
    """

    instance: Instance
    migration: Migration | None = None
    frees: Mapping[Location, tuple[str, ...]] = {}


# What an instance must be to move, by kind: others are refused.
_MAY_MOVE: Mapping[MoveKind, tuple[str, ...]] = {
    "resize": ("active", "stopped"),
    "migration": ("active", "stopped"),
    "live-migration": ("active", "paused"),
    "evacuation": ("active", "stopped"),
}
_TASK: Mapping[MoveKind, str] = {
    "resize": "resize_prep",
    "migration": "resize_prep",
    "live-migration": "migrating",
    "evacuation": "rebuilding",
}
_BEGUN: Mapping[MoveKind, str] = {
    "resize": "pre-migrating",
    "migration": "pre-migrating",
    "live-migration": "preparing",
    "evacuation": "accepted",
}
_ABORTED: Mapping[str, str] = {"live-migration": "cancelled"}
# What these are once they are finished: they hold one side only. Others, without a type too, hold both.
_OVER: Mapping[str, str] = {"live-migration": "completed", "evacuation": "done"}


def flavor_id(flavor: Flavor) -> int:
    """Give a flavor's id; of one without, a number below 2^31 that equal flavors share."""
    if flavor.id is not None:
        return flavor.id
    text = encode(replace(flavor, name=None))
    return int.from_bytes(blake2b(text.encode(), digest_size=4).digest()) >> 1


def is_claimed(instance: Instance) -> bool:
    """Say whether an instance is being built or unshelved: its room is claimed, and its machine may not be there."""
    return instance.vm_state == "building" or (
        instance.vm_state == "shelved_offloaded" and instance.task_state == "spawning"
    )


def built(instance: Instance) -> Instance:
    """
    Settle the claim of a build or an unshelve: the machine is there.

    Raises:
        NotNow: there is nothing to settle.
    """
    if not is_claimed(instance):
        what = "has no claim of a build that could be kept"
        raise _refused(instance, what, "building, or shelved_offloaded and spawning")
    return replace(instance, vm_state="active", task_state=None, power_state=1, claim_expires_at=None)


def unshelving(
    instance: Instance, place: Location, numa: GuestTopology | None, expires_at: datetime | None
) -> Instance:
    """
    Claim room for an instance that was shelved and offloaded.

    Raises:
        NotNow: it is in another state.
    """
    if instance.vm_state != "shelved_offloaded" or instance.task_state is not None:
        raise _refused(instance, "can't be unshelved", "shelved_offloaded without a task")
    return replace(
        instance,
        host=place.host,
        node=place.node,
        task_state="spawning",
        numa_topology=numa,
        claim_expires_at=expires_at,
    )


def reshelved(instance: Instance) -> Instance:
    """Give back what was claimed for an unshelve: the instance is nowhere, as it was."""
    return replace(
        instance, host=None, node=None, task_state=None, numa_topology=None, claim_expires_at=None, power_state=None
    )


def check_move(instance: Instance, kind: MoveKind, source: Location, dest: Location, flavor: Flavor | None) -> None:
    """
    Refuse a move that makes no sense, before anything is looked for.

    Raises:
        NotNow: the instance's state does not go with this kind of move.
        InvalidInput: the destination or the flavor does not.
    """
    if instance.vm_state not in _MAY_MOVE[kind] or instance.task_state is not None:
        raise _refused(instance, f"can't begin a {kind}", " or ".join(_MAY_MOVE[kind]) + ", without a task")
    if kind == "resize":
        if flavor is None:
            raise InvalidInput("a resize needs a flavor", where=instance.uuid, remedy="Give the new sizes.")
        if flavor_id(flavor) == _identified(instance).instance_type_id:
            what = "the new flavor is the one that it has"
            raise InvalidInput(what, where=instance.uuid, remedy="To change only the node, take a migration.")
    elif flavor is not None:
        raise InvalidInput(f"a {kind} keeps the flavor", where=instance.uuid, remedy="To change it, take a resize.")
    if kind in ("live-migration", "evacuation") and source == dest:
        raise InvalidInput(f"a {kind} goes to another node than {dest.node}", where=instance.uuid)


def begun(
    instance: Instance,
    kind: MoveKind,
    dest: Location,
    *,
    flavor: Flavor | None,
    numa: GuestTopology | None,
    devices: tuple[str, ...],
    migration_id: int,
    migration_uuid: str,
    expires_at: datetime | None,
) -> Step:
    """Begin a move that was checked: the migration context has both sides of what it changes."""
    instance = _identified(instance)
    new = replace(flavor, id=flavor_id(flavor)) if flavor else instance.flavor
    migration = Migration(
        id=migration_id,
        uuid=migration_uuid,
        instance_uuid=instance.uuid,
        migration_type=kind,
        status=_BEGUN[kind],
        source_compute=instance.host,
        source_node=instance.node,
        dest_compute=dest.host,
        dest_node=dest.node,
        old_instance_type_id=instance.instance_type_id,
        new_instance_type_id=new.id if flavor else instance.instance_type_id,
        claim_expires_at=expires_at,
    )
    context = MigrationContext(
        migration_id=migration_id,
        old_numa_topology=instance.numa_topology,
        new_numa_topology=numa,
        old_pci_devices=instance.pci_devices,
        new_pci_devices=devices,
        old_vm_state=instance.vm_state,
    )
    moving = replace(
        instance,
        task_state=_TASK[kind],
        old_flavor=instance.flavor if flavor else None,
        new_flavor=new if flavor else None,
        migration_context=context,
    )
    return Step(instance=moving, migration=migration)


def finished(instance: Instance, migration: Migration) -> Step:
    """
    Take the instance to its destination: its machine is there now.

    A resize and a cold migration then hold both sides until they are confirmed or reverted; a live migration and an
    evacuation are over.

    Raises:
        NotNow: the move is not one that has begun and not finished.
    """
    context = _context(instance, migration)
    if migration.status not in _BEGUN.values():
        raise _not_now(migration, "be finished", "one that has begun")
    there = replace(
        instance,
        host=migration.dest_compute,
        node=migration.dest_node,
        numa_topology=context.new_numa_topology,
        pci_devices=context.new_pci_devices,
        task_state=None,
    )
    done = _OVER.get(migration.migration_type or "")
    if done is not None:
        return Step(instance=_settled(there), migration=_over(migration, done), frees=_old_side(migration, context))
    there = replace(there, vm_state="resized")
    if instance.new_flavor is not None:
        there = replace(there, flavor=instance.new_flavor, instance_type_id=migration.new_instance_type_id)
    return Step(instance=there, migration=_over(migration, "finished"))


def confirmed(instance: Instance, migration: Migration) -> Step:
    """
    Let go what a finished move holds at its source.

    Raises:
        NotNow: the move is not a finished one.
    """
    context = _context(instance, migration)
    if migration.status != "finished":
        raise _not_now(migration, "be confirmed", "a finished resize or cold migration")
    settled = replace(_settled(instance), vm_state=context.old_vm_state or "active")
    return Step(instance=settled, migration=_over(migration, "confirmed"), frees=_old_side(migration, context))


def reverted(instance: Instance, migration: Migration) -> Step:
    """
    Take the instance of a finished move back to its source.

    Raises:
        NotNow: the move is not a finished one.
    """
    context = _context(instance, migration)
    if migration.status != "finished":
        raise _not_now(migration, "be reverted", "a finished resize or cold migration")
    back = replace(
        _settled(instance),
        host=migration.source_compute,
        node=migration.source_node,
        vm_state=context.old_vm_state or "active",
        flavor=instance.old_flavor or instance.flavor,
        instance_type_id=migration.old_instance_type_id,
        numa_topology=context.old_numa_topology,
        pci_devices=context.old_pci_devices,
    )
    return Step(instance=back, migration=_over(migration, "reverted"), frees=_new_side(migration, context))


def aborted(instance: Instance, migration: Migration) -> Step:
    """
    Give back what a move that is not finished holds at its destination.

    Raises:
        NotNow: the move is finished, or not this instance's.
    """
    context = _context(instance, migration)
    if migration.status not in _BEGUN.values():
        raise _not_now(migration, "be aborted", "one that is not finished; revert that")
    # On the node where it stays, it was read with the devices of both sides.
    as_it_was = replace(_settled(instance), pci_devices=context.old_pci_devices)
    status = _ABORTED.get(migration.migration_type or "", "failed")
    return Step(instance=as_it_was, migration=_over(migration, status), frees=_new_side(migration, context))


def _identified(instance: Instance) -> Instance:
    """Make sure that the flavor has an id: by ids the count tells which side of a resize an instance is on."""
    if instance.instance_type_id is not None and instance.flavor.id is not None:
        return instance
    number = instance.instance_type_id if instance.instance_type_id is not None else flavor_id(instance.flavor)
    return replace(instance, instance_type_id=number, flavor=replace(instance.flavor, id=number))


def _settled(instance: Instance) -> Instance:
    return replace(instance, task_state=None, old_flavor=None, new_flavor=None, migration_context=None)


def _over(migration: Migration, status: str) -> Migration:
    return replace(migration, status=status, claim_expires_at=None)


def _old_side(migration: Migration, context: MigrationContext) -> Mapping[Location, tuple[str, ...]]:
    """Name the devices that only the source has of a move."""
    at = Location(host=migration.source_compute or "", node=migration.source_node or "")
    return {at: _but(context.old_pci_devices, context.new_pci_devices if _stays(migration) else ())}


def _new_side(migration: Migration, context: MigrationContext) -> Mapping[Location, tuple[str, ...]]:
    """Name the devices that only the destination has of a move."""
    at = Location(host=migration.dest_compute or "", node=migration.dest_node or "")
    return {at: _but(context.new_pci_devices, context.old_pci_devices if _stays(migration) else ())}


def _stays(migration: Migration) -> bool:
    """Say whether both sides are on one node; on two, equal addresses are different devices."""
    source = (migration.source_compute, migration.source_node)
    return source == (migration.dest_compute, migration.dest_node)


def _but(addresses: tuple[str, ...], kept: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(address for address in addresses if address not in kept)


def _context(instance: Instance, migration: Migration) -> MigrationContext:
    context = instance.migration_context
    if context is None or context.migration_id != migration.id:
        what = f"migration {migration.id} is not the one that the instance is in"
        raise NotNow(what, where=instance.uuid, remedy="The next refresh sets it to error.")
    return context


def _refused(instance: Instance, what: str, allowed: str) -> NotNow:
    task = f", {instance.task_state}" if instance.task_state else ""
    is_ = f"is {instance.vm_state or 'of no state'}{task}"
    return NotNow(f"the instance {is_} and {what}", where=instance.uuid, remedy=f"It has to be {allowed}.")


def _not_now(migration: Migration, what: str, wanted: str) -> NotNow:
    state = f"migration {migration.id} is {migration.status}"
    return NotNow(f"{state} and can't {what}", where=migration.instance_uuid, remedy=f"It has to be {wanted}.")
