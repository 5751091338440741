"""A guest's cells onto the host's: each dimension, and which of several ways is taken, by tables."""

from typing import Any

import pytest

from stocktake.accounting.fit.numa import SETS_MAX, cores_of, fit_numa, no_cores, pick_cpus
from stocktake.accounting.fit.request import CellRequest, NumaRequest, PageKind
from stocktake.accounting.numa import unused
from stocktake.model.fitting import Limits, NoRoom
from stocktake.model.topology import (
    CpuPolicy,
    GuestCell,
    GuestTopology,
    NodeCell,
    NodePages,
    NodeTopology,
    ThreadPolicy,
    parse_cpu_set,
)
from stocktake.model.value import replace
from tests.accounting.making import two_cells


def a_node(**changes: object) -> NodeTopology:
    """Give two cells: four shared and four dedicated CPUs, 32 GiB, 8 of it large pages; cell 0 changed."""
    topology = unused(two_cells())
    assert topology is not None
    first, second = topology.cells
    return NodeTopology(cells=(replace(first, **changes), second))


def busy(**changes: object) -> NodeTopology:
    """Give a node of cell 0 alone."""
    return NodeTopology(cells=a_node(**changes).cells[:1])


def a_request(*sizes: int, memory_mb: int = 1024, dedicated: bool = False, **changes: object) -> NumaRequest:
    """Ask for cells of so many vCPUs each."""
    cells: list[CellRequest] = []
    first = 0
    for size in sizes or (2,):
        cpus = frozenset(range(first, first + size))
        first += size
        shared, own = (frozenset[int](), cpus) if dedicated else (cpus, frozenset[int]())
        cells.append(CellRequest(cpuset=shared, pcpuset=own, memory_mb=memory_mb))
    policy: CpuPolicy | None = "dedicated" if dedicated else None
    return replace(NumaRequest(cells=tuple(cells), cpu_policy=policy), **changes)


def ids(answer: GuestTopology | tuple[NoRoom, ...]) -> list[int]:
    assert isinstance(answer, GuestTopology), answer
    return [cell.id for cell in answer.cells]


def numbers(answer: GuestTopology | tuple[NoRoom, ...]) -> dict[str, tuple[float, float, float]]:
    assert not isinstance(answer, GuestTopology), answer
    assert all(reason.text for reason in answer)
    return {reason.what: (reason.asked, reason.free, reason.total) for reason in answer}


PINNED_MEMORY = {"memory_usage_mb": 32000}
FULL_PAGES = (
    NodePages(size_kb=4, total=6291456, reserved=0, used=6000000),
    NodePages(size_kb=2048, total=4096, reserved=96, used=3999),
)
RATIO_1 = Limits(numa_cpu_ratio=1.0, numa_ram_ratio=1.0)


