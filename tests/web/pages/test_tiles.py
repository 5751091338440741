"""Tiles: how full, in what state, in which group, and what it adds up to."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stocktake.model.books import ComputeNode, Entry
from stocktake.model.problem import Problem
from stocktake.model.value import replace
from stocktake.views.nodes import State
from stocktake.web.pages.tiles import Sold, Tile, added, grouped, sold_by, tile_of
from tests.views.test_nodes import ALIVE, NODE

UP = State("up")
KEPT = Entry(kind="reserved", id="host", why="kept", vcpus=1, memory_mb=24)
ORPHAN = Entry(kind="orphan", id="guest", why="running", memory_mb=100)


def a_tile(name: str = "web-1", **more: Any) -> Tile:
    return replace(tile_of(NODE, (), ALIVE, UP), name=name, uuid=name, **more)


def used(**figures: int) -> ComputeNode:
    return replace(NODE, **figures)


@pytest.mark.parametrize(
    ("node", "scarce", "percent", "look"),
    [
        (NODE, "vCPUs", 0, "l0"),
        # 3 of (4 - 1) * 4 = 12 vCPUs; 500 of 1000 MiB; nothing of 10 GB.
        (used(vcpus_used=4, memory_mb_used=524), "memory", 50, "l5"),
        (used(vcpus_used=4, memory_mb_used=24), "vCPUs", 25, "l2"),
        # Rounded up: what is nearly full is not shown as if there was more.
        (used(memory_mb_used=24 + 991), "memory", 100, "l10"),
        (used(local_gb_used=25), "disk", 250, "l10"),
        (used(vcpus=0, memory_mb=0, local_gb=0), "", 0, "l"),
    ],
)
def test_given_a_node_when_made_a_tile_then_the_scarcest_resource_is_its_colour(
    node: ComputeNode, scarce: str, percent: int, look: str
) -> None:
    kept = KEPT if node.vcpus else replace(KEPT, vcpus=0, memory_mb=0)
    node = replace(
        node,
        vcpus_used=max(node.vcpus_used, kept.vcpus),
        memory_mb_used=max(node.memory_mb_used, kept.memory_mb),
    )
    tile = tile_of(node, [kept], ALIVE, UP)
    assert (tile.scarce, tile.percent, tile.look) == (scarce, percent, look)


def test_given_something_promised_of_nothing_when_sold_then_it_is_full() -> None:
    memory = next(one for one in sold_by(used(memory_mb=0, memory_mb_used=5), ()) if one.what == "memory_mb")
    assert (memory.capacity, memory.percent, memory.left, memory.overcommit) == (0, 100, -5, 0.0)


def test_given_problems_and_states_when_made_a_tile_then_it_says_so_in_words_and_looks() -> None:
    small = Problem(code="flavor-missing", about="x", text="x")
    away = Problem(code="DriverUnreachable", about="x", text="x", severity="error")
    tile = tile_of(replace(NODE, problems=(small,)), [KEPT, ORPHAN], replace(ALIVE, disabled=True), State("stale", "x"))
    assert tile.look.split() == ["l0", "stale", "off", "w"]
    assert tile.problems == ("flavor-missing", "orphan")
    assert tile.label == "a.example.org: 0 % of vCPUs, stale, disabled, 2 problems"
    assert tile_of(replace(NODE, failure=away), (), ALIVE, UP).look == "l0 e"


def test_given_a_bare_metal_node_when_made_a_tile_then_it_has_the_name_that_people_use() -> None:
    assert tile_of(replace(NODE, stats={"name": "bm-7"}), (), ALIVE, UP).name == "bm-7"


def test_given_racks_when_grouped_then_they_are_the_groups_and_who_has_none_is_last() -> None:
    tiles = [
        a_tile("b", traits=frozenset({"CUSTOM_RACK_2"})),
        a_tile("a", traits=frozenset({"CUSTOM_RACK_10"})),
        a_tile("c"),
        a_tile("d", traits=frozenset({"CUSTOM_RACK_2", "HW_CPU_X86_AVX"})),
    ]
    names = {group: [tile.name for tile in several] for group, several in grouped(tiles).items()}
    assert list(names.items()) == [("10", ["a"]), ("2", ["b", "d"]), ("no rack", ["c"])]


def test_given_no_racks_when_grouped_then_by_host_or_all_in_one() -> None:
    tiles = [a_tile("a", host="y"), a_tile("b", host="x"), a_tile("c", host="y")]
    assert {group: len(several) for group, several in grouped(tiles).items()} == {"x": 1, "y": 2}
    assert list(grouped(tiles[:2])) == ["all nodes"]
    assert grouped([]) == {}


AMOUNTS = st.integers(min_value=0, max_value=10**6)


@given(st.lists(st.tuples(AMOUNTS, AMOUNTS, AMOUNTS), max_size=8))
def test_given_any_nodes_when_added_then_sums_are_sums_and_what_is_left_is_never_made_up_for(
    figures: list[tuple[int, int, int]],
) -> None:
    sold = [sold_by(used(vcpus=cpus, memory_mb=memory, memory_mb_used=taken), ()) for cpus, memory, taken in figures]
    sums = {one.what: one for one in added(sold)}
    assert set(sums) == {"vcpus", "memory_mb", "local_gb"}
    assert sums["vcpus"].total == sum(cpus for cpus, _, _ in figures)
    assert sums["memory_mb"].promised == sum(taken for _, _, taken in figures)
    assert sums["memory_mb"].left == sum(max(memory - taken, 0) for _, memory, taken in figures)


@given(AMOUNTS, AMOUNTS)
def test_given_any_amounts_when_shown_in_percent_then_full_is_full_and_used_is_not_nothing(
    capacity: int, promised: int
) -> None:
    percent = Sold(what="x", total=1, reserved=0, capacity=capacity, promised=promised, left=0).percent
    assert (percent is None) == (capacity == 0 and promised == 0)
    if percent is not None:
        assert (percent > 0) == (promised > 0)
        assert capacity == 0 or (percent > 100) == (promised > capacity)
