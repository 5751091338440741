"""
Nodes as they are shown: their state, a row of a list, all details. Invariant: pure; the record's own names, and what is
added follows from the record, its service, its entries and the time.

States. `up`: its agent lives and the last refresh went well. `manual`: no agent ever ran for it, somebody refreshes it
by hand, and the last time went well. `stale`: it could not be refreshed because a part was not there, and keeps its
last figures. `failed`: somebody has to do something before it can be refreshed. `down`: its agent is silent.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, TypeVar

from stocktake.accounting.node_availability import is_alive, is_by_hand
from stocktake.model.books import ComputeNode, Entry, StatValue
from stocktake.model.pci import PciRecord
from stocktake.model.problem import Problem
from stocktake.model.value import Value
from stocktake.model.workload import Service
from stocktake.views.quantities import since

Word = Literal["up", "manual", "stale", "failed", "down"]

# These go away by themselves, or by a pass that agrees.
_PASSING = frozenset({"DriverUnreachable", "LedgerUnreachable", "PlacementUnreachable", "orphan-node"})


@dataclass(frozen=True, slots=True)
class State:
    """The word, and why it is not `up`."""

    word: Word
    reason: str = ""


def service_word(service: Service, now: datetime, down_time_s: float) -> Word:
    """Give a service's state: up, manual or down."""
    if is_by_hand(service):
        return "manual"
    return "up" if is_alive(service, now, down_time_s) else "down"


def state_of(node: ComputeNode, service: Service | None, now: datetime, down_time_s: float) -> State:
    """Work out a node's state."""
    trouble = node.failure.text if node.failure else ""
    if service is None:
        return State("down", f"no service {node.host!r} is known{'; ' if trouble else ''}{trouble}")
    by_hand = is_by_hand(service)
    if not by_hand and not is_alive(service, now, down_time_s):
        return State("down", f"{silence(service, now)}{'; ' if trouble else ''}{trouble}")
    if node.failure is None:
        return State("manual" if by_hand else "up")
    return State("stale" if node.failure.code in _PASSING else "failed", trouble)


def silence(service: Service, now: datetime) -> str:
    """Say why a service that is down is."""
    if service.forced_down:
        return "it was forced down"
    assert service.last_seen_up is not None, "an agent that never ran is not silent"
    return f"its agent gave no sign of life for {since(service.last_seen_up, now)}"


def states_of(
    nodes: Sequence[ComputeNode], services: Sequence[Service], now: datetime, down_time_s: float
) -> list[tuple[ComputeNode, Service | None, State]]:
    """Put every node together with its service and its state."""
    by_host = {service.host: service for service in services}
    return [(node, by_host.get(node.host), state_of(node, by_host.get(node.host), now, down_time_s)) for node in nodes]


class ServiceShown(Service, frozen=True, kw_only=True):
    """A service and its state: up, manual or down."""

    state: Word


def service_shown(service: Service, now: datetime, down_time_s: float) -> ServiceShown:
    """Make the view of a service."""
    own = {name: getattr(service, name) for name in Service.__struct_fields__}
    return ServiceShown(**own, state=service_word(service, now, down_time_s))


N = TypeVar("N", bound=Value)


class NodeSummary(Value, frozen=True, kw_only=True):
    """
    A line of a list of nodes; the figures are the record's (MiB, GiB), what is reserved for the host included.

    Attributes:
        state, state_reason: `up`, `manual`, `stale`, `failed` or `down`, and why it is not up.
        disabled, disabled_reason: what an operator decided of its service.
    """

    uuid: str
    hypervisor_hostname: str
    host: str
    host_ip: str | None
    hypervisor_type: str | None
    vcpus: int
    vcpus_used: int
    memory_mb: int
    memory_mb_used: int
    free_ram_mb: int
    local_gb: int
    local_gb_used: int
    free_disk_gb: int
    disk_available_least: int | None
    running_vms: int
    current_workload: int
    cpu_allocation_ratio: float
    ram_allocation_ratio: float
    disk_allocation_ratio: float
    stats: Mapping[str, StatValue]
    problems: tuple[Problem, ...]
    failure: Problem | None
    created_at: datetime | None
    updated_at: datetime | None
    state: Word
    state_reason: str
    disabled: bool
    disabled_reason: str | None