@pytest.mark.parametrize(
    ("request_", "node", "limits", "expected"),
    [
        (a_request(5), busy(), None, {"numa.shared_cpus": (5, 4, 4)}),
        (a_request(2), busy(cpu_usage=3), RATIO_1, {"numa.shared_cpus": (2, 1, 4)}),
        (a_request(2), busy(cpu_usage=9), RATIO_1, {"numa.shared_cpus": (2, 0, 4)}),
        (a_request(2), busy(cpu_usage=5), Limits(numa_cpu_ratio=1.5), {"numa.shared_cpus": (2, 1, 4)}),
        (
            a_request(memory_mb=32769),
            busy(),
            None,
            {"numa.memory": (32769, 32768, 32768), "numa.pages.4": (8388864, 6291456, 6291456)},
        ),
        # Small pages are all that a guest has that named none: 24 GiB of the cell's 32.
        (a_request(memory_mb=25000), busy(), None, {"numa.pages.4": (6400000, 6291456, 6291456)}),
        (a_request(), busy(**PINNED_MEMORY), RATIO_1, {"numa.memory": (1024, 768, 32768)}),
        (a_request(memory_mb=2048), busy(pages=FULL_PAGES), RATIO_1, {"numa.pages.4": (524288, 291456, 6291456)}),
        (a_request(dedicated=True), busy(**PINNED_MEMORY), None, {"numa.memory": (1024, 768, 32768)}),
        (
            a_request(dedicated=True),
            busy(**PINNED_MEMORY),
            Limits(numa_ram_ratio=8.0),
            {"numa.memory": (1024, 768, 32768)},
        ),
        (
            a_request(memory_mb=2048, page_size="small"),
            busy(pages=FULL_PAGES),
            None,
            {"numa.pages.4": (524288, 291456, 6291456)},
        ),
        # A page that is named is never given out twice, whatever the ratio; one below 1 holds for it too.
        (
            a_request(memory_mb=2048, page_size="small"),
            busy(pages=FULL_PAGES),
            Limits(numa_ram_ratio=1.5),
            {"numa.pages.4": (524288, 291456, 6291456)},
        ),
        (
            a_request(memory_mb=1024, page_size="small"),
            busy(pages=(NodePages(size_kb=4, total=1000000, reserved=0, used=400000),)),
            Limits(numa_ram_ratio=0.5),
            {"numa.pages.4": (262144, 100000, 1000000)},
        ),
        (a_request(page_size="large"), busy(pages=FULL_PAGES), None, {"numa.pages.2048": (512, 1, 4096)}),
        (
            a_request(memory_mb=2048, page_size="any"),
            busy(pages=FULL_PAGES),
            None,
            {"numa.pages.2048": (1024, 1, 4096), "numa.pages.4": (524288, 291456, 6291456)},
        ),
        (a_request(memory_mb=1025, page_size=2048), busy(), None, {"numa.pages.2048": (513, 4000, 4096)}),
        (a_request(page_size=1048576), busy(), None, {"numa.pages.1048576": (1, 0, 0)}),
        (a_request(memory_mb=3000, page_size=1048576), busy(), None, {"numa.pages.1048576": (3, 0, 0)}),
        # A pinned guest's memory is never given out twice; a ratio below 1 holds for it too.
        (
            a_request(memory_mb=20000, dedicated=True),
            busy(),
            Limits(numa_ram_ratio=0.5),
            {"numa.memory": (20000, 16384, 32768), "numa.pages.4": (5120000, 3145728, 6291456)},
        ),
        (a_request(page_size="large"), busy(pages=FULL_PAGES[:1]), None, {"numa.pages.large": (1024, 0, 0)}),
        (a_request(), busy(pages=()), None, {"numa.pages.small": (1024, 0, 0)}),
        (a_request(5, dedicated=True), busy(), None, {"numa.pinned_cpus": (5, 4, 4)}),
        (a_request(4, dedicated=True, emulator_threads="isolate"), busy(), None, {"numa.pinned_cpus": (5, 4, 4)}),
        (a_request(3, dedicated=True, cpu_thread_policy="isolate"), busy(), None, {"numa.whole_cores": (3, 2, 2)}),
        (
            a_request(2, dedicated=True, cpu_thread_policy="require"),
            busy(pinned_cpus=frozenset({4, 6})),
            None,
            {"numa.sibling_cpus": (2, 0, 4)},
        ),
        (a_request(1, 1), busy(), None, {"numa.cells": (2, 1, 1)}),
        (a_request(1, 9), busy(), None, {"numa.cells": (2, 1, 1), "numa.shared_cpus": (9, 4, 4)}),
        (a_request(1, 1), None, None, {"numa.cells": (2, 0, 0)}),
        (a_request(3, 3, dedicated=True), a_node(pinned_cpus=frozenset({4, 5})), None, {"numa.cells": (2, 1, 2)}),
        # Every dimension at once; of each the cell where it lacks least.
        (
            a_request(6, memory_mb=40000, dedicated=True, page_size=2048, cpu_thread_policy="isolate"),
            a_node(pinned_cpus=frozenset({4}), memory_usage_mb=8),
            None,
            {
                "numa.memory": (40000, 32768, 32768),
                "numa.pages.2048": (20000, 4000, 4096),
                "numa.pinned_cpus": (6, 4, 4),
                "numa.whole_cores": (6, 2, 2),
            },
        ),
        # Of several guest cells the one that lacks most.
        (a_request(5, 7, dedicated=True), a_node(), None, {"numa.pinned_cpus": (7, 4, 4)}),
        (a_request(7, 5, dedicated=True), a_node(), None, {"numa.pinned_cpus": (7, 4, 4)}),
    ],
)
def test_given_what_does_not_fit_when_tried_then_each_dimension_says_its_numbers(
    request_: NumaRequest,
    node: NodeTopology | None,
    limits: Limits | None,
    expected: dict[str, tuple[float, float, float]],
) -> None:
    assert numbers(fit_numa(request_, node, limits=limits)) == expected


