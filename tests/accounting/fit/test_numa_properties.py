"""A guest's cells onto the host's, against trying everything, and against the count of what was placed."""

from hypothesis import given, settings
from hypothesis import strategies as st

from stocktake.accounting.fit.numa import fit_numa
from stocktake.accounting.fit.request import NumaRequest
from stocktake.accounting.numa import Cells, overfull
from stocktake.model.fitting import Limits
from stocktake.model.topology import (
    CellTake,
    GuestCell,
    GuestTopology,
    NodeCell,
    NodeTopology,
)
from stocktake.model.value import replace
from tests.accounting.drawing import LIMITS, TOPOLOGIES, numa_requests
from tests.accounting.fit import brute_force


@settings(max_examples=400, deadline=None)
@given(request=numa_requests(), topology=TOPOLOGIES, limits=LIMITS)
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
@given(request=numa_requests(), topology=TOPOLOGIES, limits=LIMITS)
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


def as_reported(topology: NodeTopology) -> NodeTopology:
    """Give the cells with none of their CPUs pinned."""
    return NodeTopology(cells=tuple(replace(cell, pinned_cpus=frozenset()) for cell in topology.cells))


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
@given(request=numa_requests(), topology=TOPOLOGIES, near=st.frozensets(st.integers(0, 2)), all_of=st.booleans())
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
