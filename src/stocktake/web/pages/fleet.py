"""`/`: every node as a tile, what there is in all, filters. Invariant: a filter narrows tiles and sums alike."""

from collections import Counter
from collections.abc import Mapping, Sequence
from glob import escape
from typing import Annotated

from msgspec import Meta
from starlette.responses import Response

from stocktake.model.access import READERS
from stocktake.model.books import Entry
from stocktake.views.choosing import Choice, Line
from stocktake.views.nodes import machine, states_of
from stocktake.views.problems import codes_of
from stocktake.web.calls import Call, Query, route
from stocktake.web.context import Web
from stocktake.web.pages.frame import MEDIA, page, refused
from stocktake.web.pages.tiles import TITLES, Tile, added, grouped, sold_by, tile_of

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
    every, others = _read(call.web)
    lines = _choice(call.query).chosen(every, others)
    tiles = _tiles(lines, others)
    words = Counter("disabled" if tile.disabled else tile.word for tile in tiles)
    codes = Counter(code for node, *_ in every for code in set(codes_of(node, others.get(node.uuid, ()))))
    return page(
        call,
        "fleet.html",
        wish=call.query,
        groups=grouped(tiles),
        named=len(tiles) <= _NAMED_MAX,
        number=len(tiles),
        every=len(every),
        totals=added(sold_by(node, others.get(node.uuid, ())) for node, *_ in lines),
        titles=TITLES,
        states=(*STATES, *sorted({word for node, *_ in every for word in machine(node)})),
        words={word: words[word] for word in STATES if words[word]},
        troubled=sum(bool(tile.problems) for tile in tiles),
        problems=dict(sorted(codes.items())),
        traits=sorted(frozenset().union(*(node.traits for node, *_ in every))),
    )


def some(call: Call[TilesQuery, None]) -> Response:
    """Show some nodes' tiles alone; those that the filters leave out are not among them."""
    every, others = _read(call.web, call.query.node)
    return page(call, "tiles.html", tiles=_tiles(_choice(call.query).chosen(every, others), others))


def _read(web: Web, uuids: tuple[str, ...] | None = None) -> tuple[Sequence[Line], Mapping[str, Sequence[Entry]]]:
    """Read the fleet, or some of its nodes, and what is reserved or nobody's there."""
    nodes = web.ledger.nodes_in_brief(uuids=uuids)
    others = web.ledger.unmanaged([node.uuid for node in nodes], reserves=True)
    return states_of(nodes, web.ledger.services(), web.clock.now(), web.settings.service_down_time), others


def _tiles(lines: Sequence[Line], others: Mapping[str, Sequence[Entry]]) -> list[Tile]:
    return [tile_of(node, others.get(node.uuid, ()), service, state) for node, service, state in lines]


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
