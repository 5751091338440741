"""What a node's page draws: bars, the map of its cores, its history."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stocktake.accounting.capacity import RESOURCES
from stocktake.model.books import ComputeNode, Entry, HolderKind
from stocktake.model.topology import CellTake
from stocktake.model.value import replace
from stocktake.views.nodes import NodeView, view_of
from stocktake.web.pages.drawings import DAY, HEIGHT, LENGTH, MONTH, WIDTH, Point, bars_of, map_of, plot, sign
from tests.accounting.making import a_host, an_instance, count, pinned, two_cells, work
from tests.views.test_nodes import NODE

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
DISK = RESOURCES["local_gb"]
KINDS: tuple[HolderKind, ...] = ("reserved", "instance", "migration", "orphan", "misplaced")


def view(node: ComputeNode, entries: Sequence[Entry]) -> NodeView:
    return view_of(node, None, entries, NOW, 60)


@given(
    st.lists(st.tuples(st.sampled_from(KINDS), st.integers(0, 10**7), st.integers(0, 10**7)), max_size=12),
    st.integers(0, 10**7),
    st.floats(0.1, 32),
)
def test_given_any_entries_when_drawn_then_parts_follow_each_other_inside_the_bar(
    taken: list[tuple[HolderKind, int, int]], total: int, ratio: float
) -> None:
    entries = [
        Entry(kind=kind, id=str(number), why="", memory_mb=memory, disk_mb=disk)
        for number, (kind, memory, disk) in enumerate(taken)
    ]
    used = sum(entry.memory_mb for entry in entries)
    disk = -(-sum(entry.disk_mb for entry in entries) // 1024)
    node = replace(
        NODE,
        memory_mb=total,
        memory_mb_used=used,
        local_gb=total // 1024,
        local_gb_used=disk,
        ram_allocation_ratio=ratio,
    )
    for bar in bars_of(view(node, entries), entries):
        for one, other in pairwise(bar.segments):
            assert one.start <= other.start
        for segment in bar.segments:
            assert segment.start >= 0
            assert segment.length > 0
            assert segment.start + segment.length <= LENGTH
        assert bar.physical is None or 0 <= bar.physical < LENGTH
        numbers = {number.title: int(number.text.replace(",", "")) for number in bar.numbers if number.title != "ratio"}
        assert numbers["allocated"] + numbers["free"] == numbers["capacity"]


def test_given_overcommit_when_drawn_then_the_bar_marks_the_hardwares_total() -> None:
    entry = Entry(kind="instance", id="a", name="web", why="", vcpus=6)
    vcpus, _memory, disk = bars_of(view(replace(NODE, vcpus_used=6), [entry]), [entry])
    assert vcpus.physical == LENGTH // 4
    assert [(one.look, one.start, one.length, one.text) for one in vcpus.segments] == [
        ("mine", 0, LENGTH * 6 // 16, "6")
    ]
    assert vcpus.label == "vCPUs: 6 vCPUs instances"
    assert {one.title: (one.text, one.bad) for one in vcpus.numbers}["free"] == ("10", False)
    assert (disk.physical, disk.label) == (None, "disk: nothing is allocated")


def test_given_very_little_when_drawn_then_it_is_seen_beside_the_others() -> None:
    kinds: tuple[HolderKind, ...] = ("reserved", "instance", "orphan")
    entries = [Entry(kind=kind, id=kind, why="", memory_mb=1) for kind in kinds]
    memory = bars_of(view(replace(NODE, memory_mb=10**6, memory_mb_used=3), entries), entries)[1]
    assert [(one.start, one.length) for one in memory.segments] == [(0, 4), (4, 4), (8, 4)]


def test_given_pinned_guests_when_mapped_then_every_cpu_is_there_once_with_its_holder() -> None:
    guest = an_instance(1, name="web", numa_topology=pinned({0: 4, 1: 5}))
    books = count(a_host(numa_topology=two_cells()), work([guest]))
    drawn = map_of(books.node, books.entries)
    assert drawn is not None
    assert [socket for socket, _ in drawn.sockets] == [0, 1]
    cpus = {cpu.number: cpu for _, cells in drawn.sockets for cell in cells for core in cell.cores for cpu in core}
    assert sorted(cpus) == list(range(16))
    assert [cpus[number].use for number in (0, 4, 5, 6)] == ["shared", "pinned", "pinned", "dedicated"]
    assert cpus[4].label == "CPU 4: pinned by web"
    assert [(one.sign, one.name, one.cpus) for one in drawn.holders] == [("A", "web", ((0, frozenset({4, 5})),))]
    assert [pages.size_kb for pages in drawn.sockets[0][1][0].huge] == [2048]
    # A record that is older than its entries says so on the map.
    stale = map_of(books.node, [])
    assert stale is not None
    (_, (cell,)), _ = stale.sockets
    assert [cpu.use for core in cell.cores for cpu in core if cpu.number in {4, 5}] == ["lost", "lost"]


def test_given_no_siblings_and_both_sets_when_mapped_then_each_cpu_is_a_core_of_its_own() -> None:
    books = count(
        a_host(
            numa_topology=two_cells(siblings=(), socket=None, pcpuset=frozenset(range(2)), cpuset=frozenset(range(3)))
        )
    )
    drawn = map_of(
        books.node, [Entry(kind="instance", id="x", why="", cells=(CellTake(cell=0, vcpus=1, memory_mb=1),))]
    )
    assert drawn is not None
    ((socket, cells),) = drawn.sockets
    assert socket is None
    assert [[cpu.use for cpu in core] for core in cells[0].cores] == [["either"], ["either"], ["shared"]]
    assert drawn.holders == ()
    assert map_of(NODE, []) is None


@pytest.mark.parametrize(("number", "letters"), [(0, "A"), (25, "Z"), (26, "AA"), (51, "AZ"), (52, "BA"), (702, "AAA")])
def test_given_a_number_when_signed_then_letters_go_on_after_z(number: int, letters: str) -> None:
    assert sign(number) == letters


def a_point(hours: float, allocated: int, capacity: int = 100) -> Point:
    return Point(at=NOW - timedelta(hours=hours), allocated=allocated, capacity=capacity, total=capacity // 2)


def test_given_a_history_when_plotted_then_each_point_holds_until_the_next() -> None:
    drawn = plot([a_point(30, 10), a_point(12, 50), a_point(6, 100)], RESOURCES["memory_mb"], now=NOW, span=DAY)
    assert drawn is not None
    # What held before the day began holds at its beginning.
    assert drawn.area == f"M0 108H300V60H450V0H{WIDTH}V{HEIGHT}H0Z"
    assert drawn.line == f"M0 0H300V0H450V0H{WIDTH}"
    assert drawn.total == f"M0 60H300V60H450V60H{WIDTH}"
    assert drawn.label == "memory in the last 1 d: from 10 to 100 MiB allocated, now 100 of 100"
    assert [text for _, text in drawn.ticks] == ["16:00", "20:00", "00:00", "04:00", "08:00"]


def test_given_a_history_that_began_lately_when_plotted_then_nothing_is_drawn_before() -> None:
    drawn = plot([a_point(24 * 15, 0, 0)], DISK, now=NOW, span=MONTH)
    assert drawn is not None
    assert drawn.area.startswith("M300 ")
    assert drawn.area.endswith(f"V{HEIGHT}H300Z")
    assert drawn.most == 1
    assert drawn.ticks[0] == (100, "04 Feb")
    assert plot([], DISK, now=NOW, span=MONTH) is None
    assert plot([a_point(-1, 5)], DISK, now=NOW, span=MONTH) is None