@pytest.mark.parametrize(
    ("request_", "node", "limits"),
    [
        # No limits: a full cell takes more of what may be overcommitted.
        (a_request(4), busy(cpu_usage=99, memory_usage_mb=99999), None),
        (a_request(4), busy(cpu_usage=99, memory_usage_mb=99999, pages=FULL_PAGES), Limits()),
        (a_request(4), busy(cpu_usage=12), Limits(numa_cpu_ratio=4.0)),
        (a_request(memory_mb=24576), busy(memory_usage_mb=8192), RATIO_1),
        (a_request(memory_mb=20000), busy(memory_usage_mb=20000), Limits(numa_ram_ratio=1.5)),
        # The ratio is that of memory, not of large pages.
        (a_request(memory_mb=8000, page_size=2048), busy(), Limits(numa_ram_ratio=0.5)),
        # The only core of a cell is free as a whole.
        (
            a_request(1, dedicated=True, cpu_thread_policy="isolate"),
            busy(pcpuset=frozenset({4, 5}), siblings=(frozenset({4, 5}),)),
            None,
        ),
        # Small pages that are not named may be overcommitted as memory is.
        (a_request(memory_mb=2048), busy(pages=FULL_PAGES), Limits(numa_ram_ratio=1.5)),
        (a_request(memory_mb=1024, page_size="small"), busy(memory_usage_mb=99999), None),
        (a_request(memory_mb=8000, page_size=2048), busy(), RATIO_1),
    ],
)
def test_given_what_just_fits_when_tried_then_it_does(
    request_: NumaRequest, node: NodeTopology, limits: Limits | None
) -> None:
    assert ids(fit_numa(request_, node, limits=limits)) == [0]


@pytest.mark.parametrize(
    ("page_size", "memory_mb", "expected"),
    [
        (None, 1024, None),
        ("small", 1024, 4),
        ("large", 1024, 2048),
        ("any", 1024, 2048),
        ("any", 1025, 4),
        ("any", 8192, 4),
        (2048, 1024, 2048),
        (4, 1024, 4),
    ],
)
def test_given_a_page_size_when_placed_then_the_largest_that_does_is_told(
    page_size: int | PageKind | None, memory_mb: int, expected: int | None
) -> None:
    answer = fit_numa(a_request(page_size=page_size, memory_mb=memory_mb), a_node())
    assert isinstance(answer, GuestTopology)
    assert answer.cells[0].pagesize_kb == expected


def test_given_a_guest_with_its_own_cpus_when_placed_then_everything_is_in_the_answer() -> None:
    request = NumaRequest(
        cells=(
            CellRequest(cpuset=frozenset({0}), pcpuset=frozenset({1, 2}), memory_mb=1024),
            CellRequest(cpuset=frozenset({3}), memory_mb=2048),
        ),
        cpu_policy="mixed",
        cpu_thread_policy="prefer",
        page_size="large",
        emulator_threads="isolate",
    )
    first, second = (
        GuestCell(
            id=0,
            cpuset=frozenset({0}),
            pcpuset=frozenset({1, 2}),
            memory_mb=1024,
            pagesize_kb=2048,
            cpu_pinning={1: 6, 2: 7},
            cpu_policy="mixed",
            cpu_thread_policy="prefer",
            cpuset_reserved=frozenset({5}),
        ),
        GuestCell(
            id=1,
            cpuset=frozenset({3}),
            memory_mb=2048,
            pagesize_kb=2048,
            cpu_pinning={},
            cpu_policy="mixed",
            cpu_thread_policy="prefer",
        ),
    )
    answer = fit_numa(request, a_node(pinned_cpus=frozenset({4})))
    assert answer == GuestTopology(cells=(first, second), emulator_threads_policy="isolate")


def test_given_a_cpu_that_two_cells_report_when_placed_then_it_is_pinned_once() -> None:
    first, second = a_node().cells
    twins = NodeTopology(cells=(first, replace(first, id=1)))
    assert numbers(fit_numa(a_request(2, 2, dedicated=True), twins)) == {"numa.cells": (2, 1, 2)}
    assert ids(fit_numa(a_request(2, 2, dedicated=True), NodeTopology(cells=(first, second)))) == [0, 1]


