"""
`/v1/problems` and `/v1/services`: who looks after the fleet, and what is wrong in it. Invariant: the worst comes
first.
"""

from typing import Annotated

from msgspec import Meta

from stocktake.model.access import OPERATORS, READERS
from stocktake.model.problem import Severity
from stocktake.model.value import Value
from stocktake.views.finding import find_service, read_fleet
from stocktake.views.problems import FleetProblem, ServiceShown, Word, fleet_problems, service_shown
from stocktake.web.calls import Call, Text, route
from stocktake.web.paging import Page, PageQuery, page_of

_REASON_LENGTH_MAX = 1000


class ProblemsQuery(PageQuery, frozen=True, kw_only=True):
    """Which problems."""

    host: Annotated[Text | None, Meta(description="Those of this service.")] = None
    severity: Annotated[Severity | None, Meta(description="Those of this severity.")] = None
    code: Annotated[Text | None, Meta(description="Those of this code, such as `agent-down` or `orphan`.")] = None


class ServicesQuery(PageQuery, frozen=True, kw_only=True):
    """Which services."""

    state: Annotated[tuple[Word, ...], Meta(description="Those in one of these states.")] = ()
    disabled: Annotated[bool | None, Meta(description="Those disabled, or those enabled.")] = None


class DisableReason(Value, frozen=True, kw_only=True):
    """Why; it is shown with the service."""

    reason: Annotated[str, Meta(min_length=1, max_length=_REASON_LENGTH_MAX)]


def problems(call: Call[ProblemsQuery, None]) -> Page[FleetProblem]:
    """List what is wrong in the fleet, the worst first: silent agents, failed refreshes, conflicts, orphans."""
    web, query = call.web, call.query
    now, down_s = web.clock.now(), web.settings.service_down_time
    views = read_fleet(web.ledger, now, down_s, host=query.host)
    services = [one for one in web.ledger.services() if query.host is None or one.host == query.host]
    found = [
        problem
        for problem in fleet_problems(((view.node, view.own_problems) for view in views), services, now, down_s)
        if (query.severity is None or problem.severity == query.severity)
        and (query.code is None or problem.code == query.code)
    ]
    return page_of(found, lambda problem: problem.key, query)


def services(call: Call[ServicesQuery, None]) -> Page[ServiceShown]:
    """List the services (agents), by host."""
    now, down_s = call.web.clock.now(), call.web.settings.service_down_time
    shown = [service_shown(service, now, down_s) for service in call.web.ledger.services()]
    asked = [
        one
        for one in shown
        if (not call.query.state or one.state in call.query.state)
        and (call.query.disabled is None or one.disabled == call.query.disabled)
    ]
    return page_of(asked, lambda service: (service.host,), call.query)


def service(call: Call[None, None]) -> ServiceShown:
    """Show the service of a host."""
    found = find_service(call.web.ledger, call.path["host"])
    return service_shown(found, call.web.clock.now(), call.web.settings.service_down_time)


def disabled(call: Call[None, DisableReason]) -> ServiceShown:
    """
    Have the scheduler send a host nothing new; what it has stays and counts.

    Placement learns of it (trait COMPUTE_STATUS_DISABLED) with the agent's next pass.
    """
    return _set(call, call.path["host"], reason=call.body.reason)


def enabled(call: Call[None, None]) -> ServiceShown:
    """Let the scheduler send a host new instances again."""
    return _set(call, call.path["host"], reason=None)


def _set(call: Call[None, DisableReason] | Call[None, None], host: str, *, reason: str | None) -> ServiceShown:
    web = call.web
    found = find_service(web.ledger, host)
    done = web.ledger.set_service(found.host, disabled=reason is not None, reason=reason)
    return service_shown(done, web.clock.now(), web.settings.service_down_time)


ROUTES = (
    route("GET", "/v1/problems", problems, READERS),
    route("GET", "/v1/services", services, READERS),
    route("GET", "/v1/services/{host}", service, READERS),
    route("POST", "/v1/services/{host}/disable", disabled, OPERATORS),
    route("POST", "/v1/services/{host}/enable", enabled, OPERATORS),
)
