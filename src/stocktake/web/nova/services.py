"""
os-services, os-hosts and os-aggregates. Invariant: an agent is shown as what it stands for, `nova-compute` in zone
`nova`.

Scripts ask for that binary by its name. `forced_down` and `disabled` are the ledger's; the agent tells the scheduler
with its next pass.
"""

from datetime import UTC
from http import HTTPStatus
from typing import Annotated, Literal

from msgspec import Meta

from stocktake.errors import NotFound
from stocktake.model.access import OPERATORS, READERS
from stocktake.model.books import ComputeNode
from stocktake.model.value import Value
from stocktake.model.workload import Instance, Service
from stocktake.views.finding import find_service
from stocktake.views.problems import service_word
from stocktake.web.calls import Call, Query, Reply, Text
from stocktake.web.context import Web
from stocktake.web.nova import UUIDS, answered, nova, version_asked
from stocktake.web.status import NotServed

BINARY = "nova-compute"
ZONE = "nova"


class NovaServicesQuery(Query, frozen=True, kw_only=True):
    """Which services."""

    host: Text | None = None
    binary: Text | None = None


class NovaService(Value, frozen=True, kw_only=True):
    """A service; `updated_at` is its last sign of life, in UTC."""

    id: str
    binary: str = BINARY
    host: str
    zone: str = ZONE
    status: Literal["enabled", "disabled"]
    state: Literal["up", "down"]
    updated_at: str | None
    disabled_reason: str | None
    forced_down: bool


class ServiceChange(Value, frozen=True, kw_only=True):
    """What a service shall be; None leaves it as it is."""

    status: Literal["enabled", "disabled"] | None = None
    disabled_reason: Annotated[str, Meta(min_length=1, max_length=255)] | None = None
    forced_down: bool | None = None


class NovaHost(Value, frozen=True, kw_only=True):
    """A line of the list of hosts."""

    host_name: str
    service: str = "compute"
    zone: str = ZONE


class HostAmounts(Value, frozen=True, kw_only=True):
    """What a host has or uses, or what a project was allocated on it: vCPUs, MiB, GiB."""

    host: str
    project: str
    cpu: int
    memory_mb: int
    disk_gb: int


def listed(call: Call[NovaServicesQuery, None]) -> Reply[dict[str, list[NovaService]]]:
    """List the services, by host."""
    version = version_asked(call.request, UUIDS)
    found = call.web.ledger.services() if call.query.binary in (None, BINARY) else ()
    asked = [one for one in found if call.query.host in (None, one.host)]
    return answered({"services": [_shown(one, call.web) for one in asked]}, version)


def changed(call: Call[None, ServiceChange]) -> Reply[dict[str, NovaService]]:
    """
    Enable or disable a service, or say that its host is down whatever its agent says.

    A reason goes with disabling; enabling forgets it.
    """
    version = version_asked(call.request, UUIDS)
    ledger, body = call.web.ledger, call.body
    if body.status is None and body.forced_down is None:
        raise NotServed(HTTPStatus.BAD_REQUEST, "the body changes nothing", remedy="Give status or forced_down.")
    if body.disabled_reason is not None and body.status != "disabled":
        raise NotServed(HTTPStatus.BAD_REQUEST, "a reason goes with the status `disabled` only")
    found = next((one for one in ledger.services() if one.uuid == call.path["uuid"].lower()), None)
    if found is None:
        raise NotFound(f"there is no service {call.path['uuid'][:100]!r}")
    disabled = None if body.status is None else body.status == "disabled"
    done = ledger.set_service(found.host, disabled=disabled, reason=body.disabled_reason, forced_down=body.forced_down)
    return answered({"service": _shown(done, call.web)}, version)


def hosts(call: Call[None, None]) -> Reply[dict[str, list[NovaHost]]]:
    """List the hosts, by name."""
    version = version_asked(call.request)
    known = [NovaHost(host_name=service.host) for service in call.web.ledger.services()]
    return answered({"hosts": known}, version)


def host(call: Call[None, None]) -> Reply[dict[str, list[dict[str, HostAmounts]]]]:
    """Show what a host has, what is used, and what each project was allocated."""
    version = version_asked(call.request)
    name = find_service(call.web.ledger, call.path["host"]).host
    nodes = call.web.ledger.nodes_in_brief(host=name)
    instances = call.web.ledger.instances(host=name)
    projects = sorted({one.project_id for one in instances if one.project_id})
    lines = [
        _of_nodes(name, "(total)", nodes, ""),
        _of_nodes(name, "(used_now)", nodes, "_used"),
        _of_instances(name, "(used_max)", instances),
        *(_of_instances(name, one, [each for each in instances if each.project_id == one]) for one in projects),
    ]
    return answered({"host": [{"resource": line} for line in lines]}, version)


def aggregates(call: Call[None, None]) -> Reply[dict[str, tuple[()]]]:
    """List the aggregates: none. Clients that show a hypervisor ask for them."""
    return answered({"aggregates": ()}, version_asked(call.request))


def _shown(service: Service, web: Web) -> NovaService:
    word = service_word(service, web.clock.now(), web.settings.service_down_time)
    updated_at = service.last_seen_up or service.updated_at
    return NovaService(
        id=service.uuid,
        host=service.host,
        status="disabled" if service.disabled else "enabled",
        state="down" if word == "down" else "up",
        updated_at=f"{updated_at.astimezone(UTC):%Y-%m-%dT%H:%M:%S.%f}" if updated_at else None,
        disabled_reason=service.disabled_reason,
        forced_down=service.forced_down,
    )


def _of_nodes(host: str, project: str, nodes: tuple[ComputeNode, ...], end: str) -> HostAmounts:
    cpu, memory_mb, disk_gb = (
        sum(getattr(node, name + end) for node in nodes) for name in ("vcpus", "memory_mb", "local_gb")
    )
    return HostAmounts(host=host, project=project, cpu=cpu, memory_mb=memory_mb, disk_gb=disk_gb)


def _of_instances(host: str, project: str, instances: "tuple[Instance, ...] | list[Instance]") -> HostAmounts:
    flavors = [one.flavor for one in instances]
    return HostAmounts(
        host=host,
        project=project,
        cpu=sum(flavor.vcpus for flavor in flavors),
        memory_mb=sum(flavor.memory_mb for flavor in flavors),
        disk_gb=sum(flavor.root_gb + flavor.ephemeral_gb for flavor in flavors),
    )


ROUTES = (
    nova("GET", "/os-services", listed, READERS),
    nova("PUT", "/os-services/{uuid}", changed, OPERATORS),
    nova("GET", "/os-hosts", hosts, READERS),
    nova("GET", "/os-hosts/{host}", host, READERS),
    nova("GET", "/os-aggregates", aggregates, READERS),
)
