"""
What state a node is in, and all that is wrong with it. Invariant: pure; what an operator has to look at is in one list,
whoever found it, and every page, command, answer and alert shows that list.

States. `up`: its agent lives and the last refresh went well. `manual`: no agent ever ran for it, somebody refreshes it
by hand, and the last time went well. `stale`: it could not be refreshed because a part was not there, and keeps its
last figures. `failed`: somebody has to do something before it can be refreshed. `down`: its agent is silent.

Problems: silent agents, agents without nodes, nodes that could not be refreshed, what a refresh found inconsistent,
resources of which more is allocated than there is capacity for, unmanaged guests.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from hashlib import blake2b
from typing import Literal

from stocktake.accounting.capacity import RESOURCES, ResourceTotals
from stocktake.accounting.node_availability import is_alive, is_by_hand
from stocktake.model.books import UNMANAGED, ComputeNode, Entry
from stocktake.model.problem import Problem
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
    return f"its agent has not reported for {since(service.last_seen_up, now)}"


class ServiceShown(Service, frozen=True, kw_only=True):
    """A service and its state: up, manual or down."""

    state: Word


def service_shown(service: Service, now: datetime, down_time_s: float) -> ServiceShown:
    """Make the view of a service."""
    own = {name: getattr(service, name) for name in Service.__struct_fields__}
    return ServiceShown(**own, state=service_word(service, now, down_time_s))


# Of equal severity these come first, in this order: they say that others can't be believed.
_FIRST = ("agent-down", "service-unknown", "misplaced", "orphan")


class FleetProblem(Problem, frozen=True, kw_only=True):
    """
    Something wrong, and where.

    Attributes:
        host: the service's.
        node, node_uuid: None where all nodes of the host are meant.
    """

    host: str
    node: str | None
    node_uuid: str | None

    @property
    def key(self) -> tuple[str, ...]:
        """What problems are put in order by: the worst first."""
        place = _FIRST.index(self.code) if self.code in _FIRST else len(_FIRST)
        severity = "0" if self.severity == "error" else "1"
        return (
            severity,
            str(place),
            self.code,
            self.host,
            self.node or "",
            self.about,
            blake2b(self.text.encode(), digest_size=6).hexdigest(),
        )


def own_problems(
    node: ComputeNode, entries: Sequence[Entry], resources: Sequence[ResourceTotals]
) -> tuple[Problem, ...]:
    """
    Say what is wrong with a node whoever looks after it: a failed refresh first, unmanaged guests last.

    Args:
        entries: those of unmanaged guests; others are passed over.
        resources: what it may give out and gave.
    """
    over = (_over_allocated(one) for one in resources if one.over_allocated)
    failed = (node.failure,) if node.failure else ()
    unmanaged = (_unmanaged(entry) for entry in entries if entry.kind in UNMANAGED)
    return (*failed, *node.problems, *over, *unmanaged)


def agent_problem(host: str, service: Service | None, now: datetime, down_time_s: float) -> Problem | None:
    """Say what is wrong with who looks after a host's nodes; None if nothing is."""
    if service is None:
        text = f"no service {host!r} is known: no agent looks after its nodes"
        remedy = "Start its agent, or delete its nodes."
        return Problem(code="service-unknown", about=host, text=text, remedy=remedy, severity="error")
    if service_word(service, now, down_time_s) != "down":
        return None
    text = f"{silence(service, now)}; the figures of its nodes are old"
    remedy = f"Look at the agent on {host}: `systemctl status stocktake-agent`."
    return Problem(code="agent-down", about=host, text=text, remedy=remedy, severity="error")


def fleet_problems(
    found: Iterable[tuple[ComputeNode, Iterable[Problem]]],
    services: Sequence[Service],
    now: datetime,
    down_time_s: float,
) -> tuple[FleetProblem, ...]:
    """
    Gather what is wrong, the worst first; what is wrong with an agent once, however many nodes it has.

    Args:
        found: nodes, each with its own problems.
        services: those that may have these nodes; one whose nodes are left out seems never to have refreshed any.
    """
    told: list[FleetProblem] = []
    refreshed: set[str] = set()
    by_host: dict[str, Service | None] = {one.host: one for one in services}
    for node, problems in found:
        by_host.setdefault(node.host)
        told += (_placed(problem, node.host, node) for problem in problems)
        refreshed.add(node.host)
    for host, service in by_host.items():
        problem = agent_problem(host, service, now, down_time_s)
        if problem is None and service is not None and host not in refreshed:
            problem = _never_refreshed(service)
        if problem is not None:
            told.append(_placed(problem, host, None))
    return tuple(sorted(told, key=lambda problem: problem.key))


def _never_refreshed(service: Service) -> Problem | None:
    """Tell of an agent that reports and has no node; one of a pool may have left all to the others."""
    if is_by_hand(service) or service.pool is not None:
        return None
    return Problem(
        code="never-refreshed",
        about=service.host,
        text="its agent reports, but none of its nodes has ever been refreshed",
        remedy=f"Run `stocktake doctor` on {service.host}: it says why.",
        severity="error",
    )


def _over_allocated(one: ResourceTotals) -> Problem:
    return Problem(
        code="over-allocated",
        about=one.resource_class,
        text=f"{one.allocated:,} {RESOURCES[one.name].quantity} are allocated, the capacity is {one.capacity:,}",
        remedy="Move instances away, or look for what took capacity away: a reserve, a ratio, hardware.",
    )


def _unmanaged(entry: Entry) -> Problem:
    remedy = (
        f"Run `stocktake orphans adopt {entry.id}` on its host, or remove the guest."
        if entry.kind == "orphan"
        else "It is here, the ledger has it elsewhere: one of the two is wrong."
    )
    return Problem(code=entry.kind, about=entry.id, text=f"guest {entry.name or entry.id}: {entry.why}", remedy=remedy)


def _placed(problem: Problem, host: str, node: ComputeNode | None) -> FleetProblem:
    return FleetProblem(
        code=problem.code,
        about=problem.about,
        text=problem.text,
        remedy=problem.remedy,
        severity=problem.severity,
        host=host,
        node=node.hypervisor_hostname if node else None,
        node_uuid=node.uuid if node else None,
    )


class UnmanagedGuest(Entry, frozen=True, kw_only=True):
    """
    A guest without an instance (`orphan`), or that is elsewhere than the ledger thinks (`misplaced`).

    Attributes:
        host, node: where it is.
        active: it runs and takes room; one that is off takes nothing.
    """

    host: str
    node: str
    active: bool


def unmanaged_guests(nodes: Sequence[ComputeNode], found: Mapping[str, Sequence[Entry]]) -> tuple[UnmanagedGuest, ...]:
    """List the unmanaged guests among the entries of nodes, by node."""
    return tuple(
        unmanaged_guest(node, entry)
        for node in sorted(nodes, key=lambda node: (node.hypervisor_hostname, node.uuid))
        for entry in found.get(node.uuid, ())
        if entry.kind in UNMANAGED
    )


def unmanaged_guest(node: ComputeNode, entry: Entry) -> UnmanagedGuest:
    """Make the view of an unmanaged guest."""
    own = {name: getattr(entry, name) for name in Entry.__struct_fields__}
    active = bool(entry.vcpus or entry.memory_mb or entry.disk_mb)
    return UnmanagedGuest(**own, host=node.host, node=node.hypervisor_hostname, active=active)
