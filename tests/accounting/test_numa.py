"""Cells, pinned CPUs and pages."""

import pytest

from stocktake.accounting.numa import Cells, shifted, unused
from stocktake.model.books import Tally
from stocktake.model.hypervisor import Host
from stocktake.model.rules import Rules
from stocktake.model.topology import (
    CpuPolicy,
    GuestCell,
    GuestTopology,
    HostPages,
    HostTopology,
    NodeCell,
    NodeTopology,
    PagesTaken,
    ThreadPolicy,
)
from stocktake.model.value import replace
from tests.accounting.making import (
    HOST,
    RULES,
    a_cell,
    a_guest,
    a_host,
    an_instance,
    codes,
    count,
    entries_of,
    floating,
    pinned,
    two_cells,
    uuid_of,
    work,
)


def hosted(*topologies: GuestTopology, host: Host | None = None, rules: Rules = RULES) -> Tally:
    """Tally instances 1, 2, ... with these topologies."""
    instances = [an_instance(number, numa_topology=topology) for number, topology in enumerate(topologies, start=1)]
    return count(host or a_host(numa_topology=two_cells()), work(instances), rules)


GUESTS = (floating(3), pinned({0: 4, 1: 5}), pinned({0: 14}, cell=1, pagesize_kb=2048), floating(1, cell=1))


@pytest.mark.parametrize("left", [(), (0,), (1, 2), (0, 1, 2, 3)])
def test_given_cells_when_entries_go_and_come_then_they_are_those_of_who_is_there(left: tuple[int, ...]) -> None:
    all_, few = hosted(*GUESTS), hosted(*(GUESTS[number] for number in left))
    assert shifted(few.node.numa_topology, few.entries, all_.entries) == all_.node.numa_topology
    assert shifted(all_.node.numa_topology, all_.entries, few.entries) == few.node.numa_topology
    assert shifted(all_.node.numa_topology, (), ()) is all_.node.numa_topology
    assert shifted(None, all_.entries, ()) is None


def cells_of(books: Tally) -> tuple[NodeCell, ...]:
    assert books.node.numa_topology is not None
    return books.node.numa_topology.cells


def test_given_nobody_when_counted_then_the_cells_are_the_hosts_and_empty() -> None:
    first, second = cells_of(hosted())
    assert (first.id, first.cpuset, first.pcpuset, first.memory_mb, first.socket) == (
        0,
        frozenset(range(4)),
        frozenset(range(4, 8)),
        32768,
        0,
    )
    assert first.siblings == a_cell(0).siblings
    assert [(pages.size_kb, pages.total, pages.reserved, pages.used) for pages in second.pages] == [
        (4, 6291456, 0, 0),
        (2048, 4096, 96, 0),
    ]
    assert (second.cpu_usage, second.memory_usage_mb, second.pinned_cpus) == (0, 0, frozenset())


def test_given_a_guest_of_two_cells_when_counted_then_each_host_cell_has_its_share() -> None:
    guest = GuestTopology(
        cells=(
            GuestCell(id=0, cpuset=frozenset({0, 1, 2}), memory_mb=1024),
            GuestCell(id=1, cpuset=frozenset({3}), memory_mb=512),
        )
    )
    first, second = cells_of(hosted(guest, floating(1)))
    assert (first.cpu_usage, first.memory_usage_mb) == (4, 2048)
    assert (second.cpu_usage, second.memory_usage_mb) == (1, 512)
    assert first.pages[0].used == 2048 * 256


@pytest.mark.parametrize("topology", [None, HostTopology(cells=())])
def test_given_a_host_without_cells_when_counted_then_guests_with_them_are_placed_nowhere(
    topology: HostTopology | None,
) -> None:
    books = hosted(pinned({0: 4}), host=a_host(numa_topology=topology))
    assert entries_of(books, "instance")[uuid_of(1)].cells == ()
    assert (books.node.numa_topology is None) is (topology is None)
    assert books.node.vcpus_used == 2
    assert unused(None) is None


def test_given_a_guest_without_topology_when_counted_then_no_cell_is_touched() -> None:
    books = count(a_host(numa_topology=two_cells()), work([an_instance()]))
    assert all(cell.cpu_usage == cell.memory_usage_mb == 0 for cell in cells_of(books))


