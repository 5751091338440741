"""
The fleet as tiles. Invariant: pure; a tile's colour is its scarcest resource: that of which most of the capacity is
allocated. A resource that a node has none of is left out.
"""

from collections.abc import Mapping, Sequence

from stocktake.accounting.capacity import RESOURCES
from stocktake.model.value import Value
from stocktake.views.nodes import NodeView
from stocktake.views.problems import Word
from stocktake.views.quantities import count

RACK = "CUSTOM_RACK_"
NO_RACK = "no rack"
# Colours go in steps of so many percent.
_STEP = 10


class Tile(Value, frozen=True, kw_only=True):
    """
    A node in the fleet.

    Attributes:
        scarce: the scarcest resource's name; empty if it has none.
        percent: how much of its capacity is allocated.
        problems: the codes of all that is wrong.
    """

    uuid: str
    name: str
    host: str
    word: Word
    disabled: bool
    scarce: str
    percent: int
    problems: tuple[str, ...]
    error: bool
    traits: frozenset[str]

    @property
    def look(self) -> str:
        """Its classes: how full it is, what state it is in, whether something is wrong."""
        names = [f"l{min(self.percent // _STEP, 10)}" if self.scarce else "l"]
        if self.word not in {"up", "manual"}:
            names.append(self.word)
        if self.disabled:
            names.append("off")
        if self.problems:
            names.append("e" if self.error else "w")
        return " ".join(names)

    @property
    def label(self) -> str:
        """What it is, in words."""
        parts = [f"{self.percent} % of {self.scarce}" if self.scarce else "empty", self.word]
        if self.disabled:
            parts.append("disabled")
        if self.problems:
            parts.append(count(len(self.problems), "problem"))
        return f"{self.name}: {', '.join(parts)}"


def tile_of(view: NodeView) -> Tile:
    """Make a node's tile."""
    shares = [(one.percent, RESOURCES[name].title) for name, one in view.resources.items() if one.percent is not None]
    # Of equal ones the first named.
    percent, scarce = max(shares, key=lambda share: share[0], default=(0, ""))
    return Tile(
        uuid=view.node.uuid,
        name=view.name,
        host=view.node.host,
        word=view.state.word,
        disabled=view.disabled,
        scarce=scarce,
        percent=percent,
        problems=tuple(problem.code for problem in view.problems),
        error=view.severity == "error",
        traits=view.node.traits,
    )


def grouped(tiles: Sequence[Tile]) -> Mapping[str, tuple[Tile, ...]]:
    """
    Put tiles into groups, in order: by rack if any node has one, else by host; all in one if each host has one node.

    A node's rack is what follows `CUSTOM_RACK_` in a trait of it.
    """
    racks = {tile.uuid: _rack(tile) for tile in tiles}
    if any(racks.values()):
        return _groups(tiles, [racks[tile.uuid] or NO_RACK for tile in tiles])
    hosts = [tile.host for tile in tiles]
    if len(set(hosts)) == len(tiles):
        return {"all nodes": tuple(tiles)} if tiles else {}
    return _groups(tiles, hosts)


def _rack(tile: Tile) -> str:
    return min((trait.removeprefix(RACK) for trait in tile.traits if trait.startswith(RACK)), default="")


def _groups(tiles: Sequence[Tile], names: Sequence[str]) -> Mapping[str, tuple[Tile, ...]]:
    found: dict[str, list[Tile]] = {}
    for tile, name in zip(tiles, names, strict=True):
        found.setdefault(name, []).append(tile)
    # Those without a rack come last.
    return {name: tuple(found[name]) for name in sorted(found, key=lambda name: (name == NO_RACK, name))}
