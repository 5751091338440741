"""NUMA: the host's cells, and where a guest sits in them."""

import pytest

from stocktake.drivers.libvirt.numa import (
    HostLayout,
    cell_by_cpu,
    guest_topology,
    has_hyperthreading,
    host_topology,
)
from stocktake.drivers.libvirt.xml import read_xml
from stocktake.drivers.machine import HostCpus, split_cpus
from stocktake.errors import InvalidData
from stocktake.model.topology import GuestCell, HostCell, HostPages
from tests.drivers.libvirt.documents import AARCH64, AMD, INTEL, domain_document

ONLINE = frozenset({0, 1, 2, 3, 4, 5, 6})


def test_cells_hold_only_online_cpus_with_their_siblings_sockets_and_pages() -> None:
    cpus = HostCpus(shared=frozenset({0, 4, 3}), dedicated=frozenset({1, 2, 6}), pinnable=frozenset({1, 2, 6}))
    topology = host_topology(read_xml(INTEL, where=""), cpus, {0: {2048: 64}})
    assert topology is not None
    assert topology.cells == (
        HostCell(
            id=0,
            cpuset=frozenset({0, 4}),
            pcpuset=frozenset({1}),
            memory_mb=8191,
            siblings=(frozenset({0, 4}), frozenset({1})),
            pages=(
                HostPages(size_kb=4, total=1048576),
                HostPages(size_kb=2048, total=1024, reserved=64),
                HostPages(size_kb=1048576, total=2),
            ),
            socket=0,
        ),
        HostCell(
            id=1,
            cpuset=frozenset({3}),
            pcpuset=frozenset({2, 6}),
            memory_mb=8192,
            siblings=(frozenset({2, 6}), frozenset({3})),
            pages=(
                HostPages(size_kb=4, total=2097152),
                HostPages(size_kb=2048, total=0),
                HostPages(size_kb=1048576, total=0),
            ),
            socket=1,
        ),
    )


def test_without_any_set_every_cpu_may_be_pinned_and_none_is_sold_for_it() -> None:
    cpus = split_cpus(ONLINE, shared_spec=None, dedicated_spec=None)
    topology = host_topology(read_xml(INTEL, where=""), cpus, {})
    assert topology is not None
    assert cpus.dedicated == frozenset()
    assert [cell.pcpuset for cell in topology.cells] == [cell.cpuset for cell in topology.cells]
    assert frozenset().union(*(cell.cpuset for cell in topology.cells)) == ONLINE


def test_with_only_a_shared_set_no_cpu_may_be_pinned() -> None:
    cpus = split_cpus(ONLINE, shared_spec="0", dedicated_spec=None)
    assert (cpus.shared, cpus.dedicated, cpus.pinnable) == (frozenset({0}), frozenset(), frozenset())


def test_a_cell_of_memory_only_is_a_cell() -> None:
    cpus = HostCpus(shared=frozenset({0, 1}), dedicated=frozenset())
    topology = host_topology(read_xml(AMD, where=""), cpus, {})
    assert topology is not None
    assert [(cell.id, len(cell.cpuset), cell.memory_mb, cell.socket) for cell in topology.cells] == [
        (0, 1, 4096, 0),
        (1, 1, 4096, 0),
        (2, 0, 1024, None),
    ]


def test_a_host_without_cells_has_no_topology() -> None:
    assert host_topology(read_xml(AARCH64, where=""), HostCpus(shared=frozenset(), dedicated=frozenset()), {}) is None
    assert cell_by_cpu(read_xml(AARCH64, where="")) == {}


def test_a_cell_in_two_sockets_names_none() -> None:
    text = INTEL.replace("<cpu id='5' socket_id='0'", "<cpu id='5' socket_id='1'")
    topology = host_topology(read_xml(text, where=""), HostCpus(shared=ONLINE, dedicated=frozenset()), {})
    assert topology is not None
    assert [cell.socket for cell in topology.cells] == [None, 1]


def test_every_cpu_knows_its_cell() -> None:
    assert cell_by_cpu(read_xml(INTEL, where="")) == {0: 0, 1: 0, 4: 0, 5: 0, 2: 1, 3: 1, 6: 1, 7: 1}


