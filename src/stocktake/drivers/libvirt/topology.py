"""
Step 4, which CPUs and which cells: NUMA as libvirt's capabilities tell it. Invariant: only CPUs that are online count.

The rules are Nova's (release 34, nova/virt/libvirt/driver.py: `_get_vcpu_available`, `_get_pcpu_available`,
`_get_host_numa_topology`). Where neither set is configured, a cell lists its CPUs as `pcpuset` too, as guests may be
pinned to them, and none is sold as PCPU.
"""

from collections.abc import Mapping
from xml.etree.ElementTree import Element

from stocktake.drivers.cpus import HostCpus
from stocktake.drivers.libvirt.xml import cpu_set, number
from stocktake.model.topology import HostCell, HostPages, HostTopology

# Cell to page size (KiB) to pages that are not for guests.
ReservedPages = Mapping[int, Mapping[int, int]]


def host_topology(capabilities: Element, cpus: HostCpus, reserved: ReservedPages) -> HostTopology | None:
    """
    Read the NUMA cells: MiB rounded down, page sizes in KiB; None if libvirt reports no cells.

    `reserved` pages above a cell's total are passed on as they are: verify makes a problem of them.

    Raises:
        InvalidData: an id or a number can't be read.
    """
    cells = capabilities.findall("./host/topology/cells/cell")
    if not cells:
        return None
    return HostTopology(cells=tuple(_cell(cell, cpus, reserved) for cell in cells))


def _cell(cell: Element, cpus: HostCpus, reserved: ReservedPages) -> HostCell:
    cell_id = number(cell.get("id"), what="a NUMA cell's id")
    listed = cell.findall("./cpus/cpu")
    ids = frozenset(number(cpu.get("id"), what="a CPU's id") for cpu in listed)
    sold = ids & (cpus.shared | cpus.dedicated)
    # An offline CPU is listed without its siblings and socket.
    siblings = {cpu_set(cpu.get("siblings"), what="a CPU's siblings") & sold for cpu in listed}
    sockets = {cpu.get("socket_id") for cpu in listed} - {None}
    return HostCell(
        id=cell_id,
        cpuset=ids & cpus.shared,
        pcpuset=ids & cpus.pinnable,
        memory_mb=_memory_kb(cell) // 1024,
        siblings=tuple(sorted(siblings - {frozenset()}, key=sorted)),
        pages=tuple(_pages(pages, reserved.get(cell_id, {})) for pages in cell.findall("pages")),
        # As in Nova: with several sockets in a cell, "the" socket of the cell means nothing.
        socket=number(sockets.pop(), what="a CPU's socket") if len(sockets) == 1 else None,
    )


def _memory_kb(cell: Element) -> int:
    memory = cell.find("memory")
    # A cell of CPUs only, without memory of its own, has no such element.
    return 0 if memory is None else number(memory.text, what="a NUMA cell's memory")


def _pages(pages: Element, reserved: Mapping[int, int]) -> HostPages:
    size_kb = number(pages.get("size"), what="a page size")
    return HostPages(
        size_kb=size_kb, total=number(pages.text, what="a number of pages"), reserved=reserved.get(size_kb, 0)
    )


def cell_by_cpu(capabilities: Element) -> dict[int, int]:
    """Say which cell each of the host's CPUs is in; empty without NUMA."""
    return {
        number(cpu.get("id"), what="a CPU's id"): number(cell.get("id"), what="a NUMA cell's id")
        for cell in capabilities.findall("./host/topology/cells/cell")
        for cpu in cell.findall("./cpus/cpu")
    }


def has_hyperthreading(capabilities: Element) -> bool:
    """Whether any core runs more than one thread; from the siblings: libvirt's `threads` may be wrong."""
    listed = capabilities.findall("./host/topology/cells/cell/cpus/cpu")
    return any(len(cpu_set(cpu.get("siblings"), what="a CPU's siblings")) > 1 for cpu in listed)
