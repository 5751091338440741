"""
Made-up promises for a made-up fleet: instances in all states, moves, orphans, misplaced guests. Invariant: they fit.

What a node's instances pin, page and hold is there and is given to one of them only, so that a problem on a generated
node is one that the books should not have. Instances' rows and hypervisor's guests go together.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Literal

from stocktake.drivers.fake.fleet import Dice, profile_of
from stocktake.drivers.fake.fleet_rows import (
    ELSEWHERE,
    FLAVORS,
    STATES,
    Making,
    Room,
    State,
    guest_of,
    held_device,
    new_instance,
    new_migration,
)
from stocktake.model.hypervisor import Guest
from stocktake.model.pci import PciRecord
from stocktake.model.topology import GuestTopology
from stocktake.model.value import Value, replace
from stocktake.model.workload import Flavor, Instance, Migration, MigrationContext

_IN_PLACE = State("resized", None, 1, "running")
_LIVE = State("active", "migrating", 1, "paused")
_COLD = State("active", "resize_migrating", 1, None)
_REBUILT = State("active", "rebuilding", 1, None)
_AT_REST = State("active", None, 1, "running")


Kind = Literal["none", "resize here", "resize away", "live in", "cold in", "evacuate in", "stale", "settled"]
# One a node, in turn; their number has no divisor in common with that of the profiles.
MOVES: tuple[Kind, ...] = (
    "resize here",
    "resize away",
    "live in",
    "cold in",
    "stale",
    "evacuate in",
    "settled",
    "none",
)
# Every so many nodes there is a guest that nobody promised; one that the ledger has on the next node.
_ORPHAN_EVERY, _MISPLACED_EVERY = 3, 7


class Work(Value, frozen=True, kw_only=True):
    """
    Rows for the ledger, guests for the hypervisor.

    Attributes:
        guests: by node.
        pci_devices: those that instances hold, by node.
    """

    instances: tuple[Instance, ...]
    migrations: tuple[Migration, ...]
    guests: Mapping[str, tuple[Guest, ...]]
    pci_devices: Mapping[str, tuple[PciRecord, ...]]


def generate_work(seed: int, nodes: int, *, host: str, now: datetime, per_node: int = 4, prefix: str = "node") -> Work:
    """
    Make what the ledger and the hypervisor hold of the fleet `generate_fleet(nodes, seed, prefix=prefix)`.

    Args:
        host: the service that has the nodes.
        now: rows are older than this.
        per_node: instances of each node, moves not counted; up to 4 fit on every profile.
    """
    making = Making(nodes=nodes, host=host, prefix=prefix, now=now)
    for number in range(nodes):
        dice = Dice(seed, "work", making.name(number))
        room = Room(profile_of(number))
        for index in range(per_node):
            _resident(making, number, STATES[(number * per_node + index) % len(STATES)], dice, room)
        _move(making, number, MOVES[number % len(MOVES)], dice, room)
        if number % _ORPHAN_EVERY == 0:
            _orphan(making, number, dice, room)
        if number % _MISPLACED_EVERY == 1 and nodes > 1:
            _misplaced(making, number, dice)
    return Work(
        instances=tuple(making.instances),
        migrations=tuple(making.migrations),
        guests={node: tuple(guests) for node, guests in making.guests.items()},
        pci_devices={node: tuple(devices) for node, devices in making.pci_devices.items()},
    )


def _resident(making: Making, number: int, state: State, dice: Dice, room: Room) -> None:
    """An instance that lives on the node, pinned or with large pages or a device where the node has them."""
    node = making.name(number)
    instance = new_instance(making, node, state, dice, flavor=dice.pick(FLAVORS))
    if state.vm_state != "shelved_offloaded":
        profile = profile_of(number)
        numa = None
        if dice.below(2) == 0:
            pinned, large = profile.dedicated > 0 and dice.below(2) == 0, profile.large_pages > 0
            numa = room.place(instance.flavor, pinned=pinned, large=large)
        # Of devices that are claimed and not allocated yet there should be some.
        device = room.device() if state.vm_state == "building" or dice.below(3) == 0 else None
        if device is not None:
            status: Literal["claimed", "allocated"] = "claimed" if state.vm_state == "building" else "allocated"
            making.pci_devices.setdefault(node, []).append(held_device(device, instance.uuid, status, dice))
        instance = replace(instance, numa_topology=numa, pci_devices=(device.address,) if device else ())
    making.instances.append(instance)
    if state.guest is not None:
        making.guests.setdefault(node, []).append(guest_of(instance, state.guest))


def _orphan(making: Making, number: int, dice: Dice, room: Room) -> None:
    """A guest that somebody started by hand; every other one with a device."""
    device = room.device() if number % 2 == 0 else None
    guest = Guest(
        uuid=dice.uuid(),
        name=f"by-hand-{number}",
        state="running",
        active=True,
        vcpus=1,
        memory_mb=1024,
        disk_mb=10 * 1024,
        pci_addresses=(device.address,) if device else (),
    )
    making.guests.setdefault(making.name(number), []).append(guest)


def _misplaced(making: Making, number: int, dice: Dice) -> None:
    """A guest that runs here, and the ledger has it, stopped, on the next node."""
    state = State("stopped", None, 4, None)
    instance = new_instance(making, making.name(number + 1), state, dice, flavor=FLAVORS[0])
    making.instances.append(instance)
    making.guests.setdefault(making.name(number), []).append(guest_of(instance, "running"))


def _move(making: Making, number: int, kind: Kind, dice: Dice, room: Room) -> None:
    """One migration, or two, of the kind that it is this node's turn for."""
    here, away = making.name(number), making.name(number + 1)
    old, new = FLAVORS[1], FLAVORS[2]
    match kind:
        case "none":
            return
        case "resize here":
            _resize_here(making, here, dice, room)
        case "resize away" | "stale":
            instance = new_instance(making, away, _IN_PLACE, dice, flavor=new)
            if kind == "stale":
                # Begun and given up before the one that the instance's context names.
                new_migration(
                    making, instance, dice, "resize", "post-migrating", source=here, dest=away, flavors=(old, new)
                )
            migration = new_migration(
                making, instance, dice, "resize", "finished", source=here, dest=away, flavors=(old, new)
            )
            instance = _moved(instance, migration, old, new)
            making.instances.append(instance)
            making.guests.setdefault(away, []).append(guest_of(instance, "running"))
        case "live in":
            instance = _comes(making, here, _LIVE, dice, kind="live-migration", status="running")
            making.guests.setdefault(here, []).append(guest_of(instance, "paused"))
        case "cold in":
            _comes(making, here, _COLD, dice, kind="migration", status="migrating")
        case "evacuate in":
            _comes(making, here, _REBUILT, dice, kind="evacuation", status="pre-migrating")
        case "settled":
            instance = new_instance(making, here, _AT_REST, dice, flavor=old)
            making.instances.append(instance)
            making.guests.setdefault(here, []).append(guest_of(instance, "running"))
            new_migration(making, instance, dice, "migration", "confirmed", source=away, dest=here, flavors=(old, old))


