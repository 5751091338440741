"""Tiles: how full, in what state, in which group, and what it adds up to."""

import dataclasses
from typing import Any

import pytest

from stocktake.model.books import ComputeNode, Entry
from stocktake.model.problem import Problem
from stocktake.model.value import replace
from stocktake.views.nodes import view_of
from stocktake.views.problems import State
from stocktake.web.pages.tiles import Tile, grouped, tile_of
from tests.views.test_nodes import ALIVE, NODE, NOW

KEPT = Entry(kind="reserved", id="host", why="kept", vcpus=1, memory_mb=24)
ORPHAN = Entry(kind="orphan", id="guest", why="running", memory_mb=100)


def a_tile_of(node: ComputeNode, *entries: Entry) -> Tile:
    return tile_of(view_of(node, ALIVE, entries, NOW, 60))


def a_tile(name: str = "web-1", **more: Any) -> Tile:
    return replace(a_tile_of(NODE), name=name, uuid=name, **more)


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
        (used(local_gb_used=25), "disk", 250, "l10 w"),
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
    tile = a_tile_of(node, kept)
    assert (tile.scarce, tile.percent, tile.look) == (scarce, percent, look)


def test_given_problems_and_states_when_made_a_tile_then_it_says_so_in_words_and_looks() -> None:
    small = Problem(code="flavor-missing", about="x", text="x")
    away = Problem(code="DriverUnreachable", about="x", text="x", severity="error")
    off = replace(ALIVE, disabled=True)
    node = replace(NODE, problems=(small,), vcpus_used=1, memory_mb_used=124)
    view = dataclasses.replace(view_of(node, off, [KEPT, ORPHAN], NOW, 60), state=State("stale", "x"))
    tile = tile_of(view)
    assert tile.look.split() == ["l1", "stale", "off", "w"]
    assert tile.problems == ("flavor-missing", "orphan")
    assert tile.label == "a.example.org: 10 % of memory, stale, disabled, 2 problems"
    assert a_tile_of(replace(NODE, failure=away)).look == "l0 stale e"


def test_given_a_bare_metal_node_when_made_a_tile_then_it_has_the_name_that_people_use() -> None:
    assert a_tile_of(replace(NODE, stats={"name": "bm-7"})).name == "bm-7"


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
