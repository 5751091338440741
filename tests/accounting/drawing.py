"""Hosts, guests and devices for properties: small ones, so that everything can be tried."""

from hypothesis import strategies as st

from stocktake.accounting.fit.request import CellRequest, EmulatorPolicy, NumaRequest, PageKind
from stocktake.accounting.pci import excluded
from stocktake.model.fitting import Limits
from stocktake.model.pci import PciAffinity, PciAlias, PciRecord, PciRequest
from stocktake.model.topology import CpuPolicy, NodeCell, NodePages, NodeTopology, ThreadPolicy
from stocktake.model.value import replace

AFFINITIES: tuple[PciAffinity, ...] = ("required", "socket", "legacy", "preferred")
POLICIES: tuple[CpuPolicy | None, ...] = (None, "shared", "dedicated", "dedicated", "mixed", "mixed")
THREAD_POLICIES: tuple[ThreadPolicy | None, ...] = (None, "prefer", "isolate", "require")
EMULATOR_POLICIES: tuple[EmulatorPolicy | None, ...] = (None, "share", "isolate")
PAGE_SIZES: tuple[int | PageKind | None, ...] = (None, None, None, "small", "large", "any", 4, 2048, 1048576)
PAGES_OF_CELLS = (*[(4, 2048)] * 4, (4,), (4, 2048, 4096), (2048,), (2048, 4), ())


@st.composite
def node_cells(draw: st.DrawFn, number: int) -> NodeCell:
    """A small cell: up to seven CPUs in cores of one to three threads, some shared, some pinned; few pages."""
    first = number * 10
    cpus = range(first, first + draw(st.integers(2, 7)))
    threads = draw(st.sampled_from((1, 2, 2, 3)))
    siblings = tuple(frozenset(cpus[at : at + threads]) for at in range(0, len(cpus), threads))
    # Shared, dedicated, or both, as where neither set is configured.
    kinds = draw(st.lists(st.sampled_from(draw(st.sampled_from(("sd", "sddddb", "bbd", "b")))), min_size=7, max_size=7))
    pcpuset = frozenset(cpu for cpu, kind in zip(cpus, kinds, strict=False) if kind in "db")
    # Without a busy one in four, hardly any guest of two cells would fit.
    busy = draw(st.integers(0, 3)) == 0
    memory_mb = draw(st.sampled_from((16, 16, 8, 5)))
    return NodeCell(
        id=number,
        cpuset=frozenset(cpu for cpu, kind in zip(cpus, kinds, strict=False) if kind in "sb"),
        pcpuset=pcpuset,
        memory_mb=memory_mb,
        siblings=draw(st.sampled_from((siblings, siblings, siblings, siblings[1:], ()))),
        pages=tuple(
            NodePages(
                size_kb=size,
                total=draw(st.sampled_from((memory_mb, memory_mb, memory_mb // 2))) * 1024 // size,
                reserved=draw(st.integers(0, 1)) if busy else 0,
                used=draw(st.integers(0, 4 * 1024 // size)) if busy else 0,
            )
            for size in draw(st.sampled_from(PAGES_OF_CELLS))
        ),
        socket=None,
        cpu_usage=draw(st.integers(0, 6)) if busy else 0,
        memory_usage_mb=draw(st.integers(0, 8)) if busy else 0,
        pinned_cpus=frozenset(cpu for cpu in sorted(pcpuset) if draw(st.integers(0, 3)) == 0),
    )


TOPOLOGIES = (
    st.sampled_from((1, 2, 2, 3, 3))
    .flatmap(lambda count: st.tuples(*(node_cells(number) for number in range(count))))
    .map(lambda cells: NodeTopology(cells=cells))
)
RATIOS = st.sampled_from((None, None, 0.0, 0.5, 1.0, 1.5, 4.0, 16.0))
LIMITS = st.none() | st.builds(Limits, numa_cpu_ratio=RATIOS, numa_ram_ratio=RATIOS)


@st.composite
def numa_requests(draw: st.DrawFn) -> NumaRequest:
    """One to three guest cells of a few vCPUs, by any policies that go together."""
    policy = draw(st.sampled_from(POLICIES))
    pins = policy in {"dedicated", "mixed"}
    cells: list[CellRequest] = []
    first = 0
    for _ in range(draw(st.sampled_from((1, 1, 2, 2, 3)))):
        cpus = frozenset(range(first, first + draw(st.integers(1, 3))))
        first += len(cpus)
        dedicated = cpus if policy == "dedicated" else frozenset(cpu for cpu in cpus if pins and draw(st.booleans()))
        cells.append(
            CellRequest(cpuset=cpus - dedicated, pcpuset=dedicated, memory_mb=draw(st.sampled_from((1, 2, 2, 4, 6))))
        )
    return NumaRequest(
        cells=tuple(cells),
        cpu_policy=policy,
        cpu_thread_policy=draw(st.sampled_from(THREAD_POLICIES)) if pins else None,
        page_size=draw(st.sampled_from(PAGE_SIZES)),
        emulator_threads=draw(st.sampled_from(EMULATOR_POLICIES)) if pins else None,
    )


def a_card(number: int, node: int | None, *, functions: int, whole: bool) -> list[PciRecord]:
    """Make a PF and its functions; without `whole` only the functions are tracked."""
    pf = PciRecord(
        address=f"0000:{number:02}:00.0", vendor_id="8086", product_id="1", dev_type="type-PF", numa_node=node
    )
    vfs = [
        replace(pf, address=f"0000:{number:02}:1{vf}.0", dev_type="type-VF", product_id="2", parent_addr=pf.address)
        for vf in range(functions)
    ]
    return [pf, *vfs] if whole else vfs


@st.composite
def tables(draw: st.DrawFn) -> list[PciRecord]:
    """Up to four cards, some of them in use, whose functions may differ; statuses as after `excluded`."""
    records: list[PciRecord] = []
    for number in range(draw(st.integers(1, 4))):
        functions = draw(st.integers(0, 3))
        card = a_card(
            number,
            draw(st.sampled_from((0, 0, 1, 2, None))),
            functions=functions,
            whole=not functions or draw(st.booleans()),
        )
        # Plain devices are cards too.
        if len(card) == 1 and draw(st.booleans()):
            card = [replace(card[0], dev_type="type-PCI", parent_addr=None)]
        records += [
            replace(
                record,
                product_id=draw(st.sampled_from((record.product_id, record.product_id, "9"))),
                physical_network=draw(st.sampled_from((None, None, "p"))),
                status=draw(st.sampled_from(("available", "available", "available", "claimed", "allocated"))),
            )
            for record in card
        ]
    return list(excluded({record.address: record for record in records})[0].values())


SPECS = st.builds(
    PciAlias,
    name=st.just("a"),
    product_id=st.sampled_from((None, None, "1", "2", "9")),
    device_type=st.sampled_from((None, "type-PCI", "type-PF", "type-PF", "type-VF", "type-VF")),
)
PCI_REQUESTS = st.lists(
    st.builds(
        PciRequest,
        alias=st.just("a"),
        count=st.sampled_from((1, 1, 2)),
        specs=st.lists(SPECS, min_size=1, max_size=2).map(tuple),
        numa_policy=st.sampled_from(AFFINITIES),
    ),
    max_size=4,
).filter(lambda requests: sum(request.count for request in requests) <= 5)
CELLS = st.none() | st.frozensets(st.integers(0, 2), min_size=1)
SOCKETS = st.sampled_from(({}, {0: 0, 1: 0, 2: 1}, {0: 0, 1: 1, 2: 1}, {0: 0, 1: 0, 2: None}, {0: 0, 1: 0}))
