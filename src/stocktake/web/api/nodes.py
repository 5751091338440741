"""`/v1/nodes`. Law: the ledger is read, nobody else is asked."""

from stocktake.ledger import Ledger
from stocktake.model.books import ComputeNode
from stocktake.views.nodes import NodeDetail, NodeSummary, detail_of, summary_of
from stocktake.views.state import state_of, states_of
from stocktake.web.calls import READERS, Call, Page, Query, route


class NodesQuery(Query, frozen=True, kw_only=True):
    """Which nodes."""

    host: str | None = None


def listed(call: Call[NodesQuery, None]) -> Page[NodeSummary]:
    """List the nodes: state, used, total, problems."""
    ledger, down_s = call.web.ledger, call.web.settings.service_down_time
    nodes = ledger.nodes(host=call.query.host)
    states = states_of(nodes, ledger.services(), call.web.clock.now(), down_s)
    return Page(items=tuple(summary_of(*one) for one in states))


def shown(call: Call[None, None]) -> NodeDetail:
    """Show everything about one node, by its name or uuid."""
    ledger = call.web.ledger
    node = find_node(ledger, call.path["node"])
    service = ledger.service(node.host)
    state = state_of(node, service, call.web.clock.now(), call.web.settings.service_down_time)
    devices = ledger.devices([node.uuid])[node.uuid]
    return detail_of(node, service, state, ledger.entries(node.uuid), devices)


def find_node(ledger: Ledger, name: str) -> ComputeNode:
    """
    Find a node by its name or uuid.

    Raises:
        NotFound: there is none; names the nearest.
    """
    return ledger.node(name)


ROUTES = (
    route("GET", "/v1/nodes", listed, READERS),
    route("GET", "/v1/nodes/{node}", shown, READERS),
)
