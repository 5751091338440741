"""`/nodes/<name or uuid>`: everything about a node. Invariant: every number leads to why it is so, on the same page."""

from collections.abc import Sequence
from datetime import datetime

from starlette.responses import Response

from stocktake.accounting.capacity import RESOURCES
from stocktake.ledger import DatabaseLedger
from stocktake.model.access import READERS
from stocktake.model.books import ComputeNode, Entry
from stocktake.views.explain import explained
from stocktake.views.finding import find_node
from stocktake.views.nodes import facts_of, history_rows, view_of
from stocktake.views.quantities import ago
from stocktake.web.calls import Call, route
from stocktake.web.pages.drawings import (
    DAY,
    HEIGHT,
    LENGTH,
    MONTH,
    PARTS,
    WIDTH,
    Plot,
    bars_of,
    map_of,
    plot,
    points_of,
)
from stocktake.web.pages.frame import MEDIA, page, refused


def node(call: Call[None, None]) -> Response:
    """Show a node."""
    ledger, now = call.web.ledger, call.web.clock.now()
    found = find_node(ledger, call.path["node"])
    entries = ledger.entries(found.uuid)
    devices = ledger.devices([found.uuid])[found.uuid]
    view = view_of(found, ledger.service(found.host), entries, now, call.web.settings.service_down_time)
    return page(
        call,
        "node.html",
        node=found,
        title=view.name,
        service=view.service,
        state=view.state,
        facts=facts_of(view, now),
        problems=sorted(view.problems, key=lambda problem: problem.severity),
        bars=bars_of(view, entries),
        length=LENGTH,
        parts=PARTS,
        map=map_of(found, entries),
        entries=_by_size(entries),
        devices=devices,
        names={entry.id: entry.name or entry.id for entry in entries},
        why=explained(found, entries, devices),
        plots=_plots(ledger, found, entries, now),
        plot_width=WIDTH,
        plot_height=HEIGHT,
        seen=ago(max(metric.timestamp for metric in found.metrics), now) if found.metrics else "",
    )


def _by_size(entries: Sequence[Entry]) -> tuple[Entry, ...]:
    """Put what takes most memory first, what is reserved before all."""
    return tuple(sorted(entries, key=lambda entry: (entry.kind != "reserved", -entry.memory_mb, entry.id)))


def _plots(
    ledger: DatabaseLedger, found: ComputeNode, entries: Sequence[Entry], now: datetime
) -> tuple[tuple[str, tuple[Plot, ...]], ...]:
    """Draw a day and a month; nothing of which there is no history."""
    rows = history_rows(found, entries, ledger.history(found.uuid, since_s=MONTH.total_seconds()))
    drawn: list[tuple[str, tuple[Plot, ...]]] = []
    for title, span in (("The last day", DAY), ("The last month", MONTH)):
        plots = (
            plot(points_of(rows, name), RESOURCES[name], now=now, span=span) for name in RESOURCES if name != "pcpus"
        )
        drawn.append((title, tuple(one for one in plots if one is not None)))
    return tuple((title, plots) for title, plots in drawn if plots)


ROUTES = (route("GET", "/nodes/{node}", node, READERS, media=MEDIA, hidden=True, errors=refused),)
