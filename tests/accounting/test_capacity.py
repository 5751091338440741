"""What a node may give out: one rule, Placement's, wherever it is shown."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stocktake.accounting.capacity import (
    RESOURCES,
    ResourceTotals,
    added,
    capacity_of,
    cpu_totals,
    has_dedicated_cpus,
    node_cpu_totals,
    resources_of,
    resources_then,
)
from stocktake.accounting.tally import tally
from stocktake.model.books import ComputeNode, Entry
from stocktake.model.history import Moment
from stocktake.model.topology import CellTake, NodeCell, NodeTopology
from stocktake.model.value import replace
from stocktake.placement.desired import desired
from stocktake.placement.overrides import NodeOverrides
from stocktake.report.save import carried
from stocktake.views.nodes import detail_of, summary_of, view_of
from stocktake.web.pages.drawings import bars_of
from tests.accounting.making import a_host, an_instance, count, pinned, two_cells, work
from tests.accounting.test_properties import NODE_UUID, thorough
from tests.strategies import Case, cases
from tests.views.test_nodes import NODE

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
KEPT = Entry(kind="reserved", id="host", why="kept", vcpus=1, memory_mb=24, disk_mb=1025)


def half(shared: int, dedicated: int) -> NodeTopology:
    """One cell of so many shared CPUs, then so many dedicated ones."""
    cell = NodeCell(
        id=0,
        cpuset=frozenset(range(shared)),
        pcpuset=frozenset(range(shared, shared + dedicated)),
        memory_mb=1024,
        siblings=(),
        pages=(),
        socket=None,
        cpu_usage=0,
        memory_usage_mb=0,
        pinned_cpus=frozenset(),
    )
    return NodeTopology(cells=(cell,))


def test_given_a_resource_then_its_names_are_those_of_placement_the_record_and_the_settings() -> None:
    assert [(name, one.name, one.resource_class) for name, one in RESOURCES.items()] == [
        ("vcpus", "vcpus", "VCPU"),
        ("pcpus", "pcpus", "PCPU"),
        ("memory_mb", "memory_mb", "MEMORY_MB"),
        ("local_gb", "local_gb", "DISK_GB"),
    ]
    assert [(one.used_field, one.ratio_field, one.reserve_setting) for one in RESOURCES.values()] == [
        ("vcpus_used", "cpu_allocation_ratio", "reserved_host_cpus"),
        ("", "", ""),
        ("memory_mb_used", "ram_allocation_ratio", "reserved_host_memory_mb"),
        ("local_gb_used", "disk_allocation_ratio", "reserved_host_disk_mb"),
    ]
    assert [(one.title, one.unit, one.quantity) for one in RESOURCES.values()] == [
        ("vCPUs", "vCPUs", "vCPUs"),
        ("dedicated CPUs", "CPUs", "dedicated CPUs"),
        ("memory", "MiB", "MiB of memory"),
        ("disk", "GB", "GiB of disk"),
    ]


@pytest.mark.parametrize(
    ("capacity", "allocated", "share", "percent", "over"),
    [
        (8, 2, 0.25, 25, False),
        (8, 8, 1.0, 100, False),
        (8, 9, 1.125, 113, True),
        # Rounded up: something is not nothing.
        (1000, 1, 0.001, 1, False),
        (1, 1, 1.0, 100, False),
        (8, 0, 0.0, 0, False),
        # An unmanaged guest may be counted where nothing is to be had.
        (0, 3, 1.0, 100, True),
        (0, 1, 1.0, 100, True),
        (1, 2, 2.0, 200, True),
        (0, 0, 0.0, None, False),
    ],
)
def test_given_amounts_then_the_share_is_allocated_over_capacity_and_over_allocated_is_more(
    capacity: int, allocated: int, share: float, percent: int | None, *, over: bool
) -> None:
    one = ResourceTotals(name="vcpus", resource_class="VCPU", capacity=capacity, allocated=allocated)
    assert (one.share, one.percent, one.over_allocated) == (share, percent, over)


@pytest.mark.parametrize(
    ("total", "reserved", "ratio", "capacity"),
    [
        (64, 0, 4.0, 256),
        # Rounded down, neither up nor to the nearest: 10.5, 10.8 and 10.2.
        (7, 0, 1.5, 10),
        (9, 0, 1.2, 10),
        (6, 0, 1.7, 10),
        (10, 3, 1.0, 7),
        (10, 3, 0.5, 3),
        (10, 10, 16.0, 0),
        (10, 11, 16.0, 0),
        (0, 0, 16.0, 0),
    ],
)
def test_given_amounts_then_capacity_is_what_is_not_reserved_times_the_ratio_rounded_down(
    total: int, reserved: int, ratio: float, capacity: int
) -> None:
    assert capacity_of(total, reserved, ratio) == capacity


@pytest.mark.parametrize("vcpus", [32, 64])
def test_given_half_of_64_cpus_dedicated_then_vcpus_are_four_times_32_and_pcpus_32(vcpus: int) -> None:
    node = replace(NODE, vcpus=vcpus, vcpus_used=12, cpu_allocation_ratio=4.0, numa_topology=half(32, 32))
    mine = CellTake(cell=0, vcpus=2, memory_mb=0, pinned_cpus=frozenset({32, 33, 34}))
    entries = (
        KEPT,
        Entry(kind="instance", id="a", why="", vcpus=5, cells=(mine,)),
        Entry(kind="instance", id="b", why="", vcpus=6),
    )
    # Before it was reported and after.
    for owned in (frozenset[str](), frozenset({"VCPU", "PCPU", "MEMORY_MB", "DISK_GB"})):
        found = resources_of(replace(node, owned_classes=owned), entries)
        vcpu, pcpu, _memory, disk = found
        assert (vcpu.total, vcpu.reserved, vcpu.capacity, vcpu.allocated, vcpu.free) == (32, 1, 124, 8, 116)
        assert (pcpu.total, pcpu.reserved, pcpu.capacity, pcpu.allocated, pcpu.free) == (32, 0, 32, 3, 29)
        assert [one.resource_class for one in found] == ["VCPU", "PCPU", "MEMORY_MB", "DISK_GB"]
        assert disk.reserved == 2


def test_given_a_node_without_reserve_then_it_has_128_vcpus_and_32_pcpus() -> None:
    vcpu, pcpu, *_ = resources_of(replace(NODE, vcpus=64, cpu_allocation_ratio=4.0, numa_topology=half(32, 32)), ())
    assert (vcpu.capacity, pcpu.capacity) == (128, 32)


def test_given_no_set_of_cpus_then_all_count_as_shared() -> None:
    both = NodeTopology(cells=(replace(half(4, 0).cells[0], pcpuset=frozenset(range(4))),))
    assert not has_dedicated_cpus(replace(NODE, numa_topology=both))
    assert not has_dedicated_cpus(replace(NODE, numa_topology=half(2, 2), owned_classes=frozenset({"VCPU"})))
    assert not has_dedicated_cpus(NODE)
    # A list of many nodes is read without their cells: the classes say it.
    assert has_dedicated_cpus(replace(NODE, owned_classes=frozenset({"VCPU", "PCPU"})))
    vcpu, memory, _disk = resources_of(replace(NODE, numa_topology=both, vcpus_used=12), (KEPT,))
    assert (vcpu.name, vcpu.total, vcpu.reserved, vcpu.allocated) == ("vcpus", 4, 1, 11)
    assert memory.name == "memory_mb"
    assert node_cpu_totals(replace(NODE, numa_topology=both)) == (4, 0)
    # How many are dedicated may be said apart from the cells.
    assert cpu_totals(both, 4, 3) == (4, 3)
    assert cpu_totals(both, 4, None) == (4, 4)
    assert cpu_totals(None, 7, None) == (7, 0)


def test_given_more_reserved_than_there_is_then_all_is_and_nothing_can_be_given_out() -> None:
    vcpu, memory, _disk = resources_of(replace(NODE, vcpus=0, vcpus_used=1, memory_mb=8, memory_mb_used=30), (KEPT,))
    assert (vcpu.reserved, vcpu.capacity, vcpu.allocated, vcpu.percent, vcpu.share) == (0, 0, 0, None, 0.0)
    assert (memory.reserved, memory.capacity, memory.allocated, memory.free) == (8, 0, 6, -6)
    assert (memory.percent, memory.share, memory.over_allocated) == (100, 1.0, True)


def test_given_many_nodes_when_added_then_free_is_what_those_have_that_have_some() -> None:
    full, empty = replace(NODE, memory_mb_used=1524), replace(NODE, numa_topology=half(2, 2), vcpus=4)
    sums = {one.name: one for one in added([resources_of(full, ()), resources_of(empty, ())])}
    kept = {one.name: one.reserved for one in added([resources_of(full, (KEPT,)), resources_of(full, (KEPT,))])}
    assert kept == {"vcpus": 2, "memory_mb": 48, "local_gb": 4}
    assert list(sums) == ["vcpus", "pcpus", "memory_mb", "local_gb"]
    memory = sums["memory_mb"]
    assert (memory.total, memory.capacity, memory.allocated, memory.free) == (2048, 2048, 1524, 1024)
    assert (memory.percent, sums["pcpus"].total) == (75, 2)
    assert added([]) == ()


@given(st.integers(0, 10**6), st.integers(0, 10**6))
def test_given_any_amounts_when_told_in_percent_then_full_is_full_and_something_is_not_nothing(
    capacity: int, allocated: int
) -> None:
    one = ResourceTotals(name="vcpus", resource_class="VCPU", capacity=capacity, allocated=allocated)
    assert (one.percent is None) == (capacity == 0 and allocated == 0)
    if one.percent is not None:
        assert (one.percent > 0) == (allocated > 0)
        assert capacity == 0 or (one.percent > 100) == one.over_allocated


def test_given_a_moment_of_its_history_then_it_is_told_by_todays_reserves_and_ratios() -> None:
    then = Moment(
        at=NOON,
        vcpus=2,
        vcpus_used=2,
        memory_mb=512,
        memory_mb_used=100,
        local_gb=10,
        local_gb_used=5,
        running_vms=1,
    )
    today = {one.name: one for one in resources_of(replace(NODE, vcpus_used=1), (KEPT,))}
    vcpus, memory, disk = resources_then(then, replace(NODE, vcpus_used=1), today)
    assert (vcpus.total, vcpus.capacity, vcpus.allocated, vcpus.free) == (2, 4, 1, 3)
    assert (memory.total, memory.capacity, memory.allocated) == (512, 488, 76)
    assert (disk.total, disk.capacity, disk.allocated) == (10, 8, 3)
    apart: ComputeNode = replace(NODE, vcpus=4, numa_topology=half(2, 2))
    cpus, memory, disk = resources_then(
        replace(then, vcpus=4), apart, {one.name: one for one in resources_of(apart, ())}
    )
    assert (cpus.name, cpus.total, cpus.capacity) == ("vcpus", 4, 10)
    # The dedicated CPUs are no memory and no disk.
    assert (memory.total, memory.capacity, disk.total, disk.capacity) == (512, 512, 10, 10)


def test_given_pinned_guests_when_tallied_then_they_are_allocated_dedicated_cpus() -> None:
    guest = an_instance(1, name="web", numa_topology=pinned({0: 4, 1: 5}))
    books = count(a_host(numa_topology=two_cells()), work([guest]))
    vcpus, pcpus, *_ = resources_of(books.node, books.entries)
    assert (vcpus.total, vcpus.allocated, pcpus.total, pcpus.allocated) == (8, 0, 8, 2)


@thorough
@given(cases())
def test_given_any_node_then_show_api_page_and_placements_inventory_agree(case: Case) -> None:
    books = tally(case.host, case.work, case.rules, uuid=NODE_UUID)
    overrides = NodeOverrides()
    tree, _problems = desired(case.host, books, case.rules, disabled=False, overrides=overrides)
    node = carried(books.node, tree, None)
    view = view_of(node, None, books.entries, NOON, 60)
    detail, summary = detail_of(view, ()), summary_of(view)
    assert detail.resources == summary.resources == view.resources
    pages = {bar.what: {one.title: one.text.replace(",", "") for one in bar.numbers} for bar in bars_of(view, ())}
    inventories = tree.root.inventories
    assert {one.resource_class for one in view.resources.values() if one.total} == inventories.keys() & {
        one.resource_class for one in RESOURCES.values()
    }
    for name, one in view.resources.items():
        assert pages[name]["capacity"] == str(one.capacity)
        assert pages[name]["allocated"] == str(one.allocated)
        if one.total:
            told = inventories[one.resource_class]
            assert (one.total, one.reserved, one.ratio) == (told.total, told.reserved, told.allocation_ratio)
            assert one.capacity == int((told.total - told.reserved) * told.allocation_ratio)
