"""
os-hypervisors: nodes, in Nova's form of microversion 2.53 to 2.87. Invariant: MiB and GiB as recorded, what is reserved
too.

A hypervisor's id is its node's uuid, which is its resource provider's. It is `up` while its service is, and `enabled`
unless an operator disabled that.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from http import HTTPStatus
from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from stocktake.errors import NotFound
from stocktake.model.access import READERS
from stocktake.model.books import ComputeNode
from stocktake.model.value import UUID, Value
from stocktake.model.workload import Service
from stocktake.views.problems import service_word
from stocktake.web.calls import Call, Query, Reply, Text
from stocktake.web.context import Web
from stocktake.web.nova import UUIDS, Link, answered, nova, version_asked
from stocktake.web.status import NotServed

# Nova's own: a longer page is cut, and the next one linked.
PAGE_ITEMS = 1000
_DAY_S = 24 * 60 * 60
_SUMS = (
    "vcpus",
    "vcpus_used",
    "memory_mb",
    "memory_mb_used",
    "free_ram_mb",
    "local_gb",
    "local_gb_used",
    "free_disk_gb",
    "disk_available_least",
    "running_vms",
    "current_workload",
)


class OneQuery(Query, frozen=True, kw_only=True):
    """How much of one."""

    with_servers: bool = False


class HypervisorsQuery(OneQuery, frozen=True, kw_only=True):
    """Which hypervisors."""

    limit: Annotated[int, Meta(ge=0)] = 0
    marker: Text | None = None
    hypervisor_hostname_pattern: Text | None = None


class NovaServer(Value, frozen=True, kw_only=True):
    """An instance on a hypervisor."""

    uuid: str
    name: str


class NovaHypervisor(Value, frozen=True, kw_only=True):
    """A line of a list."""

    id: str
    hypervisor_hostname: str
    state: Literal["up", "down"]
    status: Literal["enabled", "disabled"]
    servers: tuple[NovaServer, ...] | UnsetType = UNSET


class ServiceOf(Value, frozen=True, kw_only=True):
    """A hypervisor's service."""

    id: str
    host: str
    disabled_reason: str | None


class HypervisorDetail(NovaHypervisor, frozen=True, kw_only=True):
    """Everything of one."""

    hypervisor_type: str
    hypervisor_version: int
    host_ip: str | None
    service: ServiceOf
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
    cpu_info: Any


class HypervisorUptime(NovaHypervisor, frozen=True, kw_only=True):
    """How long one runs already, in the words of `uptime`."""

    uptime: str


def listed(call: Call[HypervisorsQuery, None]) -> Reply[dict[str, Any]]:
    """List hypervisors, by name."""
    return _list(call, NovaHypervisor)


def detailed(call: Call[HypervisorsQuery, None]) -> Reply[dict[str, Any]]:
    """List hypervisors with all figures, by name."""
    return _list(call, HypervisorDetail)


def shown(call: Call[OneQuery, None]) -> Reply[dict[str, NovaHypervisor]]:
    """Show a hypervisor by its uuid."""
    version = version_asked(call.request, UUIDS)
    node = _node(call)
    service = call.web.ledger.service(node.host)
    servers = _servers(call.web, [node]) if call.query.with_servers else None
    return answered({"hypervisor": _shown(HypervisorDetail, node, service, call.web, servers)}, version)


def uptime(call: Call[None, None]) -> Reply[dict[str, NovaHypervisor]]:
    """
    Say how long a hypervisor runs already.

    Raises:
        NotServed: unknown (501): its driver doesn't say, or its agent is silent.
    """
    version = version_asked(call.request, UUIDS)
    node = _node(call)
    service = call.web.ledger.service(node.host)
    known = _fields(node, service, call.web)
    if node.booted_at is None or known["state"] == "down":
        raise NotServed(HTTPStatus.NOT_IMPLEMENTED, "its uptime is unknown", where=node.hypervisor_hostname)
    text = uptime_text(node.booted_at, call.web.clock.now())
    return answered({"hypervisor": HypervisorUptime(**known, uptime=text)}, version)


def statistics(call: Call[None, None]) -> Reply[dict[str, dict[str, int]]]:
    """Add up the hypervisors whose service is not disabled, as Nova does."""
    version = version_asked(call.request)
    off = {service.host for service in call.web.ledger.services() if service.disabled}
    nodes = [node for node in call.web.ledger.nodes_in_brief() if node.host not in off]
    sums = {name: sum(getattr(node, name) or 0 for node in nodes) for name in _SUMS}
    return answered({"hypervisor_statistics": {"count": len(nodes), **sums}}, version)


def uptime_text(booted_at: datetime, now: datetime) -> str:
    """Say it as `uptime` does, in UTC; `?` stands for what is not recorded: users and load."""
    up_s = int(max(now - booted_at, timedelta()).total_seconds())
    days, rest_s = divmod(up_s, _DAY_S)
    long = f"{days} day{'s' * (days != 1)}, " if days else ""
    return f" {now:%H:%M:%S} up {long}{rest_s // 3600:2d}:{rest_s // 60 % 60:02d},  ? users,  load average: ?, ?, ?"


