"""
Step 4, NUMA: the host's cells, and where a guest sits in them. Invariant: only CPUs that are online count, and of a
guest only what binds it.

The rules for the host are Nova's (release 34, nova/virt/libvirt/driver.py: `_get_vcpu_available`,
`_get_pcpu_available`, `_get_host_numa_topology`). Where neither set is configured, a cell lists its CPUs as `pcpuset`
too, as guests may be pinned to them, and none is a PCPU.

A vCPU is pinned (dedicated) if its affinity is one host CPU, and floats (shared) otherwise. A guest cell sits on a host
cell if numatune, its pinned CPUs or the want of any other cell say so; what may sit anywhere takes of no cell.
"""

from collections.abc import Mapping
from typing import NamedTuple
from xml.etree.ElementTree import Element

from stocktake.drivers.libvirt.xml import cpu_set, number, scaled_bytes, size_bytes
from stocktake.drivers.machine import HostCpus
from stocktake.model.topology import CpuPolicy, GuestCell, GuestTopology, HostCell, HostPages, HostTopology
from stocktake.model.value import Value

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
    usable = ids & (cpus.shared | cpus.dedicated)
    # An offline CPU is listed without its siblings and socket.
    siblings = {cpu_set(cpu.get("siblings"), what="a CPU's siblings") & usable for cpu in listed}
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


MIB = 1024**2


class HostLayout(Value, frozen=True, kw_only=True):
    """
    The host as far as placing a guest needs it.

    Attributes:
        cell_by_cpu: which cell each host CPU is in; empty without NUMA.
        cells: ids of the host's cells.
        huge_kb: the size of a huge page where a definition doesn't say, KiB.
    """

    cell_by_cpu: Mapping[int, int]
    cells: frozenset[int]
    huge_kb: int | None


class _Part(NamedTuple):
    """A share of the guest that sits on one host cell."""

    host_cell: int
    vcpus: frozenset[int]
    memory_bytes: int
    pagesize_kb: int | None


def guest_topology(domain: Element, vcpus: frozenset[int], layout: HostLayout) -> GuestTopology | None:
    """
    Read where a guest sits; memory in MiB, rounded up in each cell.

    None if nothing binds it: no cells, no pinned CPU and no huge pages; or none of it to a cell of this host.

    Args:
        vcpus: ids of the vCPUs that it uses.

    Raises:
        InvalidData: a number or set can't be read.
    """
    affinity = _affinity(domain, vcpus)
    pins = {vcpu: min(cpus) for vcpu, cpus in affinity.items() if len(cpus) == 1}
    guest_cells = domain.findall("./cpu/numa/cell")
    if guest_cells:
        parts = _parts_of_cells(domain, guest_cells, vcpus, pins, layout)
    elif pins or domain.find("./memoryBacking/hugepages") is not None:
        parts = _parts_of_whole(domain, affinity, vcpus, layout)
    else:
        parts = []
    cells = tuple(_guest_cell(part, pins) for part in parts)
    return GuestTopology(cells=cells) if cells else None


