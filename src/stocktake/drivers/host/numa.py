"""
Step 4, NUMA cells and huge pages from /sys. Invariant: what the kernel says of a cell is passed on as it is; verify has
the doubts.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from stocktake.drivers.host.cpu import HostCpu
from stocktake.drivers.host.files import numbered, read_cpus, read_number, read_sizes_kb
from stocktake.drivers.machine import HostCpus
from stocktake.model.topology import HostCell, HostPages, HostTopology
from stocktake.settings import ReservedPages


def read_topology(
    root: Path, cpus: HostCpus, places: Mapping[int, HostCpu], *, page_kb: int, reserved: Sequence[ReservedPages]
) -> HostTopology | None:
    """
    Read the cells: MiB rounded down, page sizes in KiB; None if the kernel tells of no cells.

    Raises:
        OSError, ValueError, InvalidData: something of them can't be read.
    """
    folders = numbered(root / "sys/devices/system/node", "node")
    cells = tuple(
        _cell(number, folder, cpus, places, page_kb=page_kb, reserved=reserved) for number, folder in folders.items()
    )
    return HostTopology(cells=cells) if cells else None


def _cell(
    number: int,
    folder: Path,
    cpus: HostCpus,
    places: Mapping[int, HostCpu],
    *,
    page_kb: int,
    reserved: Sequence[ReservedPages],
) -> HostCell:
    own = read_cpus(folder / "cpulist") & places.keys()
    usable = own & (cpus.shared | cpus.dedicated)
    siblings = {places[cpu].siblings & usable for cpu in own} - {frozenset()}
    packages = {places[cpu].package for cpu in own}
    memory_kb = read_sizes_kb(folder / "meminfo").get("MemTotal", 0)
    reserved_pages = {entry.size_kb: entry.count for entry in reserved if entry.node == number}
    return HostCell(
        id=number,
        cpuset=own & cpus.shared,
        pcpuset=own & cpus.pinnable,
        memory_mb=memory_kb // 1024,
        siblings=tuple(sorted(siblings, key=sorted)),
        pages=_pages(folder, memory_kb, page_kb, reserved_pages),
        # With several sockets in a cell, "the" socket of the cell means nothing.
        socket=packages.pop() if len(packages) == 1 else None,
    )


def _pages(folder: Path, memory_kb: int, page_kb: int, reserved: Mapping[int, int]) -> tuple[HostPages, ...]:
    """List the page sizes; what huge pages don't hold is in the kernel's own pages, rounded down."""
    counts: dict[int, int] = {}
    for size, pool in _huge(folder).items():
        counts[size] = read_number(pool / "nr_hugepages") or 0
    huge_kb = sum(size * count for size, count in counts.items())
    counts[page_kb] = max(memory_kb - huge_kb, 0) // page_kb
    return tuple(
        HostPages(size_kb=size, total=count, reserved=reserved.get(size, 0)) for size, count in sorted(counts.items())
    )


def _huge(folder: Path) -> dict[int, Path]:
    """List the pools of huge pages (`hugepages-2048kB`) by size in KiB."""
    try:
        pools = list((folder / "hugepages").iterdir())
    except FileNotFoundError:
        return {}
    sizes = {pool.name.removeprefix("hugepages-").removesuffix("kB"): pool for pool in pools}
    return {int(size): pool for size, pool in sizes.items() if size.isdecimal()}
