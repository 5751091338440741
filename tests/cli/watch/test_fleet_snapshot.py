"""What became of nodes between two looks."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from stocktake.cli.watch.fleet_snapshot import FleetSnapshot, changes
from stocktake.model.value import replace as changed
from stocktake.views.nodes import NodeView
from stocktake.views.problems import State
from tests.cli.watch.making import NOON, problem, row, snapshot

LATER = NOON + timedelta(minutes=1)


def told(before: NodeView | None, after: NodeView | None) -> list[str]:
    """What is said, each line with its node."""
    old, new = (FleetSnapshot(NOON, (one,) if one else ()) for one in (before, after))
    return [f"{change.node}: {change.text}" for change in changes(old, new)]


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"vcpus_used": 4}, "vCPUs 2 → 4"),
        ({"memory_mb_used": 4608, "running_vms": 2}, "memory 1,024 → 4,608 MiB, VMs 0 → 2"),
        ({"local_gb_used": 1200, "local_gb": 2000}, "disk 10 → 1,200 GB, disk in all 100 → 2,000 GB"),
        ({"cpu_allocation_ratio": 1.5}, "CPU ratio 4.0 → 1.5"),
        ({"host": "other"}, "host one → other"),
        ({"problems": (problem(),)}, "warning some-code: it is wrong"),
        ({"problems": (problem(severity="error"),)}, "error some-code: it is wrong"),
    ],
)
def test_given_a_field_that_changed_then_it_says_from_what_to_what(fields: dict[str, Any], text: str) -> None:
    assert told(row(), row(**fields)) == [f"one: {text}"]


def test_given_nothing_that_matters_then_nothing_is_said() -> None:
    before = row(problems=(problem("1 of 2"),))
    assert told(before, row(generation=7, updated_at=LATER, problems=(problem("2 of 2"),))) == []


def test_given_a_problem_that_is_gone_then_it_is_solved() -> None:
    assert told(row(problems=(problem(),)), row()) == ["one: solved: some-code"]


def test_given_nodes_that_come_and_go_then_both_are_told() -> None:
    before, after = snapshot(row("stays"), row("goes")), snapshot(row("stays"), row("comes", word="manual"))
    assert [(one.node, one.text) for one in changes(before, after)] == [("comes", "new, manual"), ("goes", "gone")]


def test_given_a_state_then_its_reason_is_told_and_a_reason_alone_is_no_change() -> None:
    up, stale = row(), row(word="stale", reason="no answer within 5 s")
    assert told(up, stale) == ["one: up → stale: no answer within 5 s"]
    assert told(stale, replace(stale, state=State("stale", "no answer within 6 s"))) == []
    assert told(stale, up) == ["one: stale → up"]


def test_given_a_service_that_is_disabled_then_the_reason_is_told() -> None:
    assert told(row(), row(off="new kernel")) == ["one: disabled: new kernel"]
    assert told(row(off="new kernel"), row()) == ["one: enabled"]


def test_given_figures_then_their_time_is_the_records() -> None:
    before = row()
    after = replace(before, node=changed(before.node, vcpus_used=1, updated_at=NOON - timedelta(seconds=3)))
    (change,) = changes(FleetSnapshot(NOON, (before,)), FleetSnapshot(LATER, (after,)))
    assert change.at == NOON - timedelta(seconds=3)
    (other,) = changes(FleetSnapshot(NOON, (before,)), FleetSnapshot(LATER, (row(off=""),)))
    assert other.at == LATER


def test_given_the_same_on_many_nodes_then_it_is_one_line() -> None:
    names = [f"node-{number}" for number in range(1500)]
    before, after = snapshot(*map(row, names)), snapshot(*(row(name, off="") for name in names))
    (change,) = changes(before, after)
    assert (change.node, change.text) == ("node-0 and 1,499 more", "disabled")
