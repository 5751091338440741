"""
The fleet as tiles. Invariant: pure; a tile's colour is its scarcest resource, and what is promised in all is added up
here.

A resource is as scarce as what is promised of it is large, of what may be promised: what is not reserved, times the
ratio (docs/accounting.md). A resource that a node has none of is left out.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from stocktake.model.books import ComputeNode, Entry
from stocktake.model.value import Value
from stocktake.model.workload import Service
from stocktake.views.nodes import State, Word, called, capacity_of, sold_of
from stocktake.views.problems import codes_of
from stocktake.views.quantities import count

RACK = "CUSTOM_RACK_"
NO_RACK = "no rack"
# Colours go in steps of so many percent.
_STEP = 10
TITLES: Mapping[str, str] = {"vcpus": "vCPUs", "memory_mb": "memory", "local_gb": "disk"}
_USED: Mapping[str, str] = {"vcpus": "vcpus_used", "memory_mb": "memory_mb_used", "local_gb": "local_gb_used"}


class Sold(Value, frozen=True, kw_only=True):
    """
    One resource of a node, or of many: vCPUs, MiB or GB.

    Attributes:
        capacity: what may be promised.
        promised: what is, to instances, migrations and guests that nobody promised anything; reserves are not in it.
        left: what may still be promised; of many nodes, without those that have promised too much.
    """

    what: str
    total: int
    reserved: int
    capacity: int
    promised: int
    left: int

    @property
    def percent(self) -> int | None:
        """How much of what may be promised is promised, rounded up; None if there is nothing of it."""
        if self.capacity > 0:
            return max(0, -(-100 * self.promised // self.capacity))
        return 100 if self.promised > 0 else None

    @property
    def overcommit(self) -> float:
        """How often what is not reserved is promised."""
        physical = self.total - self.reserved
        return round(self.promised / physical, 2) if physical > 0 else 0.0


class Tile(Value, frozen=True, kw_only=True):
    """
    A node in the fleet.

    Attributes:
        scarce: the scarcest resource's name; empty if it has none.
        percent: how much of that is promised.
        problems: codes, the failure's and those of guests that nobody promised too.
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


def sold_by(node: ComputeNode, reserved: Sequence[Entry]) -> tuple[Sold, ...]:
    """
    Say what a node has sold of each resource.

    Args:
        reserved: what is kept for the host; other entries are passed over.
    """
    found: list[Sold] = []
    for what, (total, kept, ratio) in sold_of(node, reserved).items():
        used: int = getattr(node, _USED[what])
        capacity = capacity_of(total, kept, ratio)
        promised = used - kept
        found.append(
            Sold(what=what, total=total, reserved=kept, capacity=capacity, promised=promised, left=capacity - promised)
        )
    return tuple(found)


def tile_of(node: ComputeNode, others: Sequence[Entry], service: Service | None, state: State) -> Tile:
    """
    Make a node's tile.

    Args:
        others: what is reserved there, and guests that nobody promised it.
    """
    shares = [(one.percent, TITLES[one.what]) for one in sold_by(node, others) if one.percent is not None]
    # Of equal ones the first named.
    percent, scarce = max(shares, key=lambda share: share[0], default=(0, ""))
    return Tile(
        uuid=node.uuid,
        name=called(node),
        host=node.host,
        word=state.word,
        disabled=service.disabled if service else False,
        scarce=scarce,
        percent=percent,
        problems=codes_of(node, others),
        error=any(problem.severity == "error" for problem in node.wrong),
        traits=node.traits,
    )


def added(sold: Iterable[Sequence[Sold]]) -> tuple[Sold, ...]:
    """Add up what many nodes have sold."""
    sums: dict[str, Counter[str]] = {what: Counter() for what in TITLES}
    for several in sold:
        for one in several:
            mine = sums[one.what]
            mine["total"] += one.total
            mine["reserved"] += one.reserved
            mine["capacity"] += one.capacity
            mine["promised"] += one.promised
            mine["left"] += max(one.left, 0)
    names = ("total", "reserved", "capacity", "promised", "left")
    return tuple(Sold(what=what, **{name: mine[name] for name in names}) for what, mine in sums.items())


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
