"""
Step 6: cells, pinned CPUs and pages. Invariant: a host CPU is pinned by one holder at most; what can't be placed is
told.

Rules: docs/accounting.md, "NUMA".
"""

from collections.abc import Iterable, Mapping, Sequence

from stocktake.model.books import Entry
from stocktake.model.problem import Problem
from stocktake.model.topology import (
    CellTake,
    GuestCell,
    GuestTopology,
    HostTopology,
    NodeCell,
    NodePages,
    NodeTopology,
    PagesTaken,
)
from stocktake.model.value import replace

KIB_PER_MIB = 1024
_NO_CPU: frozenset[int] = frozenset()


class Cells:
    """
    A record's cells while holders are placed on them, one after another.

    It remembers only who has pinned which CPU: everything else is summed from the takes. The record's pinned CPUs are
    others'.
    """

    def __init__(self, topology: NodeTopology | None) -> None:
        cells = topology.cells if topology else ()
        self._cells: Mapping[int, NodeCell] = {cell.id: cell for cell in cells}
        self._pinned_by = {cpu: "another guest" for cell in cells for cpu in cell.pinned_cpus}

    def place(self, holder: str, topology: GuestTopology | None) -> tuple[tuple[CellTake, ...], tuple[Problem, ...]]:
        """
        Place a guest's cells on the host's.

        Args:
            holder: the guest's uuid, for the problems and to tell who has a CPU.

        Returns:
            What it takes of each host cell, and what could not be placed.
        """
        if topology is None or not self._cells:
            return (), ()
        takes: list[CellTake] = []
        problems: list[Problem] = []
        for guest in topology.cells:
            cell = self._cells.get(guest.id)
            if cell is None:
                problems.append(_problem("guest-cell-unknown", holder, f"the host has no cell {guest.id}"))
                continue
            pages, missing = _pages(guest, cell)
            pinned, refused = self._pin(holder, guest, cell)
            problems.extend(_problem(code, holder, text) for code, text in (*missing, *refused))
            takes.append(
                CellTake(
                    cell=cell.id,
                    vcpus=len(guest.cpuset),
                    memory_mb=guest.memory_mb,
                    pinned_cpus=pinned,
                    pages=pages,
                )
            )
        return tuple(takes), tuple(problems)

    def _pin(self, holder: str, guest: GuestCell, cell: NodeCell) -> tuple[frozenset[int], list[tuple[str, str]]]:
        """Pin what the guest asks for and is free; say what isn't."""
        asked = _asked(guest, cell)
        if not asked:
            return _NO_CPU, []
        unknown = asked - cell.pcpuset
        taken = {cpu: self._pinned_by[cpu] for cpu in asked & self._pinned_by.keys() if self._pinned_by[cpu] != holder}
        # What the same guest's other side of a resize has pinned already is pinned, once.
        pinned = asked - unknown - self._pinned_by.keys()
        self._pinned_by |= dict.fromkeys(pinned, holder)
        refused: list[tuple[str, str]] = []
        if unknown:
            where = f"cell {cell.id} has {_numbers(cell.pcpuset)} to pin"
            refused.append(("pinned-cpu-unknown", f"it pins CPU {_numbers(unknown)}, {where}"))
        if taken:
            others = ", ".join(sorted(set(taken.values())))
            refused.append(("pinned-cpu-taken", f"it pins CPU {_numbers(taken)} of cell {cell.id}, held by {others}"))
        return frozenset(pinned), refused


def unused(topology: HostTopology | None) -> NodeTopology | None:
    """Make a record's cells of the host's, with nothing taken of them."""
    if topology is None:
        return None
    return NodeTopology(
        cells=tuple(
            NodeCell(
                id=cell.id,
                cpuset=cell.cpuset,
                pcpuset=cell.pcpuset,
                memory_mb=cell.memory_mb,
                siblings=cell.siblings,
                pages=tuple(
                    NodePages(size_kb=pages.size_kb, total=pages.total, reserved=pages.reserved, used=0)
                    for pages in cell.pages
                ),
                socket=cell.socket,
                cpu_usage=0,
                memory_usage_mb=0,
                pinned_cpus=_NO_CPU,
            )
            for cell in topology.cells
        )
    )


def shifted(topology: NodeTopology | None, gone: Sequence[Entry], come: Sequence[Entry]) -> NodeTopology | None:
    """Make the cells that a node has once some entries are gone and others have come."""
    if topology is None:
        return None
    leaving, coming = _takes(gone), _takes(come)
    if not (leaving or coming):
        return topology
    return NodeTopology(
        cells=tuple(_shifted(cell, leaving.get(cell.id, ()), coming.get(cell.id, ())) for cell in topology.cells)
    )


