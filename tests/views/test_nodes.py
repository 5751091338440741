"""A node's state, in one word and a reason."""

from datetime import UTC, datetime, timedelta

import pytest

from stocktake.model.books import ComputeNode
from stocktake.model.problem import Problem
from stocktake.model.value import replace
from stocktake.model.workload import Service
from stocktake.views.nodes import views_of
from stocktake.views.problems import State, state_of

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
DOWN_TIME_S = 60
NODE = ComputeNode(
    uuid="00000000-0000-4000-8000-000000000001",
    host="a",
    hypervisor_hostname="a.example.org",
    vcpus=4,
    memory_mb=1024,
    local_gb=10,
    vcpus_used=0,
    memory_mb_used=0,
    local_gb_used=0,
    free_ram_mb=1024,
    free_disk_gb=10,
    cpu_allocation_ratio=4.0,
    ram_allocation_ratio=1.0,
    disk_allocation_ratio=1.0,
)
ALIVE = Service(uuid="00000000-0000-4000-8000-000000000002", host="a", last_seen_up=NOW - timedelta(seconds=5))
SILENT = replace(ALIVE, last_seen_up=NOW - timedelta(seconds=300))


def failing(code: str) -> ComputeNode:
    return replace(NODE, failure=Problem(code=code, about="a", text="no answer", severity="error"))


@pytest.mark.parametrize(
    ("node", "service", "state"),
    [
        (NODE, ALIVE, State("up")),
        (NODE, None, State("down", "no service 'a' is known")),
        (NODE, SILENT, State("down", "its agent has not reported for 5 min")),
        (NODE, replace(ALIVE, last_seen_up=None), State("manual")),
        (failing("DriverError"), replace(ALIVE, last_seen_up=None), State("failed", "no answer")),
        (NODE, replace(ALIVE, forced_down=True), State("down", "it was forced down")),
        (failing("DriverUnreachable"), ALIVE, State("stale", "no answer")),
        (failing("orphan-node"), ALIVE, State("stale", "no answer")),
        (failing("ReportRefused"), ALIVE, State("failed", "no answer")),
        (failing("DriverError"), ALIVE, State("failed", "no answer")),
        (failing("DriverError"), SILENT, State("down", "its agent has not reported for 5 min; no answer")),
    ],
)
def test_given_a_node_and_its_service_when_asked_then_the_state_has_its_reason(
    node: ComputeNode, service: Service | None, state: State
) -> None:
    assert state_of(node, service, NOW, DOWN_TIME_S) == state


def test_given_nodes_of_several_services_when_put_together_then_each_has_its_own() -> None:
    other = replace(NODE, host="b")
    views = views_of([NODE, other], [ALIVE], {}, NOW, DOWN_TIME_S)
    assert [(view.service, view.state.word) for view in views] == [(ALIVE, "up"), (None, "down")]
