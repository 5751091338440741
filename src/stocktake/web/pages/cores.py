"""
A map of a node: sockets, cells, cores, and who is pinned to which CPU. Invariant: pure; a CPU is shown once, in its
cell.
"""

from collections.abc import Mapping, Sequence
from typing import Literal

from stocktake.model.books import ComputeNode, Entry
from stocktake.model.topology import NodeCell, NodePages
from stocktake.model.value import Value

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
