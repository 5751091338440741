"""Whether a machine fits a node: each dimension by tables, what Placement would grant by a reckoning of its own."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stocktake.accounting.fit.fit import fit, limits_of, resource_fits
from stocktake.accounting.fit.placement import Placed
from stocktake.accounting.fit.request import Wanted, wanted
from stocktake.errors import InvalidData
from stocktake.model.books import ComputeNode, Entry
from stocktake.model.fitting import Limits
from stocktake.model.rules import Rules
from stocktake.model.value import replace
from stocktake.model.workload import Flavor, NodeWork
from tests.accounting.making import HOST, a_host, an_instance, count, floating, pinned, two_cells, work
from tests.strategies import NEWCOMER, Case, cases

SOLD_APART = frozenset({"VCPU", "PCPU", "MEMORY_MB", "DISK_GB"})
PLAIN = Flavor(vcpus=2, memory_mb=2048, root_gb=20)
# 16 CPUs sold four times, 65,536 MiB, 1,000 GiB; 512 MiB kept for the host.
NODE = count().node
RESERVED = Entry(kind="reserved", id="host", why="", vcpus=2, memory_mb=512, disk_mb=100)


def taking(**amounts: object) -> Entry:
    return replace(Entry(kind="instance", id="i", why=""), **amounts)


def a_flavor(specs: dict[str, str] | None = None, **changes: object) -> Flavor:
    return replace(PLAIN, extra_specs=specs or {}, **changes)


def refused(
    asked: Flavor | Wanted, node: ComputeNode = NODE, *entries: Entry, limits: Limits | None = None
) -> dict[str, tuple[float, float, float]]:
    """Give the reasons' numbers, by dimension; none if it fits. Without limits, the node's own."""
    want = asked if isinstance(asked, Wanted) else wanted(asked, ())
    answer = fit(node, entries, want, table={}, limits=limits or limits_of(node, entries))
    if isinstance(answer, Placed):
        return {}
    assert answer
    assert all(reason.text for reason in answer)
    return {reason.what: (reason.asked, reason.free, reason.total) for reason in answer}


@pytest.mark.parametrize(
    ("changes", "entries", "told"),
    [
        ({}, (), {"vcpus": 64, "pcpus": 0, "memory_mb": 65536, "disk_gb": 1000}),
        ({}, (RESERVED,), {"vcpus": 58, "memory_mb": 65536, "disk_gb": 999 + 100 / 1024}),
        ({"cpu_allocation_ratio": 1.5}, (RESERVED,), {"vcpus": 23}),
        # 0.57 * 100 is a hair less than 57, and Placement grants 56.
        ({"vcpus": 100, "cpu_allocation_ratio": 0.57}, (), {"vcpus": 56}),
        ({"ram_allocation_ratio": 1.5}, (RESERVED,), {"memory_mb": 65024 * 1.5 + 512}),
        # More reserved than there is: nothing is left, and what is reserved stays.
        ({"memory_mb": 256}, (RESERVED,), {"memory_mb": 512}),
        # Two holders of half a GiB have one each in Placement: of 1,000 GiB 998 are left.
        ({}, (taking(disk_mb=512), taking(disk_mb=512)), {"disk_gb": 999}),
        ({"disk_allocation_ratio": 1.0005}, (), {"disk_gb": 1000}),
        ({"owned_classes": frozenset({"CUSTOM_BAREMETAL"})}, (RESERVED,), {"vcpus": 2, "memory_mb": 512}),
    ],
)
def test_given_a_node_then_its_capacity_is_what_placement_would_grant(
    changes: dict[str, Any], entries: tuple[Entry, ...], told: dict[str, float]
) -> None:
    limits = limits_of(replace(NODE, **changes), entries)
    assert {name: getattr(limits, name) for name in told} == told


def test_given_a_node_then_its_cells_may_be_filled_by_its_ratios() -> None:
    limits = limits_of(replace(NODE, ram_allocation_ratio=1.5), ())
    assert (limits.numa_cpu_ratio, limits.numa_ram_ratio) == (4.0, 1.5)


@pytest.mark.parametrize(
    ("flavor", "entries", "reasons"),
    [
        (a_flavor(), (RESERVED,), {}),
        (a_flavor(), (taking(vcpus=62),), {}),
        (a_flavor(), (taking(vcpus=63),), {"VCPU": (2, 1, 64)}),
        (a_flavor(), (RESERVED, taking(vcpus=54)), {}),
        (a_flavor(), (RESERVED, taking(vcpus=55)), {"VCPU": (2, 1, 58)}),
        # More than the node has in all, however often it is sold.
        (a_flavor(vcpus=16), (), {}),
        (a_flavor(vcpus=17), (), {"VCPU": (17, 16, 16)}),
        (a_flavor(vcpus=17), (taking(vcpus=60),), {"VCPU": (17, 4, 16)}),
        (a_flavor(), (taking(memory_mb=63488),), {}),
        (a_flavor(), (taking(memory_mb=63489),), {"MEMORY_MB": (2048, 2047, 65536)}),
        (a_flavor(), (taking(disk_mb=980 * 1024),), {}),
        (a_flavor(), (taking(disk_mb=980 * 1024 + 1),), {"DISK_GB": (20, 19, 999 + 1 / 1024 // 0.001 * 0.001)}),
        (a_flavor(swap_mb=1), (taking(disk_mb=980 * 1024),), {"DISK_GB": (20 + 1 / 1024, 20, 1000)}),
        (a_flavor(ephemeral_gb=1), (taking(disk_mb=980 * 1024),), {"DISK_GB": (21, 20, 1000)}),
        # All of them at once, and more used than there is.
        (
            a_flavor(vcpus=3),
            (taking(vcpus=99, memory_mb=99999, disk_mb=1025 * 1024),),
            {"VCPU": (3, 0, 64), "MEMORY_MB": (2048, 0, 65536), "DISK_GB": (20, 0, 1000)},
        ),
        # What is not asked for is never short.
        (a_flavor(root_gb=0, memory_mb=0, vcpus=0), (taking(vcpus=99, memory_mb=99999, disk_mb=2000000),), {}),
    ],
)
def test_given_a_flavor_when_fitted_then_every_class_that_ran_out_is_told(
    flavor: Flavor, entries: tuple[Entry, ...], reasons: dict[str, tuple[float, float, float]]
) -> None:
    told = refused(flavor, NODE, *entries)
    assert told.keys() == reasons.keys()
    assert told == {what: pytest.approx(numbers, abs=0.001) for what, numbers in reasons.items()}


def test_given_a_volume_backed_machine_when_fitted_then_its_root_disk_takes_no_room() -> None:
    full = taking(disk_mb=990 * 1024)
    assert refused(wanted(a_flavor(), (), volume_backed=True), NODE, full) == {}
    assert "DISK_GB" in refused(a_flavor(), NODE, full)


@pytest.mark.parametrize(
    ("limits", "short"),
    [
        (Limits(), set()),
        (Limits(vcpus=10), {"VCPU"}),
        (Limits(memory_mb=9000), {"MEMORY_MB"}),
        (Limits(disk_gb=99.5), {"DISK_GB"}),
        (Limits(vcpus=12, memory_mb=10048, disk_gb=120), set()),
    ],
)
def test_given_limits_when_fitted_then_only_what_has_one_is_checked(limits: Limits, short: set[str]) -> None:
    entry = taking(vcpus=10, memory_mb=8000, disk_mb=100 * 1024)
    assert refused(a_flavor(), NODE, entry, limits=limits).keys() == short


def test_given_no_limits_at_all_when_fitted_then_everything_fits_and_nothing_is_said_to_be_left() -> None:
    want = wanted(a_flavor(vcpus=1000, memory_mb=10**6), ())
    assert fit(NODE, (), want, table={}, limits=None) == Placed(numa=None)
    assert {room.free_after for room in resource_fits(NODE, (), want, None)} == {None}


def test_given_a_class_that_is_left_when_compared_then_before_and_after_are_told() -> None:
    entry = taking(vcpus=10, memory_mb=8000, disk_mb=512)
    told = {
        one.what: (one.free, one.free_after)
        for one in resource_fits(NODE, (entry,), wanted(PLAIN, ()), limits_of(NODE, (entry,)))
    }
    assert told == {"VCPU": (54, 52), "PCPU": (0, 0), "MEMORY_MB": (57536, 55488), "DISK_GB": (999, 979)}


DEDICATED = {"hw:cpu_policy": "dedicated"}
MIXED = {"hw:cpu_policy": "mixed", "hw:cpu_dedicated_mask": "0"}


@pytest.mark.parametrize(
    ("specs", "apart", "asked"),
    [
        ({}, True, (2, 0)),
        (DEDICATED, True, (0, 2)),
        (DEDICATED | {"hw:emulator_threads_policy": "isolate"}, True, (0, 3)),
        (MIXED, True, (1, 1)),
        ({"hw:numa_nodes": "1"}, True, (2, 0)),
        # Where none are sold to be pinned, all are VCPU.
        (DEDICATED, False, (2, 0)),
        (MIXED, False, (2, 0)),
    ],
)
def test_given_cpus_of_its_own_when_asked_for_then_they_are_asked_of_those_that_are_sold(
    specs: dict[str, str], asked: tuple[int, int], *, apart: bool
) -> None:
    node = count(a_host(numa_topology=two_cells())).node
    node = replace(node, owned_classes=SOLD_APART if apart else SOLD_APART - {"PCPU"})
    found = {room.what: room.asked for room in resource_fits(node, (), wanted(a_flavor(specs), ()), None)}
    assert (found["VCPU"], found["PCPU"]) == asked


def test_given_a_node_that_sells_cpus_apart_when_counted_then_pinned_and_shared_ones_are_told_apart() -> None:
    # The cells have 8 shared and 8 dedicated CPUs; 3 and 2 are taken by guests of the cells, 2 by one that floats.
    promised = work(
        (
            an_instance(1, numa_topology=pinned({0: 4, 1: 5})),
            an_instance(2, numa_topology=floating(3)),
            an_instance(3),
        )
    )
    books = count(a_host(numa_topology=two_cells()), promised, Rules(host=HOST, reserved_host_memory_mb=0))
    node = replace(books.node, owned_classes=SOLD_APART)
    limits = limits_of(node, books.entries)
    assert (limits.vcpus, limits.pcpus) == (32, 8)
    used = {room.what: room.used for room in resource_fits(node, books.entries, wanted(PLAIN, ()), limits)}
    assert (used["VCPU"], used["PCPU"]) == (5, 2)
    seven = a_flavor(DEDICATED, vcpus=7)
    assert refused(seven, node, *books.entries) == {"PCPU": (7, 6, 8), "numa.pinned_cpus": (7, 4, 4)}
    # None are sold apart: the same cells sell 8 CPUs, and everybody's are VCPU.
    node = replace(node, owned_classes=SOLD_APART - {"PCPU"})
    assert limits_of(node, books.entries).pcpus == 0
    used = {room.what: room.used for room in resource_fits(node, books.entries, wanted(PLAIN, ()), limits)}
    assert (used["VCPU"], used["PCPU"]) == (6, 0)


def test_given_a_machine_that_isolates_when_compared_then_the_rest_of_its_cores_is_taken_too() -> None:
    node = replace(count(a_host(numa_topology=two_cells())).node, owned_classes=SOLD_APART)
    limits = limits_of(node, ())
    # Two threads a core: each vCPU takes its core's other thread, and no more.
    for policy, vcpus, taken in (("isolate", 1, 2), ("isolate", 2, 4), ("prefer", 1, 1)):
        want = wanted(a_flavor(DEDICATED | {"hw:cpu_thread_policy": policy}, vcpus=vcpus), ())
        answer = fit(node, (), want, table={}, limits=limits)
        assert isinstance(answer, Placed)
        found = {room.what: room.asked for room in resource_fits(node, (), want, limits, placed=answer.numa)}
        assert (found["VCPU"], found["PCPU"]) == (0, taken)


def test_given_a_node_that_sells_pinned_cpus_without_cells_when_asked_for_some_then_there_are_none() -> None:
    node = replace(NODE, owned_classes=SOLD_APART)
    told = refused(a_flavor(DEDICATED), node)
    assert told == {"PCPU": (2, 0, 0), "numa.cells": (1, 0, 0)}


def test_given_bare_metal_when_a_guest_is_fitted_then_it_sells_no_part_of_itself() -> None:
    node = replace(NODE, owned_classes=frozenset({"CUSTOM_BAREMETAL_GOLD"}))
    assert refused(a_flavor(), node) == {"VCPU": (2, 0, 0), "MEMORY_MB": (2048, 0, 0), "DISK_GB": (20, 0, 0)}


def test_given_classes_that_ran_out_when_fitted_then_each_text_has_the_numbers() -> None:
    full = (taking(vcpus=62, memory_mb=64000),)
    answer = fit(NODE, full, wanted(replace(PLAIN, vcpus=4, root_gb=2000), ()), table={}, limits=limits_of(NODE, full))
    assert not isinstance(answer, Placed)
    assert [reason.text for reason in answer] == [
        "4 vCPUs wanted, 2 free of 64",
        "2,048 MiB of memory wanted, 1,536 free of 65,536",
        "2,000 GiB of disk wanted, at most 1,000 per machine",
    ]


def test_given_cells_when_asked_for_then_the_answer_names_the_hosts_cells_and_lacks_stand_beside_the_others() -> None:
    node = count(a_host(numa_topology=two_cells())).node
    want = wanted(a_flavor({"hw:numa_nodes": "2"}), ())
    answer = fit(node, (), want, table={}, limits=limits_of(node, ()))
    assert isinstance(answer, Placed)
    assert answer.numa is not None
    assert [cell.id for cell in answer.numa.cells] == [0, 1]
    three = a_flavor({"hw:numa_nodes": "3"}, vcpus=3, memory_mb=3 * 65536)
    assert refused(three, node).keys() >= {"MEMORY_MB", "numa.cells"}


def test_given_a_shared_cell_that_the_ratio_has_filled_when_fitted_then_the_cell_says_so() -> None:
    node = replace(count(a_host(numa_topology=two_cells())).node, cpu_allocation_ratio=1.0)
    five = a_flavor({"hw:numa_nodes": "1"}, vcpus=5)
    assert refused(five, node) == {"numa.shared_cpus": (5, 4, 4)}


def test_given_nothing_said_about_packing_when_fitted_then_the_emptiest_cell_is_taken() -> None:
    node = count(a_host(numa_topology=two_cells()), work((an_instance(1, numa_topology=floating(2)),))).node
    answer = fit(node, (), wanted(a_flavor({"hw:numa_nodes": "1"}), ()), table={}, limits=None)
    assert isinstance(answer, Placed)
    assert answer.numa is not None
    assert [cell.id for cell in answer.numa.cells] == [1]


def test_given_cells_filled_once_when_the_ratio_is_1_then_they_are_full() -> None:
    busy = tuple(an_instance(number + 1, numa_topology=floating(3, cell=number)) for number in (0, 1))
    node = replace(count(a_host(numa_topology=two_cells()), work(busy)).node, cpu_allocation_ratio=1.0)
    want = wanted(a_flavor({"hw:numa_nodes": "1"}), ())
    answer = fit(node, (), want, table={}, limits=Limits(numa_cpu_ratio=1.0))
    assert not isinstance(answer, Placed)
    assert [(reason.what, reason.asked, reason.free) for reason in answer] == [("numa.shared_cpus", 2, 1)]
    assert isinstance(fit(node, (), want, table={}, limits=None), Placed)


@pytest.mark.parametrize("pack", [True, False])
def test_given_a_way_to_fill_cells_when_fitted_then_the_fullest_or_the_emptiest_is_taken(*, pack: bool) -> None:
    node = count(a_host(numa_topology=two_cells()), work((an_instance(1, numa_topology=floating(2, cell=1)),))).node
    answer = fit(node, (), wanted(a_flavor({"hw:numa_nodes": "1"}), ()), table={}, limits=None, pack=pack)
    assert isinstance(answer, Placed)
    assert answer.numa is not None
    assert [cell.id for cell in answer.numa.cells] == [1 if pack else 0]


@pytest.mark.parametrize(
    ("specs", "reasons"),
    [
        ({"trait:HW_CPU_X86_AVX2": "required"}, {}),
        ({"trait:CUSTOM_SSD": "required"}, {"trait.CUSTOM_SSD": (1, 0, 0)}),
        ({"trait1:CUSTOM_SSD": "required"}, {"trait.CUSTOM_SSD": (1, 0, 0)}),
        ({"trait:HW_CPU_X86_AVX2": "forbidden"}, {"trait.HW_CPU_X86_AVX2": (0, 1, 1)}),
        ({"trait:CUSTOM_SSD": "forbidden"}, {}),
        (
            {"trait:CUSTOM_B": "required", "trait:CUSTOM_A": "required"},
            {"trait.CUSTOM_A": (1, 0, 0), "trait.CUSTOM_B": (1, 0, 0)},
        ),
    ],
)
def test_given_traits_when_fitted_then_those_that_are_missing_or_forbidden_are_named(
    specs: dict[str, str], reasons: dict[str, tuple[float, float, float]]
) -> None:
    assert refused(a_flavor(specs), replace(NODE, traits=frozenset({"HW_CPU_X86_AVX2"}))) == reasons


@pytest.mark.parametrize(
    ("specs", "where"),
    [
        ({"trait:CUSTOM_SSD": "wanted"}, "trait:CUSTOM_SSD"),
        ({"trait:CUSTOM_SSD": "required", "trait2:CUSTOM_SSD": "forbidden"}, "trait:CUSTOM_SSD"),
        ({"resources:CUSTOM_GOLD": "1"}, "resources:CUSTOM_GOLD"),
        ({"resources3:VGPU": "1"}, "resources3:VGPU"),
        ({"hw:numa_nodes": "x"}, "hw:numa_nodes"),
    ],
)
def test_given_a_mistake_in_a_flavor_when_read_then_its_spec_is_named(specs: dict[str, str], where: str) -> None:
    with pytest.raises(InvalidData) as caught:
        wanted(a_flavor(specs), ())
    assert caught.value.where == where


def test_given_amounts_that_the_books_count_when_read_then_they_are_no_mistake() -> None:
    specs = {"resources:PCPU": "2", "resources:MEMORY_MB": "2048", "resources:DISK_GB": "0"}
    assert wanted(a_flavor(specs), ()).numa is not None


def granted(total: int, reserved: int, ratio: float, used: int, asked: int) -> bool:
    """Placement's own test of one class (its `_check_capacity_exceeded`), written down a second time."""
    if asked == 0:
        return True
    reserved = min(reserved, total)
    return total > 0 and asked <= total and used + asked <= (total - reserved) * ratio


