"""
The facts: what a driver says of a node, before (`HostView`) and after (`Host`) it is verified.

Invariant: only `verify` turns a HostView into a Host, so that skipping it is a type error.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from stocktake.model.books import Metric, StatValue
from stocktake.model.pci import PciDevice
from stocktake.model.problem import Problem
from stocktake.model.provider import Inventory
from stocktake.model.topology import GuestTopology, HostTopology
from stocktake.model.value import Value


class Guest(Value, frozen=True, kw_only=True):
    """
    One domain that the hypervisor knows.

    Attributes:
        active: it runs or is paused; an inactive one takes no CPU and no memory now.
        state: the hypervisor's word (running, paused, shutoff, crashed, ...).
        vcpus, memory_mb: what it may use at most; MiB rounded up.
        disk_mb: what its local disks may grow to, MiB rounded up.
        numa: only where it has NUMA cells or pinned CPUs.
        pci_addresses: host devices given to it.
        metadata: XML namespaces or keys to their text, as the hypervisor stores it.
        trouble: what of its definition could not be read; None if all could.
    """

    uuid: str
    name: str
    state: str
    active: bool
    vcpus: int = 0
    memory_mb: int = 0
    disk_mb: int = 0
    disk_paths: tuple[str, ...] = ()
    numa: GuestTopology | None = None
    pci_addresses: tuple[str, ...] = ()
    metadata: Mapping[str, str] = {}
    trouble: str | None = None


class Survey(Value, frozen=True, kw_only=True):
    """
    What a driver says of one node, unverified.

    Attributes:
        report: the keys of the accounting rules ("What the driver must report"), plain data as of JSON.
        guests: None if this driver can't list guests.
        problems: what the driver itself found wrong.
    """

    report: Mapping[str, Any]
    guests: tuple[Guest, ...] | None = None
    problems: tuple[Problem, ...] = ()


class Candidate(Value, frozen=True, kw_only=True):
    """A node that several services may report: who does is settled by its uuid."""

    uuid: str


class HostView(Value, frozen=True, kw_only=True):
    """A survey stamped by the audit: which node, the agent's `my_ip`, host metrics, what it could not read."""

    node: str
    report: Mapping[str, Any]
    guests: tuple[Guest, ...] | None = None
    host_ip: str | None = None
    metrics: tuple[Metric, ...] = ()
    problems: tuple[Problem, ...] = ()


class Host(Value, frozen=True, kw_only=True):
    """
    A verified view: MiB, GiB, whole CPUs.

    Attributes:
        vcpus_used, memory_mb_used, local_gb_used: the hypervisor's own view, shown and logged, never recorded.
        pcpus: how many CPUs may be pinned; None: those of the cells' `pcpuset`.
        inventories: what the node has instead of CPUs, memory and disk, where it is allocated as a whole; None: these.
        problems: what is inconsistent, for the node's record.
    """

    node: str
    uuid: str | None = None
    host_ip: str | None = None
    vcpus: int
    pcpus: int | None = None
    memory_mb: int
    local_gb: int
    vcpus_used: int
    memory_mb_used: int
    local_gb_used: int
    disk_available_least: int | None = None
    hypervisor_type: str | None = None
    hypervisor_version: int | None = None
    hypervisor_hostname: str
    cpu_info: str = ""
    supported_instances: tuple[tuple[str, ...], ...] = ()
    inventories: Mapping[str, Inventory] | None = None
    numa_topology: HostTopology | None = None
    pci_devices: tuple[PciDevice, ...] = ()
    stats: Mapping[str, StatValue] | None = None
    traits: frozenset[str] = frozenset()
    capabilities: Mapping[str, bool] = {}
    booted_at: datetime | None = None
    guests: tuple[Guest, ...] | None = None
    metrics: tuple[Metric, ...] = ()
    problems: tuple[Problem, ...] = ()


class Refusal(Value, frozen=True, kw_only=True):
    """Why a view can't be believed: every reason, not the first."""

    node: str
    reasons: tuple[str, ...]
