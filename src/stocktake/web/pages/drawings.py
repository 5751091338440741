"""
A node as drawings: its resources as bars, its CPUs as a map, its history as plots. Invariant: pure; a bar's parts are
the node's entries, a CPU is shown once, and what is not known is not drawn.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Literal

from stocktake.accounting.capacity import RESOURCES, Resource, ResourceTotals, cpus_used
from stocktake.model.books import UNMANAGED, ComputeNode, Entry, HolderKind
from stocktake.model.topology import NodeCell, NodePages
from stocktake.model.value import Value
from stocktake.views.nodes import HistoryRow, NodeView
from stocktake.views.quantities import ratio as ratio_text
from stocktake.views.quantities import since

# A bar is drawn so many units long.
LENGTH = 1000
_LEAST = 4
# What makes a bar, from its left end; the word that a reader sees, and the class of its colour.
PARTS: tuple[tuple[str, str, frozenset[HolderKind]], ...] = (
    ("reserved for the host", "kept", frozenset({"reserved"})),
    ("instances", "mine", frozenset({"instance"})),
    ("migrations", "move", frozenset({"migration"})),
    ("unmanaged guests", "lost", UNMANAGED),
)
_MIB_PER_GIB = 1024


class Segment(Value, frozen=True, kw_only=True):
    """A part of a bar: where it begins and how long it is, of `LENGTH`; `text` is its amount."""

    title: str
    look: str
    start: int
    length: int
    text: str


class Number(Value, frozen=True, kw_only=True):
    """
    One number of a resource.

    Attributes:
        why: the anchor of its explanation on the page.
        steps: the arithmetic, where the entries alone don't say it.
        bad: it is less than nothing.
    """

    title: str
    text: str
    why: str
    steps: tuple[str, ...] = ()
    bad: bool = False


class Bar(Value, frozen=True, kw_only=True):
    """
    One resource of a node.

    Attributes:
        segments: from left to right.
        physical: where on the bar the hardware's total is, if there is capacity for more; else None.
        numbers: total, reserved, ratio, capacity, allocated, free.
    """

    what: str
    title: str
    unit: str
    segments: tuple[Segment, ...]
    physical: int | None
    numbers: tuple[Number, ...]

    @property
    def label(self) -> str:
        """The bar in words."""
        parts = ", ".join(f"{one.text} {self.unit} {one.title}" for one in self.segments)
        return f"{self.title}: {parts or 'nothing is allocated'}"


def bars_of(view: NodeView, entries: Sequence[Entry]) -> tuple[Bar, ...]:
    """Draw a node's resources."""
    return tuple(_bar(view, entries, one) for one in view.resources.values())