@pytest.mark.parametrize(
    ("request_", "node", "options", "expected"),
    [
        (a_request(), a_node(), {}, [0]),
        # The emptiest cell first, as Nova does by default; with `pack` the fullest.
        (a_request(), a_node(cpu_usage=1), {}, [1]),
        (a_request(), a_node(cpu_usage=1), {"pack": True}, [0]),
        (a_request(), a_node(memory_usage_mb=1), {}, [1]),
        (a_request(), a_node(memory_usage_mb=1), {"pack": True}, [0]),
        (a_request(dedicated=True), a_node(pinned_cpus=frozenset({4})), {}, [1]),
        (a_request(dedicated=True), a_node(pinned_cpus=frozenset({4})), {"pack": True}, [0]),
        # Free CPUs come before free memory.
        (a_request(dedicated=True), a_node(memory_usage_mb=1, cpu_usage=3), {"pack": True}, [0]),
        # What the devices say comes first.
        (a_request(), a_node(), {"avoided_cells": {0}}, [1]),
        (a_request(), a_node(cpu_usage=1), {"preferred_cells": {0}}, [0]),
        (a_request(), a_node(), {"preferred_cells": {0}, "avoided_cells": {0}}, [1]),
        (a_request(), busy(), {"avoided_cells": {0}}, [0]),
        # A guest that takes every cell has its own in the host's order.
        (a_request(1, 1), a_node(cpu_usage=1), {}, [0, 1]),
        (a_request(1, 1), a_node(), {"preferred_cells": {1}}, [1, 0]),
        # The second guest cell fits only where the first would go.
        (a_request(1, 4), a_node(cpu_usage=1), {"limits": RATIO_1}, [0, 1]),
        (a_request(4, 1), a_node(cpu_usage=1), {"limits": RATIO_1}, [1, 0]),
        (a_request(), a_node(), {"accepts": lambda cells: cells == {1}}, [1]),
        (a_request(1, 1), a_node(), {"accepts": lambda cells: 0 in cells}, [0, 1]),
    ],
)
def test_given_several_ways_when_placed_then_the_one_liked_best_is_taken(
    request_: NumaRequest, node: NodeTopology, options: dict[str, Any], expected: list[int]
) -> None:
    assert ids(fit_numa(request_, node, **options)) == expected


def test_given_devices_that_no_fitting_cell_is_near_to_when_tried_then_affinity_is_the_reason() -> None:
    def near_one(cells: frozenset[int]) -> bool:
        return 1 in cells

    assert numbers(fit_numa(a_request(5, dedicated=True), a_node(), accepts=near_one)) == {
        "numa.pinned_cpus": (5, 4, 4)
    }
    full = replace(a_node().cells[1], pinned_cpus=a_node().cells[1].pcpuset)
    node = NodeTopology(cells=(a_node().cells[0], full))
    assert numbers(fit_numa(a_request(dedicated=True), node, accepts=near_one)) == {"numa.affinity": (1, 0, 2)}


def many_cells(count: int) -> NodeTopology:
    first = a_node().cells[0]
    return NodeTopology(
        cells=tuple(replace(first, id=number, pcpuset=frozenset({number}), siblings=()) for number in range(count))
    )


def test_given_twelve_cells_then_every_set_is_looked_at_once_and_no_more() -> None:
    seen: list[frozenset[int]] = []

    def last_one(cells: frozenset[int]) -> bool:
        seen.append(cells)
        return cells == frozenset(range(6, 12))

    assert ids(fit_numa(a_request(*[1] * 6), many_cells(12), accepts=last_one)) == list(range(6, 12))
    assert len(seen) == len(set(seen)) == 924


def test_given_more_cells_than_any_host_when_none_will_do_then_the_search_ends() -> None:
    seen: list[frozenset[int]] = []
    answer = fit_numa(a_request(*[1] * 8), many_cells(32), accepts=seen.append)  # type: ignore[arg-type]
    assert numbers(answer) == {"numa.affinity": (8, 0, 32)}
    assert len(seen) <= SETS_MAX


PAIRS = ("0-1", "2-3", "4-5", "6-7")
SINGLES = tuple(str(cpu) for cpu in range(8))
TRIPLES = ("0-2", "3-5", "6-8")


def a_cell(siblings: tuple[str, ...], *, shared: str = "", taken: str = "") -> NodeCell:
    """Make a cell of these cores, all dedicated but the shared CPUs."""
    cpus = frozenset[int]().union(*map(parse_cpu_set, siblings)) or parse_cpu_set("0-7")
    return NodeCell(
        id=0,
        cpuset=parse_cpu_set(shared),
        pcpuset=cpus - parse_cpu_set(shared),
        memory_mb=1024,
        siblings=tuple(map(parse_cpu_set, siblings)),
        pages=(),
        socket=None,
        cpu_usage=0,
        memory_usage_mb=0,
        pinned_cpus=parse_cpu_set(taken),
    )


