"""`history`: what a node promised over time, in lines and for programs."""

import pytest

from tests.cli.program import Program
from tests.cli.test_refresh import GUEST, describe, node


def test_given_a_node_whose_promises_change_when_its_history_is_asked_then_each_is_there(program: Program) -> None:
    describe(program, node("a"))
    assert program.run("refresh").code == 0
    (first,) = program.run("history", "a", "--json").data
    assert first["vcpus_used"] == 0
    describe(program, node("a", guests=[GUEST]))
    program.run("refresh")
    last = program.run("history", "a", "--since", "90min", "--json").data[-1]
    assert last["memory_mb_used"] > first["memory_mb_used"]
    told = program.run("history", "a").out
    memory = last["resources"]["memory_mb"]
    assert (memory["allocated"], memory["capacity"]) == (2048, 15_872)
    assert "2/15.5" in told


def test_given_no_history_when_asked_then_it_says_why(program: Program) -> None:
    describe(program, node("a"))
    program.settings["history.interval_s"] = "0"
    program.run("refresh")
    result = program.run("history", "a")
    assert (result.code, "There is no history of a yet" in result.out) == (0, True)


@pytest.mark.parametrize("since", ["soon", "5", "0d", "-1d", "99999999999d"])
def test_given_a_span_that_is_none_when_asked_then_it_is_named_with_code_2(program: Program, since: str) -> None:
    describe(program, node("a"))
    program.run("refresh")
    result = program.run("history", "a", "--since", since)
    assert (result.code, "--since" in result.err) == (2, True)