class Amounts(Value, frozen=True, kw_only=True):
    """An amount of each resource: vCPUs, MiB, GB."""

    vcpus: int
    memory_mb: int
    local_gb: int


NO_AMOUNTS = Amounts(vcpus=0, memory_mb=0, local_gb=0)


class NodeDetail(ComputeNode, frozen=True, kw_only=True):
    """
    Everything about a node.

    Attributes:
        reserved: what is kept for the host.
        capacity: what may be promised in all: what is not reserved, times the ratio.
        pci_devices: every tracked device.
    """

    state: Word
    state_reason: str
    service: Service | None
    reserved: Amounts
    capacity: Amounts
    pci_devices: tuple[PciRecord, ...]


def summary_of(node: ComputeNode, service: Service | None, state: State) -> NodeSummary:
    """Make a node's line."""
    return _with_fields(
        NodeSummary,
        node,
        state=state.word,
        state_reason=state.reason,
        disabled=service.disabled if service else False,
        disabled_reason=service.disabled_reason if service else None,
    )


def detail_of(
    node: ComputeNode,
    service: Service | None,
    state: State,
    entries: Sequence[Entry],
    devices: Sequence[PciRecord],
) -> NodeDetail:
    """Make a node's page."""
    reserved = reserved_of(entries)
    sold = {name: capacity_of(*amounts) for name, amounts in sold_of(node, entries).items()}
    return _with_fields(
        NodeDetail,
        node,
        state=state.word,
        state_reason=state.reason,
        service=service,
        reserved=reserved,
        capacity=Amounts(**sold),
        pci_devices=tuple(devices),
    )


def reserved_of(entries: Sequence[Entry]) -> Amounts:
    """Add up what is kept for the host: vCPUs, MiB, GB rounded up."""
    kept = [entry for entry in entries if entry.kind == "reserved"]
    return Amounts(
        vcpus=sum(entry.vcpus for entry in kept),
        memory_mb=sum(entry.memory_mb for entry in kept),
        local_gb=-(-sum(entry.disk_mb for entry in kept) // 1024),
    )


def sold_of(node: ComputeNode, entries: Sequence[Entry]) -> Mapping[str, tuple[int, int, float]]:
    """Give total, reserved and ratio by resource."""
    reserved = reserved_of(entries)
    return {
        "vcpus": (node.vcpus, reserved.vcpus, node.cpu_allocation_ratio),
        "memory_mb": (node.memory_mb, reserved.memory_mb, node.ram_allocation_ratio),
        "local_gb": (node.local_gb, reserved.local_gb, node.disk_allocation_ratio),
    }


def capacity_of(total: int, reserved: int, ratio: float) -> int:
    """Work out what may be promised, Placement's way: what is not reserved, times the ratio, rounded down."""
    return int(max(total - reserved, 0) * ratio)


def machine_facts(node: ComputeNode) -> tuple[tuple[str, str], ...]:
    """Tell of bare metal, by titles, what Ironic says of it; nothing of another node."""
    if not machine(node):
        return ()
    stats = node.stats
    more = [
        f"{key.replace('_', ' ')} {stats[key]}"
        for key in ("resource_class", "shard", "conductor_group")
        if key in stats
    ]
    return (
        ("machine", ", ".join((called(node), *machine(node), *more))),
        ("maintained", str(stats.get("maintenance_reason") or "")),
        ("deployed", f"instance {stats['instance_uuid']}" if "instance_uuid" in stats else ""),
    )


def _with_fields(kind: type[N], node: ComputeNode, **more: object) -> N:
    """Make a view of the fields that it shares with the record, and these."""
    own = {name: getattr(node, name) for name in kind.__struct_fields__ if name not in more}
    return kind(**own, **more)


def called(node: ComputeNode) -> str:
    """Say what people call a node."""
    return str(node.stats.get("name") or node.hypervisor_hostname)


def machine(node: ComputeNode) -> tuple[str, ...]:
    """Say what a bare-metal node does, is switched to, and whether it is maintained; nothing of another node."""
    state = node.stats.get("provision_state")
    if state is None:
        return ()
    power = str(node.stats.get("power_state") or "power unknown").removeprefix("power ")
    return (str(state), power, *(("maintenance",) if node.stats.get("maintenance") else ()))
