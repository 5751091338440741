"""
Step 6: what a node may give out of each resource, and what it gave. Invariant: pure; there is one rule of capacity,
(total - reserved) * ratio, and dedicated CPUs are a resource apart from shared ones.

The rule and its rounding are Placement's (openstack-placement, objects/inventory.py: `Inventory.capacity`). Rules:
docs/accounting.md, "Placement inventory of a node".
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import TypeVar

from stocktake.model.books import ComputeNode, Entry
from stocktake.model.history import Moment
from stocktake.model.topology import HostTopology, NodeTopology
from stocktake.model.value import Value, replace

T = TypeVar("T")
_MIB_PER_GIB = 1024


class Resource(Value, frozen=True, kw_only=True):
    """
    What is told of a resource wherever it is shown.

    Attributes:
        name: the field of a record, of an answer of the API and of a metric.
        resource_class: Placement's name of it.
        title, unit, quantity: for people; what stands behind an amount in a sentence is its quantity.
        used_field: the record's field of what is used, reserves included; empty where the record has none.
        ratio_field, reserve_setting: the record's field and the setting; empty where there is none.
    """

    name: str
    resource_class: str
    title: str
    unit: str
    quantity: str
    used_field: str = ""
    ratio_field: str = ""
    reserve_setting: str = ""


# In the order in which they are shown.
RESOURCES: Mapping[str, Resource] = {
    one.name: one
    for one in (
        Resource(
            name="vcpus",
            resource_class="VCPU",
            title="vCPUs",
            unit="vCPUs",
            quantity="vCPUs",
            used_field="vcpus_used",
            ratio_field="cpu_allocation_ratio",
            reserve_setting="reserved_host_cpus",
        ),
        Resource(name="pcpus", resource_class="PCPU", title="dedicated CPUs", unit="CPUs", quantity="dedicated CPUs"),
        Resource(
            name="memory_mb",
            resource_class="MEMORY_MB",
            title="memory",
            unit="MiB",
            quantity="MiB of memory",
            used_field="memory_mb_used",
            ratio_field="ram_allocation_ratio",
            reserve_setting="reserved_host_memory_mb",
        ),
        Resource(
            name="local_gb",
            resource_class="DISK_GB",
            title="disk",
            unit="GB",
            quantity="GiB of disk",
            used_field="local_gb_used",
            ratio_field="disk_allocation_ratio",
            reserve_setting="reserved_host_disk_mb",
        ),
    )
}


class ResourceTotals(Value, frozen=True, kw_only=True):
    """
    One resource of a node, or of many: vCPUs, CPUs, MiB or GB.

    Attributes:
        name, resource_class: which one.
        total: what the hardware has; of vCPUs the shared CPUs where others are dedicated.
        reserved: what is kept for the host, never more than there is.
        ratio: how often what is not reserved may be given out; of many nodes 0.
        capacity: (total - reserved) * ratio, rounded down.
        allocated: what instances, moves and unmanaged guests were given.
        free: capacity less allocated, negative where the node is over-allocated; of many nodes what those have free
            that are not.
    """

    name: str
    resource_class: str
    total: int = 0
    reserved: int = 0
    ratio: float = 0.0
    capacity: int = 0
    allocated: int = 0
    free: int = 0

    @property
    def share(self) -> float:
        """How full it is: allocated over capacity; 1 where something is allocated of nothing."""
        return self.allocated / self.capacity if self.capacity > 0 else float(self.allocated > 0)

    @property
    def percent(self) -> int | None:
        """How full it is in percent, rounded up; None if there is nothing of it."""
        if self.capacity > 0:
            return max(0, -(-100 * self.allocated // self.capacity))
        return 100 if self.allocated > 0 else None

    @property
    def over_allocated(self) -> bool:
        """More is allocated than there is capacity for."""
        return self.allocated > self.capacity


def capacity_of(total: int, reserved: int, ratio: float) -> int:
    """Work out what may be given out: what is not reserved, times the ratio, rounded down as Placement does."""
    return int(max(total - reserved, 0) * ratio)


def cpu_totals(topology: HostTopology | NodeTopology | None, vcpus: int, pcpus: int | None) -> tuple[int, int]:
    """
    Count the shared and the dedicated CPUs.

    Args:
        vcpus: all CPUs; without a topology all of them are shared.
        pcpus: how many are dedicated, if that is said apart from the cells.
    """
    if topology is None:
        return vcpus, pcpus or 0
    shared, pinnable = _united(cell.cpuset for cell in topology.cells), _united(cell.pcpuset for cell in topology.cells)
    return len(shared), len(pinnable) if pcpus is None else pcpus


def has_dedicated_cpus(node: ComputeNode) -> bool:
    """
    Say whether dedicated CPUs are a resource apart on this node.

    Where neither set of CPUs is configured a guest may be pinned to any, and they all count as shared.
    """
    if node.owned_classes or node.numa_topology is None:
        return "PCPU" in node.owned_classes
    cells = node.numa_topology.cells
    return not _united(cell.pcpuset for cell in cells) <= _united(cell.cpuset for cell in cells)


def node_cpu_totals(node: ComputeNode) -> tuple[int, int]:
    """Count a record's shared and dedicated CPUs."""
    return cpu_totals(node.numa_topology, node.vcpus, None if has_dedicated_cpus(node) else 0)