def test_given_a_guest_cell_that_no_host_cell_is_when_counted_then_it_is_left_out_and_told() -> None:
    books = hosted(floating(cell=7))
    assert entries_of(books, "instance")[uuid_of(1)].cells == ()
    assert codes(books) == ["guest-cell-unknown"]
    assert (books.node.vcpus_used, books.node.memory_mb_used) == (2, 2560)


# The guest pins vCPU 0 to CPU 4 of cell 0, whose dedicated CPUs are 4 to 7, siblings 4+5 and 6+7.
@pytest.mark.parametrize(
    ("policy", "threads", "reserved", "taken"),
    [
        (None, None, None, set()),
        ("shared", None, None, set()),
        ("shared", "isolate", frozenset({6}), set()),
        ("dedicated", None, None, {4}),
        ("dedicated", "prefer", None, {4}),
        ("dedicated", "require", None, {4}),
        ("dedicated", "isolate", None, {4, 5}),
        ("mixed", None, None, {4}),
        ("mixed", "isolate", None, {4, 5}),
        ("dedicated", None, frozenset({6}), {4, 6}),
        ("mixed", None, frozenset({6}), {4, 6}),
        ("dedicated", "isolate", frozenset({6}), {4, 5, 6, 7}),
    ],
)
def test_given_policies_when_counted_then_what_the_guest_pins_is_pinned(
    policy: CpuPolicy | None, threads: ThreadPolicy | None, reserved: frozenset[int] | None, taken: set[int]
) -> None:
    guest = pinned({0: 4}, cpu_policy=policy, cpu_thread_policy=threads, cpuset_reserved=reserved)
    books = hosted(guest)
    assert cells_of(books)[0].pinned_cpus == taken
    assert codes(books) == []


def test_given_a_pinned_guest_without_pins_when_counted_then_only_its_reserved_cpus_are() -> None:
    guest = pinned({}, cpu_pinning=None, cpuset_reserved=frozenset({7}))
    assert cells_of(hosted(guest))[0].pinned_cpus == {7}


def test_given_a_mixed_guest_when_counted_then_only_its_shared_cpus_are_cpu_usage() -> None:
    guest = pinned({1: 4, 2: 5}, cpuset=frozenset({0}), cpu_policy="mixed")
    first = cells_of(hosted(guest))[0]
    assert (first.cpu_usage, set(first.pinned_cpus)) == (1, {4, 5})


def test_given_siblings_that_are_not_listed_when_a_guest_isolates_then_its_own_cpus_are_pinned() -> None:
    host = a_host(numa_topology=two_cells(siblings=()))
    assert cells_of(hosted(pinned({0: 4}, cpu_thread_policy="isolate"), host=host))[0].pinned_cpus == {4}


@pytest.mark.parametrize(
    ("cpu", "threads", "pins", "said"),
    [
        (0, None, set(), "CPU 0, cell 0 has 4, 5, 6, 7"),
        (99, None, set(), "CPU 99"),
        (12, None, set(), "CPU 12"),
        (8, "isolate", set(), "CPU 8"),
    ],
)
def test_given_a_pinned_cpu_that_the_cell_has_not_when_counted_then_the_rest_counts_and_it_is_told(
    cpu: int, threads: ThreadPolicy | None, pins: set[int], said: str
) -> None:
    books = hosted(pinned({0: cpu}, cpuset=frozenset({1}), cpu_policy="mixed", cpu_thread_policy=threads))
    first = cells_of(books)[0]
    assert (set(first.pinned_cpus), first.cpu_usage, first.memory_usage_mb) == (pins, 1, 1024)
    assert codes(books) == ["pinned-cpu-unknown"]
    assert said in books.node.problems[0].text
    assert (books.node.vcpus_used, books.node.local_gb_used) == (2, 20)


def test_given_two_that_pin_the_same_cpu_when_counted_then_the_first_has_it_and_the_second_is_told() -> None:
    books = hosted(pinned({0: 4, 1: 5}), pinned({0: 5, 1: 6}))
    assert cells_of(books)[0].pinned_cpus == {4, 5, 6}
    takes = [entries_of(books, "instance")[uuid_of(number)].cells[0].pinned_cpus for number in (1, 2)]
    assert takes == [{4, 5}, {6}]
    (problem,) = books.node.problems
    assert (problem.code, problem.about) == ("pinned-cpu-taken", uuid_of(2))
    assert f"held by {uuid_of(1)}" in problem.text