def _resize_here(making: Making, node: str, dice: Dice, room: Room) -> None:
    """A resize on the node itself, finished and not confirmed: both sides count."""
    old, new = FLAVORS[1], FLAVORS[3]
    instance = new_instance(making, node, _IN_PLACE, dice, flavor=new)
    migration = new_migration(making, instance, dice, "resize", "finished", source=node, dest=node, flavors=(old, new))
    before = room.place(old, pinned=False, large=False)
    after = room.place(new, pinned=False, large=False) if before else None
    instance = _moved(replace(instance, numa_topology=after), migration, old, new, before=before if after else None)
    making.instances.append(instance)
    making.guests.setdefault(node, []).append(guest_of(instance, "running"))


def _comes(making: Making, node: str, state: State, dice: Dice, *, kind: str, status: str) -> Instance:
    """An instance of another service's host that is on its way here."""
    instance = new_instance(making, ELSEWHERE, state, dice, flavor=FLAVORS[2], host=ELSEWHERE)
    migration = new_migration(
        making, instance, dice, kind, status, source=ELSEWHERE, dest=node, flavors=(FLAVORS[2], FLAVORS[2])
    )
    instance = replace(instance, migration_context=MigrationContext(migration_id=migration.id))
    making.instances.append(instance)
    return instance


def _moved(
    instance: Instance, migration: Migration, old: Flavor, new: Flavor, *, before: GuestTopology | None = None
) -> Instance:
    """Note a finished resize in the instance's row."""
    context = MigrationContext(
        migration_id=migration.id, old_numa_topology=before, new_numa_topology=instance.numa_topology
    )
    return replace(instance, old_flavor=old, new_flavor=new, migration_context=context)