def entry_cpus(entry: Entry, *, dedicated: bool) -> tuple[int, int]:
    """
    Split an entry's CPUs into shared and dedicated ones.

    Host CPUs that a guest blocks or keeps for its emulator are nobody else's: they are dedicated to it too.

    Args:
        dedicated: the node has dedicated CPUs; on any other every vCPU is a shared one.
    """
    if not dedicated or not entry.cells:
        return entry.vcpus, 0
    return sum(take.vcpus for take in entry.cells), sum(len(take.pinned_cpus) for take in entry.cells)


def cpus_used(entries: Iterable[Entry], *, dedicated: bool) -> tuple[int, int]:
    """Add up the shared and the dedicated CPUs that entries take, reserved ones included."""
    split = [entry_cpus(entry, dedicated=dedicated) for entry in entries]
    return sum(shared for shared, _ in split), sum(pinned for _, pinned in split)


def reserved_of(entries: Iterable[Entry]) -> tuple[int, int, int]:
    """Add up what is kept for the host: vCPUs, MiB, GB rounded up."""
    kept = [entry for entry in entries if entry.kind == "reserved"]
    disk_mb = sum(entry.disk_mb for entry in kept)
    return sum(entry.vcpus for entry in kept), sum(entry.memory_mb for entry in kept), -(-disk_mb // _MIB_PER_GIB)


def resources_of(node: ComputeNode, entries: Sequence[Entry]) -> tuple[ResourceTotals, ...]:
    """
    Work out what a node may give out of each resource, and what it gave.

    Args:
        entries: those that are reserved; all, of a node with dedicated CPUs, as only they say who has which.
    """
    vcpus, memory_mb, local_gb = reserved_of(entries)
    dedicated = has_dedicated_cpus(node)
    totals = node_cpu_totals(node)
    used = cpus_used(entries, dedicated=True) if dedicated else (node.vcpus_used, 0)
    cpus = [_totals("vcpus", totals[0], vcpus, used[0], node.cpu_allocation_ratio)]
    if dedicated:
        cpus.append(_totals("pcpus", totals[1], 0, used[1], 1.0))
    return (
        *cpus,
        _totals("memory_mb", node.memory_mb, memory_mb, node.memory_mb_used, node.ram_allocation_ratio),
        _totals("local_gb", node.local_gb, local_gb, node.local_gb_used, node.disk_allocation_ratio),
    )


def _totals(name: str, total: int, reserved: int, used: int, ratio: float) -> ResourceTotals:
    capacity, allocated = capacity_of(total, reserved, ratio), used - reserved
    return ResourceTotals(
        name=name,
        resource_class=RESOURCES[name].resource_class,
        total=total,
        # Placement refuses reserved > total; a problem of the node says it.
        reserved=min(reserved, total),
        ratio=ratio,
        capacity=capacity,
        allocated=allocated,
        free=capacity - allocated,
    )


def resources_then(
    then: Moment, node: ComputeNode, resources: Mapping[str, ResourceTotals]
) -> tuple[ResourceTotals, ...]:
    """
    Work out what a node could give out at a moment of its history, by the reserves and ratios that it has today.

    History has all CPUs in one figure: dedicated ones are among the vCPUs there.

    Args:
        node, resources: the node today, and what it may give out by name.
    """
    dedicated = resources["pcpus"].total if "pcpus" in resources else 0
    found: list[ResourceTotals] = []
    for name in ("vcpus", "memory_mb", "local_gb"):
        today = resources[name]
        more = dedicated if name == "vcpus" else 0
        total: int = today.total + getattr(then, name) - getattr(node, name)
        capacity = capacity_of(total, today.reserved, today.ratio) + more
        allocated: int = getattr(then, f"{name}_used") - today.reserved
        found.append(
            replace(today, total=total + more, capacity=capacity, allocated=allocated, free=capacity - allocated)
        )
    return tuple(found)


def added(nodes: Iterable[Iterable[ResourceTotals]]) -> tuple[ResourceTotals, ...]:
    """Add up the resources of many nodes; one that no node has is left out."""
    sums: dict[str, list[int]] = {}
    for node in nodes:
        for one in node:
            mine = sums.setdefault(one.name, [0] * 5)
            for place, amount in enumerate((one.total, one.reserved, one.capacity, one.allocated, max(one.free, 0))):
                mine[place] += amount
    return tuple(
        ResourceTotals(
            name=name,
            resource_class=resource.resource_class,
            total=sums[name][0],
            reserved=sums[name][1],
            capacity=sums[name][2],
            allocated=sums[name][3],
            free=sums[name][4],
        )
        for name, resource in RESOURCES.items()
        if name in sums
    )


def _united(sets: Iterable[frozenset[T]]) -> frozenset[T]:
    return frozenset[T]().union(*sets)
