"""What is kept of the passes for those who watch."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stocktake.agent.metrics.life import NodeFigures, after, parts_after
from stocktake.errors import (
    DriverError,
    DriverUnreachable,
    LedgerUnreachable,
    PlacementError,
    PlacementUnreachable,
    StocktakeError,
)
from stocktake.model.books import ComputeNode, Entry
from stocktake.model.problem import Problem
from stocktake.model.value import replace
from stocktake.refresh.context import Pass
from tests.refresh.test_identity import a_node

AWAY = DriverUnreachable("no answer", where="qemu:///system")
NAMES = ("one", "two", "three", "four")


def node(name: str, **fields: object) -> ComputeNode:
    return replace(a_node(name=name), **fields)


def told(*good: str, known: tuple[str, ...] = (), **fields: object) -> Pass:
    result = Pass(known=tuple(node(name) for name in known), nodes={name: node(name) for name in good})
    for name, value in fields.items():
        setattr(result, name, value)
    return result


def test_given_a_refreshed_node_when_kept_then_it_has_its_record_its_holders_and_when() -> None:
    problems = (
        Problem(code="cell-overfull", about="0", text="full"),
        Problem(code="cell-overfull", about="1", text="full"),
        Problem(code="placement-refused", about="one", text="no", severity="error"),
    )
    entries = (
        Entry(kind="reserved", id="host", why="", vcpus=1, memory_mb=512, disk_mb=1024),
        Entry(kind="instance", id="a", why="", vcpus=2),
        Entry(kind="orphan", id="b", why=""),
        Entry(kind="orphan", id="c", why=""),
    )
    changed_at = datetime(2026, 1, 1, tzinfo=UTC)
    record = node("one", problems=problems, updated_at=changed_at, vcpus_used=3, disk_available_least=-4, vcpus=9)
    result = Pass(nodes={"one": record}, entries={"one": entries}, guests={"one": 2})
    figures = after({}, result, None, 1000.0)["one"]
    assert (figures.disk_available_least, figures.running_guests) == (-4, 2)
    assert (figures.resources["vcpus"].allocated, figures.resources["local_gb"].reserved) == (2, 1)
    assert figures.holders == {"instance": 1, "migration": 0, "orphan": 2, "misplaced": 0}
    assert figures.problems == {
        ("cell-overfull", "warning"): 2,
        ("placement-refused", "error"): 1,
        ("orphan", "warning"): 2,
    }
    assert (figures.stale, figures.refreshed_at_s, figures.updated_at_s) == (False, 1000.0, changed_at.timestamp())


def test_given_a_node_that_fails_after_it_was_fine_when_kept_then_its_figures_stay_and_are_stale() -> None:
    before = after({}, told("one", "two"), None, 1000.0)
    now = after(before, told("two", known=("one", "two"), failed={"one": AWAY}), None, 1060.0)
    assert now["one"] == replace(before["one"], stale=True, failure=("DriverUnreachable", "error"))
    assert now["one"].wrong == {("DriverUnreachable", "error"): 1}
    assert (now["two"].stale, now["two"].refreshed_at_s) == (False, 1060.0)


def test_given_an_agent_that_just_started_when_a_node_fails_then_the_ledgers_record_is_shown_as_stale() -> None:
    failure = Problem(code="DriverUnreachable", about="one", text="no answer")
    result = Pass(known=(node("one", failure=failure, vcpus_used=7),), failed={"one": AWAY})
    figures = after({}, result, None, 1000.0)["one"]
    assert (figures.stale, figures.refreshed_at_s, dict(figures.holders)) == (True, None, {})
    assert figures.wrong == {("DriverUnreachable", "error"): 1}


def test_given_a_node_whose_first_refresh_fails_when_kept_then_it_is_there_with_the_failure_alone() -> None:
    figures = after({}, Pass(failed={"one": AWAY}), None, 1000.0)
    assert figures == {"one": NodeFigures(stale=True, failure=("DriverUnreachable", "error"))}
    fine = after(figures, told("one"), None, 1060.0)
    assert (fine["one"].stale, fine["one"].wrong) == (False, {})


def test_given_a_pass_that_broke_off_when_kept_then_all_is_stale_even_what_only_the_ledger_knew() -> None:
    before = after({}, told("one"), None, 1000.0)
    now = after(before, told(known=("one", "two")), LedgerUnreachable("locked"), 1060.0)
    assert {name: one.stale for name, one in now.items()} == {"one": True, "two": True}
    unread = after(before, Pass(), LedgerUnreachable("locked"), 1060.0)
    assert unread.keys() == {"one"}


def test_given_a_node_that_is_deleted_or_another_services_when_kept_then_it_is_not_shown() -> None:
    before = after({}, told("one", "two"), None, 1000.0)
    deleted = told("one", known=("one", "two"), deleted=["two"])
    moved = told("one", known=("one",))
    assert after(before, deleted, None, 1060.0).keys() == {"one"}
    assert after(before, moved, None, 1060.0).keys() == {"one"}


def test_given_a_node_that_vanished_and_is_kept_when_kept_then_it_is_stale() -> None:
    before = after({}, told("one", "two"), None, 1000.0)
    now = after(before, told("one", known=("one", "two"), kept={"two": "it still has 2 instances"}), None, 1060.0)
    assert (now["one"].stale, now["two"].stale) == (False, True)


def test_given_a_pass_over_one_node_when_kept_then_the_others_stay_as_they_were() -> None:
    before = after({}, told("one", "two"), None, 1000.0)
    now = after(before, told("one", known=("one", "two")), None, 1060.0)
    assert now["two"] == before["two"]


@given(st.sets(st.sampled_from(NAMES)), st.sets(st.sampled_from(NAMES)), st.sets(st.sampled_from(NAMES)), st.booleans())
def test_given_any_pass_when_kept_then_what_it_refreshed_is_fresh_and_nothing_else_is(
    known: set[str],
    good: set[str],
    bad: set[str],
    broke: bool,  # noqa: FBT001
) -> None:
    bad -= good
    before: dict[str, NodeFigures] = after({}, told(*NAMES[:2]), None, 1000.0)
    result = told(*good, known=tuple(sorted(known)), failed=dict.fromkeys(bad, AWAY))
    now = after(before, result, LedgerUnreachable("locked") if broke else None, 1060.0)
    fresh = {name for name, one in now.items() if one.refreshed_at_s == 1060.0}
    assert fresh == (set() if broke else good)
    assert all(now[name].stale for name in bad & now.keys())
    assert not any(now[name].stale for name in fresh)
    assert now.keys() == (known | before.keys() if broke else known | good | bad)


@pytest.mark.parametrize(
    ("result", "error", "wrong"),
    [
        (told("one"), None, set()),
        (told("one", failed={"two": AWAY}), None, set()),
        (told(failed={"one": AWAY, "two": AWAY}), None, {"driver"}),
        (told(failed={"one": AWAY, "two": DriverError("it burns")}), None, set()),
        (told(failed={"one": DriverError("it burns")}), None, set()),
        (told("one", unsynced={"one": PlacementUnreachable("503")}), None, {"placement"}),
        (told("one", unsynced={"one": PlacementError("400")}), None, set()),
        (told(), None, set()),
        (told(), AWAY, {"driver"}),
        (told(), LedgerUnreachable("locked"), {"ledger"}),
        (told(), DriverError("it burns"), set()),
    ],
)
def test_given_a_pass_when_it_is_over_then_it_is_known_which_parts_are_away(
    result: Pass, error: StocktakeError | None, wrong: set[str]
) -> None:
    parts = parts_after({}, result, error)
    assert {part for part, text in parts.items() if text} == wrong
    again = parts_after(parts, told("one"), None)
    assert again == {"driver": "", "ledger": "", "placement": "", "state": ""}


def test_given_a_pass_that_broke_off_when_it_is_over_then_the_parts_that_had_answered_are_there() -> None:
    before = {"ledger": "locked", "driver": "no answer"}
    assert parts_after(before, told(seconds={"read": 0.1}), AWAY) == {"state": "", "ledger": "", "driver": str(AWAY)}
    late = told(seconds={"read": 0.1, "list": 0.1, "audit": 0.1})
    assert parts_after(before, late, LedgerUnreachable("locked")) == {"state": "", "ledger": "locked", "driver": ""}


def test_given_placement_away_when_a_pass_saves_nothing_then_it_is_still_away_for_all_that_is_known() -> None:
    away = parts_after({}, told("one", unsynced={"one": PlacementUnreachable("503")}), None)
    assert parts_after(away, told(failed={"one": DriverError("it burns")}), None)["placement"] == "503"
