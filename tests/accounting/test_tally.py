"""The entries of a node, and the record that is their sum."""

from datetime import UTC, datetime
from typing import Any

import pytest

from stocktake.model.books import ComputeNode, Metric
from stocktake.model.hypervisor import Host
from stocktake.model.problem import Problem
from stocktake.model.rules import Rules
from stocktake.model.value import replace
from stocktake.model.workload import Flavor, NodeWork
from tests.accounting.making import (
    HOST,
    LARGE,
    NODE,
    NODE_UUID,
    NOON,
    RULES,
    a_guest,
    a_host,
    a_migration,
    a_resize,
    an_instance,
    codes,
    count,
    entries_of,
    floating,
    two_cells,
    work,
)


def rules(**changes: Any) -> Rules:
    return replace(RULES, **changes)


def a_record(**changes: Any) -> ComputeNode:
    return replace(count().node, **changes)


@pytest.mark.parametrize(
    ("settings", "vcpus", "memory_mb", "local_gb"),
    [
        ({}, 0, 512, 0),
        ({"reserved_host_memory_mb": 0}, 0, 0, 0),
        ({"reserved_host_cpus": 2}, 2, 512, 0),
        ({"reserved_host_disk_mb": 2048}, 0, 512, 2),
        # Difference 1: rounded up, where Nova cuts down.
        ({"reserved_host_disk_mb": 100}, 0, 512, 1),
        ({"reserved_host_disk_mb": 2049}, 0, 512, 3),
        # Difference 3: more than there is, counted as it is.
        ({"reserved_host_memory_mb": 70000}, 0, 70000, 0),
    ],
)
def test_given_nobody_when_counted_then_what_is_reserved_is_used(
    settings: dict[str, Any], vcpus: int, memory_mb: int, local_gb: int
) -> None:
    node = count(rules=rules(**settings)).node
    assert (node.vcpus_used, node.memory_mb_used, node.local_gb_used) == (vcpus, memory_mb, local_gb)
    assert (node.free_ram_mb, node.free_disk_gb) == (65536 - memory_mb, 1000 - local_gb)
    assert (node.running_vms, node.current_workload, node.stats) == (0, 0, {"failed_builds": 0})


def test_given_the_hypervisors_own_view_when_counted_then_it_is_not_recorded() -> None:
    node = count(a_host(vcpus_used=9, memory_mb_used=9999, local_gb_used=99)).node
    assert (node.vcpus_used, node.memory_mb_used, node.local_gb_used) == (0, 512, 0)


@pytest.mark.parametrize(
    ("swaps_mb", "reserved_mb", "local_gb"),
    [([1536, 1536], 0, 3), ([1536], 512, 2), ([1], 0, 1), ([1, 1, 1], 100, 1), ([512, 512], 0, 1), ([512, 513], 0, 2)],
)
def test_given_parts_of_gigabytes_when_counted_then_their_sum_is_rounded_up_once(
    swaps_mb: list[int], reserved_mb: int, local_gb: int
) -> None:
    instances = [
        an_instance(number, flavor=Flavor(vcpus=1, memory_mb=1, swap_mb=swap)) for number, swap in enumerate(swaps_mb)
    ]
    node = count(promised=work(instances), rules=rules(reserved_host_disk_mb=reserved_mb)).node
    assert (node.local_gb_used, node.free_disk_gb) == (local_gb, 1000 - local_gb)


def test_given_more_than_there_is_when_counted_then_free_is_negative() -> None:
    node = count(a_host(memory_mb=1024, local_gb=10, vcpus=1), work([an_instance()])).node
    assert (node.free_ram_mb, node.free_disk_gb, node.vcpus_used) == (-1536, -10, 2)


def test_given_all_kinds_when_counted_then_the_entries_say_who_and_sum_to_the_record() -> None:
    instances = [an_instance(1), an_instance(2, task_state="rebooting"), a_resize(3)]
    host = a_host(guests=(a_guest(1), a_guest(2), a_guest(9)), numa_topology=two_cells())
    books = count(host, work(instances, [a_migration(of=3)]))
    assert [(entry.kind, entry.id[-2:]) for entry in books.entries] == [
        ("reserved", "st"),
        ("instance", "01"),
        ("instance", "02"),
        ("migration", "03"),
        ("orphan", "09"),
    ]
    assert books.entries[0].id == "host"
    assert books.node.vcpus_used == sum(entry.vcpus for entry in books.entries) == 14
    assert books.node.memory_mb_used == 512 + 3 * 2048 + 8192
    assert books.node.local_gb_used == 20 + 20 + 80 + 20
    assert (books.node.running_vms, books.node.current_workload) == (2, 1)


