"""
Step 4, a made-up fleet, for demonstrations, measurements and tests. Invariant: equal seeds give equal fleets, on every
machine.

A node's content depends on the seed and its number only, not on how many others there are.
"""

import hashlib
import uuid
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, TypeVar

import msgspec

from stocktake.model.hypervisor import Guest
from stocktake.model.pci import PciDevice
from stocktake.model.topology import HostCell, HostPages, HostTopology
from stocktake.model.value import Value, plain

T = TypeVar("T")

SMALL_PAGE_KB = 4
LARGE_PAGE_KB = 2048
GPU = ("10de", "20b5")
PF = ("8086", "1528")
VF = ("8086", "1515")
# What the setting pci.device_spec must hold for the generated devices to be tracked.
DEVICE_SPEC: tuple[Mapping[str, str], ...] = (
    {"vendor_id": GPU[0], "product_id": GPU[1]},
    {"vendor_id": VF[0], "product_id": VF[1], "physical_network": "physnet1"},
)
_MASK = 2**64 - 1
_BOOTED_AT = "2026-01-05T06:07:08+00:00"


class Dice:
    """A stream of numbers that follow from what it was made of, the same with every version of Python (SplitMix64)."""

    def __init__(self, *seed: int | str) -> None:
        text = "\0".join(str(part) for part in seed)
        self._state = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")

    def bits(self) -> int:
        """Draw 64 bits."""
        self._state = (self._state + 0x9E3779B97F4A7C15) & _MASK
        mixed = ((self._state ^ (self._state >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & _MASK
        return mixed ^ (mixed >> 31)

    def below(self, limit: int) -> int:
        """Draw a number from 0 up to, not including, the limit."""
        return self.bits() % limit

    def pick(self, choices: Sequence[T]) -> T:
        """Draw one of several."""
        return choices[self.below(len(choices))]

    def uuid(self) -> str:
        """Draw a UUID in the form of a random one."""
        drawn = (self.bits() << 64) | self.bits()
        return str(uuid.UUID(int=drawn, version=4))


class Profile(Value, frozen=True, kw_only=True):
    """
    A model of machine.

    Attributes:
        cells: NUMA cells; 0 reports no topology.
        dedicated: of each cell's CPUs, how many (the last ones) are for pinned guests.
        large_pages: 2-MiB pages of each cell.
        gpus, pfs: devices, spread over the cells; vfs: virtual functions of each PF.
    """

    name: str
    cpus: int
    memory_mb: int
    disk_gb: int
    cells: int = 0
    dedicated: int = 0
    large_pages: int = 0
    gpus: int = 0
    pfs: int = 0
    vfs: int = 0


PROFILES = (
    Profile(name="plain", cpus=16, memory_mb=65_536, disk_gb=1000),
    Profile(name="numa", cpus=32, memory_mb=131_072, disk_gb=2000, cells=2),
    Profile(name="pinned", cpus=48, memory_mb=262_144, disk_gb=4000, cells=2, dedicated=12, large_pages=16_384),
    Profile(name="gpu", cpus=64, memory_mb=524_288, disk_gb=8000, cells=2, dedicated=16, gpus=4),
    Profile(name="sriov", cpus=32, memory_mb=131_072, disk_gb=2000, cells=2, dedicated=8, pfs=2, vfs=8),
)
_TRAITS = ("HW_CPU_X86_AVX", "HW_CPU_X86_AVX2", "HW_CPU_X86_SSE42", "HW_CPU_X86_VMX")
_CAPABILITIES = {"supports_migrate_to_same_host": True, "supports_image_type_qcow2": True}


class Fault(Value, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """
    What goes wrong with a node.

    Attributes:
        error: the class of an error to raise instead of an answer (in a file: `raise`).
        text: what that error says.
        hang_s: how long the answer takes.
        lie: keys of the report that are something else.
        omit: keys of the report that are missing.
    """

    error: str | None = msgspec.field(name="raise", default=None)
    text: str = "a fault that the fleet's description asks for"
    hang_s: float = 0.0
    lie: Mapping[str, Any] = {}
    omit: tuple[str, ...] = ()


class FleetNode(Value, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """
    One node of a fleet.

    Attributes:
        report: what the driver says of it (in a file: `resources`).
        guests: None if it can't list them.
        listed: False if the hypervisor has it and it is not this service's to report.
    """

    name: str
    report: Mapping[str, Any] = msgspec.field(name="resources")
    guests: tuple[Guest, ...] | None = None
    fault: Fault | None = None
    listed: bool = True


class FakeFleet(Value, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """
    Nodes, and what goes wrong when they are listed.

    Attributes:
        listing: the fault of the list itself.
        uptime_s: the host's, in seconds.
    """

    nodes: tuple[FleetNode, ...]
    listing: Fault | None = None
    uptime_s: float | None = None


def generate_fleet(nodes: int, seed: int, *, prefix: str = "node") -> tuple[FleetNode, ...]:
    """Make nodes of all profiles in turn, without guests; what they have in common is shared in memory."""
    return tuple(_node(node_name(number, prefix), profile_of(number), seed) for number in range(nodes))


def profile_of(number: int) -> Profile:
    """Say which model the node of that number is."""
    return PROFILES[number % len(PROFILES)]


def node_name(number: int, prefix: str) -> str:
    """Name the node of that number."""
    return f"{prefix}-{number:05d}"


def _node(name: str, profile: Profile, seed: int) -> FleetNode:
    dice = Dice(seed, name)
    shared = _report(profile)
    own = {
        "hypervisor_hostname": name,
        "uuid": dice.uuid(),
        "memory_mb_used": 1024 + dice.below(profile.memory_mb // 4),
        "local_gb_used": 10 + dice.below(profile.disk_gb // 4),
    }
    return FleetNode(name=name, report={**shared, **own}, guests=())


@cache
def _report(profile: Profile) -> dict[str, object]:
    """Give what all machines of a model say of themselves."""
    topology = topology_of(profile)
    return {
        "vcpus": profile.cpus,
        "vcpus_used": 0,
        "memory_mb": profile.memory_mb,
        "local_gb": profile.disk_gb,
        "disk_available_least": profile.disk_gb // 2,
        "cpu_info": {"arch": "x86_64", "model": profile.name, "vendor": "fake", "features": []},
        "numa_topology": plain(topology),
        "hypervisor_type": "fake",
        "hypervisor_version": 1,
        "supported_instances": [["x86_64", "fake", "hvm"]],
        "pci_passthrough_devices": plain(devices_of(profile)),
        "stats": None,
        "traits": list(_TRAITS),
        "capabilities": _CAPABILITIES,
        "booted_at": _BOOTED_AT,
    }


@cache
def topology_of(profile: Profile) -> HostTopology | None:
    """Give a model's NUMA cells; two threads a core, sizes in KiB, memory in MiB."""
    if not profile.cells:
        return None
    return HostTopology(cells=tuple(_cell(profile, number) for number in range(profile.cells)))


def _cell(profile: Profile, number: int) -> HostCell:
    each = profile.cpus // profile.cells
    cpus = range(number * each, (number + 1) * each)
    shared = frozenset(cpus[: each - profile.dedicated])
    memory_mb = profile.memory_mb // profile.cells
    small = (memory_mb * 1024 - profile.large_pages * LARGE_PAGE_KB) // SMALL_PAGE_KB
    pages = [HostPages(size_kb=SMALL_PAGE_KB, total=small)]
    if profile.large_pages:
        pages.append(HostPages(size_kb=LARGE_PAGE_KB, total=profile.large_pages))
    return HostCell(
        id=number,
        cpuset=shared,
        pcpuset=frozenset(cpus) - shared,
        memory_mb=memory_mb,
        siblings=tuple(frozenset({cpu, cpu + 1}) for cpu in cpus[::2]),
        pages=tuple(pages),
        socket=number,
    )


@cache
def devices_of(profile: Profile) -> tuple[PciDevice, ...]:
    """Give a model's PCI devices."""
    gpus = [_device(f"0000:{0x10 + number:02x}:00.0", GPU, profile, number) for number in range(profile.gpus)]
    functions: list[PciDevice] = []
    for number in range(profile.pfs):
        parent = _device(f"0000:{0x80 + number:02x}:00.0", PF, profile, number)
        functions.append(msgspec.structs.replace(parent, dev_type="type-PF"))
        for function in range(profile.vfs):
            address = f"0000:{0x80 + number:02x}:{0x10 + function // 8:02x}.{function % 8}"
            child = _device(address, VF, profile, number)
            functions.append(msgspec.structs.replace(child, dev_type="type-VF", parent_addr=parent.address))
    return (*gpus, *functions)


def _device(address: str, ids: tuple[str, str], profile: Profile, number: int) -> PciDevice:
    vendor_id, product_id = ids
    return PciDevice(
        address=address,
        vendor_id=vendor_id,
        product_id=product_id,
        numa_node=number % profile.cells if profile.cells else None,
        dev_id="pci_" + address.replace(":", "_").replace(".", "_"),
        label=f"label_{vendor_id}_{product_id}",
    )
