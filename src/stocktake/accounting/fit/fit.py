"""
Step 6, does a machine fit a node. Invariant: what Placement would grant fits, nothing else does, and every lack is
told.

Rules: docs/accounting.md, "Whether a machine fits". Pure; where on the node it goes is `placing`'s.
"""

import math
from collections.abc import Iterator, Sequence

from stocktake.accounting.capacity import (
    capacity_of,
    cpus_used,
    has_dedicated_cpus,
    node_cpu_totals,
    reserved_of,
)
from stocktake.accounting.fit.placement import Placed, place
from stocktake.accounting.fit.request import UNITS, Wanted
from stocktake.accounting.instance_usage import MIB_PER_GIB, disk_mb
from stocktake.accounting.pci import Table
from stocktake.model.books import ComputeNode, Entry
from stocktake.model.fitting import Limits, NoRoom
from stocktake.model.topology import GuestTopology
from stocktake.model.value import Value


class ResourceFit(Value, frozen=True, kw_only=True):
    """
    One resource class of a node, before and after a machine.

    Attributes:
        asked, used, total: in the class's unit; disk may be part of a GiB. No machine may have more than `total`.
        limit: the most that may be used in all, reserves included; None is unlimited.
    """

    what: str
    asked: float
    used: float
    total: float
    limit: float | None

    @property
    def free(self) -> float | None:
        """What is free before the machine comes; negative if the node is over-allocated."""
        return None if self.limit is None else self.limit - self.used

    @property
    def free_after(self) -> float | None:
        """What is free once the machine is there."""
        return None if self.free is None else self.free - self.asked


def limits_of(node: ComputeNode, entries: Sequence[Entry]) -> Limits:
    """
    Work out how far a node may be filled, so that what fits is what Placement would grant.

    Placement grants the capacity of each class beside what is reserved. It knows disk in whole GiB, each holder's
    rounded up: what is lost by that is taken off, so that `fit` may go on counting MiB.
    """
    totals = _totals(node)
    reserved_cpus, reserved_mb, reserved_gb = reserved_of(entries)
    granted_gb = sum(_whole_gb(entry.disk_mb) for entry in entries if entry.kind != "reserved")
    disk_used_mb = sum(entry.disk_mb for entry in entries)
    disk_gb = capacity_of(totals["DISK_GB"], reserved_gb, node.disk_allocation_ratio)
    return Limits(
        vcpus=capacity_of(totals["VCPU"], reserved_cpus, node.cpu_allocation_ratio) + reserved_cpus,
        pcpus=totals["PCPU"],
        memory_mb=capacity_of(totals["MEMORY_MB"], reserved_mb, node.ram_allocation_ratio) + reserved_mb,
        disk_gb=disk_used_mb / MIB_PER_GIB + disk_gb - granted_gb,
        numa_cpu_ratio=node.cpu_allocation_ratio,
        numa_ram_ratio=node.ram_allocation_ratio,
    )


def resource_fits(
    node: ComputeNode,
    entries: Sequence[Entry],
    wanted: Wanted,
    limits: Limits | None,
    *,
    placed: GuestTopology | None = None,
) -> tuple[ResourceFit, ...]:
    """
    Compare what is asked of each class of a node with what is used and what may be.

    A node with dedicated CPUs has them as `PCPU`, and a guest's shared vCPUs alone as `VCPU`; on any
    other all are `VCPU` (docs/decisions/0009).

    Args:
        placed: the machine's cells there, if they are known: one that isolates takes the rest of its cores too.
    """
    limits = limits or Limits()
    dedicated = has_dedicated_cpus(node)
    flavor = wanted.flavor
    pinned, shared = _cpus(wanted) if dedicated else (0, flavor.vcpus)
    if dedicated and placed is not None:
        pinned = _taken_cpus(placed, node)
    vcpus_used, pcpus_used = cpus_used(entries, dedicated=dedicated)
    disk_gb = disk_mb(flavor, volume_backed=wanted.volume_backed) / MIB_PER_GIB
    figures = (
        ("VCPU", shared, vcpus_used, limits.vcpus),
        ("PCPU", pinned, pcpus_used, limits.pcpus),
        ("MEMORY_MB", flavor.memory_mb, sum(entry.memory_mb for entry in entries), limits.memory_mb),
        ("DISK_GB", disk_gb, sum(entry.disk_mb for entry in entries) / MIB_PER_GIB, limits.disk_gb),
    )
    totals = _totals(node)
    return tuple(
        ResourceFit(what=what, asked=asked, used=used, total=totals[what], limit=limit)
        for what, asked, used, limit in figures
    )


