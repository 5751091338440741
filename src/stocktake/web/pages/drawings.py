"""
A node as drawings: its resources as bars, its CPUs as a map, its history as plots. Invariant: pure; a bar's parts are
the node's entries, a CPU is shown once, and what is not known is not drawn.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Literal

from stocktake.model.books import STRANGERS, ComputeNode, Entry, HolderKind
from stocktake.model.history import Moment
from stocktake.model.topology import NodeCell, NodePages
from stocktake.model.value import Value
from stocktake.views.nodes import sold_of
from stocktake.views.quantities import ratio as ratio_text
from stocktake.views.quantities import since
from stocktake.web.pages.tiles import TITLES, sold_by

# A bar is drawn so many units long.
LENGTH = 1000
_LEAST = 4
UNITS: Mapping[str, str] = {"vcpus": "vCPUs", "memory_mb": "MiB", "local_gb": "GB"}
# What makes a bar, from its left end; the word that a reader sees, and the class of its colour.
PARTS: tuple[tuple[str, str, frozenset[HolderKind]], ...] = (
    ("reserved for the host", "kept", frozenset({"reserved"})),
    ("instances", "mine", frozenset({"instance"})),
    ("migrations", "move", frozenset({"migration"})),
    ("nobody promised", "lost", STRANGERS),
)
_USED = {"vcpus": "vcpus_used", "memory_mb": "memory_mb_used", "local_gb": "local_gb_used"}
# The settings and the record's fields, as they are called.
_RESERVE = {
    "vcpus": "reserved_host_cpus",
    "memory_mb": "reserved_host_memory_mb",
    "local_gb": "reserved_host_disk_mb",
}
_RATIO = {"vcpus": "cpu_allocation_ratio", "memory_mb": "ram_allocation_ratio", "local_gb": "disk_allocation_ratio"}
_FREE = {"memory_mb": "free_ram_mb", "local_gb": "free_disk_gb"}
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
        physical: where on the bar what is there ends, if more than that may be promised; else None.
        numbers: what there is, what is taken, what is left.
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
        return f"{self.title}: {parts or 'nothing is taken'}"


def bars_of(node: ComputeNode, entries: Sequence[Entry]) -> tuple[Bar, ...]:
    """Draw a node's resources."""
    return tuple(_bar(node, entries, what) for what in TITLES)


