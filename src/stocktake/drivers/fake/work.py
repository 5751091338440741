"""
Step 4, a made-up fleet's instances in all states, moves, orphans and misplaced guests. Invariant: they fit.

What a node's instances pin, page and hold is there and is given to one of them only, so that a problem on a generated
node is a mistake of the accounting. Instances' rows and hypervisor's guests go together.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Literal, NamedTuple

from stocktake.drivers.fake.fleet import (
    GPU,
    LARGE_PAGE_KB,
    VF,
    Dice,
    Profile,
    devices_of,
    node_name,
    profile_of,
    topology_of,
)
from stocktake.model.hypervisor import Guest
from stocktake.model.pci import PciDevice, PciRecord
from stocktake.model.topology import GuestCell, GuestTopology
from stocktake.model.value import Value, replace
from stocktake.model.workload import Flavor, Instance, Migration, MigrationContext

ELSEWHERE = "elsewhere"
FLAVORS = (
    Flavor(id=1, name="tiny", vcpus=1, memory_mb=512, root_gb=1),
    Flavor(id=2, name="small", vcpus=1, memory_mb=2048, root_gb=20),
    Flavor(id=3, name="medium", vcpus=2, memory_mb=4096, root_gb=40, swap_mb=1024),
    Flavor(id=4, name="large", vcpus=4, memory_mb=8192, root_gb=40, ephemeral_gb=20),
)


class InstanceState(NamedTuple):
    """What the ledger says of an instance, and the guest that goes with it (None: the hypervisor has none)."""

    vm_state: str
    task_state: str | None
    power_state: int
    guest: str | None


STATES = (
    InstanceState("active", None, 1, "running"),
    InstanceState("stopped", None, 4, "shutoff"),
    InstanceState("building", "spawning", 0, None),
    InstanceState("active", "image_snapshot", 1, "running"),
    InstanceState("paused", None, 3, "paused"),
    InstanceState("active", None, 1, "running"),
    InstanceState("suspended", None, 7, "shutoff"),
    InstanceState("rescued", None, 1, "running"),
    InstanceState("error", None, 0, None),
    InstanceState("soft-delete", None, 4, "shutoff"),
    InstanceState("active", "rebooting", 1, "running"),
    InstanceState("shelved", None, 4, "shutoff"),
    InstanceState("shelved_offloaded", None, 4, None),
)


@dataclass(slots=True)
class _Cell:
    id: int
    shared: int
    to_pin: list[int]
    small_mb: int
    large_mb: int


class NodeRoom:
    """What is still free on a node."""

    def __init__(self, profile: Profile) -> None:
        topology = topology_of(profile)
        large_mb = profile.large_pages * LARGE_PAGE_KB // 1024
        self.cells = [
            _Cell(cell.id, len(cell.cpuset), sorted(cell.pcpuset), cell.memory_mb - large_mb, large_mb)
            for cell in (topology.cells if topology else ())
        ]
        # A PF excludes its VFs, so only what can't exclude another is given.
        kinds = (GPU, VF)
        self.devices = [device for device in devices_of(profile) if (device.vendor_id, device.product_id) in kinds]

    def place(self, flavor: Flavor, *, pinned: bool, large: bool) -> GuestTopology | None:
        """Find a cell for a guest and take what it needs there; None if no cell has it, or the node has no cells."""
        for cell in self.cells:
            memory_mb = cell.large_mb if large else cell.small_mb
            cpus = len(cell.to_pin) if pinned else cell.shared
            if memory_mb >= flavor.memory_mb and cpus >= flavor.vcpus:
                return GuestTopology(cells=(_take(cell, flavor, pinned=pinned, large=large),))
        return None

    def device(self) -> PciDevice | None:
        """Take a device; None if none is free."""
        return self.devices.pop() if self.devices else None


def _take(cell: _Cell, flavor: Flavor, *, pinned: bool, large: bool) -> GuestCell:
    own = frozenset(range(flavor.vcpus))
    pins: dict[int, int] | None = None
    if pinned:
        pins = {cpu: cell.to_pin.pop(0) for cpu in sorted(own)}
    else:
        cell.shared -= flavor.vcpus
    if large:
        cell.large_mb -= flavor.memory_mb
    else:
        cell.small_mb -= flavor.memory_mb
    return GuestCell(
        id=cell.id,
        cpuset=frozenset() if pinned else own,
        pcpuset=own if pinned else frozenset(),
        memory_mb=flavor.memory_mb,
        pagesize_kb=LARGE_PAGE_KB if large else None,
        cpu_pinning=pins,
        cpu_policy="dedicated" if pinned else "shared",
    )


@dataclass(slots=True)
class Making:
    """What is being made; all of one fleet."""

    nodes: int
    host: str
    prefix: str
    now: datetime
    instances: list[Instance] = field(default_factory=list)
    migrations: list[Migration] = field(default_factory=list)
    guests: dict[str, list[Guest]] = field(default_factory=dict)
    pci_devices: dict[str, list[PciRecord]] = field(default_factory=dict)

    def name(self, number: int) -> str:
        """Name a node; numbers past the last begin again."""
        return node_name(number % self.nodes, self.prefix)

    def ago(self, dice: Dice, days: int) -> datetime:
        """Pick a time within the last so many days."""
        return self.now - timedelta(minutes=1 + dice.below(days * 1440))


def new_instance(
    making: Making, node: str, state: InstanceState, dice: Dice, *, flavor: Flavor, host: str | None = None
) -> Instance:
    """Make an instance of this state on this node, made up to 300 days ago; one in five is volume-backed."""
    uuid = dice.uuid()
    created = making.ago(dice, 300)
    return Instance(
        uuid=uuid,
        name=f"vm-{uuid[:8]}",
        host=host or making.host,
        node=node,
        vm_state=state.vm_state,
        task_state=state.task_state,
        power_state=state.power_state,
        project_id=dice.pick(("blue", "green", "red")),
        user_id=dice.pick(("ada", "grace", "linus")),
        os_type=dice.pick(("linux", "linux", "windows", None)),
        flavor=flavor,
        instance_type_id=flavor.id,
        volume_backed=dice.below(5) == 0,
        created_at=created,
        updated_at=min(created + timedelta(hours=dice.below(200)), making.now),
    )


def held_device(device: PciDevice, holder: str, status: Literal["claimed", "allocated"], dice: Dice) -> PciRecord:
    """Give a device to a holder."""
    return replace(PciRecord.of(device), status=status, instance_uuid=holder, request_id=dice.uuid())


def guest_of(instance: Instance, state: str) -> Guest:
    """Make the guest that an instance would have; it runs unless it is shut off."""
    flavor = instance.flavor
    root_gb = 0 if instance.volume_backed else flavor.root_gb
    return Guest(
        uuid=instance.uuid,
        name=instance.name or instance.uuid,
        state=state,
        active=state != "shutoff",
        vcpus=flavor.vcpus,
        memory_mb=flavor.memory_mb,
        disk_mb=(root_gb + flavor.ephemeral_gb) * 1024 + flavor.swap_mb,
        numa=instance.numa_topology,
        pci_addresses=instance.pci_devices,
    )


def new_migration(
    making: Making,
    instance: Instance,
    dice: Dice,
    kind: str,
    status: str,
    *,
    source: str,
    dest: str,
    flavors: tuple[Flavor, Flavor],
) -> Migration:
    """Make a migration up to three days old, the next of its fleet by number."""
    created = making.ago(dice, 3)
    migration = Migration(
        id=len(making.migrations) + 1,
        uuid=dice.uuid(),
        instance_uuid=instance.uuid,
        migration_type=kind,
        status=status,
        source_compute=ELSEWHERE if source == ELSEWHERE else making.host,
        source_node=source,
        dest_compute=making.host,
        dest_node=dest,
        old_instance_type_id=flavors[0].id,
        new_instance_type_id=flavors[1].id,
        created_at=created,
        updated_at=min(created + timedelta(minutes=dice.below(30)), making.now),
    )
    making.migrations.append(migration)
    return migration


_IN_PLACE = InstanceState("resized", None, 1, "running")
_LIVE = InstanceState("active", "migrating", 1, "paused")
_COLD = InstanceState("active", "resize_migrating", 1, None)
_REBUILT = InstanceState("active", "rebuilding", 1, None)
_AT_REST = InstanceState("active", None, 1, "running")


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
# Every so many nodes there is an orphan; a guest that the ledger has on the next node.
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
        room = NodeRoom(profile_of(number))
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


def _resident(making: Making, number: int, state: InstanceState, dice: Dice, room: NodeRoom) -> None:
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


def _orphan(making: Making, number: int, dice: Dice, room: NodeRoom) -> None:
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
    state = InstanceState("stopped", None, 4, None)
    instance = new_instance(making, making.name(number + 1), state, dice, flavor=FLAVORS[0])
    making.instances.append(instance)
    making.guests.setdefault(making.name(number), []).append(guest_of(instance, "running"))


def _move(making: Making, number: int, kind: Kind, dice: Dice, room: NodeRoom) -> None:
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


def _resize_here(making: Making, node: str, dice: Dice, room: NodeRoom) -> None:
    """A resize on the node itself, finished and not confirmed: both sides count."""
    old, new = FLAVORS[1], FLAVORS[3]
    instance = new_instance(making, node, _IN_PLACE, dice, flavor=new)
    migration = new_migration(making, instance, dice, "resize", "finished", source=node, dest=node, flavors=(old, new))
    before = room.place(old, pinned=False, large=False)
    after = room.place(new, pinned=False, large=False) if before else None
    instance = _moved(replace(instance, numa_topology=after), migration, old, new, before=before if after else None)
    making.instances.append(instance)
    making.guests.setdefault(node, []).append(guest_of(instance, "running"))


def _comes(making: Making, node: str, state: InstanceState, dice: Dice, *, kind: str, status: str) -> Instance:
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
