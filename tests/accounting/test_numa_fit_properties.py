"""A guest's cells onto the host's, against trying everything, and against the count of what was placed."""

from hypothesis import given, settings
from hypothesis import strategies as st

from stocktake.accounting.numa import Cells, overfull
from stocktake.accounting.numa_fit import fit_numa
from stocktake.accounting.numa_request import CellRequest, EmulatorPolicy, NumaRequest, PageKind
from stocktake.model.fitting import Limits
from stocktake.model.topology import (
    CellTake,
    CpuPolicy,
    GuestCell,
    GuestTopology,
    HostCell,
    HostPages,
    HostTopology,
    NodeCell,
    NodePages,
    NodeTopology,
    ThreadPolicy,
)
from stocktake.model.value import replace
from tests.accounting import brute_force

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
def requests(draw: st.DrawFn) -> NumaRequest:
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


@settings(max_examples=400, deadline=None)
@given(request=requests(), topology=TOPOLOGIES, limits=LIMITS)
def test_given_any_small_host_then_the_answer_is_what_trying_everything_gives(
    request: NumaRequest, topology: NodeTopology, limits: Limits | None
) -> None:
    answer = fit_numa(request, topology, limits=limits)
    if isinstance(answer, GuestTopology):
        assert brute_force.wrong_with(answer, request, topology, limits) == []
    else:
        assert answer
        assert not brute_force.fits(request, topology, limits), answer


@settings(max_examples=200, deadline=None)
@given(request=requests(), topology=TOPOLOGIES, limits=LIMITS)
def test_given_a_guest_that_fits_when_counted_then_it_is_no_problem(
    request: NumaRequest, topology: NodeTopology, limits: Limits | None
) -> None:
    answer = fit_numa(request, topology, limits=limits)
    if not isinstance(answer, GuestTopology):
        return
    cells = Cells(as_reported(topology))
    for cell in topology.cells:
        other = GuestCell(
            id=cell.id,
            memory_mb=0,
            pagesize_kb=max((pages.size_kb for pages in cell.pages), default=None),
            cpu_policy="dedicated",
            cpu_pinning=dict(enumerate(sorted(cell.pinned_cpus))),
        )
        cells.place("others", GuestTopology(cells=(other,)))
    takes, problems = cells.place("guest", answer)
    assert problems == ()
    new = set(
        overfull(with_takes(topology, takes), cpu_ratio=ratio_of(limits, "cpu"), ram_ratio=ratio_of(limits, "ram"))
    )
    old = overfull(topology, cpu_ratio=ratio_of(limits, "cpu"), ram_ratio=ratio_of(limits, "ram"))
    assert {problem.about for problem in new} <= {problem.about for problem in old}


def ratio_of(limits: Limits | None, what: str) -> float:
    ratio = (limits.numa_cpu_ratio if what == "cpu" else limits.numa_ram_ratio) if limits else None
    return 1e9 if ratio is None else ratio


def as_reported(topology: NodeTopology) -> HostTopology:
    """Give the host's own cells, without what is used of them."""
    return HostTopology(
        cells=tuple(
            HostCell(
                id=cell.id,
                cpuset=cell.cpuset,
                pcpuset=cell.pcpuset,
                memory_mb=cell.memory_mb,
                siblings=cell.siblings,
                pages=tuple(
                    HostPages(size_kb=pages.size_kb, total=pages.total, reserved=pages.reserved) for pages in cell.pages
                ),
            )
            for cell in topology.cells
        )
    )


def with_takes(topology: NodeTopology, takes: tuple[CellTake, ...]) -> NodeTopology:
    """Add what a guest takes to what is used."""
    taken = {take.cell: take for take in takes}
    return NodeTopology(
        cells=tuple(_taken(cell, taken[cell.id]) if cell.id in taken else cell for cell in topology.cells)
    )


def _taken(cell: NodeCell, take: CellTake) -> NodeCell:
    more = {pages.size_kb: pages.count for pages in take.pages}
    return replace(
        cell,
        cpu_usage=cell.cpu_usage + take.vcpus,
        memory_usage_mb=cell.memory_usage_mb + take.memory_mb,
        pinned_cpus=cell.pinned_cpus | take.pinned_cpus,
        pages=tuple(replace(pages, used=pages.used + more.get(pages.size_kb, 0)) for pages in cell.pages),
    )


@settings(max_examples=200, deadline=None)
@given(request=requests(), topology=TOPOLOGIES, near=st.frozensets(st.integers(0, 2)), all_of=st.booleans())
def test_given_an_affinity_then_the_answer_is_what_trying_everything_gives(
    request: NumaRequest, topology: NodeTopology, near: frozenset[int], *, all_of: bool
) -> None:
    def accepts(cells: frozenset[int]) -> bool:
        return cells <= near if all_of else bool(cells & near)

    answer = fit_numa(request, topology, accepts=accepts)
    if isinstance(answer, GuestTopology):
        assert brute_force.wrong_with(answer, request, topology, None) == []
        assert accepts(frozenset(cell.id for cell in answer.cells))
    else:
        assert not brute_force.fits(request, topology, None, accepts)