@pytest.mark.parametrize(("text", "threads"), [(INTEL, True), (AMD, False), (AARCH64, False)])
def test_hyper_threading_is_seen_by_siblings(text: str, threads: bool) -> None:  # noqa: FBT001 (a table's column)
    assert has_hyperthreading(read_xml(text, where="")) is threads


def test_a_wrong_number_is_refused_by_name() -> None:
    text = INTEL.replace("<cell id='1'>", "<cell id='one'>")
    with pytest.raises(InvalidData, match="a NUMA cell's id is 'one'"):
        host_topology(read_xml(text, where=""), HostCpus(shared=ONLINE, dedicated=frozenset()), {})


TWO_CELLS = HostLayout(
    cell_by_cpu={0: 0, 1: 0, 4: 0, 5: 0, 2: 1, 3: 1, 6: 1, 7: 1}, cells=frozenset({0, 1}), huge_kb=2048
)
ONE_CELL = HostLayout(cell_by_cpu={0: 0, 1: 0}, cells=frozenset({0}), huge_kb=2048)
NO_CELLS = HostLayout(cell_by_cpu={}, cells=frozenset(), huge_kb=None)

GIB = "<memory unit='GiB'>1</memory>"
TWO_GUEST_CELLS = (
    "<cpu><numa><cell id='0' cpus='0-1' memory='524289'/><cell id='1' cpus='2-3' memory='256' unit='MiB'/></numa></cpu>"
)


def pins(*cpus: str) -> str:
    inner = "".join(f"<vcpupin vcpu='{vcpu}' cpuset='{cpuset}'/>" for vcpu, cpuset in enumerate(cpus))
    return f"<cputune>{inner}</cputune>"


def place(inner: str, layout: HostLayout, vcpu: str = "<vcpu>4</vcpu>") -> tuple[GuestCell, ...] | None:
    root = read_xml(domain_document(inner, memory=GIB, vcpu=vcpu), where="")
    topology = guest_topology(root, frozenset(range(4)), layout)
    return None if topology is None else topology.cells


@pytest.mark.parametrize(
    ("inner", "layout"),
    [
        ("", TWO_CELLS),
        ("", ONE_CELL),
        (pins("0-1", "0-1"), TWO_CELLS),
        ("<numatune><memory mode='strict' nodeset='1'/></numatune>", TWO_CELLS),
        # Cells of its own that are bound to none of the host's may be anywhere.
        (TWO_GUEST_CELLS, TWO_CELLS),
        # Huge pages could be of either cell.
        ("<memoryBacking><hugepages/></memoryBacking>", TWO_CELLS),
        (pins("0", "1"), NO_CELLS),
    ],
)
def test_what_nothing_binds_to_a_cell_takes_of_none(inner: str, layout: HostLayout) -> None:
    assert place(inner, layout) is None


def test_pinned_cpus_in_one_cell_bring_the_whole_memory_there() -> None:
    assert place(pins("2", "3", "6", "7"), TWO_CELLS) == (
        GuestCell(
            id=1,
            pcpuset=frozenset({0, 1, 2, 3}),
            memory_mb=1024,
            cpu_pinning={0: 2, 1: 3, 2: 6, 3: 7},
            cpu_policy="dedicated",
        ),
    )


def test_pinned_cpus_in_two_cells_divide_the_memory_as_they_are_divided_and_rounded_up() -> None:
    cells = place(pins("0", "2", "3", "6"), TWO_CELLS)
    assert cells is not None
    assert [(cell.id, cell.pcpuset, cell.memory_mb) for cell in cells] == [
        (0, frozenset({0}), 256),
        (1, frozenset({1, 2, 3}), 768),
    ]


def test_numatune_binds_the_memory_wherever_the_cpus_are() -> None:
    cells = place(pins("0", "0-7", "2", "3") + "<numatune><memory nodeset='1'/></numatune>", TWO_CELLS)
    assert cells is not None
    assert [(cell.id, cell.cpuset, cell.pcpuset, cell.memory_mb, cell.cpu_policy) for cell in cells] == [
        (0, frozenset(), frozenset({0}), 0, "dedicated"),
        (1, frozenset({1}), frozenset({2, 3}), 1024, "mixed"),
    ]


