"""
The books: entries and their sum. Invariant: a record's used figures are the sum of its entries, nothing else.

Names of the record are Nova's: memory in MiB, disk in GiB.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Literal

from stocktake.model.pci import PciPool, PciRecord
from stocktake.model.problem import Problem
from stocktake.model.topology import CellTake, NodeTopology
from stocktake.model.value import Value

HolderKind = Literal["reserved", "instance", "migration", "orphan", "misplaced"]
# Guests without an instance here.
UNMANAGED: frozenset[HolderKind] = frozenset({"orphan", "misplaced"})
StatValue = int | float | str | bool | None


class Entry(Value, frozen=True, kw_only=True):
    """
    One holder's share of a node.

    Attributes:
        kind, id, name: who. The id is an instance's or guest's uuid, or `host` for what is reserved.
        why: the rule that made it count, in a few words.
        vcpus, memory_mb, disk_mb: whole vCPUs, MiB, MiB.
        cells: what it takes of each host cell.
        pci: addresses of the devices it holds.
        counts: the node's stats that it adds one to, such as `num_vm_active`; of a counted instance only.
        consumer: whose allocation in the scheduler this is: the instance's uuid, or its migration's for the side that
            a move leaves; None for what nobody allocates (reserved, orphans).
    """

    kind: HolderKind
    id: str
    name: str | None = None
    why: str
    vcpus: int = 0
    memory_mb: int = 0
    disk_mb: int = 0
    cells: tuple[CellTake, ...] = ()
    pci: tuple[str, ...] = ()
    counts: tuple[str, ...] = ()
    consumer: str | None = None


class Metric(Value, frozen=True, kw_only=True):
    """One reading of a monitor, Nova's form; `timestamp` in UTC."""

    name: str
    value: int | float
    timestamp: datetime
    source: str


class ComputeNode(Value, frozen=True, kw_only=True):
    """
    One node's record: what is saved, shown and reported.

    Attributes:
        disk_mb_used: what the entries take of disk, exactly, in MiB; `local_gb_used` is this, rounded up.
        generation: grows with every write to the row and with every claim; what a save must find unchanged.
        booted_at: when the host started, if the driver knows.
        traits: what the node offers the scheduler.
        owned_traits, owned_classes: names that we have put on its providers and may take away again.
        entries_digest: changes whenever the entries behind the sums change.
        failure: why the last refresh could not be done; None if it was. The figures are then stale.
        updated_at: when something last changed.
    """

    uuid: str
    host: str
    hypervisor_hostname: str
    host_ip: str | None = None
    vcpus: int
    memory_mb: int
    local_gb: int
    vcpus_used: int
    memory_mb_used: int
    local_gb_used: int
    disk_mb_used: int = 0
    free_ram_mb: int
    free_disk_gb: int
    disk_available_least: int | None = None
    running_vms: int = 0
    current_workload: int = 0
    cpu_allocation_ratio: float
    ram_allocation_ratio: float
    disk_allocation_ratio: float
    hypervisor_type: str | None = None
    hypervisor_version: int | None = None
    cpu_info: str = ""
    supported_instances: tuple[tuple[str, ...], ...] = ()
    numa_topology: NodeTopology | None = None
    pci_device_pools: tuple[PciPool, ...] = ()
    stats: Mapping[str, StatValue] = {}
    metrics: tuple[Metric, ...] = ()
    traits: frozenset[str] = frozenset()
    owned_traits: frozenset[str] = frozenset()
    owned_classes: frozenset[str] = frozenset()
    problems: tuple[Problem, ...] = ()
    booted_at: datetime | None = None
    entries_digest: str = ""
    failure: Problem | None = None
    generation: int = 0
    created_at: datetime | None = None
    updated_at: datetime | None = None


class Tally(Value, frozen=True, kw_only=True):
    """
    What adding up one node gave.

    Attributes:
        node: the record to save; its uuid, generation and times are the saved record's.
        stale_migrations: ids of migrations to be set to `error` in the ledger.
        pci_devices: every tracked device as it is after the count.
    """

    node: ComputeNode
    entries: tuple[Entry, ...]
    stale_migrations: tuple[int, ...] = ()
    pci_devices: tuple[PciRecord, ...] = ()
