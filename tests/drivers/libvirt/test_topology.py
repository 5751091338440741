"""Which CPUs are sold as what, and the cells, by Nova's rules."""

import pytest

from stocktake.drivers.cpus import HostCpus, split_cpus
from stocktake.drivers.libvirt.topology import (
    cell_by_cpu,
    has_hyperthreading,
    host_topology,
)
from stocktake.drivers.libvirt.xml import read_xml
from stocktake.errors import InvalidData, SettingsError
from stocktake.model.topology import HostCell, HostPages
from tests.drivers.libvirt.documents import AARCH64, AMD, INTEL

ONLINE = frozenset({0, 1, 2, 3, 4, 5, 6})


@pytest.mark.parametrize(
    ("shared", "dedicated", "sold_shared", "sold_dedicated"),
    [
        (None, None, {0, 1, 2, 3, 4, 5, 6}, set()),
        ("", "", {0, 1, 2, 3, 4, 5, 6}, set()),
        ("0-1", None, {0, 1}, set()),
        (None, "4-6,^5", set(), {4, 6}),
        ("0-1", "4-6", {0, 1}, {4, 5, 6}),
    ],
)
def test_the_sets_say_what_is_sold_as_nova_reads_them(
    shared: str | None, dedicated: str | None, sold_shared: set[int], sold_dedicated: set[int]
) -> None:
    cpus = split_cpus(ONLINE, shared_spec=shared, dedicated_spec=dedicated)
    assert (set(cpus.shared), set(cpus.dedicated)) == (sold_shared, sold_dedicated)


@pytest.mark.parametrize(
    ("shared", "dedicated", "says"),
    [
        ("0,19-20", None, r"cpu_shared_set: CPU 19-20 is not on this host or offline \(online: 0-6\)"),
        (None, "7", "cpu_dedicated_set: CPU 7 is not on this host"),
        ("0-3", "2-5", "both name CPU 2-3"),
        ("0,^0", None, "no CPU is left"),
        (None, "a-b", "cpu_dedicated_set: .*a-b"),
        ("3-1", None, "cpu_shared_set"),
    ],
)
def test_a_set_that_does_not_fit_the_host_is_named(shared: str | None, dedicated: str | None, says: str) -> None:
    with pytest.raises(SettingsError, match=says):
        split_cpus(ONLINE, shared_spec=shared, dedicated_spec=dedicated)


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
