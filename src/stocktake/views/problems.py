"""
All that is wrong in the fleet, the worst first. Invariant: what an operator has to look at is in one list, whoever
found it.

Silent agents, nodes that could not be refreshed, what a refresh found inconsistent, guests that nobody promised.
"""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from hashlib import blake2b

from stocktake.model.books import STRANGERS, ComputeNode, Entry
from stocktake.model.problem import Problem
from stocktake.model.workload import Service
from stocktake.views.nodes import service_word, silence
from stocktake.views.quantities import count

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


def fleet_problems(
    nodes: Sequence[ComputeNode],
    services: Sequence[Service],
    strangers: Mapping[str, Sequence[Entry]],
    now: datetime,
    down_time_s: float,
) -> tuple[FleetProblem, ...]:
    """
    Gather what is wrong, the worst first.

    Args:
        strangers: orphans and misplaced guests by the nodes' uuids.
    """
    found = [*_of_services(nodes, services, now, down_time_s)]
    for node in nodes:
        found += (_at(node, problem) for problem in _of_node(node, strangers.get(node.uuid, ())))
    return tuple(sorted(found, key=lambda problem: problem.key))


def _of_services(
    nodes: Sequence[ComputeNode], services: Sequence[Service], now: datetime, down_time_s: float
) -> Iterator[FleetProblem]:
    numbers: dict[str, int] = {}
    for node in nodes:
        numbers[node.host] = numbers.get(node.host, 0) + 1
    for service in services:
        if service_word(service, now, down_time_s) == "down":
            text = f"{silence(service, now)}; the figures of {count(numbers.get(service.host, 0), 'node')} are old"
            remedy = f"Look at the agent on {service.host}: `systemctl status stocktake-agent`."
            yield _of_host(service.host, "agent-down", text, remedy)
    for host in sorted(numbers.keys() - {service.host for service in services}):
        text = f"no service {host!r} is known; nobody looks after {count(numbers[host], 'node')}"
        yield _of_host(host, "service-unknown", text, "Start its agent, or delete its nodes.")


def _of_node(node: ComputeNode, strangers: Sequence[Entry]) -> Iterator[Problem]:
    yield from node.wrong
    for entry in strangers:
        if entry.kind in STRANGERS:
            text = f"guest {entry.name or entry.id}: {entry.why}"
            remedy = (
                f"`stocktake orphans adopt {entry.id}` on its host, or remove it."
                if entry.kind == "orphan"
                else "It is here, the ledger has it elsewhere: one of the two is wrong."
            )
            yield Problem(code=entry.kind, about=entry.id, text=text, remedy=remedy)


def _at(node: ComputeNode, problem: Problem) -> FleetProblem:
    return FleetProblem(
        code=problem.code,
        about=problem.about,
        text=problem.text,
        remedy=problem.remedy,
        severity=problem.severity,
        host=node.host,
        node=node.hypervisor_hostname,
        node_uuid=node.uuid,
    )


def _of_host(host: str, code: str, text: str, remedy: str) -> FleetProblem:
    return FleetProblem(
        code=code, about=host, text=text, remedy=remedy, severity="error", host=host, node=None, node_uuid=None
    )


def codes_of(node: ComputeNode, strangers: Sequence[Entry] = ()) -> tuple[str, ...]:
    """
    Say what is wrong with a node, the failure first, and of guests that nobody promised what they are.

    Args:
        strangers: such guests; other entries are passed over.
    """
    return (*(problem.code for problem in node.wrong), *(one.kind for one in strangers if one.kind in STRANGERS))


class Stranger(Entry, frozen=True, kw_only=True):
    """
    A guest that nobody promised (`orphan`), or that is elsewhere than the ledger thinks (`misplaced`).

    Attributes:
        host, node: where it is.
        active: it runs and takes room; one that is off takes nothing.
    """

    host: str
    node: str
    active: bool


def strangers_of(nodes: Sequence[ComputeNode], found: Mapping[str, Sequence[Entry]]) -> tuple[Stranger, ...]:
    """List the strangers among the entries of nodes, by node."""
    return tuple(
        stranger_of(node, entry)
        for node in sorted(nodes, key=lambda node: (node.hypervisor_hostname, node.uuid))
        for entry in found.get(node.uuid, ())
        if entry.kind in STRANGERS
    )


def stranger_of(node: ComputeNode, entry: Entry) -> Stranger:
    """Make the view of a stranger."""
    own = {name: getattr(entry, name) for name in Entry.__struct_fields__}
    active = bool(entry.vcpus or entry.memory_mb or entry.disk_mb)
    return Stranger(**own, host=node.host, node=node.hypervisor_hostname, active=active)
