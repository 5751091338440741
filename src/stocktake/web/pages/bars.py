"""
What a node has of each resource, as a bar and as numbers that say why. Invariant: pure; a bar's parts are a node's
entries.
"""

from collections.abc import Mapping, Sequence

from stocktake.model.books import STRANGERS, ComputeNode, Entry, HolderKind
from stocktake.model.value import Value
from stocktake.views.nodes import sold_of
from stocktake.views.words import ratio as ratio_text
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