def overfull(topology: NodeTopology | None, *, cpu_ratio: float, ram_ratio: float) -> tuple[Problem, ...]:
    """
    Find cells that hold more than they have (a difference to Nova, which says nothing).

    Shared CPUs and memory may be over-allocated up to their allocation ratios; pages other than the smallest may not.
    """
    if topology is None:
        return ()
    problems: list[Problem] = []
    for cell in topology.cells:
        limits: list[tuple[str, int, float]] = [
            ("vCPUs", cell.cpu_usage, len(cell.cpuset) * cpu_ratio),
            ("MiB", cell.memory_usage_mb, cell.memory_mb * ram_ratio),
        ]
        smallest = min((pages.size_kb for pages in cell.pages), default=0)
        for pages in cell.pages:
            holds = pages.total - pages.reserved
            limit = holds * ram_ratio if pages.size_kb == smallest else holds
            limits.append((f"pages of {pages.size_kb} KiB", pages.used, limit))
        for what, taken, limit in limits:
            if taken > max(limit, 0):
                text = f"{taken} {what} are allocated of cell {cell.id}, whose capacity is {max(int(limit), 0)}"
                remedy = "Move a guest away, or give the cell more."
                problems.append(Problem(code="cell-overfull", about=f"cell {cell.id}", text=text, remedy=remedy))
    return tuple(problems)


def _asked(guest: GuestCell, cell: NodeCell) -> frozenset[int]:
    """Collect the host CPUs that a guest cell pins; an isolating one takes the whole cores."""
    if guest.cpu_policy is None or guest.cpu_policy == "shared":
        return _NO_CPU
    asked = frozenset((guest.cpu_pinning or {}).values()) | (guest.cpuset_reserved or frozenset())
    if guest.cpu_thread_policy != "isolate":
        return asked
    return asked.union(*(core for core in cell.siblings if core & asked))


def _pages(guest: GuestCell, cell: NodeCell) -> tuple[tuple[PagesTaken, ...], list[tuple[str, str]]]:
    """Work out the pages that a guest cell takes, cut down to whole ones."""
    sizes = [pages.size_kb for pages in cell.pages]
    size_kb = guest.pagesize_kb or min(sizes, default=None)
    if size_kb is None or size_kb not in sizes:
        has = f"cell {cell.id} has pages of {_numbers(sizes)} KiB" if sizes else f"cell {cell.id} reports no pages"
        asks = f"it asks for pages of {size_kb} KiB" if size_kb else "it takes the smallest pages"
        return (), [("page-size-unknown", f"{asks}, {has}")]
    return (PagesTaken(size_kb=size_kb, count=guest.memory_mb * KIB_PER_MIB // size_kb),), []


def _takes(entries: Iterable[Entry]) -> dict[int, list[CellTake]]:
    """Collect what entries take, by the host cell's id."""
    takes: dict[int, list[CellTake]] = {}
    for entry in entries:
        for take in entry.cells:
            takes.setdefault(take.cell, []).append(take)
    return takes


def _shifted(cell: NodeCell, leaving: Sequence[CellTake], coming: Sequence[CellTake]) -> NodeCell:
    if not (leaving or coming):
        return cell
    used = {pages.size_kb: pages.used for pages in cell.pages}
    for takes, sign in ((leaving, -1), (coming, 1)):
        for taken in (taken for take in takes for taken in take.pages):
            used[taken.size_kb] = used.get(taken.size_kb, 0) + sign * taken.count
    pinned = cell.pinned_cpus - frozenset().union(*(take.pinned_cpus for take in leaving))
    return replace(
        cell,
        cpu_usage=cell.cpu_usage + sum(take.vcpus for take in coming) - sum(take.vcpus for take in leaving),
        memory_usage_mb=cell.memory_usage_mb
        + sum(take.memory_mb for take in coming)
        - sum(take.memory_mb for take in leaving),
        pinned_cpus=pinned.union(*(take.pinned_cpus for take in coming)),
        pages=tuple(replace(pages, used=used[pages.size_kb]) for pages in cell.pages),
    )


def _numbers(numbers: Iterable[int]) -> str:
    return ", ".join(str(number) for number in sorted(numbers)) or "none"


def _problem(code: str, holder: str, text: str) -> Problem:
    return Problem(
        code=code,
        about=holder,
        text=f"guest {holder}: {text}",
        remedy="Its CPUs, memory and disk count; what could not be placed is left out of the cells.",
    )