def test_given_an_orphan_on_an_instances_cpu_when_counted_then_the_instance_has_it() -> None:
    guests = (a_guest(9), a_guest(1, numa=pinned({0: 4})))
    promised = work([an_instance(9, numa_topology=pinned({0: 4}))])
    books = count(a_host(numa_topology=two_cells(), guests=guests), promised)
    assert entries_of(books, "instance")[uuid_of(9)].cells[0].pinned_cpus == {4}
    assert codes(books) == ["pinned-cpu-taken"]


@pytest.mark.parametrize(
    ("memory_mb", "asked", "taken", "code"),
    [
        (1024, None, (4, 262144), None),
        (1024, 4, (4, 262144), None),
        (1024, 2048, (2048, 512), None),
        (1023, 2048, (2048, 511), None),
        (1, 2048, (2048, 0), None),
        (1024, 0, (4, 262144), None),
        (1024, 1048576, None, "page-size-unknown"),
    ],
)
def test_given_a_page_size_when_counted_then_whole_pages_are_taken_cut_down(
    memory_mb: int, asked: int | None, taken: tuple[int, int] | None, code: str | None
) -> None:
    books = hosted(floating(memory_mb=memory_mb, pagesize_kb=asked))
    (take,) = entries_of(books, "instance")[uuid_of(1)].cells
    assert take.pages == ((PagesTaken(size_kb=taken[0], count=taken[1]),) if taken else ())
    assert take.memory_mb == memory_mb
    assert codes(books) == ([code] if code else [])


def test_given_a_cell_whose_smallest_pages_come_last_when_counted_then_they_are_taken() -> None:
    pages = (HostPages(size_kb=2048, total=100), HostPages(size_kb=4, total=10**7))
    books = hosted(floating(), host=a_host(numa_topology=two_cells(pages=pages)))
    assert [pages.used for pages in cells_of(books)[0].pages] == [0, 262144]


@pytest.mark.parametrize(("asked", "said"), [(None, "it takes the smallest pages"), (2048, "pages of 2048 KiB")])
def test_given_a_cell_without_pages_when_counted_then_memory_counts_and_it_is_told(
    asked: int | None, said: str
) -> None:
    books = hosted(floating(pagesize_kb=asked), host=a_host(numa_topology=two_cells(pages=())))
    assert cells_of(books)[0].memory_usage_mb == 1024
    assert codes(books) == ["page-size-unknown"]
    assert said in books.node.problems[0].text
    assert "reports no pages" in books.node.problems[0].text


@pytest.mark.parametrize(
    ("guest", "rules", "told"),
    [
        (floating(5), Rules(host=HOST, cpu_allocation_ratio=1.0), ("5 vCPUs of 4",)),
        (floating(5), RULES, ()),
        (floating(16), RULES, ()),
        (floating(17), RULES, ("17 vCPUs of 16",)),
        (floating(memory_mb=40000, pagesize_kb=9), RULES, ("40000 MiB of 32768",)),
        (floating(memory_mb=40000), RULES, ("10240000 pages of 4 KiB of 6291456", "40000 MiB of 32768")),
        (floating(memory_mb=40000), Rules(host=HOST, ram_allocation_ratio=2.0), ()),
        # 4,000 pages of 2 MiB are not reserved; pages that are kept in memory can't be sold twice.
        (floating(memory_mb=8000, pagesize_kb=2048), RULES, ()),
        (
            floating(memory_mb=8002, pagesize_kb=2048),
            Rules(host=HOST, ram_allocation_ratio=9.0),
            ("4001 pages of 2048 KiB of 4000",),
        ),
    ],
)
def test_given_more_than_a_cell_holds_when_counted_then_it_counts_as_it_is_and_is_told(
    guest: GuestTopology, rules: Rules, told: tuple[str, ...]
) -> None:
    books = hosted(guest, rules=rules)
    texts = [problem.text for problem in books.node.problems if problem.code == "cell-overfull"]
    assert texts == [" are allocated of cell 0, whose capacity is ".join(said.rsplit(" of ", 1)) for said in told]
    assert cells_of(books)[0].memory_usage_mb == guest.cells[0].memory_mb