def picked(cell: NodeCell, count: int, policy: ThreadPolicy | None, reserve: int) -> object:
    """Give pins and reserved CPUs, or what is missing with its numbers."""
    cores = cores_of(cell, cell.pcpuset - cell.pinned_cpus)
    missing = no_cores(cores, count, policy, reserve=reserve)
    if missing:
        return {reason.what: (reason.asked, reason.free, reason.total) for reason in missing}
    return pick_cpus(cores, count, policy, reserve=reserve)


def cpus(*pins: int, reserved: int | None = None) -> object:
    return pins, frozenset() if reserved is None else frozenset({reserved})


@pytest.mark.parametrize(
    ("cell", "count", "reserve", "expected"),
    [
        (a_cell(PAIRS), 2, 0, cpus(0, 1)),
        (a_cell(PAIRS), 3, 0, cpus(0, 1, 2)),
        (a_cell(PAIRS), 3, 1, cpus(0, 1, 2, reserved=3)),
        (a_cell(PAIRS), 0, 1, cpus(reserved=0)),
        (a_cell(PAIRS, taken="0"), 2, 0, cpus(2, 3)),
        # The lone thread goes to the emulator, the whole core stays whole.
        (a_cell(PAIRS, taken="0"), 2, 1, cpus(2, 3, reserved=1)),
        # No two cores are free: the whole one and a lone thread.
        (a_cell(PAIRS, taken="0,3,6-7"), 3, 0, cpus(4, 5, 1)),
        (a_cell(PAIRS, taken="0,2,4,6"), 4, 0, cpus(1, 3, 5, 7)),
        (a_cell(PAIRS, taken="0,2,4,6"), 4, 1, {"numa.pinned_cpus": (5, 4, 8)}),
        (a_cell(PAIRS, shared="0-5"), 3, 0, {"numa.pinned_cpus": (3, 2, 2)}),
        (a_cell(SINGLES), 3, 1, cpus(0, 1, 2, reserved=3)),
        (a_cell(()), 3, 1, cpus(0, 1, 2, reserved=3)),
        (a_cell(TRIPLES), 4, 0, cpus(0, 1, 2, 3)),
        # Two of each core, the fuller core first: a free core keeps a thread rather than a broken one.
        (a_cell(TRIPLES, taken="0,6-8"), 4, 0, cpus(1, 2, 3, 4)),
    ],
)
@pytest.mark.parametrize("policy", [None, "prefer"])
def test_given_prefer_then_siblings_are_taken_where_they_can_be_had(
    cell: NodeCell, count: int, reserve: int, expected: object, policy: ThreadPolicy | None
) -> None:
    assert picked(cell, count, policy, reserve) == expected


@pytest.mark.parametrize(
    ("cell", "count", "reserve", "expected"),
    [
        (a_cell(PAIRS), 4, 0, cpus(0, 1, 2, 3)),
        (a_cell(PAIRS), 1, 0, cpus(0)),
        (a_cell(PAIRS, taken="0"), 2, 1, cpus(2, 3, reserved=1)),
        # The odd one out needs a core with two free threads too, as in Nova.
        (a_cell(PAIRS, taken="0,3,6-7"), 3, 0, {"numa.sibling_cpus": (3, 2, 8)}),
        (a_cell(PAIRS, taken="0,2,4,6"), 1, 0, {"numa.sibling_cpus": (1, 0, 8)}),
        (a_cell(PAIRS), 9, 0, {"numa.pinned_cpus": (9, 8, 8), "numa.sibling_cpus": (9, 8, 8)}),
        (a_cell(PAIRS), 8, 1, {"numa.pinned_cpus": (9, 8, 8)}),
        (a_cell(SINGLES), 1, 0, {"numa.sibling_cpus": (1, 0, 0)}),
        (a_cell(()), 1, 0, {"numa.sibling_cpus": (1, 0, 0)}),
        # The other threads are for floating guests.
        (a_cell(PAIRS, shared="0,2,4,6"), 2, 0, {"numa.sibling_cpus": (2, 0, 0)}),
        (a_cell(TRIPLES, taken="0,6-8"), 4, 0, cpus(1, 2, 3, 4)),
        (a_cell(SINGLES), 0, 0, cpus()),
    ],
)
def test_given_require_then_all_are_on_siblings_or_none(
    cell: NodeCell, count: int, reserve: int, expected: object
) -> None:
    assert picked(cell, count, "require", reserve) == expected