def test_some_pinned_and_some_floating_vcpus_are_mixed() -> None:
    cells = place(pins("0", "1"), TWO_CELLS)
    assert cells is not None
    assert [(cell.id, cell.cpuset, cell.pcpuset, cell.cpu_policy) for cell in cells] == [
        (0, frozenset({2, 3}), frozenset({0, 1}), "mixed")
    ]


def test_an_affinity_for_all_vcpus_is_every_vcpu_s_until_its_own_says_otherwise() -> None:
    cells = place(pins("0"), TWO_CELLS, vcpu="<vcpu placement='static' cpuset='4-5'>4</vcpu>")
    assert cells is not None
    assert [(cell.id, cell.cpuset, cell.cpu_pinning) for cell in cells] == [(0, frozenset({1, 2, 3}), {0: 0})]


def test_guest_cells_sit_where_numatune_puts_them() -> None:
    numatune = (
        "<numatune><memnode cellid='0' mode='strict' nodeset='1'/>"
        "<memnode cellid='1' mode='strict' nodeset='0'/></numatune>"
    )
    cells = place(TWO_GUEST_CELLS + numatune, TWO_CELLS)
    assert cells == (
        GuestCell(id=1, cpuset=frozenset({0, 1}), memory_mb=513, cpu_policy="shared"),
        GuestCell(id=0, cpuset=frozenset({2, 3}), memory_mb=256, cpu_policy="shared"),
    )


def test_guest_cells_sit_where_their_cpus_are_pinned_and_others_take_of_none() -> None:
    cells = place(TWO_GUEST_CELLS + pins("0", "1", "0-7", "0-7"), TWO_CELLS)
    assert cells is not None
    assert [(cell.id, cell.pcpuset, cell.memory_mb) for cell in cells] == [(0, frozenset({0, 1}), 513)]


def test_on_a_host_with_one_cell_everything_with_cells_sits_there() -> None:
    cells = place(TWO_GUEST_CELLS, ONE_CELL)
    assert cells is not None
    assert [cell.id for cell in cells] == [0, 0]


@pytest.mark.parametrize(
    ("hugepages", "sizes"),
    [
        ("<hugepages/>", [2048, 2048]),
        ("<hugepages><page size='1' unit='GiB'/></hugepages>", [1048576, 1048576]),
        ("<hugepages><page size='1' unit='GiB' nodeset='1'/></hugepages>", [None, 1048576]),
        ("<hugepages><page size='2048'/><page size='1048576' nodeset='0'/></hugepages>", [1048576, 2048]),
    ],
)
def test_huge_pages_back_the_cells_that_they_name(hugepages: str, sizes: list[int | None]) -> None:
    cells = place(TWO_GUEST_CELLS + f"<memoryBacking>{hugepages}</memoryBacking>", ONE_CELL)
    assert cells is not None
    assert [cell.pagesize_kb for cell in cells] == sizes


def test_a_guest_on_huge_pages_without_cells_takes_them_of_the_only_cell() -> None:
    cells = place("<memoryBacking><hugepages/></memoryBacking>", ONE_CELL)
    assert cells is not None
    assert [(cell.id, cell.memory_mb, cell.pagesize_kb, cell.cpu_policy) for cell in cells] == [
        (0, 1024, 2048, "shared")
    ]


def test_vcpus_that_are_not_plugged_in_take_nothing() -> None:
    root = read_xml(domain_document(TWO_GUEST_CELLS + pins("0", "1", "2", "3"), memory=GIB), where="")
    topology = guest_topology(root, frozenset({0}), TWO_CELLS)
    assert topology is not None
    assert [(cell.id, cell.pcpuset) for cell in topology.cells] == [(0, frozenset({0}))]


@pytest.mark.parametrize(
    ("inner", "says"),
    [
        (pins("x"), "vcpupin's cpuset: 'x'"),
        ("<cputune><vcpupin vcpu='-1' cpuset='0'/></cputune>", "vcpupin's vcpu is '-1'"),
        (TWO_GUEST_CELLS.replace("256", "much") + pins("0", "1", "2", "3"), "a cell's memory is 'much'"),
        (TWO_GUEST_CELLS + "<numatune><memnode cellid='0' nodeset='a'/></numatune>", "nodeset: 'a'"),
    ],
)
def test_what_cannot_be_read_is_named(inner: str, says: str) -> None:
    with pytest.raises(InvalidData, match=says):
        place(inner, TWO_CELLS)
