"""Which node is best: Nova's weighers one by one, and what holds of all of them together."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stocktake.accounting.fit.weigh import Weighed, leaning, weigh
from stocktake.model.books import ComputeNode, Metric
from stocktake.model.pci import PciPool
from stocktake.model.rules import Weights
from stocktake.model.value import replace
from tests.accounting.making import NOON, count, uuid_of

NODE = count().node
ONLY = {
    name: replace(Weights(ram=0, cpu=0, disk=0, io_ops=0, build_failure=0, pci=0, metrics=0), **{name: 1.0})
    for name in ("ram", "cpu", "disk", "io_ops", "num_instances", "build_failure", "pci", "metrics")
}


def a_node(name: str, **changes: object) -> ComputeNode:
    return replace(NODE, hypervisor_hostname=name, uuid=uuid_of(ord(name[0])), **changes)


def devices(number: int) -> tuple[PciPool, ...]:
    return (PciPool(vendor_id="10de", product_id="20b5", numa_node=None, count=number, tags={}),)


def metrics(**values: float) -> tuple[Metric, ...]:
    return tuple(Metric(name=name, value=value, timestamp=NOON, source="t") for name, value in values.items())


def names(weighed: tuple[Weighed, ...]) -> list[str]:
    return [one.node.hypervisor_hostname for one in weighed]


def normalised(weigher: str, weights: Weights, *changes: dict[str, Any]) -> list[float]:
    """Give what one weigher makes of nodes a, b, c, ... that differ so."""
    nodes = [a_node(chr(ord("a") + number), **change) for number, change in enumerate(changes)]
    found = {
        one.node.hypervisor_hostname: next(part for part in one.parts if part.weigher == weigher)
        for one in weigh(nodes, weights)
    }
    return [found[node.hypervisor_hostname].normalised for node in nodes]


@pytest.mark.parametrize(
    ("weigher", "changes", "expected"),
    [
        ("ram", [{"free_ram_mb": 1000}, {"free_ram_mb": 4000}, {"free_ram_mb": 2000}], [0.25, 1, 0.5]),
        # What is overdrawn is as bad as nothing.
        ("ram", [{"free_ram_mb": -1000}, {"free_ram_mb": 4000}, {"free_ram_mb": 0}], [0, 1, 0]),
        ("ram", [{"free_ram_mb": -1000}, {"free_ram_mb": -4000}], [0, 0]),
        # Equal nodes are as good as any: measured from 0, as in Nova.
        ("ram", [{"free_ram_mb": 1000}, {"free_ram_mb": 1000}], [1, 1]),
        ("cpu", [{"vcpus_used": 32}, {"vcpus_used": 0}], [0.5, 1]),
        ("cpu", [{"cpu_allocation_ratio": 1.0}, {"cpu_allocation_ratio": 2.0}], [0.5, 1]),
        ("disk", [{"free_disk_gb": 10}, {"free_disk_gb": 40}], [0.25, 1]),
        ("disk", [{"free_disk_gb": 10, "disk_available_least": 5}, {"free_disk_gb": 40}], [0.125, 1]),
        ("disk", [{"free_disk_gb": 10, "disk_available_least": 50}, {"free_disk_gb": 40}], [0.25, 1]),
        ("io_ops", [{"stats": {"io_workload": 1}}, {"stats": {"io_workload": 2}}, {}], [0.5, 1, 0]),
        ("io_ops", [{"stats": {"io_workload": "much"}}, {"stats": {"io_workload": 2}}], [0, 1]),
        (
            "num_instances",
            [{"stats": {"num_instances": 5}}, {"stats": {"num_instances": 15}}, {"stats": {"num_instances": 10}}],
            [0, 1, 0.5],
        ),
        ("num_instances", [{"stats": {"num_instances": 5}}, {"stats": {"num_instances": 5}}], [0, 0]),
        ("build_failure", [{"stats": {"failed_builds": 4}}, {}, {"stats": {"failed_builds": 1}}], [1, 0, 0.25]),
        ("pci", [{}, {"pci_device_pools": devices(4)}, {"pci_device_pools": devices(1)}], [1, 0, 0.75]),
        ("pci", [{}, {"pci_device_pools": devices(99)}, {"pci_device_pools": devices(2000)}], [1, 0, 0]),
    ],
)
def test_given_nodes_that_differ_in_one_thing_when_weighed_then_the_weights_are_novas(
    weigher: str, changes: list[dict[str, Any]], expected: list[float]
) -> None:
    assert normalised(weigher, Weights(), *changes) == expected


def test_given_metrics_when_weighed_then_each_counts_by_its_ratio_and_a_node_without_one_comes_last() -> None:
    weights = replace(ONLY["metrics"], metric_ratios={"idle": 1.0, "load": -2.0, "ignored": 0.0})
    nodes = [
        a_node("a", metrics=metrics(idle=10, load=1)),
        a_node("b", metrics=metrics(idle=10, load=3)),
        a_node("c", metrics=metrics(idle=99)),
    ]
    weighed = weigh(nodes, weights)
    assert names(weighed) == ["a", "b", "c"]
    assert [part.weight for one in weighed for part in one.parts if part.weigher == "metrics"] == [8, 4, -10_000]


@pytest.mark.parametrize(
    ("weights", "order"),
    [
        (Weights(), ["b", "a"]),
        (Weights(ram=-1.0, cpu=-1.0, disk=-1.0), ["a", "b"]),
        (leaning(Weights(), pack=True), ["a", "b"]),
        (leaning(Weights(ram=-2.0, cpu=-2.0), pack=True), ["a", "b"]),
        (leaning(Weights(ram=-2.0, cpu=-2.0), pack=False), ["b", "a"]),
        (leaning(Weights(ram=0, cpu=0, disk=0), pack=True), ["a", "b"]),
    ],
)
def test_given_a_full_and_an_empty_node_when_weighed_then_multipliers_below_0_pack(
    weights: Weights, order: list[str]
) -> None:
    nodes = [a_node("a", free_ram_mb=100, vcpus_used=60, free_disk_gb=10), a_node("b")]
    assert names(weigh(nodes, weights)) == order


@pytest.mark.parametrize(
    "worse",
    [
        {"stats": {"failed_builds": 1}, "free_ram_mb": 10**6},
        {"stats": {"io_workload": 4}},
        {"pci_device_pools": devices(1)},
    ],
)
def test_given_novas_defaults_when_weighed_then_what_speaks_against_a_node_puts_it_behind(
    worse: dict[str, Any],
) -> None:
    assert names(weigh([a_node("a", **worse), a_node("b")], Weights())) == ["b", "a"]


def test_given_one_node_or_none_when_weighed_then_there_is_nothing_to_be_better_than() -> None:
    assert weigh([], Weights()) == ()
    (alone,) = weigh([NODE], Weights())
    assert alone.score == 0
    assert {part.score for part in alone.parts} == {0}


def test_given_a_part_of_nothing_when_written_then_it_is_0_and_not_less() -> None:
    for one in weigh([a_node("a"), a_node("b")], Weights()):
        assert not [part for part in one.parts if str(part.score).startswith("-0")]


NODES = st.lists(
    st.builds(
        lambda number, ram, cpus, disk, failed: a_node(
            f"{chr(97 + number)}",
            free_ram_mb=ram,
            vcpus_used=cpus,
            free_disk_gb=disk,
            stats={"failed_builds": failed, "io_workload": failed},
            pci_device_pools=devices(failed),
        ),
        st.integers(0, 25),
        st.integers(-100, 1000),
        st.integers(0, 70),
        st.integers(-5, 50),
        st.integers(0, 2),
    ),
    max_size=6,
    unique_by=lambda node: node.uuid,
)
MULTIPLIERS = st.sampled_from((-1.0, 0.0, 0.5, 1.0, 2.0))


@given(
    nodes=NODES,
    weights=st.builds(Weights, ram=MULTIPLIERS, cpu=MULTIPLIERS, disk=MULTIPLIERS, io_ops=MULTIPLIERS),
    data=st.data(),
)
def test_given_any_nodes_when_weighed_then_the_parts_make_the_score_and_the_order_does_not_matter(
    nodes: list[ComputeNode], weights: Weights, data: st.DataObject
) -> None:
    weighed = weigh(nodes, weights)
    assert weigh(data.draw(st.permutations(nodes)), weights) == weighed
    assert sorted(names(weighed)) == sorted(node.hypervisor_hostname for node in nodes)
    ranks = [(-one.score, one.node.hypervisor_hostname) for one in weighed]
    assert ranks == sorted(ranks)
    for one in weighed:
        assert one.score == sum(part.score for part in one.parts)
        assert all(0 <= part.normalised <= 1 for part in one.parts)
        assert all(part.score == part.normalised * part.multiplier for part in one.parts)


@given(nodes=NODES, number=st.integers(0, 5), more_mb=st.integers(0, 500))
def test_given_a_node_that_gets_more_memory_when_weighed_again_then_it_is_not_worse_placed(
    nodes: list[ComputeNode], number: int, more_mb: int
) -> None:
    if number >= len(nodes):
        return
    better = replace(nodes[number], free_ram_mb=nodes[number].free_ram_mb + more_mb)
    before = names(weigh(nodes, ONLY["ram"]))
    after = names(weigh([*nodes[:number], better, *nodes[number + 1 :]], ONLY["ram"]))
    assert after.index(better.hypervisor_hostname) <= before.index(better.hypervisor_hostname)


def test_given_devices_when_weighed_then_few_weigh_more_and_over_99_are_99() -> None:
    nodes = [
        a_node(name, pci_device_pools=devices(number)) for name, number in (("a", 0), ("b", 4), ("c", 99), ("d", 500))
    ]
    found = {
        one.node.hypervisor_hostname: next(part.weight for part in one.parts if part.weigher == "pci")
        for one in weigh(nodes, Weights())
    }
    assert found == {"a": 100, "b": 96, "c": 1, "d": 1}


def test_given_a_wish_to_pack_or_spread_then_only_the_sign_of_what_is_free_changes() -> None:
    weights = Weights(ram=-2.0, cpu=3.0, disk=0.5, io_ops=-1.0)
    packed, spread = leaning(weights, pack=True), leaning(weights, pack=False)
    assert packed == replace(weights, ram=-2.0, cpu=-3.0, disk=-0.5)
    assert spread == replace(weights, ram=2.0, cpu=3.0, disk=0.5)