def _list(call: Call[HypervisorsQuery, None], kind: type[NovaHypervisor]) -> Reply[dict[str, Any]]:
    version = version_asked(call.request, UUIDS)
    ledger, query = call.web.ledger, call.query
    nodes = ledger.nodes() if kind is HypervisorDetail else ledger.nodes_in_brief()
    page, more = _cut(nodes, query)
    services = {service.host: service for service in ledger.services()}
    servers = _servers(call.web, page) if query.with_servers else None
    shown = tuple(_shown(kind, node, services.get(node.host), call.web, servers) for node in page)
    body: dict[str, Any] = {"hypervisors": shown}
    if more:
        next_page = str(call.request.url.include_query_params(marker=page[-1].uuid))
        body["hypervisors_links"] = (Link(rel="next", href=next_page),)
    return answered(body, version)


def _cut(nodes: Sequence[ComputeNode], query: HypervisorsQuery) -> tuple[Sequence[ComputeNode], bool]:
    """Take the nodes that were asked for, and say whether there are more."""
    pattern = query.hypervisor_hostname_pattern
    if pattern is not None:
        if query.limit or query.marker is not None:
            what = "a pattern can't be combined with limit or marker"
            raise NotServed(HTTPStatus.BAD_REQUEST, what, where="hypervisor_hostname_pattern")
        found = [node for node in nodes if pattern in node.hypervisor_hostname]
        if not found:
            raise NotFound(f"no hypervisor's name contains {pattern!r}")
        return found, False
    start = 0
    if query.marker is not None:
        places = {node.uuid: place for place, node in enumerate(nodes, 1)}
        if query.marker not in places:
            raise NotServed(HTTPStatus.BAD_REQUEST, f"there is no hypervisor {query.marker!r}", where="marker")
        start = places[query.marker]
    end = start + min(query.limit or PAGE_ITEMS, PAGE_ITEMS)
    return nodes[start:end], len(nodes) > end


def _node(call: Call[Any, None]) -> ComputeNode:
    """
    Find a node by its uuid only: clients that are given a name take the refusal for the sign to look through the list.
    """
    asked = call.path["uuid"].lower()
    if not re.fullmatch(UUID, asked):
        raise NotServed(HTTPStatus.BAD_REQUEST, f"{asked[:100]!r} is not a uuid", remedy="os-hypervisors lists them.")
    return call.web.ledger.node(asked)


def _shown(
    kind: type[NovaHypervisor],
    node: ComputeNode,
    service: Service | None,
    web: Web,
    servers: Mapping[str, Sequence[NovaServer]] | None,
) -> NovaHypervisor:
    fields = _fields(node, service, web)
    if servers is not None:
        fields["servers"] = tuple(servers[node.uuid])
    if kind is HypervisorDetail:
        fields |= {name: getattr(node, name) for name in (*_SUMS, "host_ip")}
        fields |= {
            "hypervisor_type": node.hypervisor_type or "unknown",
            "hypervisor_version": node.hypervisor_version or 0,
            "service": ServiceOf(
                id=service.uuid if service else "",
                host=node.host,
                disabled_reason=service.disabled_reason if service else None,
            ),
            "cpu_info": _cpu_info(node.cpu_info),
        }
    return kind(**fields)


def _fields(node: ComputeNode, service: Service | None, web: Web) -> dict[str, Any]:
    """Give what every form has."""
    alive = service and service_word(service, web.clock.now(), web.settings.service_down_time) != "down"
    return {
        "id": node.uuid,
        "hypervisor_hostname": node.hypervisor_hostname,
        "state": "up" if alive else "down",
        "status": "disabled" if service and service.disabled else "enabled",
    }


def _cpu_info(text: str) -> Any:
    """Read what the driver says of the CPU, JSON in a text; nothing of one that is none."""
    try:
        return msgspec.json.decode(text)
    except msgspec.DecodeError:
        return {}


def _servers(web: Web, nodes: Iterable[ComputeNode]) -> Mapping[str, Sequence[NovaServer]]:
    """Find the instances on nodes, by the nodes' uuids."""
    by_place: dict[tuple[str | None, str | None], list[NovaServer]] = defaultdict(list)
    for one in web.ledger.instances():
        by_place[one.host, one.node].append(NovaServer(uuid=one.uuid, name=one.name or one.uuid))
    return {node.uuid: by_place[node.host, node.hypervisor_hostname] for node in nodes}


ROUTES = (
    nova("GET", "/os-hypervisors", listed, READERS),
    nova("GET", "/os-hypervisors/detail", detailed, READERS),
    nova("GET", "/os-hypervisors/statistics", statistics, READERS),
    nova("GET", "/os-hypervisors/{uuid}", shown, READERS),
    nova("GET", "/os-hypervisors/{uuid}/uptime", uptime, READERS),
)