def _guest_cell(part: _Part, pins: Mapping[int, int]) -> GuestCell:
    pinning = {vcpu: pins[vcpu] for vcpu in sorted(part.vcpus & pins.keys())}
    floating = part.vcpus - frozenset(pinning)
    policy: CpuPolicy = "shared" if not pinning else "mixed" if floating else "dedicated"
    return GuestCell(
        id=part.host_cell,
        cpuset=floating,
        pcpuset=frozenset(pinning),
        memory_mb=-(-part.memory_bytes // MIB),
        pagesize_kb=part.pagesize_kb,
        cpu_pinning=pinning or None,
        cpu_policy=policy,
    )


def _affinity(domain: Element, vcpus: frozenset[int]) -> dict[int, frozenset[int]]:
    """Say which host CPUs each vCPU may run on; a vCPU that may run on any is left out."""
    vcpu = domain.find("vcpu")
    everywhere = cpu_set(None if vcpu is None else vcpu.get("cpuset"), what="vcpu's cpuset")
    affinity = dict.fromkeys(vcpus, everywhere) if everywhere else {}
    for pin in domain.findall("./cputune/vcpupin"):
        pinned = number(pin.get("vcpu"), what="vcpupin's vcpu")
        if pinned in vcpus:
            affinity[pinned] = cpu_set(pin.get("cpuset"), what="vcpupin's cpuset")
    return affinity


def _parts_of_cells(
    domain: Element, guest_cells: list[Element], vcpus: frozenset[int], pins: Mapping[int, int], layout: HostLayout
) -> list[_Part]:
    memnodes = {
        number(node.get("cellid"), what="memnode's cellid"): _only(node.get("nodeset"))
        for node in domain.findall("./numatune/memnode")
    }
    parts: list[_Part] = []
    for position, cell in enumerate(guest_cells):
        cell_id = number(cell.get("id", str(position)), what="a cell's id")
        own = cpu_set(cell.get("cpus"), what="a cell's cpus") & vcpus
        host_cell = memnodes.get(cell_id)
        if host_cell is None:
            host_cell = _home(domain, {pins[vcpu] for vcpu in own & pins.keys()}, layout)
        if host_cell is not None:
            memory = scaled_bytes(cell.get("memory"), cell.get("unit"), what="a cell's memory")
            parts.append(_Part(host_cell, own, memory, _pagesize_kb(domain, cell_id, layout)))
    return parts


def _home(domain: Element, pinned_to: set[int], layout: HostLayout) -> int | None:
    """Say which host cell binds a guest or a part of it: numatune's, that of its pins, or the only one there is."""
    bound = _bound(domain)
    if bound is not None:
        return bound
    cells = {layout.cell_by_cpu[cpu] for cpu in pinned_to if cpu in layout.cell_by_cpu} or layout.cells
    return min(cells) if len(cells) == 1 else None


def _bound(domain: Element) -> int | None:
    tuned = domain.find("./numatune/memory")
    return None if tuned is None else _only(tuned.get("nodeset"))


def _parts_of_whole(
    domain: Element, affinity: Mapping[int, frozenset[int]], vcpus: frozenset[int], layout: HostLayout
) -> list[_Part]:
    """
    Divide a guest without cells of its own by the host cells that its CPUs are in.

    Its memory is where numatune binds it, else it is divided as its vCPUs are, rounded up (the kernel takes a page from
    the cell of the CPU that first writes to it).
    """
    pinned_to = {min(cpus) for cpus in affinity.values() if len(cpus) == 1}
    home = _home(domain, pinned_to, layout)
    by_cell: dict[int, set[int]] = {}
    for vcpu in vcpus:
        may_be_in = {layout.cell_by_cpu.get(cpu) for cpu in affinity.get(vcpu, ())}
        cell = may_be_in.pop() if len(may_be_in) == 1 else home
        if cell is not None:
            by_cell.setdefault(cell, set()).add(vcpu)
    memory = size_bytes(domain.find("memory"), what="memory")
    bound = _bound(domain)
    if bound is not None:
        by_cell.setdefault(bound, set())
    pagesize_kb = _pagesize_kb(domain, 0, layout)
    parts: list[_Part] = []
    for cell, own in sorted(by_cell.items()):
        share = -(-memory * len(own) // max(len(vcpus), 1)) if bound is None else memory if cell == bound else 0
        parts.append(_Part(cell, frozenset(own), share, pagesize_kb))
    return parts


def _pagesize_kb(domain: Element, cell_id: int, layout: HostLayout) -> int | None:
    """Say which huge pages back a guest cell, KiB; None for ordinary memory."""
    huge = domain.find("./memoryBacking/hugepages")
    if huge is None:
        return None
    sizes = huge.findall("page")
    if not sizes:
        return layout.huge_kb
    chosen: int | None = None
    for page in sizes:
        size_kb = scaled_bytes(page.get("size"), page.get("unit"), what="a page's size") // 1024
        nodeset = page.get("nodeset")
        if nodeset is None:
            # The size for every cell that no other element names.
            chosen = chosen or size_kb
        elif cell_id in cpu_set(nodeset, what="a page's nodeset"):
            return size_kb
    return chosen


def _only(nodeset: str | None) -> int | None:
    """Give the one cell that a nodeset names, or None if it names several or none."""
    cells = cpu_set(nodeset, what="nodeset")
    return min(cells) if len(cells) == 1 else None
