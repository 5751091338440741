"""Which CPUs a guest is pinned to: thread policies on cores of one, two and three threads."""

import pytest

from stocktake.accounting.fit.numa_cores import cores_of, no_cores, pick_cpus
from stocktake.model.cpuset import parse_cpu_set
from stocktake.model.topology import NodeCell, ThreadPolicy

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