@settings(max_examples=300, deadline=None)
@given(case=cases(), asked=st.builds(Flavor, vcpus=st.integers(0, 30), memory_mb=st.integers(0, 40000),
       root_gb=st.integers(0, 300), swap_mb=st.sampled_from((0, 1, 512, 1024))))  # fmt: skip
def test_given_any_node_then_what_fits_is_what_placement_would_grant(case: Case, asked: Flavor) -> None:
    books = count(case.host, case.work, case.rules)
    node, entries = books.node, books.entries
    held = [entry for entry in entries if entry.kind != "reserved"]
    vcpus = case.host.vcpus
    if case.host.numa_topology is not None:
        vcpus = len(frozenset[int]().union(*(cell.cpuset for cell in case.host.numa_topology.cells)))
    reserved_gb = -(-case.rules.reserved_host_disk_mb // 1024)
    disk_gb = sum(-(-entry.disk_mb // 1024) for entry in held)
    short = {
        "VCPU": granted(
            vcpus,
            case.rules.reserved_host_cpus,
            node.cpu_allocation_ratio,
            sum(entry.vcpus for entry in held),
            asked.vcpus,
        ),
        "MEMORY_MB": granted(
            case.host.memory_mb,
            case.rules.reserved_host_memory_mb,
            node.ram_allocation_ratio,
            sum(entry.memory_mb for entry in held),
            asked.memory_mb,
        ),
        "DISK_GB": granted(
            case.host.local_gb,
            reserved_gb,
            node.disk_allocation_ratio,
            disk_gb,
            asked.root_gb + -(-asked.swap_mb // 1024),
        ),
    }
    assert refused(asked, node, *entries).keys() == {what for what, yes in short.items() if not yes}


@settings(max_examples=200, deadline=None)
@given(
    case=cases(),
    asked=st.builds(Flavor, vcpus=st.integers(1, 4), memory_mb=st.integers(1, 4).map(lambda n: n * 512)),
    specs=st.sampled_from(
        (
            {},
            {"hw:numa_nodes": "1"},
            DEDICATED,
            DEDICATED | {"hw:emulator_threads_policy": "isolate"},
            DEDICATED | {"hw:cpu_thread_policy": "isolate"},
        )
    ),
    apart=st.booleans(),
)
def test_given_a_machine_that_fits_when_it_is_counted_then_what_was_to_be_left_is_left(
    case: Case, asked: Flavor, specs: dict[str, str], *, apart: bool
) -> None:
    case = alone(case)
    books = count(case.host, case.work, case.rules)
    node = replace(books.node, owned_classes=SOLD_APART if apart else SOLD_APART - {"PCPU"})
    limits = limits_of(node, books.entries)
    want = wanted(replace(asked, extra_specs=specs), ())
    answer = fit(node, books.entries, want, table={}, limits=limits)
    if not isinstance(answer, Placed):
        return
    newcomer = an_instance(1, uuid=NEWCOMER, flavor=want.flavor, numa_topology=answer.numa)
    again = count(case.host, replace(case.work, instances=(*case.work.instances, newcomer)), case.rules)
    after = replace(again.node, owned_classes=node.owned_classes)
    nothing = wanted(Flavor(vcpus=0, memory_mb=0), ())
    promised = {
        room.what: room.free_after for room in resource_fits(node, books.entries, want, limits, placed=answer.numa)
    }
    left = {
        room.what: room.free_after
        for room in resource_fits(after, again.entries, nothing, limits_of(after, again.entries))
    }
    assert left == promised
    asked_for = {room.what: room.asked for room in resource_fits(node, books.entries, want, limits, placed=answer.numa)}
    assert all(amount is not None and (amount >= 0 or not asked_for[what]) for what, amount in left.items())


def alone(case: Case) -> Case:
    """The same host and settings, without guests that could take the newcomer's CPUs before it is counted."""
    return Case(host=replace(case.host, guests=()), work=NodeWork(instances=case.work.instances), rules=case.rules)
