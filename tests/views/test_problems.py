"""All that is wrong in the fleet, the worst first."""

from datetime import UTC, datetime, timedelta

from stocktake.accounting.capacity import ResourceTotals
from stocktake.model.books import Entry
from stocktake.model.problem import Problem
from stocktake.model.value import replace
from stocktake.model.workload import Service
from stocktake.views.problems import FleetProblem, fleet_problems, own_problems
from tests.views.test_nodes import NODE

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
ALIVE = Service(uuid="s1", host=NODE.host, last_seen_up=NOW)
ORPHAN = Entry(kind="orphan", id="guest-1", name="by-hand", why="running; the ledger does not know it", vcpus=1)
MISPLACED = replace(ORPHAN, kind="misplaced", id="guest-2")
KEPT = Entry(kind="reserved", id="host", why="kept", vcpus=1)
FULL = ResourceTotals(name="vcpus", resource_class="VCPU", capacity=10, allocated=10)
OVER = ResourceTotals(name="memory_mb", resource_class="MEMORY_MB", capacity=10, allocated=11, free=-1)
TAKEN = Problem(code="pci-device-taken", about="x", text="two have it", severity="error")
SMALL = Problem(code="flavor-missing", about="y", text="no new flavor")
AWAY = Problem(code="DriverUnreachable", about=NODE.hypervisor_hostname, text="no answer", severity="error")


def told(found: tuple[FleetProblem, ...]) -> list[tuple[str, str, str | None]]:
    return [(problem.severity, problem.code, problem.node) for problem in found]


def test_given_nothing_wrong_when_gathered_then_there_is_nothing() -> None:
    assert fleet_problems([(NODE, ())], [ALIVE], NOW, 60) == ()


def test_given_all_kinds_when_gathered_then_the_worst_come_first() -> None:
    node = replace(NODE, problems=(SMALL, TAKEN), failure=AWAY)
    silent = replace(ALIVE, uuid="s2", host="silent", last_seen_up=NOW - timedelta(minutes=10))
    lost = replace(NODE, uuid="u2", host="unknown", hypervisor_hostname="lost")
    own = own_problems(node, (KEPT, ORPHAN, MISPLACED), (FULL, OVER))
    found = fleet_problems([(node, own), (lost, ())], [ALIVE, silent], NOW, 60)
    name = NODE.hypervisor_hostname
    assert told(found) == [
        ("error", "agent-down", None),
        ("error", "service-unknown", None),
        ("error", "DriverUnreachable", name),
        ("error", "pci-device-taken", name),
        ("warning", "misplaced", name),
        ("warning", "orphan", name),
        ("warning", "flavor-missing", name),
        ("warning", "over-allocated", name),
    ]
    assert [problem.code for problem in own] == [
        "DriverUnreachable",
        "flavor-missing",
        "pci-device-taken",
        "over-allocated",
        "orphan",
        "misplaced",
    ]
    assert (found[-1].about, found[-1].text) == ("MEMORY_MB", "11 MiB of memory are allocated, the capacity is 10")
    assert "has not reported for 10 min; the figures of its nodes are old" in found[0].text
    assert (found[1].host, found[1].text) == (
        "unknown",
        "no service 'unknown' is known: no agent looks after its nodes",
    )
    assert f"orphans adopt {ORPHAN.id}" in found[5].remedy
    assert len({problem.key for problem in found}) == len(found)


def test_given_a_service_forced_down_and_one_run_by_hand_when_gathered_then_only_the_first_is_told() -> None:
    forced = replace(ALIVE, forced_down=True)
    assert [problem.text for problem in fleet_problems([(NODE, ())], [forced], NOW, 60)] == [
        "it was forced down; the figures of its nodes are old"
    ]
    assert fleet_problems([(NODE, ())], [replace(ALIVE, last_seen_up=None)], NOW, 60) == ()


def test_given_an_agent_that_never_refreshed_a_node_when_gathered_then_it_is_told_unless_others_have_its_pool() -> None:
    (problem,) = fleet_problems([], [ALIVE], NOW, 60)
    assert (problem.code, problem.host, problem.node, problem.severity) == ("never-refreshed", NODE.host, None, "error")
    assert problem.remedy == f"Run `stocktake doctor` on {NODE.host}: it says why."
    assert fleet_problems([], [replace(ALIVE, pool={"shard": "a"})], NOW, 60) == ()
    assert fleet_problems([], [replace(ALIVE, last_seen_up=None)], NOW, 60) == ()
    silent = replace(ALIVE, last_seen_up=NOW - timedelta(minutes=10))
    assert [one.code for one in fleet_problems([], [silent], NOW, 60)] == ["agent-down"]