def test_given_a_move_whose_uuid_comes_first_when_counted_then_instances_still_do() -> None:
    books = count(promised=work([a_resize(1), an_instance(2)], [a_migration(of=1)]))
    assert [entry.kind for entry in books.entries] == ["reserved", "instance", "migration"]


def test_given_a_node_that_is_allocated_as_a_whole_when_counted_then_nothing_is_reserved() -> None:
    kept = rules(reserved_host_cpus=2, reserved_host_disk_mb=2048, cpu_allocation_ratio=8.0)
    node = count(a_host(inventories={}), rules=kept).node
    assert (node.vcpus_used, node.memory_mb_used, node.local_gb_used, node.cpu_allocation_ratio) == (0, 0, 0, 1.0)


def test_given_a_move_of_an_instance_that_the_ledger_has_not_when_counted_then_it_takes_nothing() -> None:
    books = count(promised=work([], [a_migration(of=9)]))
    assert [entry.kind for entry in books.entries] == ["reserved"]
    assert (books.node.vcpus_used, books.node.memory_mb_used) == (0, 512)


def test_given_an_orphan_with_cells_when_counted_then_the_hosts_cells_have_it() -> None:
    guest = a_guest(9, numa=floating(3, cell=1))
    topology = count(a_host(guests=(guest,), numa_topology=two_cells())).node.numa_topology
    assert topology is not None
    assert [(cell.cpu_usage, cell.memory_usage_mb) for cell in topology.cells] == [(0, 0), (3, 1024)]


@pytest.mark.parametrize(
    ("instance", "missed"),
    [({}, True), ({"task_state": "rebooting"}, False), ({"vm_state": "stopped"}, False)],
)
def test_given_an_instance_without_its_guest_when_counted_then_it_is_missed_if_it_is_settled_and_active(
    instance: dict[str, Any], *, missed: bool
) -> None:
    books = count(a_host(guests=()), work([an_instance(**instance)]))
    assert codes(books) == ["instance-without-guest"] * missed
    assert books.node.vcpus_used == 2
    # The one that is settled is found after one that is not.
    after = count(a_host(guests=()), work([an_instance(1, **instance), an_instance(2, name="web")]))
    assert [problem.text for problem in after.node.problems][-1] == (
        "web is active in the ledger, and the hypervisor has no such guest"
    )


def test_given_facts_of_the_host_when_counted_then_they_are_in_the_record() -> None:
    metric = Metric(name="cpu.percent", value=1, timestamp=NOON, source="cpu")
    host = a_host(
        host_ip="192.0.2.1",
        disk_available_least=-5,
        hypervisor_type="QEMU",
        hypervisor_version=8,
        cpu_info="{}",
        supported_instances=(("x86_64", "kvm", "hvm"),),
        stats={"uptime": "3 days"},
        metrics=(metric,),
        booted_at=NOON,
    )
    node = count(host).node
    for name in (
        "host_ip",
        "vcpus",
        "memory_mb",
        "local_gb",
        "disk_available_least",
        "hypervisor_type",
        "hypervisor_version",
        "hypervisor_hostname",
        "cpu_info",
        "supported_instances",
        "metrics",
        "booted_at",
    ):
        assert getattr(node, name) == getattr(host, name), name
    assert (node.host, node.uuid, node.stats) == (HOST, NODE_UUID, {"uptime": "3 days", "failed_builds": 0})


def test_given_a_saved_record_when_counted_then_what_is_the_ledgers_stays() -> None:
    saved = a_record(
        uuid="u",
        generation=7,
        created_at=NOON,
        updated_at=NOON,
        owned_traits=frozenset({"T"}),
        owned_classes=frozenset({"C"}),
        stats={"failed_builds": 3, "num_instances": 4},
        problems=(Problem(code="c", about="a", text="t"),),
        vcpus_used=99,
    )
    node = count(promised=NodeWork(record=saved)).node
    for name in ("uuid", "generation", "created_at", "updated_at", "owned_traits", "owned_classes"):
        assert getattr(node, name) == getattr(saved, name)
    assert (node.stats, node.problems, node.vcpus_used) == ({"failed_builds": 3}, (), 0)


