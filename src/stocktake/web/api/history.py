"""`/v1/nodes/{node}/history`: how full a node was over time. Invariant: a row holds until the next one."""

from typing import Annotated

from msgspec import Meta

from stocktake.model.access import READERS
from stocktake.views.finding import find_node
from stocktake.views.nodes import HistoryRow, history_rows
from stocktake.web.calls import Call, route
from stocktake.web.paging import Page, PageQuery, page_of

DAY_S = 86_400.0
_LONGEST_S = 3660 * DAY_S


class HistoryQuery(PageQuery, frozen=True, kw_only=True):
    """How far back."""

    since_s: Annotated[float, Meta(gt=0, le=_LONGEST_S, description="How many seconds back from now.")] = DAY_S


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


ROUTES = (route("GET", "/v1/nodes/{node}/history", history, READERS),)