@pytest.mark.parametrize(
    ("cell", "count", "reserve", "expected"),
    [
        (a_cell(PAIRS), 2, 0, cpus(0, 2)),
        (a_cell(PAIRS), 2, 1, cpus(0, 2, reserved=4)),
        (a_cell(PAIRS), 4, 1, {"numa.whole_cores": (5, 4, 4)}),
        (a_cell(PAIRS, taken="1"), 3, 0, cpus(2, 4, 6)),
        (a_cell(PAIRS, taken="1"), 4, 0, {"numa.whole_cores": (4, 3, 4)}),
        (a_cell(PAIRS), 9, 0, {"numa.pinned_cpus": (9, 8, 8), "numa.whole_cores": (9, 4, 4)}),
        # A core shared with floating guests is nobody's own.
        (a_cell(PAIRS, shared="0"), 4, 0, {"numa.whole_cores": (4, 3, 3)}),
        # The rest of a smaller core may be the host's: not for vCPUs, good enough for the emulator.
        (a_cell(("0-1", "2", "4-5")), 2, 1, cpus(0, 4, reserved=2)),
        (a_cell(("0-1", "2", "4-5")), 3, 0, {"numa.whole_cores": (3, 2, 3)}),
        (a_cell(SINGLES), 3, 1, cpus(0, 1, 2, reserved=3)),
        (a_cell(()), 8, 0, cpus(*range(8))),
        (a_cell(PAIRS), 0, 1, cpus(reserved=0)),
        # Two cores that name the same CPU are taken together: the count pins both.
        (a_cell(("0-1", "1-2", "4-5"), taken="2"), 2, 0, {"numa.whole_cores": (2, 1, 3)}),
    ],
)
def test_given_isolate_then_each_has_a_core_alone(cell: NodeCell, count: int, reserve: int, expected: object) -> None:
    assert picked(cell, count, "isolate", reserve) == expected


def test_given_a_reason_then_its_text_has_the_numbers() -> None:
    cell = a_cell(PAIRS, taken="0")
    texts = [
        reason.text
        for policy in ("isolate", "require")
        for reason in no_cores(cores_of(cell, cell.pcpuset - cell.pinned_cpus), 7, policy, reserve=1)
    ]
    assert texts == [
        "8 CPUs to pin wanted for one guest cell, 7 free of 8 on host cell 0",
        "8 cores wanted for one guest cell, 3 wholly free of 4 on host cell 0",
        "8 CPUs to pin wanted for one guest cell, 7 free of 8 on host cell 0",
        "7 CPUs on sibling threads wanted for one guest cell, 6 free of 8 on host cell 0",
    ]


def test_given_a_guest_without_cpus_of_its_own_when_placed_then_it_has_no_pins() -> None:
    answer = fit_numa(a_request(2), a_node())
    assert isinstance(answer, GuestTopology)
    assert [cell.cpu_pinning for cell in answer.cells] == [None]


@pytest.mark.parametrize(
    ("page_size", "pages", "text"),
    [
        (None, (), "host cell 0 has no small pages"),
        ("large", FULL_PAGES[:1], "host cell 0 has no large pages"),
        (1048576, FULL_PAGES, "host cell 0 has no pages of 1048576 KiB"),
    ],
)
def test_given_pages_that_a_cell_has_not_then_the_text_says_which(
    page_size: int | PageKind | None, pages: tuple[NodePages, ...], text: str
) -> None:
    answer = fit_numa(a_request(page_size=page_size), busy(pages=pages))
    assert not isinstance(answer, GuestTopology)
    assert [reason.text for reason in answer] == [text]


def test_given_cpus_memory_and_pages_that_are_short_then_each_text_names_its_unit() -> None:
    answer = fit_numa(a_request(5, memory_mb=40000, page_size=2048), busy())
    assert not isinstance(answer, GuestTopology)
    assert [reason.text for reason in answer] == [
        "40000 MiB of memory wanted for one guest cell, 32768 free of 32768 on host cell 0",
        "20000 pages of 2048 KiB wanted for one guest cell, 4000 free of 4096 on host cell 0",
        "5 shared CPUs wanted for one guest cell, 4 free of 4 on host cell 0",
    ]


def test_given_no_cells_or_too_few_when_asked_then_the_text_says_which() -> None:
    texts = [
        [reason.text for reason in answer if reason.what == "numa.cells"]
        for answer in (fit_numa(a_request(1, 1), None), fit_numa(a_request(1, 1), busy()))
        if not isinstance(answer, GuestTopology)
    ]
    assert texts == [["the node reports no NUMA cells"], ["2 guest cells need a host cell each, 1 of 1 are usable"]]