def fit(
    node: ComputeNode,
    entries: Sequence[Entry],
    wanted: Wanted,
    *,
    table: Table,
    limits: Limits | None,
    pack: bool = False,
) -> Placed | tuple[NoRoom, ...]:
    """
    Find a place for a machine on a node, or say all that is missing.

    Args:
        entries: what makes the node's figures.
        table: the node's tracked PCI devices.
        limits: `limits_of` for what Placement would grant; None, of a dimension or of all, is unlimited.
        pack: take the fullest host cells first; otherwise the emptiest.
    """
    missing = [reason for one in resource_fits(node, entries, wanted, limits) for reason in _short(one)]
    missing += _unlike(node, wanted)
    found = place(
        wanted.numa,
        wanted.pci,
        node.numa_topology,
        table,
        pools=node.pci_device_pools,
        limits=limits,
        pack=pack,
    )
    if not isinstance(found, Placed):
        return (*missing, *found)
    return tuple(missing) or found


def _totals(node: ComputeNode) -> dict[str, int]:
    """Count what the scheduler is told that there is, as placement.desired does."""
    vcpus, pcpus = node_cpu_totals(node)
    totals = {"VCPU": vcpus, "PCPU": pcpus, "MEMORY_MB": node.memory_mb, "DISK_GB": node.local_gb}
    # A node that was reported has what it was reported with; bare metal, for one, is given out whole or not at all.
    told = node.owned_classes
    return {what: total if not told or what in told else 0 for what, total in totals.items()}


def _cpus(wanted: Wanted) -> tuple[int, int]:
    """Count the CPUs to be pinned, one for isolated emulator threads among them, and the shared ones."""
    if wanted.numa is None:
        return 0, wanted.flavor.vcpus
    dedicated = sum(len(cell.pcpuset) for cell in wanted.numa.cells)
    return dedicated + int(wanted.numa.emulator_threads == "isolate"), wanted.flavor.vcpus - dedicated


def _taken_cpus(placed: GuestTopology, node: ComputeNode) -> int:
    """Count the host CPUs that nobody else can be pinned to any more, as accounting.numa does."""
    assert node.numa_topology is not None, "a machine that has cells there is on some of the node's"
    cells = {cell.id: cell for cell in node.numa_topology.cells}
    taken: frozenset[int] = frozenset()
    for guest in placed.cells:
        cell = cells[guest.id]
        own = frozenset((guest.cpu_pinning or {}).values()) | (guest.cpuset_reserved or frozenset())
        if guest.cpu_thread_policy == "isolate":
            own = own.union(*(core for core in cell.siblings if core & own))
        taken |= own & cell.pcpuset
    return len(taken)


def _whole_gb(size_mb: int) -> int:
    """Give GiB, rounded up, as Placement is told."""
    return -(-size_mb // MIB_PER_GIB)


def _short(room: ResourceFit) -> Iterator[NoRoom]:
    """Say that a class ran out, if it did; what is not asked for is never short."""
    if room.limit is None or room.free is None or not room.asked:
        return
    free = max(_down(room.free), 0)
    if room.asked > room.total:
        total, free = room.total, min(free, room.total)
        told = f"at most {_number(total)} per machine"
    elif room.asked > room.free:
        total = max(_down(room.limit), 0)
        told = f"{_number(free)} free of {_number(total)}"
    else:
        return
    text = f"{_number(room.asked)} {UNITS[room.what]} wanted, {told}"
    yield NoRoom(what=room.what, asked=room.asked, free=free, total=total, text=text)


def _down(number: float) -> float:
    """Round down to three digits after the point: a part of a GiB is told, and never too much of it."""
    return math.floor(number * 1000) / 1000


def _number(number: float) -> str:
    """Write a number with thousands apart and without needless zeros."""
    return f"{number:,.3f}".rstrip("0").rstrip(".")


def _unlike(node: ComputeNode, wanted: Wanted) -> Iterator[NoRoom]:
    """Name the traits that the node lacks, and those that it must not have."""
    for name in sorted(wanted.required - node.traits):
        yield NoRoom(what=f"trait.{name}", asked=1, free=0, total=0, text=f"the node has no trait {name}")
    for name in sorted(wanted.forbidden & node.traits):
        text = f"the node has the trait {name}, which is forbidden"
        yield NoRoom(what=f"trait.{name}", asked=0, free=1, total=1, text=text)
