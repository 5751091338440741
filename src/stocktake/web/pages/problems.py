"""`/problems`: all that is wrong in the fleet. Invariant: the worst comes first, each with what to do about it."""

from collections import Counter
from typing import Annotated

from msgspec import Meta
from starlette.responses import Response

from stocktake.model.access import READERS
from stocktake.views.finding import read_fleet
from stocktake.views.problems import FleetProblem, fleet_problems
from stocktake.web.calls import Call, route
from stocktake.web.pages.fleet import Typed
from stocktake.web.pages.frame import MEDIA, page, refused
from stocktake.web.paging import PageQuery, page_of

_SHOWN = 200


class ProblemsForm(PageQuery, frozen=True, kw_only=True):
    """Which problems; empty is any."""

    severity: Typed = ""
    code: Typed = ""
    host: Annotated[Typed, Meta(description="A part of the host's or the node's name.")] = ""
    limit: Annotated[int, Meta(ge=1, le=1000)] = _SHOWN


def problems(call: Call[ProblemsForm, None]) -> Response:
    """Show what is wrong."""
    query, web = call.query, call.web
    now, down_s = web.clock.now(), web.settings.service_down_time
    views = read_fleet(web.ledger, now, down_s)
    every = fleet_problems(((view.node, view.own_problems) for view in views), web.ledger.services(), now, down_s)
    found = [problem for problem in every if _matches(problem, query)]
    shown = page_of(found, lambda problem: problem.key, query)
    return page(
        call,
        "problems.html",
        query=query,
        shown=shown.items,
        next=shown.next,
        number=len(found),
        every=len(every),
        nodes=len(views),
        errors=sum(problem.severity == "error" for problem in found),
        codes=sorted(Counter(problem.code for problem in every).items()),
    )


def _matches(problem: FleetProblem, query: ProblemsForm) -> bool:
    return (
        query.severity in {"", problem.severity}
        and query.code in {"", problem.code}
        and (query.host in problem.host or query.host in (problem.node or ""))
    )


ROUTES = (route("GET", "/problems", problems, READERS, media=MEDIA, hidden=True, errors=refused),)
