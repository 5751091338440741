"""Which nodes are shown: the same for commands, API and pages."""

import dataclasses

import pytest

from stocktake.model.books import ComputeNode, Entry
from stocktake.model.problem import Problem
from stocktake.model.value import replace
from stocktake.model.workload import Service
from stocktake.views.choosing import Choice
from stocktake.views.nodes import view_of
from stocktake.views.problems import State, Word
from tests.views.test_nodes import ALIVE, NODE, NOW

KEPT = Entry(kind="reserved", id="host", why="kept", memory_mb=24)
ORPHAN = Entry(kind="orphan", id="guest", why="running", memory_mb=100)
AWAY = Problem(code="DriverUnreachable", about="x", text="no answer", severity="error")
ODD = Problem(code="flavor-missing", about="x", text="x")
WEB = replace(NODE, hypervisor_hostname="web-1", traits=frozenset({"CUSTOM_A", "CUSTOM_B"}))
METAL = replace(NODE, stats={"name": "bm-7", "provision_state": "clean failed", "maintenance": True})


def chosen(
    choice: Choice, node: ComputeNode, *entries: Entry, service: Service | None = ALIVE, word: Word = "up"
) -> bool:
    """Choose among one node."""
    view = dataclasses.replace(view_of(node, service, entries, NOW, 60), state=State(word))
    return choice.chosen([view]) == [view]


@pytest.mark.parametrize(
    ("choice", "found"),
    [
        (Choice(), True),
        (Choice(name="web-1"), True),
        (Choice(name="WEB*"), True),
        (Choice(name="web"), False),
        (Choice(name="we?"), False),
        (Choice(states=("up",)), True),
        (Choice(states=("down", "up")), True),
        (Choice(states=("disabled",)), False),
        (Choice(problems=("none",)), True),
        (Choice(problems=("any",)), False),
        (Choice(problems=("*",)), False),
        (Choice(problems=("orphan", "none")), True),
        (Choice(traits=("CUSTOM_A", "CUSTOM_B")), True),
        (Choice(traits=("CUSTOM",)), False),
        (Choice(name="web*", states=("up",), traits=("CUSTOM_C",)), False),
    ],
)
def test_given_a_choice_when_made_then_each_part_narrows_down(choice: Choice, *, found: bool) -> None:
    assert chosen(choice, WEB, KEPT) is found


@pytest.mark.parametrize("problem", ["orphan", "any", "*", "flavor-*", "DriverUnreachable"])
def test_given_a_problem_a_failure_and_a_unmanaged_guest_when_asked_for_then_each_counts(
    problem: str,
) -> None:
    node = replace(WEB, problems=(ODD,), failure=AWAY)
    assert chosen(Choice(problems=(problem,)), node, ORPHAN)
    assert not chosen(Choice(problems=("none",)), node, ORPHAN)
    assert not chosen(Choice(problems=("misplaced",)), node, ORPHAN)


def test_given_a_service_that_is_disabled_when_asked_for_then_its_node_is_both_that_and_up() -> None:
    off = replace(ALIVE, disabled=True)
    assert chosen(Choice(states=("disabled",)), WEB, service=off)
    assert chosen(Choice(states=("up",)), WEB, service=off)
    assert not chosen(Choice(states=("disabled",)), WEB, service=None)


@pytest.mark.parametrize(
    "choice",
    [
        Choice(states=("clean failed",)),
        Choice(states=("maintenance",)),
        Choice(machines=("on", "maintenance")),
        Choice(name="BM-?"),
    ],
)
def test_given_a_bare_metal_node_when_asked_for_then_its_own_states_and_both_its_names_count(choice: Choice) -> None:
    assert chosen(choice, METAL)
    assert chosen(Choice(name=METAL.hypervisor_hostname), METAL)
    assert not chosen(choice, WEB)
