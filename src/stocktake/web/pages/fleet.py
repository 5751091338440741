"""`/`: every node as a tile, what there is in all, filters. Invariant: a filter narrows tiles and sums alike."""

from collections import Counter
from glob import escape
from typing import Annotated

from msgspec import Meta
from starlette.responses import Response

from stocktake.accounting.capacity import RESOURCES, added
from stocktake.model.access import READERS
from stocktake.views.choosing import Choice
from stocktake.views.finding import read_fleet
from stocktake.views.nodes import NodeView, machine
from stocktake.web.calls import Call, Query, route
from stocktake.web.context import Web
from stocktake.web.pages.frame import MEDIA, page, refused
from stocktake.web.pages.tiles import grouped, tile_of

# Up to so many, a tile has its name in it.
_NAMED_MAX = 300
# So many changed nodes are asked for one by one; beyond that the whole page is.
TILES_MAX = 100
STATES = ("up", "manual", "stale", "failed", "down", "disabled")
Typed = Annotated[str, Meta(pattern="^[^\\u0000]*$", max_length=255)]


class FleetQuery(Query, frozen=True, kw_only=True):
    """Which nodes; each narrows down further, and empty is any."""

    name: Typed = ""
    state: Typed = ""
    problem: Typed = ""
    trait: Typed = ""


class TilesQuery(FleetQuery, frozen=True, kw_only=True):
    """Which of the fleet's tiles: nodes' uuids."""

    node: Annotated[tuple[Typed, ...], Meta(max_length=TILES_MAX)] = ()


def fleet(call: Call[FleetQuery, None]) -> Response:
    """Show the fleet."""
    every = _read(call.web)
    views = _choice(call.query).chosen(every)
    tiles = [tile_of(view) for view in views]
    words = Counter("disabled" if tile.disabled else tile.word for tile in tiles)
    codes = Counter(code for view in every for code in {problem.code for problem in view.problems})
    return page(
        call,
        "fleet.html",
        wish=call.query,
        groups=grouped(tiles),
        named=len(tiles) <= _NAMED_MAX,
        number=len(tiles),
        every=len(every),
        totals=added(view.resources.values() for view in views),
        resources=RESOURCES,
        states=(*STATES, *sorted({word for view in every for word in machine(view.node)})),
        words={word: words[word] for word in STATES if words[word]},
        troubled=sum(bool(tile.problems) for tile in tiles),
        problems=dict(sorted(codes.items())),
        traits=sorted(frozenset().union(*(view.node.traits for view in every))),
    )


def some(call: Call[TilesQuery, None]) -> Response:
    """Show some nodes' tiles alone; those that the filters leave out are not among them."""
    views = _choice(call.query).chosen(_read(call.web, call.query.node))
    return page(call, "tiles.html", tiles=[tile_of(view) for view in views])


def _read(web: Web, uuids: tuple[str, ...] | None = None) -> list[NodeView]:
    return read_fleet(web.ledger, web.clock.now(), web.settings.service_down_time, uuids=uuids)


def _choice(query: FleetQuery) -> Choice:
    """A name is a pattern with `*` or `?`, or else a part of one."""
    name = query.name.strip()
    if name and not {"*", "?"} & set(name):
        name = f"*{escape(name)}*"
    return Choice(
        states=(query.state,) if query.state else (),
        problems=(query.problem,) if query.problem else (),
        traits=(query.trait,) if query.trait else (),
        name=name or None,
    )


ROUTES = (
    route("GET", "/", fleet, READERS, media=MEDIA, hidden=True, errors=refused),
    route("GET", "/tiles", some, READERS, media=MEDIA, hidden=True, errors=refused),
)
