"""
One made-up row at a time: an instance, its guest, a migration, a held device. Invariant: nothing is given to two of
them.
"""

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
    topology_of,
)
from stocktake.model.hypervisor import Guest
from stocktake.model.pci import PciDevice, PciRecord
from stocktake.model.topology import GuestCell, GuestTopology
from stocktake.model.value import replace
from stocktake.model.workload import Flavor, Instance, Migration

ELSEWHERE = "elsewhere"
FLAVORS = (
    Flavor(id=1, name="tiny", vcpus=1, memory_mb=512, root_gb=1),
    Flavor(id=2, name="small", vcpus=1, memory_mb=2048, root_gb=20),
    Flavor(id=3, name="medium", vcpus=2, memory_mb=4096, root_gb=40, swap_mb=1024),
    Flavor(id=4, name="large", vcpus=4, memory_mb=8192, root_gb=40, ephemeral_gb=20),
)


class State(NamedTuple):
    """What the ledger says of an instance, and the guest that goes with it (None: the hypervisor has none)."""

    vm_state: str
    task_state: str | None
    power_state: int
    guest: str | None


STATES = (
    State("active", None, 1, "running"),
    State("stopped", None, 4, "shutoff"),
    State("building", "spawning", 0, None),
    State("active", "image_snapshot", 1, "running"),
    State("paused", None, 3, "paused"),
    State("active", None, 1, "running"),
    State("suspended", None, 7, "shutoff"),
    State("rescued", None, 1, "running"),
    State("error", None, 0, None),
    State("soft-delete", None, 4, "shutoff"),
    State("active", "rebooting", 1, "running"),
    State("shelved", None, 4, "shutoff"),
    State("shelved_offloaded", None, 4, None),
)


@dataclass(slots=True)
class _Cell:
    id: int
    shared: int
    to_pin: list[int]
    small_mb: int
    large_mb: int


class Room:
    """What a node has left to give."""

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
        """Take a device; None if there is none left."""
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
    making: Making, node: str, state: State, dice: Dice, *, flavor: Flavor, host: str | None = None
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