def _bar(node: ComputeNode, entries: Sequence[Entry], what: str) -> Bar:
    total, reserved, _ratio = sold_of(node, entries)[what]
    sold = next(one for one in sold_by(node, entries) if one.what == what)
    taken = [(title, look, _taken(entries, what, kinds)) for title, look, kinds in PARTS]
    most = max(total, reserved + sold.capacity, -(-sum(amount for _, _, amount in taken) // _per_unit(what)), 1)
    segments: list[Segment] = []
    before = seen = 0
    for title, look, amount in taken:
        # From sums, so that what is rounded does not add up.
        start, end = (LENGTH * mark // (most * _per_unit(what)) for mark in (before, before + amount))
        if amount:
            # What is taken at all is seen, however little, and not behind another.
            start = min(max(start, seen), LENGTH - _LEAST)
            seen = max(end, start + _LEAST)
            text = f"{-(-amount // _per_unit(what)):,}"
            segments.append(Segment(title=title, look=look, start=start, length=seen - start, text=text))
        before += amount
    return Bar(
        what=what,
        title=TITLES[what],
        unit=UNITS[what],
        segments=tuple(segments),
        physical=LENGTH * total // most if total < most else None,
        numbers=_numbers(node, entries, what),
    )


def _taken(entries: Sequence[Entry], what: str, kinds: frozenset[HolderKind]) -> int:
    """Add up what these kinds take: disk in MiB, which is rounded where it is shown."""
    field = "disk_mb" if what == "local_gb" else what
    return sum(getattr(entry, field) for entry in entries if entry.kind in kinds)


def _per_unit(what: str) -> int:
    return _MIB_PER_GIB if what == "local_gb" else 1


def _numbers(node: ComputeNode, entries: Sequence[Entry], what: str) -> tuple[Number, ...]:
    total, reserved, times = sold_of(node, entries)[what]
    sold = next(one for one in sold_by(node, entries) if one.what == what)
    used: int = getattr(node, _USED[what])
    free = total - used
    free_step = f"{what} {total:,} - {_USED[what]} {used:,} = {free:,}"
    capacity_step = f"({total:,} - {reserved:,} reserved) x {ratio_text(times)} = {sold.capacity:,}, rounded down"
    left_step = f"{sold.capacity:,} may be promised - {sold.promised:,} promised = {sold.left:,}"
    hypervisor = node.hypervisor_type or "the hypervisor"
    return (
        _own(what, "physical", total, (f"What {hypervisor} said that it has.",)),
        _own(what, "reserved", reserved, (f"The setting {_RESERVE[what]}, or provider.yaml.",)),
        Number(title="used", text=f"{used:,}", why=f"why-{_USED[what]}"),
        Number(
            title="free",
            text=f"{free:,}",
            why=f"why-{_FREE.get(what, f'{what}-free')}",
            steps=() if what in _FREE else (free_step,),
            bad=free < 0,
        ),
        Number(
            title="ratio",
            text=ratio_text(times),
            why=f"why-{what}-ratio",
            steps=(f"The setting {_RATIO[what]}, or what the scheduler was told.",),
        ),
        _own(what, "may be promised", sold.capacity, (capacity_step,)),
        _own(what, "promised", sold.promised, (f"used {used:,} - reserved {reserved:,} = {sold.promised:,}",)),
        _own(what, "left", sold.left, (capacity_step, left_step)),
    )


def _own(what: str, title: str, amount: int, steps: tuple[str, ...]) -> Number:
    anchor = f"why-{what}-{title.replace(' ', '-')}"
    return Number(title=title, text=f"{amount:,}", why=anchor, steps=steps, bad=amount < 0)


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
            "lost": "pinned, nobody says by whom",
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
        """How much of its memory is promised, rounded up."""
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
            number = len(found)
            found.append(
                Holder(
                    id=entry.id,
                    name=entry.name or entry.id,
                    sign=sign(number),
                    colour=number % COLOURS,
                    cpus=cpus,
                )
            )
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
    """What was used of what there was, from a time on."""

    at: datetime
    used: int
    total: int


class Plot(Value, frozen=True, kw_only=True):
    """
    A drawing of `WIDTH` by `HEIGHT`.

    Attributes:
        area, line: paths of what was used and of what there was.
        most: the amount at the upper edge.
        ticks: where along the lower edge which time is written.
        label: the drawing in words.
    """

    title: str
    unit: str
    area: str
    line: str
    most: int
    ticks: tuple[tuple[int, str], ...]
    label: str


def points_of(history: Iterable[Moment], what: str) -> tuple[Point, ...]:
    """Pick one resource of a node's history, the oldest first."""
    found = [Point(at=then.at, used=getattr(then, f"{what}_used"), total=getattr(then, what)) for then in history]
    return tuple(sorted(found, key=lambda point: point.at))


def plot(points: Sequence[Point], title: str, unit: str, *, now: datetime, span: timedelta) -> Plot | None:
    """Draw the last `span` of what is known, the oldest first; None if nothing is."""
    start = now - span
    before = [point for point in points if point.at <= start]
    shown = [*before[-1:], *(point for point in points if start < point.at <= now)]
    if not shown:
        return None
    most = max(1, *(max(point.used, point.total) for point in shown))
    edges = [(_across(max(point.at, start), start, span), point) for point in shown]
    used = _steps([(across, _up(point.used, most)) for across, point in edges])
    total = _steps([(across, _up(point.total, most)) for across, point in edges])
    low, high = min(point.used for point in shown), max(point.used for point in shown)
    last = shown[-1]
    return Plot(
        title=title,
        unit=unit,
        area=f"{used}V{HEIGHT}H{edges[0][0]}Z",
        line=total,
        most=most,
        ticks=_ticks(now, span),
        label=f"{title} in the last {since(start, now)}: from {low:,} to {high:,} {unit}, "
        f"now {last.used:,} of {last.total:,}",
    )


def _steps(marks: Sequence[tuple[int, int]]) -> str:
    """Write a path that keeps each height until the next, and the last until now."""
    (across, up), *rest = marks
    return f"M{across} {up}" + "".join(f"H{across}V{up}" for across, up in rest) + f"H{WIDTH}"


def _across(moment: datetime, start: datetime, span: timedelta) -> int:
    return round(WIDTH * ((moment - start) / span))


def _up(amount: int, most: int) -> int:
    return HEIGHT - round(HEIGHT * amount / most)


def _ticks(now: datetime, span: timedelta) -> tuple[tuple[int, str], ...]:
    """Write times at equal distances, in UTC, the last of them now."""
    form = "%H:%M" if span <= DAY else "%d %b"
    times = [(number, now - span + span * number / _TICKS) for number in range(1, _TICKS)]
    return tuple((WIDTH * number // _TICKS, time.strftime(form)) for number, time in times)