def test_given_a_cell_with_more_reserved_than_it_has_when_counted_then_there_is_room_for_none() -> None:
    pages = (HostPages(size_kb=4, total=10**7), HostPages(size_kb=2048, total=10, reserved=20))
    host = a_host(numa_topology=two_cells(pages=pages))
    texts = [problem.text for problem in hosted(floating(pagesize_kb=2048), host=host).node.problems]
    assert texts == ["512 pages of 2048 KiB are allocated of cell 0, whose capacity is 0"]
    assert hosted(host=host).node.problems == ()


def test_given_the_same_holder_twice_when_placed_then_its_cpu_is_pinned_once() -> None:
    cells = Cells(unused(two_cells()))
    first, _ = cells.place("a", pinned({0: 4}))
    second, problems = cells.place("a", pinned({0: 4, 1: 5}))
    assert [set(take.pinned_cpus) for take in (*first, *second)] == [{4}, {5}]
    assert problems == ()


def test_given_two_guest_cells_on_one_host_cell_when_counted_then_both_count() -> None:
    guest = GuestTopology(cells=(floating(1).cells[0], replace(floating(2).cells[0], memory_mb=3)))
    first = cells_of(hosted(guest))[0]
    assert (first.cpu_usage, first.memory_usage_mb, first.pages[0].used) == (3, 1027, 1027 * 256)


def test_given_a_cpu_that_was_pinned_before_when_placed_then_it_is_another_guests() -> None:
    topology = unused(two_cells())
    assert topology is not None
    cells = Cells(NodeTopology(cells=(replace(topology.cells[0], pinned_cpus=frozenset({4})),)))
    _, (problem,) = cells.place("a", pinned({0: 4}))
    assert problem.text == "guest a: it pins CPU 4 of cell 0, held by another guest"


def test_given_an_unknown_cell_before_a_known_one_when_counted_then_the_known_one_counts() -> None:
    guest = GuestTopology(cells=(floating(2, cell=7).cells[0], floating(3, cell=1).cells[0]))
    books = hosted(guest)
    assert [cell.cpu_usage for cell in cells_of(books)] == [0, 3]
    assert codes(books) == ["guest-cell-unknown"]


def test_given_what_a_cell_has_not_when_counted_then_the_text_says_what_it_has() -> None:
    def text(guest: GuestTopology, **changes: object) -> str:
        (problem,) = hosted(guest, host=a_host(numa_topology=two_cells(**changes))).node.problems
        return problem.text.removeprefix(f"guest {uuid_of(1)}: ")

    assert text(floating(pagesize_kb=9)) == "it asks for pages of 9 KiB, cell 0 has pages of 4, 2048 KiB"
    assert text(floating(pagesize_kb=9), pages=()) == "it asks for pages of 9 KiB, cell 0 reports no pages"
    assert text(floating(), pages=()) == "it takes the smallest pages, cell 0 reports no pages"
    assert text(pinned({0: 0}), pcpuset=frozenset()) == "it pins CPU 0, cell 0 has none to pin"


def test_given_one_page_of_a_cell_that_reserves_all_when_counted_then_that_is_too_much() -> None:
    pages = (HostPages(size_kb=4, total=10**7), HostPages(size_kb=2048, total=20, reserved=20))
    guest = floating(memory_mb=2, pagesize_kb=2048)
    texts = [one.text for one in hosted(guest, host=a_host(numa_topology=two_cells(pages=pages))).node.problems]
    assert texts == ["1 pages of 2048 KiB are allocated of cell 0, whose capacity is 0"]


def test_given_cpus_that_two_others_have_when_placed_then_both_are_named() -> None:
    cells = Cells(unused(two_cells()))
    cells.place("b", pinned({0: 4}))
    cells.place("a", pinned({0: 5}))
    _, (problem,) = cells.place("c", pinned({0: 4, 1: 5}))
    assert problem.text == "guest c: it pins CPU 4, 5 of cell 0, held by a, b"
