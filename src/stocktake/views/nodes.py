"""
Nodes as they are shown: a row of a list, all details. Invariant: pure; the record's own names, and what is added
follows from the record, its service, its entries and the time.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TypeVar

from stocktake.accounting.capacity import ResourceTotals, resources_of, resources_then
from stocktake.model.books import ComputeNode, Entry, StatValue
from stocktake.model.history import Moment
from stocktake.model.pci import PciRecord
from stocktake.model.problem import Problem, Severity
from stocktake.model.value import Value
from stocktake.model.workload import Service
from stocktake.views.problems import State, Word, agent_problem, own_problems, state_of
from stocktake.views.quantities import ago, count, moment, since

N = TypeVar("N", bound=Value)


class NodeSummary(Value, frozen=True, kw_only=True):
    """
    A row of a list of nodes; the record's figures (MiB, GiB) include what is reserved for the host.

    Attributes:
        resources: by name, what it may give out of each and what it gave.
        problems: all that is wrong, the failed refresh and the silent agent too.
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
    resources: Mapping[str, ResourceTotals]
    stats: Mapping[str, StatValue]
    problems: tuple[Problem, ...]
    failure: Problem | None
    created_at: datetime | None
    updated_at: datetime | None
    state: Word
    state_reason: str
    disabled: bool
    disabled_reason: str | None


class NodeDetail(ComputeNode, frozen=True, kw_only=True):
    """
    Everything about a node.

    Attributes:
        state, state_reason: as in the list of nodes.
        resources: by name, what it may give out of each and what it gave.
        problems: all that is wrong, the failed refresh and the silent agent too.
        pci_devices: every tracked device.
    """

    state: Word
    state_reason: str
    service: Service | None
    resources: Mapping[str, ResourceTotals]
    pci_devices: tuple[PciRecord, ...]


@dataclass(frozen=True)
class NodeView:
    """
    A node with all that is shown of it beside its record.

    Attributes:
        service: that looks after it; None if none is known.
        resources: by name, what it may give out of each and what it gave.
        own_problems: what is wrong with it whoever looks after it; `problems` has what is wrong with that one too.
    """

    node: ComputeNode
    service: Service | None
    state: State
    resources: Mapping[str, ResourceTotals]
    own_problems: tuple[Problem, ...]
    problems: tuple[Problem, ...]

    @property
    def name(self) -> str:
        """What people call it."""
        return called(self.node)

    @property
    def disabled(self) -> bool:
        """The scheduler is told to leave it alone."""
        return self.service is not None and self.service.disabled

    @property
    def severity(self) -> Severity | None:
        """The worst problem's; None without any."""
        return min((problem.severity for problem in self.problems), default=None)


def view_of(
    node: ComputeNode, service: Service | None, entries: Sequence[Entry], now: datetime, down_time_s: float
) -> NodeView:
    """
    Put together what is shown of a node.

    Args:
        entries: those reserved and of unmanaged guests; all, of a node with dedicated CPUs.
    """
    resources = resources_of(node, entries)
    own = own_problems(node, entries, resources)
    agent = agent_problem(node.host, service, now, down_time_s)
    return NodeView(
        node=node,
        service=service,
        state=state_of(node, service, now, down_time_s),
        resources={one.name: one for one in resources},
        own_problems=own,
        problems=own if agent is None else (agent, *own),
    )


def views_of(
    nodes: Sequence[ComputeNode],
    services: Sequence[Service],
    entries: Mapping[str, Sequence[Entry]],
    now: datetime,
    down_time_s: float,
) -> list[NodeView]:
    """Put together what is shown of many nodes; `entries` by their uuids."""
    by_host = {service.host: service for service in services}
    return [view_of(node, by_host.get(node.host), entries.get(node.uuid, ()), now, down_time_s) for node in nodes]


def summary_of(view: NodeView) -> NodeSummary:
    """Make a node's row."""
    service = view.service
    return _with_fields(
        NodeSummary,
        view,
        disabled=view.disabled,
        disabled_reason=service.disabled_reason if service else None,
    )


def detail_of(view: NodeView, devices: Sequence[PciRecord]) -> NodeDetail:
    """Make a node's details."""
    return _with_fields(NodeDetail, view, service=view.service, pci_devices=tuple(devices))


class HistoryRow(Moment, frozen=True, kw_only=True):
    """
    A node's figures from a moment on.

    Attributes:
        resources: by name, what it could give out of each, by the reserves and ratios of today, and what it gave;
            dedicated CPUs are among the vCPUs.
    """

    resources: Mapping[str, ResourceTotals]


def history_rows(node: ComputeNode, entries: Sequence[Entry], history: Iterable[Moment]) -> tuple[HistoryRow, ...]:
    """Make the rows of a node's history; `entries` are the node's today."""
    today = {one.name: one for one in resources_of(node, entries)}
    return tuple(
        HistoryRow(
            **{name: getattr(then, name) for name in Moment.__struct_fields__},
            resources={one.name: one for one in resources_then(then, node, today)},
        )
        for then in history
    )


def facts_of(view: NodeView, now: datetime) -> tuple[tuple[str, str], ...]:
    """Tell what a node is, by titles."""
    node, service = view.node, view.service
    last_seen = service.last_seen_up if service else None
    seen = f"last seen {ago(last_seen, now)}" if last_seen else "no agent has reported yet"
    booted = f"{moment(node.booted_at)}, up {since(node.booted_at, now)}" if node.booted_at else ""
    changed = f"{moment(node.updated_at)}, {ago(node.updated_at, now)}" if node.updated_at else ""
    busy = f", {node.current_workload} with a task" if node.current_workload else ""
    facts = (
        ("name", node.hypervisor_hostname if view.name != node.hypervisor_hostname else ""),
        ("uuid", node.uuid),
        ("service", f"{node.host}, {seen}"),
        ("address", node.host_ip or ""),
        ("hypervisor", " ".join(filter(None, (node.hypervisor_type, _version(node.hypervisor_version))))),
        *machine_facts(node),
        ("booted", booted),
        ("changed", changed),
        ("instances", f"{count(node.running_vms, 'instance')}{busy}"),
    )
    return tuple((title, text) for title, text in facts if text)


def _version(number: int | None) -> str:
    """Write Nova's packed version: 7002000 is 7.2.0."""
    if number is None or number < 1_000:
        return "" if number is None else str(number)
    return f"{number // 1_000_000}.{number // 1_000 % 1_000}.{number % 1_000}"


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


def _with_fields(kind: type[N], view: NodeView, **more: object) -> N:
    """Make a value of the fields that it shares with the record, of what is shown beside that, and of these."""
    more |= {
        "state": view.state.word,
        "state_reason": view.state.reason,
        "resources": view.resources,
        "problems": view.problems,
    }
    own = {name: getattr(view.node, name) for name in kind.__struct_fields__ if name not in more}
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
