"""A node that is sold as a whole: what its driver says it sells, through verify, the tally and to the scheduler."""

from typing import Any

import pytest

from stocktake.accounting.tally import tally
from stocktake.model.books import Tally
from stocktake.model.hypervisor import Host, HostView, Refusal
from stocktake.model.provider import Inventory
from stocktake.model.rules import Rules
from stocktake.model.workload import NodeWork
from stocktake.placement.desired import desired
from stocktake.placement.overrides import NodeOverrides
from stocktake.verify import REQUIRED, verify
from tests.accounting.making import HOST, LARGE, NODE, an_instance

RULES = Rules(host=HOST, reserved_host_memory_mb=512, reserved_host_cpus=1, reserved_host_disk_mb=100)
SIZES = {"vcpus": 8, "memory_mb": 8192, "local_gb": 80}
GOLD = {"CUSTOM_GOLD": {"total": 1, "reserved": 0}}


def verdict(inventories: Any) -> Host | Refusal:
    """What verify makes of a report with these inventories."""
    report = dict.fromkeys(REQUIRED, 0) | SIZES | {"cpu_info": "", "numa_topology": None}
    return verify(HostView(node=NODE, report=report | {"inventories": inventories}))


def believed(inventories: Any) -> Host:
    """The same, where it is believed."""
    host = verdict(inventories)
    assert isinstance(host, Host), host
    return host


def counted(host: Host, *instances: Any) -> Tally:
    """Its books."""
    return tally(host, NodeWork(instances=instances), RULES, uuid="00000000-0000-4000-8000-0000000000ff")


@pytest.mark.parametrize(
    ("said", "held"),
    [
        ({"total": 1}, Inventory(total=1, reserved=0, max_unit=1)),
        ({"total": 1, "reserved": 1}, Inventory(total=1, reserved=1, max_unit=1)),
        ({"total": 4, "reserved": 9}, Inventory(total=4, reserved=4, max_unit=4)),
    ],
)
def test_given_what_is_sold_when_verified_then_no_more_is_kept_back_than_there_is(
    said: dict[str, int], held: Inventory
) -> None:
    assert believed({"CUSTOM_GOLD": said}).inventories == {"CUSTOM_GOLD": held}


@pytest.mark.parametrize(
    "said",
    [7, ["CUSTOM_GOLD"], {"CUSTOM_GOLD": 1}, {"A": {"total": 0}}, {"A": {}}, {"A": {"total": 1, "reserved": -1}}],
)
def test_given_what_can_not_be_sold_when_verified_then_the_report_is_refused(said: object) -> None:
    refusal = verdict(said)
    assert isinstance(refusal, Refusal)
    assert refusal.reasons[0].startswith("inventories: ")


def test_given_a_whole_node_when_counted_then_its_sizes_are_told_and_nothing_is_kept_for_a_host() -> None:
    node = counted(believed(GOLD)).node
    assert (node.vcpus, node.memory_mb, node.local_gb) == (8, 8192, 80)
    assert (node.vcpus_used, node.memory_mb_used, node.local_gb_used) == (0, 0, 0)
    assert (node.free_ram_mb, node.free_disk_gb) == (8192, 80)
    assert (node.cpu_allocation_ratio, node.ram_allocation_ratio, node.disk_allocation_ratio) == (1.0, 1.0, 1.0)


def test_given_an_instance_on_it_when_counted_then_it_takes_its_flavor_and_nothing_is_below_zero() -> None:
    node = counted(believed(GOLD), an_instance(flavor=LARGE)).node
    assert (node.vcpus_used, node.free_ram_mb, node.free_disk_gb, node.running_vms) == (8, 0, 0, 1)


def test_given_the_same_sizes_without_inventories_when_counted_then_the_reserve_is_taken() -> None:
    books = counted(believed(None))
    tree, _ = desired(believed(None), books, RULES, disabled=False, overrides=NodeOverrides())
    assert (books.node.vcpus_used, books.node.free_ram_mb) == (1, 8192 - 512)
    assert tree.root.inventories.keys() == {"VCPU", "MEMORY_MB", "DISK_GB"}


def test_given_a_whole_node_when_desired_then_the_scheduler_gets_what_it_sells_and_no_cpus() -> None:
    host = believed(GOLD)
    tree, problems = desired(host, counted(host), RULES, disabled=False, overrides=NodeOverrides())
    assert (tree.root.inventories, problems) == ({"CUSTOM_GOLD": Inventory(total=1, max_unit=1)}, ())
    # CPUs that it was sold by before, under another driver, are ours to take away.
    assert {"VCPU", "MEMORY_MB", "DISK_GB"} <= tree.root.own_classes


def test_given_nothing_to_sell_when_desired_then_the_scheduler_gets_nothing() -> None:
    host = believed({})
    tree, problems = desired(host, counted(host), RULES, disabled=False, overrides=NodeOverrides())
    assert (tree.root.inventories, problems) == ({}, ())


def test_given_a_class_that_no_scheduler_knows_when_desired_then_it_alone_is_left_out_and_told() -> None:
    host = believed({**GOLD, "gold": {"total": 1}, "VGPU": {"total": 2}})
    tree, (problem,) = desired(host, counted(host), RULES, disabled=False, overrides=NodeOverrides())
    assert tree.root.inventories.keys() == {"CUSTOM_GOLD", "VGPU"}
    assert (problem.code, problem.about) == ("unknown-class", "gold")