def _bar(view: NodeView, entries: Sequence[Entry], one: ResourceTotals) -> Bar:
    resource = RESOURCES[one.name]
    per_unit = _MIB_PER_GIB if one.name == "local_gb" else 1
    taken = [(title, look, _taken(view, entries, one.name, kinds)) for title, look, kinds in PARTS]
    most = max(one.total, one.reserved + one.capacity, -(-sum(amount for _, _, amount in taken) // per_unit), 1)
    segments: list[Segment] = []
    before = drawn = 0
    for title, look, amount in taken:
        # From sums, so that what is rounded does not add up.
        start, end = (LENGTH * mark // (most * per_unit) for mark in (before, before + amount))
        if amount:
            # What is taken at all is seen, however little, and not behind another.
            start = min(max(start, drawn), LENGTH - _LEAST)
            drawn = max(end, start + _LEAST)
            text = f"{-(-amount // per_unit):,}"
            segments.append(Segment(title=title, look=look, start=start, length=drawn - start, text=text))
        before += amount
    return Bar(
        what=one.name,
        title=resource.title,
        unit=resource.unit,
        segments=tuple(segments),
        physical=LENGTH * one.total // most if one.total < most else None,
        numbers=_numbers(view.node, one),
    )


def _taken(view: NodeView, entries: Sequence[Entry], name: str, kinds: frozenset[HolderKind]) -> int:
    """Add up what these kinds take: disk in MiB, which is rounded where it is shown."""
    mine = [entry for entry in entries if entry.kind in kinds]
    if name in {"vcpus", "pcpus"}:
        return cpus_used(mine, dedicated="pcpus" in view.resources)[name == "pcpus"]
    return sum(entry.disk_mb if name == "local_gb" else entry.memory_mb for entry in mine)


def _numbers(node: ComputeNode, one: ResourceTotals) -> tuple[Number, ...]:
    resource = RESOURCES[one.name]
    said = f"What {node.hypervisor_type or 'the hypervisor'} says that it has."
    kept = f"The setting {resource.reserve_setting}, or provider.yaml." if resource.reserve_setting else "Never."
    ratio = (
        f"The setting {resource.ratio_field}, or what the scheduler was told." if resource.ratio_field else "Always."
    )
    capacity = f"({one.total:,} - {one.reserved:,} reserved) x {ratio_text(one.ratio)} = {one.capacity:,}, rounded down"
    used: int | None = getattr(node, resource.used_field) if resource.used_field else None
    taken: tuple[str, ...] = ()
    if used is None or used - one.reserved != one.allocated:
        allocated = _number(one, "allocated", f"{one.allocated:,}", "The sum of what the entries take of it.")
    else:
        # The entries of the record's field make it, the reserved one left out.
        allocated = Number(title="allocated", text=f"{one.allocated:,}", why=f"why-{resource.used_field}")
        taken = (f"{resource.used_field} {used:,} - {one.reserved:,} reserved = {one.allocated:,} allocated",)
    free = f"{one.capacity:,} capacity - {one.allocated:,} allocated = {one.free:,}"
    return (
        _number(one, "total", f"{one.total:,}", said),
        _number(one, "reserved", f"{one.reserved:,}", kept),
        _number(one, "ratio", ratio_text(one.ratio), ratio),
        _number(one, "capacity", f"{one.capacity:,}", capacity),
        allocated,
        _number(one, "free", f"{one.free:,}", capacity, *taken, free, bad=one.over_allocated),
    )


def _number(one: ResourceTotals, title: str, text: str, *steps: str, bad: bool = False) -> Number:
    return Number(title=title, text=text, why=f"why-{one.name}-{title}", steps=steps, bad=bad)


# So many colours there are; letters tell apart who shares one.
COLOURS = 8
_LETTERS = 26

Use = Literal["shared", "dedicated", "either", "pinned", "lost"]


class Holder(Value, frozen=True, kw_only=True):
    """
    Somebody with CPUs of its own.

    Attributes:
        sign: the letters that stand for it on the map.
        colour: from 0 below `COLOURS`.
        cpus: by cell.
    """

    id: str
    name: str
    sign: str
    colour: int
    cpus: tuple[tuple[int, frozenset[int]], ...]


class Cpu(Value, frozen=True, kw_only=True):
    """One CPU; `holder` where it is pinned, and None for one that is marked pinned though nobody says so (`lost`)."""

    number: int
    use: Use
    holder: Holder | None = None

    @property
    def label(self) -> str:
        """What it is, in words."""
        texts = {
            "shared": "for floating guests",
            "dedicated": "to be pinned, free",
            "either": "for floating guests or to be pinned, free",
            "lost": "pinned, no guest known",
        }
        text = f"pinned by {self.holder.name}" if self.holder else texts[self.use]
        return f"CPU {self.number}: {text}"


class Cell(Value, frozen=True, kw_only=True):
    """A NUMA cell: its cores, each with the CPUs that share it, and what it has of memory and of huge pages."""

    cell: NodeCell
    cores: tuple[tuple[Cpu, ...], ...]
    huge: tuple[NodePages, ...]

    @property
    def percent(self) -> int:
        """How much of its memory is allocated, rounded up."""
        return -(-100 * self.cell.memory_usage_mb // self.cell.memory_mb) if self.cell.memory_mb else 0


class Map(Value, frozen=True, kw_only=True):
    """Cells by socket (None where the hypervisor does not say), and who has CPUs of its own."""

    sockets: tuple[tuple[int | None, tuple[Cell, ...]], ...]
    holders: tuple[Holder, ...]


def map_of(node: ComputeNode, entries: Sequence[Entry]) -> Map | None:
    """Draw a node's map; None if it has no cells."""
    if node.numa_topology is None or not node.numa_topology.cells:
        return None
    holders = _holders(entries)
    by_cpu = {(cell, cpu): holder for holder in holders for cell, cpus in holder.cpus for cpu in cpus}
    sockets: dict[int | None, list[Cell]] = {}
    for cell in node.numa_topology.cells:
        cores = tuple(tuple(_cpu(number, cell, by_cpu) for number in sorted(core)) for core in _cores_of(cell))
        sockets.setdefault(cell.socket, []).append(Cell(cell=cell, cores=cores, huge=_huge(cell)))
    ordered = sorted(sockets.items(), key=lambda item: (item[0] is None, item[0] or 0))
    return Map(sockets=tuple((socket, tuple(cells)) for socket, cells in ordered), holders=holders)


def _holders(entries: Sequence[Entry]) -> tuple[Holder, ...]:
    found: list[Holder] = []
    for entry in entries:
        cpus = tuple((take.cell, take.pinned_cpus) for take in entry.cells if take.pinned_cpus)
        if cpus:
            name, number = entry.name or entry.id, len(found)
            found.append(Holder(id=entry.id, name=name, sign=sign(number), colour=number % COLOURS, cpus=cpus))
    return tuple(found)


def sign(number: int) -> str:
    """Give the letters of a number from 0 on: A to Z, then AA."""
    letters = ""
    left = number + 1
    while left:
        left, place = divmod(left - 1, _LETTERS)
        letters = chr(ord("A") + place) + letters
    return letters


def _cores_of(cell: NodeCell) -> tuple[frozenset[int], ...]:
    """Give the cell's cores by their first CPU; a CPU in no set of siblings is a core of its own."""
    cpus = cell.cpuset | cell.pcpuset
    cores = {core & cpus for core in cell.siblings if core & cpus}
    alone = cpus - frozenset().union(*cores)
    return tuple(sorted([*cores, *(frozenset({cpu}) for cpu in alone)], key=min))


def _cpu(number: int, cell: NodeCell, by_cpu: Mapping[tuple[int, int], Holder]) -> Cpu:
    holder = by_cpu.get((cell.id, number))
    if holder is not None:
        return Cpu(number=number, use="pinned", holder=holder)
    if number in cell.pinned_cpus:
        return Cpu(number=number, use="lost")
    if number in cell.pcpuset:
        return Cpu(number=number, use="either" if number in cell.cpuset else "dedicated")
    return Cpu(number=number, use="shared")


def _huge(cell: NodeCell) -> tuple[NodePages, ...]:
    """Give pages that are not the smallest: what is used of those is what is used of memory."""
    smallest = min((pages.size_kb for pages in cell.pages), default=0)
    return tuple(pages for pages in cell.pages if pages.total and pages.size_kb > smallest)


WIDTH, HEIGHT = 600, 120
DAY = timedelta(days=1)
MONTH = timedelta(days=30)
_TICKS = 6


class Point(Value, frozen=True, kw_only=True):
    """How full a resource was from a time on: what was allocated, the capacity, and what the hardware had."""

    at: datetime
    allocated: int
    capacity: int
    total: int


class Plot(Value, frozen=True, kw_only=True):
    """
    A drawing of `WIDTH` by `HEIGHT`.

    Attributes:
        area, line, total: paths of what was allocated, of the capacity, and of the hardware's total.
        most: the amount at the upper edge.
        ticks: where along the lower edge which time is written.
        label: the drawing in words.
    """

    title: str
    unit: str
    area: str
    line: str
    total: str
    most: int
    ticks: tuple[tuple[int, str], ...]
    label: str


def points_of(history: Iterable[HistoryRow], name: str) -> tuple[Point, ...]:
    """Pick one resource of a node's history, the oldest first."""
    found = [(row.at, row.resources[name]) for row in history]
    points = (Point(at=at, allocated=one.allocated, capacity=one.capacity, total=one.total) for at, one in found)
    return tuple(sorted(points, key=lambda point: point.at))


def plot(points: Sequence[Point], resource: Resource, *, now: datetime, span: timedelta) -> Plot | None:
    """Draw the last `span` of what is known, the oldest first; None if nothing is."""
    start = now - span
    before = [point for point in points if point.at <= start]
    shown = [*before[-1:], *(point for point in points if start < point.at <= now)]
    if not shown:
        return None
    most = max(1, *(max(point.allocated, point.capacity, point.total) for point in shown))
    across = [round(WIDTH * ((max(point.at, start) - start) / span)) for point in shown]

    def path(amounts: Iterable[int]) -> str:
        ups = (HEIGHT - round(HEIGHT * amount / most) for amount in amounts)
        return _steps(list(zip(across, ups, strict=True)))

    low, high = min(point.allocated for point in shown), max(point.allocated for point in shown)
    last = shown[-1]
    return Plot(
        title=resource.title,
        unit=resource.unit,
        area=f"{path(point.allocated for point in shown)}V{HEIGHT}H{across[0]}Z",
        line=path(point.capacity for point in shown),
        total=path(point.total for point in shown),
        most=most,
        ticks=_ticks(now, span),
        label=f"{resource.title} in the last {since(start, now)}: from {low:,} to {high:,} {resource.unit} allocated, "
        f"now {last.allocated:,} of {last.capacity:,}",
    )


def _steps(marks: Sequence[tuple[int, int]]) -> str:
    """Write a path that keeps each height until the next, and the last until now."""
    (across, up), *rest = marks
    return f"M{across} {up}" + "".join(f"H{across}V{up}" for across, up in rest) + f"H{WIDTH}"


def _ticks(now: datetime, span: timedelta) -> tuple[tuple[int, str], ...]:
    """Write times at equal distances, in UTC, the last of them now."""
    form = "%H:%M" if span <= DAY else "%d %b"
    times = [(number, now - span + span * number / _TICKS) for number in range(1, _TICKS)]
    return tuple((WIDTH * number // _TICKS, time.strftime(form)) for number, time in times)
