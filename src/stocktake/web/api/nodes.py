"""
`/v1/nodes`: what each has, what is allocated, what is free, why, and how that was over time.

Invariant: reading asks the ledger, nobody else.
"""

from functools import partial
from typing import Annotated, Literal

from msgspec import Meta

from stocktake.model.access import OPERATORS, READERS
from stocktake.model.value import Value
from stocktake.refresh.node_removal import check_removable, remove
from stocktake.report.notifications import open_bus
from stocktake.views.choosing import Choice
from stocktake.views.explain import Explained, explained
from stocktake.views.finding import find_node, read_fleet
from stocktake.views.nodes import (
    HistoryRow,
    NodeDetail,
    NodeSummary,
    detail_of,
    history_rows,
    summary_of,
    view_of,
)
from stocktake.views.problems import Word
from stocktake.web.calls import Call, Query, Text, route
from stocktake.web.paging import Page, PageQuery, page_of

_DAY_S = 86_400.0


class NodesQuery(PageQuery, frozen=True, kw_only=True):
    """Which nodes; each filter narrows down further."""

    host: Annotated[Text | None, Meta(description="Those of this service.")] = None
    name: Annotated[Text | None, Meta(description="Those of this name; `*` stands for any text, `?` for a letter.")] = (
        None
    )
    state: Annotated[tuple[Literal[Word, "disabled"], ...], Meta(description="Those in one of these states.")] = ()
    machine: Annotated[
        tuple[Text, ...],
        Meta(description="Bare-metal nodes of which Ironic says one of these, such as `available` or `maintenance`."),
    ] = ()
    problem: Annotated[
        tuple[Text, ...],
        Meta(description="Those with a problem of one of these codes, patterns such as `placement-*`, `orphan` and "
             "`misplaced` among them; `any` is with any, `none` without."),
    ] = ()  # fmt: skip
    trait: Annotated[tuple[Text, ...], Meta(description="Those with all of these traits.")] = ()


class ExplainQuery(Query, frozen=True, kw_only=True):
    """Which figure."""

    field: Annotated[Text | None, Meta(description="One figure, such as `memory_mb_used`; all unless given.")] = None


class HistoryQuery(PageQuery, frozen=True, kw_only=True):
    """How far back."""

    since_s: Annotated[float, Meta(gt=0, le=3660 * _DAY_S, description="How many seconds back from now.")] = _DAY_S


class DeleteQuery(Query, frozen=True, kw_only=True):
    """How sure."""

    force: Annotated[bool, Meta(description="Even if its agent is alive, and will make it again.")] = False
    force_provider: Annotated[
        Text | None,
        Meta(description="Its resource provider's uuid: it goes even if it is Nova's or others hold something of it."),
    ] = None


class NodeDeleted(Value, frozen=True, kw_only=True):
    """A deleted node; `provider_left` is why its resource provider is still there, or null."""

    provider_left: str | None


def listed(call: Call[NodesQuery, None]) -> Page[NodeSummary]:
    """List the nodes, by name: state, how full they are, problems."""
    web, query = call.web, call.query
    views = read_fleet(web.ledger, web.clock.now(), web.settings.service_down_time, host=query.host)
    choice = Choice(
        states=query.state, machines=query.machine, problems=query.problem, traits=query.trait, name=query.name
    )
    page = page_of(choice.chosen(views), lambda view: (view.name, view.node.uuid), query)
    return Page(items=tuple(map(summary_of, page.items)), next=page.next)


def shown(call: Call[None, None]) -> NodeDetail:
    """Show everything about one node, by its name or uuid."""
    ledger = call.web.ledger
    node = find_node(ledger, call.path["node"])
    service, entries = ledger.service(node.host), ledger.entries(node.uuid)
    view = view_of(node, service, entries, call.web.clock.now(), call.web.settings.service_down_time)
    return detail_of(view, ledger.devices([node.uuid])[node.uuid])


def why(call: Call[ExplainQuery, None]) -> Explained:
    """Say why a node's numbers are what they are: who takes what, and the arithmetic."""
    ledger = call.web.ledger
    node = find_node(ledger, call.path["node"])
    devices = ledger.devices([node.uuid])[node.uuid]
    return explained(node, ledger.entries(node.uuid), devices, call.query.field)


def history(call: Call[HistoryQuery, None]) -> Page[HistoryRow]:
    """
    List how full a node was over time, the oldest first.

    There is a row for an interval in which a figure changed, fewer the older they are; the first is the one that held
    when the time that was asked for began.
    """
    ledger = call.web.ledger
    node = find_node(ledger, call.path["node"])
    found = history_rows(node, ledger.entries(node.uuid), ledger.history(node.uuid, since_s=call.query.since_s))
    return page_of(found, lambda one: (one.at.isoformat(timespec="microseconds"),), call.query)


def deleted(call: Call[DeleteQuery, None]) -> NodeDeleted:
    """
    Delete a node's record and its resource provider.

    One that still has instances stays, and so does one whose agent is alive, unless forced. A resource provider that is
    Nova's, or of which consumers that the ledger does not know hold something, is left where it is.
    """
    web = call.web
    node = find_node(web.ledger, call.path["node"])
    check_removable(web.ledger, node, web.clock.now(), web.settings.service_down_time, force=call.query.force)
    settings = web.settings
    told = partial(open_bus, settings.notifications, settings.host, web.clock, web.ids)
    left = remove(web.ledger, web.scheduler, node, told, force_provider=call.query.force_provider)
    return NodeDeleted(provider_left=left)


ROUTES = (
    route("GET", "/v1/nodes", listed, READERS),
    route("GET", "/v1/nodes/{node}", shown, READERS),
    route("DELETE", "/v1/nodes/{node}", deleted, OPERATORS),
    route("GET", "/v1/nodes/{node}/explain", why, READERS),
    route("GET", "/v1/nodes/{node}/history", history, READERS),
)
