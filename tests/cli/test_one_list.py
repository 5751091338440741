"""What is wrong with a node is one list: commands, API, pages and metrics show the same of it."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from stocktake.agent.metrics.life import after
from stocktake.clock import RandomIds, SystemClock
from stocktake.ledger import open_ledger
from stocktake.model.books import ComputeNode, Entry
from stocktake.model.problem import Problem
from stocktake.model.value import replace
from stocktake.refresh.context import Pass
from tests.cli.program import HOST, Program
from tests.ledger.making import node, saved
from tests.servers.serve import ServedHere, served_here

NAME = "all-wrong"
# By hand: an agent that is silent, and of the node a failed refresh, one thing inconsistent, 5 GiB of memory allocated
# of 4, a guest without an instance and one that is elsewhere in the ledger.
OWN = ["DriverError", "cell-overfull", "over-allocated", "orphan", "misplaced"]
EVERY = ["agent-down", *OWN]
ERRORS = {"agent-down", "DriverError"}
ENTRIES = (
    Entry(kind="instance", id="a", why="here", memory_mb=5120),
    Entry(kind="orphan", id="b", why="the ledger does not know it"),
    Entry(kind="misplaced", id="c", why="the ledger has it elsewhere"),
)
FAILURE = Problem(code="DriverError", about=NAME, text="the report can't be read", severity="error")


class Earlier(SystemClock):
    """A clock of an hour ago."""

    def now(self) -> datetime:
        """Give the time."""
        return datetime.now(UTC) - timedelta(hours=1)


@pytest.fixture
def program(tmp_path: Path) -> Program:
    """One node with a problem of each kind."""
    made = Program(tmp_path)
    ledger = open_ledger(f"sqlite:///{tmp_path / 'ledger.db'}", clock=Earlier(), ids=RandomIds())
    overfull = Problem(code="cell-overfull", about="0", text="cell 0 is full")
    record = node(NAME, HOST, memory_mb=4096, memory_mb_used=5120, free_ram_mb=-1024, problems=(overfull,))
    saved(ledger, record, entries=ENTRIES)
    ledger.heartbeat(HOST, version="0")
    ledger.note_failures({record.uuid: FAILURE})
    ledger.close()
    return made


@pytest.fixture
def here(program: Program) -> Iterator[ServedHere]:
    with served_here(program.state, host=HOST) as made:
        yield made


@pytest.fixture
def record(program: Program) -> ComputeNode:
    with program.ledger() as ledger:
        return ledger.node(NAME)


def codes(problems: list[dict[str, str]]) -> list[str]:
    return [problem["code"] for problem in problems]


def test_given_a_node_with_each_kind_of_problem_when_commands_are_run_then_each_has_the_list(program: Program) -> None:
    (row,) = program.run("--json", "nodes").data
    assert codes(row["problems"]) == EVERY
    shown = program.run("--json", "show", NAME)
    assert codes(shown.data["problems"]) == EVERY
    text = program.run("show", NAME).out
    assert [code for code in EVERY if code not in text] == []
    head, *rest = program.run("watch", "--once").out.splitlines()
    assert f"1 node, {len(EVERY)} problems" in head
    # The state stands for the silent agent and the failure.
    assert [code for code in EVERY if code not in ERRORS and code not in "\n".join(rest)] == []
    (told,) = [check for check in program.run("--json", "doctor").data if check["part"] == "nodes"]
    assert (told["verdict"], told["text"]) == ("fail", f"{len(EVERY)} problems on 1 of 1 node")


def test_given_a_node_with_each_kind_of_problem_when_asked_over_http_then_api_and_pages_have_the_list(
    here: ServedHere, record: ComputeNode
) -> None:
    client = here.client("viewer")
    assert codes(client.get(f"/v1/nodes/{record.uuid}").json()["problems"]) == EVERY
    assert codes(client.get("/v1/nodes").json()["items"][0]["problems"]) == EVERY
    assert sorted(codes(client.get("/v1/problems").json()["items"])) == sorted(EVERY)
    for path in ("/problems", f"/nodes/{record.uuid}"):
        page = client.get(path, headers={"Accept": "text/html"}).text
        assert page.count('class="problem') - page.count('class="problems') == len(EVERY), path
        assert [code for code in EVERY if code not in page] == []


def test_given_a_node_with_each_kind_of_problem_when_scraped_then_metrics_count_all_but_the_agents_silence(
    record: ComputeNode,
) -> None:
    """Of its silence an agent can't tell: that is Prometheus' `up`, and an alert of its own."""
    fine = replace(record, failure=None)
    before = after({}, Pass(nodes={NAME: fine}, entries={NAME: ENTRIES}), None, 0.0)
    assert record.failure is not None
    figures = replace(before[NAME], failure=(record.failure.code, record.failure.severity))
    assert figures.wrong == {(code, "error" if code in ERRORS else "warning"): 1 for code in OWN}


def test_given_an_agent_without_a_refreshed_node_when_looked_at_then_that_is_in_the_list(
    tmp_path: Path,
) -> None:
    program = Program(tmp_path)
    with program.ledger() as ledger:
        ledger.heartbeat(HOST, version="0")
    (told,) = [check for check in program.run("--json", "doctor").data if check["part"] == "nodes"]
    assert (told["verdict"], told["text"]) == ("fail", "1 problem on 0 of 0 nodes")
    with served_here(tmp_path, host=HOST) as here:
        client = here.client("viewer")
        assert codes(client.get("/v1/problems").json()["items"]) == ["never-refreshed"]
        page = client.get("/problems", headers={"Accept": "text/html"}).text
        assert "Nothing is wrong" not in page
        assert "none of its nodes has ever been refreshed" in page
