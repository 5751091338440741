"""`/`: every node as a tile, what there is in all, filters. Law: a filter narrows tiles and sums alike."""

from collections import Counter
from typing import Annotated

from msgspec import Meta
from starlette.responses import Response

from stocktake.model.value import Value
from stocktake.views.state import states_of
from stocktake.web.calls import READERS, Call, Query, route
from stocktake.web.pages.frame import MEDIA, page, refused
from stocktake.web.pages.tiles import TITLES, Sold, Tile, Wish, added, grouped, matches, sold_by, tile_of
from stocktake.web.parts import Web

# Up to so many, a tile has its name in it.
_NAMED_MAX = 300
# So many changed nodes are asked for one by one; beyond that the whole page is.
TILES_MAX = 100
STATES = ("up", "manual", "stale", "failed", "down", "disabled")
Typed = Annotated[str, Meta(pattern="^[^\\u0000]*$", max_length=255)]


class FleetQuery(Query, frozen=True, kw_only=True):
    """Which nodes; see `tiles.Wish`."""

    name: Typed = ""
    state: Typed = ""
    problem: Typed = ""
    trait: Typed = ""


class TilesQuery(FleetQuery, frozen=True, kw_only=True):
    """Which of the fleet's tiles: nodes' uuids."""

    node: Annotated[tuple[Typed, ...], Meta(max_length=TILES_MAX)] = ()


class Shown(Value, frozen=True, kw_only=True):
    """
    The fleet as it is.

    Attributes:
        tiles, sold: of each node, in the same order.
    """

    tiles: tuple[Tile, ...]
    sold: tuple[tuple[Sold, ...], ...]


def fleet_of(web: Web, uuids: tuple[str, ...] | None = None) -> Shown:
    """Read the fleet, or some of its nodes."""
    nodes = web.ledger.nodes_in_brief(uuids=uuids)
    others = web.ledger.strangers([node.uuid for node in nodes], reserves=True)
    states = states_of(nodes, web.ledger.services(), web.clock.now(), web.settings.service_down_time)
    sold = tuple(sold_by(node, others.get(node.uuid, ())) for node in nodes)
    tiles = tuple(tile_of(node, others.get(node.uuid, ()), service, state) for node, service, state in states)
    return Shown(tiles=tiles, sold=sold)


def fleet(call: Call[FleetQuery, None]) -> Response:
    """Show the fleet."""
    wish = _wish(call.query)
    shown = fleet_of(call.web)
    wanted = [(tile, sold) for tile, sold in zip(shown.tiles, shown.sold, strict=True) if matches(tile, wish)]
    tiles = [tile for tile, _ in wanted]
    words = Counter("disabled" if tile.disabled else tile.word for tile in tiles)
    return page(
        call,
        "fleet.html",
        wish=wish,
        groups=grouped(tiles),
        named=len(tiles) <= _NAMED_MAX,
        number=len(tiles),
        every=len(shown.tiles),
        totals=added(sold for _, sold in wanted),
        titles=TITLES,
        states=STATES,
        words={word: words[word] for word in STATES if words[word]},
        troubled=sum(bool(tile.problems) for tile in tiles),
        problems=sorted(Counter(code for tile in shown.tiles for code in set(tile.problems)).items()),
        traits=sorted(frozenset().union(*{tile.traits for tile in shown.tiles})),
    )


def some(call: Call[TilesQuery, None]) -> Response:
    """Show some nodes' tiles alone; those that the filters leave out are not among them."""
    shown = fleet_of(call.web, call.query.node)
    wish = _wish(call.query)
    return page(call, "tiles.html", tiles=[tile for tile in shown.tiles if matches(tile, wish)])


def _wish(query: FleetQuery) -> Wish:
    return Wish(name=query.name.strip(), state=query.state, problem=query.problem, trait=query.trait)


ROUTES = (
    route("GET", "/", fleet, READERS, media=MEDIA, hidden=True, errors=refused),
    route("GET", "/tiles", some, READERS, media=MEDIA, hidden=True, errors=refused),
)