def test_given_a_record_that_carries_a_failure_when_counted_then_it_is_over() -> None:
    saved = a_record(failure=Problem(code="DriverUnreachable", about="n", text="no answer"))
    assert count(promised=NodeWork(record=saved)).node.failure is None


# What is configured, what the saved record has (None: a new node), the initial one: what is recorded.
@pytest.mark.parametrize(
    ("configured", "saved", "initial", "recorded"),
    [
        (None, None, 4.0, 4.0),
        (0.0, None, 4.0, 4.0),
        # Difference 4: Nova writes the initial one first.
        (2.5, None, 4.0, 2.5),
        (None, 9.0, 4.0, 9.0),
        (0.0, 9.0, 4.0, 9.0),
        (2.5, 9.0, 4.0, 2.5),
        (None, 0.0, 4.0, 4.0),
    ],
)
@pytest.mark.parametrize("kind", ["cpu", "ram", "disk"])
def test_given_ratios_when_counted_then_configured_wins_then_saved_then_initial(
    kind: str, configured: float | None, saved: float | None, initial: float, recorded: float
) -> None:
    name = f"{kind}_allocation_ratio"
    record = None if saved is None else a_record(**{name: saved})
    node = count(promised=NodeWork(record=record), rules=rules(**{name: configured, f"initial_{name}": initial})).node
    assert getattr(node, name) == recorded


def test_given_no_setting_when_counted_then_the_initial_ratios_are_novas() -> None:
    node = count().node
    assert (node.cpu_allocation_ratio, node.ram_allocation_ratio, node.disk_allocation_ratio) == (4.0, 1.0, 1.0)


def test_given_problems_of_the_view_when_counted_then_the_record_carries_them_in_a_fixed_order() -> None:
    first, second = Problem(code="a", about="b", text="c"), Problem(code="a", about="c", text="a")
    for problems in ((first, second), (second, first)):
        assert count(a_host(problems=problems)).node.problems == (first, second)


@pytest.mark.parametrize(
    ("changed", "same"),
    [
        (work([an_instance()]), True),
        (work([an_instance(name="renamed")]), False),
        (work([an_instance(task_state="rebooting")]), False),
        (work([an_instance(flavor=LARGE)]), False),
        (work([an_instance(updated_at=datetime(2027, 1, 1, tzinfo=UTC))]), True),
    ],
)
def test_given_entries_when_any_of_them_changes_then_their_digest_does(changed: NodeWork, *, same: bool) -> None:
    before = count(promised=work([an_instance()])).node.entries_digest
    assert len(before) == 32
    assert (count(promised=changed).node.entries_digest == before) is same


def test_given_a_node_that_calls_itself_otherwise_when_counted_then_both_names_serve_their_purpose() -> None:
    books = count(a_host(hypervisor_hostname="own-name"), work([an_instance()], [a_migration(of=1)]))
    assert books.node.hypervisor_hostname == "own-name"
    assert entries_of(books, "instance").keys() == {an_instance().uuid}
    assert an_instance().node == NODE


# Difference 2: whatever is wrong with one guest, the node is counted, and every other entry is what it was.
@pytest.mark.parametrize(
    ("bad", "code"),
    [
        ({"numa_topology": floating(cell=9)}, "guest-cell-unknown"),
        ({"numa_topology": floating(pagesize_kb=7)}, "page-size-unknown"),
    ],
)
def test_given_a_bad_guest_when_counted_then_it_counts_and_no_other_entry_changes(
    bad: dict[str, Any], code: str
) -> None:
    host: Host = a_host(numa_topology=two_cells())
    good = an_instance(2, numa_topology=floating(3))
    fine = count(host, work([an_instance(1), good]))
    ill = count(host, work([an_instance(1, **bad), good]))
    assert codes(ill) == [code]
    for name in ("vcpus_used", "memory_mb_used", "local_gb_used", "running_vms", "stats"):
        assert getattr(ill.node, name) == getattr(fine.node, name)
    assert entries_of(ill, "instance")[good.uuid] == entries_of(fine, "instance")[good.uuid]
